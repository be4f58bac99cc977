"""Transpose(x, perm=(0, 1, ..., n-1))   ==   x;  Transpose(Transpose(x, p), q)   ==   Transpose(x, p[q[i]]).

Without `perm` the axes are reversed, which takes the rank to be known. The inner Transpose may have other readers.
"""

from __future__ import annotations

from graphopt.ir import Node, Value
from graphopt.rewrite import Builder, Match, P, refuse, rule
from graphopt.rewrite.rule import Outcome


def _perm(node: Node, x: Value) -> tuple[int, ...] | None:
    perm = node.attr("perm")
    if perm:  # an empty one stands for none
        return tuple(perm)
    return None if x.rank is None else tuple(range(x.rank))[::-1]


@rule("eliminate-transpose", P.Transpose("x").as_("node"))
def eliminate_transpose(m: Match, new: Builder) -> Outcome:
    """Removes a Transpose that moves nothing."""
    perm = _perm(m.node, m.x)
    return m.x if perm is not None and perm == tuple(range(len(perm))) else None


@rule("compose-transposes", P.Transpose(P.Transpose("x").as_("inner").shared()).as_("outer"))
def compose_transposes(m: Match, new: Builder) -> Outcome:
    """Merges two Transposes."""
    if not m.inner.attr("perm") and not m.outer.attr("perm"):
        return m.x  # reversed twice
    first, second = _perm(m.inner, m.x), _perm(m.outer, m.x)
    if first is None or second is None or len(first) != len(second):
        return refuse("the rank is not known")
    perm = [first[axis] for axis in second]
    if perm == list(range(len(perm))):
        return m.x
    return new.Transpose(m.x, like=m.outer, perm=perm)
