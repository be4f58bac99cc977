"""s norm(x; g, b) + t   ==   norm(x; s g, s b + t)

norm: BatchNormalization and LayerNormalization, and for scales InstanceNormalization, GroupNormalization and
RMSNormalization (a shift: the runtime computes x k + (b - k mean), where b is rounded with the size of k mean); the map
is one Mul, Div, Add or Sub with a constant, or a BatchNormalization behind another one. One operator less; exact in
real arithmetic, computed in float64 and rounded once.

Guards: g and b constant; the map has one number, or one for each channel (LayerNormalization, RMSNormalization: for
each normalized element, whose number is known) and leaves the shape as it is; it is no part of a written-out
HardSigmoid; BatchNormalization in inference; new constants finite; g not so small (1e-15) that the product with it
may underflow, from where s would bring nothing back; the normalized value read by nothing else.

A map behind a normalization is not folded into the product that reads it: kernels multiply by g anyway, and b would
only move (LayerNormalization, MatMul 128 x 384 x 384 in ORT 1.31: 1.00).
"""

from __future__ import annotations

import numpy as np

from graphopt.ir import NDArray, Value
from graphopt.passes.collapse import _norm
from graphopt.passes.fusion._affine import Affine, keeps_shape, of_batch_norm, of_constant
from graphopt.passes.fusion._keep import starts_hard_sigmoid
from graphopt.passes.simplify._facts import fits_into, static
from graphopt.rewrite import Builder, Match, P, Refusal, const, refuse, rule
from graphopt.rewrite.rule import Outcome

NORM = _norm.over("x")
TINY = 1e-15
_SHIFTED = frozenset({"BatchNormalization", "LayerNormalization"})


@rule(
    "collapse-norm-affine",
    P.op("Add", "Sub", "Mul", "Div")(NORM, const("c")),
    P.Sub(const("c"), NORM),
    P.BatchNormalization(NORM, const("g2"), const("b2"), const("mu2"), const("var2")).as_("second"),
    opset=">=7",
)
def collapse_norm_affine(m: Match, new: Builder) -> Outcome:
    affine = _map(m)
    if isinstance(affine, Refusal):
        return affine
    if affine.shift is not None and m.norm.op not in _SHIFTED:
        return refuse("RMSNormalization has no bias, and what kernels of the others make of one rounds at other places")
    if m.norm.op == "BatchNormalization":
        statistics = of_batch_norm(m.norm, m.g.numpy().size)
        if isinstance(statistics, Refusal):
            return statistics
    b = m.get("b")
    if b is not None and b.numpy().shape != m.g.numpy().shape:
        return refuse("scale and bias of the normalization do not fit each other")
    scale = m.g.numpy().astype(np.float64)
    if scale.any() and np.abs(scale[scale != 0]).min() < TINY:
        return refuse("the normalization's scale is so small that what it makes may vanish, and would not do so here")
    shift = None if b is None else b.numpy().astype(np.float64)
    with np.errstate(all="ignore"):
        if affine.scale is not None:
            scale, shift = scale * affine.scale, None if shift is None else shift * affine.scale
        if affine.shift is not None:
            shift = np.broadcast_to(affine.shift if shift is None else shift + affine.shift, scale.shape)
    made = _norm.constants(m.norm, new, scale, shift)
    if isinstance(made, Refusal):
        return made
    return new.make(m.norm.op, m.x, *made, *m.norm.inputs[3:], like=m.norm, type_of=m.root.output)


def _map(m: Match) -> Affine | Refusal:
    """The map, its numbers in the shape of the normalization's scale, or one number."""
    rank, channels = m.x.rank, m.g.numpy().size
    if m.get("second") is not None:
        if m.norm.op in _norm.ALONG_CHANNELS and m.g.numpy().ndim == 1:
            return of_batch_norm(m.second, channels)
        return refuse("the channels of BatchNormalization are not those that are normalized")
    if rank is None or m.c.dtype != m.g.dtype:
        return refuse("the rank of what is normalized is not known, or the types differ")
    if starts_hard_sigmoid(m.root):
        return refuse("the constant is part of a HardSigmoid written out, which is worth more when recognised as one")
    if m.norm.op not in _norm.ALONG_CHANNELS:
        values = _elements(m, rank)
        return (
            refuse("the constant is not one number for each normalized element") if values is None else _of(m, values)
        )
    affine = of_constant(m.root, m.c, 1 - rank, channels, rank)
    if not isinstance(affine, Refusal) and (m.g.numpy().ndim != 1 or not keeps_shape(m.c, m.x, 1 - rank, channels)):
        return refuse("the constant is not proven to leave the shape of the other operand as it is")
    return affine


def _elements(m: Match, rank: int) -> NDArray | None:
    """The constant in the shape of the normalized axes; None where it has another, or varies along others."""
    dims = static(None if m.x.shape is None else m.x.shape[int(m.norm.attr("axis")) % max(1, rank) :])
    array: NDArray = m.c.numpy().astype(np.float64)
    if dims is None or m.g.numpy().shape != dims or array.ndim > rank or not fits_into(m.c, m.x):
        return None
    if array.size == 1:
        return array.reshape(())
    fits = array.shape[-len(dims) :] == dims and array.size == m.g.numpy().size
    return array.reshape(dims) if fits else None


def _of(m: Match, values: NDArray) -> Affine | Refusal:
    constant: Value = m.c
    if not np.isfinite(values).all():
        return refuse("the constant is not finite")
    if m.root.op == "Add":
        return Affine(shift=values)
    if m.root.op == "Sub":
        return Affine(np.asarray(-1.0), values) if m.root.inputs[0] is constant else Affine(shift=-values)
    with np.errstate(all="ignore"):
        scale = values if m.root.op == "Mul" else 1.0 / values
    return Affine(scale) if np.isfinite(scale).all() else refuse("the constant divisor is zero in some element")
