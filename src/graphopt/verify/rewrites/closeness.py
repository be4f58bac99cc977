"""Whether two values agree: quickly where they do, against the old side's own rounding where they do not."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from graphopt.verify.compare import Deviation, deviation, tolerance_for

__all__ = ["agree", "within_noise"]

_NODES = 16  # the rounding of as many operators is allowed to one site
_SLICE = 16  # elements that a local scale needs behind it, as in `deviation`
_FAINT = 2.0**-14  # of the whole's scale: no local scale is taken smaller there
_CHUNK = 1 << 15  # elements that fit into a cache
_FEW = 1 << 14  # elements that are compared bit by bit first: most small values agree so
_SHOWN, _ENOUGH = 1 << 12, 1 << 17  # elements of a channel, and of an array, that are enough to compare
_KEPT = 8  # elements that are kept of each axis for a bound
_FAR = 1e4  # times the median magnitude: what is larger stands apart there
_PEAK, _RMS = 8.0, 4.0  # times the old side's own noise that still count as noise
_CANCELLED = 16.0  # times the tolerance, of what is computed with: what rounding may leave of terms that cancel
_MEANINGLESS = 0.05  # rms from which on noise says nothing

Outputs = dict[str, Any]


def agree(expected: Any, actual: Any) -> Deviation | None:
    """None where the values agree within what a few operators round, else how far they are apart."""
    if isinstance(expected, np.ndarray) and isinstance(actual, np.ndarray) and _alike(expected, actual):
        return None
    with np.errstate(all="ignore"):
        found = deviation(expected, actual)
    return None if found.none or tolerance_for(found.dtype, _NODES).allows(found) else found


def _alike(expected: np.ndarray, actual: np.ndarray) -> bool:
    """Equal in every bit; or, of finite float32, certainly within the tolerance."""
    if expected.dtype != actual.dtype or expected.shape != actual.shape:
        return False
    if expected is actual or expected.size == 0:
        return True
    if expected.size <= _FEW and expected.dtype.kind in "biuf" and np.array_equal(_bits(expected), _bits(actual)):
        return True
    if expected.dtype == np.float32:
        with np.errstate(all="ignore"):
            near = _near(np.ascontiguousarray(expected), np.ascontiguousarray(actual))
        if near is not None:
            return near
    return expected.dtype.kind in "biuf" and np.array_equal(_bits(expected), _bits(actual))


def _near(expected: np.ndarray, actual: np.ndarray) -> bool | None:
    """Whether float32 arrays are within the tolerance of `deviation`: by bounds that take few passes over them.

    The local scale of an element is the least over the axes of the largest magnitude in its slice. Of a part of the
    elements it can only be smaller, so a part will do where it passes; else all elements are looked at, axis by axis.
    Of large arrays the errors, too, are those of a part: both ends and the middle of each channel. None where some
    elements are not finite.
    """
    limit = tolerance_for("float32", _NODES)
    largest, squares, scale, count = _rows(expected, actual)
    worst = float(largest.max())
    if not np.isfinite(worst):
        return None
    if worst == 0:
        return True if count == expected.size else None
    bound = np.minimum(scale, np.float32(_least_scale(expected, float(scale.max()))))
    relative = np.divide(squares, np.square(bound), out=np.zeros_like(squares), where=bound > 0)
    calm = not squares[bound <= 0].any() and float(relative.sum()) <= limit.rms**2 * count
    if bool((largest <= limit.peak * bound).all()) and calm:
        return True
    magnitude = np.abs(expected)
    whole = float(magnitude.max())
    error = expected - actual
    np.abs(error, out=error)
    if not float(error.max()) <= limit.peak * whole or _stands_apart(whole, 0.5, magnitude):
        return False  # or elements that are scales of their own
    locals_ = []
    for axis in _axes(expected):
        local = np.maximum(_along(magnitude, axis, np.maximum), np.float32(whole * _FAINT))
        if bool((_along(error, axis, np.maximum) > limit.peak * local).any()):
            return False
        locals_.append((axis, local / np.float32(whole)))
    return calm or _mean_is_small(error, whole, locals_, limit.rms)


def _mean_is_small(error: np.ndarray, whole: float, scales: list[tuple[int, np.ndarray]], most: float) -> bool:
    """Whether the root mean square of error / scale is at most `most`, the scale being the least of those along the
    axes, which are shares of the `whole`."""
    shares = np.square(error / np.float32(whole))
    total = float(np.sum(shares, dtype=np.float64))
    for axis, local in scales:
        total += float(np.sum(_along(shares, axis, np.add) / np.square(local), dtype=np.float64))
    return total <= most**2 * error.size


def _rows(expected: np.ndarray, actual: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """For each channel (all of an array with fewer axes) the largest error, NaN where one is, the sum of their squares
    and the largest magnitude; and of how many elements: of long channels the first, the last and those in the middle.
    """
    channels = math.prod(expected.shape[:2]) if expected.ndim > 2 else 1
    left, right = expected.reshape(channels, -1), actual.reshape(channels, -1)
    length = left.shape[1]
    kept = max(_SHOWN, _ENOUGH // channels)
    places = [slice(0, length)]
    if length >= 2 * kept:
        end, middle = kept // 4, (length - kept // 2) // 2
        places = [slice(0, end), slice(middle, middle + kept // 2), slice(length - end, length)]
    largest, scale = np.zeros(channels, np.float32), np.zeros(channels, np.float32)
    squares = np.zeros(channels, np.float64)
    count = 0
    for place in places:
        width = place.stop - place.start
        step = max(1, _CHUNK // width)  # so many rows fit into a cache
        for row in range(0, channels, step):
            rows = slice(row, row + step)
            here = left[rows, place]
            apart = here - right[rows, place]
            scale[rows] = np.maximum(scale[rows], np.maximum(here.max(axis=1), -here.min(axis=1)))
            largest[rows] = np.maximum(largest[rows], np.maximum(apart.max(axis=1), -apart.min(axis=1)))
            squares[rows] += np.einsum("ij,ij->i", apart, apart)
        count += width * channels
    return largest, squares, scale, count


def _least_scale(array: np.ndarray, top: float) -> float:
    """A lower bound of the local scales, those of channels left out; 0 where elements are scales of their own. top: the
    largest magnitude."""
    steps = [max(1, size // _KEPT) for size in array.shape]
    sample = np.abs(array[tuple(slice(None, None, step) for step in steps)])
    if _stands_apart(top, 0.25, sample):
        return 0.0
    least = float(sample.max())
    for axis in _axes(array):
        if axis != 1 or array.ndim <= 2:
            part = array[tuple(slice(None, None, 1 if i == axis else step) for i, step in enumerate(steps))]
            least = min(least, float(_along(np.abs(part), axis, np.maximum).min()))
    return least


def _stands_apart(top: float, share: float, magnitude: np.ndarray) -> bool:
    """Whether `top` is more than this share of what would be a scale of its own: `_FAR` times the median of what is not
    zero, and of a part of it, as in `deviation`. A median is below a bound where half of the numbers are."""
    sample = magnitude.reshape(-1)[:: max(1, magnitude.size // 65536)]
    zeros = sample.size - int(np.count_nonzero(sample))
    below = int(np.count_nonzero(sample < top / (share * _FAR))) - zeros
    return 2 * below >= sample.size - zeros


def _axes(array: np.ndarray) -> list[int]:
    return [axis for axis, size in enumerate(array.shape) if size > 1 and array.size // size >= _SLICE]


def _along(array: np.ndarray, axis: int, merge: np.ufunc) -> np.ndarray:
    """Reduces all axes but one."""
    size, rest = array.shape[axis], math.prod(array.shape[axis + 1 :])
    inner = array.reshape(-1, size) if rest == 1 else merge.reduce(array.reshape(-1, rest), axis=1).reshape(-1, size)
    return np.asarray(merge.reduce(inner, axis=0))


def _bits(array: np.ndarray) -> np.ndarray:
    kind = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}[array.dtype.itemsize]
    return np.ascontiguousarray(array).view(kind)


def within_noise(
    found: Deviation, floors: Iterator[Deviation | None] | Callable[[], Iterator[Deviation | None]], terms: float = 0.0
) -> bool | None:
    """Whether a difference is no more than a small multiple of what one unit in the last place of the old side's inputs
    or weights does to it; None where nothing but rounding is left of the old side's terms, which cancel. floors: such
    differences, measured one after the other while they are asked for. terms: the magnitude of what is computed with.
    """
    if found.kind or found.exact:
        return False
    plain = tolerance_for(found.dtype, _NODES)
    floor: Deviation | None = None
    for measured in floors() if callable(floors) else floors:
        if measured is None or measured.kind:
            continue
        floor = measured if floor is None else floor.worse(measured)
        if (
            found.mismatches <= 2 * floor.mismatches
            and found.peak <= _PEAK * floor.peak + plain.peak
            and found.rms <= _RMS * floor.rms + plain.rms
        ):
            if floor.rms <= _MEANINGLESS:
                return True
            # What is rounded to whole steps on the way may differ by a step: that is no rounding of terms.
            if floor.max_abs <= _CANCELLED * plain.peak * max(terms, terms**2):
                return None
    return False
