"""(s x) W   ==   x (s W),   and   (x + t) W + b   ==   x W + (b + t W),   s and t along W's rows.

Fires on one Mul or Div by a constant, and on one Add or Sub of a constant (`x - t`) where a constant is added to the
product anyway: elsewhere the shift would only move. x may have any rank. Exact in real arithmetic; computed in
float64 and rounded once to W's dtype. Guards: as for fuse-affine-gemm; W is a matrix where a shift is folded.
"""

from __future__ import annotations

import numpy as np

from graphopt.passes.fusion import _gemm
from graphopt.passes.fusion._affine import FLOATS, Affine, cancels, keeps_shape, of_constant, rounded, scaled
from graphopt.passes.fusion._keep import reason_to_stay
from graphopt.rewrite import Builder, Match, P, Refusal, const, refuse, rule
from graphopt.rewrite.rule import Outcome

SCALED = P.MatMul(P.op("Mul", "Div")("x", const("c")).as_("op"), const("w")).as_("matmul")
SHIFTED = P.MatMul(P.op("Add", "Sub")("x", const("c")).as_("op"), const("w")).as_("matmul")


@rule("fuse-affine-matmul", SCALED, P.Add(SHIFTED, const("b")), opset=">=7")
def fuse_affine_matmul(m: Match, new: Builder) -> Outcome:
    if m.w.dtype not in FLOATS:
        return refuse("the weights are not floating-point numbers")
    shape = m.w.numpy().shape
    if len(shape) < 2:
        return refuse("the weights are no matrix")
    reason = reason_to_stay(m.op, m.x, m.c)
    if reason:
        return refuse(reason)
    affine = of_constant(m.op, m.c, -1, shape[-2], m.x.rank)
    if isinstance(affine, Refusal):
        return affine
    if not keeps_shape(m.c, m.x, -1, shape[-2]) or (m.c.rank and not m.x.rank):  # [1] makes a vector of a scalar
        return refuse("the constant is not proven to leave the shape of the other operand as it is")
    if affine.scale is None:
        return _shift(m, new, affine)
    data = scaled(m.w, affine.scale if affine.scale.ndim == 0 else affine.scale[:, None])
    if isinstance(data, Refusal):
        return data
    return new.MatMul(m.x, new.constant(data, m.w.name), like=m.matmul)


def _shift(m: Match, new: Builder, affine: Affine) -> Outcome:
    assert affine.shift is not None
    if m.w.numpy().ndim != 2:
        return refuse("the weights are no matrix")
    if cancels(affine.shift, m.w):
        return refuse("the shift is so large that behind the products it would cancel their digits")
    bias = rounded(m.b.numpy().astype(np.float64) + _gemm.moved(affine.shift, m.w.numpy()), m.b)
    if isinstance(bias, Refusal):
        return bias
    product = new.MatMul(m.x, m.w, like=m.matmul, type_of=m.matmul.output)
    return new.Add(product, new.constant(bias, m.b.name), like=m.root)
