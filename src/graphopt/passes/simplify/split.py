"""Split(x) into one part   ==   x;  Split(Concat(a, b)) along the same axis into the sizes of a and b   ==   a, b.

Guards of the second: the sizes along the axis must be numbers, and the same one by one. The Concat may have other
readers.
"""

from __future__ import annotations

from graphopt.ir import Node, Value
from graphopt.passes.simplify._facts import axis_of, option, static
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
    lengths = [_size(part, axis) for part in parts]
    if None in lengths or lengths != _sizes(m.node, lengths):
        return refuse("the sizes of the parts joined and of those split off are not certainly the same")
    return tuple(parts)


def _size(part: Value, axis: int) -> int | None:
    size = part.shape[axis] if part.shape is not None else None
    return size if isinstance(size, int) else None


def _sizes(node: Node, lengths: list[int | None]) -> list[int] | None:
    """The sizes of the split; even ones where none are given and it goes even."""
    given = option(node, "split", 1)
    if given is None:
        return None
    if given:
        return list(given)
    total = sum(static(tuple(lengths)) or ())
    return [total // len(lengths)] * len(lengths) if total % len(lengths) == 0 else None
