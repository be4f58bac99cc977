"""Where(true, x, y)   ==   x;  Where(false, x, y)   ==   y;  Where(c, x, x)   ==   x;  Where(Not(c), x, y)   ==
Where(c, y, x).

Guard: Where broadcasts all three operands, so the one chosen must certainly have the shape of the result.
"""

from __future__ import annotations

from graphopt.ir import Value
from graphopt.passes.simplify._facts import filled_with, fits_into, same_shape
from graphopt.rewrite import Builder, Match, P, const, refuse, rule
from graphopt.rewrite.rule import Outcome


@rule("eliminate-where", P.Where(const("c"), "x", "y").as_("node"))
def eliminate_where(m: Match, new: Builder) -> Outcome:
    """Removes a Where whose condition is constant."""
    if filled_with(m.c, 1):
        chosen, other = m.x, m.y
    elif filled_with(m.c, 0):
        chosen, other = m.y, m.x
    else:
        return None
    return _if_full(chosen, (m.c, other), m.node.output)


@rule("where-of-equals", P.Where("c", "x", "x").as_("node"))
def where_of_equals(m: Match, new: Builder) -> Outcome:
    """Removes a Where that chooses between a value and itself."""
    return _if_full(m.x, (m.c,), m.node.output)


def _if_full(chosen: Value, others: tuple[Value, ...], result: Value) -> Outcome:
    if same_shape(chosen, result) or all(fits_into(other, chosen) for other in others):
        return chosen
    return refuse("the operand chosen may be broadcast to the shape of the others")


@rule("where-not", P.Where(P.Not("c"), "x", "y").as_("node"))
def where_not(m: Match, new: Builder) -> Outcome:
    """Swaps the branches of a Where to drop the Not of its condition."""
    return new.Where(m.c, m.y, m.x, like=m.node)
