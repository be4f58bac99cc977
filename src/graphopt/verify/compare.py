"""How far two results are apart, in terms that suit their type.

Floats are measured against the scale of the output around them: an element's error is divided by the largest magnitude
in its rows, columns, channels (the smallest of these scales that has at least 16 elements behind it), so that a wrong
class score cannot hide behind box coordinates in the hundreds. Integers, booleans and strings must be equal. NaN and
infinities must stand in the same places, infinities with the same sign. Types and shapes must agree.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import ModelProto

from graphopt.verify.report import OutputCheck

__all__ = ["Deviation", "Tolerance", "deviation", "flatten", "rounding_of", "slack_of", "tolerance_for"]

_EPS = {"float64": 2.0**-52, "float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7, "complex64": 2.0**-23,
        "complex128": 2.0**-52}  # fmt: skip
_RUNTIME = {"float64": 1e-9, "float16": 0.02, "bfloat16": 0.1}
_RUNTIME_DEFAULT = 1e-3
_TINY = 1e-37
_BOUNDED = {"Sigmoid", "HardSigmoid"}
_MOVERS = {"Identity", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Slice", "Concat", "Split", "Gather"}
_LARGE = 1 << 20  # elements
_SLICE = 16  # elements that a local scale needs behind it
_FAR = 1e4  # times the median magnitude: what is larger stands apart
_FAINT = 2.0**-14  # of the whole output's scale: no local scale is taken smaller


@dataclass
class Deviation:
    """What lies between a result and its reference.

    kind: why they cannot be compared at all ("" when they can). peak, rms: largest and root mean square error, relative
    to the local scale; far_peak, far_rms: relative to the scale of the whole output. mismatches: elements that disagree
    as NaN or infinity or, in exact types, in value; total: of how many. off_by: largest difference of integers. exact:
    whether the type has to agree exactly.
    """

    kind: str = ""
    dtype: str = ""
    shape: tuple[int, ...] = ()
    peak: float = 0.0
    rms: float = 0.0
    far_peak: float = 0.0
    far_rms: float = 0.0
    max_abs: float = 0.0
    max_rel: float = 0.0
    cosine: float | None = None
    sqnr_db: float | None = None
    mismatches: int = 0
    off_by: int = 0
    total: int = 0
    exact: bool = False

    @property
    def none(self) -> bool:
        """Whether there is no difference."""
        return not self.kind and not self.mismatches and self.peak == 0.0

    def in_words(self) -> str:
        """What a reader is told of it."""
        if self.kind:
            return self.kind
        if self.mismatches:
            what = "elements differ" if self.exact else "elements disagree as NaN or infinity"
            return f"{self.mismatches} of {self.total} {what}"
        return f"error of {self.peak:.2g} of the output's scale at its peak, {self.rms:.2g} on average"

    def check(self, name: str) -> OutputCheck:
        """The figures, as part of a report."""
        return OutputCheck(
            name, self.dtype, self.shape, self.max_abs, self.max_rel, self.cosine, self.sqnr_db, self.mismatches
        )

    def worse(self, other: Deviation) -> Deviation:
        """The two as one: the larger of each figure."""
        if self.kind or other.kind:
            return self if self.kind else other
        first = self if (self.mismatches, self.peak) >= (other.mismatches, other.peak) else other
        least = [c for c in (self.cosine, other.cosine) if c is not None]
        noise = [s for s in (self.sqnr_db, other.sqnr_db) if s is not None]
        return Deviation(
            "", first.dtype, first.shape, max(self.peak, other.peak), max(self.rms, other.rms),
            max(self.far_peak, other.far_peak), max(self.far_rms, other.far_rms),
            max(self.max_abs, other.max_abs), max(self.max_rel, other.max_rel), min(least, default=None),
            min(noise, default=None), max(self.mismatches, other.mismatches), max(self.off_by, other.off_by),
            max(self.total, other.total), self.exact or other.exact,
        )  # fmt: skip


@dataclass(frozen=True)
class Tolerance:
    """The largest `peak` and `rms` that pass without asking for the original's own rounding noise."""

    peak: float
    rms: float

    def allows(self, found: Deviation) -> bool:
        """Whether the deviation passes."""
        return not found.kind and not found.mismatches and found.peak <= self.peak and found.rms <= self.rms


def tolerance_for(dtype: str, nodes: int) -> Tolerance:
    """What rounding alone may do to an output of type `dtype` after `nodes` operators.

    Errors of independent roundings grow with the square root of their number: 16 units in the last place at the peak
    and 2 on average, times sqrt(nodes / 4), at most 2.5e-5 and 3e-6 of the scale for float32.
    """
    eps = _EPS.get(dtype)
    if eps is None:  # float8 and below: one step, seldom
        step = 2.0**-2 if "e5m2" in dtype else 2.0**-3
        return Tolerance(1.01 * step if dtype.startswith("float") else 0.0, step / 8)
    if eps > 1e-6:
        return Tolerance(16 * eps, 2 * eps)
    depth = min(math.sqrt(max(1.0, nodes / 4)), 13.0 if eps > 1e-10 else 1e3)
    return Tolerance(16 * eps * depth, 2 * eps * depth)


def rounding_of(dtype: str) -> float:
    """What the runtime's optimizations may do to an output of type `dtype`, relative to its scale, and be rounding."""
    return _RUNTIME.get(dtype, _RUNTIME_DEFAULT)


def slack_of(model: ModelProto) -> list[float]:
    """For each graph output, the absolute error that its last operator makes by itself, whatever its result.

    Results of Sigmoid lie between 0 and 1, and runtimes approximate it to a few units in the last place of 1: a result
    of 1e-7 has no digit that means anything. 0 for all other operators, Softmax included, which is exact down to 0.
    """
    makers = {name: node for node in model.graph.node for name in node.output}
    found = []
    for output in model.graph.output:
        ends, seen, waiting = [], set[str](), [output.name]
        while waiting:
            name = waiting.pop()
            node = makers.get(name)
            if node is not None and node.op_type in _MOVERS and name not in seen:
                seen.add(name)
                waiting += list(node.input) if node.op_type == "Concat" else list(node.input[:1])
            else:
                ends.append("" if node is None else node.op_type)
        bounded = bool(ends) and all(op in _BOUNDED for op in ends)
        found.append(4 * _EPS["float32"] if bounded else 0.0)
    return found


def flatten(value: Any) -> Iterator[tuple[str, Any]]:
    """The leaves of a result with the way to them: arrays and None, out of sequences, maps and sparse tensors.

    >>> [(path, leaf.tolist()) for path, leaf in flatten([np.arange(2), {"a": np.float32(1)}])]
    [('[0]', [0, 1]), ("[1]['a']", 1.0)]
    """
    waiting = [("", value)]
    while waiting:
        path, item = waiting.pop()
        if isinstance(item, (list, tuple)):
            waiting += reversed([(f"{path}[{i}]", leaf) for i, leaf in enumerate(item)])
            if not item:
                yield path + "[]", None
        elif isinstance(item, dict):
            waiting += reversed([(f"{path}[{key!r}]", item[key]) for key in sorted(item, key=repr)])
        elif hasattr(item, "dense_shape"):
            yield from ((path + ".dense", leaf) for leaf in (_dense(item),))
        else:
            yield path, None if item is None else np.asarray(item)


def deviation(reference: Any, other: Any, slack: float = 0.0) -> Deviation:
    """How far `other` is from `reference`, over all their leaves. slack: absolute errors up to this are none.

    >>> round(deviation(np.float32([1, 2]), np.float32([1, 2.5])).peak, 3)
    0.25
    """
    ours, theirs = list(flatten(reference)), list(flatten(other))
    if [path for path, _ in ours] != [path for path, _ in theirs]:
        return Deviation(f"the structure differs: {_outline(reference)} became {_outline(other)}", total=1)
    found: Deviation | None = None
    for (_, left), (_, right) in zip(ours, theirs, strict=True):
        leaf = _leaf(left, right, slack)
        found = leaf if found is None else found.worse(leaf)
    found = found or Deviation(dtype="map")
    if isinstance(reference, (list, dict)):
        found.dtype, found.shape = ("sequence" if isinstance(reference, list) else "map"), (len(reference),)
    return found


def _outline(value: Any) -> str:
    if isinstance(value, (list, dict)):
        return f"a {'sequence' if isinstance(value, list) else 'map'} of {len(value)}"
    return "nothing" if value is None else "a tensor"


def _dense(sparse: Any) -> np.ndarray:
    shape = tuple(int(n) for n in np.asarray(sparse.dense_shape()).ravel())
    dense = np.zeros(math.prod(shape), np.asarray(sparse.values()).dtype)
    indices = np.asarray(sparse.as_coo_view().indices())
    flat = np.ravel_multi_index(tuple(indices.T), shape) if indices.ndim == 2 else indices
    dense[flat] = np.asarray(sparse.values()).ravel()
    return dense.reshape(shape)


def _leaf(reference: np.ndarray | None, other: np.ndarray | None, slack: float) -> Deviation:
    if reference is None or other is None:
        same = reference is None and other is None
        return Deviation("" if same else f"{_outline(reference)} became {_outline(other)}", dtype="none", exact=True)
    dtype, shape = _name(reference), reference.shape
    if _name(other) != dtype:
        return Deviation(f"the type {dtype} became {_name(other)}", dtype, shape, total=reference.size)
    if other.shape != shape:
        return Deviation(f"the shape {list(shape)} became {list(other.shape)}", dtype, shape, total=reference.size)
    if dtype == "string" or reference.dtype.kind in "biu" or dtype.startswith(("int", "uint")):
        return _exact(reference, other, dtype)
    if reference.dtype.kind == "c":
        left, right = (np.stack([a.real, a.imag], axis=-1) for a in (reference, other))
        return _inexact(left, right, dtype, shape, slack)
    return _inexact(reference, other, dtype, shape, slack)


def _name(array: np.ndarray) -> str:
    return "string" if array.dtype.kind in "OUS" else array.dtype.name


def _exact(reference: np.ndarray, other: np.ndarray, dtype: str) -> Deviation:
    if dtype == "string":
        wrong = int(np.count_nonzero(reference.astype(object) != other.astype(object)))
        return Deviation("", dtype, reference.shape, mismatches=wrong, total=reference.size, exact=True)
    if reference.dtype.kind not in "biu":  # ml_dtypes' sub-byte integers
        reference, other = reference.astype(np.int8), other.astype(np.int8)
    wrong = int(np.count_nonzero(reference != other))
    off_by = 0
    if wrong:
        where = reference != other
        differences = [abs(int(a) - int(b)) for a, b in zip(reference[where][:4096], other[where][:4096], strict=True)]
        off_by = max(differences)
    found = Deviation("", dtype, reference.shape, mismatches=wrong, off_by=off_by, total=reference.size, exact=True)
    found.max_abs = float(off_by)
    return found


def _inexact(reference: np.ndarray, other: np.ndarray, dtype: str, shape: tuple[int, ...], slack: float) -> Deviation:
    found = Deviation("", dtype, shape, total=reference.size, cosine=1.0)
    bits = np.dtype(f"u{min(8, reference.dtype.itemsize)}")
    if np.array_equal(np.ascontiguousarray(reference).view(bits), np.ascontiguousarray(other).view(bits)):
        return found
    # Large arrays of narrow types are worked on as float32: their differences are as exact, in half the time.
    work = np.float64 if reference.dtype.itemsize > 4 or reference.size <= _LARGE else np.float32
    left, right = reference.astype(work), other.astype(work)
    finite = np.isfinite(left) & np.isfinite(right)
    if not finite.all():
        # Equal infinities are equal; NaN equals NaN; whatever else is not finite in one of the two disagrees.
        agree = finite | (left == right) | (np.isnan(left) & np.isnan(right))
        found.mismatches = int(np.count_nonzero(~agree))
        left[~finite] = right[~finite] = 0.0
    # In units of a power of two about the largest: so that no difference and no square overflows or vanishes.
    unit = math.ldexp(1.0, math.frexp(max(_largest(left), _largest(right)))[1] - 1)
    left /= work(unit)
    right /= work(unit)
    error, magnitude = np.abs(left - right), np.abs(left)
    found.max_abs = min(_largest(error) * unit, np.finfo(np.float64).max)
    whole, local = _scales(magnitude)
    counted = np.where(error > work(slack / unit), error, 0) if slack else error
    found.far_peak, found.far_rms = _relative(counted, whole)
    found.peak, found.rms = _relative(counted, local)
    found.max_rel = _largest(np.divide(error, magnitude, out=np.zeros_like(error), where=magnitude > _TINY))
    _similarity(found, left, right, error)
    return found


def _largest(values: np.ndarray) -> float:
    """The largest magnitude, 0 of nothing."""
    return float(max(values.max(initial=0.0), -values.min(initial=0.0)))


def _relative(error: np.ndarray, scale: np.ndarray) -> tuple[float, float]:
    """The peak and the root mean square of error / scale."""
    relative = error / np.maximum(scale, error.dtype.type(_TINY))
    mean = float(np.sum(np.square(relative), dtype=np.float64)) / max(1, relative.size)
    return _largest(relative), math.sqrt(mean)


def _scales(magnitude: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The scale of the whole, and for each element the least, over the axes, of the largest magnitude in its slice.

    Elements far beyond the rest (what a mask of -1e9 leaves) are their own scale, and nobody else's.
    """
    sample = magnitude.ravel()[:: max(1, magnitude.size // 65536)]
    sample = sample[sample > 0]
    far = magnitude > float(np.median(sample)) * _FAR if sample.size else np.zeros(magnitude.shape, bool)
    apart = bool(far.any())
    near = np.where(far, 0, magnitude) if apart else magnitude
    whole = near.max(initial=0)
    local = np.asarray(whole)
    for axis, size in enumerate(magnitude.shape):
        if size > 1 and magnitude.size // size >= _SLICE:
            others = tuple(i for i in range(magnitude.ndim) if i != axis)
            local = np.minimum(local, near.max(axis=others, keepdims=True))
    local = np.maximum(local, whole * magnitude.dtype.type(_FAINT))
    if apart:
        return np.where(far, magnitude, whole), np.where(far, magnitude, local)
    return np.asarray(whole), local


def _similarity(found: Deviation, left: np.ndarray, right: np.ndarray, error: np.ndarray) -> None:
    """Cosine and signal to noise ratio. The values are at most 1; the error may be so small that it is scaled first."""
    least = _largest(error) or 1.0
    noise = float(np.sum(np.square(error / error.dtype.type(least)), dtype=np.float64))
    signal, power = (float(np.sum(np.square(values), dtype=np.float64)) for values in (left, right))
    if signal and power:
        product = float(np.sum(left * right, dtype=np.float64))
        found.cosine = max(-1.0, min(1.0, product / math.sqrt(signal * power)))
    if noise and signal:
        found.sqnr_db = 10 * math.log10(signal / noise) - 20 * math.log10(least)
