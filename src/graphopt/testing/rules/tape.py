"""Choices that can be played again: a search changes one of them, a shrinker makes them smaller."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from graphopt.testing.chooser import values
from graphopt.testing.draft import DoesNotFit

T = TypeVar("T")

__all__ = ["TapeChooser"]


class TapeChooser:
    """A Chooser that takes its choices from a tape, and random ones after its end. `tape` has what it chose.

    Each entry is a number from 0, which stands for the simplest choice; one that is too large wraps around.

    >>> first = TapeChooser(seed=3)
    >>> drawn = [first.integer(0, 9) for _ in range(4)]
    >>> second = TapeChooser(0, first.tape)
    >>> [second.integer(0, 9) for _ in range(4)] == drawn
    True
    """

    def __init__(self, seed: int = 0, given: Sequence[int] = ()) -> None:
        self._random = random.Random(seed)
        self._given = given
        self.tape: list[int] = []

    def _next(self, count: int, drawn: int | None = None) -> int:
        if not count:
            raise DoesNotFit("nothing to choose from")
        at = len(self.tape)
        if at < len(self._given):
            chosen = self._given[at] % count
        else:
            chosen = self._random.randrange(count) if drawn is None else drawn
        self.tape.append(chosen)
        return chosen

    def pick(self, options: Sequence[T]) -> T:
        """One of the options."""
        return options[self._next(len(options))]

    def integer(self, low: int, high: int) -> int:
        """A number from low to high."""
        return low + self._next(high - low + 1)

    def chance(self, percent: int = 50) -> bool:
        """True about so often."""
        return bool(self._next(2, int(self._random.randrange(100) < percent)))

    def together(self, function: Callable[[], T]) -> T:
        """Calls a function; its choices are on the tape one by one."""
        return function()

    def seed(self) -> int:
        """A seed for bulk data."""
        return self._next(1 << 16)

    def array(self, dtype: int, shape: Sequence[int], *, special: bool = True) -> np.ndarray:
        """Data of an element type and shape."""
        return values(dtype, shape, self.seed(), special=special)
