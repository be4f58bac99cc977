"""Operators that pick, order or repeat elements of their first input, so that they commute with any function of one."""

from __future__ import annotations

from onnx import TensorProto

from graphopt.ir import Node, Value
from graphopt.passes.quantize._grid import BITS8, Grid, grid_of

RUNTIME = ["onnx", "onnxruntime"]
SAME_SIZE = (
    "Transpose",
    "Reshape",
    "Flatten",
    "Squeeze",
    "Unsqueeze",
)  # ONNX Runtime 1.23 has no DepthToSpace of 8 bits
FEWER = ("Slice", "Gather", "GatherND", "MaxPool")
MORE = ("Expand", "Tile", "GatherElements", "Resize")
NOT_8_BITS = "the integers are not of 8 bits, which few operators take"
PER_CHANNEL = "one scale per channel, whose axis moves"


def why_not(node: Node, grid: Grid) -> str:
    """Why a move does not commute with a grid's Q or DQ, or cannot run on its integers; or nothing."""
    if not grid.is_single:
        return PER_CHANNEL
    if grid.dtype not in BITS8:
        return NOT_8_BITS
    if node.op == "Resize" and node.graph.opset() < 13:
        return "ONNX Runtime resizes integers from opset 13 on"
    if node.op == "Resize" and node.attr("mode", "nearest") != "nearest":
        return "a Resize that interpolates"
    if node.op == "Resize" and node.attr("coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize":
        return "a Resize that extrapolates"
    if node.op == "MaxPool":
        return _why_not_pool(node)
    return ""


def _why_not_pool(node: Node) -> str:
    """The largest element of a window has the largest code; but a window of padding alone has -inf, which has none."""
    if node.graph.opset() < 12:
        return "MaxPool takes integers from opset 12 on"
    if len(node.outputs) > 1 and node.outputs[1].name:
        return "MaxPool gives indices, which ties decide"
    if node.attr("auto_pad", "NOTSET") not in ("NOTSET", "", "VALID") or node.attr("ceil_mode", 0):
        return "a window of MaxPool may lie in the padding"
    kernel, pads = node.attr("kernel_shape"), node.attr("pads", None) or ()
    dilated = any(d != 1 for d in node.attr("dilations", None) or ())
    if any(pads) and (dilated or any(p >= k for p, k in zip(pads, [*kernel, *kernel], strict=True))):
        return "a window of MaxPool may lie in the padding"
    return ""


def common_grid(values: list[Value]) -> Grid | None:
    """The grid of values that are all dequantized from one and the same; or None."""
    grids = [grid_of(v.producer) if v.producer is not None else None for v in values]
    first = grids[0] if grids else None
    if first is None or any(v.producer is not None and v.producer.op != "DequantizeLinear" for v in values):
        return None
    return first if all(g is not None and g.same(first) for g in grids) else None


def is_float(value: Value) -> bool:
    """Whether a value is certainly float32."""
    return value.dtype == TensorProto.FLOAT
