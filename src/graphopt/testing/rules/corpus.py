"""Models for passes, which have no pattern: a few operators, with what passes look for put in."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import onnx
from onnx import helper

from graphopt.testing import catalog
from graphopt.testing.chooser import Chooser
from graphopt.testing.draft import DoesNotFit, Draft, Drawn, Var, to_tensor
from graphopt.testing.drawing import Spec, draw_model
from graphopt.testing.rules import bodies
from graphopt.testing.rules.hints import Hints
from graphopt.testing.rules.infer import inferred
from graphopt.testing.rules.numbers import arrays, nodes_of
from graphopt.testing.rules.surroundings import CHANGES, alone_in_a_body, constant_input, in_a_body, not_constant
from graphopt.testing.synthesis import FIRST, LAST

__all__ = ["model_for"]

_SIZES = ("Shape", "Gather", "Slice", "Concat", "Unsqueeze", "Squeeze", "Cast", "Mul", "Add", "Sub", "Div", "Size")
_RESHAPES = ("Reshape", "Expand", "ConstantOfShape", "Range", "Tile")


def model_for(item: Any, chooser: Chooser, hints: Hints) -> Drawn:
    """A model of one to five operators, some of them those that the pass's code mentions, with repetitions, constants,
    computations of shapes, bodies and functions. Raises DoesNotFit."""
    if {"Loop", "If"} & set(hints.ops) and chooser.chance(40):
        return _edited(_with_body(chooser, hints), chooser, hints)
    if chooser.chance(40):
        return _edited(draw_model(chooser, Spec.of(max_nodes=chooser.integer(1, 5))), chooser, hints)
    draft = Draft(chooser, chooser.pick([17, 13, 21, 11, 9, 18, 7, 12, 10, 8, 15, LAST, FIRST]))
    known = set(catalog.available(draft.opset))
    mentioned = [op for op in hints.ops if op in known] or sorted(known)
    made: list[Var] = []
    for _ in range(chooser.integer(1, 3)):
        how = chooser.integer(0, 9)
        op = chooser.pick(
            mentioned if how < 6 else [op for op in _options() if op in known] if how < 8 else sorted(known)
        )
        given = {0: chooser.pick(made)} if made and chooser.chance(60) else {}
        constant = frozenset(range(8)) if chooser.chance(35) else frozenset()
        made += _attempt(draft, op, given, constant)
    if made and chooser.chance(35):
        made += _sizes(draft, chooser, made)
    if not made:
        raise DoesNotFit("nothing fits")
    return _edited(draft.finish(), chooser, hints)


def _with_body(chooser: Chooser, hints: Hints) -> Drawn:
    """An If or a Loop, with values that it carries, makes and captures."""
    draft = Draft(chooser, chooser.pick([17, 13, 11, 21]))
    for var in bodies.BODIES[chooser.pick(["Loop", "If"])](draft, {}, chooser.chance(30), hints.ops):
        draft.output(var)
    return draft.finish()


@lru_cache(maxsize=1)
def _options() -> list[str]:
    """Operators with optional inputs side by side."""
    optional = onnx.defs.OpSchema.FormalParameterOption.Optional
    found = []
    for op in sorted(catalog.OPS):
        versions = [s for s in onnx.defs.get_all_schemas_with_history() if s.name == op and s.domain == ""]
        if any(sum(item.option == optional for item in s.inputs) > 1 for s in versions):
            found.append(op)
    return found


def _edited(drawn: Drawn, chooser: Chooser, hints: Hints) -> Drawn:
    for _ in range(chooser.integer(0, 3)):
        change = chooser.pick(_CHANGES)
        copy = Drawn(onnx.ModelProto(), dict(drawn.feeds))
        copy.model.CopyFrom(drawn.model)
        try:
            change(copy, chooser, hints)
        except (DoesNotFit, ValueError, IndexError, TypeError):
            continue
        drawn = copy
    return drawn


def _attempt(draft: Draft, op: str, given: dict[int, Var], constant: frozenset[int]) -> list[Var]:
    for operands in (given, {}):
        try:
            return catalog.apply(draft, op, operands, const_slots=constant)
        except DoesNotFit:
            continue
    return []


def _sizes(draft: Draft, chooser: Chooser, made: list[Var]) -> list[Var]:
    """Computations on the shape of a value, and a value of that shape."""
    source = chooser.pick(made)
    found = _attempt(draft, "Shape", {0: source}, frozenset())
    for _ in range(chooser.integer(0, 3)):
        if not found:
            return []
        op = chooser.pick(_SIZES[1:])
        found += _attempt(draft, op, {0: chooser.pick(found)}, frozenset({1, 2, 3}))
    if found and chooser.chance(70):
        op = chooser.pick(_RESHAPES)
        slot = 0 if op in ("ConstantOfShape", "Range") else 1
        given = {slot: found[-1]} if slot == 0 else {0: source, 1: found[-1]}
        found += _attempt(draft, op, given, frozenset())
    return found


_TWINS: dict[int, list[Any]] = {2: [np.int16, np.float16], 4: [np.int32, np.float32], 8: [np.int64, np.float64]}


def _shifts(model: onnx.ModelProto, node: onnx.NodeProto) -> list[int]:
    """Slots of optional inputs from which on all can move one slot further."""
    opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 1)
    try:
        schema = onnx.defs.get_schema(node.op_type, opset, node.domain)
    except onnx.defs.SchemaError:
        return []
    optional = onnx.defs.OpSchema.FormalParameterOption.Optional
    given = len(node.input)
    if given >= len(schema.inputs) or schema.inputs[given].option != optional:
        return []
    return [slot for slot in range(given) if schema.inputs[slot].option == optional and node.input[slot]]


def _again(drawn: Drawn, chooser: Chooser, hints: Hints) -> None:
    """A node is there twice, maybe with its operands in another order or in other slots, or one attribute less."""
    graph = drawn.model.graph
    nodes = [node for node in graph.node if not any(a.HasField("g") for a in node.attribute)]
    shifts = [(node, slot) for node in nodes for slot in _shifts(drawn.model, node)]
    how = 2 if shifts and chooser.chance(60) else chooser.pick([0, 1, 3])
    node, slot = chooser.pick(shifts) if how == 2 else (chooser.pick(nodes), 0)
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.output[:] = [f"{name}_twin" if name else "" for name in node.output]
    copy.name = f"{node.name}_twin" if node.name else ""
    if how == 1 and len(copy.input) > 1:
        at = chooser.integer(0, len(copy.input) - 2)
        copy.input[at], copy.input[at + 1] = copy.input[at + 1], copy.input[at]
    elif how == 2:
        copy.input.insert(slot, "")
    elif how == 3 and copy.attribute:
        del copy.attribute[chooser.integer(0, len(copy.attribute) - 1)]
    graph.node.append(copy)
    found = inferred(drawn.model).graph
    types = {info.name: info.type for info in (*found.value_info, *found.output)}
    for name in copy.output:
        if name not in types or types[name].WhichOneof("value") != "tensor_type" or not chooser.chance(80):
            continue
        shown = name
        if chooser.chance(50):  # read, not returned: of two that are returned a pass may not make one
            shown = f"{name}_out"
            graph.node.append(helper.make_node("Identity", [name], [shown]))
        graph.output.append(helper.make_tensor_value_info(shown, types[name].tensor_type.elem_type, None))


def _same_constant(drawn: Drawn, chooser: Chooser, hints: Hints) -> None:
    """An initializer is there twice, and read by its own nodes each; or nearly: of another type or sign, or shape."""
    graph = drawn.model.graph
    listed = {info.name for info in graph.input}
    given = [t for t in graph.initializer if t.name not in listed]
    if not given:
        raise DoesNotFit("no initializer")
    tensor = chooser.pick(given)
    copy = onnx.TensorProto()
    copy.CopyFrom(tensor)
    array = np.ascontiguousarray(arrays(tensor))
    how = chooser.integer(0, 4)
    if how == 1 and array.dtype.itemsize in _TWINS and array.dtype.kind in "fiu":
        twin = array.view(chooser.pick(_TWINS[array.dtype.itemsize])).reshape(array.shape)
        copy = to_tensor(twin, helper.np_dtype_to_tensor_dtype(twin.dtype))
    elif how == 2 and array.dtype.kind == "f":
        copy = to_tensor(np.copysign(np.zeros_like(array), -1), tensor.data_type)
        tensor.CopyFrom(to_tensor(np.zeros_like(array), tensor.data_type, tensor.name))
    elif how == 3:
        copy = to_tensor(array.reshape((1, *array.shape)), tensor.data_type)
    copy.name = f"{tensor.name}_twin"
    node = helper.make_node("Identity", [copy.name], [f"{copy.name}_out"])
    graph.initializer.append(copy)
    graph.node.append(node)
    graph.output.append(helper.make_tensor_value_info(node.output[0], copy.data_type, None))


def _unused(drawn: Drawn, chooser: Chooser, hints: Hints) -> None:
    """A node's result is read by nothing."""
    names = [name for node in drawn.model.graph.node for name in node.output if name]
    if not names:
        raise DoesNotFit("no value")
    name = chooser.pick(names)
    drawn.model.graph.node.append(helper.make_node("Identity", [name], [f"{name}_unused"]))


def _random(drawn: Drawn, chooser: Chooser, hints: Hints) -> None:
    """Random numbers, maybe twice of one kind."""
    op = chooser.pick(["RandomUniform", "RandomNormal"])
    for number in range(chooser.integer(1, 2)):
        name = f"random_{len(drawn.model.graph.node)}_{number}"
        drawn.model.graph.node.append(helper.make_node(op, [], [name], shape=[2, 3], dtype=1))
        drawn.model.graph.node.append(helper.make_node("Neg", [name], [f"{name}_out"]))
        drawn.model.graph.output.append(helper.make_tensor_value_info(f"{name}_out", 1, [2, 3]))


def _named(drawn: Drawn, chooser: Chooser, hints: Hints) -> None:
    """Nodes have names, some of them the same."""
    for number, node in enumerate(nodes_of(drawn.model)):
        node.name = chooser.pick([f"node_{number}", "node", ""])


_CHANGES = (
    *CHANGES, constant_input, not_constant, in_a_body, alone_in_a_body, _again, _again, _again, _same_constant,
    _same_constant, _unused, _named, _random,
)  # fmt: skip
