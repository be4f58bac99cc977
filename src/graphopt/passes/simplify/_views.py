"""Operators that only give a tensor another shape, and what makes one of two."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from graphopt.ir import Node, Value
from graphopt.passes.simplify._facts import equal, vector
from graphopt.rewrite import Builder

VIEWS = ("Flatten", "Reshape", "Squeeze", "Unsqueeze")


def target_of(x: Sequence[Any] | None, out: Sequence[Any] | None) -> tuple[int, ...] | None:
    """The constant with which Reshape makes `out` of x, or None where it takes more than one unknown dim. Dims are
    numbers, or whatever names a size (equal where the sizes certainly are), or None.

    A dim that x has at the same place is copied (0); one unknown dim may be left to the runtime (-1) if all others are
    positive numbers: next to a dim of size 0 it would be an error.

    >>> target_of(("N", 4, 5), ("N", 20)), target_of(("N", 4, 5), ("M", 5)), target_of(("N", "M"), ("M", "N"))
    ((0, 20), (-1, 5), None)
    """
    if x is None or out is None:
        return None
    target: list[int] = []
    for index, dim in enumerate(out):
        copied = index < len(x) and equal(dim, x[index])
        if isinstance(dim, int) and (dim > 0 or copied):
            target.append(dim)
        elif dim == 0:
            return None
        else:
            target.append(0 if copied else -1)
    unknown = target.count(-1)
    if unknown > 1 or (unknown == 1 and 0 in target):
        return None
    return tuple(target)


def make_squeeze(new: Builder, x: Value, axes: Sequence[int], like: Node, op: str = "Squeeze") -> Value:
    """A Squeeze (or Unsqueeze) in the form that the model's opset has; `like` lends its name."""
    if like.graph.opset() < 13:
        return new.make(op, x, name=like.name or None, axes=list(axes))
    return new.make(op, x, new.constant(vector(axes), "axes"), name=like.name or None)
