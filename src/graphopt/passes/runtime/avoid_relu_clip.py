"""Relu next to a Clip, where ONNX Runtime's FuseReluClip would go wrong.

Clip(x, low, Relu(c))   ==   Clip(x, low, Reshape(Relu(c), its own dims))
Clip(Relu(x), low, high)   ==   Clip(x, max(low, 0), high)      for a constant low of another type than float, float16

ONNX Runtime (1.31) drops a Relu whose only reader is a Clip and lets the Clip's lower bound stand in for it. It does
not look which of the Clip's operands the Relu makes: of an upper bound the Relu is lost. And it refuses to load the
model when the lower bound is a constant of another type.

Guards: no other reader of the Relu; for the first, a lower bound that is constant or missing (else ONNX Runtime leaves
it alone).
"""

import numpy as np
from onnx import TensorProto

from graphopt.rewrite import Builder, Match, P, const, maybe, rule
from graphopt.rewrite.rule import Outcome

ORT = ["onnx", "onnxruntime"]
CAPPED = P.Clip("x", maybe(const("low")), P.Relu("c").as_("relu")).as_("clip")
CLIPPED = P.Clip(P.Relu("x"), const("low"), maybe("high")).as_("clip")
_RIGHT = (TensorProto.FLOAT, TensorProto.FLOAT16)


@rule("avoid-relu-clip-max", CAPPED, opset=">=11", targets=ORT, measure="order")
def avoid_relu_clip_max(m: Match, new: Builder) -> Outcome:
    """Keeps ONNX Runtime from dropping the Relu that makes a Clip's upper bound."""
    if m.c.rank is None:
        return None
    same = new.constant(np.zeros(m.c.rank, np.int64), "same_dims")
    return new.Clip(m.x, m.low, new.Reshape(m.relu.output, same, type_of=m.relu.output), like=m.clip)


@rule("avoid-relu-clip-type", CLIPPED, opset=">=11", targets=ORT, measure="order")
def avoid_relu_clip_type(m: Match, new: Builder) -> Outcome:
    """Takes a Relu into the Clip of a double or an integer, which ONNX Runtime refuses to load after it tried."""
    if m.low.dtype in _RIGHT or m.low.dtype is None:
        return None
    low = m.low.numpy()
    return new.Clip(m.x, new.constant(np.maximum(low, low.dtype.type(0)), like=m.low), m.high, like=m.clip)
