"""What looks at a tensor while a model runs: the protocol, and the running statistics that calibration is made of.

All of them are functions of the set of samples seen: two that saw parts of it, merged in any order, hold bit for bit
what one that saw everything holds.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from graphopt.errors import GraphoptError

__all__ = ["Channels", "Extent", "Observer"]

_LIMBS = 3  # of a sum in fixed point: multiples of 1, 2**-40 and 2**-80
_LIMB = 40
_LARGEST = 2.0**50  # a sum over one channel of one sample; with 8192 samples of this size, the limbs still hold it


class Observer(Protocol):
    """Sees every value of one tensor, a sample at a time; see `graphopt.calibration.running.observe`.

    update: called once a sample with the tensor as the runtime gave it (its own shape and dtype). The array is only
    lent: copy what is to be kept. merge: takes in what another of the same kind has seen of other samples.
    """

    def update(self, array: np.ndarray) -> None:
        """Takes in the tensor of one sample."""

    def merge(self, other: Any) -> None:
        """Takes in what another saw."""


class Extent:
    """The least and the greatest value.

    >>> seen = Extent()
    >>> seen.update(np.float32([[1, -2]]))
    >>> seen.low, seen.high
    (-2.0, 1.0)
    """

    def __init__(self) -> None:
        self.low, self.high = float("inf"), float("-inf")

    def update(self, array: np.ndarray) -> None:
        """Takes in an array; one without elements changes nothing."""
        if array.size:
            self.add(float(array.min()), float(array.max()))

    def add(self, low: float, high: float) -> None:
        """Takes in values between these."""
        self.low, self.high = min(self.low, low), max(self.high, high)

    def merge(self, other: Extent) -> None:
        """Takes in what another saw."""
        self.add(other.low, other.high)


class Channels:
    """The least, greatest and mean value for every index along an axis.

    axis: may count from the end. low, high: float32; count: of values for one index. Sums are kept in fixed point, as
    integers, so that their order does not matter.

    >>> seen = Channels(1)
    >>> seen.update(np.float32([[[1, 2], [3, 5]]]))
    >>> seen.low.tolist(), seen.mean.tolist()
    ([1.0, 3.0], [1.5, 4.0])
    """

    def __init__(self, axis: int) -> None:
        self.axis = axis
        self.low = self.high = np.zeros(0, np.float32)
        self.sums = np.zeros((_LIMBS, 0), np.int64)
        self.count = 0

    @property
    def mean(self) -> np.ndarray:
        """float64; zeros where nothing was seen."""
        scales = np.ldexp(1.0, -_LIMB * np.arange(_LIMBS))
        return np.asarray(scales @ self.sums) / max(1, self.count)

    def update(self, array: np.ndarray) -> None:
        """Takes in an array. Raises GraphoptError where the axis is missing, or of another size than before."""
        rank = array.ndim
        axis = self.axis + rank if self.axis < 0 else self.axis
        if not 0 <= axis < rank:
            raise GraphoptError(f"it has {rank} dims, so no axis {self.axis} to take channels along")
        if not array.size:
            return
        rows = array.reshape(int(np.prod(array.shape[:axis])), array.shape[axis], -1)
        total = rows.sum(axis=2, dtype=np.float64).sum(axis=0)
        seen = Channels(self.axis)
        seen.low, seen.high = rows.min(axis=(0, 2)), rows.max(axis=(0, 2))
        seen.sums, seen.count = _fixed(total), array.size // array.shape[axis]
        self.merge(seen)

    def merge(self, other: Channels) -> None:
        """Takes in what another saw. Raises GraphoptError for another number of channels."""
        if not other.count:
            return
        if not self.count:
            self.low, self.high, self.sums, self.count = other.low, other.high, other.sums, other.count
            return
        if self.low.size != other.low.size:
            raise GraphoptError(
                f"axis {self.axis} has {self.low.size} channels in one sample and {other.low.size} in another"
            )
        self.low, self.high = np.minimum(self.low, other.low), np.maximum(self.high, other.high)
        self.sums, self.count = self.sums + other.sums, self.count + other.count


def _fixed(values: np.ndarray) -> np.ndarray:
    """float64 values as integers, in limbs: to the nearest multiple of 2**-80."""
    rest = np.clip(values, -_LARGEST, _LARGEST)
    limbs = []
    for _ in range(_LIMBS - 1):
        whole = np.floor(rest)
        limbs.append(whole)
        rest = (rest - whole) * 2.0**_LIMB
    return np.stack([*limbs, np.rint(rest)]).astype(np.int64)
