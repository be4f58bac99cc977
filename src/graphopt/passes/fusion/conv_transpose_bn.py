"""bn(conv_transpose(x, W, b); g, t, m, v)   ==   conv_transpose(x, k W, k (b - m) + t),   k = g / sqrt(v + eps).

W is [channels in, channels out / group, ...]: k scales its axis 1, and for each group the rows of axis 0 that belong
to it. Exact in real arithmetic; computed in float64 and rounded once to W's dtype. Guards: as for fuse-conv-bn.
"""

from __future__ import annotations

from graphopt.passes.fusion import _conv
from graphopt.passes.fusion._affine import of_batch_norm
from graphopt.rewrite import Builder, Match, P, Refusal, const, maybe, refuse, rule
from graphopt.rewrite.rule import Outcome

CONV = P.ConvTranspose("x", const("w"), maybe("b")).as_("conv")
BN = P.BatchNormalization(CONV, const("g"), const("t"), const("mu"), const("var")).as_("bn")


@rule("fuse-conv-transpose-bn", BN, opset=">=7")
def fuse_conv_transpose_bn(m: Match, new: Builder) -> Outcome:
    reason = _conv.why_not(m.conv, m.w)
    if reason:
        return refuse(reason)
    affine = of_batch_norm(m.bn, _conv.channels_out(m.conv, m.w))
    return affine if isinstance(affine, Refusal) else _conv.after(m, new, affine)
