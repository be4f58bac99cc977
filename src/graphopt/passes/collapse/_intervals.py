"""Intervals of constants and of what is bounded by its type, and which operands tell the interval of a result.

An interval is what every element of a value lies between, if it is a number: NaN is not counted. What is above half the
largest number of its type counts as unbounded, so that roundings stay finite.
"""

from __future__ import annotations

from math import inf, prod

import numpy as np
from onnx import TensorProto

from graphopt.ir import NDArray, Value

Interval = tuple[float, float]
UNKNOWN: Interval = (-inf, inf)
EXTENT = 2.0**40  # elements of any tensor, at the most

LIMITS: dict[int, float] = {
    TensorProto.DOUBLE: 8e307,
    TensorProto.FLOAT: 1.7e38,
    TensorProto.BFLOAT16: 1.6e38,
    TensorProto.FLOAT16: 3.2e4,
}
RANGES: dict[int, Interval] = {TensorProto.BOOL: (0.0, 1.0)} | {
    getattr(TensorProto, f"{sign}INT{bits}"): (0.0 if sign else -(2.0**bits), 2.0**bits)
    for bits in (4, 8, 16, 32, 64)
    for sign in ("U", "")
}
_LARGEST = 1 << 25  # elements of a constant that are looked at


def of_type(value: Value) -> Interval | None:
    """The interval of what is bounded, or unbounded, by itself; None where it follows from the operands."""
    if value.is_const:
        return of_constant(value)
    if value.dtype in RANGES:
        return RANGES[value.dtype]
    return None if value.producer is not None and value.dtype in LIMITS else UNKNOWN


def of_constant(value: Value) -> Interval:
    """The range of a constant's elements; with a NaN among them it counts as unbounded."""
    array = elements(value)
    if array is None:
        return UNKNOWN
    with np.errstate(all="ignore"):
        low, high = (float(array.min()), float(array.max())) if array.size else (0.0, 0.0)
    return (low, high) if low <= high else UNKNOWN


def elements(value: Value | None) -> NDArray | None:
    """A constant's numbers, or None: it is none, or so large that looking at them would take long."""
    if value is None or not value.is_const or (value.dtype not in LIMITS and value.dtype not in RANGES):
        return None
    shape = value.shape
    if shape is None or prod(d if isinstance(d, int) else _LARGEST + 1 for d in shape) > _LARGEST:
        return None
    return value.numpy()


def number(value: Value | None) -> float | None:
    """A constant of one element, or None."""
    array = elements(value)
    return float(array.reshape(())) if array is not None and array.size == 1 else None


def largest(value: Value | None) -> float:
    """The largest magnitude in a constant; 0 where there is none, infinity where that is not known."""
    return 0.0 if value is None else magnitude(of_constant(value)) if value.is_const else inf


def magnitude(interval: Interval) -> float:
    return max(abs(interval[0]), abs(interval[1]))


def around(bound: float) -> Interval:
    """All numbers of at most this magnitude; NaN (infinity by zero) stands for no bound."""
    return (-bound, bound) if bound >= 0 else UNKNOWN


def within_type(interval: Interval, value: Value) -> Interval:
    """An interval with what its type can hold only as infinity, or nearly, left open."""
    low, high = interval
    limit = LIMITS.get(value.dtype or 0, 0.0)
    return (low if low >= -limit else -inf, high if high <= limit else inf)  # NaN compares false


def products(weights: NDArray, axes: tuple[int, ...]) -> float:
    """The largest sum of magnitudes of weights over these axes: what a product with numbers up to 1 is at most."""
    with np.errstate(all="ignore"):
        sums = np.abs(weights).sum(axis=axes, dtype=np.float64)
    return float(sums.max(initial=0.0))
