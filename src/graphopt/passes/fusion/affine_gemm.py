"""gemm(s x + t, B, C)   ==   alpha x (s B) + (beta C + alpha t B),   s and t along B's rows.

Fires on one Mul, Div, Add or Sub with a constant (on either side, but `constant / x` is no affine map). Exact in real
arithmetic; computed in float64 and rounded once to B's dtype. Guards: the constant is one number, or one per channel
where x is proven to have these channels and dims already; with transA the channels of x lie along its first axis; a
shift above 1e4 (float32) would cancel digits; the constant is no part of a written-out activation or normalization
(see _keep.py); B, and where it changes C, constant; new weights finite; the value between read by nothing else.
"""

from __future__ import annotations

from graphopt.passes.fusion import _gemm
from graphopt.passes.fusion._affine import keeps_shape, of_constant
from graphopt.passes.fusion._keep import reason_to_stay
from graphopt.passes.fusion.affine_conv import ANY
from graphopt.rewrite import Builder, Match, P, Refusal, const, maybe, refuse, rule
from graphopt.rewrite.rule import Outcome


@rule("fuse-affine-gemm", P.Gemm(ANY, const("w"), maybe("b")).as_("gemm"), opset=">=7")
def fuse_affine_gemm(m: Match, new: Builder) -> Outcome:
    reason = _gemm.why_not(m.w) or reason_to_stay(m.op, m.x, m.c)
    if reason:
        return refuse(reason)
    axis, channels = -2 if m.gemm.attr("transA") else -1, _gemm.rows(m.gemm, m.w)
    affine = of_constant(m.op, m.c, axis, channels, 2)
    if isinstance(affine, Refusal):
        return affine
    if not keeps_shape(m.c, m.x, axis, channels):
        return refuse("the constant is not proven to leave the shape of the other operand as it is")
    return _gemm.before(m, new, affine)
