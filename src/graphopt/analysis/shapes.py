"""Types and shapes that rules can trust: inferred from the inputs' contract, never taken from a file's annotations.

Uses onnx's own inference on the weight-less skeleton. Declared types of inner values, of outputs and of the inputs of
bodies are left out of it: published models declare wrong ones, and ONNX Runtime runs them. So are the values of
initializers that a caller may override. A symbol stands for one size everywhere, as the ONNX specification says
(IR.md, "Static tensor shapes"); "?", "None" and the like, which exporters write on any dim, are no symbols.

What inference has no name for is followed through the operators by `graphopt.analysis.sizes`; rules ask `shapes_of`.
"""

from __future__ import annotations

from itertools import chain
from typing import Any

from onnx import AttributeProto, GraphProto, ModelProto, TensorProto, helper, shape_inference

from graphopt.analysis.negative import has_negative, has_slices, hide, is_absurd, outline, show, suspects
from graphopt.analysis.sizes.interface import Shapes, shapes_of
from graphopt.analysis.sizes.poly import Size
from graphopt.ir import Graph, Model
from graphopt.ir.external import external_bytes, refill
from graphopt.ir.node import is_symbol

__all__ = [
    "UNKNOWN",
    "Shapes",
    "Size",
    "ensure_types",
    "has_negative_sizes",
    "infer",
    "note_news",
    "run_inference",
    "shapes_of",
]

UNKNOWN = "unk__"  # what onnx begins the names of dims with that it does not know
_MENDED = "graphopt.inference"
_FETCHED = 1 << 10  # bytes of an external tensor that may be a shape
_DEFAULT = ("", "ai.onnx")
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
    note_news(model)


def note_news(model: Model) -> None:
    """Called when more is known of types: a rule may match now where nothing was edited."""
    model.facts["news"] = model.facts.get("news", 0) + 1


def _untyped(model: Model, version: int) -> bool:
    return any(value.type is None for node in model.graph.edits_since(version) for value in node.outputs if value.name)


def infer(model: Model) -> None:
    """Runs shape inference; leaves types unknown where onnx finds none, or finds the model contradictory."""
    bare = _bare(model)
    known = {dim.dim_param for info in bare.graph.input for dim in info.type.tensor_type.shape.dim}
    try:
        result = _run(bare, model)
    except Exception:  # noqa: BLE001 - onnx raises several C++ exception types; unknown shapes are always safe
        return
    model.facts["inferences"] = era = model.facts.get("inferences", 0) + 1
    found = result.graph
    if not model.graph.holders:  # types keep their message alive: let it be one without the nodes
        found = GraphProto(value_info=found.value_info, output=found.output)
        del bare, result
    pending: list[tuple[Graph, GraphProto]] = [(model.graph, found)]
    while pending:
        graph, proto = pending.pop()
        _take(graph, proto, known, f".{era}" if era > 1 else "")
        for node, node_proto in zip(graph, proto.node, strict=False):  # `connect` may have added an Identity at the end
            if node.subgraphs:
                bodies = [b for a in node_proto.attribute if a.type in _GRAPHS for b in (a.graphs or [a.g])]
                pending += zip(node.subgraphs, bodies, strict=True)


def _run(bare: ModelProto, model: Model) -> ModelProto:
    """onnx's inference; the first of a model in rounds that show more and more of what `negative.suspects` names."""
    if not model.facts.get("sane"):
        rounds = suspects(model)
        for places in rounds:
            hide(bare, places)
            result = _infer(bare)
            if has_negative(result, places):
                return result
            show(bare)
        model.facts["sane"] = True  # rewrites do not change sizes
    return _infer(bare)


def has_negative_sizes(proto: ModelProto) -> bool:
    """Whether inference would run a Slice into a size below zero, at which onnx and ONNX Runtime end the process.

    Such models are not valid: an image is smaller than a kernel, say. Raises ModelError as `graphopt.ir.Model`.
    """
    if not has_slices(proto):
        return False
    model = Model(outline(proto))
    if is_absurd(model):
        return True
    bare = _bare(model) if suspects(model) else None
    if bare is not None:
        _run(bare, model)
    return bare is not None and not model.facts.get("sane")


def _infer(bare: ModelProto) -> ModelProto:
    result: ModelProto = shape_inference.infer_shapes(bare, check_type=False, strict_mode=False, data_prop=False)
    return result


def run_inference(proto: ModelProto) -> ModelProto:
    """onnx's inference on a model of nodes that do not read each other, so that nothing is to be feared of Slices."""
    _mend_slices(proto)
    return _infer(proto)


def _bare(model: Model) -> ModelProto:
    """A copy without weights, without what the file says of inner values and outputs, and without defaults.

    Before IR version 4 initializers are listed as inputs, and onnx does not see one that is new: here they are not.
    """
    bare = ModelProto(ir_version=max(4, model.ir_version), opset_import=model.proto.opset_import)
    bare.functions.extend(model.proto.functions)
    graph = model.graph
    if graph.holders or model.functions:
        model.commit()  # bodies are part of their nodes' protos
    proto: Any = graph.proto
    stored = {name for name, v in graph.initializers.items() if not v.is_input} if model.ir_version < 4 else set()
    bare.graph.input.extend(info for info in proto.input if info.name not in stored)
    bare.graph.output.extend(proto.output)
    bare.graph.sparse_initializer.extend(proto.sparse_initializer)
    tensors = (v.tensor.proto for v in graph.initializers.values() if v.tensor is not None and not v.is_input)
    bare.graph.initializer.extend(tensors)
    for tensor in bare.graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL and external_bytes(tensor) <= _FETCHED:
            refill(tensor, bytes(model.store.external(tensor)))  # onnx gives up where it needs values that are outside
    bare.graph.node.extend(node.write() for node in graph)
    _strip(bare.graph)
    _forget_anonymous(bare.graph)
    _mend_slices(bare)
    return bare


def _mend_slices(bare: ModelProto) -> None:
    """onnx infers that a Slice of opset 10 leaves symbolic dims as they are. Here it is a function around the Slice of
    opset 11, whose inference is right, and which computes the same."""
    owners: list[Any] = [bare, *bare.functions]
    owners = [owner for owner in owners if any(o.domain in _DEFAULT and o.version == 10 for o in owner.opset_import)]
    pending: list[Any] = [owner.graph if owner is bare else owner for owner in owners]
    found = False
    while pending:
        for node in pending.pop().node:
            if node.op_type == "Slice" and node.domain in _DEFAULT:
                node.domain, found = _MENDED, True
            pending += [b for a in node.attribute if a.type in _GRAPHS for b in (a.graphs or [a.g])]
    if found:
        for owner in owners:
            owner.opset_import.add(domain=_MENDED, version=1)
        names = ["data", "starts", "ends", "axes", "steps"]
        slice_ = helper.make_node("Slice", names, ["output"])
        opset = [helper.make_opsetid("", 11)]
        bare.functions.append(helper.make_function(_MENDED, "Slice", names, ["output"], [slice_], opset))


def _take(graph: Graph, proto: GraphProto, known: set[str], suffix: str) -> None:
    """Takes over the types. onnx numbers the dims that it does not know (unk__0 ...) from the start each time: a value
    that it could type before, but not now, must not seem to share a dim with another."""
    values = graph.values
    infos = chain(proto.value_info, proto.output, proto.input if graph.parent is not None else ())
    for info in infos:
        value = values.get(info.name)
        if value is not None and value.tensor is None and info.type.WhichOneof("value") is not None:
            if suffix:
                for dim in info.type.tensor_type.shape.dim:
                    if dim.dim_param.startswith(UNKNOWN) and dim.dim_param not in known:
                        dim.dim_param += suffix
            value.set_type(info.type)


def _forget_anonymous(graph: GraphProto) -> None:
    """Input dims that no caller is held to: negative sizes, and words like "?" that stand for any size."""
    for info in graph.input:
        for dim in info.type.tensor_type.shape.dim:
            if dim.dim_value < 0 or (dim.dim_param and not is_symbol(dim.dim_param)):
                dim.Clear()


def _strip(graph: GraphProto) -> None:
    """Drops what the file says of inner values, outputs, and inputs of bodies, at every depth."""
    pending: list[Any] = [graph]
    while pending:
        item = pending.pop()
        del item.value_info[:]
        for info in item.output if item is graph else (*item.input, *item.output):
            info.ClearField("type")
        for node in item.node:
            if node.op_type in ("If", "Loop", "Scan", "SequenceMap") or node.domain:
                for attribute in node.attribute:
                    if attribute.type in _GRAPHS:
                        pending += attribute.graphs or [attribute.g]
