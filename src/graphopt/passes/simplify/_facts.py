"""What the rules here need to know of shapes, axes and small constants. Every answer is certain, or None."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np
from onnx import TensorProto

from graphopt.ir import NDArray, Node, Shape, Value

LONGEST = 256  # elements of a list of axes, pads or sizes; anything longer is data

INTEGERS = frozenset(getattr(TensorProto, name) for name in "INT8 INT16 INT32 INT64 UINT8 UINT16 UINT32 UINT64".split())


def ints(value: Value | None) -> tuple[int, ...] | None:
    """The elements of a short constant of integers, flattened; None for anything else.

    >>> ints(None) is None
    True
    """
    if value is None or not value.is_const:
        return None
    shape = value.shape
    if shape is not None and prod(d for d in shape if isinstance(d, int)) > LONGEST:
        return None
    array = value.numpy()
    if array.dtype.kind not in "iu" or array.size > LONGEST:
        return None
    return tuple(array.reshape(-1).tolist())


def option(node: Node, name: str, slot: int) -> tuple[int, ...] | None:
    """A list of integers that older opsets take as attribute and newer ones as input; () where it is left out, None
    where it is not constant."""
    if name in node.attributes:
        given = node.attr(name)
        return tuple(given) if isinstance(given, tuple) else (int(given),)
    value = node.input(slot)
    return () if value is None else ints(value)


def normalize(axes: Sequence[int] | None, rank: int | None) -> tuple[int, ...] | None:
    """Axes counted from the front, in the order given; None where the rank is not known or they do not fit it.

    >>> normalize((-1, 0), 3), normalize((3,), 3)
    ((2, 0), None)
    """
    if axes is None or rank is None:
        return None
    front = tuple(axis + rank if axis < 0 else axis for axis in axes)
    if any(not 0 <= axis < rank for axis in front) or len(set(front)) != len(front):
        return None
    return front


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


def axis_of(node: Node, rank: int | None, default: int = 0) -> int | None:
    """The attribute `axis`, counted from the front where the rank is known; None where it may not fit.

    Without a rank only an axis counted from the front is certain.
    """
    axis = node.attr("axis")
    axis = default if axis is None else int(axis)
    if rank is None:
        return axis if axis >= 0 else None
    axis = axis + rank if axis < 0 else axis
    return axis if 0 <= axis < rank else None


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
    first, second = a.shape, b.shape
    if first is None or second is None or len(first) != len(second):
        return False
    return all(map(equal, first, second))


def same_elements(x: Shape | None, y: Shape | None) -> bool:
    """Whether two shapes of equal element counts (a reshape's two sides) are certainly equal: all dims are, or all but
    one, and those are positive numbers.

    >>> same_elements((2, "N"), (2, None)), same_elements(("B", "N"), ("B", None))
    (True, False)
    """
    if x is None or y is None or len(x) != len(y):
        return False
    unknown = [i for i, (a, b) in enumerate(zip(x, y, strict=True)) if not equal(a, b)]
    if len(unknown) > 1:
        return False
    return not unknown or all(isinstance(d, int) and d > 0 for i, d in enumerate(x) if i != unknown[0])


_APART = {("Pad", "MaxPool"), ("Pad", "AveragePool"), ("DequantizeLinear", "QuantizeLinear")}


def keeps_apart(node: Node) -> bool:
    """Whether a node that changes nothing stands between two that ONNX Runtime would merge, and wrongly: there the
    rules avoid-pad-pool and avoid-qdq-merge put it."""
    source = node.inputs[0].producer if node.inputs[0] is not None else None
    return source is not None and any((source.op, reader.op) in _APART for reader in node.output.users)


def fits_into(value: Value, into: Value) -> bool:
    """Whether broadcasting `value` against `into` certainly leaves the shape of `into` as it is."""
    small, large = value.shape, into.shape
    if small is None:
        return False
    if not small:
        return True
    if large is None or len(small) > len(large):
        return False
    return all(a == 1 or equal(a, b) for a, b in zip(reversed(small), reversed(large), strict=False))


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
