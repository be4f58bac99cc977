"""conv(s x + t, W, b)   ==   conv(x, s W, b + sum(W t)),   s and t along W's input channels.

Fires on one Mul, Div, Add or Sub with a constant (on either side, but `constant / x` is no affine map); Mul and Div
also in front of ConvTranspose. Input normalization and the learnable affine blocks of PP-LCNet and HGNet fold this
way, one operator at a time. Exact in real arithmetic; computed in float64 and rounded once to W's dtype. Guards:
padding is zeros put in behind the operator, so it allows no shift; a shift above 1e4 (float32) would cancel digits;
the constant is one number, or one per channel where x is proven to have these channels and dims already (a constant
may enlarge what it is added to); the constant is no part of a written-out activation or normalization (see _keep.py);
W, and where it changes b, constant; new weights finite; the value between read by nothing else.
"""

from __future__ import annotations

from graphopt.passes.fusion import _conv
from graphopt.passes.fusion._affine import keeps_shape, of_constant
from graphopt.passes.fusion._keep import reason_to_stay
from graphopt.rewrite import Builder, Match, P, Refusal, const, maybe, one_of, refuse, rule
from graphopt.rewrite.rule import Outcome

ANY = one_of(P.op("Add", "Sub", "Mul", "Div")("x", const("c")).as_("op"), P.Sub(const("c"), "x").as_("op"))
SCALE = P.op("Mul", "Div")("x", const("c")).as_("op")


@rule(
    "fuse-affine-conv",
    P.Conv(ANY, const("w"), maybe("b")).as_("conv"),
    P.ConvTranspose(SCALE, const("w"), maybe("b")).as_("conv"),
    opset=">=7",
)
def fuse_affine_conv(m: Match, new: Builder) -> Outcome:
    reason = _conv.why_not(m.conv, m.w) or reason_to_stay(m.op, m.x, m.c)
    if reason:
        return refuse(reason)
    rank, channels = m.w.numpy().ndim, _conv.channels_in(m.conv, m.w)
    affine = of_constant(m.op, m.c, 1 - rank, channels, rank)
    if isinstance(affine, Refusal):
        return affine
    if not keeps_shape(m.c, m.x, 1 - rank, channels):
        return refuse("the constant is not proven to leave the shape of the other operand as it is")
    return _conv.before(m, new, affine)
