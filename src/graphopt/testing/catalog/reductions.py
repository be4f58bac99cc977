"""Operators along axes: reductions, Softmax and its kin, TopK, cumulative sums."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from graphopt.testing.catalog.call import FLOATS, Call
from graphopt.testing.catalog.entry import Entry
from graphopt.testing.draft import DoesNotFit, Var

RANKS = (2, 3, 4, 1)
_EMPTY = {"ReduceSum", "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceProd"}  # defined on no elements


def _reduce(c: Call) -> None:
    among = FLOATS if c.op in ("ReduceLogSum", "ReduceLogSumExp") else None
    x = c.any(0, (*RANKS, 0), among, low=0 if c.op in _EMPTY and c.opset >= 13 else 1)
    rank = x.rank or 0
    c.attr("keepdims", None, 0, 1)
    choices: list[list[int] | None] = [None]
    if rank:
        choices += [[rank - 1], [0], list(range(rank)), list(range(1, rank)) or [0]]
        if c.negative():
            choices += [[-1], [-rank, -1] if rank > 1 else [-1]]
    as_input = not c.has_attr("axes")
    if as_input and 1 not in c.omit:
        choices.append([])
        c.attr("noop_with_empty_axes", None, 1)
    axes = c.attrs.get("axes") if "axes" in c.attrs else c.chooser.pick(choices)
    if c.given(1) is not None or (axes is not None and 1 not in c.omit) or 1 in c.const_slots:
        c.either("axes", 1, axes or [])


def _arg(c: Call) -> None:
    x = c.any(0, RANKS)
    c.axis(x.rank or 0, default=0)
    c.attr("keepdims", None, 0)
    c.attr("select_last_index", None, 1)


def _softmax(c: Call) -> None:
    x = c.any(0, RANKS)
    c.axis(x.rank or 0, default=-1 if c.opset >= 13 else 1)


def _lp_normalization(c: Call) -> None:
    x = c.any(0, RANKS)
    rank = x.rank or 0
    c.attr("axis", None, rank - 1, 0)
    c.attr("p", None, 1, 2)


def _top_k(c: Call) -> None:
    x = c.any(0, RANKS)
    axis = c.axis(x.rank or 0, default=-1)
    most = c.shape(0)[axis]
    k = c.chooser.pick([k for k in (1, 2, most) if 0 < k <= most])
    if c.has_attr("k"):
        c.attr("k", k)
    else:
        c.parameter(1, np.array([k], np.int64))
    c.attr("largest", None, 0)
    c.n_out = c.n_out or 2


def _cumulative(c: Call) -> None:
    x = c.any(0, RANKS, low=0)
    axis = c.chooser.integer(0, (x.rank or 1) - 1)
    if c.chooser.chance(30):
        axis -= x.rank or 0
    dtype = c.dtype(1, (TensorProto.INT64, TensorProto.INT32))
    c.parameter(1, np.asarray(axis), dtype)
    c.attr("exclusive", None, 1)
    c.attr("reverse", None, 1)


def _loss(c: Call) -> list[Var]:
    c.any(0, (2, 3), FLOATS)
    batch, classes, *rest = c.shape(0)
    c.exact(1, (batch, *rest), lambda chooser, dtype, shape: np.arange(int(np.prod(shape))).reshape(shape) % classes)
    if c.wants(2, 30):
        c.exact(2, (classes,))
    c.attr("reduction", None, "none", "sum", "mean")
    c.attr("ignore_index", None, None, 0, -1)
    if c.given(1) is not None and c.inputs[1].const is None and c.inputs[1].name not in c.draft.feeds:  # type: ignore[union-attr]
        raise DoesNotFit("labels must be in range")
    if c.op == "SoftmaxCrossEntropyLoss" and c.n_out is None:
        c.n_out = c.chooser.pick((1, 2))
    return c.emit(() if c.attrs.get("reduction", "mean") != "none" else (batch, *rest))


ENTRIES = [
    *(Entry(f"Reduce{kind}", _reduce) for kind in "Sum Mean Max Min Prod L1 L2 LogSum LogSumExp SumSquare".split()),
    Entry("ArgMax", _arg),
    Entry("ArgMin", _arg),
    Entry("Softmax", _softmax),
    Entry("LogSoftmax", _softmax),
    Entry("Hardmax", _softmax),
    Entry("LpNormalization", _lp_normalization),
    Entry("TopK", _top_k),
    Entry("CumSum", _cumulative),
    Entry("CumProd", _cumulative),
    Entry("NegativeLogLikelihoodLoss", _loss),
    Entry("SoftmaxCrossEntropyLoss", _loss),
]
