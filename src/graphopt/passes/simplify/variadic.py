"""Sum(x), Max(x), Min(x), Mean(x)   ==   x;  Max(Max(a, b), c)   ==   Max(a, b, c), likewise Sum and Min.

These are computed from left to right, so that the nest is flattened only where it stands first: exact then, rounding
and NaN included. From opset 8 on, where they broadcast. The inner one is read by nothing else.
"""

from __future__ import annotations

from graphopt.passes.simplify._facts import keeps_apart
from graphopt.rewrite import Builder, Match, P, one_of, refuse, rest, rule
from graphopt.rewrite.rule import Outcome


@rule("eliminate-variadic", P.op("Max", "Mean", "Min", "Sum")("x").as_("node"))
def eliminate_variadic(m: Match, new: Builder) -> Outcome:
    """Removes a Sum, Max, Min or Mean of one operand."""
    return refuse("it keeps ONNX Runtime from merging its neighbours") if keeps_apart(m.node) else m.x


_NESTS = [
    P.op(op)(P.op(op)(rest("first")).ordered(), rest("more")).ordered().as_("node") for op in ("Max", "Min", "Sum")
]


@rule("flatten-variadic", one_of(*_NESTS), opset=">=8")
def flatten_variadic(m: Match, new: Builder) -> Outcome:
    """Merges a Sum, Max or Min into the one that reads it."""
    return new.make(m.node.op, *m.first, *m.more, like=m.node)
