"""Concat(x)   ==   x;  Concat(x, empty, y)   ==   Concat(x, y);  Concat(Concat(a, b), c)   ==   Concat(a, b, c) on one
axis;  Concat of all parts of a Split, in order   ==   what was split.

Guards: an operand is empty where its size along the axis is certainly 0; inner Concats are read once (a Concat of one
value twice, again and again, would make a node with no end of operands); axes must be the same counted from the front;
a Split's parts must all be there.
"""

from __future__ import annotations

from graphopt.ir import Node, Value
from graphopt.passes.simplify._facts import axis_of
from graphopt.rewrite import Builder, Match, P, refuse, rest, rule
from graphopt.rewrite.rule import Outcome

CONCAT = P.Concat(rest("parts")).as_("node")


@rule("eliminate-concat", CONCAT)
def eliminate_concat(m: Match, new: Builder) -> Outcome:
    """Removes a Concat of one operand, and empty operands."""
    parts: tuple[Value, ...] = m.parts
    if len(parts) > 1:
        parts = tuple(part for part in parts if not _is_empty(part, m.node)) or parts[:1]
    if len(parts) == 1:
        return parts[0]
    if len(parts) == len(m.parts):
        return None
    return new.Concat(*parts, like=m.node)


def _is_empty(part: Value, node: Node) -> bool:
    shape = part.shape
    if not shape or 0 not in shape:
        return False
    axis = axis_of(node, len(shape), default=1)
    return axis is not None and shape[axis] == 0


@rule("flatten-concats", CONCAT)
def flatten_concats(m: Match, new: Builder) -> Outcome:
    """Merges a Concat into the Concat that reads it, on the same axis."""
    node: Node = m.node
    parts: list[Value] = []
    merged = False
    for part in m.parts:
        inner = part.producer
        if inner is None or not _is_inner(inner, node, part):
            parts.append(part)
        elif node.attr("axis") != inner.attr("axis") and part.rank is None:
            return refuse("the axes may differ: the rank is not known")
        elif _axis(inner, part) != _axis(node, part):
            parts.append(part)
        else:
            parts += [value for value in inner.inputs if value is not None]
            merged = True
    return new.Concat(*parts, like=node) if merged else None


def _is_inner(inner: Node, node: Node, part: Value) -> bool:
    if inner.op != "Concat" or inner.domain or inner.graph is not node.graph or part.outs:
        return False
    return part.users == {node: 1}


def _axis(node: Node, value: Value) -> int:
    """The axis from the front, or as it is written where the rank is not known."""
    axis = int(node.attr("axis", 1))
    return axis + value.rank if axis < 0 and value.rank is not None else axis


@rule("concat-of-split", CONCAT)
def concat_of_split(m: Match, new: Builder) -> Outcome:
    """Removes a Concat that puts the parts of a Split together again."""
    split = m.parts[0].producer if m.parts else None
    if split is None or split.op != "Split" or split.domain:
        return None
    if list(m.parts) != split.outputs:
        return None
    whole = split.input(0)
    axis = None if whole is None else axis_of(split, whole.rank)
    return whole if axis is not None and axis == axis_of(m.node, m.parts[0].rank, default=1) else None
