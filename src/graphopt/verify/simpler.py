"""Ways to make a pair of models smaller or plainer: fewer rows and channels, simpler inputs, simpler weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, numpy_helper

from graphopt.verify.window import retyped

__all__ = ["simpler_feeds", "simpler_weights", "smaller"]

Candidate = tuple[ModelProto, ModelProto, dict[str, Any]]
_TENSORS = 24  # of more weights than these only the sizes that inputs share are tried
_SHAPES = 64  # elements: integers up to this many may be dimensions


def smaller(before: ModelProto, after: ModelProto, feeds: Mapping[str, Any], rule_driven: bool) -> Iterator[Candidate]:
    """The pair with one size made smaller, everywhere or in one place: in inputs, in weights, in constants that may be
    shapes. rule_driven: `after` is made anew by the caller, so that weights which it shares with nobody may change."""
    arrays = {name: value for name, value in feeds.items() if isinstance(value, np.ndarray)}
    weights = {t.name: tuple(t.dims) for t in before.graph.initializer} if _free(before, after, rule_driven) else {}
    sizes = sorted({n for value in arrays.values() for n in value.shape if n > 1}, reverse=True)
    more = sorted({n for dims in weights.values() for n in dims if n > 1} - set(sizes), reverse=True)
    for size in (*sizes, *more):
        everywhere = [(name, axis) for name, value in arrays.items() for axis, n in enumerate(value.shape) if n == size]
        alone = [[place] for place in everywhere] if len(everywhere) > 1 else []
        for target in dict.fromkeys((1, 2, size // 2, size - 1)):
            if not 0 < target < size:
                continue
            for shapes in (True, False):
                yield _cut(before, after, feeds, everywhere, weights, size, target, shapes)
            for places in (everywhere, *alone) if everywhere else ():
                yield _cut(before, after, feeds, places, {}, size, target, False)


def _free(before: ModelProto, after: ModelProto, rule_driven: bool) -> bool:
    """Whether weights may change: where the rule does not make the second model anew, a weight that it has worked into
    another must stay, so both models must have the same ones; and not where there are very many."""
    shared = {t.name: t for t in before.graph.initializer}
    others = {t.name: t for t in after.graph.initializer}
    alike = all(name in shared and shared[name] == other for name, other in others.items())
    return len(shared) <= _TENSORS and (rule_driven or alike)


def _cut(
    before: ModelProto,
    after: ModelProto,
    feeds: Mapping[str, Any],
    places: list[tuple[str, int]],
    weights: Mapping[str, tuple[int, ...]],
    size: int,
    target: int,
    shapes: bool,
) -> Candidate:
    """With the axes `places` of inputs and every axis of that size of `weights` cut to `target`; shapes: with the
    number replaced in small constants of integers, too."""
    fewer = dict(feeds)
    for name, axis in places:
        fewer[name] = np.ascontiguousarray(fewer[name].take(range(target), axis))

    def change(array: np.ndarray) -> np.ndarray:
        for axis, n in enumerate(array.shape):
            if n == size:
                array = array.take(range(target), axis)
        if shapes and array.dtype == np.int64 and array.size <= _SHAPES:
            array = np.where(array == size, target, array)
        return array

    return _changed(before, fewer, weights, change), _changed(after, fewer, weights, change), fewer


def _changed(
    model: ModelProto, feeds: Mapping[str, Any], names: Any, change: Callable[[np.ndarray], np.ndarray]
) -> ModelProto:
    """A copy with inputs typed by `feeds` and the initializers in `names` changed."""
    found = retyped(model, feeds)
    for tensor in found.graph.initializer:
        if tensor.name in names and tensor.data_location != TensorProto.EXTERNAL:
            array = numpy_helper.to_array(tensor)
            made = change(array)
            if made is not array:
                tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(made).astype(array.dtype), tensor.name))
    return found


def simpler_feeds(before: ModelProto, after: ModelProto, feeds: Mapping[str, Any]) -> Iterator[Candidate]:
    """With one input of plainer values."""
    for name, value in feeds.items():
        if isinstance(value, np.ndarray):
            yield from ((before, after, {**feeds, name: plain}) for plain in _plainer(value))


def simpler_weights(
    before: ModelProto, after: ModelProto, feeds: Mapping[str, Any], rule_driven: bool
) -> Iterator[Candidate]:
    """With one weight of plainer values, in both models."""
    if not _free(before, after, rule_driven):
        return
    shared = {t.name: t for t in before.graph.initializer}
    for name, tensor in shared.items():
        if not tensor.dims or tensor.data_type in (TensorProto.INT64, TensorProto.INT32, TensorProto.STRING):
            continue  # scalars and integers are settings rather than data
        for plain in _plainer(numpy_helper.to_array(tensor)):
            change = _constant(plain)
            yield _changed(before, feeds, (name,), change), _changed(after, feeds, (name,), change), dict(feeds)


def _constant(array: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    return lambda _: array


def _plainer(value: np.ndarray) -> Iterator[np.ndarray]:
    """Plainer values of the same type and shape, the plainest first; none once they are as plain as they can be."""
    kind = value.dtype.kind
    if not value.size or kind in "OUS":
        return
    plain: list[np.ndarray] = [np.zeros(value.shape), np.ones(value.shape)]
    if value.size > 1:
        plain.append((np.arange(value.size) % 3).reshape(value.shape))
        plain.append((np.arange(value.size) % 5 - 2).reshape(value.shape))
    if kind != "b":
        numbers = value.astype(np.float64) if kind != "c" else np.real(value).astype(np.float64)
        with np.errstate(all="ignore"):
            plain += [np.round(numbers), np.round(numbers, 1)]
    for candidate in plain:
        with np.errstate(all="ignore"):
            made = np.asarray(candidate).astype(value.dtype)
        if _plainness(made) >= _plainness(value):
            return
        yield made


def _plainness(value: np.ndarray) -> tuple[int, int]:
    """How plain values are, plainest least: zeros, ones, few small integers, integers, one decimal, anything."""
    if value.dtype.kind == "b":
        return (0 if not value.any() else 1 if value.all() else 2), 0
    with np.errstate(all="ignore"):
        numbers = np.real(value).astype(np.float64).ravel()
        finite = bool(np.isfinite(numbers).all())
        if not numbers.any():
            return 0, 0
        if bool((numbers == 1).all()):
            return 1, 0
        if not finite:
            return 9, 0
        small, whole = bool((np.abs(numbers) <= 2).all()), bool((numbers == np.round(numbers)).all())
        if whole:
            return (2 if small and bool((numbers >= 0).all()) else 3 if small else 4), 0
        tenth = bool(np.allclose(numbers, np.round(numbers, 1), rtol=1e-3, atol=0))
        return (5 if tenth else 6), 0
