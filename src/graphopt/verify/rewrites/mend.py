"""Runs passes, checks what they did rewrite by rewrite, and runs them again without what was wrong."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from onnx import ModelProto

from graphopt.errors import GraphoptError, PassError, VerificationError
from graphopt.ir import Model, from_proto
from graphopt.report import Report, Reverted
from graphopt.verify.bisect import bisect
from graphopt.verify.report import Budget, VerificationReport
from graphopt.verify.rewrites.repro import write_site
from graphopt.verify.rewrites.validator import Finding, Validator

if TYPE_CHECKING:
    from graphopt.finish import Task
    from graphopt.rewrite import Context

__all__ = ["mend"]

_ROUNDS = 6  # runs that leave out single sites; from then on whatever is wrong is left out as a whole
_MOST = 12  # runs in all
_REPROS = 3  # folders written

Progress = Callable[[str, int, int], None]
Veto = tuple[str, str]
Result = tuple[Model, ModelProto | None, Report]


def mend(
    task: Task, original: Any, inputs: Any, budget: Budget, repro: str, progress: Progress | None = None
) -> Result:
    """Runs the task until all that it did is right; what was wrong is in the report's `reverted`.

    Every rewrite is checked by itself, then the whole model against the original. repro: folder for the first few
    rewrites found wrong, "" for none. Raises VerificationError when the whole differs and no rewrite can be blamed, and
    what the task raises.
    """
    return _Mending(task, original, inputs, budget, repro, progress or (lambda stage, done, total: None)).run()


class _Mending:
    def __init__(self, task: Task, original: Any, inputs: Any, budget: Budget, repro: str, progress: Progress) -> None:
        self.progress = progress
        self.task, self.original, self.inputs, self.budget, self.repro = task, original, inputs, budget, repro
        self.vetoes: set[Veto] = set()
        self.reverted: list[Reverted] = []
        self.written = 0
        self.seconds = 0.0

    def run(self) -> Result:
        validator = Validator(self.original, self.inputs, self.budget)
        try:
            for number in range(1, _MOST + 1):
                outcome = self._round(validator, number)
                if outcome is not None:
                    return outcome
        finally:
            validator.close()
        names = ", ".join(sorted({rule for rule, _ in self.vetoes}))
        raise VerificationError(f"it stays wrong without {names}; nothing was written", VerificationReport("failed"))

    def _round(self, validator: Validator, number: int) -> Result | None:
        """The result, or None when something was left out and all has to be run again."""
        model, context = self.task.run(frozenset(self.vetoes))
        assert context.recorder is not None
        self.progress("verify rewrites", 0, 0)
        found = validator.check(context.recorder)
        self.seconds += found.validation.seconds
        if found.wrong:
            for finding in found.first():
                self._revert(finding, number)
            return None
        report = context.close()
        problem = self._invalid(model)
        if problem:
            self._blame(report, context, VerificationReport("failed", error=problem), number)
            return None
        whole = self.task.whole(model, report, self.budget)
        validator.release()
        self.progress("verify", 0, 0)
        report.verification = whole if isinstance(whole, VerificationReport) else validator.reference.check(whole)
        if not report.verification.ok:
            self._blame(report, context, report.verification, number)
            return None
        report.validation = replace(found.validation, rounds=number, seconds=self.seconds)
        report.reverted = self.reverted
        for line in report.undone():
            report.warn(line)
        return model, whole if isinstance(whole, ModelProto) else None, report

    def _invalid(self, model: Model) -> str:
        try:
            self.task.check(model)
        except PassError as error:
            return str(error)
        return ""

    def _revert(self, finding: Finding, number: int) -> None:
        site = finding.site
        folder = ""
        if self.repro and self.written < _REPROS:
            folder = self._write(finding)
        self._leave_out(site.rule, site.name, site.pass_name, number)
        self.reverted.append(
            Reverted(site.rule, site.name, site.pass_name, site.labels, finding.fault.why, folder)
        )  # fmt: skip

    def _leave_out(self, rule: str, name: str, pass_name: str, number: int) -> None:
        """The site; or, where that did not help or there is none, the rule; or the pass."""
        if name and (rule, name) not in self.vetoes and number <= _ROUNDS:
            self.vetoes.add((rule, name))
        elif (rule, "") not in self.vetoes:
            self.vetoes.add((rule, ""))
        else:
            self.vetoes.add((pass_name, ""))

    def _write(self, finding: Finding) -> str:
        folder = os.path.join(self.repro, f"{self.written + 1}-{finding.site.rule}")
        try:
            path = write_site(folder, finding.book, finding.site, finding.fault)
        except (GraphoptError, OSError, ValueError):
            return ""
        self.written += bool(path)
        return str(path) if path else ""

    def _blame(self, report: Report, context: Context, verdict: VerificationReport, number: int) -> None:
        """Leaves out the first rewrite after which the whole is wrong. Raises VerificationError where there is none."""
        vetoes = frozenset(self.vetoes)
        text = f"{verdict.summary()}; nothing was written"
        try:
            total = len(report.rewrites)
            found = bisect(lambda k: self._prefix(vetoes, k), total, self.original, self.inputs, budget=self.budget)
        except GraphoptError as error:
            raise VerificationError(f"{text}; which rewrite did it could not be found: {error}", verdict) from error
        if found.index is None or not report.rewrites:
            raise VerificationError(f"{text}; no single rewrite could be blamed", verdict)
        assert context.recorder is not None
        rewrite = report.rewrites[found.index]
        site = next((s for s in context.recorder.sites if s.index == found.index), None)
        name = site.name if site is not None else ""
        self._leave_out(rewrite.rule, name, rewrite.pass_name, number)
        why = found.report.summary() if found.report is not None else verdict.summary()
        self.reverted.append(Reverted(rewrite.rule, name, rewrite.pass_name, rewrite.matched, why))

    def _prefix(self, vetoes: frozenset[Veto], count: int) -> tuple[ModelProto, str]:
        proto = self.task.prefix(vetoes, count)
        return proto, self._invalid(from_proto(proto))
