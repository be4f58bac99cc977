"""The original's inner values, taken from the runs that verification makes anyway."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from onnx import GraphProto, ModelProto, TensorProto, ValueInfoProto

from graphopt.errors import ModelError
from graphopt.verify import limits
from graphopt.verify.core import Reference
from graphopt.verify.report import Budget
from graphopt.verify.rewrites.session import fetch
from graphopt.verify.run import LoadError, Session
from graphopt.verify.search import Case, Cases
from graphopt.verify.source import PROTO_LIMIT, Source

__all__ = ["Captured", "Observed", "Watching", "capture", "input_bytes"]

_HELD = 1 << 29  # bytes of inner values that are kept of all runs together; the run with the fewest keeps its own


class Captured(list[Any]):
    """The outputs of a run, with the inner values `watched`, by name."""

    watched: dict[str, Any]
    dropped = False


class _Watched(Source):
    """A model with more outputs, as bytes: that of the proto stays as it is."""

    extra: bytes = b""

    def loadable(self) -> bytes | str:
        if not self.extra:
            return super().loadable()
        if self.weight_bytes + len(self.extra) >= PROTO_LIMIT:
            raise LoadError("its weights leave no room for more outputs")
        if self.path is not None and not any(t.data_location == TensorProto.EXTERNAL for t in self.tensors()):
            base = self.path.read_bytes()
        else:
            base = (self.proto if self.path is None else self.copy()).SerializeToString()
        return base + self.extra  # one message behind another adds up to one


class Watching(Session):
    """A session whose runs also give the inner values named in `watch`; of those that are also in `large` each run lets
    go of what the run before gave, so that memory is used again. roomy: what the runs hold does not count as theirs.
    """

    def __init__(
        self,
        source: Source,
        watch: Sequence[str],
        threads: int = 1,
        large: frozenset[str] = frozenset(),
        roomy: bool = False,
    ) -> None:
        watched = _Watched(source.proto, path=source.path, name=source.name)
        if roomy:
            watched.memory = limits.allowance(source) + 2 * _HELD
        known = {value.name for value in source.proto.graph.output}
        self._extra = [ValueInfoProto(name=name) for name in watch if name not in known]
        watched.extra = ModelProto(graph=GraphProto(output=self._extra)).SerializeToString() if self._extra else b""
        super().__init__(watched, threads=threads)
        self._most = _HELD if roomy else min(_HELD, limits.allowance(source) // 4)
        self._allowance = limits.allowance(source)  # what does not run within it must not pass for what does
        self._plain = list(self.outputs)
        self._runs: list[tuple[int, Captured]] = []
        self._large = large
        self._latest: Captured | None = None
        self.watching = True

    def run(self, feeds: Mapping[str, Any], timeout: float | None = None) -> list[Any]:
        """As `Session.run`; the list returned is `Captured` as long as it is `watching`."""
        if not self.watching:
            return super().run(feeds, timeout)
        if self._latest is not None:
            self._latest.watched = {n: v for n, v in self._latest.watched.items() if n not in self._large}
        self.outputs = [*self._plain, *self._extra]
        try:
            values = super().run(feeds, timeout)
        finally:
            self.outputs = list(self._plain)
        count = len(self._plain)
        Session._check_outputs(self, sum(value.nbytes for value in values[:count] if isinstance(value, np.ndarray)))
        found = Captured(values[:count])
        names = (info.name for info in (*self._plain, *self._extra))
        found.watched = dict(zip(names, values, strict=True))
        self._hold(found)
        return found

    def _fetch(self, feeds: Mapping[str, Any], options: Any) -> list[Any]:
        found = fetch(self._session, [value.name for value in self.outputs], feeds, options)
        return super()._fetch(feeds, options) if found is None else found

    def _check_outputs(self, size: int) -> None:
        """Inner values are not counted: `_hold` sees to them."""

    def _hold(self, found: Captured) -> None:
        """Lets go of the inner values of the largest runs where all together are too many."""
        self._latest = found
        kept = (value for name, value in found.watched.items() if name not in self._large)
        size = sum(value.nbytes for value in kept if isinstance(value, np.ndarray))
        self._runs.append((size, found))
        self._runs.sort(key=lambda run: run[0])
        while len(self._runs) > 1 and sum(run[0] for run in self._runs) > self._most:
            largest = self._runs.pop()[1]
            largest.watched, largest.dropped = {}, True


class Observed(Reference):
    """A reference whose cases hold the inner values `watch` of the original; one of them, those in `large`, too."""

    def __init__(
        self,
        model: Any,
        inputs: Any,
        watch: Sequence[str],
        *,
        large: frozenset[str] = frozenset(),
        budget: Budget | None = None,
    ) -> None:
        self._watch, self._large, self._roomy = watch, large, False
        self.problem = ""  # why nothing is watched
        super().__init__(model, inputs, budget=budget)
        if isinstance(self._session, Watching):
            self._session.watching = False

    def _open(self) -> Session:
        if not self._watch:
            return super()._open()
        try:
            return Watching(self.source, self._watch, self.budget.threads, self._large, self._roomy)
        except (LoadError, ModelError, MemoryError) as error:
            if "reference evaluator refuses" in str(error):
                raise  # it is no matter of what is watched
            self.problem = f"its inner values cannot be watched: {error}"
            return super()._open()

    def _prepare(self, seed: int) -> None:
        super()._prepare(seed)
        for watch, roomy in ((self._watch, True), ((), False)):
            large = any(limits.TOO_LARGE in why for why in self.found.unchecked)
            if not self._watch or self.found.cases or not large:
                return
            self.problem = "" if watch else "its inner values take too much memory"
            self._watch, self._roomy, self.found = watch, roomy, Cases()
            super()._prepare(seed)

    def captured(self) -> list[tuple[Case, dict[str, Any]]]:
        """The cases whose inner values are known, each with these and its inputs."""
        return captured(self.found)


def captured(found: Cases) -> list[tuple[Case, dict[str, Any]]]:
    """The cases whose inner values are known, each with these and its inputs, the smallest first."""
    runs = [(case, case.outputs) for case in found.cases if isinstance(case.outputs, Captured)]
    cases = [(case, {**run.watched, **case.feeds}) for case, run in runs if not run.dropped]
    return sorted(cases, key=lambda item: input_bytes(item[0]))


def input_bytes(case: Case) -> int:
    """Bytes of its inputs: what costs little, and, unlike seconds, is the same each time."""
    return sum(value.nbytes for value in case.feeds.values() if isinstance(value, np.ndarray))


def capture(model: Source, cases: Iterable[Case], watch: Sequence[str], threads: int = 1) -> list[Captured]:
    """The outputs and inner values of another model on the same inputs. Raises `LoadError` or `RunError`."""
    session = Watching(model, watch, threads)
    found = [session.run(case.feeds) for case in cases]
    return [run for run in found if isinstance(run, Captured)]
