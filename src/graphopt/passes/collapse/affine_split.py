"""y1, y2... = split(s x + t),   conv_i(yk, W, b)   ==   x1, x2... = split(x),   conv_i(xk, sk W, b + sum(W tk)),
gemm_i likewise.

One Mul, Div, Add or Sub with a constant, or a BatchNormalization, in front of a Split, that goes away when all readers
of all parts have taken their piece of it in: into all of them, or none. Each use folds it into one reader. Exact in
real arithmetic; computed in float64 and rounded once to W's dtype.

Guards: those of collapse-affine-shared, for every reader of every part; the Split runs along the channels, of which
every part has a known number (one map for all numbers may run along any axis); map and parts are no outputs of the
graph, and the map is read by the Split alone. (A map behind one part stays: the other parts would need its inverse.)
"""

from __future__ import annotations

from graphopt.ir import Node, Value
from graphopt.passes.collapse import _chain
from graphopt.passes.collapse._front import map_of
from graphopt.passes.collapse.affine_shared import ANY, objection
from graphopt.passes.fusion import _conv, _gemm
from graphopt.passes.fusion._affine import Affine
from graphopt.passes.simplify._facts import axis_of
from graphopt.rewrite import Builder, Match, P, Refusal, const, maybe, one_of, refuse, rest, rule
from graphopt.rewrite.pattern import Pattern
from graphopt.rewrite.rule import Outcome

NAME = "collapse-affine-split"


def _part(index: int) -> Pattern:
    split = P.Split(ANY, rest("sizes")).binding("p0", "p1", "p2", "p3").out(index)
    return split.as_("split").shared()


PART = one_of(*(_part(index) for index in range(4)))


@rule(
    NAME,
    P.op("Conv", "ConvTranspose")(PART, const("w"), maybe(const("b"))).as_("conv"),
    P.Gemm(PART, const("w"), maybe(const("b"))).as_("gemm"),
    opset=">=7",
    measure="flops",
)
def collapse_affine_split(m: Match, new: Builder) -> Outcome:
    rank = 2 if m.get("gemm") is not None else m.w.numpy().ndim
    if m.get("gemm") is not None and m.gemm.attr("transA"):
        return refuse("the first operand is transposed")
    split: Node = m.split
    if m.op.output.outs or sum(m.op.output.users.values()) > 1:
        return refuse("others read the map, too")
    widths = [None if v.shape is None or len(v.shape) != rank else v.shape[1] for v in split.outputs]
    known = [width for width in widths if isinstance(width, int)]
    along = axis_of(split, rank) == 1
    if len(known) < len(widths) or not known:
        return refuse("the parts' channels are not known")
    affine = map_of(m, rank, sum(known) if along else known[0])
    if isinstance(affine, Refusal):
        return affine
    pieces, start = [], 0
    for width in known:
        pieces.append(_cut(affine, slice(start, start + width)) if along else affine)
        start += width
    for part, piece, width in zip(split.outputs, pieces, known, strict=True):
        reason = _why_not(part, piece, width, rank)
        if reason:
            return refuse(reason)
    parts = _apart(m, new)
    index = next(k for k, part in enumerate(split.outputs) if part is m.root.inputs[0])
    names = {"conv": m.get("conv"), "gemm": m.get("gemm"), "x": parts[index], "w": m.w, "b": m.b}
    site = Match(m.root, names, m.nodes)
    return (_gemm if m.get("gemm") is not None else _conv).before(site, new, pieces[index])


def _cut(affine: Affine, piece: slice) -> Affine:
    if _chain.is_single(affine):
        return affine
    scale, shift = (None if v is None else v if v.ndim == 0 else v[piece] for v in (affine.scale, affine.shift))
    return Affine(scale, shift, affine.worth)


def _why_not(part: Value, affine: Affine, width: int, rank: int) -> str:
    """Why the readers of a part cannot take their piece in, or nothing."""
    if part.outs or any(reader.graph is not part.graph for reader in part.users):
        return "a part is an output, or is read in a body"
    for reader in part.users:
        if reader.op not in ("Conv", "ConvTranspose", "Gemm") or reader.attr("transA", 0):
            return "not every reader is a convolution or product of this value"
        weight = reader.inputs[1]
        if reader.op != "Gemm" and weight is not None and weight.rank != rank:
            return "the weights of a reader do not fit"
        reason = objection(reader, part, affine, width)
        if reason:
            return reason
    return ""


def _apart(m: Match, new: Builder) -> list[Value]:
    """The parts of the map's operand: by a Split that an earlier use has left, or a new one."""
    split: Node = m.split
    for reader in m.x.users:
        if reader.op == "Split" and NAME in reader.rules and reader.inputs[1:] == split.inputs[1:]:
            same = len(reader.outputs) == len(split.outputs) and reader.graph is split.graph
            if same and all(
                reader.attr(name, None) == split.attr(name, None) for name in ("axis", "split", "num_outputs")
            ):
                return list(reader.outputs)
    made = new.Split(m.x, *split.inputs[1:], like=split, n_out=len(split.outputs))
    parts = [made] if isinstance(made, Value) else list(made)
    for part, old in zip(parts, split.outputs, strict=True):
        part.set_type(old.type)
    return parts
