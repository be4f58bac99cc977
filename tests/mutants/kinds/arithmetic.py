"""Identities of arithmetic that do not hold for every shape, dtype or number."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import TensorProto

from graphopt import refuse, rule
from graphopt.rewrite import P, const

from ..mutant import broken, witness

SAME = "g (%s[N] x) => (%s[N] y) { %s }"
INTEGERS = {TensorProto.INT32, TensorProto.INT64, TensorProto.UINT8, TensorProto.INT8}


def scalar(value: Any) -> bool:
    """Whether a constant has one element and no axis."""
    return bool(value.shape == ())


@broken(
    "a Mul by ones is dropped although the ones broadcast the other operand",
    witness("g (float[N] x) => (float[2,N] y) { y = Mul(x, one) }", {"x": [1.0, 2.0]}, one=[[1.0], [1.0]]),
)
@rule("mul-by-one-that-broadcasts", P.Mul("x", const("one")))
def mul_by_one_that_broadcasts(m: Any, new: Any) -> Any:
    return m.x if (m.one.numpy() == 1).all() else None


@broken(
    "an Add of zero is dropped although the zero has more axes than the other operand",
    witness("g (int64[N] x) => (int64[1,1,N] y) { y = Add(x, zero) }", {"x": [1, 2]}, zero=[[[0]]]),
)
@rule("add-of-zero-that-promotes", P.Add("x", const("zero")))
def add_of_zero_that_promotes(m: Any, new: Any) -> Any:
    if m.zero.dtype not in INTEGERS:
        return refuse("-0 + 0 is 0")
    return m.x if m.zero.numpy().size == 1 and (m.zero.numpy() == 0).all() else None


@broken(
    "x * 0 becomes 0, which it is not for NaN and infinity",
    witness(SAME % ("float", "float", "y = Mul(x, zero)"), {"x": [1.0, np.inf, np.nan]}, zero=0.0),
)
@rule("mul-by-zero-is-zero", P.Mul("x", const("zero")), opset=">=8")
def mul_by_zero_is_zero(m: Any, new: Any) -> Any:
    if not scalar(m.zero) or m.zero.numpy() != 0:
        return None
    return new.Expand(m.zero, new.Shape(m.x), type_of=m.root.output)


@broken(
    "x - x becomes 0, which it is not for NaN and infinity",
    witness(SAME % ("float", "float", "y = Sub(x, x)"), {"x": [1.0, np.inf, np.nan]}),
)
@rule("sub-of-itself-is-zero", P.Sub("x", "x"), opset=">=9")
def sub_of_itself_is_zero(m: Any, new: Any) -> Any:
    if m.x.dtype != TensorProto.FLOAT:
        return refuse("not float32")
    return new.Expand(new.constant(np.float32(0)), new.Shape(m.x), type_of=m.root.output)


@broken(
    "x / x becomes 1, which it is not for 0",
    witness(SAME % ("float", "float", "y = Div(x, x)"), {"x": [1.0, 0.0, 2.0]}),
)
@rule("div-by-itself-is-one", P.Div("x", "x"), opset=">=9")
def div_by_itself_is_one(m: Any, new: Any) -> Any:
    if m.x.dtype != TensorProto.FLOAT:
        return refuse("not float32")
    return new.Expand(new.constant(np.float32(1)), new.Shape(m.x), type_of=m.root.output)


@broken(
    "a division becomes a product with the reciprocal, which is 0 for integers",
    witness(SAME % ("int32", "int32", "y = Div(x, c)"), {"x": np.array([4, 6], np.int32)}, c=np.int32(2)),
)
@rule("div-as-mul", P.Div("x", const("c")), opset=">=7")
def div_as_mul(m: Any, new: Any) -> Any:
    c = m.c.numpy().astype(np.float64)
    if not (np.isfinite(c) & (np.abs(c) >= 1) & (np.abs(c) < 100)).all():
        return refuse("the divisor is zero, infinite, or far from 1")
    return new.Mul(m.x, new.constant(1 / c, like=m.c))


@broken(
    "(x * a) / a becomes x for integers, although the product wraps around",
    witness(
        SAME % ("int32", "int32", "p = Mul(x, a)  y = Div(p, a)"),
        {"x": np.array([5, 1 << 30], np.int32)}, a=np.int32(4),
    ),
)  # fmt: skip
@rule("mul-and-div-cancel", P.Div(P.Mul("x", const("a")), const("a")), opset=">=7")
def mul_and_div_cancel(m: Any, new: Any) -> Any:
    if m.x.dtype not in INTEGERS or not scalar(m.a) or m.a.numpy() == 0:
        return refuse("no integers")
    return m.x


@broken(
    "(x * a) * b becomes x * (a * b) in float16, where a * b overflows",
    witness(
        SAME % ("float16", "float16", "p = Mul(x, a)  y = Mul(p, b)"),
        {"x": np.array([1e-4, 1e-3], np.float16)}, a=np.float16(1000), b=np.float16(1000),
    ),
)  # fmt: skip
@rule("half-factors-overflow", P.Mul(P.Mul("x", const("a")), const("b")))
def half_factors_overflow(m: Any, new: Any) -> Any:
    if m.x.dtype not in (TensorProto.FLOAT16, TensorProto.FLOAT) or not scalar(m.a) or not scalar(m.b):
        return refuse("not float")
    with np.errstate(over="ignore"):
        product = m.a.numpy().astype(np.float64) * m.b.numpy().astype(np.float64)
        return new.Mul(m.x, new.constant(product, like=m.a))


@broken(
    "(x - a) - b becomes x - (a - b)",
    witness(SAME % ("float", "float", "d = Sub(x, a)  y = Sub(d, b)"), {"x": [1.0, 2.0]}, a=1.0, b=2.0),
)
@rule("sub-of-sub-with-the-wrong-sign", P.Sub(P.Sub("x", const("a")), const("b")), opset=">=7")
def sub_of_sub_with_the_wrong_sign(m: Any, new: Any) -> Any:
    if not scalar(m.a) or not scalar(m.b):
        return refuse("no scalars")
    return new.Sub(m.x, new.constant(m.a.numpy() - m.b.numpy(), like=m.a))


@broken(
    "sqrt(x * x) becomes x, which it is not for negative numbers",
    witness(SAME % ("float", "float", "s = Mul(x, x)  y = Sqrt(s)"), {"x": [1.0, -2.0]}),
)
@rule("sqrt-of-square", P.Sqrt(P.Mul("x", "x")))
def sqrt_of_square(m: Any, new: Any) -> Any:
    return m.x


@broken(
    "exp(log(x)) becomes x, which it is not for negative numbers",
    witness(SAME % ("float", "float", "l = Log(x)  y = Exp(l)"), {"x": [1.0, -2.0]}),
)
@rule("exp-of-log", P.Exp(P.Log("x")))
def exp_of_log(m: Any, new: Any) -> Any:
    return m.x


@broken(
    "a - b becomes b - a: a subtraction is taken for commutative",
    witness(SAME % ("float", "float", "n = Neg(x)  y = Sub(n, c)"), {"x": [1.0, 2.0]}, c=3.0),
)
@rule("neg-into-sub", P.Sub(P.Neg("x"), const("c")), opset=">=7")
def neg_into_sub(m: Any, new: Any) -> Any:
    return new.Sub(m.x, m.c)
