"""Types and shapes that rules can trust: inferred from the inputs' contract, never taken from a file's annotations.

Uses onnx's own inference on the weight-less skeleton. Declared types of inner values and outputs are left out of it:
published models declare wrong ones. A symbol stands for one size everywhere, as the ONNX specification says
(IR.md, "Static tensor shapes").
"""

from __future__ import annotations

from typing import Any

from onnx import AttributeProto, GraphProto, ModelProto, shape_inference

from graphopt.ir import Graph, Model

_GRAPHS = (AttributeProto.GRAPH, AttributeProto.GRAPHS)


def ensure_types(model: Model, fresh: bool = False) -> None:
    """Sets `Value.type` wherever it can be inferred; at once where that was done and nothing was made since.

    fresh: infer again although every value has a type (constants became known, so shapes may, too).
    """
    known = model.facts.get("types")
    if known is not None and not fresh and (known == model.version or not _untyped(model, known)):
        return
    infer(model)
    model.facts["types"] = model.version


def _untyped(model: Model, version: int) -> bool:
    return any(value.type is None for node in model.graph.edits_since(version) for value in node.outputs if value.name)


def infer(model: Model) -> None:
    """Runs shape inference; leaves types unknown where onnx finds none, or finds the model contradictory."""
    bare = ModelProto()
    bare.CopyFrom(model.commit())
    _strip(bare.graph)
    try:
        result = shape_inference.infer_shapes(bare, check_type=False, strict_mode=False, data_prop=True)
    except Exception:  # onnx raises several C++ exception types; unknown shapes are always safe
        return
    pending: list[tuple[Graph, GraphProto]] = [(model.graph, result.graph)]
    while pending:
        graph, proto = pending.pop()
        _take(graph, proto)
        for node, node_proto in zip(graph, proto.node, strict=True):
            if node.subgraphs:
                bodies = [b for a in node_proto.attribute if a.type in _GRAPHS for b in (a.graphs or [a.g])]
                pending += zip(node.subgraphs, bodies, strict=True)


def _take(graph: Graph, proto: GraphProto) -> None:
    values = graph.values
    for infos in (proto.value_info, proto.output):
        for info in infos:
            value = values.get(info.name)
            if value is not None and value.producer is not None and info.HasField("type"):
                value.set_type(info.type)


def _strip(graph: GraphProto) -> None:
    """Drops what the file says of inner values and outputs, at every depth."""
    pending: list[Any] = [graph]
    while pending:
        item = pending.pop()
        del item.value_info[:]
        for info in item.output:
            info.ClearField("type")
        for node in item.node:
            if node.op_type in ("If", "Loop", "Scan", "SequenceMap") or node.domain:
                for attribute in node.attribute:
                    if attribute.type in _GRAPHS:
                        pending += attribute.graphs or [attribute.g]
