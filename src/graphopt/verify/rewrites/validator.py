"""Checks the rewrites of a run, each by itself: by form, on the original's own values, on made ones."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from onnx import ModelProto

from graphopt import ir
from graphopt.analysis.record import Chapter, Recorder, Site
from graphopt.errors import GraphoptError
from graphopt.report import Validation
from graphopt.verify.report import Budget
from graphopt.verify.rewrites.book import Book
from graphopt.verify.rewrites.capture import Captured, Observed, capture, input_bytes
from graphopt.verify.rewrites.closeness import agree
from graphopt.verify.rewrites.replay import Fault, Replay, same_by_form, same_constants
from graphopt.verify.rewrites.sample import Sampler
from graphopt.verify.rewrites.session import Runner, small
from graphopt.verify.run import LoadError, RunError
from graphopt.verify.source import Source

_NO_INPUTS = "no inputs were found that the original runs on"

__all__ = ["Finding", "Findings", "Validator"]


@dataclass
class Finding:
    """A rewrite that is wrong. book: of its chapter."""

    site: Site
    fault: Fault
    book: Book


@dataclass
class Findings:
    """What one round found."""

    wrong: list[Finding] = field(default_factory=list)
    validation: Validation = field(default_factory=Validation)

    def first(self) -> list[Finding]:
        """Those that read nothing that another one made, nor replace what an earlier one did: the others may be wrong
        on account of these."""
        made = {id(f): {right for _, right in f.site.pairs} for f in self.wrong}
        counts = Counter(name for names in made.values() for name in names)
        replaced: set[str] = set()
        found = []
        for finding in sorted(self.wrong, key=lambda f: f.site.index):
            again = any(left in replaced for left, _ in finding.site.pairs)
            replaced.update(left for left, _ in finding.site.pairs)
            own = made[id(finding)]
            parts = finding.book.parts(name for pair in finding.site.pairs for name in pair)
            read = {*parts.constants, *(out for step in parts.steps for out in step.output)}
            if not again and all(name in own and counts[name] == 1 for name in read if name in counts):
                found.append(finding)
        return found or self.wrong[:1]


class Validator:
    """Checks runs of passes over one original. The original itself is run once, when the first run is checked.

    inputs, budget: as in `verify`. reference: the original with its cases, for the comparison of whole models, too.
    """

    def __init__(self, original: Any, inputs: Any = None, budget: Budget | None = None) -> None:
        self.source = Source.of(original)
        self.budget = budget or Budget()
        self._inputs = inputs
        self._reference: Observed | None = None
        self._watched: frozenset[str] = frozenset()
        self._cases: list[dict[str, Any]] = []
        self.deadline = 0.0
        self.finite = False  # whether only finite values count

    @property
    def reference(self) -> Observed:
        """The original with its cases."""
        if self._reference is None:
            self._observe([])
        assert self._reference is not None
        return self._reference

    def close(self) -> None:
        """Let go of sessions and values."""
        if self._reference is not None:
            self._reference.close()
        self._cases.clear()

    def release(self) -> None:
        """Let go of inner values, which only rounds of `check` need."""
        self._cases.clear()

    def check(self, record: Recorder) -> Findings:
        """Checks every rewrite of a run."""
        found = Findings()
        searching = 0.0
        start = time.monotonic()
        self.deadline = start + self.budget.seconds
        self.finite = record.model.fast_math
        for chapter in record.chapters:
            searching += self._chapter(chapter, found)
        found.validation.seconds = time.monotonic() - start - searching
        return found

    def _chapter(self, chapter: Chapter, found: Findings) -> float:
        """Returns the seconds that the runs of the original took, which are not of this check."""
        if not chapter.sites:
            return 0.0
        base = self.source.proto if chapter.base is None else ir.to_proto(chapter.base, whole=True)
        book = Book(chapter, base)
        found.validation.sites += len(chapter.sites)
        waiting = self._by_form(book, found)
        replayable = []
        for site in waiting:
            why = self._why_not(book, site)
            if why:
                self._unchecked(found, site, why)
            else:
                replayable.append(site)
        watch = book.watch(replayable)
        small = frozenset(book.watch(site for site in replayable if not book.is_heavy(site)))
        large = frozenset(name for name in watch if name not in small)
        start = time.monotonic()
        cases, problem = self._values(chapter, base, watch, large, found, book)
        spent = time.monotonic() - start
        wrong = {id(finding.site) for finding in found.wrong}
        for site in (site for site in chapter.sites if site.place == "model" and id(site) not in wrong):
            if cases:
                found.validation.replayed += 1  # as a whole, see `_values`
            else:
                self._unchecked(found, site, problem or _NO_INPUTS)
        if not cases:
            for site in replayable:
                self._unchecked(found, site, problem or _NO_INPUTS)
        else:
            self._replay(book, replayable, cases, found)
        self._sample(book, waiting, cases[0] if cases else {}, found)
        return spent

    def _sample(self, book: Book, sites: list[Site], seen: Mapping[str, Any], found: Findings) -> None:
        """Runs one site of each kind on made values; those that are wrong anyhow are left out."""
        wrong = {id(finding.site) for finding in found.wrong}
        chosen = [s for s in sites if s.old and id(s) not in wrong and not any(self._sealed(book, s))]
        sampler = Sampler(book, seen, self.source.weight_bytes, self.deadline, self._load, self.finite)
        counted: set[int] = set()
        for site, outcome in sampler.run(chosen).items():
            if outcome.fault is not None:
                found.wrong.append(Finding(site, outcome.fault, book))
            elif outcome.why_not:
                _say(found.validation.not_sampled, site, outcome.why_not)
            else:
                found.validation.sampled += 1
            if id(outcome) not in counted:
                counted.add(id(outcome))
                found.validation.samples += outcome.samples

    def _load(self, model: ModelProto) -> Runner:
        return small(model, self.budget.threads, self.reference.on_evaluator)

    @staticmethod
    def _sealed(book: Book, site: Site) -> Iterator[str]:
        """Why the nodes of a site cannot be replayed at all."""
        window = book.window(site)
        for step in (*window.old.steps, *window.new.steps):
            yield book.fault(step)

    def _by_form(self, book: Book, found: Findings) -> list[Site]:
        """Settles what needs no run; returns the rest."""
        rest = []
        constants = book.chapter.constants
        for site in book.chapter.sites:
            if not site.claims:
                if site.place != "model":
                    self._unchecked(found, site, f"{site.pass_name} makes no claims")
            elif not site.pairs:
                found.validation.exact += 1
            elif all(left in constants and right in constants for left, right in site.pairs):
                fault = same_constants(book, site)
                if fault is None:
                    found.validation.exact += 1
                else:
                    found.wrong.append(Finding(site, fault, book))
            elif same_by_form(book, site):
                found.validation.exact += 1
            else:
                rest.append(site)
        return rest

    @staticmethod
    def _why_not(book: Book, site: Site) -> str:
        if site.place != "main":
            return "it stands in a body" if site.place == "body" else "it stands in a function"
        return next((why for pair in site.pairs for name in pair if (why := book.status(name))), "")

    @staticmethod
    def _unchecked(found: Findings, site: Site, why: str) -> None:
        found.validation.unchecked.setdefault(why, []).append(f"{site.rule} at {site.name or site.labels[:1]}")

    def _values(
        self, chapter: Chapter, base: ModelProto, watch: list[str], large: frozenset[str], found: Findings, book: Book
    ) -> tuple[list[dict[str, Any]], str]:
        """The values of the base by name, for each case; and why there are none."""
        if chapter.base is None:
            return self._of_original(watch, large)
        cases = self.reference.found.cases
        try:
            runs = capture(Source(base), cases, watch, self.budget.threads)
        except (LoadError, RunError, MemoryError) as error:
            self._taken_over(found, book, f"the model that was taken over does not run: {error}", {})
            return [], "the model that it was made in does not run"
        random = self.reference.randomness.dependents
        faults: list[tuple[str, Mapping[str, Any]]] = []
        for case, run in zip(cases, runs, strict=True):
            for name, expected, actual in zip(base.graph.output, case.outputs, run, strict=True):
                apart = agree(expected, actual) if name.name not in random else None
                if apart is not None:
                    faults.append((f"output {name.name!r}: {apart.in_words()}", case.feeds))
        if faults and not self.reference.check(base).ok:  # others have rounded, too: judged as whole models are
            for why, feeds in faults:
                self._taken_over(found, book, why, feeds)
        return [{**run.watched, **case.feeds} for case, run in zip(cases, runs, strict=True)], ""

    @staticmethod
    def _taken_over(found: Findings, book: Book, why: str, feeds: Mapping[str, Any]) -> None:
        for site in book.chapter.sites:
            if site.place == "model" and not any(item.site is site for item in found.wrong):
                found.wrong.append(Finding(site, Fault(why, dict(feeds)), book))

    def _of_original(self, watch: list[str], large: frozenset[str]) -> tuple[list[dict[str, Any]], str]:
        if self._reference is None:
            self._observe(watch, large)
        elif not self._watched.issuperset(watch) or not self._cases:
            self._capture_more(watch)
        found = self.reference.found
        return self._cases, self.reference.problem if found.cases else next(iter(found.unchecked), "")

    def _observe(self, watch: list[str], large: frozenset[str] = frozenset()) -> None:
        self._reference = Observed(self.source, self._inputs, watch, large=large, budget=self.budget)
        self._watched = frozenset(watch)
        self._cases = [values for _, values in self._reference.captured()]
        if self._cases and not any(large <= values.keys() for values in self._cases):  # the last run is of no case
            self._capture_more(watch, 1)

    def _capture_more(self, watch: list[str], most: int = 8) -> None:
        """A replay with other rewrites has other values to look at."""
        cases = sorted(self.reference.found.cases, key=input_bytes)[:most]
        runs: list[Captured] = []
        with suppress(LoadError, RunError, GraphoptError):
            runs = capture(self.source, cases, watch, self.budget.threads)
        self._watched = frozenset(watch)
        known = self._cases if most == 1 else []
        self._cases = [*({**run.watched, **case.feeds} for case, run in zip(cases, runs, strict=False)), *known]

    def _replay(self, book: Book, sites: list[Site], cases: list[dict[str, Any]], found: Findings) -> None:
        replay = Replay(book, cases, self.deadline, self._load)
        for site, outcome in replay.run(sites).items():
            if isinstance(outcome, Fault):
                found.wrong.append(Finding(site, outcome, book))
            elif outcome:
                self._unchecked(found, site, outcome)
            else:
                found.validation.replayed += 1


def _say(where: dict[str, list[str]], site: Site, why: str) -> None:
    where.setdefault(why, []).append(f"{site.rule} at {site.name}")
