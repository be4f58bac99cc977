"""Split(x) into one part   ==   x;  Split(Concat(a, b)) along the same axis into the sizes of a and b   ==   a, b.

Guards of the second: the sizes along the axis are certainly the same one by one, numbers or not; where the Split is
given none, the parts joined are all of one size. The Concat may have other readers.
"""

from __future__ import annotations

from graphopt.analysis.shapes import shapes_of
from graphopt.passes.simplify._facts import axis_of, option
from graphopt.rewrite import Builder, Match, P, refuse, rest, rule
from graphopt.rewrite.rule import Outcome


@rule("eliminate-split", P.Split("x", rest("sizes")).as_("node"))
def eliminate_split(m: Match, new: Builder) -> Outcome:
    """Removes a Split into one part."""
    return m.x if len(m.node.outputs) == 1 else None


CONCAT = P.Concat(rest("parts")).as_("concat").shared()


@rule("split-of-concat", P.Split(CONCAT, rest("sizes")).as_("node").binding("y"))
def split_of_concat(m: Match, new: Builder) -> Outcome:
    """Removes a Split that takes the operands of a Concat apart again."""
    parts, rank = m.parts, m.concat.output.rank
    axis = axis_of(m.node, rank)
    if rank is None or axis is None or axis != axis_of(m.concat, rank, default=1):
        return None
    if len(parts) != len(m.node.outputs):
        return None
    shapes = shapes_of(m.concat)
    lengths = [shapes.dim(part, axis) for part in parts]
    given = option(m.node, "split", 1)
    sizes = given if given is not None else shapes.elements(m.node.input(1))
    if sizes == ():  # parts of one size, the last of which may be smaller
        sizes = (lengths[0],) * len(parts)
    if sizes is None or len(sizes) != len(lengths) or not all(map(shapes.equal, lengths, sizes)):
        return refuse("the sizes of the parts joined and of those split off are not certainly the same")
    return tuple(parts)
