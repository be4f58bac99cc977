"""Round to nearest, in blocks: scale and zero point of each block, by its range or by what gives the least error.

By its range is bit for bit what onnxruntime's matmul_nbits_quantizer does: asymmetric, the range with 0 in it over 2 **
bits - 1 steps; symmetric, the number of largest magnitude at the end that has a step more, so that the scale may be
negative (`positive` forbids that). The search shrinks the range step by step (numbers beyond it are clipped, all others
have finer steps), tries the zero points next to the rounded one, and fits the scale to the codes by least squares; it
keeps what has the least sum of h (w - w')^2, where h is E[x^2] of the input that multiplies w, or 1 where that is not
known. The form of the search is that of llama.cpp's k-quants. But least squares makes w' a little smaller than w, in
every block: errors that add up in the output instead of cancelling, and cost trained models up to 8 dB. So the scale is
at last the one with sum h w w' = sum h w^2, at the same codes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from graphopt.ir import NDArray
from graphopt.passes.quantize._blocks import Blocks, blocks_of

SHRINK = tuple(round(1.0 - 0.035 * step, 3) for step in range(13))  # how much of the range is kept
CHUNK = 1 << 17  # weights looked at together: what fits into the second-level cache, several times over


@dataclass(frozen=True)
class Grid:
    """What numbers a block may be made of.

    bits: of a code. size: weights in a block. symmetric: zero points in the middle, none stored. search: least error
    rather than range. positive: scales are never negative, which some runtimes ask for.
    """

    bits: int = 4
    size: int = 32
    symmetric: bool = False
    search: bool = True
    positive: bool = False

    @property
    def top(self) -> int:
        """The largest code."""
        return int(2**self.bits) - 1

    @property
    def middle(self) -> int:
        """The zero point of a symmetric block."""
        return int(2 ** (self.bits - 1))


def quantize_matrix(weight: NDArray, grid: Grid, importance: NDArray | None = None) -> Blocks:
    """Rounds a float matrix [K, N] in blocks along K. importance: h, [K], not negative.

    Every weight that is not clipped is at most half a scale off.

    >>> w = np.linspace(-1, 1, 64, dtype=np.float32).reshape(64, 1)
    >>> bool(abs(quantize_matrix(w, Grid(8, 32)).real() - w).max() < 0.005)
    True
    """
    rows, columns = weight.shape
    count = blocks_of(rows, grid.size)
    codes = np.empty((rows, columns), np.uint8)
    scale = np.empty((count, columns), weight.dtype)
    zero = np.empty((count, columns), np.uint8)
    width = max(1, CHUNK // max(1, grid.size))
    for block in range(count):
        part = slice(block * grid.size, min((block + 1) * grid.size, rows))
        h = None if importance is None else importance[part, None].astype(np.float32)
        for start in range(0, columns, width):
            some = slice(start, start + width)
            piece = np.asarray(weight[part, some])
            scale[block, some], zero[block, some] = parameters(piece, grid, h)
            codes[part, some] = encode(piece, scale[block, some], zero[block, some], grid.top)
    return Blocks(codes, scale, zero, grid.bits, grid.size, grid.symmetric)


def encode(weight: NDArray, scale: NDArray, zero: NDArray, top: int) -> NDArray:
    """The codes of weights [k, n] of one block a column: rounded half away from zero, saturated, uint8."""
    step = scale.astype(np.float32)
    inverse = np.divide(np.float32(1), step, out=np.zeros_like(step), where=step != 0)
    shifted = weight.astype(np.float32) * inverse + zero.astype(np.float32)
    np.clip(shifted, 0, top, out=shifted)
    return np.asarray(np.floor(shifted.astype(np.float64) + 0.5)).astype(np.uint8)


def parameters(block: NDArray, grid: Grid, importance: NDArray | None = None) -> tuple[NDArray, NDArray]:
    """Scale (of the weight's dtype) and zero point (uint8), [n], of a block [k, n]; importance: h, [k, 1], or None."""
    low, high = block.min(axis=0).astype(np.float32), block.max(axis=0).astype(np.float32)
    scale, zero = _by_range(low, high, grid)
    scale = scale.astype(block.dtype)
    if not grid.search:
        return scale, zero
    best = _Best(block.astype(np.float32), importance, scale, zero, grid)
    for candidate in _candidates(low, high, grid):
        best.offer(*candidate)
    return best.unshrunk(), best.zero


def _by_range(low: NDArray, high: NDArray, grid: Grid, kept: float = 1.0) -> tuple[NDArray, NDArray]:
    if grid.symmetric:
        if grid.positive:
            scale = np.maximum(
                np.maximum(high, 0) / np.float32(grid.middle - 1), np.maximum(-low, 0) / np.float32(grid.middle)
            )
        else:
            scale = np.where(np.abs(high) > np.abs(low), high, low) / np.float32(-grid.middle)
        return (scale * np.float32(kept)).astype(np.float32), np.full(scale.shape, grid.middle, np.uint8)
    low, high = np.minimum(low, 0) * np.float32(kept), np.maximum(high, 0) * np.float32(kept)
    scale = ((high - low) / np.float32(grid.top)).astype(np.float32)
    ratio = np.divide(np.float32(0) - low, scale, out=np.zeros_like(scale), where=scale != 0)
    return scale, np.clip(np.floor(ratio.astype(np.float64) + 0.5), 0, grid.top).astype(np.uint8)


def _candidates(low: NDArray, high: NDArray, grid: Grid) -> list[tuple[NDArray, NDArray]]:
    """Scales and zero points to try, the range's own first."""
    found = []
    for kept in SHRINK:
        scale, zero = _by_range(low, high, grid, kept)
        found.append((scale, zero))
        if grid.symmetric:
            if not grid.positive:
                found.append((-scale, zero))
        elif grid.bits <= 4:
            wide = zero.astype(np.int16)
            found += [(scale, np.clip(wide + by, 0, grid.top).astype(np.uint8)) for by in (-1, 1)]
    return found


class _Best:
    """The best scale and zero point of each column so far."""

    def __init__(self, block: NDArray, importance: NDArray | None, scale: NDArray, zero: NDArray, grid: Grid) -> None:
        self.block, self.top, self.dtype, self.positive = block, grid.top, scale.dtype, grid.positive
        self.weights = np.float32(1) if importance is None else importance / max(float(importance.max()), 1e-30)
        self.scale, self.zero = scale, zero
        self.error = self._error(scale, zero)[0]

    def offer(self, scale: NDArray, zero: NDArray) -> None:
        """Tries these, and the scale that fits the codes they give best."""
        error, steps = self._error(scale.astype(self.dtype), zero)
        self._take(error, scale, zero)
        weighted = steps * self.weights
        above, below = (weighted * self.block).sum(axis=0), (weighted * steps).sum(axis=0)
        fitted = np.divide(above, below, out=scale.astype(np.float32), where=below > 0)
        if self.positive:
            fitted = np.abs(fitted)
        self._take(self._error(fitted.astype(self.dtype), zero)[0], fitted, zero)

    def unshrunk(self) -> NDArray:
        """The best scales, made so much larger that the weights keep their length."""
        _, steps = self._error(self.scale, self.zero)
        weighted = self.weights * self.block
        above, below = (weighted * self.block).sum(axis=0), (weighted * steps).sum(axis=0)
        wanted = np.divide(above, below, out=self.scale.astype(np.float32), where=below * self.scale > 0)
        return np.asarray(wanted.astype(self.dtype))

    def _take(self, error: NDArray, scale: NDArray, zero: NDArray) -> None:
        better = error < self.error
        self.error = np.where(better, error, self.error)
        self.scale = np.where(better, scale.astype(self.dtype), self.scale)
        self.zero = np.where(better, zero, self.zero)

    def _error(self, scale: NDArray, zero: NDArray) -> tuple[NDArray, NDArray]:
        """The weighted squared error of each column, and the codes less the zero point."""
        step, middle = scale.astype(np.float32), zero.astype(np.float32)
        inverse = np.divide(np.float32(1), step, out=np.zeros_like(step), where=step != 0)
        steps = self.block * inverse
        np.rint(steps, out=steps)
        np.clip(steps, -middle, self.top - middle, out=steps)
        off = steps * step - self.block
        return np.asarray((off * off * self.weights).sum(axis=0)), steps
