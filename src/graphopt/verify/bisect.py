"""Which rewrite broke the model: binary search over the rewrites, replayed one prefix at a time."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from onnx import ModelProto

from graphopt.errors import GraphoptError
from graphopt.verify.core import Reference
from graphopt.verify.report import Budget, OutputCheck, VerificationReport

__all__ = ["Bisection", "bisect"]


@dataclass
class Bisection:
    """The first rewrite that makes the model disagree with the original.

    index: of that rewrite, from 0; None when the model after all rewrites agrees. before, after: the model without and
    with it. worst: its worst output. report: of `after` against the original. feeds: the inputs that show it. checks:
    models that were compared. unchecked: replays that could not be judged (they count as agreeing).
    """

    index: int | None
    before: ModelProto | None = None
    after: ModelProto | None = None
    worst: OutputCheck | None = None
    report: VerificationReport | None = None
    feeds: dict[str, Any] = field(default_factory=dict)
    checks: int = 0
    unchecked: list[int] = field(default_factory=list)

    def summary(self) -> str:
        """One line."""
        if self.index is None:
            return f"no rewrite makes the model disagree ({self.checks} checked)"
        fault = self.report.summary() if self.report else ""
        return f"rewrite {self.index} is the first after which the model disagrees ({self.checks} checked): {fault}"


def bisect(
    replay: Callable[[int], ModelProto],
    total: int,
    original: ModelProto | str | os.PathLike[str],
    inputs: Mapping[str, Any] | Iterable[Mapping[str, Any]] | None = None,
    *,
    budget: Budget | None = None,
    seed: int = 0,
) -> Bisection:
    """The first of `total` rewrites after which the model disagrees with `original`.

    replay: k -> the model after the first k rewrites; called about log2(total) + 2 times, so it may well start anew
    each time. inputs, seed: as in `verify`; with the inputs that a failed report used, the same failure is sought.
    budget: of each comparison. A model that does not load, or fails to run, or has another interface, disagrees.

    Binary search keeps one prefix that agrees and one that does not, so the pair that it ends with is adjacent whatever
    lies between; should rewrites break, mend and break again, it is one of the breaks.

    >>> from onnx import parser
    >>> text = '<ir_version: 8, opset_import: ["": 17]> g (float[N] x) => (float[N] y) {y = %s(x)}'
    >>> models = [parser.parse_model(text % op) for op in ("Neg", "Neg", "Neg", "Abs", "Abs")]
    >>> bisect(lambda k: models[k], 4, models[0]).index
    2
    """
    if total < 0:
        raise GraphoptError(f"bisect: the number of rewrites cannot be {total}")
    with Reference(original, inputs, budget=budget, seed=seed) as reference:
        search = _Search(replay, reference)
        if search.agrees(total):
            return Bisection(None, checks=search.checks, unchecked=search.unchecked)
        good, bad = 0, total
        if total and not search.agrees(0):
            bad = 0  # the model disagrees before any rewrite: loading and saving alone changed it
        while bad - good > 1:
            middle = (good + bad) // 2
            if search.agrees(middle):
                good = middle
            else:
                bad = middle
        report = search.failures[bad]
        before = replay(bad - 1) if bad else None
        return Bisection(
            max(bad - 1, 0), before, search.models[bad], report.worst(), report, _failing_feeds(reference, report),
            search.checks, search.unchecked,
        )  # fmt: skip


class _Search:
    def __init__(self, replay: Callable[[int], ModelProto], reference: Reference) -> None:
        self._replay, self._reference = replay, reference
        self.checks = 0
        self.unchecked: list[int] = []
        self.failures: dict[int, VerificationReport] = {}
        self.models: dict[int, ModelProto] = {}

    def agrees(self, count: int) -> bool:
        """Whether the model after `count` rewrites agrees; only the failing one nearest to the start is kept."""
        model = self._replay(count)
        report = self._reference.check(model)
        self.checks += 1
        if report.status == "unchecked":
            self.unchecked.append(count)
        if not report.ok:
            self.failures, self.models = {count: report}, {count: model}
        return report.ok


def _failing_feeds(reference: Reference, report: VerificationReport) -> dict[str, Any]:
    """The inputs of the first failing run; of the first run when the model did not get that far."""
    from graphopt.verify.core import digest

    failing = {run.feeds for run in report.runs if not run.ok}
    cases = reference.found.cases
    chosen = [case for case in cases if digest(case.feeds) in failing] or cases
    return dict(chosen[0].feeds) if chosen else {}
