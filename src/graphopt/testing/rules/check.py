"""Checking rules and passes: search for models on which they fire, compare the two sides, keep what is wrong."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from onnx import ModelProto, TensorProto

from graphopt.errors import GraphoptError
from graphopt.testing.draft import Drawn
from graphopt.testing.rules.apply import apply
from graphopt.testing.rules.compare import Verdict, compare
from graphopt.testing.rules.hints import Hints, is_rule, of_item
from graphopt.testing.rules.result import Counterexample, RuleCheck
from graphopt.testing.rules.run import Feeds
from graphopt.testing.rules.search import Find, Search
from graphopt.testing.rules.shrink import shrink
from graphopt.testing.rules.trace import Endless
from graphopt.testing.synthesis import nudged

__all__ = ["INSTANCES", "check_rule", "check_rules", "find"]

INSTANCES = 300  # models on which each rule is run
PATIENCE = 12  # times as many are drawn for a rule that has hardly fired yet
ENOUGH = 5  # models on which it should fire
PASSES = 3  # times as many models for a pass, which has no pattern to say where it acts
COUNTEREXAMPLES = 3  # kept for one rule
TARGETS = ("onnx", "onnxruntime", "tensorrt")

Progress = Callable[[str, int, int], None]


def check_rules(
    rules: Iterable[Any] | None = None,
    *,
    instances: int = INSTANCES,
    seed: int = 0,
    targets: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> list[RuleCheck]:
    """Checks rules and passes on models made for each of them.

    rules: names, `Rule`s, rule sets (each rule in it is checked) and passes; without, everything registered. instances:
    models that each is run on. seed: the same one gives the same models. targets: run for these only (a rule that is
    for none of them is run for its own). progress: called with (name, number done, number of all).

    Models are drawn from a rule's pattern over operators' versions, ranks, types, attributes and sizes, then nudged; a
    pass gets models of a few operators. Where it fires, both sides run in ONNX Runtime without optimizations, on
    ordinary and on special data and for other sizes of the symbols; in double precision in ONNX's reference evaluator;
    and the shapes of outputs are compared as expressions. Raises UnknownPassError for an unknown name.

    >>> from graphopt.rewrite import P, rule
    >>> @rule("drop-abs", P.Abs("x"))
    ... def drop_abs(m, new):
    ...     return m.x
    >>> [check] = check_rules([drop_abs], instances=20)
    >>> check.ok, bool(check.wrong)
    (False, True)
    """
    items = find(rules)
    checks = []
    for number, item in enumerate(items):
        if progress is not None:
            progress(str(item), number, len(items))
        checks.append(check_rule(item, instances=instances, seed=seed, targets=targets))
    return checks


def _is_exact(name: str) -> bool:
    """Whether a pass claims to keep what a model computes, and runs without calibrated ranges: others are for the
    conformance suite."""
    from graphopt.passes import registry

    made = registry.get(name).make()
    return not getattr(made, "lossy", False) and not getattr(made, "needs_ranges", False)


def find(rules: Iterable[Any] | None) -> list[Any]:
    """Rules and passes, from names and whatever holds them; without, all that are registered."""
    from graphopt.passes import registry
    from graphopt.rewrite import Rule, RuleSet

    if rules is None:
        rules = [name for name in registry.names() if registry.get(name).kind in ("rule", "pass") and _is_exact(name)]
    found: dict[str, Any] = {}
    for item in [rules] if isinstance(rules, (str, Rule, RuleSet)) else rules:
        made = registry.get(item).make() if isinstance(item, str) else item() if isinstance(item, type) else item
        if isinstance(made, str):
            raise GraphoptError(f"{item!r} is a preset: name the rules and passes to check")
        for each in made.rules if isinstance(made, RuleSet) else [made]:
            if not callable(getattr(each, "run", None)):
                raise GraphoptError(f"{each!r} is no rule and no pass")
            found[str(each)] = each
    return list(found.values())


def check_rule(
    item: Any, *, instances: int = INSTANCES, seed: int = 0, targets: Sequence[str] | None = None
) -> RuleCheck:
    """Checks one rule or pass."""
    began = time.perf_counter()
    check = _Check(item, seed, targets)
    try:
        check.run(instances)
    except (Exception, Endless) as error:  # noqa: BLE001 - of the harness itself: the survey of the others goes on
        at = traceback.extract_tb(error.__traceback__)[-1]
        check.result.crash = f"its check fails: {type(error).__name__}: {error} ({Path(at.filename).name}:{at.lineno})"
    check.result.seconds = time.perf_counter() - began
    return check.result


class _Check:
    def __init__(self, item: Any, seed: int, targets: Sequence[str] | None) -> None:
        self.item, self.seed = item, seed
        self.hints: Hints = of_item(item)
        own = [t for t in TARGETS if is_rule(item) and t in item.targets] or list(TARGETS[:1])
        chosen = [t for t in own if targets is None or t in targets] or own
        self.search = Search(item, self._make, self.hints, chosen, seed)
        self.result = RuleCheck(str(item), "rule" if is_rule(item) else "pass")
        self.result.only_notes = bool(getattr(item, "only_notes", False))
        self.doubts: list[tuple[Find, str, Any]] = []
        self.is_endless = False  # on some model: each more would take as long

    def _make(self, chooser: Any) -> Drawn:
        if is_rule(self.item):
            return nudged(self.item, chooser, self.hints)
        from graphopt.testing.rules.corpus import model_for

        return model_for(self.item, chooser, self.hints)

    def run(self, instances: int) -> None:
        """Draws, runs and compares; the figures are then in `result`."""
        result = self.result
        attempts = 0
        instances *= 1 if self.result.kind == "rule" else PASSES
        while result.tried < instances or self._is_hungry(instances):
            attempts += 1
            if attempts > 6 * PATIENCE * instances or len(result.wrong) >= COUNTEREXAMPLES or self.is_endless:
                break
            found = self.search.step()
            if found is not None:
                self.take(found)
        self._settle_doubts()
        result.wrong.sort(key=lambda each: each.model.ByteSize())
        result.unseen = self.hints.unseen(result.refused)
        result.opsets.sort()
        result.dtypes.sort()

    def _is_hungry(self, instances: int) -> bool:
        """Whether to go on, because the rule fired on few models so far."""
        fired, tried = self.result.fired, self.result.tried
        if self.result.only_notes:
            return False
        few = max(1, min(ENOUGH, instances // 20))
        most = PATIENCE if self.result.equal < few else 3 if self.result.kind == "rule" else 1
        return tried < most * instances and 5 * fired < instances

    def take(self, found: Find) -> None:
        """Counts one model, and compares where the rule fired."""
        result = self.result
        result.tried += 1
        for reason in found.applied.refused:
            result.refused[reason] = result.refused.get(reason, 0) + 1
        if not found.applied.fired:
            return
        verdict = self.compare(found)
        if verdict.status == "unchecked" and found.applied.error:
            result.tried -= 1  # a model that nothing runs is no instance, and none to blame a rule for
            return
        result.fired += 1
        if verdict.status == "wrong":
            self.blame(found, verdict.why)
            return
        if verdict.status == "unchecked":
            result.unchecked += 1
            return
        result.equal += 1
        self._figures(found, verdict)

    def _figures(self, found: Find, verdict: Verdict) -> None:
        result, model = self.result, found.drawn.model
        result.exact = result.exact and verdict.exact
        result.worst_abs = max(result.worst_abs, verdict.largest)
        result.worst_rel = max(result.worst_rel, verdict.relative)
        result.doubles += verdict.double
        result.symbolic += verdict.symbolic
        self.doubts += [(found, why, feeds) for why, feeds in verdict.doubts[:1]]
        opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
        result.opsets = [*result.opsets, *({opset} - set(result.opsets))]
        kinds = {info.type.tensor_type.elem_type for info in model.graph.input if info.type.HasField("tensor_type")}
        names = {TensorProto.DataType.Name(kind).lower() for kind in kinds if kind}
        result.dtypes = [*result.dtypes, *sorted(names - set(result.dtypes))]

    def compare(self, found: Find) -> Verdict:
        """Both sides of a find."""
        if found.applied.error:
            from graphopt.testing.rules.run import runner

            verdict = Verdict()
            if runner(found.drawn.model, found.drawn.feeds) is None:
                verdict.status = "unchecked"
                return verdict
            return verdict.wrong(found.applied.error, found.drawn.feeds)
        assert found.applied.model is not None
        trace, _, way = self.search.ways[found.way]

        def rewrite(model: ModelProto) -> ModelProto | None:
            done, _ = trace.run(lambda: apply(trace.item, model, found.target, way.fast_math))
            return done.model if done.fired and not done.error else None

        return compare(
            found.drawn.model, found.applied.model, found.drawn.feeds, rewrite, self.seed, finite=way.fast_math
        )

    def blame(self, found: Find, why: str) -> None:
        """Keeps a counterexample, made small."""
        if any(_kind(other.why) == _kind(why) for other in self.result.wrong):
            return
        self.is_endless = found.applied.endless
        keep = self.result.wrong or self.is_endless
        small = found if keep else shrink(self.search, found, self._is_wrong)
        verdict = self.compare(small)
        feeds = verdict.feeds or small.drawn.feeds
        self.result.wrong.append(self._example(small, verdict.why or why, feeds))

    def _example(self, found: Find, why: str, feeds: Feeds) -> Counterexample:
        return Counterexample(found.drawn.model, feeds, why, found.applied.model, found.target, self._step(found))

    def _step(self, found: Find) -> str:
        return self.search.ways[found.way][2].step

    def _is_wrong(self, found: Find) -> bool:
        return bool(found.applied.fired) and self.compare(found).status == "wrong"

    def _settle_doubts(self) -> None:
        """A rule that never rounds must give the same bits on any data."""
        if not self.result.exact or not self.doubts:
            return
        found, why, feeds = min(self.doubts, key=lambda doubt: doubt[0].drawn.model.ByteSize())
        self.result.equal -= len(self.doubts)
        self.result.wrong.append(self._example(found, why, feeds))


def _kind(why: str) -> str:
    """A complaint without its numbers."""
    return "".join(c for c in why if not c.isdigit())[:60]
