"""batch_norm(s x + t; g, b, m, v)   ==   batch_norm(x; s g, b + k (t - m), 0, v),   k = g / sqrt(v + e)

The map is one Mul, Div, Add or Sub with a constant. One operator less; exact in real arithmetic, computed in float64
and rounded once. Normalizations that take the mean of their operand would lose a shift, too; but how they round it
hangs on the kernel, so that only BatchNormalization is here.

Guards: BatchNormalization in inference, its further operands constant; s and t one number or one per channel, t at most
1e4 (float32: it would cancel digits); the constant leaves the shape of x as it is, and is no part of a written-out
activation or normalization (see fusion/_keep.py); new constants finite; the value between read by nothing else.
"""

from __future__ import annotations

import numpy as np

from graphopt.passes.collapse import _norm
from graphopt.passes.fusion._affine import cancels, keeps_shape, of_batch_norm, of_constant
from graphopt.passes.fusion._keep import reason_to_stay
from graphopt.passes.fusion.affine_conv import ANY
from graphopt.rewrite import Builder, Match, P, Refusal, const, refuse, rule
from graphopt.rewrite.rule import Outcome


@rule(
    "collapse-affine-before-norm",
    P.BatchNormalization(ANY, const("g"), const("b"), const("mu"), const("var")).as_("norm"),
    opset=">=7",
)
def collapse_affine_before_norm(m: Match, new: Builder) -> Outcome:
    reason = reason_to_stay(m.op, m.x, m.c)
    if reason:
        return refuse(reason)
    rank, channels = m.x.rank, m.g.numpy().size
    if rank is None or rank < 2 or m.c.dtype != m.g.dtype:
        return refuse("the rank of what is normalized is not known, or the types differ")
    affine = of_constant(m.op, m.c, 1 - rank, channels, rank)
    if isinstance(affine, Refusal):
        return affine
    if not keeps_shape(m.c, m.x, 1 - rank, channels):
        return refuse("the constant is not proven to leave the shape of the other operand as it is")
    found = of_batch_norm(m.norm, channels)
    if isinstance(found, Refusal):
        return found
    if affine.shift is not None and cancels(affine.shift, m.c):
        return refuse("the shift is so large that behind the product it would cancel digits")
    assert found.scale is not None
    assert found.shift is not None
    scale, shift = m.g.numpy().astype(np.float64), found.shift
    with np.errstate(all="ignore"):
        if affine.shift is not None:
            shift = shift + found.scale * affine.shift
        if affine.scale is not None:
            scale = scale * affine.scale
    made = _norm.constants(m.norm, new, scale, shift)
    if isinstance(made, Refusal):
        return made
    mean = new.constant(np.zeros(channels), like=m.mu)
    return new.BatchNormalization(m.x, *made, mean, m.var, like=m.norm, type_of=m.root.output)
