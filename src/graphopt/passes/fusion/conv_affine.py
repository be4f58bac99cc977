"""s * conv(x, W, b) + t   ==   conv(x, s W, s b + t),   s along W's output channels.

Fires on one Mul, Div, Add or Sub with a constant (on either side, but `constant / conv` is no affine map); chains,
and a BatchNormalization written out, fold one operator at a time. Exact in real arithmetic; computed in float64 and
rounded once to W's dtype. Guards: W, and where it changes b, constant; the constant is one number, or one per channel
([C] alone would run along the width), with no more dims than the result; new weights finite, and in float16 not among
the subnormals; the constant is no part of a written-out HardSigmoid; the convolution's result read by nothing else.
"""

from __future__ import annotations

from graphopt.passes.fusion import _conv
from graphopt.passes.fusion._affine import of_constant
from graphopt.passes.fusion._keep import starts_hard_sigmoid
from graphopt.rewrite import Builder, Match, P, Refusal, const, maybe, refuse, rule
from graphopt.rewrite.rule import Outcome

CONV = P.Conv("x", const("w"), maybe("b")).as_("conv")
AFTER = (P.op("Add", "Sub", "Mul", "Div")(CONV, const("c")), P.Sub(const("c"), CONV))


def fold(m: Match, new: Builder) -> Outcome:
    """For Conv and ConvTranspose: m binds conv, x, w, b (or None) and the constant c."""
    reason = _conv.why_not(m.conv, m.w)
    if reason:
        return refuse(reason)
    if starts_hard_sigmoid(m.root):
        return refuse("the constant is part of a HardSigmoid written out, which is worth more when recognised as one")
    rank = m.w.numpy().ndim
    affine = of_constant(m.root, m.c, 1 - rank, _conv.channels_out(m.conv, m.w), rank)
    return affine if isinstance(affine, Refusal) else _conv.after(m, new, affine)


@rule("fuse-conv-affine", *AFTER, opset=">=7")
def fuse_conv_affine(m: Match, new: Builder) -> Outcome:
    return fold(m, new)
