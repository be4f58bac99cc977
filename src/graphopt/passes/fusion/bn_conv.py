"""conv(bn(x; g, t, m, v), W, b)   ==   conv(x, k W, b + sum(W (t - k m))),   k = g / sqrt(v + eps).

k runs along W's input channels, the sum runs over input channels and the kernel. Exact in real arithmetic where
nothing is padded in; computed in float64 and rounded once to W's dtype. Guards: padding is zeros put in behind the
BatchNormalization, so it allows no shift (t - k m must then be zero everywhere); a shift that is large against the
normalized values (1e4 in float32) would cancel digits there; BatchNormalization in inference, with one output and one
number per channel; W, b and the statistics constant; new weights finite; the normalized value read by nothing else.
"""

from __future__ import annotations

from graphopt.passes.fusion import _conv
from graphopt.passes.fusion._affine import of_batch_norm
from graphopt.rewrite import Builder, Match, P, Refusal, const, maybe, refuse, rule
from graphopt.rewrite.rule import Outcome

BN = P.BatchNormalization("x", const("g"), const("t"), const("mu"), const("var")).as_("bn")


@rule("fuse-bn-conv", P.Conv(BN, const("w"), maybe("b")).as_("conv"), opset=">=7")
def fuse_bn_conv(m: Match, new: Builder) -> Outcome:
    reason = _conv.why_not(m.conv, m.w)
    if reason:
        return refuse(reason)
    affine = of_batch_norm(m.bn, _conv.channels_in(m.conv, m.w))
    return affine if isinstance(affine, Refusal) else _conv.before(m, new, affine)
