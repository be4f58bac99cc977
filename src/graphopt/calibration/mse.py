"""The range that quantizes with the least squared error, found on a histogram.

(Clipping for least error: S. Migacz, GTC 2017; R. Banner et al., "Post training 4-bit quantization", NeurIPS 2019,
section 3, which splits the error, as here, into what is cut off and the noise of rounding, scale**2 / 12.)
"""

from __future__ import annotations

import itertools

import numpy as np

from graphopt.calibration.histogram import HALF, Histogram

__all__ = ["error_of", "least_error"]

Pair = tuple[float, float]
_STEPS = np.exp2(-np.arange(81) / 8)  # shares of an end of the range: down to a thousandth
_FINE = (0.96, 0.98, 1.0, 1.02, 1.04)


def least_error(histogram: Histogram, extent: Pair, bits: int, symmetric: bool) -> Pair:
    """The range of least squared error, at most `extent`: the best of a grid by the two parts of the error, and of what
    is near it by the error itself."""
    low, high = extent
    lows = low * _STEPS if low < 0 else np.array([low])
    highs = high * _STEPS if high > 0 else np.array([high])
    if symmetric and low < 0 < high:
        largest = max(-low, high)
        shares = _STEPS * largest
        cut = _cut_above(histogram, shares, extent) + _cut_below(histogram, -shares, extent)
        best = int(np.argmin(cut + _noise(histogram, 2 * shares, bits)))
        pairs = [(max(low, -shares[best] * f), min(high, shares[best] * f)) for f in _FINE]
    else:
        spans = np.maximum(highs, 0)[None, :] - np.minimum(lows, 0)[:, None]
        cut = _cut_below(histogram, lows, extent)[:, None] + _cut_above(histogram, highs, extent)[None, :]
        row, column = np.unravel_index(int(np.argmin(cut + _noise(histogram, spans, bits))), spans.shape)
        near_low = {max(low, lows[row] * f) if low < 0 else low for f in _FINE}
        near_high = {min(high, highs[column] * f) if high > 0 else high for f in _FINE}
        pairs = list(itertools.product(sorted(near_low), sorted(near_high)))
    errors = [error_of(histogram, pair, extent, bits, symmetric) for pair in (*pairs, extent)]
    found = (*pairs, extent)[int(np.argmin(errors))]
    return float(found[0]), float(found[1])


def error_of(histogram: Histogram, pair: Pair, extent: Pair, bits: int, symmetric: bool) -> float:
    """The squared error, summed over all values, of quantizing to integers of so many bits over a range that takes in
    zero, with the zero point at an integer."""
    points, counts = _points(histogram, extent)
    low, high = min(pair[0], 0.0), max(pair[1], 0.0)
    if symmetric:
        least, most = -(2 ** (bits - 1)) + 1, 2 ** (bits - 1) - 1
        scale, zero = max(-low, high) / most, 0.0
    else:
        least, most = 0, 2**bits - 1
        scale = (high - low) / most
        zero = float(np.rint(-low / scale)) if scale else 0.0
    if not scale:
        return float(counts @ points**2)
    found = (np.clip(np.rint(points / scale) + zero, least, most) - zero) * scale
    return float(counts @ (found - points) ** 2)


def _points(histogram: Histogram, extent: Pair) -> tuple[np.ndarray, np.ndarray]:
    """The middles of the bins that hold something, and what they hold; what is in the bin from zero up counts as
    zero."""
    used = np.flatnonzero(histogram.counts)
    points = (used - HALF + 0.5) * histogram.width
    points[used == HALF] = 0.0
    return np.clip(points, *extent), histogram.counts[used].astype(np.float64)


def _noise(histogram: Histogram, spans: np.ndarray, bits: int) -> np.ndarray:
    """Of rounding: zero itself has none."""
    number = float(histogram.counts.sum() - histogram.counts[HALF])
    return np.asarray((spans / (2**bits - 1)) ** 2 / 12 * number)


def _cut_above(histogram: Histogram, ends: np.ndarray, extent: Pair) -> np.ndarray:
    """The squared error of values above each end, which become the end."""
    points, counts = _points(histogram, extent)
    sums = [np.concatenate([np.cumsum((counts * points**power)[::-1])[::-1], [0.0]]) for power in range(3)]
    place = np.searchsorted(points, ends, side="right")
    return np.asarray(np.maximum(0.0, sums[2][place] - 2 * ends * sums[1][place] + ends**2 * sums[0][place]))


def _cut_below(histogram: Histogram, ends: np.ndarray, extent: Pair) -> np.ndarray:
    """The squared error of values below each end, which become the end."""
    points, counts = _points(histogram, extent)
    sums = [np.concatenate([[0.0], np.cumsum(counts * points**power)]) for power in range(3)]
    place = np.searchsorted(points, ends, side="left")
    return np.asarray(np.maximum(0.0, sums[2][place] - 2 * ends * sums[1][place] + ends**2 * sums[0][place]))
