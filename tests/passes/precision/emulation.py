"""bfloat16 on a runtime that has no kernels for it: float32 whose results are rounded after every operator.

What a GPU does, but for sums that it may accumulate in float32 as well (here they are).
"""

from __future__ import annotations

from typing import Any

from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

F32, BF16 = TensorProto.FLOAT, TensorProto.BFLOAT16


def emulated(model: ModelProto) -> ModelProto:
    """A float32 model that computes what a bfloat16 one does: every type is float32, and a Cast down and up stands
    behind each node that made bfloat16. The model's graph must have no bodies."""
    made = ModelProto.FromString(model.SerializeToString())
    halves = _bfloat16_values(model)
    for tensor in made.graph.initializer:
        _widen(tensor)
    for info in (*made.graph.value_info, *made.graph.input, *made.graph.output):
        if info.type.tensor_type.elem_type == BF16:
            info.type.tensor_type.elem_type = F32
    nodes: list[NodeProto] = []
    for node in list(made.graph.node):
        for attribute in node.attribute:
            if attribute.type == AttributeProto.TENSOR:
                _widen(attribute.t)
            elif attribute.name in ("to", "dtype", "output_datatype") and attribute.i == BF16:
                attribute.i = F32
        nodes.append(node)
        for index, name in enumerate(node.output):
            if name in halves:
                node.output[index] = f"{name}/exact"
                nodes.append(helper.make_node("Cast", [f"{name}/exact"], [f"{name}/rounded"], to=BF16))
                nodes.append(helper.make_node("Cast", [f"{name}/rounded"], [name], to=F32))
    del made.graph.node[:]
    made.graph.node.extend(nodes)
    return made


def _bfloat16_values(model: ModelProto) -> set[str]:
    import onnx

    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    infos = (*inferred.value_info, *inferred.output)
    return {info.name for info in infos if info.type.tensor_type.elem_type == BF16}


def _widen(tensor: TensorProto) -> None:
    if tensor.data_type == BF16:
        array: Any = numpy_helper.to_array(tensor)
        tensor.CopyFrom(numpy_helper.from_array(array.astype("float32"), tensor.name))
