"""Affine maps folded into Gemm: alpha * A' B' + beta * C, where A' and B' may be transposed (ONNX operator
specification).
"""

from __future__ import annotations

import numpy as np

from graphopt.ir import NDArray, Node, Value
from graphopt.passes.fusion._affine import FLOATS, Affine, cancels, rounded, scaled
from graphopt.rewrite import Builder, Match, Refusal, refuse
from graphopt.rewrite.rule import Outcome

_BLOCK = 1 << 20  # elements


def why_not(weight: Value) -> str:
    """Why nothing can be folded into these weights, or nothing."""
    if weight.dtype not in FLOATS:
        return "the weights are not floating-point numbers"
    return "" if weight.numpy().ndim == 2 else "the weights are no matrix"


def columns(gemm: Node, weight: Value) -> int:
    """How many channels the result has."""
    return int(weight.numpy().shape[0 if gemm.attr("transB", 0) else 1])


def rows(gemm: Node, weight: Value) -> int:
    """How many channels the first operand has."""
    return int(weight.numpy().shape[1 if gemm.attr("transB", 0) else 0])


def after(m: Match, new: Builder, affine: Affine) -> Outcome:
    """affine(gemm(x, w, b)) as one node; the map's channels are columns, its shift may be a whole matrix."""
    gemm, w = m.gemm, m.w
    weight = w
    if affine.scale is not None:
        data = scaled(w, _factor(affine.scale, bool(gemm.attr("transB", 0))), affine.worth)
        if isinstance(data, Refusal):
            return data
        weight = new.constant(data, w.name or "weight")
    return _with_bias(m, new, weight, affine.scale, affine.shift)


def before(m: Match, new: Builder, affine: Affine) -> Outcome:
    """gemm(affine(x), w, b) as one node; the map's channels are the rows of the weights."""
    gemm, w = m.gemm, m.w
    weight, shift = w, None
    if affine.shift is not None and (affine.shift != 0).any():
        if cancels(affine.shift, w):
            return refuse("the shift is so large that behind the products it would cancel their digits")
        matrix = w.numpy().T if gemm.attr("transB", 0) else w.numpy()
        shift = gemm.attr("alpha", 1.0) * moved(affine.shift, matrix)
    if affine.scale is not None:
        data = scaled(w, _factor(affine.scale, not gemm.attr("transB", 0)), affine.worth)
        if isinstance(data, Refusal):
            return data
        weight = new.constant(data, w.name or "weight")
    return _with_bias(m, new, weight, None, shift)


def moved(shift: NDArray, matrix: NDArray) -> NDArray:
    """What a shift of the first operand (one number, or one per row of the matrix) adds to each column of a product."""
    each = np.broadcast_to(shift, matrix.shape[:1])
    total = np.zeros(matrix.shape[1])
    step = max(1, _BLOCK // max(1, matrix.shape[1]))
    with np.errstate(all="ignore"):
        for start in range(0, matrix.shape[0], step):  # in blocks: a float64 copy of large weights would be large
            total += each[start : start + step] @ matrix[start : start + step].astype(np.float64)
    return total


def _with_bias(m: Match, new: Builder, weight: Value, scale: NDArray | None, shift: NDArray | None) -> Outcome:
    gemm, b, beta = m.gemm, m.get("b"), m.gemm.attr("beta", 1.0)
    if b is None or (scale is None and shift is None):
        if shift is None:
            if b is None and new.graph.opset() < 11:  # Gemm had no optional C
                b = new.constant(np.zeros(1), f"{gemm.label}_bias", like=m.w)
            return new.Gemm(m.x, weight, b, like=gemm)
        beta = 0.0
    elif not b.is_const:
        return refuse("the bias is computed at run time")
    old = np.float64(0.0) if b is None else b.numpy().astype(np.float64)
    with np.errstate(all="ignore"):
        values = old * (scale if scale is not None else 1.0)
        if shift is not None:
            values = (beta * values if beta else 0.0) + shift
    data = rounded(values, m.w if b is None else b)
    if isinstance(data, Refusal):
        return data
    bias = new.constant(data, b.name if b is not None else f"{gemm.label}_bias")
    changed = {} if shift is None else {"beta": None}
    return new.Gemm(m.x, weight, bias, like=gemm, **changed)


def _factor(values: NDArray, on_rows: bool) -> NDArray:
    return values if values.ndim == 0 else values[:, None] if on_rows else values[None, :]
