"""y = s x + t read by several convolutions:   conv_i(y, W, b)   ==   conv_i(x, s W, b + sum(W t)),   for each of them.

One Mul, Div, Add or Sub with a constant, or a BatchNormalization, that goes away when all its readers have taken it in:
into all of them, or none. Each use folds it into one reader. Exact in real arithmetic; computed in float64 and rounded
once to W's dtype. Guards: those of fuse-affine-conv and fuse-bn-conv, for every reader: a Conv or ConvTranspose that
reads it as its image and nothing else, with constant weights and bias that are its own; no shift in front of padding;
the value is no output of the graph.
"""

from __future__ import annotations

from graphopt.ir import Node, Value
from graphopt.passes.fusion import _conv
from graphopt.passes.fusion._affine import Affine, keeps_shape, of_batch_norm, of_constant, scaled
from graphopt.passes.fusion._keep import reason_to_stay
from graphopt.rewrite import Builder, Match, P, Refusal, const, maybe, one_of, refuse, rule
from graphopt.rewrite.rule import Outcome

ANY = one_of(
    P.op("Add", "Sub", "Mul", "Div")("x", const("c")).as_("op").shared(),
    P.Sub(const("c"), "x").as_("op").shared(),
    P.BatchNormalization("x", const("g"), const("t"), const("mu"), const("var")).as_("op").shared(),
)


@rule(
    "collapse-affine-shared",
    P.op("Conv", "ConvTranspose")(ANY, const("w"), maybe(const("b"))).as_("conv"),
    opset=">=7",
    measure="flops",
)
def collapse_affine_shared(m: Match, new: Builder) -> Outcome:
    reason = _conv.why_not(m.conv, m.w)
    if reason:
        return refuse(reason)
    rank, channels = m.w.numpy().ndim, _conv.channels_in(m.conv, m.w)
    affine = _map(m, rank, channels)
    if isinstance(affine, Refusal):
        return affine
    value = m.op.output
    if value.outs or any(reader.graph is not m.op.graph for reader in value.users):
        return refuse("the value is an output, or is read in a body")
    for reader in value.users:
        reason = _objection(reader, value, affine, channels)
        if reason:
            return refuse(reason)
    return _conv.before(m, new, affine)


def _map(m: Match, rank: int, channels: int) -> Affine | Refusal:
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


def _objection(reader: Node, value: Value, affine: Affine, channels: int) -> str:
    """Why one reader cannot take the map in, or nothing."""
    if reader.op not in ("Conv", "ConvTranspose") or reader.domain or value in reader.inputs[1:]:
        return "not every reader is a convolution of this value"
    weight, bias = reader.inputs[1], reader.input(2)
    if weight is None or not weight.is_const or (bias is not None and not bias.is_const):
        return "the weights of a reader are computed at run time"
    reason = _conv.why_not(reader, weight)
    if reason:
        return reason
    if _conv.channels_in(reader, weight) != channels:
        return "the weights of a reader do not fit"
    if (
        affine.shift is not None
        and (affine.shift != 0).any()
        and (reader.op != "Conv" or _conv.is_padded(reader, weight))
    ):
        return "what a reader pads in is zero, not the shift"
    if affine.scale is None:
        return ""
    if weight.outs or sum(weight.users.values()) > 1:
        return "others read the weights of a reader, too"
    largest = scaled(weight, abs(affine.scale).max())
    return largest.reason if isinstance(largest, Refusal) else ""
