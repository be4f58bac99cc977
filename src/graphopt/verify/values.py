"""Values for one input: of its type and sizes, shaped by a hint of how the model uses them."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from onnx import TensorProto

from graphopt.ir import dtypes
from graphopt.verify.hints import Hint
from graphopt.verify.parameters import parameter_values
from graphopt.verify.spec import InputSpec, sizes_of

__all__ = ["STYLES", "feed_elements", "make_feeds"]

# base: what the model is likely made for. wide: larger, both signs, exact zeros and ties; lengths cut, flags turned,
# optionals empty. The others are tried in their order when the model makes nothing of base (NaN, nothing at all).
STYLES = ("base", "wide", "positive", "small", "unit", "zeros")

_WORDS = ("hello", "the quick brown fox", "a", "World", "42", "naïve", "")
_PREFERRED_RATES = (16000, 22050, 44100, 48000, 8000)


def make_feeds(
    specs: list[InputSpec], hints: Mapping[str, Hint], binding: Mapping[str, int], style: str = "base", seed: int = 0
) -> dict[str, Any]:
    """Values for all inputs. binding: sizes of the symbols; style: one of `STYLES`. The same arguments, the same
    values.

    Each input draws from a generator of its own (seeded by its name), so it keeps its values when others come or go.
    """
    longest = _longest(specs, hints, binding)
    feeds = {}
    for spec in specs:
        rng = np.random.default_rng([seed, STYLES.index(style), zlib.crc32(spec.name.encode())])
        hint = hints.get(spec.name, Hint())
        for symbol in hint.below:
            hint = hint.bounded(0, max(0, binding.get(symbol, 1) - 1))
        feeds[spec.name] = _value(spec, hint, binding, style, rng, longest)
    return feeds


def feed_elements(specs: list[InputSpec], binding: Mapping[str, int]) -> int:
    """How many elements `make_feeds` would make, at the least; a text counts as sixteen."""
    total = 0
    for spec in specs:
        times = (3 if "sequence" in spec.wraps else 1) * (16 if spec.elem_type == TensorProto.STRING else 1)
        total += times * math.prod(sizes_of(spec.dims or (), binding))
    return total


def _longest(specs: list[InputSpec], hints: Mapping[str, Hint], binding: Mapping[str, int]) -> int:
    """What a length should be: the size of the largest symbolic dimension that is not the first of its input."""
    sizes = [0]
    for spec in specs:
        if hints.get(spec.name, Hint()).role != "length":
            dims = (spec.dims or ())[1:]
            sizes += [size for dim, size in zip(dims, sizes_of(dims, binding), strict=True) if isinstance(dim, str)]
    static = [dim for spec in specs for dim in (spec.dims or ())[1:] if isinstance(dim, int)]
    return max(sizes) or max(static, default=1)


def _value(
    spec: InputSpec, hint: Hint, binding: Mapping[str, int], style: str, rng: np.random.Generator, longest: int
) -> Any:
    if "optional" in spec.wraps and style == "wide":
        return None
    if spec.leaf == "map":
        return _wrap(spec, [_map(spec, hint, rng) for _ in range(3)])
    count = 3 if "sequence" in spec.wraps else 1
    shape = sizes_of(spec.dims or (), binding)
    arrays = [_tensor(spec, hint, shape, style, rng, longest) for _ in range(count)]
    return _wrap(spec, [_sparse(array) if spec.leaf == "sparse" else array for array in arrays])


def _wrap(spec: InputSpec, values: list[Any]) -> Any:
    return values if "sequence" in spec.wraps else values[0]


def _map(spec: InputSpec, hint: Hint, rng: np.random.Generator) -> dict[Any, Any]:
    text = spec.key_type == TensorProto.STRING
    words = [key for key in hint.choices if isinstance(key, str if text else int)]
    keys: list[Any] = words or (list(_WORDS[:4]) if text else [0, 1, 2, 3])
    chosen = [key for key in keys if rng.random() < 0.8] or keys[:1]
    if spec.elem_type == TensorProto.STRING:
        return {key: _WORDS[int(rng.integers(4))] for key in chosen}
    number = float if spec.elem_type in (TensorProto.FLOAT, TensorProto.DOUBLE) else int
    return {key: number(round(float(rng.uniform(0, 5)), 3)) for key in chosen}


def _sparse(dense: np.ndarray) -> Any:
    """`dense` as a COO tensor of ONNX Runtime, a third of the elements kept."""
    import onnxruntime

    flat = np.flatnonzero(np.arange(dense.size) % 3 == 0)
    indices = np.stack(np.unravel_index(flat, dense.shape), axis=-1).astype(np.int64)
    values = np.ascontiguousarray(dense.ravel()[flat])
    # The binding takes the device in its internal class only; an OrtValue knows its own.
    device = onnxruntime.OrtDevice.make("cpu", 0)
    shape = np.asarray(dense.shape, np.int64)
    return onnxruntime.SparseTensor.sparse_coo_from_numpy(shape, values, indices.ravel(), device)


def _tensor(
    spec: InputSpec, hint: Hint, shape: tuple[int, ...], style: str, rng: np.random.Generator, longest: int
) -> np.ndarray:
    if spec.elem_type == TensorProto.STRING:
        words = [c for c in hint.choices if isinstance(c, str)]
        pool = np.array([*words, *_WORDS] if style == "wide" or not words else words, object)
        return np.asarray(pool[rng.integers(0, len(pool), shape)], object).reshape(shape)
    dtype = dtypes.to_numpy(spec.elem_type)
    if hint.role == "mask" and shape:
        return np.asarray(_mask(shape, style)).astype(dtype)
    if hint.parameter is not None and not hint.index and not hint.role and len(shape) <= 1:
        numbers = np.clip(parameter_values(hint.parameter, shape, style), *_limits(spec.elem_type))
        return np.asarray(numbers).astype(dtype)
    if spec.elem_type == TensorProto.BOOL:
        return np.asarray(rng.random(shape) < 0.7 if math.prod(shape) > 1 else np.full(shape, style != "wide"))
    floating = spec.elem_type in _FLOATS
    if floating and not hint.integral:
        return np.asarray(_floats(spec, hint, shape, style, rng)).astype(dtype)
    if dtype.kind == "c":
        return np.asarray(rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(dtype)
    numbers = np.clip(_integers(spec, hint, shape, style, rng, longest), *_limits(spec.elem_type))
    if floating and hint.truncated and style == "wide":  # a cast that is dropped shows in the fractions
        numbers = numbers + rng.uniform(0, 0.9, shape)
    return np.asarray(numbers).astype(dtype)


_FLOATS = {
    value for name, value in TensorProto.DataType.items() if name.startswith(("FLOAT", "BFLOAT", "DOUBLE"))
}  # fmt: skip


def _limits(elem_type: int) -> tuple[int, int]:
    name = TensorProto.DataType.Name(elem_type)
    digits = "".join(c for c in name if c.isdigit())
    if not name.startswith(("INT", "UINT")) or not digits:
        return -(2**31), 2**31 - 1
    bits = min(int(digits), 62)
    return (0, 2**bits - 1) if name.startswith("U") else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def _mask(shape: tuple[int, ...], style: str) -> np.ndarray:
    """Ones, with zeros at the tail of every row but the first (of all rows when wide); no row is without a one."""
    length = shape[-1]
    rows = max(1, math.prod(shape[:-1]))
    cut = np.arange(rows) % 4 * max(1, length // 8) + (length // 3 if style == "wide" else 0)
    kept = np.maximum(length - cut, 1)
    return (np.arange(length) < kept[:, None]).reshape(shape) if math.prod(shape) else np.ones(shape)


def _floats(spec: InputSpec, hint: Hint, shape: tuple[int, ...], style: str, rng: np.random.Generator) -> np.ndarray:
    if hint.choices and math.prod(shape) <= 1:
        numbers = [c for c in hint.choices if isinstance(c, (int, float))]
        return np.full(shape, numbers[style == "wide" and len(numbers) > 1] if numbers else 1.0)
    if style == "zeros":
        return np.zeros(shape)
    if style in ("positive", "unit"):
        return rng.uniform(0.1 if style == "positive" else 0.0, 1.0, shape)
    if math.prod(shape) <= 4 and len(shape) <= 1:  # a scale, a speed, a threshold
        return rng.uniform(0.2, 2.0, shape) if style == "wide" else rng.uniform(0.5, 1.0, shape)
    image = len(shape) == 4 and (shape[1] in (1, 3, 4) or shape[-1] in (1, 3, 4))
    if style == "base" and (hint.positive or image):
        return rng.random(shape, np.float32) + (0.01 if hint.positive else 0.0)
    normal = rng.standard_normal(shape, np.float32)
    if style != "wide":
        return normal * (0.1 if style == "small" else 1)
    return (
        _special(_wide(np.asarray(normal), spec.elem_type, rng)) if hint.special else _wide(normal, spec.elem_type, rng)
    )


def _special(values: np.ndarray) -> np.ndarray:
    """`values` with NaN and both infinities among them."""
    flat: np.ndarray = np.array(values).reshape(-1)
    for place, number in enumerate((np.nan, np.inf, -np.inf)):
        flat[place + 1 :: 16] = number
    return np.asarray(flat.reshape(values.shape))


def _wide(normal: np.ndarray, elem_type: int, rng: np.random.Generator) -> np.ndarray:
    """Four times as large, every eighth element zero, every fourth a multiple of 1/2 (so that some are equal)."""
    values = normal * (1.0 if "FLOAT8" in TensorProto.DataType.Name(elem_type) else 4.0)
    kind = rng.integers(0, 8, normal.shape)
    return np.where(kind == 0, 0.0, np.where(kind <= 2, np.round(values * 2) / 2, values))


def _integers(
    spec: InputSpec, hint: Hint, shape: tuple[int, ...], style: str, rng: np.random.Generator, longest: int
) -> np.ndarray:
    numbers = [c for c in hint.choices if isinstance(c, (int, float)) and float(c).is_integer()]
    if hint.role == "length":
        # Scalars and first rows are full, others shorter; when wide, all are.
        cut = np.arange(max(1, math.prod(shape))) % 4 / 5 + (0.3 if style == "wide" else 0.0)
        lengths = np.maximum(1, np.round(min(longest, _top(hint, longest)) * (1 - cut)))
        return lengths.reshape(shape) if math.prod(shape) else np.zeros(shape)
    if hint.role == "position":
        return np.minimum(np.broadcast_to(np.arange(shape[-1] if shape else 1), shape), _top(hint, 2**31))
    if hint.role == "rate":
        known = [c for c in (*_PREFERRED_RATES, *numbers) if c in numbers] or [_PREFERRED_RATES[0]]
        numbers = [*known, *(rate for rate in _PREFERRED_RATES[::-1] if rate not in known)]
    elif len(numbers) == 1:
        numbers = [numbers[0], numbers[0] + 1]
    if (hint.role == "rate" or math.prod(shape) <= 1) and numbers and not hint.index:
        return np.full(shape, numbers[1 if style == "wide" else 0])
    if hint.role == "trip":
        return np.full(shape, 2 if style == "wide" else 3)
    if spec.elem_type in (TensorProto.UINT8, TensorProto.INT8, TensorProto.INT4, TensorProto.UINT4) and not hint.index:
        low, high = _limits(spec.elem_type)
        return rng.integers(low, high + 1, shape)
    if hint.index or hint.high is not None:
        low = 0 if hint.low is None else max(hint.low, 0) if (hint.high or 0) >= 0 else hint.low
        return rng.integers(low, max(low, _top(hint, 1)) + 1, shape)
    low, high = (-20, 20) if style == "wide" and hint.low is None else (hint.low or 0, 9)
    drawn = rng.integers(low, high + 1, shape)
    return np.where(rng.random(shape) < 0.5, rng.choice(numbers, shape), drawn) if numbers else drawn


def _top(hint: Hint, default: int) -> int:
    return default if hint.high is None else hint.high
