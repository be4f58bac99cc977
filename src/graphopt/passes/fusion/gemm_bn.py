"""bn(alpha A B + beta C; g, t, m, v)   ==   alpha A (B k) + (k (beta C - m) + t),   k = g / sqrt(v + eps).

k runs along B's columns. Exact in real arithmetic; computed in float64 and rounded once to B's dtype. C keeps its
form where it has one number per column, and may be left out. Guards: B, C and the statistics constant;
BatchNormalization in inference, with one output and one number per channel; new weights finite; the product read by
nothing else.
"""

from __future__ import annotations

from graphopt.passes.fusion import _gemm
from graphopt.passes.fusion._affine import of_batch_norm
from graphopt.rewrite import Builder, Match, P, Refusal, const, maybe, refuse, rule
from graphopt.rewrite.rule import Outcome

GEMM = P.Gemm("x", const("w"), maybe("b")).as_("gemm")
BN = P.BatchNormalization(GEMM, const("g"), const("t"), const("mu"), const("var")).as_("bn")


@rule("fuse-gemm-bn", BN, opset=">=7")
def fuse_gemm_bn(m: Match, new: Builder) -> Outcome:
    reason = _gemm.why_not(m.w)
    if reason:
        return refuse(reason)
    affine = of_batch_norm(m.bn, _gemm.columns(m.gemm, m.w))
    return affine if isinstance(affine, Refusal) else _gemm.after(m, new, affine)
