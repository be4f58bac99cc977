"""DequantizeLinear(q, s, z, axis)   ==   DequantizeLinear(q, s, z, axis - rank).

ONNX Runtime (1.31) turns a MatMul or Gemm with a dequantized constant weight into MatMulNBits, which quantizes the
*activations* to int8, too (accuracy level 4): 45 dB of signal to noise where the model as written has over 100. It
looks for a scalar scale, or for a non-negative axis; with the axis counted from the end it leaves the model as it is
written. A scalar scale is repeated for each channel; before opset 13, which has no axis, it becomes a scale of one
element.

Guards: a constant integer weight of rank 2; read by MatMul or Gemm, also through a Transpose, whose other operand is
not dequantized itself (that is a quantized MatMul, which is wanted); not spelled like this already.
"""

import numpy as np

from graphopt.ir import Node, Value
from graphopt.rewrite import Builder, Match, P, const, maybe, rule
from graphopt.rewrite.rule import Outcome

WEIGHT = P.DequantizeLinear(const("q"), const("s"), maybe(const("z"))).as_("dequantize")


@rule("avoid-dequantize-matmul", WEIGHT, targets=["onnx", "onnxruntime"], measure="order")
def avoid_dequantize_matmul(m: Match, new: Builder) -> Outcome:
    """Keeps ONNX Runtime from quantizing the activations of a MatMul whose weight alone is quantized."""
    shape, scales = m.q.shape, m.s.shape
    if shape is None or len(shape) != 2 or scales is None or not _feeds_float_matmul(m.dequantize):
        return None
    if len(scales) > 0:
        axis = m.dequantize.attr("axis") if new.graph.opset() >= 13 else None
        if axis is None or axis < 0 or scales == (1,):
            return None
        return new.DequantizeLinear(m.q, m.s, m.z, like=m.dequantize, axis=axis - 2)
    count = 1 if new.graph.opset() < 13 else int(shape[1])
    parts = [_repeated(value, count, new) for value in (m.s, m.z)]
    options = {"block_size": None, "axis": None if new.graph.opset() < 13 else -1}  # blocks mean nothing to a scalar
    return new.DequantizeLinear(m.q, *parts, like=m.dequantize, **options)


def _repeated(value: Value | None, count: int, new: Builder) -> Value | None:
    if value is None:
        return None
    return new.graph.constant(np.full(count, value.numpy()), value.name, value.dtype)


def _feeds_float_matmul(dequantize: Node) -> bool:
    readers = list(dequantize.output.users)
    for node in readers[:]:
        if node.op == "Transpose" and not node.domain:
            readers += node.output.users
    return any(_is_float_matmul(node) for node in readers)


def _is_float_matmul(node: Node) -> bool:
    if node.domain or node.op not in ("MatMul", "Gemm"):
        return False
    other = node.inputs[0]
    return other is not None and (other.producer is None or other.producer.op != "DequantizeLinear")
