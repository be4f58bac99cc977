"""Things that are there twice and differ in one respect: what a pass that merges, folds or hoists must tell apart.

A node comes again with one difference (or none): an optional input in the next slot, two operands exchanged, another
operand of the same type, another value of an attribute, a constant that differs in the sign of a zero. The two stand
side by side, in the branches of one If, or one of them in a branch. A constant comes again for readers of its own. An
operator reads nothing but defaults that a caller may override.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, NodeProto, TensorProto, TypeProto, helper

from graphopt.testing import catalog
from graphopt.testing.catalog.call import schema_of, slots_of
from graphopt.testing.chooser import Chooser
from graphopt.testing.draft import DoesNotFit, Draft, Drawn, to_tensor
from graphopt.testing.rules import bodies
from graphopt.testing.rules.hints import Hints
from graphopt.testing.rules.infer import inferred
from graphopt.testing.rules.numbers import arrays, attribute_value
from graphopt.testing.rules.surroundings import fresh, open_type, types_of

__all__ = ["TWINS", "overridable_operands", "twin_constant", "twin_node", "twins"]

_ATTEMPTS = 4  # at a difference that is valid
_SAME_SIZE: dict[int, list[Any]] = {2: [np.int16, np.float16], 4: [np.int32, np.float32], 8: [np.int64, np.float64]}
_SIGNED_ZEROS = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16)  # types that Reciprocal takes
_KEPT = frozenset({"to", "dtype", "value", "saturate"})  # attributes that decide about the result's type

Difference = Callable[[Drawn, NodeProto, Chooser, Hints], None]


def _schema(drawn: Drawn, node: NodeProto) -> onnx.defs.OpSchema | None:
    opset = next((o.version for o in drawn.model.opset_import if o.domain in ("", "ai.onnx")), 1)
    try:
        return onnx.defs.get_schema(node.op_type, opset, node.domain)
    except onnx.defs.SchemaError:
        return None


def _nothing(drawn: Drawn, node: NodeProto, chooser: Chooser, hints: Hints) -> None:
    """The same, word for word."""


def _another_slot(drawn: Drawn, node: NodeProto, chooser: Chooser, hints: Hints) -> None:
    """Optional inputs move one slot further, or back into an empty one."""
    schema = _schema(drawn, node)
    slots = [] if schema is None else schema.inputs
    optional = onnx.defs.OpSchema.FormalParameterOption.Optional
    free = [i for i, slot in enumerate(slots) if slot.option == optional]
    given = len(node.input)
    further = [i for i in free if i < given and node.input[i] and given in free]
    back = [i for i in free if i + 1 < given and not node.input[i]]
    if not further and not back:
        raise DoesNotFit("no two optional inputs side by side")
    at = chooser.pick(further + back)
    if at in further:
        node.input.insert(at, "")
    else:
        del node.input[at]


def _exchanged(drawn: Drawn, node: NodeProto, chooser: Chooser, hints: Hints) -> None:
    """Two operands change places."""
    if len(set(node.input)) < 2:
        raise DoesNotFit("no two operands")
    at = chooser.integer(0, len(node.input) - 2)
    node.input[at], node.input[at + 1] = node.input[at + 1], node.input[at]


def _another_operand(drawn: Drawn, node: NodeProto, chooser: Chooser, hints: Hints) -> None:
    """One operand is another value of the same element type and rank."""
    kinds = {t.name: (t.data_type, len(t.dims)) for t in drawn.model.graph.initializer}
    for name, type_ in types_of(drawn.model).items():
        if type_.tensor_type.HasField("shape"):
            kinds[name] = (type_.tensor_type.elem_type, len(type_.tensor_type.shape.dim))
    later = {name for other in _from(drawn, node) for name in other.output}
    found = [
        (slot, other)
        for slot, name in enumerate(node.input)
        for other in kinds
        if name in kinds and other != name and kinds[other] == kinds[name] and other not in later
    ]
    slot, other = chooser.pick(found)
    node.input[slot] = other


def _from(drawn: Drawn, node: NodeProto) -> list[NodeProto]:
    """Nodes from one on, whose inputs are those of its twin or an earlier state of it."""
    graph = drawn.model.graph
    at = next((i for i, other in enumerate(graph.node) if list(other.output) == list(node.output)), 0)
    return list(graph.node)[at:]


def _another_attribute(drawn: Drawn, node: NodeProto, chooser: Chooser, hints: Hints) -> None:
    """One attribute has another value, is left out, or given where it was not."""
    schema = _schema(drawn, node)
    names = [] if schema is None else sorted(set(schema.attributes) - _KEPT)
    if schema is None or not names:
        raise DoesNotFit("no attribute")
    given = {a.name: a for a in node.attribute}
    name = chooser.pick([name for name in names if name in given] + names)
    value = _next_to(given[name], chooser) if name in given else None
    if value is None or chooser.chance(30):
        value = attribute_value(schema.attributes[name], node, chooser, hints, [])
    if name in given and not schema.attributes[name].required and chooser.chance(25):
        value = None
    elif value is None:
        raise DoesNotFit("no value")
    kept = [a for a in node.attribute if a.name != name]
    del node.attribute[:]
    node.attribute.extend(kept)
    if value is not None:
        node.attribute.append(helper.make_attribute(name, value))


def _next_to(attribute: AttributeProto, chooser: Chooser) -> Any:
    """A value near an attribute's own; None where it is neither a number nor numbers."""
    if attribute.type == AttributeProto.FLOAT:
        return float(attribute.f + chooser.pick([1.0, -0.5, 0.125]))
    if attribute.type == AttributeProto.INT:
        return int(attribute.i + chooser.pick([1, -1]))
    if attribute.type == AttributeProto.INTS and attribute.ints:
        numbers = list(attribute.ints)
        at = chooser.integer(0, len(numbers) - 1)
        if chooser.chance(50):
            return numbers[at:] + numbers[:at]
        return [*numbers[:at], numbers[at] + chooser.pick([1, -1]), *numbers[at + 1 :]]
    return None


def _another_constant(drawn: Drawn, node: NodeProto, chooser: Chooser, hints: Hints) -> None:
    """One operand is a constant of its own, with the same data or nearly so."""
    given = {t.name: t for t in _initializers(drawn)}
    slots = [slot for slot, name in enumerate(node.input) if name in given]
    slot = chooser.pick(slots)
    node.input[slot] = _again(drawn, given[node.input[slot]], chooser, same_type=True).name


DIFFERENCES: tuple[Difference, ...] = (
    _nothing, _another_slot, _another_attribute, _another_slot, _another_attribute, _exchanged, _another_operand,
    _another_constant,
)  # fmt: skip


def suited(differ: Difference, opset: int) -> dict[str, list[int]]:
    """Operators of the catalog whose nodes can differ so, with slots that are optional as is the next one, if it is
    about slots."""
    found: dict[str, list[int]] = {}
    for op in catalog.available(opset):
        if op in bodies.BODIES or op == "Scan" or op.startswith(("Sequence", "Optional", "Random")):
            continue
        slots = slots_of(op, opset)
        pairs = [i for i in range(len(slots) - 1) if slots[i][2] and slots[i + 1][2] and slots[i][0] == slots[i + 1][0]]
        if differ is _another_slot:
            found.update({op: pairs} if pairs else {})
        elif differ is not _another_attribute or set(schema_of(op, opset).attributes) - _KEPT:
            found[op] = []
    return found


def twins(chooser: Chooser, hints: Hints) -> Drawn:
    """A model of one operator, one of those that the code mentions if that fits, and its twin; or with two constants,
    or with defaults, that are nearly the same. Raises DoesNotFit."""
    how = chooser.integer(0, 9)
    differ = chooser.pick(DIFFERENCES) if how < 6 else _nothing
    draft = Draft(chooser, chooser.pick([17, 13, 21, 11, 18, 9, 7, 12, 10]))
    options = suited(differ, draft.opset)
    mentioned = [op for op in options if op in hints.ops]
    op = chooser.pick(mentioned if mentioned and chooser.chance(80) else [*options] or ["Clip"])
    const = set(range(8)) if how > 7 or chooser.chance(20) else {1} if how > 5 else set()
    omit: set[int] = set()
    if options.get(op):
        slot = chooser.pick(options[op])
        const, omit = {slot}, {slot + 1}
    catalog.apply(draft, op, const_slots=frozenset(const), omit=frozenset(omit))
    drawn = draft.finish()
    for _ in range(_ATTEMPTS):
        copy = Drawn(onnx.ModelProto(), dict(drawn.feeds))
        copy.model.CopyFrom(drawn.model)
        with contextlib.suppress(DoesNotFit, IndexError):
            if how < 6:
                node = next(node for node in copy.model.graph.node if node.op_type == op)
                _twin(copy, node, differ, chooser, hints)
            else:
                (twin_constant if how < 8 else overridable_operands)(copy, chooser, hints)
            return copy
    raise DoesNotFit("it cannot differ so")


def twin_node(drawn: Drawn, chooser: Chooser, hints: Hints) -> None:
    """A node is there again with one difference or none, beside the first or in another scope."""
    nodes = [
        node for node in drawn.model.graph.node if node.output and not any(a.HasField("g") for a in node.attribute)
    ]
    _twin(drawn, chooser.pick(nodes), chooser.pick(DIFFERENCES), chooser, hints)


def _twin(drawn: Drawn, node: NodeProto, differ: Difference, chooser: Chooser, hints: Hints) -> None:
    copy = NodeProto()
    copy.CopyFrom(node)
    try:
        differ(drawn, copy, chooser, hints)
    except (IndexError, ValueError, ZeroDivisionError) as error:
        raise DoesNotFit("it cannot differ so") from error
    while copy.input and not copy.input[-1]:
        del copy.input[-1]
    chooser.pick([_beside, _beside, _beside, _in_both_branches, _in_one_branch])(drawn, node, copy, chooser)


def _renamed(node: NodeProto, suffix: str) -> list[str]:
    """Gives the outputs of a node other names; the old ones."""
    old = list(node.output)
    node.output[:] = [f"{name}_{suffix}" if name else "" for name in old]
    node.name = f"{node.name}_{suffix}" if node.name else ""
    return old


def _types(drawn: Drawn, twin: NodeProto) -> dict[str, TypeProto]:
    """Types of all values, those of a twin that is not there yet included. Raises DoesNotFit where it is not valid."""
    model = onnx.ModelProto()
    model.CopyFrom(drawn.model)
    model.graph.node.append(twin)
    found = inferred(model, strict=True).graph
    types = {info.name: info.type for info in (*found.value_info, *found.output, *found.input)}
    if any(types.get(name, TypeProto()).WhichOneof("value") != "tensor_type" for name in twin.output if name):
        raise DoesNotFit("no tensors")
    return types


def _beside(drawn: Drawn, node: NodeProto, twin: NodeProto, chooser: Chooser) -> None:
    """Both in one scope. What they give is returned, or read by something that is: of two values that are returned a
    pass may not make one."""
    _renamed(twin, "twin")
    types = _types(drawn, twin)
    drawn.model.graph.node.append(twin)
    for name in twin.output:
        if name and chooser.chance(80):
            _show(drawn, name, types[name], chooser.pick([True, True, False]), chooser)


def _show(drawn: Drawn, name: str, type_: TypeProto, read: bool, chooser: Chooser) -> None:
    """A value is an output; or, read, what reads it is: a Reciprocal shows the signs of zeros."""
    graph, shown = drawn.model.graph, name
    if read:
        shown = fresh(drawn.model, f"{name}_out")
        signed = type_.tensor_type.elem_type in _SIGNED_ZEROS
        graph.node.append(
            helper.make_node("Reciprocal" if signed and chooser.chance(50) else "Identity", [name], [shown])
        )
    graph.output.append(onnx.ValueInfoProto(name=shown, type=open_type(type_)))


def _condition(drawn: Drawn, chooser: Chooser) -> str:
    name = fresh(drawn.model, "cond")
    drawn.model.graph.input.append(helper.make_tensor_value_info(name, TensorProto.BOOL, []))
    drawn.feeds[name] = np.array(chooser.chance(50))
    return name


def _branch(side: str, nodes: list[NodeProto], names: list[str], types: list[TypeProto]) -> onnx.GraphProto:
    """A body that returns what reads these values."""
    readers = [helper.make_node("Identity", [name], [f"{name}_{side}"]) for name in names]
    infos = [onnx.ValueInfoProto(name=f"{n}_{side}", type=open_type(t)) for n, t in zip(names, types, strict=True)]
    return helper.make_graph([*nodes, *readers], side, [], infos)


def _in_both_branches(drawn: Drawn, node: NodeProto, twin: NodeProto, chooser: Chooser) -> None:
    """One in each branch of an If, whose result stands for the first."""
    graph = drawn.model.graph
    at = next(i for i, other in enumerate(graph.node) if other is node or list(other.output) == list(node.output))
    first = NodeProto()
    first.CopyFrom(node)
    names = _renamed(twin, "else")
    types = _types(drawn, twin)
    _renamed(first, "then")
    kept = [name for name in names if name]
    kinds = [types[name] for name in kept]
    one = _branch("then_branch", [first], [f"{name}_then" for name in kept], kinds)
    other = _branch("else_branch", [twin], [f"{name}_else" for name in kept], [types[f"{n}_else"] for n in kept])
    bodies: dict[str, Any] = {"then_branch": one, "else_branch": other}
    made = helper.make_node("If", [_condition(drawn, chooser)], kept, **bodies)
    nodes = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes[:at], made, *nodes[at + 1 :]])


def _in_one_branch(drawn: Drawn, node: NodeProto, twin: NodeProto, chooser: Chooser) -> None:
    """One of them in a branch of an If; the other branch reads the first."""
    names = _renamed(twin, "inside")
    types = _types(drawn, twin)
    kept = [name for name in names if name]
    one = _branch("then_branch", [twin], [f"{name}_inside" for name in kept], [types[f"{n}_inside"] for n in kept])
    other = _branch("else_branch", [], kept, [types[name] for name in kept])
    outs = [f"{name}_either" for name in kept]
    bodies: dict[str, Any] = {"then_branch": one, "else_branch": other}
    drawn.model.graph.node.append(helper.make_node("If", [_condition(drawn, chooser)], outs, **bodies))
    for name, out in zip(kept, outs, strict=True):
        drawn.model.graph.output.append(onnx.ValueInfoProto(name=out, type=open_type(types[name])))


def _initializers(drawn: Drawn) -> list[TensorProto]:
    """Those that no caller may override."""
    listed = {info.name for info in drawn.model.graph.input}
    return [tensor for tensor in drawn.model.graph.initializer if tensor.name not in listed]


def _again(drawn: Drawn, tensor: TensorProto, chooser: Chooser, *, same_type: bool = False) -> TensorProto:
    """One more initializer with the data of one that is there, or nearly: with zeros of another sign, another element,
    the same bytes as another type, one more axis. same_type: it can stand where the first does."""
    array = np.ascontiguousarray(arrays(tensor)).reshape(tuple(tensor.dims))
    is_plain = array.dtype.kind in "fiub" and array.size > 0
    options = ["same", *(["zeros", "zeros"] if array.dtype.kind == "f" and array.size else [])]
    options += ["element"] if is_plain else []
    if not same_type:
        options += ["bytes"] if is_plain and array.dtype.itemsize in _SAME_SIZE else []
        options += ["axis"]
    how = chooser.pick(options)
    dtype, other = tensor.data_type, array.copy()
    if how == "zeros":
        at = chooser.pick([slice(None), slice(0, 1)])
        changed = array.reshape(-1).copy()
        changed[at] = 0.0
        tensor.CopyFrom(to_tensor(changed.reshape(array.shape), dtype, tensor.name))
        changed[at] = -0.0
        other = changed.reshape(array.shape)
    elif how == "element":
        flat = other.reshape(-1)
        at_ = chooser.integer(0, flat.size - 1)
        flat[at_] = not flat[at_] if array.dtype.kind == "b" else flat[at_] + array.dtype.type(1)
        other = flat.reshape(array.shape)
    elif how == "bytes":
        other = other.view(chooser.pick(_SAME_SIZE[array.dtype.itemsize])).reshape(array.shape)
        dtype = helper.np_dtype_to_tensor_dtype(other.dtype)
    elif how == "axis":
        other = other.reshape((1, *array.shape))
    copy = to_tensor(other, dtype, fresh(drawn.model, f"{tensor.name}_twin"))
    drawn.model.graph.initializer.append(copy)
    return copy


def twin_constant(drawn: Drawn, chooser: Chooser, hints: Hints) -> None:
    """An initializer is there twice or nearly so, each read by its own nodes, and both are shown."""
    given = _initializers(drawn)
    if not given:
        raise DoesNotFit("no initializer")
    tensor = chooser.pick(given)
    copy = _again(drawn, tensor, chooser)
    for each in (copy, tensor) if chooser.chance(50) else (copy,):
        _show(drawn, each.name, helper.make_tensor_type_proto(each.data_type, list(each.dims)), True, chooser)


def overridable_operands(drawn: Drawn, chooser: Chooser, hints: Hints) -> None:
    """All operands of a node, or all but one, are constants, and some of these are what a caller may override."""
    model, graph = drawn.model, drawn.model.graph
    if model.ir_version < 4:
        raise DoesNotFit("every initializer is an input")
    listed = {info.name: info for info in graph.input}
    constant = {tensor.name: tensor for tensor in graph.initializer}
    nodes = [n for n in graph.node if any(name in listed or name in constant for name in n.input)]
    if not nodes:
        raise DoesNotFit("no node reads what is given")
    node = chooser.pick(nodes)
    names = [name for name in dict.fromkeys(node.input) if name in constant or name in drawn.feeds]
    free = chooser.pick(names) if len(names) > 1 and chooser.chance(30) else ""
    for name in names:
        if name == free:
            continue
        if name in drawn.feeds and name not in constant:
            info = listed[name]
            graph.initializer.append(to_tensor(drawn.feeds.pop(name), info.type.tensor_type.elem_type, name))
        elif name not in listed and (free or chooser.chance(70)):
            graph.input.append(helper.make_tensor_value_info(name, constant[name].data_type, list(constant[name].dims)))


TWINS = (twin_node, twin_node, twin_node, twin_constant, overridable_operands)  # as often as each is tried
