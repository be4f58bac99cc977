"""Which rewrite of a pipeline breaks a model: found, made small, written down so that ONNX Runtime alone shows it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from onnx import ModelProto

from graphopt import ir
from graphopt.analysis.record import Recorder
from graphopt.errors import GraphoptError, PassError
from graphopt.finish import check
from graphopt.ir import Model
from graphopt.ir.collector import paused
from graphopt.pipeline import Pipeline, Repeat
from graphopt.report import Report, Rewrite
from graphopt.rewrite import Context, Rule, RuleSet

if TYPE_CHECKING:
    from graphopt.verify import Bisection, Budget, RuntimeFault, VerificationReport
    from graphopt.verify.rewrites.validator import Finding

__all__ = ["Blame", "bisect"]

Path = str | os.PathLike[str]
Progress = Callable[[str, int, int], None]
_SMALL = 1 << 26  # bytes of a model that the rule at fault is run on by itself


@dataclass
class Blame:
    """What a bisection found.

    found: whether something breaks the model. rewrite: the first that does; None when a pass changes the model without
    putting it on record (then only `pass_name` says who), or nothing is found. total: rewrites of the whole run.
    checks: models that were compared. by_runtime: the rewrite is right as written, ONNX Runtime's optimizations go
    wrong after it. hidden: the rewrite is wrong by itself, on values of its own, and no output shows it. reason: what
    is wrong, in a line. repro: the folder written, or None. verification: of the model right after that rewrite; of the
    whole result where nothing is found, or nothing shows. warnings: what else to know.
    """

    model: str = ""
    target: str = "onnx"
    pipeline: str = ""
    found: bool = False
    rewrite: Rewrite | None = None
    pass_name: str = ""
    total: int = 0
    checks: int = 0
    by_runtime: bool = False
    hidden: bool = False
    reason: str = ""
    repro: str | None = None
    verification: VerificationReport | None = None
    warnings: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def runtime(self) -> list[RuntimeFault]:
        """What ONNX Runtime's own optimizations break."""
        return self.verification.runtime if self.verification is not None else []

    def summary(self) -> str:
        """One line: who did it.

        >>> Blame(found=True, rewrite=Rewrite(3, "fuse-a", "fuse", ("n1", "n2"), ("n1",)), total=9).summary()
        'rewrite 4 of 9 breaks the model: fuse-a (of fuse) on n1, n2'
        """
        if not self.found:
            if self.verification is not None and self.verification.status == "unchecked":
                return f"nothing was found: the results of {self.total} rewrites could not be compared"
            what = f"none of the {self.total} rewrites breaks the model" if self.total else "no rewrite was made"
            return f"{what}: the result agrees with the original"
        if self.rewrite is None:
            who = f"pass {self.pass_name}" if self.pass_name else "loading and saving alone"
            aside = ", with a change that it does not put on record" if self.pass_name else ""
            return f"{who} breaks the model{aside}"
        return f"rewrite {self.rewrite.index + 1} of {self.total} {self._does()}: {self._who(self.rewrite)}"

    def _does(self) -> str:
        if self.hidden:
            return "is wrong by itself, though no output shows it"
        return "is right, but ONNX Runtime breaks what it makes" if self.by_runtime else "breaks the model"

    @staticmethod
    def _who(rewrite: Rewrite) -> str:
        of = f" (of {rewrite.pass_name})" if rewrite.pass_name not in ("", rewrite.rule) else ""
        more = f" and {len(rewrite.matched) - 4} more" if len(rewrite.matched) > 4 else ""
        return f"{rewrite.rule}{of} on {', '.join(rewrite.matched[:4])}{more}"

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready dict."""
        data = {name: value for name, value in vars(self).items() if name not in ("rewrite", "verification")}
        rewrite = None if self.rewrite is None else asdict(self.rewrite)
        verdict = None if self.verification is None else self.verification.to_dict()
        return {**data, "summary": self.summary(), "rewrite": rewrite, "verification": verdict}


def bisect(
    model: ModelProto | Path | Model,
    passes: Any = "default",
    *,
    target: str = "onnx",
    inputs: Any = None,
    folder: Path | None = None,
    budget: float | Budget | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Blame:
    """Finds the first rewrite that breaks a model, and writes a small repro of it.

    model, passes, target, inputs: as in `optimize`. folder: where the repro goes: two small models, inputs, results, a
    script that needs numpy and onnxruntime alone, a README; None writes nothing. budget: seconds of each comparison, or
    a `graphopt.verify.Budget`. seed: of the inputs made. progress: called with (stage, done, total).

    The pipeline runs again up to each rewrite in question (about log2 of their number, then earlier ones as time
    allows), so it has to do the same twice. Raises GraphoptError for bad arguments or inputs that do not fit,
    ModelError for a bad model, OutputError when the folder cannot be written, RewriteCycle.

    >>> from onnx import parser
    >>> m = parser.parse_model('<ir_version: 8, opset_import: ["": 17]> g (float[N] x) => (float[N] y) {y = Neg(x)}')
    >>> bisect(m).found
    False
    """
    from graphopt.api import TARGETS

    if target not in TARGETS:
        raise GraphoptError(f"unknown target {target!r}; choose one of {', '.join(TARGETS)}")
    return _Bisector(model, Pipeline.of(passes), target, inputs, budget, seed, progress).run(folder)


class _Bisector:
    def __init__(
        self,
        model: ModelProto | Path | Model,
        pipeline: Pipeline,
        target: str,
        inputs: Any,
        budget: float | Budget | None,
        seed: int,
        progress: Progress | None,
    ) -> None:
        from graphopt.api import _source
        from graphopt.verify import Budget

        self.source, self.pipeline, self.target = _source(model), pipeline, target
        self.inputs = inputs if inputs is None or hasattr(inputs, "keys") else list(inputs)
        self.budget = budget if isinstance(budget, Budget) else Budget() if budget is None else Budget(float(budget))
        self.seed, self.progress = seed, progress
        self.original: Any = ir.to_proto(self.source(), whole=True) if isinstance(model, Model) else model
        self.full = Report()
        self.recorder: Recorder | None = None
        self.warnings: list[str] = []

    def run(self, folder: Path | None) -> Blame:
        began = time.perf_counter()
        self._step("run the pipeline")
        result, ctx = self._run(self.pipeline, None, record=True)
        self.full, self.recorder = ctx.close(), ctx.recorder
        blame = Blame(result.graph.name, self.target, str(self.pipeline), total=len(self.full.rewrites))
        if isinstance(self.original, (str, os.PathLike)):
            blame.model = os.path.basename(os.fspath(self.original))
        found = self._search(self.replay, blame.total)
        if found.index is not None and found.before is not None:
            blame.rewrite = self.full.rewrites[found.index]
            blame.pass_name = blame.rewrite.pass_name
        elif found.index is not None:
            found = self._by_pass(found, blame)
        blame.found, blame.by_runtime = found.index is not None, found.by_runtime
        blame.verification, blame.checks = found.report, found.checks
        blame.reason = found.report.summary() if found.report is not None and blame.found else ""
        hidden = None if blame.by_runtime or (blame.found and blame.rewrite is None) else self._hidden(found.index)
        if hidden is not None:
            self._expose(hidden, folder, blame)
        elif folder is not None and found.before is not None and found.after is not None:
            self._write(folder, found, blame)
        blame.warnings = [*self.full.warnings, *dict.fromkeys(self.warnings)]
        blame.seconds = time.perf_counter() - began
        return blame

    def _step(self, stage: str) -> None:
        if self.progress is not None:
            self.progress(stage, 0, 0)

    @paused()
    def _run(self, pipeline: Pipeline, limit: int | None, record: bool = False) -> tuple[Model, Context]:
        model = self.source()
        ctx = Context(self.target, limit=limit, recorder=Recorder(model) if record else None)
        result = pipeline.run(model, ctx, self.source)
        for graph in result.scopes():
            graph.ensure_sorted()
        return result, ctx

    def replay(self, count: int) -> tuple[ModelProto, str]:
        """The model after the first `count` rewrites, and what makes it invalid."""
        result, ctx = self._run(self.pipeline, count if count < len(self.full.rewrites) else None)
        if ctx.report.rewrites[:count] != self.full.rewrites[:count]:
            self.warnings.append("the passes do not do the same twice: another rewrite may be to blame")
        return self._checked(result)

    def _checked(self, result: Model) -> tuple[ModelProto, str]:
        trouble = ""
        try:
            check(self.source(), result)
        except PassError as error:
            trouble = str(error)
        return ir.to_proto(result, whole=True), trouble

    def _search(self, replay: Callable[[int], tuple[ModelProto, str]], total: int) -> Bisection:
        from graphopt.verify.bisect import bisect as search

        return search(
            replay, total, self.original, self.inputs, budget=self.budget, seed=self.seed, progress=self.progress
        )

    # changes that are not on record

    def _by_pass(self, found: Bisection, blame: Blame) -> Bisection:
        """The first pass after which the model disagrees although no rewrite was allowed."""
        steps = list(_leaves(self.pipeline.steps))

        def replay(count: int) -> tuple[ModelProto, str]:
            return self._checked(self._run(Pipeline(tuple(steps[:count])), 0)[0])

        again = self._search(replay, len(steps))
        if again.index is None or again.before is None:
            return found
        blame.pass_name = str(steps[again.index])
        return again

    # rewrites that no output shows

    def _hidden(self, index: int | None) -> Finding | None:
        """A rewrite before that one (before the end) that is wrong by itself: each is run on its own nodes, on values
        of the model's and on made ones. What it broke may show only after later rewrites, or on other inputs."""
        from graphopt.verify.rewrites import Validator

        self._step("check each rewrite by itself")
        assert self.recorder is not None
        validator = Validator(self.original, self.inputs, self.budget)
        try:
            wrong = validator.check(self.recorder).first() if self.full.rewrites else []
        except GraphoptError as error:
            self.warnings.append(f"the rewrites could not be checked by themselves: {error}")
            return None
        finally:
            validator.close()
        first = min(wrong, key=lambda finding: finding.site.index, default=None)
        return first if first is not None and (index is None or first.site.index < index) else None

    def _expose(self, finding: Finding, folder: Path | None, blame: Blame) -> None:
        from graphopt.verify.rewrites.repro import write_site

        if blame.rewrite is not None:
            self.warnings.append(f"outputs differ from rewrite {blame.rewrite.index + 1} on: {blame.reason}")
        blame.found = blame.hidden = True
        blame.rewrite = self.full.rewrites[finding.site.index]
        blame.pass_name, blame.reason = blame.rewrite.pass_name, f"run on its own: {finding.fault.why}"
        if folder is not None:
            self._step("make a small repro")
            path = write_site(os.fspath(folder), finding.book, finding.site, finding.fault)
            blame.repro = None if path is None else str(path)

    # the repro

    def _write(self, folder: Path, found: Bisection, blame: Blame) -> None:
        from graphopt.verify.repro import Story, write_repro

        self._step("make a small repro")
        assert found.before is not None and found.after is not None
        rewrite = blame.rewrite
        rule = rewrite.rule if rewrite is not None else blame.pass_name
        story = Story(rule, rewrite.matched if rewrite is not None else (), blame.reason)
        again = None if rewrite is None else self._rule(rewrite)
        blame.repro = str(write_repro(folder, found.before, found.after, found.feeds, story=story, rewrite=again))

    def _rule(self, rewrite: Rewrite) -> Callable[[ModelProto], ModelProto | None] | None:
        """A function that does to another model what the rule at fault does; None where it cannot be found."""
        step = next((step for step in _leaves(self.pipeline.steps) if str(step) == rewrite.pass_name), None)
        if isinstance(step, RuleSet):
            step = next((rule for rule in step.rules if rule.name == rewrite.rule), None)
        if step is None:
            return None
        target = self.target

        def again(model: ModelProto) -> ModelProto | None:
            ctx = Context(target)
            result = Pipeline((step,)).run(ir.from_proto(model), ctx) if model.ByteSize() < _SMALL else None
            fired = any(done.rule == rewrite.rule for done in ctx.report.rewrites)
            return ir.to_proto(result) if fired and result is not None else None

        return again


def _leaves(steps: tuple[Any, ...]) -> Iterator[Rule | RuleSet | Any]:
    """The passes of a pipeline, groups opened, each once."""
    waiting = list(reversed(steps))
    while waiting:
        step = waiting.pop()
        if isinstance(step, Repeat):
            waiting += reversed(step.steps)
        else:
            yield step
