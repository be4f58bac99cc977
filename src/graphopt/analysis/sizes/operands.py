"""Axes, sizes and other short lists given as attributes or constants. Every answer is certain, or None."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from graphopt.ir import Node, Value

LONGEST = 256  # elements of a list of axes, pads or sizes; anything longer is data


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
