"""Changes of what is around a pattern: who else reads an inner value, what is constant, in which scope it stands."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, TypeProto, helper, numpy_helper

from graphopt.testing.chooser import Chooser
from graphopt.testing.draft import DoesNotFit, Drawn
from graphopt.testing.rules.hints import Hints
from graphopt.testing.rules.infer import inferred

__all__ = ["CHANGES", "fresh", "open_type", "types_of"]


def fresh(model: ModelProto, stem: str) -> str:
    """A name that is free in the main graph."""
    graph = model.graph
    used = {name for node in graph.node for name in (*node.input, *node.output)}
    used |= {info.name for info in graph.input} | {t.name for t in graph.initializer}
    return next(name for name in (f"{stem}{i}" for i in range(10_000)) if name not in used)


def types_of(model: ModelProto) -> dict[str, TypeProto]:
    """Types of all values of the main graph. Raises DoesNotFit for a model that onnx finds contradictory."""
    found = inferred(model)
    infos = (*found.graph.value_info, *found.graph.output, *found.graph.input)
    return {info.name: info.type for info in infos}


def _inner(model: ModelProto) -> list[str]:
    """Values between nodes."""
    outputs = {info.name for info in model.graph.output}
    return [name for node in model.graph.node for name in node.output if name and name not in outputs]


def open_type(type_: TypeProto) -> TypeProto:
    """A type without sizes."""
    bare = TypeProto()
    bare.CopyFrom(type_)
    for dim in bare.tensor_type.shape.dim if bare.HasField("tensor_type") else ():
        dim.Clear()
    return bare


def _add_output(model: ModelProto, name: str, type_: TypeProto | None) -> None:
    if type_ is None:
        raise DoesNotFit("its type is not known")
    model.graph.output.append(onnx.ValueInfoProto(name=name, type=open_type(type_)))


def also_output(drawn: Drawn, chooser: Chooser, hints: Hints) -> None:
    """An inner value is an output of the graph, too."""
    inner = _inner(drawn.model)
    if not inner:
        raise DoesNotFit("no inner value")
    name = chooser.pick(inner)
    _add_output(drawn.model, name, types_of(drawn.model).get(name))


def also_read(drawn: Drawn, chooser: Chooser, hints: Hints) -> None:
    """Somebody else reads a value: another node, or a branch of an If."""
    model = drawn.model
    inner = [name for node in model.graph.node for name in node.output if name]
    inner += [tensor.name for tensor in model.graph.initializer]
    name = chooser.pick(inner)
    types = types_of(model)
    if not types.get(name, TypeProto()).HasField("tensor_type") and name not in {
        t.name for t in model.graph.initializer
    }:
        raise DoesNotFit("no tensor")
    tensor = next((t for t in model.graph.initializer if t.name == name), None)
    type_ = types.get(name) or helper.make_tensor_type_proto(tensor.data_type if tensor is not None else 1, None)
    out = fresh(model, "again")
    reader = helper.make_node("Identity", [name], [out])
    if chooser.chance(30):
        reader = _branches(model, [reader], [onnx.ValueInfoProto(name=out, type=open_type(type_))], chooser, drawn)
    at = next((i for i, node in enumerate(model.graph.node) if name in node.output), -1) + 1
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*nodes[:at], reader, *nodes[at:]])
    _add_output(model, out, type_)


def not_constant(drawn: Drawn, chooser: Chooser, hints: Hints) -> None:
    """An initializer becomes an input, or one that a caller may override."""
    model = drawn.model
    listed = {info.name for info in model.graph.input}
    given = [t for t in model.graph.initializer if t.name not in listed]
    if not given:
        raise DoesNotFit("no initializer")
    tensor = chooser.pick(given)
    array = numpy_helper.to_array(tensor)
    model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    if chooser.chance(40) and model.ir_version >= 4:
        return  # overridable: the initializer is its default
    drawn.feeds[tensor.name] = np.asarray(array)
    kept = [t for t in model.graph.initializer if t is not tensor and t.name != tensor.name]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)


def constant_input(drawn: Drawn, chooser: Chooser, hints: Hints) -> None:
    """An input becomes an initializer."""
    model = drawn.model
    given = [info for info in model.graph.input if info.name in drawn.feeds]
    if not given:
        raise DoesNotFit("no input")
    info = chooser.pick(given)
    array = drawn.feeds.pop(info.name)
    data_type = info.type.tensor_type.elem_type
    kept = [other for other in model.graph.input if other.name != info.name]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    from graphopt.testing.draft import to_tensor

    model.graph.initializer.append(to_tensor(array, data_type, info.name))


def as_constant_node(drawn: Drawn, chooser: Chooser, hints: Hints) -> None:
    """An initializer becomes a Constant."""
    graph = drawn.model.graph
    listed = {info.name for info in graph.input}
    given = [t for t in graph.initializer if t.name not in listed]
    if not given:
        raise DoesNotFit("no initializer")
    name = chooser.pick(given).name
    value = next(t for t in graph.initializer if t.name == name)
    node = helper.make_node("Constant", [], [name], value=value)
    nodes, kept = list(graph.node), [t for t in graph.initializer if t.name != name]
    del graph.node[:], graph.initializer[:]
    graph.node.extend([node, *nodes])
    graph.initializer.extend(kept)


def other_dims(drawn: Drawn, chooser: Chooser, hints: Hints) -> None:
    """Inputs declare symbols, one for each size or each place; or no size; or no rank."""
    how = chooser.integer(0, 3)
    for number, info in enumerate(drawn.model.graph.input):
        array = drawn.feeds.get(info.name)
        if array is None or not info.type.HasField("tensor_type"):
            continue
        tensor = info.type.tensor_type
        if how == 3 and (number == 0 or chooser.chance(30)):
            tensor.ClearField("shape")
            continue
        for axis, dim in enumerate(tensor.shape.dim):
            if how == 0:
                dim.dim_param = f"s{array.shape[axis]}"
            elif how == 1 and chooser.chance(60):
                dim.dim_param = f"d{number}_{axis}"
            elif how == 2 and chooser.chance(50):
                dim.Clear()


def static_dims(drawn: Drawn, chooser: Chooser, hints: Hints) -> None:
    """Inputs declare the sizes that they have."""
    for info in drawn.model.graph.input:
        array = drawn.feeds.get(info.name)
        if array is not None and info.type.HasField("tensor_type"):
            info.type.CopyFrom(helper.make_tensor_type_proto(info.type.tensor_type.elem_type, array.shape))


def shared(drawn: Drawn, chooser: Chooser, hints: Hints) -> None:
    """A node reads, in place of one of its operands, another value of that type that is an input or a constant."""
    graph = drawn.model.graph
    kinds = {t.name: (t.data_type, tuple(t.dims)) for t in graph.initializer}
    kinds |= {
        i.name: (i.type.tensor_type.elem_type, drawn.feeds[i.name].shape) for i in graph.input if i.name in drawn.feeds
    }
    places = [(node, slot) for node in graph.node for slot, name in enumerate(node.input) if name in kinds]
    found = [(n, s, o) for n, s in places for o in kinds if o != n.input[s] and kinds[o] == kinds[n.input[s]]]
    if not found:
        raise DoesNotFit("no two values of one type")
    node, slot, other = chooser.pick(found)
    node.input[slot] = other
    _tidy(drawn)


def swapped(drawn: Drawn, chooser: Chooser, hints: Hints) -> None:
    """Two operands of a node change places, or one moves to an empty slot beside it."""
    nodes = [node for node in drawn.model.graph.node if len(node.input) > 1]
    if not nodes:
        raise DoesNotFit("no node with two operands")
    node = chooser.pick(nodes)
    if chooser.chance(40):
        node.input.append("")
    slot = chooser.integer(0, len(node.input) - 2)
    node.input[slot], node.input[slot + 1] = node.input[slot + 1], node.input[slot]
    while node.input and not node.input[-1]:
        del node.input[-1]


def alone_in_a_body(drawn: Drawn, chooser: Chooser, hints: Hints) -> None:
    """One node moves into the branches of an If, which capture what it reads."""
    model = drawn.model
    at = chooser.integer(0, len(model.graph.node) - 1)
    node, types = model.graph.node[at], types_of(model)
    if any(not types.get(name, TypeProto()).HasField("tensor_type") for name in node.output if name):
        raise DoesNotFit("an output's type is not known")
    outputs = [onnx.ValueInfoProto(name=name, type=open_type(types[name])) for name in node.output if name]
    made = _branches(model, [node], outputs, chooser, drawn)
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*nodes[:at], made, *nodes[at + 1 :]])


def more_outputs(drawn: Drawn, chooser: Chooser, hints: Hints) -> None:
    """A node's optional output is in use."""
    model = drawn.model
    opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 1)
    found: list[tuple[NodeProto, int]] = []
    for node in model.graph.node:
        try:
            schema = onnx.defs.get_schema(node.op_type, opset, node.domain)
        except onnx.defs.SchemaError:
            continue
        most = min(schema.max_output, 5) if node.op_type != "Split" else 0
        found += [(node, i) for i in range(1, most) if i >= len(node.output) or not node.output[i]]
    if not found:
        raise DoesNotFit("no further output")
    node, index = chooser.pick(found)
    while len(node.output) <= index:
        node.output.append("")
    name = fresh(model, "more")
    node.output[index] = name
    if chooser.chance(75):
        type_ = types_of(model).get(name)
        _add_output(model, name, type_)


def training(drawn: Drawn, chooser: Chooser, hints: Hints) -> None:
    """A BatchNormalization or a Dropout is in training."""
    model = drawn.model
    opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 1)
    found = [node for node in model.graph.node if opset >= _TRAINING.get(node.op_type, 99)]
    node = chooser.pick(found)
    if node.op_type == "Dropout":
        names = [fresh(model, "ratio"), f"{fresh(model, 'training')}_mode"]
        data = [np.array(0.5, np.float32), np.array(True)]
        model.graph.initializer.extend(numpy_helper.from_array(a, name) for a, name in zip(data, names, strict=True))
        node.input[1:] = names
        return
    kept = [a for a in node.attribute if a.name != "training_mode"]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute("training_mode", 1)])
    stem = fresh(model, "running")
    node.output[1:] = [f"{stem}_mean", f"{stem}_var"]


_TRAINING = {"BatchNormalization": 14, "Dropout": 12}  # opsets


def no_option(drawn: Drawn, chooser: Chooser, hints: Hints) -> None:
    """A node's optional input is left out."""
    opset = next((o.version for o in drawn.model.opset_import if o.domain in ("", "ai.onnx")), 1)
    found: list[tuple[NodeProto, int]] = []
    for node in drawn.model.graph.node:
        try:
            schema = onnx.defs.get_schema(node.op_type, opset, node.domain)
        except onnx.defs.SchemaError:
            continue
        optional = onnx.defs.OpSchema.FormalParameterOption.Optional
        found += [(node, i) for i, item in enumerate(schema.inputs) if item.option == optional and i < len(node.input)]
    found = [(node, i) for node, i in found if node.input[i]]
    if not found:
        raise DoesNotFit("no optional input")
    node, index = chooser.pick(found)
    node.input[index] = ""
    while node.input and not node.input[-1]:
        del node.input[-1]
    _tidy(drawn)


def _tidy(drawn: Drawn) -> None:
    """Drops initializers and inputs that nothing reads."""
    graph = drawn.model.graph
    read = {name for node in graph.node for name in node.input} | {info.name for info in graph.output}
    if any(a.HasField("g") for node in graph.node for a in node.attribute):
        return
    fields: list[Any] = [graph.initializer, graph.input]
    for field in fields:
        kept = [item for item in field if item.name in read]
        del field[:]
        field.extend(kept)
    for name in [name for name in drawn.feeds if name not in read]:
        del drawn.feeds[name]


def in_a_body(drawn: Drawn, chooser: Chooser, hints: Hints) -> None:
    """Everything moves into a branch of an If, the body of a Loop, or a function; it captures what it reads."""
    model = drawn.model
    types = types_of(model)
    outputs = [
        onnx.ValueInfoProto(name=info.name, type=open_type(types.get(info.name, info.type)))
        for info in model.graph.output
    ]
    if any(not info.type.HasField("tensor_type") for info in outputs):
        raise DoesNotFit("an output is no tensor")
    produced = {name for node in model.graph.node for name in node.output}
    if len({info.name for info in outputs} & produced) != len(model.graph.output):
        raise DoesNotFit("an output is no node's")
    nodes = list(model.graph.node)
    how = chooser.integer(0, 2)
    if how == 2:
        _as_function(model, nodes, outputs)
        return
    inside = _moved_initializers(model, chooser)
    made = (
        _branches(model, nodes, outputs, chooser, drawn, inside)
        if how == 0
        else _loop(model, nodes, outputs, inside, drawn)
    )
    del model.graph.node[:]
    model.graph.node.append(made)


def _moved_initializers(model: ModelProto, chooser: Chooser) -> list[TensorProto]:
    """Initializers that go along into the body: all or none."""
    listed = {info.name for info in model.graph.input}
    if model.ir_version < 4 or not chooser.chance(50):
        return []
    moved = [t for t in model.graph.initializer if t.name not in listed]
    kept = [t for t in model.graph.initializer if t.name in listed]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    return moved


def _renamed(graph: GraphProto, suffix: str) -> GraphProto:
    """A copy of a body in which everything made has another name: branches may not share names with their owner."""
    copy = GraphProto()
    copy.CopyFrom(graph)
    own = {name for node in copy.node for name in node.output if name} | {t.name for t in copy.initializer}
    for node in copy.node:
        for field in (node.input, node.output):
            field[:] = [name + suffix if name in own else name for name in field]
    items: list[Any] = [*copy.initializer, *copy.output]
    for item in items:
        item.name = item.name + suffix if item.name in own else item.name
    return copy


def _nested(nodes: list[NodeProto]) -> bool:
    return any(a.HasField("g") for node in nodes for a in node.attribute)


def _branches(
    model: ModelProto,
    nodes: list[NodeProto],
    outputs: list[onnx.ValueInfoProto],
    chooser: Chooser,
    drawn: Drawn,
    inside: list[TensorProto] | None = None,
) -> NodeProto:
    """An If on an input, with the nodes in both branches."""
    if _nested(nodes):
        raise DoesNotFit("bodies in bodies")
    condition = fresh(model, "cond")
    model.graph.input.append(helper.make_tensor_value_info(condition, TensorProto.BOOL, []))
    drawn.feeds[condition] = np.array(chooser.chance(50))
    body = helper.make_graph(nodes, "body", [], outputs, inside or [])
    branches: dict[str, Any] = {f"{side}_branch": _renamed(body, f"_{side}") for side in ("then", "else")}
    return helper.make_node("If", [condition], [info.name for info in outputs], **branches)


def _loop(
    model: ModelProto,
    nodes: list[NodeProto],
    outputs: list[onnx.ValueInfoProto],
    inside: list[TensorProto],
    drawn: Drawn,
) -> NodeProto:
    """A Loop of two trips whose scan outputs are the outputs."""
    if _nested(nodes):
        raise DoesNotFit("bodies in bodies")
    trips = fresh(model, "trips")
    model.graph.input.append(helper.make_tensor_value_info(trips, TensorProto.INT64, []))
    drawn.feeds[trips] = np.array(2, np.int64)
    body = _renamed(helper.make_graph(nodes, "body", [], outputs, inside), "_in")
    body.input.extend(
        [
            helper.make_tensor_value_info("iteration", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
        ]
    )
    body.node.append(helper.make_node("Identity", ["go"], ["go_on"]))
    scans = list(body.output)
    del body.output[:]
    body.output.extend([helper.make_tensor_value_info("go_on", TensorProto.BOOL, []), *scans])
    return helper.make_node("Loop", [trips, ""], [info.name for info in outputs], body=body)


def _as_function(model: ModelProto, nodes: list[NodeProto], outputs: list[onnx.ValueInfoProto]) -> None:
    """The nodes become a function of the model, called once."""
    read = {name for node in nodes for name in node.input if name}
    made = {name for node in nodes for name in node.output}
    if _nested(nodes) or model.functions:
        raise DoesNotFit("bodies in functions")
    given = sorted(read - made)
    domain = "local.functions"
    imports = [o for o in model.opset_import if o.domain in {node.domain for node in nodes} | {""}]
    names = [info.name for info in outputs]
    model.functions.append(helper.make_function(domain, "Body", given, names, nodes, imports))
    model.opset_import.append(helper.make_opsetid(domain, 1))
    model.ir_version = max(model.ir_version, 8)
    del model.graph.node[:]
    model.graph.node.append(helper.make_node("Body", given, names, domain=domain))


CHANGES = (
    also_output, also_read, not_constant, constant_input, as_constant_node, other_dims, static_dims, more_outputs,
    no_option, training, in_a_body, shared, swapped, alone_in_a_body,
)  # fmt: skip
