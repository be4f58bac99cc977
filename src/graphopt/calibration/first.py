"""The first few samples of a source, had again without going over all of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graphopt.calibration.source import Source

Feeds = Mapping[str, Any]
COUNT = 8


class First:
    """A source that keeps its first samples in passing, where they can be had only once."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self._kept: list[Feeds] = []

    def since(self, start: int) -> Iterator[Feeds]:
        """The samples from number `start` on."""
        once = getattr(self.source, "serves_once", False)
        for feed in self.source.since(start):
            if once and len(self._kept) < COUNT:
                self._kept.append(feed)
            yield feed

    def samples(self) -> list[Feeds]:
        """A few of them."""
        return self._kept or list(islice(self.source.since(0), COUNT))
