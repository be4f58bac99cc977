"""conv(f(s x + t), W, b)   ==   conv(f(x), s W, b + sum(W t)),   gemm(f(s x + t), B, C) likewise,   and
f(s x) W   ==   f(x) (s W),   where f is one to three operators that let the map through.

f, and what it asks of the map: as for collapse-affine-back. The map is one Mul, Div, Add or Sub with a constant or a
BatchNormalization; chains fold one at a time. Exact in real arithmetic; computed in float64 and rounded once to W's
dtype. Guards: those of fuse-affine-conv, fuse-affine-gemm, fuse-affine-matmul and fuse-bn-conv (no shift in front of a
padded Conv); every value between read by nothing else.
"""

from __future__ import annotations

from graphopt.ir import Node, Value
from graphopt.passes.collapse import _chain
from graphopt.passes.fusion import _conv, _gemm
from graphopt.passes.fusion._affine import Affine, keeps_shape, of_batch_norm, of_constant, scaled
from graphopt.passes.fusion._keep import reason_to_stay
from graphopt.passes.fusion.affine_conv import ANY
from graphopt.rewrite import Builder, Match, P, Refusal, const, maybe, one_of, refuse, rule
from graphopt.rewrite.rule import Outcome

BN = P.BatchNormalization("x", const("g"), const("t"), const("mu"), const("var")).as_("op")
CHAIN = _chain.over(one_of(ANY, BN))


@rule(
    "collapse-affine-forward",
    P.op("Conv", "ConvTranspose")(CHAIN, const("w"), maybe("b")).as_("conv"),
    P.Gemm(CHAIN, const("w"), maybe("b")).as_("gemm"),
    P.MatMul(CHAIN, const("w")).as_("matmul"),
    opset=">=7",
)
def collapse_affine_forward(m: Match, new: Builder) -> Outcome:
    reason = _conv.why_not(m.root, m.w) if m.get("conv") else _gemm.why_not(m.w)
    if reason:
        return refuse(reason)
    chain = _chain.nodes_of(m)
    last, channels = _channels(m, chain[-1].output.rank)
    axis = _chain.before(chain, last)
    affine = _map(m.op, m.x, m.get("c"), axis, channels)
    if isinstance(affine, Refusal):
        return affine
    reason = _chain.why_not(chain, affine, None if _chain.is_single(affine) else axis, back=False)
    if reason:
        return refuse(reason)
    moved = _chain.rebuilt(chain, m.x, new, affine, back=False)
    if m.get("matmul"):
        return _matmul(m, new, moved, affine)
    site = Match(m.root, {"conv": m.get("conv"), "gemm": m.get("gemm"), "x": moved, "w": m.w, "b": m.b}, m.nodes)
    return _gemm.before(site, new, affine) if m.get("gemm") else _conv.before(site, new, affine)


def _channels(m: Match, rank: int | None) -> tuple[int | None, int]:
    """The axis of the channels in the last operator's operand, which has this rank, and how many the weights have."""
    if m.get("gemm"):
        return (0 if m.gemm.attr("transA") else 1), _gemm.rows(m.gemm, m.w)
    if m.get("matmul"):
        return (rank - 1 if rank else None), m.w.numpy().shape[0]
    return 1, _conv.channels_in(m.conv, m.w)


def _matmul(m: Match, new: Builder, x: Value, affine: Affine) -> Outcome:
    if affine.shift is not None and (affine.shift != 0).any():
        return refuse("a product has no bias that would take the shift")
    if affine.scale is None:
        return None
    data = scaled(m.w, affine.scale if affine.scale.ndim == 0 else affine.scale[:, None], affine.worth)
    return data if isinstance(data, Refusal) else new.MatMul(x, new.constant(data, m.w.name), like=m.matmul)


def _map(op: Node, x: Value, constant: Value | None, axis: int | None, channels: int) -> Affine | Refusal:
    """The map at the beginning; axis: where the channels are there, or None."""
    rank = x.rank
    if rank is None:
        return refuse("the rank of the operand is not known")
    if constant is None:
        return of_batch_norm(op, channels) if axis == 1 else refuse("the channels are not followed to their axis")
    reason = reason_to_stay(op, x, constant)
    if reason:
        return refuse(reason)
    place = -1 if axis is None else axis - rank
    affine = of_constant(op, constant, place, 1 if axis is None else channels, rank)
    if isinstance(affine, Refusal):
        return affine
    if not keeps_shape(constant, x, place, channels):
        return refuse("the constant is not proven to leave the shape of the other operand as it is")
    return affine
