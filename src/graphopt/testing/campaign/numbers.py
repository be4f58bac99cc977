"""Does a result compute what the original computes, on the case's own inputs?"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import ModelProto

from graphopt.errors import GraphoptError
from graphopt.testing.backend import BackendCase

if TYPE_CHECKING:
    from graphopt.verify import Reference, VerificationReport

__all__ = ["Numbers", "Outcome"]

Outcome = tuple[str, str, str]  # verdict, why, agreement
_PATIENCE = 4.0  # times the seconds, for the second look at what did not pass
Tell = Callable[[str], None]


class Numbers:
    """The original, run once as written (in ONNX Runtime without optimizations, or where that lacks something in onnx's
    reference evaluator), for any number of results to be compared with it.

    tell: called with what happens next, so that whoever watches knows what took the process down. crashed: whether the
    original is known to do that. seconds: for one judgement on what is beyond plain rounding, or on a model whose
    inputs have to be made.
    """

    def __init__(self, case: BackendCase, original: ModelProto, tell: Tell, crashed: str, seconds: float) -> None:
        self.case, self.original, self.tell, self.seconds = case, original, tell, seconds
        self.skip = crashed
        self._outputs: list[list[Any]] | None = None
        self._reference: Reference | None = None
        self._evaluator = self._random = self._is_patient = False

    def verdict(self, result: ModelProto, name: str) -> Outcome:
        """The verdict on a result. name: of the pass, for `tell`."""
        if not self.case.runs or self._drawing():
            return self.skipped() if self.skip else self._by_verification(result, name)
        self._prepare()
        if self.skip:
            return self._by_expectation(result, name)
        from graphopt.verify.run import LoadError, RunError

        self.tell(f"written {name}")
        try:
            outputs = self._run(result, optimize=False)
        except LoadError as error:
            return "invalid", f"the runtime refuses it: {error}", ""
        except RunError as error:
            return "wrong", f"it fails where the original runs: {error}", ""
        gap, exact = self._gap(outputs)
        agreement = "bits" if exact else "rounding"
        if gap:
            report = self._judged(result, name)
            if isinstance(report, str):
                return "skipped", report, ""
            if report.status == "failed":
                return self._rescued(outputs) or ("wrong", gap, "")
            if report.status == "unchecked":
                return "skipped", report.unchecked[0], ""
        return ("ok", "", agreement) if self._evaluator else self._optimized(result, name, agreement)

    def skipped(self) -> Outcome:
        """The verdict where there is nothing to compare with."""
        return "skipped", self.skip, ""

    def _drawing(self) -> bool:
        from graphopt.verify.randomness import Randomness

        if self._outputs is None and not self._random:
            self._random = bool(Randomness(self.original).names)
        return self._random

    def _prepare(self) -> None:
        from graphopt.verify.run import LoadError, RunError

        if self._outputs is not None or self.skip:
            return
        self.tell("original")
        try:
            self._outputs = self._on(self.original, evaluator=False)
        except (LoadError, RunError) as error:
            try:
                self._outputs = self._on(self.original, evaluator=True)
                self._evaluator = True
            except (LoadError, RunError):
                self.skip = _reason(str(error))

    def _on(self, model: ModelProto, evaluator: bool) -> list[list[Any]]:
        from graphopt.verify.run import Session
        from graphopt.verify.source import Source

        session = Session(Source.of(model), reference=evaluator)
        self._evaluator = session.reference
        return [session.run(feeds, self.seconds) for feeds, _ in self.case.runs]

    def _run(self, model: ModelProto, optimize: bool) -> list[list[Any]]:
        from graphopt.verify.run import Session
        from graphopt.verify.source import Source

        session = Session(Source.of(model), optimize=optimize, reference=self._evaluator)
        return [session.run(feeds, self.seconds) for feeds, _ in self.case.runs]

    def _gap(self, outputs: list[list[Any]]) -> tuple[str, bool]:
        """What lies between these outputs and the original's beyond plain rounding, and whether not even a bit does."""
        from graphopt.verify.compare import deviation, slack_of, tolerance_for

        slack, exact = slack_of(self.original), True
        for ours, theirs in zip(self._outputs or (), outputs, strict=True):
            for place, (left, right) in enumerate(zip(ours, theirs, strict=True)):
                if _same_bits(left, right):
                    continue
                exact = False
                found = deviation(left, right, slack[place])
                if not found.none and not tolerance_for(found.dtype, len(self.original.graph.node)).allows(found):
                    name = self.original.graph.output[place].name
                    error = (
                        f"{found.mismatches} elements differ" if found.mismatches else f"an error of {found.peak:.2g}"
                    )
                    return f"output {name!r} ({found.dtype}{list(found.shape)}): {found.kind or error}", False
        return "", exact

    def _optimized(self, result: ModelProto, name: str, agreement: str) -> Outcome:
        """As it will be run."""
        from graphopt.verify.run import LoadError, RunError

        self.tell(f"optimized {name}")
        try:
            gap = self._gap(self._run(result, optimize=True))[0]
        except (LoadError, RunError) as error:
            gap = f"its optimizations break the model: {error}"
        if not gap:
            return "ok", "", agreement
        report = self._judged(result, name)
        if isinstance(report, str):
            return "skipped", report, ""
        shared = any("Runtime's" in note and "original" in note for note in report.notes)
        if shared or report.status != "passed":
            return "runtime", f"{gap}{' (the original too)' if shared else ''}", agreement
        return "ok", "", agreement

    def _judged(self, result: ModelProto, name: str) -> VerificationReport | str:
        """What verification says, which knows the original's own noise; or why there is none."""
        from graphopt.verify import Budget, Reference

        feeds = [feeds for feeds, _ in self.case.runs] or None
        while True:
            self.tell(f"judging {name}")
            try:
                if self._reference is None:
                    self._reference = Reference(self.original, feeds, budget=Budget(seconds=self.seconds))
                report = self._reference.check(result)
            except GraphoptError as error:
                return _reason(str(error))
            if report.status == "passed" or self._is_patient:
                return report
            self._reference.close()
            self.seconds *= _PATIENCE  # what too little time leaves open, or calls gross, may be rounding after all
            self._reference, self._is_patient = None, True

    def _by_verification(self, result: ModelProto, name: str) -> Outcome:
        report = self._judged(result, name)
        if isinstance(report, str):
            return "skipped", report, ""
        if report.status == "failed":
            bad = [f"output {c.name!r}: {c.why}" for run in report.runs for c in run.outputs if not c.ok]
            why = [*report.interface, *([report.error] if report.error else []), *bad]
            runtime = not report.interface and all("Runtime's optimizations break it" in line for line in why)
            return "runtime" if runtime else "wrong", why[0] if why else report.summary(), ""
        if report.status == "unchecked":
            return "skipped", _reason(report.unchecked[0]), ""
        if any("Runtime's" in note and "original" in note for note in report.notes):
            return "runtime", "its optimizations change the model (the original too)", ""
        return "ok", "", "rounding"

    def _by_expectation(self, result: ModelProto, name: str) -> Outcome:
        """The original does not run: a result that does has onnx's own expected outputs to meet."""
        from graphopt.verify.run import LoadError, RunError

        if any(expected is None for _, expected in self.case.runs):
            return self.skipped()
        self.tell(f"optimized {name}")
        try:
            outputs = self._run(result, optimize=False)
        except (LoadError, RunError):
            return self.skipped()
        return ("ok", "", "") if self._expected(outputs) else ("wrong", "not what onnx expects of the case", "")

    def _rescued(self, outputs: list[list[Any]]) -> Outcome | None:
        """Where the runtime's result for the original is not what onnx expects, and that for the rewritten model is."""
        if self._expected(outputs) and not self._expected(self._outputs or []):
            return "runtime", "it computes the original wrong, and the result as onnx expects", ""
        return None

    def _expected(self, outputs: list[list[Any]]) -> bool:
        wanted = [expected for _, expected in self.case.runs]
        if len(outputs) != len(wanted) or any(expected is None for expected in wanted):
            return False
        return all(
            len(ours) == len(theirs or ())
            and all(_close(a, b, self.case.rtol, self.case.atol) for a, b in zip(theirs or (), ours, strict=True))
            for ours, theirs in zip(outputs, wanted, strict=True)
        )


def _same_bits(left: Any, right: Any) -> bool:
    from graphopt.verify.compare import flatten

    ours, theirs = list(flatten(left)), list(flatten(right))
    if [path for path, _ in ours] != [path for path, _ in theirs]:
        return False
    for (_, a), (_, b) in zip(ours, theirs, strict=True):
        if a is None or b is None:
            if a is not b:
                return False
        elif a.dtype.kind in "OUS":
            if a.shape != b.shape or list(a.ravel()) != list(b.ravel()):
                return False
        elif a.dtype != b.dtype or a.shape != b.shape or a.tobytes() != b.tobytes():
            return False
    return True


def _close(expected: Any, found: Any, rtol: float, atol: float) -> bool:
    """As onnx's own runner compares, but for types that numpy lacks, which are compared as float64."""
    from graphopt.verify.compare import flatten

    ours, theirs = list(flatten(expected)), list(flatten(found))
    if [path for path, _ in ours] != [path for path, _ in theirs]:
        return False
    for (_, a), (_, b) in zip(ours, theirs, strict=True):
        if a is None or b is None or a.shape != b.shape or a.dtype.kind in "OUS":
            if not _same_bits(a, b):
                return False
        elif a.dtype.kind == "c":
            return bool(np.allclose(a, b, rtol, atol, equal_nan=True))
        elif not np.allclose(a.astype(np.float64), b.astype(np.float64), rtol, atol, equal_nan=True):
            return False
    return True


def _reason(text: str) -> str:
    """A reason without what is special to one model, so that equal ones can be counted."""
    import re

    text = re.sub(r"(Name|name|node|Node|of)[: ]+\(?'[^']*'\)?", r"\1 ...", text)
    text = re.sub(r"\b\d+(\.\d+)?\b", "#", text)
    return text if len(text) <= 160 else text[:157] + "..."
