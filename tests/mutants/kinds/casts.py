"""Casts and quantization: what is lost on the way, and types that depend on a slot."""

from __future__ import annotations

from typing import Any

import numpy as np

from graphopt import refuse, rule
from graphopt.rewrite import P, const, maybe

from ..mutant import broken, witness

CASTS = P.Cast(P.Cast("x").as_("inner")).as_("outer")


@broken(
    "a Cast to a narrower integer between two wider types is dropped",
    witness(
        "g (int32[N] x) => (int32[N] y) { c = Cast<to=3>(x)  y = Cast<to=6>(c) }", {"x": np.array([5, 300], np.int32)}
    ),
)  # fmt: skip
@rule("narrowing-cast-dropped", CASTS, opset=">=9")
def narrowing_cast_dropped(m: Any, new: Any) -> Any:
    integers = {2, 3, 4, 5, 6, 7}
    if {m.x.dtype, m.inner.attr("to"), m.outer.attr("to")} - integers:
        return refuse("no integers")
    return new.Cast(m.x, like=m.outer)


@broken(
    "float -> int -> float is taken for nothing, although it truncates",
    witness("g (float[N] x) => (float[N] y) { c = Cast<to=6>(x)  y = Cast<to=1>(c) }", {"x": [1.5, -2.5]}),
)
@rule("float-int-float-dropped", CASTS, opset=">=9")
def float_int_float_dropped(m: Any, new: Any) -> Any:
    if m.x.dtype != m.outer.attr("to") or m.inner.attr("to") not in (6, 7):
        return refuse("not back to the type that it was")
    return m.x


@broken(
    "int(x) != 0 becomes x != 0, although 0.5 becomes 0",
    witness("g (float[N] x) => (bool[N] y) { c = Cast<to=7>(x)  y = Cast<to=9>(c) }", {"x": [0.5, 2.0, 0.0]}),
)
@rule("bool-of-int-of-float", CASTS, opset=">=9")
def bool_of_int_of_float(m: Any, new: Any) -> Any:
    if m.outer.attr("to") != 9 or m.inner.attr("to") not in (6, 7):
        return refuse("no bool")
    return new.Cast(m.x, like=m.outer)


Q = "g (float[N] x) => (float[N] y) { q = QuantizeLinear(x, s, z)  %s  y = DequantizeLinear(q, s, z) }"
FEEDS = {"x": [-1.0, 0.3, 0.5, 2.0]}
BYTES = {"x": np.array([0, 3, 10, 200], np.uint8)}
DQ = P.DequantizeLinear("q", const("s"), const("z")).as_("dq")


@broken(
    "the zero point of a DequantizeLinear is dropped",
    witness("g (uint8[N] x) => (float[N] y) { y = DequantizeLinear(x, s, z) }", BYTES, s=0.5, z=np.uint8(3)),
)
@rule("zero-point-dropped", DQ)
def zero_point_dropped(m: Any, new: Any) -> Any:
    return new.DequantizeLinear(m.q, m.s, like=m.dq)


@broken(
    "a zero point of 0 is dropped, although it says that the result is int8",
    witness("g (float[N] x) => (int8[N] y) { y = QuantizeLinear(x, s, z) }", FEEDS, s=0.5, z=np.int8(0)),
    shows="invalid",
)
@rule("zero-point-type-dropped", P.QuantizeLinear("x", const("s"), const("z")).as_("quantize"))
def zero_point_type_dropped(m: Any, new: Any) -> Any:
    return None if m.z.numpy().any() else new.QuantizeLinear(m.x, m.s, like=m.quantize)


RELU = P.QuantizeLinear(P.Relu(DQ), const("s2"), const("z2"))


@broken(
    "quantize(relu(dequantize(q))) becomes q, although the Relu cuts off what is below the zero point",
    witness(
        "g (uint8[N] x) => (uint8[N] y) { d = DequantizeLinear(x, s, z)  r = Relu(d)  y = QuantizeLinear(r, s, z) }",
        BYTES, s=0.5, z=np.uint8(5),
    ),
)  # fmt: skip
@rule("requantized-relu-dropped", RELU)
def requantized_relu_dropped(m: Any, new: Any) -> Any:
    same = all(np.array_equal(a.numpy(), b.numpy()) for a, b in ((m.s, m.s2), (m.z, m.z2)))
    return m.q if same and m.z.dtype == m.z2.dtype else refuse("other scales")


@broken(
    "quantize(dequantize(q)) becomes q whatever the two scales are",
    witness(
        "g (uint8[N] x) => (uint8[N] y) { d = DequantizeLinear(x, s, z)  y = QuantizeLinear(d, t, z) }",
        BYTES, s=0.5, t=0.25, z=np.uint8(5),
    ),
)  # fmt: skip
@rule("requantized-by-another-scale", P.QuantizeLinear(DQ, const("s2"), const("z2")))
def requantized_by_another_scale(m: Any, new: Any) -> Any:
    same = np.array_equal(m.z.numpy(), m.z2.numpy()) and m.z.dtype == m.z2.dtype
    return m.q if same else refuse("other zero points")


@broken(
    "dequantize(quantize(x)) becomes x, although it rounds and saturates", witness(Q % "", FEEDS, s=0.25, z=np.uint8(1))
)
@rule("quantization-dropped", P.DequantizeLinear(P.QuantizeLinear("x", const("s"), maybe("z")), "s2", maybe("z2")))
def quantization_dropped(m: Any, new: Any) -> Any:
    return m.x if m.s is m.s2 and m.z is m.z2 else refuse("other parameters")


@broken(
    "a Transpose moves before a DequantizeLinear, whose axis stays as it was",
    witness(
        "g (int8[2,2] x) => (float[2,2] y) { d = DequantizeLinear<axis=0>(x, s)  y = Transpose<perm=[1,0]>(d) }",
        {"x": np.array([[1, 2], [3, 4]], np.int8)}, s=[1.0, 10.0],
    ),
)  # fmt: skip
@rule("dequantize-axis-lost", P.Transpose(P.DequantizeLinear("q", const("s"), maybe("z")).as_("dq")).as_("t"))
def dequantize_axis_lost(m: Any, new: Any) -> Any:
    return new.DequantizeLinear(new.Transpose(m.q, like=m.t), m.s, m.z, like=m.dq)
