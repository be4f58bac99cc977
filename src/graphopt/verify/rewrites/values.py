"""Values for what enters a window: ordinary, zero, not finite; in the model's own sizes, and in sizes of 0 and 1."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from onnx import TensorProto

from graphopt.ir import dtypes
from graphopt.ir.node import Shape

__all__ = ["Entry", "Sample", "is_float", "make", "samples", "shape_in"]

STYLES = ("wide", "special", "zeros", "inf")
_SMALL = 1 << 13  # elements of all that enters a window; symbolic sizes shrink where it is more
_SIZES = (5, 3, 7, 4, 6, 2)  # what they shrink to, one after the other
_SPECIALS = {"special": (np.inf, -np.inf, np.nan), "inf": (np.inf, -np.inf)}
_WORDS = np.array(["a", "", "Hello", "7"], object)
_FLOATS = ("float16", "float32", "float64", "bfloat16")


@dataclass(frozen=True)
class Entry:
    """What is known of a value that enters a window. shape: with symbols; seen: as it was in a run of the original.
    free: whether its elements are data, so that others may stand for them."""

    name: str
    dtype: int
    shape: Shape
    seen: Any = None
    free: bool = True


@dataclass(frozen=True)
class Sample:
    """style: of `STYLES`. sizes: of symbols (and None for dims without a name)."""

    style: str
    sizes: Mapping[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        sizes = ", ".join(f"{name} = {size}" for name, size in self.sizes.items())
        return _WORDS_FOR[self.style] + (f" with {sizes}" if sizes else "")


_WORDS_FOR = {
    "wide": "values of both signs, zeros among them",
    "zeros": "zeros",
    "special": "NaN, infinities and large integers among the values",
    "inf": "infinities among the values",
}


def samples(entries: list[Entry]) -> Iterator[Sample]:
    """What to run a window on, the most telling first."""
    base = _sizes(entries)
    for style in STYLES[:3]:
        yield Sample(style, base)
    if base:
        yield Sample("wide", dict.fromkeys(base, 1))
        first = next((d for entry in entries for d in entry.shape[:1] if isinstance(d, str)), next(iter(base)))
        yield Sample("wide", {**base, first: 0})


def _sizes(entries: list[Entry]) -> dict[str, int]:
    """The model's own sizes of the symbols, or small ones."""
    found: dict[str, int] = {}
    for entry in entries:
        seen = getattr(entry.seen, "shape", None)
        for axis, dim in enumerate(entry.shape):
            if isinstance(dim, str) and dim not in found:
                known = seen[axis] if seen is not None and len(seen) == len(entry.shape) else 0
                found[dim] = int(known) or _SIZES[len(found) % len(_SIZES)]
    if sum(math.prod(shape_in(entry, found)) for entry in entries) > _SMALL:
        for place, name in enumerate(found):
            found[name] = min(found[name], _SIZES[place % len(_SIZES)])
    return found


def shape_in(entry: Entry, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """The shape of an entry with these sizes of the symbols."""
    seen = getattr(entry.seen, "shape", None)
    known = seen if seen is not None and len(seen) == len(entry.shape) else None
    dims = []
    for axis, dim in enumerate(entry.shape):
        size = sizes.get(dim) if isinstance(dim, str) else dim
        dims.append(int(size if size is not None else known[axis] if known is not None else 2))
    return tuple(dims)


def make(entries: list[Entry], sample: Sample) -> dict[str, Any] | None:
    """Values for all entries, the same ones each time; None where an entry has none in these sizes."""
    found: dict[str, Any] = {}
    for entry in entries:
        value = _value(entry, shape_in(entry, sample.sizes), sample.style)
        if value is None:
            return None
        found[entry.name] = value
    return found


def _value(entry: Entry, shape: tuple[int, ...], style: str) -> Any:
    seen = entry.seen
    same = isinstance(seen, np.ndarray) and seen.shape == shape
    if not entry.free or (seen is not None and not isinstance(seen, np.ndarray)):
        return seen if same or not isinstance(seen, np.ndarray) else None
    seed = zlib.crc32(f"{style} {entry.name}".encode())
    if is_float(entry.dtype):
        return np.asarray(_floats(seed, shape, style).astype(dtypes.to_numpy(entry.dtype)))
    numbers = _spread(_pool(), seed, shape)
    if entry.dtype == TensorProto.STRING:
        return np.asarray(_WORDS[np.abs(numbers * 7).astype(np.int64) % len(_WORDS)], object).reshape(shape)
    if entry.dtype == TensorProto.BOOL:
        return np.asarray(numbers > 0) if style != "zeros" else np.zeros(shape, bool)
    dtype = dtypes.to_numpy(entry.dtype)
    if dtype.kind == "c":
        return np.asarray((numbers + 1j * numbers[::-1]).astype(dtype))
    if style == "zeros":
        return np.zeros(shape, dtype)
    return _integers(numbers, dtype, seed, style)


def _integers(numbers: np.ndarray, dtype: np.dtype[Any], seed: int, style: str) -> np.ndarray:
    """Between -4 and 4; when special, also the largest, and some that do not fit into a narrower type or a sum."""
    values = np.asarray(np.clip(np.round(numbers), -4 if dtype.kind == "i" else 0, 4).astype(dtype))
    if style == "special" and dtype.kind in "iu":
        most = int(np.iinfo(dtype).max)
        flat = values.reshape(-1)
        wide = [n for n in (300, 70000, 1 << 30, most) if n <= most]
        wide += [-n for n in wide] if dtype.kind == "i" else []
        for place, number in enumerate(wide[: flat.size]):
            flat[(seed + place) % flat.size] = number
    return values


def _floats(seed: int, shape: tuple[int, ...], style: str) -> np.ndarray:
    if style == "zeros":
        return np.asarray(np.where(np.arange(math.prod(shape)).reshape(shape) % 2, np.float32(-0.0), np.float32(0)))
    values = _spread(_pool(), seed, shape)
    flat = values.reshape(-1)
    specials = _SPECIALS.get(style, ())
    for place, number in enumerate(specials[: flat.size]):  # few: one of them may fill all that is summed up
        flat[(seed + place * (flat.size // 3 + 1)) % flat.size] = number
    return values


def _spread(pool: np.ndarray, seed: int, shape: tuple[int, ...]) -> np.ndarray:
    """As many of the pool's values as the shape has, from a place of its own."""
    start = seed % pool.size
    return np.resize(np.concatenate([pool[start:], pool[:start]]), math.prod(shape)).reshape(shape)


@lru_cache(maxsize=1)
def _pool() -> np.ndarray:
    """Normal values of scale 4, every eighth of them zero, every fourth a multiple of 1/2, so that some are equal; a
    prime number of them, so that no axis repeats them."""
    rng = np.random.default_rng(0)
    values = rng.standard_normal(8191, np.float32) * np.float32(4)
    kind = rng.integers(0, 8, values.shape)
    return np.asarray(np.where(kind == 0, np.float32(0), np.where(kind <= 2, np.round(values * 2) / 2, values)))


def is_float(dtype: int) -> bool:
    """Whether an element type has infinities and NaN."""
    return dtypes.to_numpy(dtype).name in _FLOATS if dtype != TensorProto.STRING else False
