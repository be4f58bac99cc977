"""Sizes for the symbolic dimensions: first guesses, next guesses after an error, other sizes once one works."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from onnx import ModelProto

from graphopt.verify.flow import Flow
from graphopt.verify.hints import Hint
from graphopt.verify.infer import misfit
from graphopt.verify.limits import TOO_LARGE
from graphopt.verify.source import nodes_of, scopes
from graphopt.verify.spec import InputSpec

__all__ = ["Advisor", "Guess", "alternatives", "first_sizes", "roles_of"]

_VOLUME = 2**22  # of all symbols together, in enlarged guesses
LARGEST = 500_000  # no dimension is tried with more
_BATCH = re.compile(r"batch|^bs$", re.IGNORECASE)
_BATCH_IF_FIRST = re.compile(r"^(n|b|bs|d0|none)$|^unk_|dim(ension)?[._]?0$|\[0\]$", re.IGNORECASE)
_CHANNELS = (1, 3, 4)
_GROWTH = (2, 4, 16, 64, 256, 1024)
_STRIDES = (1, 2, 3, 4, 8, 16, 32)
_TOO_SMALL = re.compile(
    r"invalid (input|output) (shape|dim)|requires axis|too small|negative|at least|smaller|greater|must be > ?0|empty"
    r"|zero",
    re.IGNORECASE,
)
_ABOUT_SHAPE = re.compile(r"shape|dim|axis|broadcast|size|bounds|kernel|channel|rank", re.IGNORECASE)


@dataclass(frozen=True)
class Guess:
    """What to feed: sizes of the symbols, narrower ranges of integer inputs, ranks of inputs of unknown rank, a
    style."""

    sizes: tuple[tuple[str, int], ...] = ()
    ranges: tuple[tuple[str, int, int], ...] = ()
    ranks: tuple[tuple[str, int], ...] = ()
    style: str = "base"

    @property
    def binding(self) -> dict[str, int]:
        """Symbol -> size."""
        return dict(self.sizes)

    def with_sizes(self, sizes: dict[str, int]) -> Guess:
        """This guess with some sizes changed."""
        return replace(self, sizes=tuple({**self.binding, **sizes}.items()))


def roles_of(specs: Iterable[InputSpec]) -> dict[str, str]:
    """Symbol -> "batch", "space" (height or width of an image), "channels" or "free"."""
    roles: dict[str, str] = {}
    for spec in specs:
        dims = spec.dims or ()
        for axis, dim in enumerate(dims):
            if isinstance(dim, str):
                role = _role(dim, axis, dims)
                # A name that stands first in one input and later in another (states) is a batch in both.
                roles[dim] = "batch" if "batch" in (role, roles.get(dim)) else roles.get(dim, role)
    return roles


def _role(dim: str, axis: int, dims: tuple[int | str, ...]) -> str:
    if _BATCH.search(dim) or (axis == 0 and len(dims) > 1 and _BATCH_IF_FIRST.search(dim)):
        return "batch"
    if len(dims) == 4 and axis in (1, 2) and dims[3] in _CHANNELS:
        return "space"
    both = len(dims) == 4 and isinstance(dims[2], str) and isinstance(dims[3], str)
    if len(dims) == 4 and axis in (2, 3) and (both or dims[1] in _CHANNELS):
        return "space"
    return "channels" if axis == 1 and len(dims) in (3, 4, 5) else "free"


_FIRST = {"batch": 1, "space": 64, "channels": 3, "free": 16}


def first_sizes(symbols: Iterable[str], roles: dict[str, str]) -> dict[str, int]:
    """The sizes to try first: small, so that a run is short."""
    return {symbol: _FIRST[roles.get(symbol, "free")] for symbol in symbols}


def alternatives(size: int, role: str) -> list[int]:
    """Other sizes than `size`, the most telling first: odd ones show what a multiple of 32 would hide."""
    if role == "batch" and size <= 4:
        found = [2, 3, 4, 8, 16]
    elif role == "space":
        found = [size + 32, size + 64, 2 * size, size + 16, size + 8, size + 1, size // 2]
    else:
        found = [size + 5, size + 8, size + 16, size + 32, 2 * size, 4 * size, size + 1, size + 160, size // 2]
    return [n for n in dict.fromkeys(found) if 0 < n <= LARGEST and n != size]


class Advisor:
    """Makes of an error message the guesses to try next."""

    def __init__(self, model: ModelProto, flow: Flow, specs: list[InputSpec], hints: dict[str, Hint]) -> None:
        self._flow, self._hints, self._specs = flow, hints, specs
        self.roles = roles_of(specs)
        self._cap = _caps(specs, hints)
        self._place: dict[str, int] = {}
        for space, scope in enumerate(s for s in scopes(model)):
            for place, node in enumerate(nodes_of(scope)):
                if node.name:
                    self._place.setdefault(node.name, place if space == 0 else 0)
        self._nodes = {node.name: node for node in model.graph.node if node.name}

    def progress(self, message: str) -> int:
        """How far the run came: the place of the node that the message names, 0 when it names none."""
        return max((self._place.get(name, 0) for name in re.findall(r"'([^']+)'", message)), default=0)

    def next_guesses(self, guess: Guess, message: str) -> Iterator[Guess]:
        """Guesses that may avoid the error, the most promising first."""
        if TOO_LARGE in message:
            yield from self._smaller(guess)
            return
        if re.search(r"\brank|perm|dimensions", message, re.IGNORECASE):
            yield from self._ranked(guess)
        yield from self._in_range(guess, message)
        if _TOO_SMALL.search(message):
            yield from self._larger(guess)
            yield from itertools.islice(self._fitting(guess, message), 6)
        else:
            yield from self._fitting(guess, message)
            yield from self._larger(guess)
        yield from self._ranked(guess)
        if guess.style == "base" and not _ABOUT_SHAPE.search(message):
            yield from (replace(guess, style=style) for style in ("positive", "unit", "zeros"))

    def _in_range(self, guess: Guess, message: str) -> Iterator[Guess]:
        """An index out of range: keep the integer inputs that may be that index within it."""
        found = re.search(r"inclusive range \[(-?\d+),\s*(-?\d+)\]", message)
        found = found or re.search(r"(?:range|bounds) \[(-?\d+)\s*,\s*(-?\d+)\s*\]", message)
        if not found:
            return
        high = int(found[2])
        open_ended = [
            name for name, hint in self._hints.items() if hint.index and (hint.high is None or hint.high > high)
        ]
        known = {name: (low, top) for name, low, top in guess.ranges}
        fresh = [name for name in open_ended if known.get(name, (0, LARGEST))[1] > high]
        for names in (fresh[:1], fresh[1:2], fresh):
            if names:
                ranges = {**known, **{name: (0, max(high, 0)) for name in names}}
                yield replace(guess, ranges=tuple((name, *pair) for name, pair in ranges.items()))

    def _fitting(self, guess: Guess, message: str) -> Iterator[Guess]:
        """Sizes that the message, or the constants of the node that it names, speak of."""
        said = _numbers(message)
        numbers = list(dict.fromkeys([*said, *self._constant_sizes(message)]))
        pairs = _pairs(message, said, numbers)
        if not pairs and re.search(r"\b(MatMul|Gemm)\b", message):
            pair = misfit(self._flow, self._specs, guess.binding)
            pairs = [pair] if pair else []
            yield from self._scaled_together(guess, pairs)
        sizes = guess.binding
        for hard in (True, False):
            for symbol, size in sizes.items():
                if self.roles.get(symbol) != "batch":
                    for number in _suggestions(size, numbers, []) if hard else _suggestions(size, [], pairs):
                        yield guess.with_sizes({symbol: number})

    def _scaled_together(self, guess: Guess, pairs: list[tuple[int, int]]) -> Iterator[Guess]:
        """Height and width scaled alike, so that their product changes as it has to (within a stride)."""
        sides = [s for s in guess.binding if self.roles.get(s) == "space"]
        for got, wanted in pairs if len(sides) == 2 else ():
            factor = math.sqrt(wanted / max(got, 1))
            for extra in (0, 1, 2, 4, 8, 16):
                yield guess.with_sizes({s: max(1, round(guess.binding[s] * factor) + extra) for s in sides})

    def _constant_sizes(self, message: str) -> list[int]:
        found: list[int] = []
        for name in re.findall(r"'([^']+)'", message):
            node = self._nodes.get(name)
            for value in node.input if node is not None else ():
                found += [size for size in self._flow.shape(0, value) or () if 1 < size <= LARGEST]
        return found

    def _larger(self, guess: Guess) -> Iterator[Guess]:
        """All but the batch larger, then the batch too, then one symbol at a time."""
        sizes = guess.binding
        movable = [s for s in sizes if self.roles.get(s) not in ("batch", "channels")]
        for factor in _GROWTH:
            yield from self._grown(guess, movable, factor)
        for symbol in sizes:
            role = self.roles.get(symbol, "")
            for number in {"channels": (3, 4, 1, 2, 8), "batch": (2, 4, 8)}.get(role, ()):
                if number != sizes[symbol]:
                    yield guess.with_sizes({symbol: number})
        for factor in _GROWTH[1:]:
            yield from self._grown(guess, list(sizes), factor)
            for symbol in sizes if len(sizes) > 1 else ():
                yield from self._grown(guess, [symbol], factor)

    def _smaller(self, guess: Guess) -> Iterator[Guess]:
        """All symbols smaller, but never 0."""
        for factor in (4, 16):
            sizes = {symbol: max(1, size // factor) for symbol, size in guess.binding.items()}
            if sizes != guess.binding:
                yield guess.with_sizes(sizes)

    def enlarged(self, guess: Guess, symbols: list[str]) -> list[Guess]:
        """`guess` with these symbols 4, 16 and 64 times as large, as far as that is affordable."""
        return [other for factor in (4, 16, 64) for other in self._grown(guess, symbols, factor)]

    def _grown(self, guess: Guess, symbols: list[str], factor: int) -> Iterator[Guess]:
        sizes = {s: guess.binding[s] * factor for s in symbols}
        sizes = {s: size for s, size in sizes.items() if size <= self._cap.get(s, LARGEST // 4)}
        if sizes and _volume({**guess.binding, **sizes}.values()) <= _VOLUME:
            yield guess.with_sizes(sizes)

    def _ranked(self, guess: Guess) -> Iterator[Guess]:
        for name, rank in guess.ranks:
            for other in (2, 1, 3, 4, 0, 5):
                if other != rank:
                    yield replace(guess, ranks=tuple((n, other if n == name else r) for n, r in guess.ranks))


def _caps(specs: Iterable[InputSpec], hints: dict[str, Hint]) -> dict[str, int]:
    """The largest useful size of dimensions that count tokens: attention needs memory by their square."""
    tokens = (spec for spec in specs if hints[spec.name].index or hints[spec.name].role == "mask")
    return {dim: 1024 for spec in tokens for dim in spec.dims or () if isinstance(dim, str)}


def _numbers(message: str) -> list[int]:
    """The numbers of the message that may be sizes, without those inside names."""
    text = re.sub(r"'[^']*'", " ", message)
    found = [int(n) for n in re.findall(r"(?<![\w.])\d+(?![\w.])", text.replace("}", " ").replace("]", " "))]
    return [n for n in dict.fromkeys(found) if 0 < n <= LARGEST]


def _suggestions(size: int, numbers: list[int], pairs: list[tuple[int, int]]) -> list[int]:
    """What `size` may have to be: a number itself; or scaled or shifted (by strides) as a size there is to a wanted
    one."""
    found = [n for n in numbers if n != size]
    for got, wanted in pairs:
        found += [size * wanted // got] if size * wanted % got == 0 else []
        found += [size + stride * (wanted - got) for stride in _STRIDES]
    found = [n for n in dict.fromkeys(found) if 0 < n <= LARGEST and n != size]
    return sorted(found[:32], key=lambda n: n == 1)  # 1 often runs, by broadcasting, and shows little


def _pairs(message: str, said: list[int], numbers: list[int]) -> list[tuple[int, int]]:
    """(size there, size wanted there): of a Reshape that does not work out from its shapes, else of all numbers."""
    found = re.search(r"Input shape:\{([\d,]+)\}, requested shape:\{([-\d,]+)\}", message)
    if not found:
        return [(got, wanted) for got in said[:6] for wanted in numbers[:6] if got != wanted and got > 1]
    shape, asked = ([int(n) for n in found[i].split(",")] for i in (1, 2))
    known = math.prod(n for n in asked if n > 0)
    # Any of the trailing dimensions that make up the known part of what is asked for may have to change.
    tails = [(got, math.prod(shape[first:])) for first in range(len(shape)) for got in shape[first:]]
    pairs = [(got, got * known // tail) for got, tail in tails if tail not in (0, known) and got * known % tail == 0]
    return list(dict.fromkeys(pairs))[:12]


def _volume(sizes: Iterable[int]) -> int:
    return int(np.prod(np.asarray(list(sizes), np.float64)))
