"""y = s x + t read by several convolutions and products:   conv_i(y, W, b)   ==   conv_i(x, s W, b + sum(W t)),
gemm_i likewise,   y W_i   ==   x (s W_i),   for each of them.

One Mul, Div, Add or Sub with a constant, or a BatchNormalization, that goes away when all its readers have taken it in:
into all of them, or none. Each use folds it into one reader. Exact in real arithmetic; computed in float64 and rounded
once to W's dtype. Guards: those of fuse-affine-conv, fuse-affine-gemm, fuse-affine-matmul and fuse-bn-conv, for every
reader: a Conv, ConvTranspose, Gemm or MatMul that reads it as its first operand and nothing else, with constant weights
and bias that are its own, and has its channels where the others have them; no shift in front of padding, or of MatMul;
the value is no output of the graph.
"""

from __future__ import annotations

from graphopt.ir import Node, Value
from graphopt.passes.fusion import _conv, _gemm
from graphopt.passes.fusion._affine import Affine, keeps_shape, of_batch_norm, of_constant, scaled
from graphopt.passes.fusion._keep import reason_to_stay
from graphopt.rewrite import Builder, Match, P, Refusal, const, maybe, one_of, refuse, rule
from graphopt.rewrite.rule import Outcome

ANY = one_of(
    P.op("Add", "Sub", "Mul", "Div")("x", const("c")).as_("op").shared(),
    P.Sub(const("c"), "x").as_("op").shared(),
    P.BatchNormalization("x", const("g"), const("t"), const("mu"), const("var")).as_("op").shared(),
)
_CONVS = frozenset({"Conv", "ConvTranspose"})


@rule(
    "collapse-affine-shared",
    P.op("Conv", "ConvTranspose")(ANY, const("w"), maybe(const("b"))).as_("conv"),
    P.Gemm(ANY, const("w"), maybe(const("b"))).as_("gemm"),
    P.MatMul(ANY, const("w")).as_("matmul"),
    opset=">=7",
    measure="flops",
)
def collapse_affine_shared(m: Match, new: Builder) -> Outcome:
    reason = _why_not(m.root, m.w)
    if reason:
        return refuse(reason)
    rank = m.w.numpy().ndim if m.root.op in _CONVS else 2 if m.root.op == "Gemm" else m.x.rank
    if rank is None or rank < 2:
        return refuse("the rank of the operand is not known")
    channels, axis = _channels(m.root, m.w), _axis(m.root, rank)
    affine = _map(m, rank, axis, channels)
    if isinstance(affine, Refusal):
        return affine
    value = m.op.output
    if value.outs or any(reader.graph is not m.op.graph for reader in value.users):
        return refuse("the value is an output, or is read in a body")
    for reader in value.users:
        reason = objection(reader, value, affine, channels) or (
            "" if _axis(reader, rank) == axis else "the channels of a reader lie along another axis"
        )
        if reason:
            return refuse(reason)
    if m.get("conv"):
        return _conv.before(m, new, affine)
    if m.get("gemm"):
        return _gemm.before(m, new, affine)
    if affine.scale is None:
        return None  # by a shift of zeros
    data = scaled(m.w, affine.scale if affine.scale.ndim == 0 else affine.scale[:, None], affine.worth)
    return data if isinstance(data, Refusal) else new.MatMul(m.x, new.constant(data, m.w.name), like=m.matmul)


def _why_not(node: Node, weight: Value) -> str:
    return _conv.why_not(node, weight) if node.op in _CONVS else _gemm.why_not(weight)


def _channels(node: Node, weight: Value) -> int:
    if node.op in _CONVS:
        return _conv.channels_in(node, weight)
    return _gemm.rows(node, weight) if node.op == "Gemm" else int(weight.numpy().shape[0])


def _axis(node: Node, rank: int) -> int:
    """The axis of the channels in the first operand, counted from the end."""
    return 1 - rank if node.op in _CONVS else -2 if node.attr("transA", 0) else -1


def _map(m: Match, rank: int, axis: int, channels: int) -> Affine | Refusal:
    constant = m.get("c")
    if constant is None:
        found = of_batch_norm(m.op, channels)
        return found if axis == 1 - rank else refuse("the channels of BatchNormalization are others")
    reason = reason_to_stay(m.op, m.x, constant)
    if reason:
        return refuse(reason)
    affine = of_constant(m.op, constant, axis, channels, rank)
    if not isinstance(affine, Refusal) and not keeps_shape(constant, m.x, axis, channels):
        return refuse("the constant is not proven to leave the shape of the other operand as it is")
    return affine


def objection(reader: Node, value: Value, affine: Affine, channels: int) -> str:
    """Why one reader cannot take the map in, or nothing."""
    if reader.op not in (*_CONVS, "Gemm", "MatMul") or reader.domain or value in reader.inputs[1:]:
        return "not every reader is a convolution or product of this value"
    weight, bias = reader.inputs[1], reader.input(2)
    if weight is None or not weight.is_const or (bias is not None and not bias.is_const):
        return "the weights of a reader are computed at run time"
    reason = _why_not(reader, weight)
    if reason:
        return reason
    if _channels(reader, weight) != channels:
        return "the weights of a reader do not fit"
    if affine.shift is not None and (affine.shift != 0).any():
        if reader.op == "MatMul":
            return "a product has no bias that would take the shift"
        if reader.op in _CONVS and (reader.op != "Conv" or _conv.is_padded(reader, weight)):
            return "what a reader pads in is zero, not the shift"
    if affine.scale is None:
        return ""
    if weight.outs or sum(weight.users.values()) > 1:
        return "others read the weights of a reader, too"
    largest = scaled(weight, abs(affine.scale).max())
    return largest.reason if isinstance(largest, Refusal) else ""
