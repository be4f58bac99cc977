"""Operators that only give a tensor another shape, and what makes one of two."""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.analysis.shapes import Shapes, Size
from graphopt.ir import Node, Value
from graphopt.passes.simplify._facts import vector
from graphopt.rewrite import Builder

VIEWS = ("Flatten", "Reshape", "Squeeze", "Unsqueeze")


def target_of(x: Sequence[Size] | None, out: Sequence[Size] | None, shapes: Shapes) -> tuple[int, ...] | None:
    """The constant with which Reshape makes `out` of x; None where it takes more than one dim that is neither a number
    nor one of x.

    A dim that x has at the same place is copied (0); one other may be left to the runtime (-1) if all others are
    certainly positive: next to a dim of size 0 it would be an error.
    """
    if x is None or out is None:
        return None
    target: list[int] = []
    for index, dim in enumerate(out):
        copied = index < len(x) and shapes.equal(dim, x[index])
        if isinstance(dim, int) and (dim > 0 or copied):
            target.append(dim)
        elif dim == 0:
            return None
        else:
            target.append(0 if copied else -1)
    if target.count(-1) > 1:
        return None
    if -1 in target and not all(shapes.positive(dim) for dim, size in zip(out, target, strict=True) if size == 0):
        return None
    return tuple(target)


def make_squeeze(new: Builder, x: Value, axes: Sequence[int], like: Node, op: str = "Squeeze") -> Value:
    """A Squeeze (or Unsqueeze) in the form that the model's opset has; `like` lends its name."""
    if like.graph.opset() < 13:
        return new.make(op, x, name=like.name or None, axes=list(axes))
    return new.make(op, x, new.constant(vector(axes), "axes"), name=like.name or None)
