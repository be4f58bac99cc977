"""Q2(DQ1(Q1(x)))   ==   Q2(Reshape(DQ1(Q1(x)), its own dims))

ONNX Runtime (1.31) takes two pairs of QuantizeLinear and DequantizeLinear in a row for one and keeps the second scale
and zero point: what the first pair rounds, or cuts off at its range, is lost. It does so only where they are next to
each other. The Reshape costs nothing at run time; where the rank is not known, Shape says what the dims are.

Guards: the two differ in scale or zero point, or could (equal constants are one pair twice: merging is right); the same
integer type (pairs of different types are left alone); the dequantized value is read by the second pair alone.
"""

import numpy as np

from graphopt.ir import Value
from graphopt.passes.runtime._apart import apart
from graphopt.rewrite import Builder, Match, P, maybe, rule
from graphopt.rewrite.rule import Outcome

FIRST = P.DequantizeLinear(P.QuantizeLinear("x", "s", maybe("z")).shared().as_("q1"), "s1", maybe("z1")).as_("dq1")


@rule(
    "avoid-qdq-merge",
    P.QuantizeLinear(FIRST, "s2", maybe("z2")).as_("q2"),
    targets=["onnx", "onnxruntime"],
    measure="order",
)
def avoid_qdq_merge(m: Match, new: Builder) -> Outcome:
    """Keeps ONNX Runtime from merging two quantizations with different scales."""
    if _same(m.s1, m.s2) and _same(m.z1, m.z2):
        return None
    return new.QuantizeLinear(apart(m.dq1.output, new), m.s2, m.z2, like=m.q2)


def _same(a: Value | None, b: Value | None) -> bool:
    if a is b:
        return True
    if a is None or b is None or not (a.is_const and b.is_const) or a.dtype != b.dtype:
        return False
    return bool(np.array_equal(a.numpy(), b.numpy()))
