"""Error compensation: each rounding error is made up for by the weights not rounded yet.

With H = X^T X of the product's input on calibration data, the error of the output for column n is e^T H e. Weights are
rounded row after row (of [K, N], all columns at once); the error of row i, divided by U[i, i], is taken from the rows
after it in proportion to U[i, i + 1:], where U^T U = H^-1 and U is upper triangular. Rows are gathered in blocks so
that most of the work is matrix products. Elias Frantar et al., "GPTQ", arXiv:2210.17323, algorithm 1, for W^T.

H gets `damping` times its mean diagonal on its diagonal. Rows of inputs that were always 0 are rounded to nearest.
U is found in float64 (by a Cholesky factorization of H turned about, then inverted, so that H^-1 is never formed); the
rounding is in float32. Scales and zero points are those of a block as it stands when its turn comes. With act_order
rows go by falling H[i, i] and blocks stay where they are (scales from the weights as they were), so that no g_idx is
needed, for which MatMulNBits has slow kernels only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from graphopt.errors import GraphoptError
from graphopt.ir import NDArray
from graphopt.passes.quantize._blocks import Blocks, blocks_of
from graphopt.passes.quantize._rtn import Grid, encode, parameters

ROWS = 32  # rows between two updates of all that follow; no block begins within them
COLUMNS = 4096  # columns worked on together, so that a vocabulary's matrix takes no more memory than others


@dataclass(frozen=True)
class Factor:
    """What the second moments of an input say. upper: U, its rows divided by their diagonal, float32 [K, K].
    importance: diag H, [K, 1], at most 1. order: the rows in the order in which they are rounded, or None."""

    upper: NDArray
    importance: NDArray
    order: NDArray | None


def factor_of(gram: NDArray, damping: float = 0.01, act_order: bool = False) -> Factor:
    """Of the second moments [K, K] of an input (times any positive factor).

    Raises GraphoptError where they have NaN or infinities, or are not positive definite even when damped.
    """
    diagonal = np.diagonal(gram).astype(np.float64)
    if not np.isfinite(diagonal).all():
        raise GraphoptError("the statistics hold NaN or infinities; collect them again on data without")
    order = np.argsort(-diagonal, kind="stable") if act_order else None
    h = np.maximum(diagonal / max(float(diagonal.max()), 1e-300), 1e-6)
    return Factor(_upper(gram, diagonal, damping, order), h.astype(np.float32)[:, None], order)


def compensate(weight: NDArray, factor: Factor, grid: Grid) -> Blocks:
    """Quantizes a matrix [K, N] for inputs with these moments.

    >>> x = np.float32([[1, 1], [1, 1.01]])
    >>> found = compensate(np.float32([[0.4], [0.4]]), factor_of(x.T @ x), Grid(4, 2, True, False))
    >>> found.codes.shape
    (2, 1)
    """
    rows, columns = weight.shape
    count = blocks_of(rows, grid.size)
    found = Blocks(
        np.empty((rows, columns), np.uint8),
        np.empty((count, columns), weight.dtype),
        np.empty((count, columns), np.uint8),
        grid.bits,
        grid.size,
        grid.symmetric,
    )
    for start in range(0, columns, COLUMNS):
        some = slice(start, start + COLUMNS)
        part = Blocks(found.codes[:, some], found.scale[:, some], found.zero[:, some], grid.bits, grid.size, True)
        _quantize(weight[:, some].astype(np.float32), part, factor, grid)
    return found


def _upper(gram: NDArray, diagonal: NDArray, damping: float, order: NDArray | None) -> NDArray:
    """U, float32, upper triangular, with U^T U = (H + damping * mean(diag H))^-1, its rows divided by the diagonal."""
    h = gram.astype(np.float64)
    dead = diagonal <= 0
    mean = float(diagonal[~dead].mean()) if not dead.all() else 1.0
    h[dead, :] = h[:, dead] = 0.0
    h[np.diag_indices_from(h)] = np.where(dead, mean, diagonal) + damping * mean
    if order is not None:
        h = h[np.ix_(order, order)]
    try:
        lower = np.linalg.cholesky(h[::-1, ::-1])
    except np.linalg.LinAlgError:
        raise GraphoptError("the statistics are not positive definite; raise `damping` or use more data") from None
    upper = np.linalg.inv(lower[::-1, ::-1])
    return np.asarray(upper / np.diagonal(upper)[:, None], np.float32)


def _quantize(w: NDArray, out: Blocks, factor: Factor, grid: Grid) -> None:
    """Rounds w, float32 [K, n], row by row into `out`; w is overwritten."""
    upper, h, order = factor.upper, factor.importance, factor.order
    rows = w.shape[0]
    place = order if order is not None else np.arange(rows)
    if order is not None:
        for block in range(out.scale.shape[0]):
            part = slice(block * grid.size, (block + 1) * grid.size)
            out.scale[block], out.zero[block] = parameters(w[part].astype(out.scale.dtype), grid, h[part])
        w = w[order]
    for start in range(0, rows, ROWS):
        end = min(start + ROWS, rows)
        errors = np.empty((end - start, w.shape[1]), np.float32)
        for row in range(start, end):
            at = int(place[row])
            block = at // grid.size
            if order is None and at % grid.size == 0:
                part = slice(at, at + grid.size)
                out.scale[block], out.zero[block] = parameters(w[part].astype(out.scale.dtype), grid, h[part])
            scale, zero = out.scale[block], out.zero[block]
            codes = encode(w[row], scale, zero, grid.top)
            out.codes[at] = codes
            error = w[row] - (codes.astype(np.float32) - zero) * scale.astype(np.float32)
            errors[row - start] = error
            w[row + 1 : end] -= upper[row, row + 1 : end, None] * error
        w[end:] -= upper[start:end, end:].T @ errors
