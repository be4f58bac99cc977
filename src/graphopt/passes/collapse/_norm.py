"""Normalizations with a constant scale and bias: their pattern, and new constants for them."""

from __future__ import annotations

from graphopt.ir import NDArray, Node, Value
from graphopt.passes.fusion._affine import rounded
from graphopt.rewrite import Builder, P, Refusal, const, maybe, one_of
from graphopt.rewrite.pattern import Pattern

ALONG_CHANNELS = frozenset({"BatchNormalization", "GroupNormalization", "InstanceNormalization"})


def over(x: Pattern | str) -> Pattern:
    """The pattern: binds `norm`, `g`, and `b`, `mu` and `var` where there are any."""
    return one_of(
        P.BatchNormalization(x, const("g"), const("b"), const("mu"), const("var")).as_("norm"),
        P.op("InstanceNormalization", "GroupNormalization")(x, const("g"), const("b")).as_("norm"),
        P.LayerNormalization(x, const("g"), maybe(const("b"))).as_("norm"),
        P.RMSNormalization(x, const("g")).as_("norm"),
    )


def constants(norm: Node, new: Builder, scale: NDArray, shift: NDArray | None) -> list[Value | None] | Refusal:
    """Scale and bias in the types and names of the old ones, rounded once."""
    made: list[Value | None] = []
    for values, old in ((scale, norm.inputs[1]), (shift, norm.input(2) or norm.inputs[1])):
        if values is None or old is None:
            made.append(None)
            continue
        data = rounded(values, old)
        if isinstance(data, Refusal):
            return data
        made.append(new.constant(data, old.name))
    return made
