"""More data for a model than what it was drawn with: clean, with special values, extreme, and of other sizes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import ModelProto, numpy_helper

from graphopt.testing.rules.numbers import arrays, grows, tensors
from graphopt.testing.rules.run import Feeds

__all__ = ["Data", "rebound", "variants"]

# Of every three elements one is special, in an order that puts unlike ones next to each other.
_SPECIAL = (np.nan, -0.0, np.inf, 0.0, -np.inf, -0.0, 1.0, -1.0)


@dataclass(frozen=True)
class Data:
    """Feeds, and what kind of numbers is in them.

    ordinary: finite and of moderate size: results differ by rounding alone. special: NaN, infinities and zeros of both
    signs among them, the rest moderate: nothing overflows on the way. extreme: the largest and smallest numbers, too.
    small: ordinary ones divided by 256, where constants are so large that their products overflow. wide: integers of
    all sizes. overriding: other values for initializers that are inputs, too. rebound: other sizes.
    """

    kind: str
    feeds: Feeds


def variants(model: ModelProto, feeds: Feeds, seed: int) -> list[Data]:
    """The data that a model is compared on, made from what it was drawn with."""
    rng = np.random.default_rng(seed)
    found = [Data("ordinary", {name: _ordinary(array, rng) for name, array in feeds.items()})]
    if any(array.size and _is_float(array) for array in feeds.values()):
        found += [Data(kind, {k: _mixed(v, kind, rng) for k, v in found[0].feeds.items()}) for kind in _KINDS]
        if _has_large(model):
            found.append(Data("small", {k: _smaller(v) for k, v in found[0].feeds.items()}))
    if any(array.size and array.dtype.kind in "iu" for array in feeds.values()) and not grows(model):
        found.append(Data("wide", {k: _wide(v, rng) for k, v in found[0].feeds.items()}))
    other = {t.name: _other(numpy_helper.to_array(t)) for t in model.graph.initializer if t.name in _names(model)}
    if other:
        found.append(Data("overriding", {**found[0].feeds, **other}))
    return found


def _has_large(model: ModelProto) -> bool:
    """Whether a constant's square is near or beyond the range of its type."""
    import ml_dtypes

    for array in map(arrays, tensors(model)):
        if _is_float(array) and array.size:
            info: Any = ml_dtypes.finfo(array.dtype)  # type: ignore[no-untyped-call]
            wide = np.abs(array.astype(np.float64))
            if bool((np.isfinite(wide) & (wide > 0.5 * float(info.max) ** 0.5)).any()):
                return True
    return False


def _smaller(array: np.ndarray) -> np.ndarray:
    return np.asarray((array / 256).astype(array.dtype)) if _is_float(array) else array


def _names(model: ModelProto) -> set[str]:
    return {info.name for info in model.graph.input}


def _other(array: np.ndarray) -> np.ndarray:
    """Other values than a default: a caller may override it."""
    if array.dtype.kind == "b":
        return ~array
    if array.dtype.kind == "f":
        return np.asarray(array * array.dtype.type(0.5) + array.dtype.type(1.5))
    return np.asarray(np.roll(array, 1) if array.size > 1 else array)


def _wide(array: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Integers of the type's whole range (but the lowest, which ONNX Runtime dies of where it is divided by -1)."""
    if array.dtype.kind not in "iu" or array.dtype.name not in _INTEGERS or not array.size:
        return array
    limits = np.iinfo(array.dtype)
    found = rng.integers(limits.min + 1, limits.max, array.shape, array.dtype, endpoint=True)
    return np.where(rng.random(array.shape) < 0.3, array, found)


_INTEGERS = frozenset("int8 int16 int32 int64 uint8 uint16 uint32 uint64".split())


def _is_float(array: np.ndarray) -> bool:
    return array.dtype.name in ("float16", "float32", "float64", "bfloat16")


def _ordinary(array: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The same without what is not finite or out of all proportion."""
    if not _is_float(array):
        return array
    with np.errstate(all="ignore"):
        wide = array.astype(np.float64)
        moderate = np.isfinite(wide) & (np.abs(wide) <= 1e4)
        return np.where(moderate, wide, rng.standard_normal(array.shape)).astype(array.dtype)


def _extremes(dtype: np.dtype) -> list[float]:
    import ml_dtypes

    info: Any = ml_dtypes.finfo(dtype)  # type: ignore[no-untyped-call]
    return [float(info.max), float(-info.max), float(info.tiny), float(info.smallest_subnormal), -0.0]


_KINDS = ("special", "extreme")


def _mixed(array: np.ndarray, kind: str, rng: np.random.Generator) -> np.ndarray:
    if not _is_float(array) or not array.size:
        return array
    pool = np.array(_SPECIAL if kind == "special" else (*_extremes(array.dtype), *_SPECIAL), np.float64)
    flat = array.reshape(-1).astype(np.float64)
    at = rng.random(flat.size) < 0.35
    if flat.size == 1:
        at[:] = rng.random() < 0.5
    flat[at] = pool[rng.integers(0, len(pool), int(at.sum()))]
    return np.asarray(flat.astype(array.dtype).reshape(array.shape))


def rebound(
    model: ModelProto, feeds: Feeds, seed: int, given: dict[str, int] | None = None
) -> tuple[dict[str, int], Feeds] | None:
    """The same inputs with other sizes for the symbols: what the symbols became, and feeds; None without a symbol.
    given: sizes of some symbols.

    Numbers are those of the feeds given, repeated or left out, so that indices and sizes stay plausible.
    """
    rng = np.random.default_rng([seed, 7])
    sizes: dict[str, int] = dict(given or {})
    found: Feeds = {}
    for info in model.graph.input:
        array = feeds.get(info.name)
        if array is None:
            continue
        shape = list(array.shape)
        dims = info.type.tensor_type.shape.dim if info.type.tensor_type.HasField("shape") else ()
        for axis, dim in enumerate(dims):
            if dim.dim_param and axis < len(shape):
                if dim.dim_param not in sizes:
                    others = [size for size in (1, 2, 3, 5, 0) if size != shape[axis]]
                    sizes[dim.dim_param] = int(others[min(len(others) - 1, int(rng.integers(0, 6)))])
                shape[axis] = sizes[dim.dim_param]
        found[info.name] = _resized(array, tuple(shape), rng)
    return (sizes, found) if sizes else None


def _resized(array: np.ndarray, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    if array.shape == shape:
        return array
    size = int(np.prod(shape, dtype=np.int64))
    if not array.size:
        return np.zeros(shape, array.dtype)
    flat = array.reshape(-1)
    return np.asarray(flat[rng.integers(0, flat.size, size)].reshape(shape))
