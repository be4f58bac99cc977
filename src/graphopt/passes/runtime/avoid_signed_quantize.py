"""int8 quantization in opset 21 and later, spelled so that ONNX Runtime's default optimizations load it.

QuantizeLinear<output_dtype = INT8>(x, s, z)   ==   QuantizeLinear(x, s, z)      z has the type already
Transpose(DequantizeLinear(q, s, z))   ==   DequantizeLinear(Transpose(q), s, z)      and likewise what else moves data

On x86, ONNX Runtime (1.31, QDQS8ToU8Transformer) makes uint8 of int8 with its zero point, and forgets the attribute:
the model does not load. The attribute need not be the model's own: behind a DequantizeLinear, ONNX Runtime
(QDQPropagationTransformer) puts another pair after each operator that moves data, and gives that an output_dtype. So
what moves data is done on the integers, which is also less to move.

Guards: for the second, one scale and one zero point of int8, constant; not where a QuantizeLinear follows (that is left
alone, and runs on integers anyway); of MaxPool, only without padding; q is no constant.
"""

import numpy as np
from onnx import TensorProto

from graphopt.ir import Value
from graphopt.rewrite import Builder, Match, P, const, rule
from graphopt.rewrite.pattern import rest
from graphopt.rewrite.rule import Outcome

ORT = ["onnx", "onnxruntime"]
TYPED = P.QuantizeLinear("x", "s", "z").as_("quantize")
DEQUANTIZED = P.DequantizeLinear("q", const("s"), const("z")).shared().as_("dequantize")
MOVED = P.op("Transpose", "Reshape", "Squeeze", "Unsqueeze", "Slice", "MaxPool")(DEQUANTIZED, rest("more")).as_("move")


@rule("avoid-output-dtype", TYPED, opset=">=21", targets=ORT, measure="order")
def avoid_output_dtype(m: Match, new: Builder) -> Outcome:
    """Drops a quantization's type where the zero point says it: ONNX Runtime changes the one without the other."""
    given = m.quantize.attr("output_dtype", 0)
    if not given or given != m.z.dtype:
        return None
    return new.QuantizeLinear(m.x, m.s, m.z, like=m.quantize, output_dtype=None)


@rule("avoid-signed-dequantize", MOVED, opset=">=21", targets=ORT, measure="order")
def avoid_signed_dequantize(m: Match, new: Builder) -> Outcome:
    """Moves int8 data before it is dequantized, so that ONNX Runtime does not quantize it once more, and fail."""
    if m.z.dtype != TensorProto.INT8 or m.q.is_const or m.s.numpy().size != 1 or m.z.numpy().size != 1:
        return None
    readers = m.move.output.users
    quantized = bool(readers) and not m.move.output.is_output and all(r.op == "QuantizeLinear" for r in readers)
    if quantized or not _commutes(m):
        return None
    moved = new.make(m.move.op, m.q, *m.more, like=m.move)
    return new.DequantizeLinear(moved, _scalar(m.s, new), _scalar(m.z, new), like=m.dequantize, axis=None)


def _scalar(value: Value, new: Builder) -> Value:
    return value if value.shape == () else new.constant(value.numpy().reshape(()), like=value)


def _commutes(m: Match) -> bool:
    """Whether the operator only picks among its elements; the largest of a window, where the scale is not negative."""
    if m.move.op != "MaxPool":
        return True
    padded = any(m.move.attr("pads", None) or ()) or m.move.attr("auto_pad", "NOTSET") not in ("NOTSET", "", "VALID")
    return not padded and not m.move.attr("ceil_mode", 0) and bool(np.all(m.s.numpy() > 0))
