"""Normalizations, Dropout, attention."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from graphopt.testing.catalog.call import FLOATS, Call, plain, positive
from graphopt.testing.catalog.entry import Entry
from graphopt.testing.draft import DoesNotFit, Var

_FLOAT = (TensorProto.FLOAT,)


def _batch(c: Call) -> None:
    x = c.any(0, (4, 3, 2, 5), FLOATS)
    channels = (c.shape(0)[1],)
    if x.shape is None:
        raise DoesNotFit("BatchNormalization needs channels")
    for slot in (1, 2, 3, 4):
        for other in (1, 2, 3, 4):  # opset 15 lets them have types of their own, which ORT does not
            if c.inputs.get(other) is None and c.inputs[0] is not None:
                c.bound.setdefault(c.slot(other)[0], c.inputs[0].dtype)
        c.exact(slot, channels, positive if slot == 4 else plain)
    c.attr("epsilon", None, 1e-3, 0.1)
    c.attr("momentum", None, None, 0.5)
    if c.opset >= 14 and c.dtype(0) == TensorProto.FLOAT and c.n_out in (None, 3) and c.chooser.chance(12):
        c.attr("training_mode", 1)  # then the running statistics are outputs, too
        c.n_out = 3
        if c.attrs["training_mode"] == 1:
            for slot in (3, 4):  # ORT writes the new ones where the old ones are: nothing else may read those
                own = c.constant(c.dtype(slot), channels, positive if slot == 4 else plain)
                c.draft.values.remove(own)
                c.inputs[slot] = own


def _instance(c: Call) -> None:
    c.any(0, (4, 3), FLOATS)
    channels = (c.shape(0)[1],)
    c.exact(1, channels, plain)
    c.exact(2, channels, plain)
    c.attr("epsilon", None, 1e-3)


def _layer(c: Call) -> None:
    x = c.any(0, (3, 2, 4), FLOATS)
    axis = c.axis(x.rank or 0, default=-1)
    rest = c.shape(0)[axis:]
    c.bound.setdefault(c.slot(1)[0], c.dtype(0))
    c.exact(1, rest, plain)
    if c.has(2) and c.op == "LayerNormalization" and c.wants(2):
        c.exact(2, rest, plain)
    c.attr("epsilon", None, 1e-3)
    if c.op == "LayerNormalization" and c.n_out is None and c.chooser.chance(20):
        c.n_out = c.chooser.pick((1, 3, 2))


def _group(c: Call) -> list[Var]:
    if c.given(0) is None:
        c.make(0, (c.chooser.pick((1, 2)), 4, c.chooser.pick((2, 3))))
    c.any(0, (4, 3), FLOATS)
    channels = c.shape(0)[1]
    groups = c.attr("num_groups", *(g for g in (2, 1, channels) if channels % g == 0))
    per = groups if c.opset < 21 else channels
    c.exact(1, (per,), plain)
    c.exact(2, (per,), plain)
    c.attr("epsilon", None, 1e-3)
    return c.emit(c.shape(0))


def _lrn(c: Call) -> None:
    c.any(0, (4,), FLOATS)
    c.attr("size", 3, 1, 5)
    c.attr("alpha", None, 0.1)
    c.attr("bias", None, 2.0)


def _mean_variance(c: Call) -> list[Var]:
    c.any(0, (4,), _FLOAT)  # the function in onnx has float constants
    c.attr("axes", None, [0, 2, 3], [2, 3])
    return c.emit(c.shape(0))


def _dropout(c: Call) -> None:
    c.any(0, (2, 3, 4, 1, 0), unknown=True)
    if c.has_attr("ratio"):
        c.attr("ratio", None, 0.0, 0.3)
    else:
        if c.wants(1, 40):
            c.parameter(1, np.array(c.chooser.pick((0.5, 0.0)), np.float32), c.dtype(1, _FLOAT))
        if c.wants(2, 20):
            c.parameter(2, np.array(False))
    if c.n_out is None and c.chooser.chance(20):
        c.n_out = 2


def _attention(c: Call) -> None:
    batch, heads, length, size = 1, c.chooser.pick((1, 2)), c.chooser.pick((2, 3)), 2
    flat = c.chooser.chance(30)
    shape = (batch, length, heads * size) if flat else (batch, heads, length, size)
    for slot in (0, 1, 2):
        c.bound.setdefault(c.slot(slot)[0], c.dtype(0))  # ORT takes one type for all
        c.exact(slot, shape, plain)
    if flat:
        c.attrs["q_num_heads"] = c.attrs["kv_num_heads"] = heads
    if c.wants(3, 30):
        c.exact(3, (length, length), plain, (c.dtype(0),))
    c.attr("is_causal", None, 1)
    c.attr("scale", None, 0.5)
    c.attr("softcap", None, None, 2.0)


def _rotary(c: Call) -> None:
    c.exact(0, (1, 2, 3, 4), plain)
    c.exact(1, (1, 3, 2), plain)
    c.exact(2, (1, 3, 2), plain)
    c.attr("interleaved", None, 1)


ENTRIES = [
    Entry("BatchNormalization", _batch),
    Entry("InstanceNormalization", _instance),
    Entry("LayerNormalization", _layer),
    Entry("RMSNormalization", _layer),
    Entry("GroupNormalization", _group, since=21),
    Entry("LRN", _lrn),
    Entry("MeanVarianceNormalization", _mean_variance),
    Entry("Dropout", _dropout),
    Entry("Attention", _attention),
    Entry("RotaryEmbedding", _rotary),
]
