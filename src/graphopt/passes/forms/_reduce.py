"""Reductions and reshapes as the forms write them."""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.ir import Node, Value
from graphopt.passes.simplify._facts import vector
from graphopt.rewrite import Builder


def reshape(new: Builder, x: Value, dims: Sequence[int | str | None], result: Value | None = None) -> Value:
    """x in this shape, of which one dim may be unknown; none of the others is zero."""
    target = new.constant(vector([dim if isinstance(dim, int) else -1 for dim in dims]), "shape")
    made: Value = new.Reshape(x, target, type_of=result)
    return made


def reduce(
    new: Builder, op: str, x: Value, axis: int, keep: bool, like: Node | None = None, result: Value | None = None
) -> Value:
    """A reduction over one axis (from the front), in the form that the model's opset has."""
    if new.graph.opset() >= (13 if op == "ReduceSum" else 18):
        made = new.make(op, x, new.constant(vector([axis]), "axes"), like=like, type_of=result, keepdims=int(keep))
    else:
        made = new.make(op, x, like=like, type_of=result, axes=[axis], keepdims=int(keep))
    value: Value = made
    return value
