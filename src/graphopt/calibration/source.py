"""Samples, wherever they come from: how many, one after the other, from a place on, and who they are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from graphopt.calibration.checks import Feeds, Inputs, check_feeds
from graphopt.errors import GraphoptError


class Source:
    """Calibration data: an iterable of checked feeds that holds none of them.

    inputs: of the model, to check by. size: how many samples, or None where that shows at the end alone.
    """

    def __init__(self, inputs: Inputs, size: int | None = None) -> None:
        self.inputs, self.size = inputs, size

    def __iter__(self) -> Iterator[Feeds]:
        return self.since(0)

    def since(self, start: int) -> Iterator[Feeds]:
        """The samples from number `start` on. Raises GraphoptError where one is not what the model takes."""
        raise TypeError(f"{type(self).__name__} does not define since()")

    def limited(self, samples: int) -> Source:
        """At most so many of them."""
        raise TypeError(f"{type(self).__name__} does not define limited()")

    def digest(self) -> str:
        """Says which data it is: another one's is another."""
        raise TypeError(f"{type(self).__name__} does not define digest()")

    def label(self, number: int) -> str:
        """How errors call a sample."""
        return f"sample {number}"

    def check_first(self) -> None:
        """Reads and checks one sample. Raises GraphoptError where there is none, or it is none."""
        raise TypeError(f"{type(self).__name__} does not define check_first()")


class Indexed(Source):
    """Samples that can be had in any order, so that they can be shared out among machines. Subclasses define `load` and
    `digest`.

    order: the numbers of the samples in use, in the order in which they come.
    """

    def __init__(self, inputs: Inputs, count: int) -> None:
        super().__init__(inputs, count)
        self.order: list[int] = list(range(count))
        self.names: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self.order)

    def load(self, number: int) -> Any:
        """The sample of a number."""
        raise TypeError(f"{type(self).__name__} does not define load()")

    def since(self, start: int) -> Iterator[Feeds]:
        """The samples from place `start` on, checked."""
        for number in self.order[start:]:
            yield check_feeds(self.load(number), self.inputs, self.label(number))

    def limited(self, samples: int) -> Indexed:
        """So many at even distances: folders are often sorted by what is in the files."""
        count = len(self.order)
        if samples < count:
            self._choose([self.order[index * count // samples] for index in range(samples)])
        return self

    def part(self, start: int, stop: int) -> Indexed:
        """The samples at places `start` to `stop`, as a source that can be sent to another process."""
        made = type(self).__new__(type(self))
        made.__dict__.update(self.__dict__)
        made._choose(self.order[start:stop])
        return made

    def _choose(self, order: list[int]) -> None:
        self.order, self.size = order, len(order)

    def label(self, number: int) -> str:
        """How errors call a sample: by the number that it has among all."""
        return self.names.get(number, f"sample {number}")

    def check_first(self) -> None:
        """Reads and checks the first sample."""
        if not self.order:
            raise GraphoptError("the calibration data is empty; it needs at least one sample")
        next(self.since(0))
