"""Comparisons, choices and bounds: NaN, ties, order, slots."""

from __future__ import annotations

from typing import Any

import numpy as np

from graphopt import refuse, rule
from graphopt.rewrite import P, const, maybe

from ..mutant import broken, witness

SAME = "g (float[N] x) => (float[N] y) { %s }"
ODD = [-2.0, 0.25, 3.0, np.nan]


@broken(
    "not (a < b) becomes a >= b, which differ where one is NaN",
    witness("g (float[N] a, float[N] b) => (bool[N] y) { l = Less(a, b)  y = Not(l) }", {"a": ODD, "b": [0.0] * 4}),
)
@rule("not-less-is-greater-or-equal", P.Not(P.Less("a", "b")), opset=">=12")
def not_less_is_greater_or_equal(m: Any, new: Any) -> Any:
    return new.GreaterOrEqual(m.a, m.b)


@broken(
    "x == x becomes true, which it is not for NaN",
    witness("g (float[N] x) => (bool[N] y) { y = Equal(x, x) }", {"x": ODD}),
)
@rule("equal-to-itself", P.Equal("x", "x"), opset=">=11")
def equal_to_itself(m: Any, new: Any) -> Any:
    return new.Expand(new.constant(np.bool_(True)), new.Shape(m.x), type_of=m.root.output)


@broken(
    "where(not c, a, b) loses the Not, and the branches are not swapped",
    witness(
        "g (bool[N] c, float[N] a, float[N] b) => (float[N] y) { n = Not(c)  y = Where(n, a, b) }",
        {"c": [True, False], "a": [1.0, 2.0], "b": [3.0, 4.0]},
    ),
)
@rule("where-branches-not-swapped", P.Where(P.Not("c"), "a", "b"))
def where_branches_not_swapped(m: Any, new: Any) -> Any:
    return new.Where(m.c, m.a, m.b)


@broken(
    "where(x > c, x, c) becomes max(x, c), which passes NaN on",
    witness(SAME % "g = Greater(x, c)  y = Where(g, x, c)", {"x": ODD}, c=1.0),
)
@rule("where-greater-is-max", P.Where(P.Greater("x", const("c")), "x", const("c")), opset=">=9")
def where_greater_is_max(m: Any, new: Any) -> Any:
    return new.Max(m.x, m.c)


@broken(
    "min(max(x, a), b) becomes max(min(x, b), a), which differ where a > b",
    witness(SAME % "m = Max(x, a)  y = Min(m, b)", {"x": [-2.0, 0.5, 5.0]}, a=2.0, b=1.0),
)
@rule("min-and-max-swapped", P.Min(P.Max("x", const("a")), const("b")), opset=">=8")
def min_and_max_swapped(m: Any, new: Any) -> Any:
    return new.Max(new.Min(m.x, m.b), m.a)


@broken(
    "min(min(x, a), b) becomes min(x, max(a, b))",
    witness(SAME % "m = Min(x, a)  y = Min(m, b)", {"x": [-2.0, 0.5, 5.0]}, a=2.0, b=1.0),
)
@rule("mins-merged-by-max", P.Min(P.Min("x", const("a")), const("b")), opset=">=8")
def mins_merged_by_max(m: Any, new: Any) -> Any:
    if m.a.shape != () or m.b.shape != ():
        return refuse("no scalars")
    return new.Min(m.x, new.constant(np.maximum(m.a.numpy(), m.b.numpy()), like=m.a))


INNER = P.Clip("x", const("a"), const("b")).as_("inner")


@broken(
    "relu(clip(x, a, b)) becomes clip(x, max(a, 0), b), which crosses where b < 0",
    witness(SAME % "c = Clip(x, a, b)  y = Relu(c)", {"x": [-2.0, 0.5, 5.0]}, a=-3.0, b=-1.0),
)
@rule("relu-of-clip-below-zero", P.Relu(INNER), opset=">=11")
def relu_of_clip_below_zero(m: Any, new: Any) -> Any:
    return new.Clip(m.x, new.constant(np.maximum(m.a.numpy(), 0), like=m.a), m.b)


@broken(
    "two Clips are merged although their ranges do not meet",
    witness(
        SAME % "i = Clip(x, a, b)  y = Clip(i, c, d)", {"x": [-2.0, 0.5, 5.0]}, a=3.0, b=4.0, c=0.0, d=1.0
    ),
)  # fmt: skip
@rule("clips-that-do-not-meet", P.Clip(INNER, const("c"), const("d")), opset=">=11")
def clips_that_do_not_meet(m: Any, new: Any) -> Any:
    low, high = np.minimum(m.a.numpy(), m.c.numpy()), np.maximum(m.b.numpy(), m.d.numpy())
    if m.a.numpy() < m.c.numpy():
        low = m.c.numpy()
    if m.b.numpy() > m.d.numpy():
        high = m.d.numpy()
    return new.Clip(m.x, new.constant(low, like=m.a), new.constant(high, like=m.b))


@broken(
    "a Clip is made anew without its empty slot, so that its upper bound becomes the lower one",
    witness(SAME % "a = Neg(x)  b = Neg(a)  y = Clip(b, , c)", {"x": [-2.0, 0.5, 5.0]}, c=1.0),
)
@rule("clip-slot-closed-up", P.Clip(P.Neg(P.Neg("x")), maybe("low"), maybe("high")), opset=">=12")
def clip_slot_closed_up(m: Any, new: Any) -> Any:
    return new.Clip(m.x, *[bound for bound in (m.low, m.high) if bound is not None])


@broken(
    "argmax(relu(x)) becomes argmax(x), although what was negative is a tie afterwards",
    witness("g (float[8,2] x) => (int64[8,1] y) { r = Relu(x)  y = ArgMax<axis=1>(r) }", {"x": [[-2.0, -1.0]] * 8}),
)
@rule("argmax-of-monotone", P.ArgMax(P.op("Relu", "Exp", "Floor", "Sigmoid")("x")).as_("argmax"))
def argmax_of_monotone(m: Any, new: Any) -> Any:
    return new.ArgMax(m.x, like=m.argmax)
