"""The search for inputs that the original runs on: guess sizes and values, run, learn from the error, guess again."""

from __future__ import annotations

import heapq
import itertools
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from onnx import TensorProto, numpy_helper

from graphopt.verify import limits
from graphopt.verify.axes import Axes
from graphopt.verify.compare import slack_of
from graphopt.verify.coverage import Branches, still_outputs
from graphopt.verify.flow import Flow
from graphopt.verify.hints import hints_of
from graphopt.verify.run import RunError, RunTimeout, Session
from graphopt.verify.sizes import Advisor, Guess, alternatives, first_sizes, roles_of
from graphopt.verify.source import Source
from graphopt.verify.spec import InputSpec, input_specs, overridable, symbols_of
from graphopt.verify.values import feed_elements, make_feeds

__all__ = ["Case", "Cases", "find_cases"]

_TRIES = 160  # runs spent on the first inputs that work
_OTHER_TRIES = 40  # and on other sizes
_OVERRIDDEN = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16)
_GOOD = 0.99  # of `_quality`
_WORSE = 0.05
_CHEAP = 0.02  # seconds of a run
_LARGE_FEEDS = 16 << 20  # bytes


@dataclass(eq=False)
class Case:
    """Inputs, and what the original makes of them.

    binding: symbol -> size. data: the style of the values, or "given". outputs: in the order of the graph. seconds: of
    the run.
    """

    binding: dict[str, int]
    feeds: dict[str, Any]
    outputs: list[Any]
    data: str = "base"
    seconds: float = 0.0
    guess: Guess = field(default_factory=Guess)


@dataclass
class Cases:
    """What the search found. unchecked: what it could not reach, in words. notes: why less. tries: runs that it
    took."""

    cases: list[Case] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    tries: int = 0


def find_cases(source: Source, session: Session, *, seconds: float = 30.0, seed: int = 0) -> Cases:
    """Inputs that `session` (of the original) runs on, with their outputs.

    At least two sizes of every symbolic dimension where the model allows it, and two kinds of data. seconds: stop
    looking for more after that. Deterministic for a given seed, except for what time cuts off.
    """
    return _Search(source, session, time.monotonic() + seconds, seed).find()


class _Search:
    def __init__(self, source: Source, session: Session, deadline: float, seed: int) -> None:
        self.session, self.deadline, self.seed = session, deadline, seed
        self.source, self.model = source, source.proto
        self.specs = input_specs(source.proto)
        self.flow = flow = Flow(source.proto)
        axes = Axes(flow, self.specs)
        self.required, self.hints = axes.required, hints_of(self.specs, flow, axes)
        self.advisor = Advisor(source.proto, flow, self.specs, self.hints)
        self.found = Cases()
        self._allowance = limits.allowance(source)

    def find(self) -> Cases:
        first = self._first()
        if first is None:
            return self.found
        self.found.cases.append(first)
        fixed = {s: n for s, n in self.required.items() if first.binding.get(s) == n}
        if fixed:
            sizes = ", ".join(f"{symbol!r} = {size}" for symbol, size in fixed.items())
            self.found.notes.append(f"the weights allow one size only: {sizes}")
        symbols = [s for s in first.guess.binding if s not in fixed]
        if symbols:
            self._other_sizes(first, symbols)
        self._other_data(first)
        self._other_defaults(first)
        self._more_integers(first)
        self._other_branches(first)
        self._say_still()
        return self.found

    # the first inputs

    def _start(self) -> Guess:
        ranks = {spec.name: self.hints[spec.name].rank or 2 for spec in self.specs if spec.dims is None}
        return self._sized(Guess(ranks=tuple(ranks.items())))

    def _sized(self, guess: Guess) -> Guess:
        """`guess` with a size for every symbol that its ranks make."""
        specs = self._specs(guess)
        known = guess.binding
        self.advisor.roles.update(roles_of(specs))
        sizes = {**first_sizes(symbols_of(specs), self.advisor.roles), **self.required}
        return replace(guess, sizes=tuple((s, known.get(s, size)) for s, size in sizes.items()))

    def _specs(self, guess: Guess) -> list[InputSpec]:
        ranks = dict(guess.ranks)
        return [
            spec
            if spec.dims is not None
            else replace(spec, dims=tuple(f"{spec.name}[{i}]" for i in range(ranks[spec.name])))
            for spec in self.specs
        ]

    def _first(self) -> Case | None:
        # In order of: moves since the last that let the run come further; how far it came; first come, first served.
        waiting = [(0, 0, 0, self._start())]
        order = itertools.count(1)
        tested: set[Guess] = set()
        furthest, trouble = -1, "no inputs were found that it runs on"
        while waiting and self.found.tries < _TRIES and time.monotonic() < self.deadline:
            stalled, reached, _, guess = heapq.heappop(waiting)
            if guess in tested:  # it waited more than once, with different prospects
                continue
            tested.add(guess)
            tried = self._try(guess)
            if isinstance(tried, Case):
                return self._longer(self._better(tried))
            place = self.advisor.progress(tried)
            if place > furthest:
                furthest, trouble = place, tried
            stalled = 0 if place > -reached else stalled + 1
            for other in self.advisor.next_guesses(guess, tried):
                other = self._sized(other)
                if other not in tested:
                    heapq.heappush(waiting, (stalled, -place, next(order), other))
        self.found.unchecked.append(
            f"no inputs were found that the original runs on ({self.found.tries} tried): {trouble}"
        )
        return None

    def _try(self, guess: Guess) -> Case | str:
        """Run the original; a case, or the error."""
        self.found.tries += 1
        hints = dict(self.hints)
        for name, low, high in guess.ranges:
            hints[name] = hints[name].bounded(low, high)
        specs = self._specs(guess)
        count, most = feed_elements(specs, guess.binding), limits.elements(self._allowance)
        if count > most:
            return f"the inputs would have {min(count, 10**18):.2g} elements, {limits.TOO_LARGE} of {most:.2g}"
        try:
            feeds = make_feeds(specs, hints, guess.binding, guess.style, self.seed)
        except (MemoryError, ValueError, OverflowError) as error:
            return str(error) or "out of memory"
        except KeyError as error:
            return f"no values can be made of element type {error}"
        return self._attempt(guess, feeds)

    def _attempt(self, guess: Guess, feeds: dict[str, Any]) -> Case | str:
        start = time.perf_counter()
        try:
            outputs = self.session.run(feeds, timeout=max(0.1, self.deadline - time.monotonic()))
        except (RunError, MemoryError) as error:
            if isinstance(error, RunTimeout):
                self.deadline = 0.0
            return str(error) or "out of memory"
        return Case(guess.binding, feeds, outputs, guess.style, time.perf_counter() - start, guess)

    def _better(self, case: Case) -> Case:
        """`case`, or a variation of it whose results say more: none empty, all finite, not all the same."""
        best, best_quality = case, _quality(case.outputs)
        if best_quality >= _GOOD:
            return case
        sizes = {s: n for s, n in case.binding.items() if self._scales(s)}
        variations = [replace(case.guess, style=style) for style in ("positive", "unit", "small")]
        variations += self.advisor.enlarged(case.guess, list(sizes))
        variations += [replace(v, style="positive") for v in variations[3:4]]
        variations += [case.guess.with_sizes({s: 2}) for s in list(sizes)[-3:]]
        for guess in variations:
            if self._short_of(case.seconds * 2):
                break
            tried = self._try(guess)
            if isinstance(tried, Case) and _quality(tried.outputs) > best_quality + 0.01:
                best, best_quality = tried, _quality(tried.outputs)
            if best_quality >= _GOOD:
                break
        return best

    def _longer(self, case: Case) -> Case:
        """`case` with its free dimensions four times as large, if that is cheap: a sequence of one step shows
        little."""
        symbols = [s for s in case.binding if self._scales(s) and self.advisor.roles.get(s) == "free"]
        if not symbols or case.seconds > _CHEAP or self._short_of(_CHEAP * 8):
            return case
        for guess in self.advisor.enlarged(case.guess, symbols)[:1]:
            if _feed_bytes(case) * 4 ** len(symbols) <= _LARGE_FEEDS:
                tried = self._try(guess)
                if isinstance(tried, Case) and _quality(tried.outputs) >= _quality(case.outputs) - 0.001:
                    return tried
        return case

    def _scales(self, symbol: str) -> bool:
        return symbol not in self.required and self.advisor.roles.get(symbol) not in ("batch", "channels")

    def _short_of(self, seconds: float) -> bool:
        return time.monotonic() + seconds > self.deadline

    # other sizes

    def _other_sizes(self, first: Case, symbols: list[str]) -> None:
        """Cases until every symbol has been run with two sizes: in one run if that works, else in several."""
        self._stop_at = self.found.tries + _OTHER_TRIES
        if self._short_of(first.seconds * 1.5):
            self.found.unchecked.append(f"other sizes of {_listed(symbols)}: no time was left")
            return
        together = self._together(first, symbols, range(2))
        if together is not None:
            self.found.cases.append(together)
            return
        alone = {symbol: case for symbol in symbols if (case := self._alone(first, symbol)) is not None}
        self._add_combined(first, alone)
        left = [symbol for symbol in symbols if symbol not in alone]
        rest = self._together(first, left, range(9)) if len(left) > 1 else None
        if rest is not None:
            self.found.cases.append(rest)
        elif left:
            sizes = ", ".join(f"{s!r} = {first.binding[s]}" for s in left)
            why = f"no others were found that the original runs on ({sizes})"
            self.found.unchecked.append(f"other sizes of {_listed(left)}: {why}")

    def _add_combined(self, first: Case, alone: dict[str, Case]) -> None:
        """One case that changes all that changed alone, or those cases themselves."""
        changed = {symbol: case.binding[symbol] for symbol, case in alone.items()}
        combined = self._again(first, changed) if len(alone) > 1 and not self._spent(first) else None
        self.found.cases += [combined] if combined is not None else list(alone.values())

    def _together(self, first: Case, symbols: list[str], attempts: range) -> Case | None:
        """A case in which all `symbols` have another size."""
        lists = {s: alternatives(first.binding[s], self.advisor.roles.get(s, "free")) for s in symbols}
        place: Counter[str] = Counter()
        shift = {}
        for symbol in symbols:  # height and width get different sizes first, so that one does not pass for the other
            role = self.advisor.roles.get(symbol, "free")
            shift[symbol], place[role] = place[role], place[role] + 1
        for attempt in attempts:
            for apart in (1, 0) if max(shift.values()) else (0,):
                if self._spent(first):
                    return None
                changed = {s: sizes[(attempt + apart * shift[s]) % len(sizes)] for s, sizes in lists.items()}
                tried = self._again(first, changed)
                if tried is not None:
                    return tried
        return None

    def _alone(self, first: Case, symbol: str) -> Case | None:
        """A case in which only `symbol` has another size; one that says little, if there is no better."""
        poor: Case | None = None
        for size in alternatives(first.binding[symbol], self.advisor.roles.get(symbol, "free")):
            if self._spent(first):
                break
            tried = self._again(first, {symbol: size}, 0.0)
            if tried is not None and _quality(tried.outputs) >= _quality(first.outputs) - _WORSE:
                return tried
            poor = poor or tried
        return poor

    def _again(self, first: Case, changed: dict[str, int], least: float | None = None) -> Case | None:
        """A run with other sizes, None when it fails or its results say much less than the first's."""
        tried = self._try(first.guess.with_sizes(changed))
        least = _quality(first.outputs) - _WORSE if least is None else least
        return tried if isinstance(tried, Case) and _quality(tried.outputs) >= least else None

    def _spent(self, first: Case) -> bool:
        return self.found.tries >= self._stop_at or self._short_of(first.seconds * 1.5)

    # other data

    def _other_data(self, first: Case) -> None:
        if not self.specs:
            return
        if self._short_of(first.seconds * 1.5):
            self.found.unchecked.append("a second kind of data: no time was left")
            return
        tried = self._try(replace(first.guess, style="wide"))
        if not isinstance(tried, Case) or _quality(tried.outputs) < 0.5 * _quality(first.outputs):
            seed, self.seed = self.seed, self.seed + 1
            tried = self._try(first.guess)
            self.seed = seed
        if isinstance(tried, Case):
            self.found.cases.append(tried)

    def _other_defaults(self, first: Case) -> None:
        """A case that overrides the float inputs which have a default: they are no constants."""
        feeds = dict(first.feeds)
        for value in overridable(self.model.graph):
            default = next((t for t in self.model.graph.initializer if t.name == value.name), None)
            if (
                default is not None
                and default.data_type in _OVERRIDDEN
                and default.data_location != TensorProto.EXTERNAL
            ):
                array = numpy_helper.to_array(default)
                feeds[value.name] = (array * 1.25 + 0.125).astype(array.dtype)
        if len(feeds) == len(first.feeds) or self.model.ir_version < 4:
            return
        tried = None if self._short_of(first.seconds * 1.5) else self._attempt(first.guess, feeds)
        if isinstance(tried, Case):
            tried.data = "defaults overridden"
            self.found.cases.append(tried)
        else:
            self.found.unchecked.append(f"the inputs with defaults, overridden: {tried or 'no time was left'}")

    # what the inputs leave untouched

    def _more_integers(self, first: Case) -> None:
        """Two cases more where all outputs are of exact types: labels move seldom."""
        exact = all(isinstance(a, np.ndarray) and a.dtype.kind in "biuOU" for a in first.outputs)
        if not exact or not self.specs:
            return
        seed = self.seed
        for self.seed in (seed + 1, seed + 2):
            tried = (
                self._try(first.guess) if first.seconds < _CHEAP * 4 and not self._short_of(first.seconds * 2) else None
            )
            if isinstance(tried, Case):
                self.found.cases.append(tried)
        self.seed = seed

    def _other_branches(self, first: Case) -> None:
        """Cases that take the branches which no case has taken yet, as far as a few kinds of data find them."""
        branches = Branches(self.source, self.flow)
        for case in self.found.cases if branches.taken else ():
            branches.visit(case.feeds, max(0.1, self.deadline - time.monotonic()))
        for style in ("positive", "small", "unit", "zeros"):
            if not branches.missing or self._short_of(first.seconds * 3):
                break
            tried = self._try(replace(first.guess, style=style))
            if isinstance(tried, Case) and branches.visit(tried.feeds, max(0.1, self.deadline - time.monotonic())):
                self.found.cases.append(tried)
        for name, way in branches.missing:
            branch = "then" if way else "else"
            self.found.notes.append(f"no inputs were found that take the {branch} branch of If {name!r}")

    def _say_still(self) -> None:
        names = [value.name for value in self.model.graph.output]
        still = {}
        if self.specs:
            still = still_outputs(names, [case.outputs for case in self.found.cases], slack_of(self.model))
        for name, value in still.items():
            self.found.unchecked.append(f"output {name!r}: it is {value:g} everywhere on all the inputs that were made")


def _feed_bytes(case: Case) -> int:
    return sum(value.nbytes for value in case.feeds.values() if isinstance(value, np.ndarray))


def _listed(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in names)


def _quality(outputs: list[Any]) -> float:
    """How much a comparison of these outputs can say, 0 .. 1: none empty, all finite, not all elements the same."""
    arrays = [
        a for value in outputs for a in (value if isinstance(value, list) else [value]) if isinstance(a, np.ndarray)
    ]
    return sum(map(_telling, arrays)) / len(arrays) if arrays else 1.0


def _telling(array: np.ndarray) -> float:
    if array.size == 0:
        return 0.0
    if array.dtype.kind not in "fV" or array.dtype.itemsize > 8:
        return 1.0
    flat = array.ravel().astype(np.float32)
    finite = float(np.isfinite(flat).mean())
    return finite * (0.9 if flat.size > 1 and bool((flat == flat[0]).all()) else 1.0)
