"""All passes on one model: what each made of it, and the verdict on that."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from onnx import ModelProto

from graphopt.errors import GraphoptError
from graphopt.ir import Model, from_proto, to_proto
from graphopt.testing import contract
from graphopt.testing.backend import BackendCase
from graphopt.testing.campaign.findings import Finding
from graphopt.testing.campaign.numbers import Numbers, Outcome

if TYPE_CHECKING:
    from graphopt.report import Report

__all__ = ["Examiner", "Settings"]

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Settings:
    """What holds for a whole campaign.

    subjects: the passes, by name. load: files to load passes from. target: as in `graphopt.optimize`. seconds: for one
    judgement that needs more than plain rounding, and for each run of a model.
    """

    subjects: tuple[str, ...]
    load: tuple[str, ...] = ()
    target: str = "onnx"
    seconds: float = 20.0


class Examiner:
    """Runs passes on models. tell: called with every stage, so that whoever watches knows what took a process down."""

    def __init__(self, settings: Settings, tell: Tell) -> None:
        from graphopt.passes.loading import load_file
        from graphopt.pipeline import Pipeline

        for file in settings.load:
            load_file(file)
        self.settings, self.tell = settings, tell
        self._seen: Counter[tuple[str, bool]] = Counter()
        self._pipelines = {name: Pipeline.of(name) for name in settings.subjects}

    def examine(self, case: BackendCase, subjects: Iterable[str], known: frozenset[str]) -> Iterator[Finding]:
        """One finding for each pass. known: what is known to take the process down: "original", "checker"."""
        subjects = list(subjects)
        if case.skip:
            yield from (self._finding(case, name, "skipped", case.skip) for name in subjects)
            return
        self.tell("loading")
        try:
            original = case.model
        except GraphoptError as error:
            yield from (self._finding(case, name, "skipped", f"it cannot be loaded: {error}") for name in subjects)
            return
        try:
            work = _Work(self, case, original, known)
        except GraphoptError as error:
            verdict = "skipped" if contract.checker(original) else "crash"
            why = f"graphopt refuses it{', and so does onnx' if verdict == 'skipped' else ''}: {error}"
            yield from (self._finding(case, name, verdict, why) for name in subjects)
            return
        if not work.survives:
            why = "loading and saving alone changes the model"
            yield from (self._finding(case, name, "contract", why) for name in subjects)
            return
        for name in subjects:
            yield work.subject(name)

    def run(self, name: str, model: Model) -> tuple[Model, Report]:
        """Runs a pass. Raises whatever it raises; what the pipeline swallowed is in the report's warnings."""
        from graphopt.rewrite import Context

        ctx = Context(self.settings.target)
        result = self._pipelines[name].run(model, ctx)
        return result, ctx.close()

    def seen(self, name: str, changed: bool) -> None:
        """Takes note of whether a pass has changed a model."""
        self._seen[name, changed] += 1

    def is_idle(self, name: str) -> bool:
        """Whether a pass seldom changes anything, so that trying it first on a model in use saves time."""
        return self._seen[name, True] <= 0.3 * self._seen[name, False] + 2

    @staticmethod
    def _finding(case: BackendCase, name: str, verdict: str, why: str) -> Finding:
        return Finding(str(case), case.kind, case.variant, name, verdict, why)


class _Work:
    """One model, loaded once, while it lasts; each distinct result is judged once."""

    def __init__(self, examiner: Examiner, case: BackendCase, original: ModelProto, known: frozenset[str]) -> None:
        self.examiner, self.case, self.original, self.known = examiner, case, original, known
        self.raw = _bytes(original)
        self.model: Model | None = from_proto(original)  # as long as no pass has changed it
        self.skeleton = _bytes(self.model.proto)  # without large weights
        self.survives = _bytes(to_proto(self.model)) == self.raw
        crashed = "the original takes ONNX Runtime down" if "original" in known else ""
        self.numbers = Numbers(case, original, examiner.tell, crashed, examiner.settings.seconds)
        self.judged: dict[bytes, Outcome] = {}

    def subject(self, name: str) -> Finding:
        """The verdict on one pass."""
        self.examiner.tell(f"pass {name}")
        try:
            if self.examiner.is_idle(name) and self._changes_nothing(name):
                return self._found(name, ("ok", "", ""))
            work, report = self.examiner.run(name, from_proto(self.original))
        except Exception as error:  # noqa: BLE001 - a pass may fail in any way
            return self._found(name, ("crash", f"{type(error).__name__}: {error}", ""))
        if report.warnings:
            return self._found(name, ("crash", report.warnings[0], ""))
        self.examiner.tell(f"result {name}")
        try:
            work.check()
            result = to_proto(work)
        except GraphoptError as error:
            return self._found(name, ("invalid", f"the IR's invariants do not hold: {error}", ""), True)
        data = _bytes(result)
        self.examiner.seen(name, data != self.raw)
        if data == self.raw:
            return self._found(name, ("ok", "", ""))
        return self._found(name, self._verdict(name, result, data, report), True, hashlib.sha256(data).hexdigest()[:16])

    def _changes_nothing(self, name: str) -> bool:
        """Tries the pass on the model that was loaded once: most change most models in no way."""
        model = self.model or from_proto(self.original)
        self.model = None
        before = model.version  # inferred types hold as long as it is the same
        work, report = self.examiner.run(name, model)
        if work is not model or model.version != before or report.warnings:
            return False
        if _bytes(model.proto) != self.skeleton:  # it was changed behind the IR's back
            return False
        self.model = model
        self.examiner.seen(name, changed=False)
        return True

    def _verdict(self, name: str, result: ModelProto, data: bytes, report: Report) -> Outcome:
        digest = hashlib.sha256(data).digest()
        if digest not in self.judged:
            self.judged[digest] = self._structure(result, name) or self.numbers.verdict(result, name)
        outcome = self.judged[digest]
        if outcome[0] in ("ok", "runtime", "skipped"):
            fault = self._contract(name, result, data, report)
            if fault:
                return "contract", fault, outcome[2]
        return outcome

    def _structure(self, result: ModelProto, name: str) -> Outcome | None:
        full = "checker" not in self.known
        if full:
            self.examiner.tell("checker")
            contract.checker(self.original, full=True)
            self.examiner.tell(f"result {name}")
        for verdict, faults in (
            ("invalid", contract.validity(self.original, result, full)),
            ("interface", contract.moved_interface(self.original, result)),
            ("contract", contract.versions(self.original, result, same=not _raises_opset(name))),
            ("contract", contract.frame(self.original, result)),
        ):
            why = next(faults, "")
            if why:
                return verdict, why, ""
        return None

    def _contract(self, name: str, result: ModelProto, data: bytes, report: Report) -> str:
        """What else the pass breaks, or nothing."""
        self.examiner.tell(f"again {name}")
        why = next(contract.touched(self.original, result, report), "")
        if why:
            return why
        try:
            if _bytes(to_proto(from_proto(result))) != data:
                return "the result does not survive a round trip through the IR"
            if _bytes(to_proto(self.examiner.run(name, from_proto(self.original))[0])) != data:
                return "not deterministic: a second run on the same model gives other bytes"
            again, more = self.examiner.run(name, from_proto(result))
            if _bytes(to_proto(again)) != data:
                rules = ", ".join(dict.fromkeys(rewrite.rule for rewrite in more.rewrites)) or "nothing on record"
                return f"not idempotent: on its own result it changes more ({rules})"
        except Exception as error:  # noqa: BLE001 - a pass may fail in any way
            return f"on its own result: {type(error).__name__}: {error}"
        return ""

    def _found(self, name: str, outcome: Outcome, changed: bool = False, digest: str = "") -> Finding:
        verdict, why, agreement = outcome
        case = self.case
        return Finding(str(case), case.kind, case.variant, name, verdict, why[:1000], changed, agreement, digest)


def _bytes(message: Any) -> bytes:
    data: bytes = message.SerializeToString(deterministic=True)
    return data


def _raises_opset(name: str) -> bool:
    """Whether a higher opset is what a pass is for."""
    from graphopt.pipeline import Pipeline

    return any(getattr(step, "raises_opset", False) for step in Pipeline.of(name).steps)
