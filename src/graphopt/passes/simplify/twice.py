"""Involutions, f(f(x)) == x: Not, Neg, BitwiseNot.  Idempotents, f(f(x)) == f(x): Abs, Relu, Sign, and Ceil, Floor and
Round of each other's results, which are integers already (infinities, NaN and the sign of zero pass through all three).
Abs(Neg(x)) == Abs(x).

Exact for every dtype that the operators take: the negative of the lowest integer is itself. The inner operator may have
other readers.
"""

from __future__ import annotations

from graphopt.rewrite import Builder, Match, P, one_of, rule
from graphopt.rewrite.rule import Outcome

INVOLUTIONS = ("BitwiseNot", "Neg", "Not")
IDEMPOTENTS = ("Abs", "Relu", "Sign")
ROUNDINGS = ("Ceil", "Floor", "Round")


@rule("eliminate-double-negation", one_of(*(P.op(op)(P.op(op)("x").shared()) for op in INVOLUTIONS)))
def eliminate_double_negation(m: Match, new: Builder) -> Outcome:
    """Removes an involution of itself: Not, Neg, BitwiseNot."""
    return m.x


_TWICE = [P.op(op)(P.op(op)("x").shared().as_("inner")) for op in IDEMPOTENTS]
_ROUNDED = P.op(*ROUNDINGS)(P.op(*ROUNDINGS)("x").shared().as_("inner"))


@rule("eliminate-repetition", one_of(*_TWICE, _ROUNDED))
def eliminate_repetition(m: Match, new: Builder) -> Outcome:
    """Removes the second of two equal idempotent operators: Relu, Abs, Ceil, Floor, ..."""
    return m.inner.output


@rule("abs-of-neg", P.Abs(P.Neg("x")).as_("node"))
def abs_of_neg(m: Match, new: Builder) -> Outcome:
    """Removes a Neg before an Abs."""
    return new.Abs(m.x, like=m.node)
