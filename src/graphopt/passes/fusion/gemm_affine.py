"""s * (alpha A B + beta C) + t   ==   alpha A (s B) + (s beta C + t),   s along the columns.

Fires on one Mul, Div, Add or Sub with a constant (on either side, but `constant / gemm` is no affine map). Exact in
real arithmetic; computed in float64 and rounded once to B's dtype; t alone becomes C as it is where there is no C.
Guards: B constant where s is not 1, C constant; s is one number, or one per column; t broadcasts to the product's
proven shape; new weights finite; the constant is no part of a written-out HardSigmoid; the product read by nothing
else.
"""

from __future__ import annotations

import numpy as np

from graphopt.passes.fusion import _gemm
from graphopt.passes.fusion._affine import FLOATS, Affine, of_constant
from graphopt.passes.fusion._keep import starts_hard_sigmoid
from graphopt.passes.fusion.matmul_add_gemm import fits_into
from graphopt.rewrite import Builder, Match, P, Refusal, const, maybe, refuse, rule
from graphopt.rewrite.rule import Outcome

GEMM = P.Gemm("x", "w", maybe("b")).as_("gemm")
AFTER = (P.op("Add", "Sub", "Mul", "Div")(GEMM, const("c")), P.Sub(const("c"), GEMM))


@rule("fuse-gemm-affine", *AFTER, opset=">=7")
def fuse_gemm_affine(m: Match, new: Builder) -> Outcome:
    if m.c.dtype not in FLOATS:
        return refuse("the weights are not floating-point numbers")
    if starts_hard_sigmoid(m.root):
        return refuse("the constant is part of a HardSigmoid written out, which is worth more when recognised as one")
    if m.root.op == "Add" or (m.root.op == "Sub" and m.root.inputs[1] is m.c):
        return _add(m, new)
    if not m.w.is_const:
        return refuse("the weights are computed at run time")
    affine = of_constant(m.root, m.c, -1, _gemm.columns(m.gemm, m.w), 2)
    return affine if isinstance(affine, Refusal) else _gemm.after(m, new, affine)


def _add(m: Match, new: Builder) -> Outcome:
    """Only C changes: the weights may be computed, and the constant may differ from row to row."""
    array, shape = m.c.numpy(), m.gemm.output.shape
    if m.w.is_const:
        wide = m.w.numpy().ndim == 2 and fits_into(array.shape, (None, _gemm.columns(m.gemm, m.w)))
    else:
        wide = False
    if not wide and not (shape is not None and len(shape) == 2 and fits_into(array.shape, shape)):
        return refuse(f"a constant of shape {list(array.shape)} is not proven to leave the product's shape as it is")
    absent = m.b is None or not m.gemm.attr("beta")
    if absent and m.root.op == "Add":
        return new.Gemm(m.x, m.w, m.c, like=m.gemm, beta=None)
    if not m.w.is_const and m.b is None:
        return refuse("the weights are computed at run time")
    values = array.astype(np.float64)
    return _gemm.after(m, new, Affine(shift=values if m.root.op == "Add" else -values))
