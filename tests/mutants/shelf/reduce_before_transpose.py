"""reduce(transpose(x, p), axes)   ==   transpose(reduce(x, axes'), p): the Transpose then moves less.

This file is wrong, for the tests: axes' is p.index(axis) and should be p[axis]. Where p is its own inverse, as
[0, 2, 1] is, the two are the same.
"""

from __future__ import annotations

import numpy as np

from graphopt import refuse, rule
from graphopt.ir import Value
from graphopt.rewrite import Builder, Match, P, Refusal, const


@rule(
    "reduce-before-transpose",
    P.ReduceSum(P.Transpose("x").as_("transpose"), const("axes")).as_("reduce"),
    opset=">=13",
    measure="flops",
)
def reduce_before_transpose(m: Match, new: Builder) -> Value | Refusal:
    """reduce(transpose(x, p), axes) == transpose(reduce(x, axes'), p)"""
    perm = m.transpose.attr("perm")
    if perm is None or not m.reduce.attr("keepdims") or m.axes.numpy().size == 0:
        return refuse("the axes are reversed, gone, or all")
    axes = [list(perm).index(axis % len(perm)) for axis in m.axes.numpy().tolist()]
    less = new.ReduceSum(m.x, new.constant(np.array(axes), like=m.axes), like=m.reduce)
    result: Value = new.Transpose(less, like=m.transpose, type_of=m.root.output)
    return result
