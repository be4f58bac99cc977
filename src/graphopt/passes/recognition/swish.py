"""Swish(x; a)   ==   x Sigmoid(a x)

ONNX Runtime (1.31) makes its QuickGelu of the product; Swish (opset 24) is a function there, which comes apart too late
for that. Measured, one thread: 1.2 (64 numbers) to 2.9 times (64 x 56 x 56) as fast. The product stays as it is.

Sigmoid written out, 1 / (1 + exp(-x)), stays, too: the runtime's kernel gives 0 below -18 or so, where a logarithm
behind it would be -inf.

Guards: float32.
"""

from __future__ import annotations

import numpy as np

from graphopt.passes.recognition._forms import is_float
from graphopt.rewrite import Builder, Match, P, refuse, rule
from graphopt.rewrite.rule import Outcome


@rule("spell-swish", P.Swish("x").as_("swish"), opset=">=24", targets=["onnx", "onnxruntime"], measure="order")
def spell_swish(m: Match, new: Builder) -> Outcome:
    if not is_float(m.x):
        return refuse("the runtime recognises it in float32, and this is not proven to be that")
    alpha = m.swish.attr("alpha", 1.0)
    scaled = m.x if alpha == 1 else new.Mul(m.x, new.constant(np.array(alpha, np.float32), "alpha"), type_of=m.x)
    return new.Mul(m.x, new.Sigmoid(scaled, type_of=m.x), type_of=m.x)
