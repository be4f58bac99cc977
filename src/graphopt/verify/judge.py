"""Whose fault is a difference: rounding, the runtime's own optimizations, or the rewrite's.

A difference above the plain tolerance is no verdict yet. It is measured against what the original does to itself: with
its inputs or weights changed by one unit in the last place, and with the runtime's optimizations on. Only a small
multiple of that passes, and only while the original itself stays meaningful under such a change.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from graphopt.verify.compare import Deviation, Tolerance, rounding_of, tolerance_for
from graphopt.verify.noise import APART, nudged_feeds, nudged_scales, nudged_weights
from graphopt.verify.randomness import pinned
from graphopt.verify.run import Feeds, LoadError, RunError, Session
from graphopt.verify.search import Case
from graphopt.verify.source import Source

if TYPE_CHECKING:
    from graphopt.verify.core import Reference

__all__ = ["Judge", "Verdict"]

_PEAK, _RMS, _COUNT = 8.0, 4.0, 2.0  # times the noise floor that still counts as noise
_LOUD = 1e-3  # rms: above such a floor, half as much does
_LOST = 32.0  # times a floor that leaves nothing of the output: less is not called wrong, though it never passes
_MEANINGLESS = 0.05  # rms: from here on the original's output is mostly noise
_MEANINGLESS_SHARE = 0.2  # of the elements of an exact type
_WEIGHTS = 1 << 29  # bytes: larger weights are not copied to be nudged


@dataclass(frozen=True)
class Verdict:
    """ok, or not, and why. unjudged: the original is too unstable on these inputs to say. note: for the reader.

    runtime: whose outputs the runtime's optimizations change: "both" models', the "other"'s alone, or "" for no one's.
    """

    ok: bool
    why: str
    unjudged: bool = False
    note: str = ""
    runtime: str = ""


class Judge:
    """The court of one comparison. seeded: how random operators are pinned (see `pinned`), None when there are none."""

    def __init__(self, reference: Reference, other: Source, deadline: float, seeded: bool | None) -> None:
        self.reference, self.other, self.deadline = reference, other, deadline
        self.seeded = seeded
        self._sessions: dict[tuple[int, bool], Session] = {}
        self._weights: dict[tuple[int, bool], Source] = {}
        self._scales: dict[int, Source | None] = {}
        self._floors: dict[int, tuple[list[Deviation], int]] = {}
        self._results: dict[tuple[int, bool], dict[int, list[Any] | None]] = {}

    def session(self, source: Source, optimize: bool) -> Session:
        """A session of `source`, made once. Raises `LoadError`."""
        key = (id(source), optimize)
        if key not in self._sessions:
            fixed = source if self.seeded is None else pinned(source, self.seeded)
            threads, evaluator = self.reference.budget.threads, self.reference.on_evaluator
            self._sessions[key] = Session(fixed, optimize=optimize, threads=threads, reference=evaluator)
        return self._sessions[key]

    def variant(self, source: Source, level: str, disabled: Sequence[str]) -> Session:
        """A session of `source` at a level of the runtime's, without some of its transformers. Raises `LoadError`."""
        fixed = source if self.seeded is None else pinned(source, self.seeded)
        return Session(fixed, optimize=level, threads=self.reference.budget.threads, disabled=disabled)

    def runs_as_written(self, number: int) -> bool:
        """Whether the other model runs on that case with the runtime's optimizations off."""
        return not self.reference.on_evaluator and self.result(self.other, False, number) is not None

    def original_breaks(self, number: int) -> bool:
        """Whether the runtime's optimizations make the original fail on that case."""
        return self.result(self.reference.source, True, number) is None

    def verdict(
        self, number: int, case: Case, place: int, expected: list[Any], outputs: list[Any], found: Deviation
    ) -> Verdict:
        """On output `place` of case `number`, whose deviation `found` is above the plain tolerance."""
        floor = Deviation(dtype=found.dtype, shape=found.shape)
        large = found.kind or found.mismatches or found.peak > rounding_of(found.dtype)
        if large and self._twins(number, place, expected, outputs):
            return self._same_change(number, case, place, expected)
        for measure in (self._by_inputs, self._by_runtime, *self._by_weights):
            if self._late(case):
                return _undecided(found)
            measured = measure(number, case, place, expected)
            if measured is None:
                continue
            floor = floor.worse(measured) if not floor.none else measured
            if self._within(found, floor):
                if not _meaningless(floor):
                    return self._noise(found, floor)
                break
        return (
            _undecided(found) if self._late(case) else self._whose(number, case, place, expected, outputs, found, floor)
        )

    # the noise floor

    def _by_inputs(self, number: int, case: Case, place: int, expected: list[Any]) -> Deviation | None:
        """The largest of three runs with inputs nudged; runs are shared by the outputs of a case."""
        if self.seeded is not None:
            return None  # its draws would not repeat
        if number not in self._floors:
            worst: list[Deviation] = [Deviation() for _ in expected]
            done = 0
            for seed, steps in ((0, 1), (1, 1), (2, 2)):
                if self._late(case):
                    break
                self._widen(worst, expected, self._rerun(nudged_feeds(case.feeds, seed, steps)))
                done += 1
            self._floors[number] = (worst, done)
        worst, done = self._floors[number]
        return worst[place] if done else None

    def _rerun(self, feeds: Feeds) -> list[Any] | None:
        try:
            return self.reference.rerun(feeds)
        except RunError:
            return None

    def _widen(self, worst: list[Deviation], expected: list[Any], outputs: list[Any] | None) -> None:
        for place, value in enumerate(outputs or ()):
            found = self.reference.compare(place, expected[place], value)
            worst[place] = found if worst[place].none else worst[place].worse(found)

    def _by_runtime(self, number: int, case: Case, place: int, expected: list[Any]) -> Deviation | None:
        """What the runtime's optimizations do to the original, as long as that is small enough to be rounding."""
        outputs = self.result(self.reference.source, True, number)
        if outputs is None:
            return None
        found = self.reference.compare(place, expected[place], outputs[place])
        limit = rounding_of(found.dtype)
        return found if not found.kind and not found.mismatches and found.peak <= limit else None

    @cached_property
    def _by_weights(self) -> list[Callable[[int, Case, int, list[Any]], Deviation | None]]:
        """With the weights nudged: equal ones alike, then each tensor by itself, for terms that cancel."""
        kinds = [(seed, False) for seed in range(2)] + [(seed, True) for seed in range(APART)]
        return [partial(self._nudged, seed, apart) for seed, apart in kinds]

    def _by_scales(self, number: int, case: Case, place: int, expected: list[Any]) -> Deviation | None:
        """With the quantization scales nudged, one way and the other; None where there are none, or no time is left."""
        if self.reference.source.weight_bytes > _WEIGHTS:
            return None
        worst: Deviation | None = None
        for seed in (0, 1):
            if self._late(case, extra=2.0):
                break
            if seed not in self._scales:
                self._scales[seed] = nudged_scales(self.reference.source, seed)
            source = self._scales[seed]
            outputs = None if source is None else self.result(source, False, number)
            if outputs is None:
                return None
            found = self.reference.compare(place, expected[place], outputs[place])
            worst = found if worst is None else worst.worse(found)
        return worst

    def _nudged(
        self, seed: int, apart: bool, number: int, case: Case, place: int, expected: list[Any], optimize: bool = False
    ) -> Deviation | None:
        """With the weights nudged; None where that is too large or too late."""
        if self.reference.source.weight_bytes > _WEIGHTS or self._late(case, extra=2.0):
            return None
        if (seed, apart) not in self._weights:
            self._weights[seed, apart] = nudged_weights(self.reference.source, seed, apart)
        outputs = self.result(self._weights[seed, apart], optimize, number)
        return None if outputs is None else self.reference.compare(place, expected[place], outputs[place])

    def _within(self, found: Deviation, floor: Deviation) -> bool:
        if floor.none:
            return False
        if found.kind or floor.kind:
            return bool(found.kind) and bool(floor.kind)
        if found.exact:
            return found.mismatches <= _COUNT * floor.mismatches and found.off_by <= max(_COUNT * floor.off_by, 1)
        plain = self._plain(found.dtype)
        share = 0.5 if floor.rms > _LOUD else 1.0
        return (
            found.peak <= share * _PEAK * floor.peak + plain.peak
            and found.rms <= share * _RMS * floor.rms + plain.rms
            and found.far_peak <= share * _PEAK * floor.far_peak + plain.peak
            and found.far_rms <= share * _RMS * floor.far_rms + plain.rms
            and found.mismatches <= _COUNT * floor.mismatches
        )

    def _plain(self, dtype: str) -> Tolerance:
        return tolerance_for(dtype, self.reference.source.node_count)

    @staticmethod
    def _noise(found: Deviation, floor: Deviation) -> Verdict:
        if found.exact:
            figures = f"{found.mismatches} elements differ, {floor.mismatches} there"
        else:
            figures = f"error {found.peak:.2g}, {floor.peak:.2g} there"
        return Verdict(True, f"within the original's own rounding noise ({figures})")

    # the runtime's mistakes

    def _twins(self, number: int, place: int, expected: list[Any], outputs: list[Any]) -> bool:
        """Whether the two models agree as written, and agree again with the runtime's optimizations on both."""
        if self.reference.on_evaluator:
            return False
        plain = self.result(self.other, False, number)
        moved = self.result(self.reference.source, True, number)
        if (
            plain is None
            or moved is None
            or not self.allowed(self.reference.compare(place, expected[place], plain[place]))
        ):
            return False
        return self.allowed(self.reference.compare(place, moved[place], outputs[place]))

    def _same_change(self, number: int, case: Case, place: int, expected: list[Any]) -> Verdict:
        moved = self.result(self.reference.source, True, number)
        drift = self.reference.compare(place, expected[place], moved[place]) if moved is not None else Deviation()
        note = "ONNX Runtime's own optimizations change the original in the same way"
        runtime = "" if self._is_rounding(number, case, place, expected, drift) else "both"
        return Verdict(True, f"{note} ({drift.in_words()})", note=note, runtime=runtime)

    def _is_rounding(self, number: int, case: Case, place: int, expected: list[Any], drift: Deviation) -> bool:
        """Whether what the runtime does to the original is no more than a change in the last place does: where numbers
        are rounded to integers on the way, as in quantized models, either moves some of them by a step."""
        floor = Deviation(dtype=drift.dtype, shape=drift.shape)
        for measure in (self._by_inputs, self._by_weights[0], self._by_scales):
            measured = None if self._late(case) else measure(number, case, place, expected)
            if measured is not None:
                floor = floor.worse(measured) if not floor.none else measured
                if self._within(drift, floor):
                    return True
        return False

    def _whose(
        self,
        number: int,
        case: Case,
        place: int,
        expected: list[Any],
        outputs: list[Any],
        found: Deviation,
        floor: Deviation,
    ) -> Verdict:
        """Rounding does not explain it: see what is left of it without the runtime's optimizations."""
        plain = None if self.reference.on_evaluator else self.result(self.other, False, number)
        written = None if plain is None else self.reference.compare(place, expected[place], plain[place])
        agrees = written is not None and (
            self.allowed(written) or (self._within(written, floor) and not _meaningless(floor))
        )
        if not agrees:
            # Had the floor said anything, this would have been noise; what it says nothing about is not called wrong.
            lost = _meaningless(floor) and not found.kind and found.far_rms <= _LOST * floor.far_rms
            if self._within(found, floor) or (lost and found.mismatches <= _COUNT * floor.mismatches):
                return Verdict(False, _unstable(floor), unjudged=True)
            return Verdict(False, found.in_words())
        moved = self.result(self.reference.source, True, number)
        if moved is not None and self._near(number, case, place, moved, outputs):
            return self._same_change(number, case, place, expected)
        if self.other.proto == self.reference.source.proto:  # memory that the runtime has not written, as a rule
            note = f"the model is as it was, and ONNX Runtime's optimizations change its results ({found.in_words()})"
            return Verdict(True, note, note=note, runtime="both")
        what = f"{found.in_words()}; without them it agrees"
        why = f"ONNX Runtime's optimizations break it, though not the original ({what})"
        return Verdict(False, why, runtime="other")

    def _near(self, number: int, case: Case, place: int, moved: list[Any], outputs: list[Any]) -> bool:
        """Whether the two models, both optimized by the runtime, are within the noise of the original so optimized."""
        left = self.reference.compare(place, moved[place], outputs[place])
        if self.allowed(left):
            return True
        floor = Deviation(dtype=left.dtype, shape=left.shape)
        for seed in (0, 1):
            try:
                again = self.session(self.reference.source, True).run(nudged_feeds(case.feeds, seed))
                by_inputs = (
                    None if self.seeded is not None else self.reference.compare(place, moved[place], again[place])
                )
            except (LoadError, RunError):
                by_inputs = None
            for measured in (by_inputs, self._nudged(seed, False, number, case, place, moved, optimize=True)):
                if measured is not None:
                    floor = measured if floor.none else floor.worse(measured)
            if self._within(left, floor):
                return True
        return False

    def allowed(self, found: Deviation) -> bool:
        """Whether rounding alone may do this."""
        return found.none or self._plain(found.dtype).allows(found)

    def result(self, source: Source, optimize: bool, number: int) -> list[Any] | None:
        """The outputs of `source` on a case, None where it does not load or run.

        Random operators draw on from run to run: then all cases are run, in their order, in a session of their own.
        """
        known = self._results.setdefault((id(source), optimize), {})
        if number not in known:
            wanted = [number] if self.seeded is None else range(len(self.reference.found.cases))
            for each in wanted:
                known[each] = self._outcome(source, optimize, each)
        return known[number]

    def _outcome(self, source: Source, optimize: bool, number: int) -> list[Any] | None:
        try:
            return self.session(source, optimize).run(self.reference.found.cases[number].feeds)
        except (LoadError, RunError):
            return None

    def _late(self, case: Case, extra: float = 1.0) -> bool:
        return time.monotonic() + extra * case.seconds > self.deadline


def _undecided(found: Deviation) -> Verdict:
    """Out of time: however large a difference is, the original may be as far from itself."""
    return Verdict(False, f"no time was left to tell rounding from error ({found.in_words()})", unjudged=True)


def _meaningless(floor: Deviation) -> bool:
    """Whether a change of one unit in the last place leaves little of the original's output."""
    if floor.kind:
        return True
    return floor.mismatches > _MEANINGLESS_SHARE * max(1, floor.total) if floor.exact else floor.rms > _MEANINGLESS


def _unstable(floor: Deviation) -> str:
    if floor.kind:
        return f"it depends on rounding whether {floor.kind}"
    much = f"{floor.mismatches} of {floor.total} elements" if floor.exact else f"{floor.rms:.2g} of the output's scale"
    return f"the original cannot be judged here: a change of one unit in the last place moves {much}"
