"""(s x + t) W   ==   x (s W) + t W

Two operators with constants in front of a MatMul, in any rank, as one behind it: a BatchNormalization written out
there, say. (One alone is fuse-affine-matmul's: a shift would only move.) Exact in real arithmetic; computed in float64
and rounded once to W's dtype.

Guards: W a constant matrix with at most twice as many columns as rows; s and t one number, or one per row of W, and
both leave the shape of x as it is; s t at most 1e4 (float32: it would cancel digits); the constants are no part of a
written-out activation or normalization (see fusion/_keep.py); new constants finite; the values between read by nothing
else.
"""

from __future__ import annotations

import numpy as np

from graphopt.ir import Value
from graphopt.passes.fusion import _gemm
from graphopt.passes.fusion._affine import Affine, cancels, keeps_shape, of_constant, rounded, scaled
from graphopt.passes.fusion._keep import reason_to_stay
from graphopt.rewrite import Builder, Match, P, Refusal, const, one_of, refuse, rule
from graphopt.rewrite.rule import Outcome

SCALED = P.op("Mul", "Div")("x", const("a")).as_("first")
SHIFTED = one_of(P.op("Add", "Sub")("x", const("a")).as_("first"), P.Sub(const("a"), "x").as_("first"))
MAP = one_of(
    P.op("Add", "Sub")(SCALED, const("c")).as_("second"),
    P.Sub(const("c"), SCALED).as_("second"),
    P.op("Mul", "Div")(SHIFTED, const("c")).as_("second"),
)


@rule("collapse-affine-before-matmul", P.MatMul(MAP, const("w")), opset=">=7")
def collapse_affine_before_matmul(m: Match, new: Builder) -> Outcome:
    reason = _gemm.why_not(m.w) or reason_to_stay(m.first, m.x, m.a) or reason_to_stay(m.second, m.first.output, m.c)
    if reason:
        return refuse(reason)
    rows, columns = m.w.numpy().shape
    if m.x.rank is None or m.x.rank < 1:
        return refuse("the rank of the operand is not known")
    if columns > 2 * rows:
        return refuse("adding to so many columns costs more than the operators in front")
    scale, shift = np.asarray(1.0), np.asarray(0.0)
    for node, constant, x in ((m.first, m.a, m.x), (m.second, m.c, m.first.output)):
        affine = of_constant(node, constant, -1, rows, m.x.rank)
        if isinstance(affine, Refusal):
            return affine
        if not keeps_shape(constant, x, -1, rows):
            return refuse("the constant is not proven to leave the shape of the other operand as it is")
        with np.errstate(all="ignore"):
            if affine.scale is not None:
                scale, shift = scale * affine.scale, shift * affine.scale
            if affine.shift is not None:
                shift = shift + affine.shift
    if cancels(shift, m.w):
        return refuse("the shift is so large that behind the products it would cancel their digits")
    return _product(m, new, Affine(scale, shift))


def _product(m: Match, new: Builder, affine: Affine) -> Outcome:
    assert affine.scale is not None
    assert affine.shift is not None
    data = scaled(m.w, affine.scale if affine.scale.ndim == 0 else affine.scale[:, None])
    if isinstance(data, Refusal):
        return data
    bias = rounded(_gemm.moved(affine.shift, m.w.numpy()), m.w)
    if isinstance(bias, Refusal):
        return bias
    product: Value = new.MatMul(m.x, new.constant(data, m.w.name), like=m.root, type_of=m.root.output)
    made: Value = new.Add(product, new.constant(bias, f"{m.root.label}_bias"), name=m.second.label)
    return made
