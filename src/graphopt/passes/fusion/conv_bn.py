"""bn(conv(x, W, b); g, t, m, v)   ==   conv(x, k W, k (b - m) + t),   k = g / sqrt(v + eps), along W's output channels.

Exact in real arithmetic; computed in float64 and rounded once to W's dtype. Guards: BatchNormalization in inference,
with one output and one number per channel (no `spatial=0`); k and the new weights finite; W, b and the statistics
constant; the convolution's result read by nothing else.
"""

from __future__ import annotations

from graphopt.passes.fusion import _conv
from graphopt.passes.fusion._affine import of_batch_norm
from graphopt.rewrite import Builder, Match, P, Refusal, const, maybe, refuse, rule
from graphopt.rewrite.rule import Outcome

CONV = P.Conv("x", const("w"), maybe("b")).as_("conv")
BN = P.BatchNormalization(CONV, const("g"), const("t"), const("mu"), const("var")).as_("bn")


@rule("fuse-conv-bn", BN, opset=">=7")
def fuse_conv_bn(m: Match, new: Builder) -> Outcome:
    reason = _conv.why_not(m.conv, m.w)
    if reason:
        return refuse(reason)
    affine = of_batch_norm(m.bn, _conv.channels_out(m.conv, m.w))
    return affine if isinstance(affine, Refusal) else _conv.after(m, new, affine)
