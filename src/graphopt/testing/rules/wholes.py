"""Nudges of more than a number: whole rows of a constant, a convolution made plain, the rank of inputs."""

from __future__ import annotations

import numpy as np
from onnx import NodeProto, TensorProto

from graphopt.testing.chooser import Chooser
from graphopt.testing.draft import DoesNotFit, Drawn, to_tensor
from graphopt.testing.rules.hints import Hints
from graphopt.testing.rules.numbers import arrays, nodes_of, tensors

__all__ = ["WHOLES", "nudge_rows"]

_RANKS = (4, 3, 2, 1, 5, 0)
_ELEMENTS = 512  # of an input that gets another rank


def nudge_rows(drawn: Drawn, chooser: Chooser, hints: Hints) -> None:
    """Some rows of a constant, along one of its first two axes, are all zeros, or all like the first one; elsewhere,
    then, nothing is zero."""
    given = [t for t in tensors(drawn.model) if t.dims and max(t.dims[:2]) > 1 and arrays(t).dtype.kind in "fiu"]
    given = [t for t in given if len(t.dims) > 1 or t.data_type not in (TensorProto.INT64, TensorProto.INT32)]
    if not given:
        raise DoesNotFit("no constant with rows")
    tensor = chooser.pick(given)
    array = arrays(tensor)
    axis = chooser.pick([axis for axis, size in enumerate(array.shape[:2]) if size > 1])
    rows = np.moveaxis(array, axis, 0).copy()
    chosen = [at for at in range(1, len(rows)) if chooser.chance(50)] or [len(rows) - 1]
    if chooser.chance(60):
        rows[rows == 0] = 1
        rows[chosen] = 0
    else:
        rows[chosen] = rows[0]
    tensor.CopyFrom(to_tensor(np.moveaxis(rows, 0, axis), tensor.data_type, tensor.name))


def nudge_kernel(drawn: Drawn, chooser: Chooser, hints: Hints) -> None:
    """A convolution of constant weights is plain: of one group; or also of a kernel of 1, without pads and strides."""
    weights = {t.name: t for t in drawn.model.graph.initializer}
    found = [n for n in nodes_of(drawn.model) if n.op_type in ("Conv", "ConvTranspose") and n.input[1] in weights]
    if not found:
        raise DoesNotFit("no convolution")
    node = chooser.pick(found)
    tensor = weights[node.input[1]]
    array = arrays(tensor)
    group = next((a.i for a in node.attribute if a.name == "group"), 1)
    dropped = {"group"}
    if node.op_type == "Conv" and group > 1:
        array = np.concatenate([array] * group, axis=1)
    elif group > 1:
        raise DoesNotFit("its groups stay")
    if group == 1 or chooser.chance(50):
        array = array.reshape(*array.shape[:2], -1)[:, :, :1].reshape(*array.shape[:2], *[1] * (array.ndim - 2))
        dropped |= {"kernel_shape", "pads", "strides", "auto_pad", "dilations", "output_padding", "output_shape"}
    _without(node, dropped)
    tensor.CopyFrom(to_tensor(array, tensor.data_type, tensor.name))


def _without(node: NodeProto, names: set[str]) -> None:
    kept = [a for a in node.attribute if a.name not in names]
    del node.attribute[:]
    node.attribute.extend(kept)


def nudge_rank(drawn: Drawn, chooser: Chooser, hints: Hints) -> None:
    """Inputs get another rank: all, or all of the rank that one has. Axes come or go at the front."""
    infos = [i for i in drawn.model.graph.input if i.name in drawn.feeds and i.type.tensor_type.HasField("shape")]
    infos = [i for i in infos if len(i.type.tensor_type.shape.dim) == drawn.feeds[i.name].ndim]
    if not infos:
        raise DoesNotFit("no input of a known rank")
    old, rank = drawn.feeds[chooser.pick(infos).name].ndim, chooser.pick(_RANKS)
    only, size = chooser.chance(60), chooser.pick([1, 2])
    for info in infos:
        array, dims = drawn.feeds[info.name], info.type.tensor_type.shape.dim
        if array.ndim == rank or (only and array.ndim != old):
            continue
        more = rank - array.ndim
        shape = (*[size] * more, *array.shape) if more > 0 else array.shape[-more:]
        if np.prod(shape) > _ELEMENTS or not array.size:
            raise DoesNotFit("too large, or empty")
        drawn.feeds[info.name] = np.resize(array, shape)
        kept = [dim.SerializeToString() for dim in dims]
        del dims[:]
        for data in kept[-more:] if more < 0 else [b""] * more + kept:
            dims.add().ParseFromString(data)
        for dim, length in zip(dims, shape, strict=True):
            if not dim.WhichOneof("value"):
                dim.dim_value = length


WHOLES = (nudge_rows, nudge_rows, nudge_kernel, nudge_rank)  # as often as each is tried
