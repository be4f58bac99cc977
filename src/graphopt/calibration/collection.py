"""What calibration has seen so far: statistics of many tensors that can be saved, loaded, and merged in any order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphopt.analysis.ranges import Ranges
from graphopt.calibration.histogram import Histogram
from graphopt.calibration.observers import Channels, Extent
from graphopt.errors import GraphoptError
from graphopt.ir.external import shown

__all__ = ["Collection", "Plan"]


@dataclass(frozen=True)
class Plan:
    """What to collect: the names of the tensors, and what of each.

    tensors: names to tap, in the model's order. aliases: (name, tapped name) of tensors that hold the same values as
    another (behind a Reshape, say) and get its range. histograms, per_sample: whether to keep a histogram of each
    tensor (percentile, entropy, mse, auto) and the minimum and maximum of each sample (moving-average). channels:
    (name, axis) of the tensors whose minimum, maximum and mean are kept for each index along an axis. finite: tensors
    in which infinite values are an error; others that hold some get no range. model: the name of the graph. notes: what
    is left out, and why. Plain values only: it can be pickled, compared and hashed.
    """

    tensors: tuple[str, ...]
    aliases: tuple[tuple[str, str], ...] = ()
    histograms: bool = False
    per_sample: bool = False
    channels: tuple[tuple[str, int], ...] = ()
    finite: tuple[str, ...] = ()
    model: str = ""
    notes: tuple[str, ...] = ()


class Collection:
    """Statistics of the tensors of a plan over the samples seen so far.

    Samples have numbers, their position in the data from 0. `merge` is associative and commutative, and bit for bit:
    whoever saw which samples in what order, `to_bytes` and `ranges` of the whole are the same. seen: the numbers.
    extents, histograms, channels: by tensor. pairs: by tensor, the minimum and maximum of each sample by its number.
    infinite: tensors that held infinite values, with the first sample that did it.

    >>> import numpy as np
    >>> plan = Plan(("x",))
    >>> left, right = Collection(plan), Collection(plan)
    >>> left.begin(0)
    >>> left.update("x", np.float32([-1, 2]))
    >>> right.begin(1)
    >>> right.update("x", np.float32([0, 5]))
    >>> left.merge(right)
    >>> found = Collection.from_bytes(left.to_bytes()).ranges("minmax")
    >>> found["x"].low, found["x"].high, found.samples
    (-1.0, 5.0, 2)
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.seen: set[int] = set()
        self.extents = {name: Extent() for name in plan.tensors}
        self.histograms = {name: Histogram() for name in plan.tensors if plan.histograms}
        self.pairs: dict[str, dict[int, tuple[float, float]]] = {name: {} for name in plan.tensors if plan.per_sample}
        self.channels = {name: Channels(axis) for name, axis in plan.channels}
        self.infinite: dict[str, int] = {}
        self._finite = frozenset(plan.finite)
        self._sample = -1

    @property
    def samples(self) -> int:
        """How many samples were seen."""
        return len(self.seen)

    def begin(self, sample: int) -> None:
        """What follows is of this sample. Raises GraphoptError where it was seen before."""
        if sample in self.seen:
            raise GraphoptError(f"sample {sample} was collected before; samples are counted once")
        self.seen.add(sample)
        self._sample = sample

    def update(self, name: str, array: np.ndarray) -> None:
        """Takes in one tensor of the sample begun, once. Raises GraphoptError, naming tensor and sample, for NaN, and
        in tensors of `plan.finite` for infinite values (those beyond float32 count as such)."""
        if not array.size:
            return
        with np.errstate(over="ignore"):  # it is said below
            values = np.ascontiguousarray(array, dtype=np.float32)
        low, high = float(values.min()), float(values.max())
        if not np.isfinite(low) or not np.isfinite(high):
            if np.isnan(low) or name in self._finite:
                raise GraphoptError(_nonfinite(name, self._sample, array, values))
            self.infinite[name] = min(self.infinite.get(name, self._sample), self._sample)
            return
        self.extents[name].add(low, high)
        if name in self.histograms:
            self.histograms[name].add(values, low, high)
        if name in self.pairs:
            self.pairs[name][self._sample] = low, high
        if name in self.channels:
            try:
                self.channels[name].update(values)
            except GraphoptError as error:
                raise GraphoptError(f"tensor {shown(name)} in sample {self._sample}: {error}") from None

    def merge(self, other: Collection) -> None:
        """Takes in what another saw. Raises GraphoptError where plans differ or a sample was seen by both."""
        if other.plan != self.plan:
            raise GraphoptError("collections of different plans cannot be merged; collect with the same tensors")
        both = sorted(self.seen & other.seen)
        if both:
            raise GraphoptError(f"sample {both[0]} is in both collections; samples are counted once")
        self.seen |= other.seen
        parts: tuple[Mapping[str, Any], ...] = (self.extents, self.histograms, self.channels)
        others: tuple[Mapping[str, Any], ...] = (other.extents, other.histograms, other.channels)
        for mine, theirs in zip(parts, others, strict=True):
            for name, observer in mine.items():
                observer.merge(theirs[name])
        for name, pairs in self.pairs.items():
            pairs.update(other.pairs[name])
        for name, sample in other.infinite.items():
            self.infinite[name] = min(self.infinite.get(name, sample), sample)

    def to_bytes(self) -> bytes:
        """Everything, plan included; the same bytes for the same samples. Call it between samples, not within one."""
        from graphopt.calibration.storage import packed

        return packed(self)

    @classmethod
    def from_bytes(cls, content: bytes) -> Collection:
        """The inverse of `to_bytes`. Raises GraphoptError where the bytes are cut short, altered, or of another
        kind."""
        from graphopt.calibration.storage import unpacked

        return unpacked(content)

    def ranges(self, method: str = "minmax", **options: Any) -> Ranges:
        """The ranges that an observer chooses; `options` as `graphopt.calibration.methods.Options`.

        Raises GraphoptError for an unknown method, where the plan did not collect what it needs, and where no sample
        was seen.
        """
        from graphopt.calibration.methods import ranges_of

        return ranges_of(self, method, **options)


def _nonfinite(name: str, sample: int, array: np.ndarray, values: np.ndarray) -> str:
    what = "NaN" if np.isnan(values).any() else "an infinite value"
    if np.isfinite(array.astype(np.float64, copy=False)).all():
        what = "a value beyond float32"
    hint = "leave the sample out, or mend the model, before calibrating"
    return f"tensor {shown(name)} holds {what} in sample {sample}; {hint}"
