"""Where choices come from: a seed, or Hypothesis. Generators of models ask a Chooser and do not know which it is."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar, cast

import numpy as np
from onnx import TensorProto, helper

T = TypeVar("T")

_FLOATS = {
    TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.FLOAT8E4M3FN,
    TensorProto.FLOAT8E4M3FNUZ, TensorProto.FLOAT8E5M2, TensorProto.FLOAT8E5M2FNUZ,
}  # fmt: skip
_INFINITE = {TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16}
_WORDS = np.array(["", "a", "B", "true", "1", "-2.5", "naïve", " x "], dtype=object)


class Chooser(Protocol):
    """Makes the choices of a generator. The first option, the low end and False are the simplest: what is found shrinks
    to them."""

    def pick(self, options: Sequence[T]) -> T:
        """One of the options. Raises LookupError or ValueError where there is none."""
        ...

    def integer(self, low: int, high: int) -> int:
        """A number from low to high, both included."""
        ...

    def chance(self, percent: int = 50) -> bool:
        """True about so often."""
        ...

    def seed(self) -> int:
        """A seed for bulk data; 0 stands for the simplest."""
        ...

    def together(self, function: Callable[[], T]) -> T:
        """Calls a function whose choices belong together: a search for something smaller leaves them out as one."""
        ...

    def array(self, dtype: int, shape: Sequence[int], *, special: bool = True) -> np.ndarray:
        """Data of an element type (TensorProto number); with `special` NaN, infinities, -0.0 and extremes may occur."""
        ...


class _Arrays:
    """Bulk data from one seed, so that it is quick to draw and shrinks to small whole numbers."""

    def seed(self) -> int:
        """See `Chooser`."""
        raise TypeError("a chooser has its own seed()")

    def array(self, dtype: int, shape: Sequence[int], *, special: bool = True) -> np.ndarray:
        """See `Chooser`."""
        return values(dtype, shape, self.seed(), special=special)


class RandomChooser(_Arrays):
    """Choices from a seed, all options alike.

    >>> RandomChooser(1).integer(0, 9) == RandomChooser(1).integer(0, 9)
    True
    """

    def __init__(self, seed: int = 0) -> None:
        self._random = random.Random(seed)

    def pick(self, options: Sequence[T]) -> T:
        """See `Chooser`."""
        return options[self._random.randrange(len(options))]

    def integer(self, low: int, high: int) -> int:
        """See `Chooser`."""
        return self._random.randint(low, high)

    def chance(self, percent: int = 50) -> bool:
        """See `Chooser`."""
        return self._random.randrange(100) < percent

    def seed(self) -> int:
        """See `Chooser`."""
        return self._random.randrange(1, 1 << 16)

    def together(self, function: Callable[[], T]) -> T:
        """See `Chooser`."""
        return function()


class DrawChooser(_Arrays):
    """Choices by Hypothesis. draw: what `@strategies.composite` hands out, or `data.draw` of `strategies.data()`."""

    def __init__(self, draw: Callable[[Any], Any]) -> None:
        self._draw = draw

    def pick(self, options: Sequence[T]) -> T:
        """See `Chooser`."""
        if not options:
            raise IndexError("nothing to choose from")
        return options[self.integer(0, len(options) - 1)]

    def integer(self, low: int, high: int) -> int:
        """See `Chooser`."""
        if low > high:
            raise ValueError(f"no number from {low} to {high}")
        return low if low == high else int(self._draw(_integers(low, high)))

    def chance(self, percent: int = 50) -> bool:
        """See `Chooser`."""
        return self.integer(0, 99) >= 100 - percent

    def seed(self) -> int:
        """See `Chooser`."""
        return self.integer(0, (1 << 16) - 1)

    def together(self, function: Callable[[], T]) -> T:
        """See `Chooser`."""
        return cast("T", self._draw(_span()(self, function)))


_ranges: dict[tuple[int, int], Any] = {}


def _integers(low: int, high: int) -> Any:
    """Strategies are costly to make, and the same ranges come again and again."""
    found = _ranges.get((low, high))
    if found is None:
        from hypothesis import strategies

        found = _ranges[low, high] = strategies.integers(low, high)
    return found


@functools.cache
def _span() -> Any:
    from hypothesis import strategies

    return strategies.composite(_call)


def _call(draw: Callable[[Any], Any], chooser: DrawChooser, function: Callable[[], Any]) -> Any:
    """Calls a function that chooses by `chooser`, with a draw of its own."""
    outer, chooser._draw = chooser._draw, draw
    try:
        return function()
    finally:
        chooser._draw = outer


def values(dtype: int, shape: Sequence[int], seed: int, *, special: bool = True) -> np.ndarray:
    """Data of an element type and a shape from a seed; seed 0 gives 1, 2, 3, 4, 1, ...

    About one seed in five gives, with `special`, data with NaN, infinities, signed zeros or extremes of the type.

    >>> values(TensorProto.INT64, (2, 3), 0).tolist()
    [[1, 2, 3], [4, 1, 2]]
    """
    shape = tuple(shape)
    size = int(np.prod(shape, dtype=np.int64))
    rng = np.random.default_rng(seed)
    if dtype == TensorProto.STRING:
        words = np.arange(1, size + 1) % len(_WORDS) if seed == 0 else rng.integers(0, len(_WORDS), size)
        return np.asarray(_WORDS[words], dtype=object).reshape(shape)
    kind = helper.tensor_dtype_to_np_dtype(dtype)
    if dtype == TensorProto.BOOL:
        return (np.arange(size) % 2 == 0 if seed == 0 else rng.random(size) < 0.5).reshape(shape)
    if seed == 0:
        whole = np.arange(size) % 4 + 1
        return (whole % 2 if dtype in _NARROW else whole).astype(kind).reshape(shape)
    if dtype in _FLOATS:
        data = _floats(dtype, size, rng, special and rng.random() < 0.2)
    elif dtype in (TensorProto.COMPLEX64, TensorProto.COMPLEX128):
        data = rng.standard_normal(size) + 1j * rng.standard_normal(size)
    else:
        data = _whole(dtype, size, rng, special and rng.random() < 0.2)
    return data.astype(kind).reshape(shape)


_NARROW = {getattr(TensorProto, name, -1) for name in ("INT4", "UINT4", "INT2", "UINT2", "FLOAT4E2M1", "FLOAT8E8M0")}
_BOUNDS = {
    getattr(TensorProto, "INT4", -1): (-8, 7), getattr(TensorProto, "UINT4", -1): (0, 15),
    getattr(TensorProto, "INT2", -1): (-2, 1), getattr(TensorProto, "UINT2", -1): (0, 3),
    getattr(TensorProto, "FLOAT4E2M1", -1): (-6, 6), getattr(TensorProto, "FLOAT8E8M0", -1): (1, 8),
}  # fmt: skip


def _floats(dtype: int, size: int, rng: np.random.Generator, special: bool) -> np.ndarray:
    data = rng.standard_normal(size) if rng.random() < 0.7 else rng.integers(-3, 4, size).astype(np.float64)
    if special and size:
        odd = [np.nan, -0.0, 0.0, 448.0]
        if dtype in _INFINITE:
            odd += [np.inf, -np.inf, 60000.0, 1e-7]
        at = rng.random(size) < 0.3
        data[at] = np.array(odd)[rng.integers(0, len(odd), int(at.sum()))]
    return data


def _whole(dtype: int, size: int, rng: np.random.Generator, special: bool) -> np.ndarray:
    low, high = _BOUNDS.get(dtype, (-6, 7))
    kind = helper.tensor_dtype_to_np_dtype(dtype)
    if dtype not in _BOUNDS:
        limits = np.iinfo(kind)
        low = max(low, int(limits.min))
        if special and size:
            data = rng.integers(low, high, size).astype(kind)
            data[rng.random(size) < 0.3] = limits.min if rng.random() < 0.5 else limits.max
            return data
    return rng.integers(low, high + 1, size)
