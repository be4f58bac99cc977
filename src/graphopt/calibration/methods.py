"""From what was collected to ranges: the observers' choices of where to cut."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from graphopt.analysis.ranges import Ranges, TensorRange
from graphopt.calibration.collection import Collection
from graphopt.calibration.entropy import threshold_bins
from graphopt.calibration.histogram import HALF, Histogram
from graphopt.calibration.mse import error_of, least_error
from graphopt.errors import GraphoptError
from graphopt.ir.external import shown

__all__ = ["HISTOGRAM_METHODS", "METHODS", "Options", "check_method", "ranges_of", "without_channels"]

METHODS = ("minmax", "moving-average", "percentile", "entropy", "mse", "auto")
HISTOGRAM_METHODS = ("percentile", "entropy", "mse", "auto")
Pair = tuple[float, float]


@dataclass(frozen=True)
class Options:
    """Settings of the observers.

    percentile: share of the values, in percent, that stay within. two_sided: cut half of the others on each side,
    rather than by magnitude. bins, levels: of the entropy search; with as many bins as levels, which is ONNX Runtime's
    default, nothing is cut, so give 2048 bins for the search of TensorRT. averaging: the least weight of a new sample
    in the moving average. bits, symmetric: of the integers that mse and auto quantize to.
    """

    percentile: float = 99.999
    two_sided: bool = False
    bins: int = 128
    levels: int = 128
    averaging: float = 0.01
    bits: int = 8
    symmetric: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.percentile <= 100:
            raise GraphoptError(f"percentile {self.percentile} is not within 0 and 100")
        if self.levels < 2 or self.bins < self.levels or self.bins % 2:
            raise GraphoptError(
                f"{self.bins} bins and {self.levels} levels: bins must be even, and no fewer than levels"
            )
        if not 0 < self.averaging <= 1:
            raise GraphoptError(f"averaging {self.averaging} is not within 0 and 1")
        if not 2 <= self.bits <= 16:
            raise GraphoptError(f"{self.bits} bits: give 2 to 16")


def check_method(method: str, options: dict[str, Any]) -> Options:
    """The options of a method. Raises GraphoptError for a method or option that there is not."""
    if method not in METHODS:
        raise GraphoptError(f"unknown calibration method {method!r}; choose one of {', '.join(METHODS)}")
    known = [field.name for field in fields(Options)]
    for name in options:
        if name not in known:
            raise GraphoptError(f"unknown calibration option {name!r}; there are {', '.join(known)}")
    return Options(**options)


def ranges_of(found: Collection, method: str, **given: Any) -> Ranges:
    """See `Collection.ranges`."""
    options = check_method(method, given)
    plan = found.plan
    if not found.samples:
        raise GraphoptError("no sample was collected, so there are no ranges; give calibration data")
    for needs, has, what in (
        (method in HISTOGRAM_METHODS, plan.histograms, "histograms"),
        (method == "moving-average", plan.per_sample, "the range of each sample"),
    ):
        if needs and not has:
            raise GraphoptError(f"the plan of this collection keeps no {what}, which {method} needs; collect again")
    known = [name for name in plan.tensors if _was_seen(found, name) and name not in found.infinite]
    tensors = {name: _range(found, name, method, options) for name in known}
    for alias, name in plan.aliases:
        if name in tensors:
            tensors[alias] = without_channels(tensors[name])
    notes = list(plan.notes)
    unseen = [name for name in plan.tensors if not _was_seen(found, name) and name not in found.infinite]
    for what, names in (("without elements in every sample", unseen), ("with infinite values", sorted(found.infinite))):
        if names:
            more = f" and {len(names) - 4} more" if len(names) > 4 else ""
            notes.append(f"no range for tensors {what}: {', '.join(map(shown, names[:4]))}{more}")
    if method == "entropy" and options.bins == options.levels:
        notes.append(f"entropy with {options.bins} bins for {options.levels} levels cuts nothing; bins=2048 searches")
    return Ranges(tensors, model=plan.model, samples=found.samples, notes=notes)


def _was_seen(found: Collection, name: str) -> bool:
    extent = found.extents[name]
    return extent.low <= extent.high


def _range(found: Collection, name: str, method: str, options: Options) -> TensorRange:
    extent = found.extents[name]
    if method == "moving-average":
        low, high = _moving(found.pairs[name], options.averaging)
    elif method == "minmax" or extent.low == extent.high:
        low, high = extent.low, extent.high
    else:
        method, (low, high) = _chosen(found.histograms[name], method, (extent.low, extent.high), options)
    made: dict[str, Any] = {}
    channels = found.channels.get(name)
    if channels is not None and channels.count:
        made = {"channel_low": channels.low.astype(np.float64), "channel_high": channels.high.astype(np.float64)}
        made.update(channel_axis=channels.axis, channel_mean=channels.mean)
    return TensorRange(low, high, extent.low, extent.high, method, **made)


def without_channels(found: TensorRange) -> TensorRange:
    """For a tensor that holds the same values in another shape."""
    return TensorRange(found.low, found.high, found.minimum, found.maximum, found.method)


def _moving(pairs: dict[int, Pair], least: float) -> Pair:
    """In the order of the samples: the plain mean at first, from 1 / least samples on an exponential average."""
    low = high = 0.0
    for number, sample in enumerate(sorted(pairs), 1):
        weight = max(least, 1 / number)
        low += weight * (pairs[sample][0] - low)
        high += weight * (pairs[sample][1] - high)
    return min(low, high), max(low, high)


def _chosen(histogram: Histogram, method: str, extent: Pair, options: Options) -> tuple[str, Pair]:
    if method != "auto":
        return method, _CHOICES[method](histogram, extent, options)
    if options.bins == options.levels:
        options = replace(options, bins=16 * options.levels)
    candidates = {"minmax": extent} | {name: choice(histogram, extent, options) for name, choice in _CHOICES.items()}
    errors = {name: error_of(histogram, pair, extent, options.bits, options.symmetric)
              for name, pair in candidates.items()}  # fmt: skip
    best = min(errors, key=lambda name: errors[name])
    return best, candidates[best]


def _percentile(histogram: Histogram, extent: Pair, options: Options) -> Pair:
    low, high = extent
    share = options.percentile / 100
    if options.two_sided:
        cut = (1 - share) / 2
        edges = histogram.edges()
        return max(low, _quantile(edges, histogram.counts, cut)), min(high, _quantile(edges, histogram.counts, 1 - cut))
    magnitudes = histogram.counts[HALF:] + histogram.counts[HALF - 1 :: -1]
    threshold = _quantile(histogram.edges()[HALF:], magnitudes, share)
    return max(low, -threshold), min(high, threshold)


def _quantile(edges: np.ndarray, counts: np.ndarray, share: float) -> float:
    """Where the bin begins in which a share of all values is reached, as in ONNX Runtime: then its result, which has
    wider bins, is never more than one of these away."""
    sums = np.cumsum(counts)
    return float(edges[min(int(np.searchsorted(sums, share * sums[-1])), counts.size - 1)])


def _entropy(histogram: Histogram, extent: Pair, options: Options) -> Pair:
    low, high = extent
    largest = max(-low, high)
    edges = np.linspace(-largest, largest, options.bins + 1)
    counts = np.diff(np.rint(histogram.below(edges, low, high)).astype(np.int64))
    counts[-1] += int(histogram.counts.sum() - counts.sum())  # values equal to the last edge
    kept = threshold_bins(counts, options.levels)
    middle = options.bins // 2
    return max(low, float(edges[middle - kept])), min(high, float(edges[min(middle + kept + 1, options.bins)]))


def _mse(histogram: Histogram, extent: Pair, options: Options) -> Pair:
    return least_error(histogram, extent, options.bits, options.symmetric)


_CHOICES: dict[str, Callable[[Histogram, Pair, Options], Pair]] = {
    "percentile": _percentile, "entropy": _entropy, "mse": _mse,
}  # fmt: skip
