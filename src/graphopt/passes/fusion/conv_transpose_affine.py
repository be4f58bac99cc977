"""s * conv_transpose(x, W, b) + t   ==   conv_transpose(x, s W, s b + t),   s along the output channels.

W is [channels in, channels out / group, ...]: s scales its axis 1, and for each group the rows of axis 0 that belong
to it. Everything else, and every guard, as for fuse-conv-affine.
"""

from __future__ import annotations

from graphopt.passes.fusion.conv_affine import fold
from graphopt.rewrite import Builder, Match, P, const, maybe, rule
from graphopt.rewrite.rule import Outcome

CONV = P.ConvTranspose("x", const("w"), maybe("b")).as_("conv")
AFTER = (P.op("Add", "Sub", "Mul", "Div")(CONV, const("c")), P.Sub(const("c"), CONV))


@rule("fuse-conv-transpose-affine", *AFTER, opset=">=7")
def fuse_conv_transpose_affine(m: Match, new: Builder) -> Outcome:
    return fold(m, new)
