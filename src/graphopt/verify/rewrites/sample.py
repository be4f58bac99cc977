"""One site of each kind on made values: adversarial ones, and sizes that the model's own runs did not have.

A difference there says something only if the values can occur where the site stands: a rule may rest on what it knows
of its surroundings (that a state is zero, that two dims are equal). So the window grows, by the nodes that make what
enters it, until the difference is gone or nothing more can be added: only a difference that stays is the rewrite's.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import zip_longest
from math import prod
from typing import Any

import numpy as np
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto

from graphopt.analysis.record import Constant, Site
from graphopt.verify.compare import Deviation
from graphopt.verify.rewrites.book import Book, Window, assemble, plain
from graphopt.verify.rewrites.closeness import agree, within_noise
from graphopt.verify.rewrites.replay import Fault, floors, magnitude
from graphopt.verify.rewrites.session import Runner
from graphopt.verify.rewrites.values import Entry, is_float, make, samples, shape_in
from graphopt.verify.run import LoadError, RunError

__all__ = ["Outcome", "Sampler"]

_LEAST, _MOST = 1 << 22, 1 << 27  # multiplications of all windows together
_TIMES = 4  # of the model's weights: as many as its cheaper layers do on one small image
_RUN, _LOAD = 1 << 16, 1 << 17  # what a run and a session cost besides
_DEAR, _INVALID = "one run takes too long", "no made values were found that its old nodes run on"
_UNCLEAR = "it stands in a body, and differs on values that may not occur there"
_GROWN = 6  # times that a window grows
_NODES = 48  # of a window that has grown

# Inputs that say where, how many or how large: only the values that the model itself gave them make sense.
_GEOMETRY = {
    "Reshape": (1,), "Expand": (1,), "Tile": (1,), "Pad": (1, 3), "Slice": (1, 2, 3, 4), "Gather": (1,),
    "GatherElements": (1,), "GatherND": (1,), "ScatterElements": (1,), "ScatterND": (1,), "Scatter": (1,),
    "Resize": (1, 2, 3, 4), "Upsample": (1,), "ConstantOfShape": (0,), "Range": (0, 1, 2), "OneHot": (0, 1),
    "TopK": (1,), "Unsqueeze": (1,), "Squeeze": (1,), "Split": (1,), "ReverseSequence": (1,), "CumSum": (1,),
    "RoiAlign": (1, 2), "NonMaxSuppression": (0, 1, 2, 3, 4), "Trilu": (1,), "CenterCropPad": (1,), "EyeLike": (),
    "LSTM": (4,), "GRU": (4,), "RNN": (4,), "SequenceAt": (1,), "DFT": (1, 2), "STFT": (1, 3), "Compress": (1,),
    "GridSample": (1,), "Col2Im": (1, 2), "AffineGrid": (1,), "BitShift": (1,), "MaxUnpool": (1, 2),
}  # fmt: skip
# Integer division by zero ends the process; powers of integers are computed in float64, which has not all of them.
_TRAPS = {"Div", "Mod", "Pow"}
_FULL = {"LSTM", "GRU", "RNN"}  # an empty batch ends the process (ONNX Runtime 1.31); other domains may do so, too


@dataclass
class Outcome:
    """samples: runs that both sides were compared on. fault: what is wrong, if anything is. why_not: why it was not
    run."""

    samples: int = 0
    fault: Fault | None = None
    why_not: str = ""


class Sampler:
    """Runs the windows of one chapter. seen: the original's values by name, of one run. weights: bytes of the model's.
    load: makes sessions. finite: whether infinities and NaN say nothing, as the user allows what is equal without them
    alone."""

    def __init__(
        self,
        book: Book,
        seen: Mapping[str, Any],
        weights: int,
        deadline: float,
        load: Callable[[ModelProto], Runner],
        finite: bool = False,
    ) -> None:
        self.book, self.seen, self.deadline, self.load, self.finite = book, seen, deadline, load, finite
        self._spent = 0
        self._most = max(_LEAST, min(_MOST, _TIMES * weights // 4))

    def run(self, sites: Iterable[Site]) -> dict[Site, Outcome]:
        """What was found for every site; those of a kind share what was found for the first, unless it is a fault."""
        kinds: dict[Any, list[Site]] = {}
        for site in sites:
            kinds.setdefault(self._kind(site), []).append(site)
        found: dict[Site, Outcome] = {}
        suspects: set[str] = set()
        for group in self._order(list(kinds.values())):
            first = self._site(group[0], group[0].rule in suspects)
            if first.fault is not None:
                suspects.add(group[0].rule)
            for site in group:
                found[site] = first if site is group[0] or first.fault is None else self._site(site, True)
        return found

    def _order(self, groups: list[list[Site]]) -> list[list[Site]]:
        """The cheapest kind of every rule, then the second cheapest of every rule, and so on."""
        rules: dict[str, list[list[Site]]] = {}
        for group in sorted(groups, key=lambda group: self._cost(self.book.window(group[0]))):
            rules.setdefault(group[0].rule, []).append(group)
        return [group for row in zip_longest(*rules.values()) for group in row if group is not None]

    def _kind(self, site: Site) -> Any:
        """Rule, operators, attributes, types; shapes, and sizes of convolutions, as far as they are 0, 1, symbolic or
        known: a replay has them as they are."""
        window = self.book.window(site)
        places: dict[str, int] = {}
        parts: list[Any] = [site.rule]
        for side in (window.old, window.new):
            for step in side.steps:
                attributes = sorted(a.SerializeToString(deterministic=True) for a in step.attribute)
                if step.op_type == "Conv":
                    attributes = list(map(_sizes_of, attributes))
                names = (*step.input, "", *step.output)
                parts.append(
                    (step.domain, step.op_type, *attributes, *(places.setdefault(n, len(places)) for n in names))
                )
            for name, constant in side.constants.items():
                parts.append((places.get(name), constant.dtype, _coarse(constant.shape), _told(constant)))
        symbols: dict[str, int] = {}
        for name in {**window.old.leaves, **window.new.leaves}:
            dtype, shape = self.book.chapter.types.get(name, (None, None))
            dims = [symbols.setdefault(d, -2 - len(symbols)) if isinstance(d, str) else d for d in shape or ()]
            parts.append((places.get(name), dtype, shape is None, _coarse(dims)))
        return tuple(parts)

    # -- one site ------------------------------------------------------------------------------------------------------

    def _site(self, site: Site, suspect: bool) -> Outcome:
        window = self.book.window(site)
        if (not suspect and self._spent > self._most) or time.monotonic() > self.deadline:
            return Outcome(why_not="the budget of sampling is used up")
        if any(self.book.draws(step) for step in (*window.old.steps, *window.new.steps)):
            return Outcome(why_not="it draws random numbers")
        outcome = self._window(window)
        if outcome.fault is not None and site.place != "main":
            return Outcome(why_not=_UNCLEAR)  # there is no telling what makes the values that enter it
        if outcome.fault is not None and not self._stays(window):
            outcome.fault = None
        return outcome

    def _stays(self, window: Window) -> bool:
        """Whether the difference is still there in larger windows."""
        for _ in range(_GROWN):
            grown = window.grown(self.book)
            if grown is None or len(grown.old.steps) > _NODES:
                break
            window = grown
            outcome = self._window(window)
            if outcome.samples and outcome.fault is None:
                return False
        return True

    def _window(self, window: Window) -> Outcome:
        """All samples on one window."""
        entries = self._entries(window)
        if entries is None:
            return Outcome(why_not="the type of what enters it is not known")
        steps = (*window.old.steps, *window.new.steps)
        full = any(step.op_type in _FULL or step.domain for step in steps)
        pair = _Pair(self.book, window, self.load)
        outcome, dear = Outcome(), False
        self._spent += _LOAD
        waiting = deque(s for s in samples(entries) if not (self.finite and s.style in ("special", "inf")))
        while waiting:
            sample = waiting.popleft()
            shapes = [shape_in(entry, sample.sizes) for entry in entries]
            if full and any(0 in shape for shape in shapes):
                continue
            cost = self._cost(window, shapes)
            if cost > self._most // 8:
                dear = True
                continue
            feeds = make(entries, sample)
            if feeds is None:
                continue
            self._spent += _RUN + cost
            fault = pair.differ(feeds)
            if fault is None:
                continue
            outcome.samples += 1
            if sample.style == "special" and pair.swallowed:
                waiting.appendleft(replace(sample, style="inf"))
            if fault:
                outcome.fault = Fault(f"{fault} ({sample})", feeds)
                return outcome
        if not outcome.samples:
            outcome.why_not = _DEAR if dear else _INVALID
        return outcome

    def _entries(self, window: Window) -> list[Entry] | None:
        steps = [*window.old.steps, *window.new.steps]
        fixed = _fixed(steps)
        trap = any(step.op_type in _TRAPS and not self._divides(step) for step in steps)
        found = []
        for name in {**window.old.leaves, **window.new.leaves}:
            seen = self.seen.get(name)
            dtype, shape = self.book.chapter.types.get(name, (None, None))
            if dtype is None or shape is None:
                if not isinstance(seen, np.ndarray):
                    return None
                dtype, shape = _dtype_of(seen), seen.shape
            found.append(Entry(name, dtype, shape, seen, name not in fixed and (is_float(dtype) or not trap)))
        return found

    def _divides(self, step: NodeProto) -> bool:
        """Whether integers can be divided by the divisor, whatever they are."""
        if step.op_type == "Pow":
            return False
        divisor = self.book.chapter.constants.get(step.input[1])
        return divisor is not None and not np.isin(divisor.numpy(), (0, -1)).any()

    def _cost(self, window: Window, shapes: list[tuple[int, ...]] | None = None) -> int:
        """Multiplications of one run with inputs of these shapes, about; without them, the number of weights."""
        weights = max(sum(c.size for c in side.constants.values()) for side in (window.old, window.new))
        if shapes is None:
            return weights
        sizes = [prod(shape) for shape in shapes]
        total = sum(sizes) * (len(window.old.steps) + len(window.new.steps))
        for side in (window.old, window.new):
            if side.heavy:
                places = (n // max(1, s[1] if len(s) > 1 else 1) for n, s in zip(sizes, shapes, strict=True))
                total += weights * max(places, default=1)
        return total


class _Pair:
    """Both sides of a window in one session."""

    def __init__(self, book: Book, window: Window, load: Callable[[ModelProto], Runner]) -> None:
        self.book, self.window, self.load = book, window, load
        self.lefts = [left for left, _ in window.site.pairs]
        self.rights = [right for _, right in window.site.pairs]
        self._session: Runner | None = None
        self._old: Runner | None = None
        self._fed: dict[str, Any] = {}
        self._broken = ""  # the new side does not load
        self.swallowed = False  # one NaN filled an output, so that nothing else was seen there

    def differ(self, feeds: Mapping[str, Any]) -> str | None:
        """How the sides differ on these values, "" where they do not; None where the old one does not run on them, or
        nothing but rounding is left of it."""
        both, self.swallowed = self._both(feeds), False
        if both is None:
            old = self._results(feeds)
            return None if old is None else f"the new nodes fail where the old ones run: {self._broken}"
        unclear = False
        for left, right in self.window.site.pairs:
            expected, actual = (self._value(name, both, feeds) for name in (left, right))
            if not self._is_right(left, expected):
                return None
            apart = agree(expected, actual)
            self.swallowed |= isinstance(expected, np.ndarray) and expected.dtype.kind == "f" and _is_nan(expected)
            if apart is not None:
                noise = within_noise(apart, self._floors(left, feeds), magnitude(self.window.old, feeds))
                if noise is False:
                    return apart.in_words()
                unclear = unclear or noise is None
        return None if unclear else ""

    def _is_right(self, name: str, value: Any) -> bool:
        """Whether the old side gives what it has to by its type: of empty values ONNX Runtime gets some shapes wrong
        (ReduceMax over a negative axis, in 1.31)."""
        shape = self.book.chapter.types.get(name, (None, None))[1]
        if shape is None or not isinstance(value, np.ndarray):
            return True
        return len(shape) == value.ndim and all(
            dim == size for dim, size in zip(shape, value.shape, strict=True) if isinstance(dim, int)
        )

    def _value(self, name: str, results: Mapping[str, Any], feeds: Mapping[str, Any]) -> Any:
        if name in results:
            return results[name]
        constant = self.book.chapter.constants.get(name)
        return plain(constant) if constant is not None else feeds[name]

    def _floors(self, left: str, feeds: Mapping[str, Any]) -> Iterator[Deviation | None]:
        return floors(self.book, self.window.old, left, feeds, self.load)

    def _both(self, feeds: Mapping[str, Any]) -> dict[str, Any] | None:
        try:
            if self._session is None:
                parts, wanted = self.window.joined()
                model, self._fed = assemble(self.book, parts, wanted, feeds)
                self._wanted = wanted
                self._session = self.load(model)
            given = {name: feeds.get(name, value) for name, value in self._fed.items()}
            return dict(zip(self._wanted, self._session.run(given), strict=True))
        except (LoadError, RunError) as error:
            self._broken = str(error)
            return None

    def _results(self, feeds: Mapping[str, Any]) -> dict[str, Any] | None:
        """The old side alone."""
        try:
            model, given = assemble(self.book, self.window.old, self.lefts, feeds)
            if self._old is None:
                self._old = self.load(model)
            return dict(zip(dict.fromkeys(self.lefts), self._old.run(given), strict=True))
        except (LoadError, RunError):
            return None


def _is_nan(array: np.ndarray) -> bool:
    return bool(array.size and np.isnan(array).all())


def _told(constant: Constant) -> bytes:
    """The values of a constant that tells kinds of sites apart: single numbers, axes, sizes."""
    if constant.nbytes > 64:
        return b""
    array = constant.numpy()
    return array.tobytes() if array.dtype.kind in "iu" or array.size == 1 else b""


@lru_cache(maxsize=256)
def _sizes_of(attribute: bytes) -> bytes:
    """What matters here of an attribute of Conv: whether its sizes are 0, 1 or more."""
    found = AttributeProto.FromString(attribute)
    return f"{found.name} {[min(size, 2) for size in (*found.ints, found.i)]} {found.s!r}".encode()


def _coarse(shape: Iterable[Any]) -> tuple[Any, ...]:
    return tuple(dim if dim is None or dim <= 1 else 9 for dim in shape)


def _dtype_of(array: np.ndarray) -> int:
    from graphopt.ir import dtypes

    return TensorProto.STRING if array.dtype.kind in "OUS" else dtypes.from_numpy(array.dtype)


def _fixed(steps: list[NodeProto]) -> set[str]:
    """The values that reach an input which says where, how many or how large."""
    makers = {name: step for step in steps for name in step.output}
    waiting: list[str] = []
    for step in steps:
        slots: Iterable[int] = _GEOMETRY.get(step.op_type, ())
        if step.domain:
            slots = range(1, len(step.input))
        waiting += [step.input[slot] for slot in slots if slot < len(step.input)]
    return _upstream(waiting, makers)


def _upstream(waiting: list[str], makers: Mapping[str, NodeProto]) -> set[str]:
    found: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name and name not in found:
            found.add(name)
            step = makers.get(name)
            waiting += step.input if step is not None and step.op_type not in ("Shape", "Size") else ()
    return found
