"""Values from inside of bodies, in a run of the whole model.

A body can only give what it returns, so a copy of the model is made to return more. Out of a Loop or Scan comes a
value for each iteration, of which the first is taken; the other branch of an If returns something empty instead. In a
function it is the first call that is looked into: its body is run on what that call reads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, TypeProto, ValueInfoProto, helper

from graphopt import ir
from graphopt.errors import GraphoptError
from graphopt.ir import Graph, Model, Node, Value
from graphopt.ir.external import shown
from graphopt.subgraphs.boundary import parse_type, types_of
from graphopt.subgraphs.instance import CALL

__all__ = ["caught", "runtime_types"]

MEMORY = 16 << 30  # bytes that the run may take: all that is captured is there at once


def caught(graph: Graph, values: Sequence[Value], feeds: Mapping[str, Any]) -> dict[str, Any]:
    """What these values of one scope hold when the model runs on `feeds`, as it is written; by name.

    Raises GraphoptError for values that cannot be had: in a body that is not run, or of an operator that is not
    standard; LoadError and RunError as `graphopt.verify.run`.
    """
    model = graph.model
    call = model.facts.get(CALL)
    if call is not None:  # the instance of a function
        operands = [value for value in call.inputs if value is not None]
        given = caught(call.graph, [v for v in operands if not v.is_const], feeds)
        held = {v.name: given[v.name] if v.name in given else v.numpy() for v in operands}
        pairs = zip(model.graph.inputs, call.inputs, strict=False)
        feeds = {formal.name: held[value.name] for formal, value in pairs if value is not None}
    if graph is model.graph:
        return _of_main(ir.to_proto(model, whole=True), [value.name for value in values], feeds)
    return _of_body(model, graph, values, feeds)


def _of_main(proto: ModelProto, names: Sequence[str], feeds: Mapping[str, Any]) -> dict[str, Any]:
    from graphopt.verify.source import Source
    from graphopt.verify.window import capture

    return capture(Source(proto, memory=MEMORY), names, feeds)


def _of_body(model: Model, graph: Graph, values: Sequence[Value], feeds: Mapping[str, Any]) -> dict[str, Any]:
    inner = [value for value in values if value.graph is graph]
    outer = [value for value in values if value.graph is not graph]
    proto = ir.to_proto(model, whole=True)
    names, loops = _let_out(proto, graph, inner, types_of(model, inner))
    found = _of_main(proto, list(names.values()), feeds)
    result = {name: _first(found[here], loops, name) for name, here in names.items()}
    for scope in dict.fromkeys(value.graph for value in outer):
        result.update(caught(scope, [value for value in outer if value.graph is scope], feeds))
    return result


def _let_out(
    proto: ModelProto, graph: Graph, values: Sequence[Value], types: Mapping[Value, TypeProto]
) -> tuple[dict[str, str], int]:
    """Makes the bodies around a scope return its values. Returns what they are called in the main graph, and in how
    many loops they are."""
    scope: GraphProto = proto.graph
    steps: list[tuple[NodeProto, str, GraphProto]] = []
    for place, attribute, number in _path(graph):
        node = scope.node[place]
        entry = next(item for item in node.attribute if item.name == attribute)
        scope = entry.g if entry.type == AttributeProto.GRAPH else entry.graphs[number]
        steps.append((node, attribute, scope))
    names = {value.name: value.name for value in values}
    kinds = {value.name: types.get(value) for value in values}
    for level, (node, attribute, body) in enumerate(reversed(steps)):
        names = {name: _pass_out(node, attribute, body, here, kinds[name], level) for name, here in names.items()}
    return names, sum(node.op_type in ("Loop", "Scan") for node, _, _ in steps)


def runtime_types(graph: Graph, values: Sequence[Value]) -> dict[Value, TypeProto]:
    """The element types that ONNX Runtime infers for values of a body; without shapes. Empty where it does not load
    the model."""
    import onnxruntime

    proto = ir.to_proto(graph.model, whole=True)
    try:
        names, loops = _let_out(proto, graph, values, {})
        proto.graph.output.extend(ValueInfoProto(name=name) for name in names.values())
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception:  # noqa: BLE001 - the runtime's exceptions have no public base; unknown types are reported by name
        return {}
    kinds = {arg.name: parse_type(arg.type, arg.shape, known_shape=not loops) for arg in session.get_outputs()}
    pairs = ((value, kinds[names[value.name]]) for value in values)
    return {value: kind for value, kind in pairs if kind is not None}


def _path(graph: Graph) -> list[tuple[int, str, int]]:
    """How to get from the main graph into a body: the place of a node, its attribute, and which graph of that."""
    found = []
    while graph.owner is not None and graph.parent is not None:
        owner: Node = graph.owner
        if owner.domain or owner.op not in ("If", "Loop", "Scan"):
            raise GraphoptError(
                f"values inside {owner.op} {shown(owner.label)} cannot be captured; extract it as a whole"
            )
        place = graph.parent.nodes.index(owner)
        held = [(a.name, number) for a in owner.proto.attribute if a.type in _GRAPHS for number in range(_count(a))]
        name, number = held[list(owner.subgraphs).index(graph)]
        found.append((place, name, number))
        graph = graph.parent
    return found[::-1]


_GRAPHS = (AttributeProto.GRAPH, AttributeProto.GRAPHS)


def _count(attribute: AttributeProto) -> int:
    return 1 if attribute.type == AttributeProto.GRAPH else len(attribute.graphs)


def _pass_out(node: NodeProto, attribute: str, body: GraphProto, name: str, kind: TypeProto | None, level: int) -> str:
    """Makes a node return a value of its body; the name that it goes by outside."""
    outside = f"{name}/graphopt_out_{level}"
    inside = f"{name}/graphopt_in_{level}"
    body.node.append(helper.make_node("Identity", [name], [inside]))
    body.output.append(ValueInfoProto(name=inside))
    if node.op_type == "If":
        for entry in node.attribute:
            if entry.name != attribute and entry.type == AttributeProto.GRAPH:
                _return_nothing(entry.g, inside, kind, name)
    elif kind is not None and not kind.HasField("tensor_type"):
        raise GraphoptError(f"{shown(name)} is no tensor, so it cannot be had out of a {node.op_type}")
    if node.op_type == "Scan":
        for entry in node.attribute:
            if entry.name in ("scan_output_axes", "scan_output_directions"):
                entry.ints.append(0)
    node.output.append(outside)
    return outside


def _return_nothing(body: GraphProto, name: str, kind: TypeProto | None, value: str) -> None:
    if kind is None:
        raise GraphoptError(f"the type of {shown(value)} is not known, so it cannot be had out of an If")
    if kind.HasField("tensor_type"):
        tensor = TensorProto(data_type=kind.tensor_type.elem_type, dims=[0])
        body.node.append(helper.make_node("Constant", [], [name], value=tensor))
    elif kind.HasField("sequence_type"):
        element = kind.sequence_type.elem_type.tensor_type.elem_type
        body.node.append(helper.make_node("SequenceEmpty", [], [name], dtype=element))
    else:
        raise GraphoptError(f"{shown(value)} is neither a tensor nor a sequence, so it cannot be had out of an If")
    body.output.append(ValueInfoProto(name=name))


def _first(value: Any, loops: int, name: str) -> Any:
    """What the first iteration of each loop around it made."""
    for _ in range(loops):
        if not np.size(value):
            raise GraphoptError(f"{shown(name)} is in a loop that does not run on these inputs")
        value = value[0]
    return np.asarray(value) if loops else value
