"""The smallest pair of models, inputs and weights that still shows a difference: delta debugging.

Every step makes a smaller pair and keeps it if both models still load, the original still runs, and the difference is
still of the same kind (see `Oracle`). The steps: a single output, the first value that differs; values that are equal
in both models as inputs; bodies and functions opened; small sizes; inputs and weights of zeros, ones or small integers.
After Zeller and Hildebrandt, "Simplifying and Isolating Failure-Inducing Input" (2002).
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from onnx import ModelProto

from graphopt.errors import GraphoptError
from graphopt.verify.compare import Deviation, deviation, slack_of, tolerance_for
from graphopt.verify.opened import inlined, opened
from graphopt.verify.run import LoadError, RunError, Session
from graphopt.verify.simpler import simpler_feeds, simpler_weights, smaller
from graphopt.verify.source import Source
from graphopt.verify.window import capture, part, readers_of, unused_removed

__all__ = ["Oracle", "Pair", "shrink"]

Rewrite = Callable[[ModelProto], ModelProto | None]
_CAPTURED = 2000  # nodes: of a larger model not every value is looked at
_LARGEST = 64 << 20  # bytes of a model that is run again and again
_SENSIBLE = 100.0  # times the scale: an error beyond that is one of a scale of 0
_RUN = 5.0  # seconds of one run at the most


@dataclass(frozen=True)
class Pair:
    """Two models of the same interface, and inputs that show how they differ. rule_driven: `after` is what the rewrite
    under suspicion makes of `before`, so that weights may change."""

    before: ModelProto
    after: ModelProto
    feeds: Mapping[str, Any] = field(default_factory=dict)
    rule_driven: bool = False


@dataclass(frozen=True)
class Outcome:
    """What a pair shows. kind: "load", "run", "type", "shape", "structure", "elements" (NaN, infinities, exact types),
    "value", or "" for nothing. size: of a difference in value, relative to the scale. outputs: names that differ."""

    kind: str = ""
    size: float = 0.0
    outputs: tuple[str, ...] = ()
    expected: list[Any] = field(default_factory=list)
    actual: list[Any] = field(default_factory=list)


class Oracle:
    """Whether a pair still shows what the first one showed.

    as_run: whether the rewritten model runs with ONNX Runtime's optimizations (for differences that only they make);
    the original runs as written. seconds: after which `spent` is true.
    """

    def __init__(self, first: Pair, *, as_run: bool, seconds: float) -> None:
        self.as_run = as_run
        self.deadline = time.monotonic() + seconds
        self.tries = 0
        self.first = self.look(first)

    @property
    def spent(self) -> bool:
        """Whether the time is up."""
        return time.monotonic() > self.deadline

    def holds(self, pair: Pair) -> bool:
        """Whether the difference of `pair` is of the same kind, and no mere rounding."""
        self.tries += 1
        if not self.first.kind:
            return False
        try:
            found = self.look(pair)
        except (GraphoptError, ValueError, MemoryError):
            return False
        low, high = min(self.first.size / 4, 0.05), max(self.first.size * 4, _SENSIBLE)
        return found.kind == self.first.kind and low <= found.size <= high

    def look(self, pair: Pair) -> Outcome:
        """What the pair shows. Raises `LoadError` or `RunError` when the original does not run."""
        source = Source.of(pair.before)
        original = Session(source)
        expected = original.run(pair.feeds, timeout=_RUN)
        names = [value.name for value in pair.before.graph.output]
        try:
            other = Session(Source.of(pair.after), optimize=self.as_run, reference=original.reference)
        except LoadError:
            return Outcome("load", 0.0, tuple(names), expected)
        try:
            actual = other.run(pair.feeds, timeout=_RUN)
        except RunError:
            return Outcome("run", 0.0, tuple(names), expected)
        if [value.name for value in pair.after.graph.output] != names:
            return Outcome()
        slack, count = slack_of(pair.before), source.node_count
        found = [deviation(a, b, s) for a, b, s in zip(expected, actual, slack, strict=True)]
        differing = [
            (name, one)
            for name, one in zip(names, found, strict=True)
            if not (one.none or tolerance_for(one.dtype, count).allows(one))
        ]
        worst = max(differing, key=lambda entry: _weight(entry[1]), default=None)
        if worst is None:
            return Outcome()
        outputs = tuple(name for name, _ in differing)
        return Outcome(_kind(worst[1]), worst[1].far_peak, outputs, expected, actual)


def _weight(found: Deviation) -> tuple[bool, int, float]:
    return bool(found.kind), found.mismatches, found.far_peak


def _kind(found: Deviation) -> str:
    if found.kind:
        return next((word for word in ("type", "shape", "structure") if f"the {word}" in found.kind), "structure")
    return "elements" if found.mismatches else "value"


def shrink(pair: Pair, *, as_run: bool = False, rewrite: Rewrite | None = None, seconds: float = 15.0) -> Pair:
    """The smallest pair found that shows the same kind of difference; `pair` itself when it shows none.

    as_run: see `Oracle`. rewrite: makes the rewritten model out of an original one (None where the rule does not fire):
    with it weights are shrunk, too. Deterministic, but for what the time cuts off.
    """
    return _Shrinker(pair, as_run, rewrite, seconds).run()


class _Shrinker:
    def __init__(self, pair: Pair, as_run: bool, rewrite: Rewrite | None, seconds: float) -> None:
        self.best, self.rewrite = pair, rewrite
        self.oracle = Oracle(pair, as_run=as_run, seconds=seconds)

    def run(self) -> Pair:
        if not self.oracle.first.kind:
            return self.best
        self._nodes()
        for change in (inlined, opened):
            made = self._quietly(change)
            if made is not None and self._keep(made):
                self._nodes()
        self._drive()
        for _ in range(2):  # what is plain now may be cut further
            self._each(lambda pair: smaller(pair.before, pair.after, pair.feeds, pair.rule_driven))
            self._each(lambda pair: simpler_feeds(pair.before, pair.after, pair.feeds))
            self._each(lambda pair: simpler_weights(pair.before, pair.after, pair.feeds, pair.rule_driven))
        self._tidy()
        return self.best

    def _keep(self, pair: Pair) -> bool:
        """Takes `pair` as the best if it shows the same; in a rule driven one the rewritten model is made first."""
        if self.oracle.spent:
            return False
        if pair.rule_driven:
            assert self.rewrite is not None
            try:
                with warnings.catch_warnings(), np.errstate(all="ignore"):
                    warnings.simplefilter("ignore")
                    after = self.rewrite(pair.before)
            except Exception:  # noqa: BLE001 - a rule under suspicion may fail in any way
                return False
            if after is None:
                return False
            pair = replace(pair, after=after)
        if not self.oracle.holds(pair):
            return False
        self.best = pair
        return True

    def _each(self, ways: Callable[[Pair], Iterable[tuple[ModelProto, ModelProto, dict[str, Any]]]]) -> None:
        """Tries the ways to make the best pair simpler; starts over from each that works."""
        again = True
        while again and not self.oracle.spent:
            made = (replace(self.best, before=b, after=a, feeds=f) for b, a, f in ways(self.best))
            again = any(self._keep(pair) for pair in made)

    def _quietly(self, change: Callable[[ModelProto, ModelProto, Mapping[str, Any]], Any]) -> Pair | None:
        try:
            made = change(self.best.before, self.best.after, self.best.feeds)
        except (GraphoptError, ValueError, KeyError):
            return None
        return None if made is None else Pair(*made)

    # nodes

    def _nodes(self) -> None:
        """Cuts at the first value that differs, and at the last ones before it that are equal."""
        for _ in range(8):
            if self.oracle.spent or not self._cut_once():
                return

    def _cut_once(self) -> bool:
        count = len(self.best.before.graph.node), len(self.best.after.graph.node)
        if max(count) > _CAPTURED or max(self.best.before.ByteSize(), self.best.after.ByteSize()) > _LARGEST:
            return self._one_output()
        try:
            equal, differing = self._values()
        except (LoadError, RunError):
            return self._one_output()
        for name in differing:
            for near in (0, 1, 2, 4):
                pair = self._part([name], equal, near)
                if pair is not None and _size(pair) < _size(self.best) and self._keep(pair):
                    return True
        return self._one_output()

    def _one_output(self) -> bool:
        """The output alone that differs; False when it was alone already."""
        names = [value.name for value in self.best.before.graph.output]
        if len(names) < 2:
            return False
        first = [name for name in names if name in self.oracle.look(self.best).outputs]
        for name in [*first, *(name for name in names if name not in first)]:
            pair = self._part([name], {}, 0)
            if pair is not None and self._keep(pair):
                return True
        return False

    def _part(self, outputs: list[str], equal: Mapping[str, Any], near: int) -> Pair | None:
        """What makes `outputs`, cut at the values in `equal` that are more than `near` nodes away."""
        kept = readers_of(self.best.before, outputs, near) if near else set(outputs)
        cuts = {name: value for name, value in equal.items() if name not in kept}
        feeds = {**self.best.feeds, **cuts}
        made = part(self.best.before, self.best.after, outputs, feeds)
        return None if made is None else Pair(*made)

    def _values(self) -> tuple[dict[str, Any], list[str]]:
        """Values that both models make: the equal ones; names of the differing ones in order. Raises `RunError`."""
        before, after, feeds = self.best.before, self.best.after, self.best.feeds
        made = [{name for node in model.graph.node for name in node.output if name} for model in (before, after)]
        names = [n for node in before.graph.node for n in node.output if n in made[0] & made[1]]
        ours = capture(Source.of(before), names, feeds)
        try:
            theirs = capture(Source.of(after), names, feeds)
        except (LoadError, RunError):
            theirs = {}
        equal, differing = {}, []
        for name in names:
            if name not in theirs:
                differing.append(name)
            elif deviation(ours[name], theirs[name]).none:
                equal[name] = ours[name]
            else:
                differing.append(name)
        return equal, differing

    # the rule

    def _drive(self) -> None:
        """From here on the rule itself makes the rewritten model, if it fires on the small original and is wrong."""
        if self.rewrite is not None:
            self._keep(replace(self.best, rule_driven=True))

    def _tidy(self) -> None:
        """Without inputs, weights, functions and imports that nothing uses, and without documentation."""
        before, after, feeds = unused_removed(self.best.before, self.best.after, self.best.feeds)
        self._keep(Pair(before, after, feeds))


def _size(pair: Pair) -> int:
    """Nodes count most, then bytes."""
    nodes = len(pair.before.graph.node) + len(pair.after.graph.node)
    data = sum(getattr(value, "nbytes", 8) for value in pair.feeds.values())
    return nodes * 10**12 + pair.before.ByteSize() + pair.after.ByteSize() + data


def outcomes(pair: Pair, as_run: bool) -> Iterator[tuple[str, Any, Any]]:
    """(output, expected, actual) of every output; actual None where the rewritten model does not run."""
    found = Oracle(pair, as_run=as_run, seconds=0.0).first
    names = [value.name for value in pair.before.graph.output]
    actual = found.actual or [None] * len(names)
    yield from zip(names, found.expected, actual, strict=True)
