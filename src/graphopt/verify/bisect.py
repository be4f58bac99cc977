"""Which rewrite broke the model: binary search over the rewrites, replayed one prefix at a time."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from onnx import ModelProto

from graphopt.errors import GraphoptError
from graphopt.verify.core import Reference, digest
from graphopt.verify.report import Budget, OutputCheck, RuntimeFault, VerificationReport

__all__ = ["Bisection", "Replay", "bisect"]

Replay = Callable[[int], ModelProto | tuple[ModelProto, str]]
Progress = Callable[[str, int, int], None]
_EARLIER = 0.5  # of the budget's seconds go into looking for a break before the one that was found
_MOST = 512  # prefixes looked at for that


@dataclass
class Bisection:
    """The first rewrite that makes the model disagree with the original.

    index: of that rewrite, from 0; None when the model after all rewrites agrees. before, after: the model without and
    with it (after: None when it could not be made). worst: its worst output. report: of `after` against the original,
    or of the model after all rewrites when nothing disagrees. feeds: the inputs that show it. checks: models that were
    compared. unchecked: replays that could not be judged (they count as agreeing).
    """

    index: int | None
    before: ModelProto | None = None
    after: ModelProto | None = None
    worst: OutputCheck | None = None
    report: VerificationReport | None = None
    feeds: dict[str, Any] = field(default_factory=dict)
    checks: int = 0
    unchecked: list[int] = field(default_factory=list)

    @property
    def runtime(self) -> list[RuntimeFault]:
        """What ONNX Runtime's own optimizations break in the model that `report` is about."""
        return self.report.runtime if self.report is not None else []

    @property
    def by_runtime(self) -> bool:
        """Whether the rewrite is right as it is written, and only ONNX Runtime's optimizations go wrong after it."""
        report = self.report
        if self.index is None or report is None or report.interface:
            return False
        own = [fault for fault in report.runtime if not fault.also_original]
        known = {name for fault in own for name in fault.outputs}
        failing = {check.name for run in report.runs for check in run.outputs if not check.ok}
        return bool(own) and failing <= known and (not report.error or any(f.kind != "difference" for f in own))

    def summary(self) -> str:
        """One line."""
        if self.index is None:
            return f"no rewrite makes the model disagree ({self.checks} checked)"
        fault = self.report.summary() if self.report else ""
        return f"rewrite {self.index} is the first after which the model disagrees ({self.checks} checked): {fault}"


def bisect(
    replay: Replay,
    total: int,
    original: ModelProto | str | os.PathLike[str],
    inputs: Mapping[str, Any] | Iterable[Mapping[str, Any]] | None = None,
    *,
    budget: Budget | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    lossy: bool = False,
) -> Bisection:
    """The first of `total` rewrites after which the model disagrees with `original`.

    replay: k -> the model after the first k rewrites, or a pair of it and what is wrong with it by itself ("" for
    nothing); a `GraphoptError` that it raises for k > 0 counts as disagreeing. inputs, seed: as in `verify`; with the
    inputs that a failed report used, the same failure is sought. lossy: as in `verify`. budget: of each comparison. A
    model that does not load, or fails to run, or has another interface, disagrees. progress: called with (stage, done,
    total).

    Binary search, in about log2(total) + 2 comparisons, ends with a prefix that agrees and the next, which does not.
    Then earlier prefixes are looked at, as long as there is time (half the budget's seconds), in case one of them
    disagrees, too: rewrites may break the model, mend it, and break it again.

    >>> from onnx import parser
    >>> text = '<ir_version: 8, opset_import: ["": 17]> g (float[N] x) => (float[N] y) {y = %s(x)}'
    >>> models = [parser.parse_model(text % op) for op in ("Neg", "Neg", "Neg", "Abs", "Abs")]
    >>> bisect(lambda k: models[k], 4, models[0]).index
    2
    """
    if total < 0:
        raise GraphoptError(f"bisect: the number of rewrites cannot be {total}")
    with Reference(original, inputs, budget=budget, seed=seed) as reference:
        search = _Search(replay, total, reference, progress, lossy)
        if search.agrees(total):
            return Bisection(None, report=search.last, checks=search.checks, unchecked=search.unchecked)
        bad = search.first() if total and search.agrees(0) else 0
        report = search.failures[bad][0]
        model = search.failures[bad][1]
        before = search.model(bad - 1)[0] if bad else None
        return Bisection(
            max(bad - 1, 0), before, model, report.worst(), report, _failing_feeds(reference, report),
            search.checks, sorted(search.unchecked),
        )  # fmt: skip


class _Search:
    """Prefixes that were compared. failures: prefix -> verdict, model; of the first failing prefix alone the model."""

    def __init__(
        self, replay: Replay, total: int, reference: Reference, progress: Progress | None, lossy: bool
    ) -> None:
        self._lossy, self._replay, self._total = lossy, replay, total
        self._reference, self._progress = reference, progress
        self.checks = 0
        self.unchecked: list[int] = []
        self.failures: dict[int, tuple[VerificationReport, ModelProto | None]] = {}
        self.good: set[int] = set()
        self.last: VerificationReport | None = None

    def first(self) -> int:
        """The first prefix that disagrees, as far as time allows to tell; 0 agrees and the whole does not."""
        self._narrow(0, self._total)
        deadline = time.monotonic() + _EARLIER * self._reference.budget.seconds
        looked = 0
        while looked < _MOST and time.monotonic() < deadline:
            bad = min(self.failures)
            unknown = [count for count in range(1, bad) if count not in self.good]
            if not unknown:
                break
            looked += 1
            count = unknown[len(unknown) // 2]
            if not self.agrees(count):
                self._narrow(max(g for g in self.good if g < count), count)
        return min(self.failures)

    def _narrow(self, good: int, bad: int) -> None:
        while bad - good > 1:
            middle = (good + bad) // 2
            if self.agrees(middle):
                good = middle
            else:
                bad = middle

    def model(self, count: int) -> tuple[ModelProto | None, str]:
        """The model after `count` rewrites, and what is wrong with it by itself."""
        try:
            made = self._replay(count)
        except GraphoptError as error:
            if count == 0:
                raise
            return None, str(error)
        return made if isinstance(made, tuple) else (made, "")

    def agrees(self, count: int) -> bool:
        """Whether the model after `count` rewrites agrees."""
        if self._progress is not None:
            self._progress("bisect", self.checks, 0)
        model, trouble = self.model(count)
        if trouble or model is None:
            report = VerificationReport("failed", error=trouble)
        else:
            report = self._reference.check(model, lossy=self._lossy)
        self.checks += 1
        self.last = report
        if report.status == "unchecked":
            self.unchecked.append(count)
        if report.ok:
            self.good.add(count)
            return True
        if self.failures and count < min(self.failures):
            self.failures = {known: (verdict, None) for known, (verdict, _) in self.failures.items()}
        self.failures[count] = report, model if count <= min(self.failures, default=count) else None
        return False


def _failing_feeds(reference: Reference, report: VerificationReport) -> dict[str, Any]:
    """The inputs of the first failing run; of the first run when the model did not get that far."""
    failing = {run.feeds for run in report.runs if not run.ok}
    cases = reference.found.cases
    chosen = [case for case in cases if digest(case.feeds) in failing] or cases
    return dict(chosen[0].feeds) if chosen else {}
