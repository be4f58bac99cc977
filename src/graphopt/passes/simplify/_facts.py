"""What the rules here need to know of shapes, axes and small constants. Every answer is certain, or None."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import TensorProto

from graphopt.analysis.shapes import shapes_of
from graphopt.analysis.sizes.operands import LONGEST, axis_of, ints, normalize, option
from graphopt.ir import NDArray, Node, Shape, Value

__all__ = [
    "INTEGERS",
    "LONGEST",
    "axis_of",
    "equal",
    "every_pad",
    "filled_with",
    "fits_into",
    "ints",
    "is_true",
    "keeps_apart",
    "normalize",
    "option",
    "same_elements",
    "same_shape",
    "static",
    "vector",
]

INTEGERS = frozenset(getattr(TensorProto, name) for name in "INT8 INT16 INT32 INT64 UINT8 UINT16 UINT32 UINT64".split())


def every_pad(node: Node, rank: int | None) -> tuple[int, ...] | None:
    """The pads of a Pad for every axis (all begins, then all ends), at any opset; None where they are not certain."""
    pads = option(node, "paddings" if node.graph.opset() < 2 else "pads", 1)
    if pads is None or node.input(3) is None:
        return pads
    axes = normalize(ints(node.input(3)), rank)
    if axes is None or rank is None or len(pads) != 2 * len(axes):
        return None
    full = [0] * (2 * rank)
    for place, axis in enumerate(axes):
        full[axis], full[rank + axis] = pads[place], pads[place + len(axes)]
    return tuple(full)


def static(shape: Shape | None) -> tuple[int, ...] | None:
    """The shape in numbers, or None where any dim is not known.

    >>> static((2, 3)), static((2, "N"))
    ((2, 3), None)
    """
    if shape is None:
        return None
    sizes = tuple(dim for dim in shape if isinstance(dim, int))
    return sizes if len(sizes) == len(shape) else None


def equal(a: object, b: object) -> bool:
    """Whether two dims are certainly the same size."""
    return a is not None and a == b


def same_shape(a: Value, b: Value) -> bool:
    """Whether two values certainly have the same shape."""
    return a.shape is not None and b.shape is not None and shapes_of(a).same_shape(a, b)


def same_elements(x: Value, y: Value) -> bool:
    """Whether two values of equal element counts (a reshape's two sides) certainly have the same shape: all dims are
    equal, or all but one, and those are positive."""
    shapes = shapes_of(x)
    if x.shape is None or y.shape is None or not shapes.may_be_same(x, y):
        return False
    before, after = shapes.dims(x), shapes.dims(y)
    if before is None or after is None or len(before) != len(after):
        return False
    unknown = [axis for axis, (a, b) in enumerate(zip(before, after, strict=True)) if not shapes.equal(a, b)]
    if len(unknown) > 1:
        return False
    return not unknown or all(shapes.positive(size) for axis, size in enumerate(before) if axis != unknown[0])


_APART = {("Pad", "MaxPool"), ("Pad", "AveragePool"), ("DequantizeLinear", "QuantizeLinear")}


def keeps_apart(node: Node) -> bool:
    """Whether a node that changes nothing stands between two that ONNX Runtime would merge, and wrongly: there the
    rules avoid-pad-pool and avoid-qdq-merge put it."""
    source = node.inputs[0].producer if node.inputs[0] is not None else None
    return source is not None and any((source.op, reader.op) in _APART for reader in node.output.users)


def fits_into(value: Value, into: Value) -> bool:
    """Whether broadcasting `value` against `into` certainly leaves the shape of `into` as it is."""
    if value.shape is None or (into.shape is None and value.shape):
        return False  # it has not been inferred yet, in most cases: rules are asked again then
    return shapes_of(into).fits_into(value, into)


def filled_with(value: Value, number: float) -> bool:
    """Whether every element of a constant is this number (a zero of any sign counts as zero)."""
    if not value.is_const:
        return False
    array = value.numpy()
    if array.dtype == object or array.size == 0:
        return False
    flat = array.reshape(-1)
    if not bool(flat[0] == number):
        return False
    return flat.size == 1 or bool((flat == number).all())


def is_true(value: Value | None) -> bool | None:
    """The value of a one-element bool constant, or None."""
    if value is None or not value.is_const:
        return None
    array = value.numpy()
    return bool(array.reshape(-1)[0]) if array.size == 1 and array.dtype == np.bool_ else None


def vector(numbers: Sequence[int]) -> NDArray:
    """A list of integers as the int64 tensor that shapes, axes and pads are."""
    return np.array(numbers, np.int64)
