"""s f(x W + b) + t   ==   f(x (s W) + (s b + t)),   s f(x W)   ==   f(x (s W)),   for MatMul and Gemm, where f is one
to three operators that let the map through.

f, and what it asks of the map: as for collapse-affine-back; the channels are the columns of W. The map is one Mul, Div,
Add or Sub with a constant. Exact in real arithmetic; computed in float64 and rounded once to W's dtype.

Guards: those of fuse-gemm-affine and fuse-matmul-affine; behind a MatMul a shift needs an Add to go into; b one number,
or one per column; a factor that is read by a MatMul stays, as the runtime takes it into that product (and finds
attention by it); every value between read by nothing else.
"""

from __future__ import annotations

import numpy as np

from graphopt.ir import Value
from graphopt.passes.collapse import _chain
from graphopt.passes.fusion import _gemm
from graphopt.passes.fusion._affine import FLOATS, Affine, along, keeps_shape, of_constant, rounded, scaled
from graphopt.passes.fusion._keep import reason_to_stay, starts_hard_sigmoid
from graphopt.rewrite import Builder, Match, P, Refusal, const, maybe, one_of, refuse, rule
from graphopt.rewrite.rule import Outcome

MATMUL = P.MatMul("x", const("w")).as_("product")
GEMM = P.Gemm("x", const("w"), maybe("b")).as_("product")
CHAIN = _chain.over(one_of(P.Add(MATMUL, const("b")).as_("add"), MATMUL, GEMM))


@rule(
    "collapse-affine-back-product",
    P.op("Add", "Sub", "Mul", "Div")(CHAIN, const("c")),
    P.Sub(const("c"), CHAIN),
    opset=">=7",
)
def collapse_affine_back_product(m: Match, new: Builder) -> Outcome:
    is_gemm = m.product.op == "Gemm"
    if m.w.dtype not in FLOATS or m.w.numpy().ndim < 2 or (is_gemm and m.w.numpy().ndim != 2):
        return refuse("the weights are no matrix of floating-point numbers")
    chain = _chain.nodes_of(m)
    start: Value | None = chain[0].inputs[0]
    if start is None or start.rank is None or start.rank < 2 or m.product.output.rank != start.rank:
        return refuse("the rank of the product is not known")
    columns = _gemm.columns(m.product, m.w) if is_gemm else m.w.numpy().shape[-1]
    axis = start.rank - 1
    affine = _map(m, chain[-1].output, _chain.behind(chain, axis), columns)
    if isinstance(affine, Refusal):
        return affine
    reason = _chain.why_not(chain, affine, None if _chain.is_single(affine) else axis)
    if reason:
        return refuse(reason)
    if is_gemm:
        site = Match(m.root, {"gemm": m.product, "x": m.x, "w": m.w, "b": m.b}, m.nodes)
        folded = _gemm.after(site, new, affine)
    else:
        folded = _matmul(m, new, affine, columns)
    if folded is None or isinstance(folded, (Refusal, tuple)):
        return folded
    folded.set_type(start.type)
    return _chain.rebuilt(chain, folded, new, affine)


def _map(m: Match, x: Value, axis: int | None, columns: int) -> Affine | Refusal:
    """The map at the root, x being its operand; axis: where the columns are there, or None."""
    if x.rank is None:
        return refuse("the rank of the operand is not known")
    if starts_hard_sigmoid(m.root):
        return refuse("the constant is part of a HardSigmoid written out, which is worth more when recognised as one")
    if m.root.op in ("Mul", "Div") and any(reader.op == "MatMul" for reader in m.root.output.users):
        return refuse("the runtime takes the factor into the product of matrices that reads it")
    reason = reason_to_stay(m.root, x, m.c)
    if reason:
        return refuse(reason)
    place = -1 if axis is None else axis - x.rank
    affine = of_constant(m.root, m.c, place, 1 if axis is None else columns, x.rank)
    if not isinstance(affine, Refusal) and not keeps_shape(m.c, x, place, columns):
        return refuse("the constant is not proven to leave the shape of the other operand as it is")
    return affine


def _matmul(m: Match, new: Builder, affine: Affine, columns: int) -> Outcome:
    """affine(x w + b), or affine(x w)."""
    b: Value | None = m.get("b")
    if affine.shift is not None and b is None:
        return refuse("nothing is added to the product: the shift would only move")
    weight = m.w
    if affine.scale is not None:
        data = scaled(m.w, affine.scale, affine.worth)
        if isinstance(data, Refusal):
            return data
        weight = new.constant(data, m.w.name)
    product: Value = new.MatMul(m.x, weight, like=m.product, type_of=m.product.output)
    if b is None:
        return product
    values = along(b.numpy(), -1, columns, m.product.output.rank)
    if values is None:
        return refuse("what is added to the product is not one number for each column")
    with np.errstate(all="ignore"):
        if affine.scale is not None:
            values = values * affine.scale
        if affine.shift is not None:
            values = values + affine.shift
    bias = rounded(values, b)
    if isinstance(bias, Refusal):
        return bias
    made: Value = new.Add(product, new.constant(bias, b.name), name=m.add.label)
    return made
