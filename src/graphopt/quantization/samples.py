"""Which samples calibrate, and which are held out to judge with.

Of n samples, n / 5 are held out, at least one and at most 32, at even distances (folders are often sorted by class); of
a single one there is nothing to hold out, so it serves for both. Of a stream whose length shows at the end alone, the
first 40 are dealt with in this way, and all others calibrate.

>>> held_out(10), held_out(1), len(held_out(1000))
([4, 9], [], 32)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from onnx import ModelProto

    from graphopt.calibration.source import Source

__all__ = ["SHARE", "Split", "held_out", "made_up", "split"]

SHARE = 5  # one of so many is held out
MOST = 32
_LOOKED_AT = 40  # of a stream
_BYTES = 256 << 20  # of samples that are held in memory


@dataclass
class Split:
    """calibrate: the samples to calibrate with; None where there is no data. judge: feeds, in memory. note: what a user
    should know of it, or nothing."""

    calibrate: Source | None
    judge: list[dict[str, Any]]
    note: str = ""


def held_out(count: int) -> list[int]:
    """Numbers of the samples that are held out of so many."""
    wanted = min(MOST, max(1, count // SHARE)) if count > 1 else 0
    return [(index + 1) * count // wanted - 1 for index in range(wanted)]


def split(source: Source) -> Split:
    """Divides the data. Reads what is held out, and of a stream the first samples."""
    from graphopt.calibration.data import Listed
    from graphopt.calibration.source import Indexed

    if not isinstance(source, Indexed):
        if getattr(source, "serves_once", False):
            return _of_stream(source, iter(source))
        head = list(islice(iter(source), _LOOKED_AT))
        if len(head) == _LOOKED_AT:
            places = frozenset(held_out(_LOOKED_AT))
            judge = _bounded([head[place] for place in sorted(places)])
            return Split(_streamed(source.inputs, _Without(source, places), source), judge)
        source = Listed(head, source.inputs)
    count = source.size or 0
    if count == 1:
        note = "there is one sample: the loss is measured on the sample that calibrated, and is too good"
        return Split(source, list(source), note)
    places = frozenset(held_out(count))
    judge = _bounded(feeds for place in sorted(places) for feeds in source.part(place, place + 1))
    kept = [place for place in range(count) if place not in places]
    return Split(_chosen(source, kept), judge)


def _of_stream(source: Source, samples: Iterator[dict[str, Any]]) -> Split:
    """What can be had once: it is read here."""
    from graphopt.calibration.data import Listed

    head = list(islice(samples, _LOOKED_AT))
    if len(head) < _LOOKED_AT:
        return split(Listed(head, source.inputs))
    places = frozenset(held_out(_LOOKED_AT))
    rest = _chain([feeds for place, feeds in enumerate(head) if place not in places], samples)
    return Split(_streamed(source.inputs, rest, source), _bounded([head[place] for place in sorted(places)]))


def _chain(first: list[Any], more: Iterator[Any]) -> Iterator[Any]:
    yield from first
    yield from more


class _Without:
    """The samples of a source, without those held out: can be gone over again."""

    def __init__(self, source: Source, places: frozenset[int]) -> None:
        self.source, self.places = source, places

    def __iter__(self) -> Iterator[Any]:
        return (feeds for place, feeds in enumerate(self.source) if place not in self.places)


def _streamed(inputs: Any, samples: Any, source: Source) -> Source:
    from graphopt.calibration.data import Streamed

    made = Streamed(samples, inputs, getattr(source, "what", "the data"))
    made.check_first()
    return made


def _chosen(source: Any, places: list[int]) -> Source:
    """Some samples of an indexed source, as a source of its kind (which a cluster can take)."""
    made = source.part(0, source.size)
    made._choose([made.order[place] for place in places])
    return made  # type: ignore[no-any-return]


def _bounded(feeds: Any) -> list[dict[str, Any]]:
    """As many as fit into memory, at least one."""
    found: list[dict[str, Any]] = []
    size = 0
    for each in feeds:
        size += sum(value.nbytes for value in each.values() if isinstance(value, np.ndarray))
        if found and size > _BYTES:
            break
        found.append(each)
    return found


def made_up(model: ModelProto, most: int = 4) -> list[dict[str, Any]]:
    """Inputs on which the model runs, made as for verification; none where none are found."""
    from graphopt.verify.run import Session
    from graphopt.verify.search import find_cases
    from graphopt.verify.source import Source

    source = Source.of(model)
    try:
        found = find_cases(source, Session(source), seconds=10.0)
    finally:
        source.close()
    return [dict(case.feeds) for case in found.cases[:most]]
