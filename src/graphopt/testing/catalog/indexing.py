"""Operators with indices: gathers, scatters, selections by data."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import TensorProto

from graphopt.testing.catalog.call import Call, Shape
from graphopt.testing.catalog.entry import Entry
from graphopt.testing.chooser import Chooser
from graphopt.testing.draft import DoesNotFit, Var

RANKS = (2, 3, 1, 4)
_INDICES = (TensorProto.INT64, TensorProto.INT32)


def within(limit: int, negative: bool = True) -> Any:
    """Data: indices into an axis of that size."""

    def data(chooser: Chooser, dtype: int, shape: Shape) -> np.ndarray:
        rng = np.random.default_rng(chooser.seed())
        return rng.integers(-limit if negative and chooser.chance(40) else 0, limit, shape)

    return data


def _fits(c: Call, slot: int, limit: int) -> None:
    """Raises DoesNotFit where indices given are not known to be in range."""
    var = c.given(slot)
    if var is None:
        return
    data = var.value if var.value is not None else c.draft.feeds.get(var.name)
    if data is None or data.dtype.kind not in "iu" or (data.size and not (-limit <= data.min() and data.max() < limit)):
        raise DoesNotFit(f"input {slot} of {c.op}: not known to be in range")


def _gather(c: Call) -> None:
    x = c.any(0, RANKS)
    axis = c.axis(x.rank or 0, default=0)
    limit = c.shape(0)[axis]
    _fits(c, 1, limit)
    if c.given(1) is None:
        shape = c.chooser.pick(((), (1,), (2,), (2, 1), (0,)))
        c.make(1, shape, within(limit, c.opset >= 11), _INDICES)


def _gather_elements(c: Call) -> None:
    x = c.any(0, RANKS)
    axis = c.axis(x.rank or 0, default=0)
    shape = c.shape(0)
    _fits(c, 1, shape[axis])
    if c.given(1) is None:
        c.make(1, (*shape[:axis], c.chooser.pick((1, 2)), *shape[axis + 1 :]), within(shape[axis]), _INDICES)


def _gather_nd(c: Call) -> None:
    c.any(0, (2, 3, 4))
    shape = c.shape(0)
    if c.given(1) is not None:
        raise DoesNotFit("indices are made here")
    if len(shape) > 2 and c.chooser.chance(20) and c.has_attr("batch_dims"):
        c.attrs["batch_dims"] = 1
        c.make(1, (shape[0], 2, 1), within(min(shape[1:])))
        return
    c.make(1, (c.chooser.pick((2, 1)), c.chooser.integer(1, len(shape))), within(min(shape)))


def _scatter(c: Call) -> None:
    x = c.any(0, RANKS)
    axis = c.axis(x.rank or 0, default=0)
    shape = c.shape(0)
    count = c.chooser.integer(1, shape[axis])
    small = (*shape[:axis], count, *shape[axis + 1 :])
    if c.given(1) is not None:
        raise DoesNotFit("indices are made here")
    order = np.random.default_rng(c.chooser.seed()).permutation(shape[axis])[
        :count
    ]  # no index twice: the order is open
    indices = np.broadcast_to(order.reshape([-1 if a == axis else 1 for a in range(len(shape))]), small)
    c.make(1, small, indices, _INDICES)
    c.exact(2, small)
    reductions = ("add", "mul", *(("max", "min") if c.opset >= 18 else ()))
    if c.dtype(0) not in (TensorProto.BOOL, TensorProto.STRING):
        c.attr("reduction", None, None, None, *reductions)


def _scatter_nd(c: Call) -> None:
    c.any(0, RANKS)
    shape = c.shape(0)
    if c.given(1) is not None:
        raise DoesNotFit("indices are made here")
    count = c.chooser.integer(1, shape[0])
    order = np.random.default_rng(c.chooser.seed()).permutation(shape[0])[:count]
    c.make(1, (count, 1), order[:, None])
    c.exact(2, (count, *shape[1:]))
    reductions = ("add", "mul", *(("max", "min") if c.opset >= 18 else ()))
    if c.dtype(0) not in (TensorProto.BOOL, TensorProto.STRING):
        c.attr("reduction", None, None, None, *reductions)


def _one_hot(c: Call) -> None:
    depth = c.chooser.pick((3, 2, 4))
    if c.given(0) is None:
        c.make(0, c.chooser.pick(((2,), (2, 3))), within(depth, c.opset >= 11), (TensorProto.INT64, TensorProto.FLOAT))
    x = c.any(0, (1, 2))
    if c.given(1) is None:
        c.parameter(1, np.array(depth if c.chooser.chance(50) else [depth]), c.dtype(1, (TensorProto.INT64,)))
    if c.given(2) is None:  # ORT has kernels for few combinations
        both = (TensorProto.FLOAT, TensorProto.INT64) if x.dtype == TensorProto.INT64 else (TensorProto.INT64,)
        c.exact(2, (2,), np.array([0, 1]), both)
    c.attr("axis", None, 0, -1)


def _non_zero(c: Call) -> None:
    c.any(0, (2, 1, 3))


def _compress(c: Call) -> list[Var]:
    x = c.any(0, RANKS)
    rank = x.rank or 0
    size, left = int(np.prod(c.shape(0))), 1
    if c.chooser.chance(70):
        size, left = c.shape(0)[c.axis(rank)], rank
    if c.given(1) is not None:
        raise DoesNotFit("the condition is made here")
    c.make(1, (min(size, c.chooser.pick((size, 1, 2))),))
    return c.emit((None,) * left)


def _unique(c: Call) -> None:
    x = c.any(0, (1, 2))
    if c.chooser.chance(30):
        c.axis(x.rank or 0)
    c.attr("sorted", None, 1, 0)
    if c.n_out is None:
        c.n_out = c.chooser.pick((1, 4, 2))


def _eye_like(c: Call) -> None:
    c.any(0, (2,))
    c.attr("k", None, 1, -1)
    c.attr("dtype", None, TensorProto.FLOAT, TensorProto.INT64)


def _tensor_scatter(c: Call) -> None:
    c.exact(0, (2, 4, 3))
    c.exact(1, (2, 2, 3))
    if c.wants(2):
        c.parameter(2, np.array([0, 2], np.int64))
    c.attr("mode", None, "circular")
    c.attr("axis", 1)


ENTRIES = [
    Entry("Gather", _gather),
    Entry("GatherElements", _gather_elements),
    Entry("GatherND", _gather_nd),
    Entry("Scatter", _scatter, until=10),
    Entry("ScatterElements", _scatter),
    Entry("ScatterND", _scatter_nd),
    Entry("OneHot", _one_hot),
    Entry("NonZero", _non_zero),
    Entry("Compress", _compress),
    Entry("Unique", _unique),
    Entry("EyeLike", _eye_like),
    Entry("TensorScatter", _tensor_scatter),
]
