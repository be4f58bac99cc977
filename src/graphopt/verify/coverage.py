"""What a set of inputs leaves untouched: branches never taken, outputs that never move."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from graphopt.errors import GraphoptError
from graphopt.verify.flow import Flow, attribute
from graphopt.verify.run import Session
from graphopt.verify.source import Source

__all__ = ["Branches", "still_outputs"]

_LARGEST = 1 << 29  # bytes of weights: a larger model is not loaded once more to watch its conditions


class Branches:
    """Which way the If nodes of the main graph go. taken: condition -> the values seen.

    Watching takes a session of its own, whose outputs are the conditions.
    """

    def __init__(self, source: Source, flow: Flow) -> None:
        self.taken: dict[str, set[bool]] = {}
        self._names: dict[str, str] = {}
        for node in source.proto.graph.node:
            if node.op_type == "If" and flow.constant(0, node.input[0]) is None and not attribute(node, "cond"):
                self._names.setdefault(node.input[0], node.name or node.output[0])
        self._session = self._watch(source) if self._names and source.weight_bytes <= _LARGEST else None
        self.taken = {name: set() for name in self._names} if self._session is not None else {}

    def _watch(self, source: Source) -> Session | None:
        try:
            model = source.copy()
            del model.graph.output[:]
            for name in self._names:
                model.graph.output.add(name=name)
            return Session(Source(model, None, source.name))
        except GraphoptError:
            return None

    def visit(self, feeds: Mapping[str, Any], seconds: float = 60.0) -> bool:
        """Whether these inputs go a way not gone before; remembers the ways that they go."""
        if self._session is None:
            return False
        try:
            values = self._session.run(feeds, timeout=seconds)
        except GraphoptError:
            return False
        news = False
        for name, value in zip(self.taken, values, strict=True):
            went = bool(np.asarray(value).ravel()[:1].any())
            news |= went not in self.taken[name]
            self.taken[name].add(went)
        return news

    @property
    def missing(self) -> list[tuple[str, bool]]:
        """(name of the If, which of its branches) for every branch that was never taken."""
        found = [
            (self._names[name], way) for name, seen in self.taken.items() for way in (True, False) if way not in seen
        ]
        return sorted(found)


def still_outputs(names: Sequence[str], results: Iterable[Sequence[Any]], slack: Sequence[float]) -> dict[str, float]:
    """Output -> value, of the outputs with more than four elements that are this value everywhere in all `results`.

    slack: for each output, what counts as the same (see `slack_of`).
    """
    runs = list(results)
    found: dict[str, float] = {}
    for place, name in enumerate(names):
        arrays = [run[place] for run in runs]
        if not arrays or not all(isinstance(a, np.ndarray) and a.dtype.kind in "fiub" and a.size > 4 for a in arrays):
            continue
        low, high = min(float(array.min()) for array in arrays), max(float(array.max()) for array in arrays)
        if high - low <= slack[place]:
            found[name] = round(low, 5) if slack[place] else low
    return found
