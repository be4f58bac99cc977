"""The threshold that loses least information: S. Migacz, "8-bit inference with TensorRT", GTC 2017.

Every candidate cuts the histogram at -t and t, with what lies outside counted in the outermost bins, and compares it
with what is left of it in `levels` levels, by the Kullback-Leibler divergence. Details (how bins are merged, the last
level's remainder, smoothing, single precision) are those of `onnxruntime.quantization.calibrate`, whose search takes
time quadratic in the bins in Python; here each candidate is a few operations on whole arrays.
"""

from __future__ import annotations

import numpy as np

__all__ = ["threshold_bins"]

_LITTLE = 1e-4  # what smoothing gives to empty bins


def threshold_bins(counts: np.ndarray, levels: int) -> int:
    """How many bins on each side of the middle to keep: at least levels // 2, at most half of the bins.

    counts: of an even number of bins over (-t, t), integers. With as many bins as levels there is one candidate: all.

    >>> import numpy as np
    >>> spread = np.random.default_rng(0).laplace(size=100000)
    >>> 64 <= threshold_bins(np.histogram(spread, 2048, (-12, 12))[0], 128) < 1024
    True
    """
    middle = counts.size // 2
    least = min(levels // 2, middle)
    sums = np.concatenate([[0], np.cumsum(counts)])
    best, found = np.inf, middle
    for kept in range(least, middle + 1):
        start, end = middle - kept, min(middle + kept + 1, counts.size)
        divergence = _divergence(counts[start:end], levels, int(sums[start]), int(sums[-1] - sums[end]))
        if divergence < best:
            best, found = divergence, kept
    return found


def _divergence(inside: np.ndarray, levels: int, left: int, right: int) -> float:
    """Of the cut distribution from its levels; infinite where it is empty."""
    reference = inside.astype(np.int64)
    reference[0] += left
    reference[-1] += right
    filled = reference != 0
    if inside.size < levels:
        return float(np.inf)
    each = inside.size // levels
    whole = each * levels
    sums = inside[:whole].reshape(levels, each).sum(axis=1)
    sums[-1] += inside[whole:].sum()
    present = filled[:whole].reshape(levels, each).sum(axis=1)
    level = np.divide(sums, present, out=np.zeros(levels), where=present > 0).astype(np.int64)
    candidate = np.zeros(inside.size, np.int64)
    candidate[:whole] = np.repeat(level, each)
    p, q = _smoothed(reference), _smoothed(candidate)
    if p is None or q is None:
        return float(np.inf)
    return float(np.sum(p * np.log(p / q)))


def _smoothed(counts: np.ndarray) -> np.ndarray | None:
    """Empty bins get a little, which is taken off the others; as shares, float32. None of nothing."""
    empty = counts == 0
    number = int(empty.sum())
    if number == counts.size:
        return None
    less = _LITTLE * number / (counts.size - number)
    values = counts.astype(np.float32)
    values += np.where(empty, np.float32(_LITTLE), np.float32(-less))
    if less >= 1 or (values <= 0).any():
        return None
    return np.asarray(values / values.sum())
