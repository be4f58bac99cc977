"""ONNX's reference evaluator, which stops when its time is over: also in the bodies of loops and in functions."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from onnx import ModelProto

from graphopt.verify.limits import resident
from graphopt.verify.source import Source

__all__ = ["Evaluator", "TooLarge", "TooLong"]

_CHECK = 2  # nodes from one look at the memory to the next: reading it takes as long as a small operator


class TooLong(Exception):
    """The deadline passed."""


class TooLarge(Exception):
    """The process grew beyond what it may."""


class _Clock:
    """What all nodes of a model watch: deadline in seconds of `time.monotonic`, memory in bytes of the process."""

    def __init__(self) -> None:
        self.deadline: float | None = None
        self.memory = 0
        self._count = 0

    def check(self) -> None:
        if self.deadline is not None and time.monotonic() > self.deadline:
            raise TooLong("the reference evaluator took too long")
        self._count += 1
        if self.memory and self._count % _CHECK == 0 and resident() > self.memory:
            raise TooLarge("the reference evaluator took too much memory")


class _Watched(list[Any]):
    """The evaluator's nodes; going through them stops when the clock says so."""

    def __init__(self, nodes: list[Any], clock: _Clock) -> None:
        super().__init__(nodes)
        self._clock = clock

    def __iter__(self) -> Iterator[Any]:
        self._clock.check()  # a body may have no nodes
        for node in super().__iter__():
            self._clock.check()
            yield node


class Evaluator:
    """A model in the reference evaluator. Raises what that raises for a model that it does not take."""

    def __init__(self, source: Source) -> None:
        from onnx.reference import ReferenceEvaluator

        model: ModelProto | str = source.proto if source.path is None else str(source.path)
        self._clock = _Clock()
        self._evaluator = ReferenceEvaluator(model)
        self._watch(self._evaluator)

    def _watch(self, outermost: Any) -> None:
        """Puts all nodes under the clock: those of functions and of bodies, at every depth."""
        pending, seen = [outermost], set[int]()
        while pending:
            evaluator = pending.pop()
            if id(evaluator) in seen:
                continue
            seen.add(id(evaluator))
            for node in evaluator.rt_nodes_:
                pending += [held for held in vars(node).values() if hasattr(held, "rt_nodes_")]
            pending += evaluator.functions_.values()
            evaluator.rt_nodes_ = _Watched(evaluator.rt_nodes_, self._clock)

    def run(self, names: list[str], feeds: Mapping[str, Any], seconds: float | None, room: int) -> list[Any]:
        """The values of some outputs. seconds, room: after which time, and how many more bytes of memory, to stop.

        Raises TooLong or TooLarge then, else what operators raise.
        """
        self._clock.deadline = None if seconds is None else time.monotonic() + seconds
        before = resident()
        self._clock.memory = before + room if before else 0
        with np.errstate(all="ignore"):
            return list(self._evaluator.run(names, dict(feeds)))
