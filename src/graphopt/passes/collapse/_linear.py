"""Products of constant weights: what linear operators in a row make together."""

from __future__ import annotations

import numpy as np

from graphopt.ir import NDArray, Value
from graphopt.passes.fusion._affine import FLOATS, rounded
from graphopt.rewrite import Refusal, refuse

_WORK = 1 << 31  # multiplications at compile time, about a second
LESS = 0.9  # what must be left of the multiplications for each element


def why_not(*weights: Value) -> str:
    """Why a product of these weights cannot take their place, or nothing."""
    if any(w.dtype not in FLOATS or w.dtype != weights[0].dtype for w in weights):
        return "the weights are not floating-point numbers of one type"
    if any(w.outs or sum(w.users.values()) > 1 for w in weights):
        return "others read the weights, too"
    return ""


def product(a: NDArray, b: NDArray, like: Value) -> NDArray | Refusal:
    """a @ b (matrices) in float64, rounded once."""
    if a.shape[0] * a.shape[1] * b.shape[1] > _WORK:
        return refuse("the product of the weights would take long to compute")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return refuse("the weights are not finite")
    with np.errstate(all="ignore"):
        exact = a.astype(np.float64) @ b.astype(np.float64)
        terms = float(np.abs(a).max(initial=0)) * float(np.abs(b).max(initial=0))
    if _leaves_range(float(np.abs(exact).max(initial=0.0)), terms, like):
        return refuse("the product of the weights would be too small, or too large, for their type")
    return rounded(exact, like)


def _leaves_range(largest: float, terms: float, like: Value) -> bool:
    """Whether weights leave the range in which their type has all its digits: above its maximum, or all so small that
    they are subnormal. terms: the largest product of two weights."""
    lowest, highest = {2: (6.2e-5, 6.5e4), 4: (1.2e-38, 3.4e38), 8: (2.3e-308, 1.7e308)}[like.numpy().dtype.itemsize]
    return not largest <= highest or (terms > 0 and largest < lowest) or not terms < np.inf


def summed(weights: NDArray, shift: NDArray) -> NDArray:
    """What a shift of the operand's channels adds to a product's: weights [out, in, taps], shift [in]."""
    with np.errstate(all="ignore"):
        total: NDArray = np.tensordot(weights.astype(np.float64).sum(-1), shift.astype(np.float64), axes=([1], [0]))
    return total
