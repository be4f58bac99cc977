"""gemm(bn(x; g, t, m, v), B, C)   ==   alpha x (k B) + (beta C + alpha (t - k m) B),   k = g / sqrt(v + eps).

k runs along B's rows. For MatMul as well, which becomes a Gemm: the operand of both is a matrix. Exact in real
arithmetic; computed in float64 and rounded once to B's dtype. Guards: for MatMul, x proven to be a matrix, and a
dtype that Gemm has; for Gemm, transA = 0 (its channels would be columns); a shift that is large against the
normalized values (1e4 in float32) would cancel digits; BatchNormalization in inference, with one output and one
number per channel; B, C and the statistics constant; new weights finite; the normalized value read by nothing else.
"""

from __future__ import annotations

from graphopt.passes.fusion import _gemm
from graphopt.passes.fusion._affine import of_batch_norm
from graphopt.passes.fusion.matmul_add_gemm import gemm_has
from graphopt.rewrite import Builder, Match, P, Refusal, const, maybe, refuse, rule
from graphopt.rewrite.rule import Outcome

BN = P.BatchNormalization("x", const("g"), const("t"), const("mu"), const("var")).as_("bn")


@rule("fuse-bn-gemm", P.Gemm(BN, const("w"), maybe("b")).as_("gemm"), P.MatMul(BN, const("w")).as_("gemm"), opset=">=7")
def fuse_bn_gemm(m: Match, new: Builder) -> Outcome:
    reason = _gemm.why_not(m.w)
    if reason:
        return refuse(reason)
    if m.gemm.op == "MatMul":
        if m.x.rank != 2:
            return refuse("the first operand is not proven to be a matrix")
        if not gemm_has(m.w.dtype, new.graph.opset()):
            return refuse("Gemm does not have this dtype in this opset")
    elif m.gemm.attr("transA"):
        return refuse("the first operand is transposed: its channels are columns")
    affine = of_batch_norm(m.bn, _gemm.rows(m.gemm, m.w))
    return affine if isinstance(affine, Refusal) else _gemm.before(m, new, affine)
