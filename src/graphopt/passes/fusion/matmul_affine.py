"""s * (x W)   ==   x (s W),   and   s * (x W + b)   ==   x (s W) + s b,   s along W's last axis.

Fires on one Mul or Div by a constant. x may have any rank. Exact in real arithmetic; computed in float64 and rounded
once to W's dtype. Guards: W and b constant; s is one number, or one per column; s has no more dims than the product
is proven to have; new weights finite; product and sum read by nothing else.
"""

from __future__ import annotations

import numpy as np

from graphopt.passes.fusion._affine import FLOATS, of_constant, rounded, scaled
from graphopt.rewrite import Builder, Match, P, Refusal, const, one_of, refuse, rule
from graphopt.rewrite.rule import Outcome

MATMUL = P.MatMul("x", const("w")).as_("matmul")
INNER = one_of(MATMUL, P.Add(MATMUL, const("b")).as_("add"))


@rule("fuse-matmul-affine", P.op("Mul", "Div")(INNER, const("c")), opset=">=7")
def fuse_matmul_affine(m: Match, new: Builder) -> Outcome:
    if m.w.dtype not in FLOATS:
        return refuse("the weights are not floating-point numbers")
    shape = m.w.numpy().shape
    if len(shape) < 2:
        return refuse("the weights are no matrix")
    affine = of_constant(m.root, m.c, -1, shape[-1], m.matmul.output.rank)
    if isinstance(affine, Refusal):
        return affine
    assert affine.scale is not None
    weight = scaled(m.w, affine.scale)
    if isinstance(weight, Refusal):
        return weight
    b = m.get("b")
    if b is None:
        return new.MatMul(m.x, new.constant(weight, m.w.name), like=m.matmul)
    factor = m.c.numpy().astype(np.float64)
    bias = rounded(b.numpy().astype(np.float64) * (factor if m.root.op == "Mul" else 1.0 / factor), b)
    if isinstance(bias, Refusal):
        return bias
    product = new.MatMul(m.x, new.constant(weight, m.w.name), like=m.matmul, type_of=m.matmul.output)
    return new.Add(product, new.constant(bias, b.name), like=m.add)
