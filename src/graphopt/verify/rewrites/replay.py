"""The new side of every site, on the values that the original gave its old side."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from onnx import ModelProto

from graphopt.analysis.record import Constant, Site
from graphopt.ir.wire import Buffer
from graphopt.verify.compare import Deviation, deviation
from graphopt.verify.noise import APART, nudged_feeds, nudged_weights
from graphopt.verify.rewrites.book import Book, Parts, assemble, plain
from graphopt.verify.rewrites.closeness import agree, within_noise
from graphopt.verify.rewrites.crop import agreeing_on_pieces
from graphopt.verify.rewrites.session import Runner, small
from graphopt.verify.run import LoadError, RunError
from graphopt.verify.source import Source

__all__ = ["Fault", "Replay", "floors", "magnitude", "same_by_form", "same_constants"]

_BATCH = 1 << 28  # bytes of values that are in one batch
_PART = 1 << 24  # bytes compared at a time


@dataclass
class Fault:
    """What is wrong with a site, and the values that show it: of what enters it, by identity."""

    why: str
    values: dict[str, Any] = field(default_factory=dict)


def same_constants(book: Book, site: Site) -> Fault | None:
    """For a site whose claims are all between constants: None where they hold in every bit."""
    for left, right in site.pairs:
        old, new = book.chapter.constants[left], book.chapter.constants[right]
        why = _difference(old, new)
        if why:
            return Fault(why)
    return None


def _difference(old: Constant, new: Constant) -> str:
    if old.tensor is not None and new.tensor is not None:
        a, b = old.tensor, new.tensor
        if a is b:
            return ""
        if (a.dtype, a.shape) == (b.dtype, b.shape):
            left, right = a.raw(), b.raw()
            if left is not None and right is not None and _same_bytes(left, right):
                return ""
    left_array, right_array = plain(old), plain(new)
    if (left_array.dtype, left_array.shape) == (right_array.dtype, right_array.shape) and (
        left_array.tobytes() == right_array.tobytes()
    ):
        return ""
    found = deviation(left_array, right_array)
    return "" if found.none else found.in_words()


def _same_bytes(left: Buffer, right: Buffer) -> bool:
    """Part by part: weights may be files that were mapped."""
    a, b = (np.frombuffer(data, np.uint8) for data in (left, right))
    return a.size == b.size and all(
        np.array_equal(a[at : at + _PART], b[at : at + _PART]) for at in range(0, a.size, _PART)
    )


def same_by_form(book: Book, site: Site) -> bool:
    """Whether every claim holds by the form of the nodes alone: an Identity, or the same operator on the same
    operands."""
    made = {name: node for node in site.old for name in node.output if name}
    for left, right in site.pairs:
        old, new = made.get(left), made.get(right) or book.chapter.steps.get(right)
        if old is None:
            return False
        if old.op_type == "Identity" and not old.domain and list(old.input) == [right]:
            continue
        if new is None or not _same_call(old, new) or not book.chapter.opaque.isdisjoint(old.output):
            return False
        if list(old.output).index(left) != list(new.output).index(right) or book.draws(old):
            return False
    return bool(site.pairs)


def _same_call(a: Any, b: Any) -> bool:
    if (a.op_type, a.domain, a.overload) != (b.op_type, b.domain, b.overload) or list(a.input) != list(b.input):
        return False
    if [bool(name) for name in a.output] != [bool(name) for name in b.output] or len(a.attribute) != len(b.attribute):
        return False
    left, right = ({x.name: x for x in node.attribute} for node in (a, b))
    return left == right


class Replay:
    """Replays sites of one chapter. cases: the original's values by name, for each run. deadline: of
    `time.monotonic`. load: makes sessions."""

    def __init__(
        self,
        book: Book,
        cases: Sequence[Mapping[str, Any]],
        deadline: float,
        load: Callable[[ModelProto], Runner] = small,
    ) -> None:
        self.book, self.cases, self.deadline, self.load = book, cases, deadline, load

    def run(self, sites: Iterable[Site]) -> dict[Site, Fault | str]:
        """A fault, or "" where a site agrees, or why it could not be replayed."""
        light: list[Site] = []
        heavy: list[Site] = []
        for site in sites:
            (heavy if self.book.is_heavy(site) else light).append(site)
        found: dict[Site, Fault | str] = {}
        wanted = self.book.watch(heavy)
        whole = [case for case in self.cases if all(name in case for name in wanted)] or self.cases
        if heavy and time.monotonic() <= self.deadline:
            settled = agreeing_on_pieces(self.book, heavy, whole[0], self.load)
            found.update(dict.fromkeys(settled, ""))
            heavy = [site for site in heavy if site not in settled]
        for group, cases in ((light, self.cases), (heavy, whole[:1])):
            for batch in self._batches(group):
                if time.monotonic() > self.deadline:
                    found.update((site, "no time was left") for site in batch)
                else:
                    self._batch(batch, cases, found)
        return found

    @staticmethod
    def _ends(site: Site) -> list[str]:
        return [name for pair in site.pairs for name in pair]

    def _batches(self, sites: list[Site]) -> Iterator[list[Site]]:
        """Sites whose values have so many bytes together."""
        batch: list[Site] = []
        size = 0
        for site in sites:
            count = sum(_bytes(self.cases[0].get(name)) for name in self._ends(site))
            if batch and size + count > _BATCH:
                yield batch
                batch, size = [], 0
            batch.append(site)
            size += count
        if batch:
            yield batch

    def _batch(self, sites: list[Site], cases: Sequence[Mapping[str, Any]], found: dict[Site, Fault | str]) -> None:
        parts = self.book.parts(name for site in sites for name in self._ends(site))
        made = {name for step in parts.steps for name in step.output if name}
        wanted = list(dict.fromkeys(n for site in sites for n in self._ends(site) if n in made))
        session: Runner | None = None
        for number, values in enumerate(cases):
            left = [site for site in sites if not isinstance(found.get(site), Fault)]
            try:
                results: dict[str, Any] = {}
                if parts.steps:
                    missing = [name for name in parts.leaves if name not in values]
                    if missing:
                        raise RunError(f"no value of {missing[0]!r}")
                    model, feeds = assemble(self.book, parts, wanted, values)
                    if session is None:
                        session = self.load(model)
                    results = dict(zip(wanted, session.run(feeds), strict=True))
            except (LoadError, RunError) as error:
                self._apart(left, [values, *cases[number + 1 :]], found, str(error))
                return
            for site in left:
                outcome = self._compare(site, values, results) or ""
                if isinstance(outcome, Fault) or found.get(site) != "":  # one run that says something is enough
                    found[site] = outcome

    def _apart(
        self, sites: list[Site], cases: Sequence[Mapping[str, Any]], found: dict[Site, Fault | str], error: str
    ) -> None:
        """A batch that fails is cut in halves until the site that does it stands alone."""
        if len(sites) > 1:
            middle = len(sites) // 2
            self._batch(sites[:middle], cases, found)
            self._batch(sites[middle:], cases, found)
            return
        for site in sites:
            found[site] = self._alone(site, cases[0], error)

    def _alone(self, site: Site, values: Mapping[str, Any], error: str) -> Fault | str:
        """The new side of one site fails: its fault, unless the old side cannot be run apart from its model either."""
        window = self.book.window(site)
        needed = self._inputs(window.old, values)
        if needed is None:
            return f"it cannot be run by itself: {error}"
        try:
            self._results(window.old, [left for left, _ in site.pairs], needed)
        except (LoadError, RunError):
            return f"it cannot be run by itself: {error}"
        return Fault(f"the new nodes fail where the old ones run: {error}", needed)

    def _value(self, name: str, values: Mapping[str, Any], results: Mapping[str, Any]) -> Any:
        if name in results:
            return results[name]
        constant = self.book.chapter.constants.get(name)
        return plain(constant) if constant is not None else values[name]

    def _compare(self, site: Site, values: Mapping[str, Any], results: Mapping[str, Any]) -> Fault | str | None:
        unclear = False
        for left, right in site.pairs:
            try:
                expected, actual = (self._value(name, values, results) for name in (left, right))
            except KeyError as error:
                return f"no value of {error}"
            apart = agree(expected, actual)
            if apart is None:
                continue
            window = self.book.window(site)
            needed = self._inputs(window.old, values)
            noise: bool | None = False
            if needed is not None:
                measured = floors(self.book, window.old, left, needed, self.load)
                noise = within_noise(apart, measured, magnitude(window.old, needed))
            if noise is False:
                return Fault(f"{apart.in_words()} (on the model's own values)", needed or {})
            unclear = unclear or noise is None
        return "its terms cancel, and only rounding is left of them" if unclear else None

    def _inputs(self, parts: Parts, values: Mapping[str, Any]) -> dict[str, Any] | None:
        """What enters a window, None where some of it is not known; what other rewrites made is computed."""
        derived = [name for name in parts.leaves if name not in values]
        if not derived:
            return {name: values[name] for name in parts.leaves}
        try:
            made = self._results(self.book.parts(derived), derived, values)
        except (LoadError, RunError, KeyError):
            return None
        return {name: made[name] if name in made else values[name] for name in parts.leaves}

    def _results(self, parts: Parts, wanted: list[str], values: Mapping[str, Any]) -> dict[str, Any]:
        model, feeds = assemble(self.book, parts, wanted, values)
        return dict(zip(wanted, self.load(model).run(feeds), strict=True))


def floors(
    book: Book, parts: Parts, wanted: str, values: Mapping[str, Any], load: Callable[[ModelProto], Runner]
) -> Iterator[Deviation | None]:
    """What one unit in the last place of the inputs, then of the weights, does to the old side."""
    try:
        model, feeds = assemble(book, parts, [wanted], values)
        session = load(model)
        start = session.run(feeds)[0]
        for seed, steps in ((0, 1), (1, 1), (2, 2)):
            yield deviation(start, session.run(nudged_feeds(feeds, seed, steps))[0])
        for seed, separate in ((0, False), (1, False), *((seed, True) for seed in range(APART))):
            other = load(nudged_weights(Source(model), seed, separate).proto)
            yield deviation(start, other.run(nudged_feeds(feeds, seed + 3))[0])
        single = {name: constant.numpy() for name, constant in parts.constants.items() if _is_number(constant)}
        if single:  # those are no weights to `nudged_weights`, though a rewrite may fold them
            fed = replace(parts, leaves={**parts.leaves, **dict.fromkeys(single)})
            fed.constants = {name: c for name, c in parts.constants.items() if name not in single}
            model, feeds = assemble(book, fed, [wanted], {**values, **single})
            session = load(model)
            for seed in (5, 6):
                yield deviation(start, session.run(nudged_feeds(feeds, seed))[0])
    except (LoadError, RunError):
        return


def magnitude(parts: Parts, values: Mapping[str, Any]) -> float:
    """The largest finite number that some nodes compute with, of what they are given."""
    arrays = [*values.values(), *(constant.numpy() for constant in parts.constants.values())]
    most = 0.0
    for array in arrays:
        if isinstance(array, np.ndarray) and array.dtype.kind in "biuf" and array.size:
            numbers = np.abs(array.astype(np.float64))
            most = max(most, float(np.max(numbers, where=np.isfinite(numbers), initial=0.0)))
    return most


def _is_number(constant: Constant) -> bool:
    return constant.size == 1 and constant.numpy().dtype.kind == "f"


def _bytes(value: Any) -> int:
    return value.nbytes if isinstance(value, np.ndarray) else 0
