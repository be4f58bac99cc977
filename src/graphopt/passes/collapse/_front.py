"""The map in front of a Conv or product: an operator with a constant, or a BatchNormalization."""

from __future__ import annotations

from graphopt.passes.fusion._affine import Affine, keeps_shape, of_batch_norm, of_constant
from graphopt.passes.fusion._keep import reason_to_stay
from graphopt.rewrite import Match, Refusal, refuse


def map_of(m: Match, rank: int, channels: int) -> Affine | Refusal:
    """What `op` does to x, along x's channels. m binds op, x, and c where it is an operator with a constant."""
    constant = m.get("c")
    if constant is None:
        return of_batch_norm(m.op, channels)
    reason = reason_to_stay(m.op, m.x, constant)
    if reason:
        return refuse(reason)
    affine = of_constant(m.op, constant, 1 - rank, channels, rank)
    if not isinstance(affine, Refusal) and not keeps_shape(constant, m.x, 1 - rank, channels):
        return refuse("the constant is not proven to leave the shape of the other operand as it is")
    return affine
