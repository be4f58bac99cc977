"""s (x W + a) + t   ==   x (s W) + (s a + t),   also for x W - a, a - x W and t - ...,
and, where x is a matrix, so that it becomes a Gemm,   x W - a   ==   x W + (-a).

A BatchNormalization written out behind a MatMul (Sub, Mul, Mul, Add), one operator at a time. x may have any rank.
Exact in real arithmetic; computed in float64 and rounded once to the dtypes of W and a. (-a is exact.)

Guards: W, a, s and t constant, W with two dims at least; s one number or one per column, of no more dims than the
product; a and t together no larger than the larger of the two; new constants finite; the constant is no part of a
written-out HardSigmoid; the values between read by nothing else.
"""

from __future__ import annotations

import numpy as np

from graphopt.ir import NDArray, Node, Value
from graphopt.passes.fusion._affine import FLOATS, of_constant, rounded, scaled
from graphopt.passes.fusion._keep import starts_hard_sigmoid
from graphopt.rewrite import Builder, Match, P, Refusal, const, one_of, refuse, rule
from graphopt.rewrite.rule import Outcome

PRODUCT = P.MatMul("x", const("w")).as_("matmul")
SUM = one_of(P.op("Add", "Sub")(PRODUCT, const("a")).as_("sum"), P.Sub(const("a"), PRODUCT).as_("sum"))


@rule(
    "collapse-matmul-affine",
    P.op("Add", "Sub", "Mul", "Div")(SUM, const("c")),
    P.Sub(const("c"), SUM),
    P.Sub(PRODUCT, const("a")).as_("sum"),
    opset=">=7",
    measure="order",
)
def collapse_matmul_affine(m: Match, new: Builder) -> Outcome:
    if m.w.dtype not in FLOATS or m.a.dtype not in FLOATS or not m.a.numpy().size:
        return refuse("the weights are not floating-point numbers")
    if m.w.numpy().ndim < 2:
        return refuse("the weights are no matrix")
    if m.root is m.sum:
        return _negated(m, new)
    if starts_hard_sigmoid(m.root):
        return refuse("the constant is part of a HardSigmoid written out, which is worth more when recognised as one")
    sign = -1.0 if m.sum.op == "Sub" and m.sum.inputs[0] is m.a else 1.0
    shift = _signed(m.sum, m.a)
    if m.root.op in ("Add", "Sub"):
        outer = -1.0 if m.root.op == "Sub" and m.root.inputs[0] is m.c else 1.0
        with np.errstate(all="ignore"):
            factor, total = np.asarray(sign * outer), shift * outer + _signed(m.root, m.c)
    else:
        affine = of_constant(m.root, m.c, -1, m.w.numpy().shape[-1], m.matmul.output.rank)
        if isinstance(affine, Refusal):
            return affine
        assert affine.scale is not None
        with np.errstate(all="ignore"):
            factor, total = affine.scale * sign, shift * affine.scale
    if total.size > max(m.a.numpy().size, m.c.numpy().size) or not m.c.numpy().size:
        return refuse("what is added would be larger than both constants")
    bias = rounded(total, m.a)
    if isinstance(bias, Refusal):
        return bias
    weight = m.w
    if (factor != 1).any():
        data = scaled(m.w, factor)
        if isinstance(data, Refusal):
            return data
        weight = new.constant(data, m.w.name)
    product = new.MatMul(m.x, weight, like=m.matmul, type_of=m.matmul.output)
    return new.Add(product, new.constant(bias, m.a.name), name=m.sum.label, type_of=m.root.output)


def _negated(m: Match, new: Builder) -> Outcome:
    """x W - a   ==   x W + (-a), which is not one operator less: worth it only where it becomes a Gemm."""
    if m.x.rank != 2 or m.w.numpy().ndim != 2:
        return refuse("the product is not proven to be a matrix, whose sum with a constant is a Gemm")
    return new.Add(m.matmul.output, new.constant(np.negative(m.a.numpy()), m.a.name), name=m.sum.label)


def _signed(node: Node, constant: Value) -> NDArray:
    """What an Add or Sub adds to its other operand (or what that is taken from), in float64."""
    values: NDArray = constant.numpy().astype(np.float64)
    return -values if node.op == "Sub" and node.inputs[1] is constant else values
