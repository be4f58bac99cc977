"""Where a chain of operators ends in a size that the next weight does not fit, when the runtime does not say which
size."""

from __future__ import annotations

from collections.abc import Mapping

import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper

from graphopt.verify.flow import Flow, attribute
from graphopt.verify.source import tensor_bytes
from graphopt.verify.spec import InputSpec, sizes_of

__all__ = ["misfit"]

_SMALL = 4096  # bytes: larger weights are replaced by inputs of their shape
_LARGEST = 64 << 20  # bytes of what remains: constants in nodes could make a copy expensive


def misfit(flow: Flow, specs: list[InputSpec], binding: Mapping[str, int]) -> tuple[int, int] | None:
    """(the size that arrives, the size that the weight wants) at the first MatMul or Gemm that does not fit, if any.

    By ONNX's shape inference, on a copy without the large weights and with the inputs' sizes filled in.
    """
    shapes = _inferred(
        flow.model, {spec.name: sizes_of(spec.dims or (), binding) for spec in specs if spec.leaf == "tensor"}
    )
    for node in flow.model.graph.node:
        wanted = _wanted(flow, node)
        got = shapes.get(node.input[0]) if wanted else None
        if wanted and got and got[-1] not in (None, wanted):
            return int(got[-1] or 0), wanted
    return None


def _wanted(flow: Flow, node: NodeProto) -> int | None:
    if node.op_type not in ("MatMul", "Gemm") or len(node.input) < 2 or attribute(node, "transA", 0):
        return None
    shape = flow.shape(0, node.input[1])
    if not shape or len(shape) < 2:
        return None
    return shape[-1] if attribute(node, "transB", 0) else shape[-2]


def _inferred(model: ModelProto, sizes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int | None, ...]]:
    bare = ModelProto(ir_version=model.ir_version)
    bare.opset_import.extend(model.opset_import)
    bare.functions.extend(model.functions)
    graph = bare.graph
    graph.name = "sizes"
    graph.node.extend(model.graph.node)
    _feed(graph, model.graph, sizes)
    if bare.ByteSize() > _LARGEST:
        return {}
    try:
        found = onnx.shape_inference.infer_shapes(bare, data_prop=True).graph
    except Exception:  # noqa: BLE001 - the C++ library raises various classes; then there is simply nothing to learn
        return {}
    return {value.name: _shape(value) for value in (*found.value_info, *found.input)}


def _feed(graph: GraphProto, original: GraphProto, sizes: Mapping[str, tuple[int, ...]]) -> None:
    for value in original.input:
        graph.input.add().CopyFrom(value)
        if value.name in sizes and value.type.HasField("tensor_type"):
            elem_type = value.type.tensor_type.elem_type
            graph.input[-1].CopyFrom(helper.make_tensor_value_info(value.name, elem_type, sizes[value.name]))
    listed = {value.name for value in original.input}
    for tensor in original.initializer:
        external = tensor.data_location == TensorProto.EXTERNAL
        if not external and tensor_bytes(tensor) <= _SMALL:
            graph.initializer.append(tensor)
        elif tensor.name not in listed:
            graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))


def _shape(value: ValueInfoProto) -> tuple[int | None, ...]:
    return tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in value.type.tensor_type.shape.dim)
