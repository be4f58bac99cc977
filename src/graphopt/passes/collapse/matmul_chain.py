"""(x V) W   ==   x (V W),   (x V + a) W   ==   x (V W) + a W,
gemm(gemm(x, V, a), W, b)   ==   gemm(x, V W, a W + b),   and where one of the two is a MatMul.

Exact in real arithmetic; computed in float64 and rounded once to W's dtype.

Guards: x never infinite (or `fast_math=True`); V and W constant matrices, a and b constant, one number for each
column, and finite; Gemm with alpha and beta 1; at least a tenth fewer multiplications, so that no bottleneck is
opened; weights read by nothing else; what is between read by nothing else.
"""

from __future__ import annotations

import numpy as np

from graphopt.ir import NDArray, Node, Value
from graphopt.passes.collapse import _linear
from graphopt.passes.collapse._bounded import objection
from graphopt.passes.fusion._affine import along, rounded
from graphopt.rewrite import Builder, Match, P, Refusal, const, maybe, one_of, refuse, rule
from graphopt.rewrite.rule import Outcome

PRODUCT = P.MatMul("x", const("v")).as_("inner")
SUM = P.Add(PRODUCT, const("a")).as_("add")
GEMM = P.Gemm("x", const("v"), maybe(const("a"))).as_("inner")


@rule(
    "collapse-matmul-chain",
    P.MatMul(one_of(SUM, PRODUCT, GEMM), const("w")).as_("outer"),
    P.Gemm(one_of(GEMM, SUM, PRODUCT), const("w"), maybe(const("b"))).as_("outer"),
    opset=">=7",
    measure="flops",
)
def collapse_matmul_chain(m: Match, new: Builder) -> Outcome:
    reason = _linear.why_not(m.v, m.w) or objection(m.x)
    if reason:
        return refuse(reason)
    first, second = _matrix(m.inner, m.v), _matrix(m.outer, m.w)
    if m.outer.attr("transA", 0):
        return refuse("the inner product is transposed")
    if first is None or second is None or first.shape[1] != second.shape[0] or not first.size or not second.size:
        return refuse("the weights are no matrices, or do not fit each other, or are scaled")
    if first.shape[0] * second.shape[1] > _linear.LESS * (first.size + second.size):
        return refuse("one product would multiply more than the two do, or hardly less")
    if m.get("add") is not None and m.a.numpy().ndim > max(1, m.inner.output.rank or 1):
        return refuse("what is added between may have more dims than the product")
    shift = _shift(m, second)
    if isinstance(shift, Refusal):
        return shift
    data = _linear.product(first, second, m.w)
    if isinstance(data, Refusal):
        return data
    weight = new.constant(data, m.w.name)
    bias = None if shift is None else new.constant(shift, f"{m.outer.label}_bias")
    if m.outer.op == m.inner.op == "MatMul":
        made = new.MatMul(m.x, weight, like=m.outer, type_of=m.root.output)
        return made if bias is None else new.Add(made, bias, like=m.add, type_of=m.root.output)
    if bias is None and new.graph.opset() < 11:  # Gemm had no optional C
        bias = new.constant(np.zeros(1), f"{m.outer.label}_bias", like=m.w)
    return new.Gemm(m.x, weight, bias, like=m.inner, transB=None, beta=None, type_of=m.root.output)


def _matrix(node: Node, weight: Value) -> NDArray | None:
    """What a node multiplies by; None where that is no matrix, or Gemm does more."""
    array = weight.numpy()
    if array.ndim != 2:
        return None
    if node.op == "MatMul":
        return array
    plain = node.attr("alpha", 1.0) == 1 and (node.input(2) is None or node.attr("beta", 1.0) == 1)
    return None if not plain else array.T if node.attr("transB", 0) else array


def _shift(m: Match, second: NDArray) -> NDArray | Refusal | None:
    """What is added to the product, in the dtype of the weights."""
    parts = []
    a, b = m.get("a"), m.get("b")
    if a is not None:
        values = along(a.numpy(), -1, second.shape[0], 2)
        if values is None or not np.isfinite(values).all():
            return refuse("what is added between is not one number for each column, or not finite")
        parts.append(np.broadcast_to(values, second.shape[:1]) @ second.astype(np.float64))
    if b is not None:
        values = along(b.numpy(), -1, second.shape[1], 2)
        if values is None or not np.isfinite(values).all():
            return refuse("what is added is not one number for each column, or not finite")
        parts.append(np.broadcast_to(values, second.shape[1:]))
    return rounded(np.sum(parts, axis=0), m.w) if parts else None
