"""conv(concat(s x + t, y...), [V W], b)   ==   conv(concat(x, y...), [s V, W], b + sum(V t)),   gemm likewise,
s concat(conv(x, V, a), y...) + t   ==   concat(conv(x, s1 V, s1 a + t1), s2 y + t2, ...),   y... convolutions, too.

In front of the weights one part at a time gives up its map: one Mul, Div, Add or Sub with a constant, or a
BatchNormalization. Behind a Concat the map is cut along the parts, each of which must take its piece in. Exact in real
arithmetic; computed in float64 and rounded once.

Guards: the Concat runs along the channels, of which every part has a known number (one map for all numbers may run
along any axis); those of fuse-affine-conv and fuse-affine-gemm, no shift in front of padding among them; behind: every
part is a Conv or ConvTranspose with weights and bias that are constant, and so small or so much its own that they may
be scaled; parts, Concat and values between read by nothing else.
"""

from __future__ import annotations

import numpy as np

from graphopt.ir import NDArray, Node, Value
from graphopt.passes.fusion import _conv, _gemm
from graphopt.passes.fusion._affine import Affine, keeps_shape, of_batch_norm, of_constant
from graphopt.passes.fusion._keep import reason_to_stay, starts_hard_sigmoid
from graphopt.passes.simplify._facts import axis_of
from graphopt.rewrite import Builder, Match, P, Refusal, const, maybe, refuse, rest, rule
from graphopt.rewrite.rule import Outcome

PARTS = P.Concat(rest("parts")).as_("concat")
_MAPS = frozenset({"Add", "BatchNormalization", "Div", "Mul", "Sub"})


@rule(
    "collapse-concat-affine-forward",
    P.op("Conv", "ConvTranspose")(PARTS, const("w"), maybe("b")).as_("conv"),
    P.Gemm(PARTS, const("w"), maybe("b")).as_("gemm"),
    opset=">=7",
)
def collapse_concat_affine_forward(m: Match, new: Builder) -> Outcome:
    """conv(concat(s x + t, y...), [V W], b) == conv(concat(x, y...), [s V, W], b + sum(V t))"""
    places = [place for place, part in enumerate(m.parts) if _is_map(part, m.parts)]
    if not places:
        return None
    gemm: Node | None = m.get("gemm")
    reason = _gemm.why_not(m.w) if gemm is not None else _conv.why_not(m.root, m.w)
    if reason:
        return refuse(reason)
    if gemm is not None and gemm.attr("transA"):
        return refuse("the first operand is transposed")
    rank = 2 if gemm is not None else m.w.numpy().ndim
    channels = _gemm.rows(gemm, m.w) if gemm is not None else _conv.channels_in(m.conv, m.w)
    widths = _widths(m.concat, rank, channels)
    if widths is None:
        return refuse("the parts' channels are not proven to be those of the weights")
    found: Outcome = None
    for place in places:
        found = _without(m, new, place, widths, rank)
        if isinstance(found, Value):
            return found
    return found


def _without(m: Match, new: Builder, place: int, widths: list[int], rank: int) -> Outcome:
    """With one part's map in the weights."""
    node = m.parts[place].producer
    x, found = _map(node, widths[place], rank)
    if isinstance(found, Refusal) or x is None:
        return found if isinstance(found, Refusal) else None
    start, total = sum(widths[:place]), sum(widths)
    scale, shift = (
        None if part is None else _within(part, start, widths[place], total, neutral)
        for part, neutral in ((found.scale, 1.0), (found.shift, 0.0))
    )
    parts = [x if k == place else part for k, part in enumerate(m.parts)]
    joined = new.Concat(*parts, like=m.concat, type_of=m.concat.output)
    names = {"conv": m.get("conv"), "gemm": m.get("gemm"), "x": joined, "w": m.w, "b": m.b}
    site, affine = Match(m.root, names, m.nodes), Affine(scale, shift, found.worth)
    with np.errstate(all="ignore"):  # weights of other parts may be infinite, and meet zeros
        return _gemm.before(site, new, affine) if m.get("gemm") is not None else _conv.before(site, new, affine)


def _within(values: NDArray, start: int, width: int, total: int, neutral: float) -> NDArray:
    full = np.full(total, neutral)
    full[start : start + width] = values
    return full


def _is_map(part: Value | None, parts: tuple[Value | None, ...]) -> bool:
    """Whether a part is made by a map with constants that nothing else reads."""
    node = part.producer if part is not None else None
    if part is None or node is None or node.domain or node.op not in _MAPS:
        return False
    live = [v for v in node.inputs if v is not None and not v.is_const]
    if node.op == "BatchNormalization" and (node.inputs[0] is None or node.inputs[0].is_const):
        return False
    return len(live) == 1 and not part.outs and sum(part.users.values()) == 1


def _map(node: Node, width: int, rank: int) -> tuple[Value | None, Affine | Refusal]:
    """What a part's map is applied to, and the map."""
    if node.op == "BatchNormalization":
        return node.inputs[0], of_batch_norm(node, width) if node.inputs[0] is not None else refuse("it has no operand")
    constant, x = (
        node.inputs[k] for k in ((0, 1) if node.inputs[0] is not None and node.inputs[0].is_const else (1, 0))
    )
    if constant is None or x is None or not constant.is_const or (node.op == "Div" and constant is node.inputs[0]):
        return None, refuse("the map is none of a value and a constant")
    reason = reason_to_stay(node, x, constant)
    if reason:
        return None, refuse(reason)
    affine = of_constant(node, constant, 1 - rank, width, rank)
    if not isinstance(affine, Refusal) and not keeps_shape(constant, x, 1 - rank, width):
        return None, refuse("the constant is not proven to leave the shape of the other operand as it is")
    return x, affine


def _widths(concat: Node, rank: int, channels: int) -> list[int] | None:
    """Each part's channels, if they add up."""
    widths = []
    for part in concat.inputs:
        shape = None if part is None else part.shape
        if shape is None or len(shape) != rank or not isinstance(shape[1], int):
            return None
        widths.append(shape[1])
    return widths if axis_of(concat, rank) == 1 and sum(widths) == channels else None


@rule(
    "collapse-concat-affine-back",
    P.op("Add", "Sub", "Mul", "Div")(PARTS, const("c")),
    P.Sub(const("c"), PARTS),
    P.BatchNormalization(PARTS, const("g"), const("t"), const("mu"), const("var")).as_("bn"),
    opset=">=7",
)
def collapse_concat_affine_back(m: Match, new: Builder) -> Outcome:
    """s concat(conv(x, V, a), y...) + t == concat(conv(x, s1 V, s1 a + t1), s2 y + t2, ...)"""
    rank = m.concat.output.rank
    if rank is None or rank < 3:
        return refuse("the rank of the operand is not known, or this is no image")
    if starts_hard_sigmoid(m.root):
        return refuse("the constant is part of a HardSigmoid written out, which is worth more when recognised as one")
    convs = [conv for conv in map(_conv_of, m.parts) if conv is not None]
    if len(convs) < len(m.parts):
        return refuse("a part is no convolution with constant weights that nothing else reads")
    sites = [
        Match(conv, {"conv": conv, "x": conv.inputs[0], "w": conv.inputs[1], "b": conv.input(2)}, m.nodes)
        for conv in convs
    ]
    outs = [_conv.channels_out(site.conv, site.w) for site in sites]
    along = axis_of(m.concat, rank) == 1
    affine = _whole(m, rank, sum(outs) if along else outs[0])
    if isinstance(affine, Refusal):
        return affine
    if not along and len(set(outs)) > 1:
        return refuse("the parts' channels differ")
    made, start = [], 0
    for site, width in zip(sites, outs, strict=True):
        piece = slice(start, start + width) if along else slice(None)
        start += width
        folded = _conv.after(site, new, _cut(affine, piece))
        if not isinstance(folded, Value):
            return folded
        folded.set_type(site.conv.output.type)
        made.append(folded)
    return new.Concat(*made, like=m.concat, type_of=m.root.output)


def _conv_of(part: Value | None) -> Node | None:
    node = part.producer if part is not None else None
    if part is None or node is None or node.domain or node.op not in ("Conv", "ConvTranspose"):
        return None
    weight = node.inputs[1]
    if part.outs or sum(part.users.values()) > 1 or weight is None or not weight.is_const:
        return None
    return None if _conv.why_not(node, weight) else node


def _whole(m: Match, rank: int, channels: int) -> Affine | Refusal:
    if m.get("bn") is not None:
        return of_batch_norm(m.bn, channels)
    affine = of_constant(m.root, m.c, 1 - rank, channels, rank)
    if not isinstance(affine, Refusal) and not keeps_shape(m.c, m.concat.output, 1 - rank, channels):
        return refuse("the constant is not proven to leave the shape of the other operand as it is")
    return affine


def _cut(affine: Affine, piece: slice) -> Affine:
    scale, shift = (part if part is None or part.ndim == 0 else part[piece] for part in (affine.scale, affine.shift))
    return Affine(scale, shift, affine.worth)
