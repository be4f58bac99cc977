"""Histograms that merge exactly: bins whose width is a power of two, chosen by the largest magnitude alone.

A histogram has HALF bins on each side of zero, of width 2**exponent / HALF, where every value lies in
(-2**exponent, 2**exponent). When a larger value comes the exponent grows, and bins are added in pairs: as
floor(x / 2w) is floor(floor(x / w) / 2), that gives what counting with the wide bins from the start would have given.
So the counts are a function of the values seen, whatever their order and whoever counted them. (Growing histograms:
H. Wu et al., "Integer quantization for deep learning inference", 2020, section 3.2, whose ranges depend on the order.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

__all__ = ["HALF", "Histogram", "exponent_of"]

BITS = 12
HALF = 1 << BITS  # bins on each side of zero
LEAST, MOST = -100, BITS  # exponents between which the arithmetic on float32 is exact
CHUNK = 1 << 16  # values counted at a time: they and their bins stay in the cache


def exponent_of(magnitude: float) -> int:
    """The least exponent with magnitude < 2**exponent, at least LEAST.

    >>> exponent_of(1.0), exponent_of(0.75), exponent_of(0.0)
    (1, 0, -100)
    """
    return max(LEAST, math.frexp(magnitude)[1]) if magnitude else LEAST


@dataclass
class Histogram:
    """counts: int64, of HALF bins below zero and HALF from zero up; bin i holds [i - HALF, i + 1 - HALF) * width.

    >>> a, b = Histogram(), Histogram()
    >>> a.add(np.float32([0.5, -1]), -1.0, 0.5)
    >>> b.add(np.float32([3]), 3.0, 3.0)
    >>> a.merge(b)
    >>> a.exponent, int(a.counts.sum())
    (2, 3)
    """

    exponent: int = LEAST
    counts: np.ndarray = field(default_factory=lambda: np.zeros(2 * HALF, np.int64))

    @property
    def width(self) -> float:
        """Of a bin."""
        return math.ldexp(1.0, self.exponent - BITS)

    def edges(self) -> np.ndarray:
        """float64, one more than there are bins."""
        return np.arange(-HALF, HALF + 1) * self.width

    def add(self, values: np.ndarray, low: float, high: float) -> None:
        """Counts float32 values, of which these are the least and the greatest."""
        self.widen(exponent_of(max(-low, high)))
        flat = values.reshape(-1)
        first = HALF if low >= 0 else 0
        inverse = math.ldexp(1.0, BITS - self.exponent)
        kind = np.float32 if self.exponent <= MOST else np.float64
        for start in range(0, flat.size, CHUNK):
            scaled = np.multiply(flat[start : start + CHUNK], kind(inverse), dtype=kind)
            if low < 0:
                np.floor(scaled, out=scaled)
                scaled += HALF
            found = np.bincount(scaled.astype(np.int32))
            self.counts[first : first + found.size] += found

    def widen(self, exponent: int) -> None:
        """Adds bins in pairs until they are those of an exponent, if it is greater."""
        steps = min(exponent - self.exponent, BITS + 1)  # after these every value is in one of the two bins beside zero
        if steps <= 0:
            return
        step = 1 << steps
        indices = np.flatnonzero(self.counts)
        made = np.zeros_like(self.counts)
        np.add.at(made, HALF + (indices - HALF) // step, self.counts[indices])
        self.counts, self.exponent = made, exponent

    def merge(self, other: Histogram) -> None:
        """Takes in what another counted."""
        if self.exponent < other.exponent:
            self.widen(other.exponent)
        elif other.exponent < self.exponent:
            other = Histogram(other.exponent, other.counts)
            other.widen(self.exponent)
        self.counts = self.counts + other.counts

    def below(self, points: np.ndarray, minimum: float, maximum: float) -> np.ndarray:
        """How many values lie below each point, as float64: within a bin they are taken to be spread evenly.

        minimum, maximum: of the values seen, which end the bins that they are in.
        """
        used = np.flatnonzero(self.counts)
        if not used.size:
            return np.zeros(len(points))
        first, last = int(used[0]), int(used[-1]) + 1
        edges = np.clip(np.arange(first - HALF, last + 1 - HALF) * self.width, minimum, maximum)
        sums = np.concatenate([[0], np.cumsum(self.counts[first:last])])
        found = np.interp(points, edges, sums)
        found[points <= minimum] = 0.0
        found[points > maximum] = sums[-1]
        return np.asarray(found)
