"""bn(x W; g, t, m, v)   ==   gemm(x, W k, t - k m),   k = g / sqrt(v + eps), along W's columns.

Exact in real arithmetic; computed in float64 and rounded once to W's dtype. Guards: x proven to be a matrix (with more
dims the channels of BatchNormalization are not the columns of W); a dtype that Gemm has; W and the statistics constant;
BatchNormalization in inference, with one output; new weights finite; the product read by nothing else.
"""

from __future__ import annotations

from graphopt.passes.fusion import _gemm
from graphopt.passes.fusion._affine import of_batch_norm, rounded, scaled
from graphopt.passes.fusion.matmul_add_gemm import gemm_has
from graphopt.rewrite import Builder, Match, P, Refusal, const, refuse, rule
from graphopt.rewrite.rule import Outcome

BN = P.BatchNormalization(
    P.MatMul("x", const("w")).as_("matmul"), const("g"), const("t"), const("mu"), const("var")
).as_("bn")


@rule("fuse-matmul-bn", BN, opset=">=7")
def fuse_matmul_bn(m: Match, new: Builder) -> Outcome:
    if m.x.rank != 2:
        return refuse("the first operand is not proven to be a matrix")
    reason = _gemm.why_not(m.w)
    if reason:
        return refuse(reason)
    if not gemm_has(m.w.dtype, new.graph.opset()):
        return refuse("Gemm does not have this dtype in this opset")
    affine = of_batch_norm(m.bn, m.w.numpy().shape[1])
    if isinstance(affine, Refusal):
        return affine
    assert affine.scale is not None
    assert affine.shift is not None
    weight, bias = scaled(m.w, affine.scale[None, :], affine.worth), rounded(affine.shift, m.w)
    if isinstance(weight, Refusal):
        return weight
    if isinstance(bias, Refusal):
        return bias
    name = m.matmul.label
    return new.Gemm(m.x, new.constant(weight, m.w.name), new.constant(bias, f"{name}_bias"), name=name)
