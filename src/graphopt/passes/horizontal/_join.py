"""Values side by side: what holds several of them already, and how they are brought together and taken apart again."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graphopt.ir import Dim, Node, Shape, Value
from graphopt.passes.horizontal._levels import axis_in, is_single
from graphopt.rewrite.builder import Builder

SPLIT, GATHER = "Split", "Gather"


def source_of(values: Sequence[Value]) -> tuple[str, Value, int, list[int]] | None:
    """Where all of a value is here, in any order, by a Split or by one Gather for each index: which of the two, the
    value, its axis, and the place of each part."""
    nodes = [value.producer for value in values]
    first = nodes[0]
    if first is None or first.domain or first.op not in (SPLIT, GATHER) or first.input(0) is None:
        return None
    whole = first.inputs[0]
    assert whole is not None
    axis = axis_in(first, whole.rank, 0)
    if axis is None or whole.shape is None:
        return None
    if first.op == SPLIT:
        alike = all(node is first for node in nodes) and len(first.outputs) == len(values)
        places: list[int | None] = [value.index for value in values] if alike else []
    else:
        places = [_index(node, whole, axis, whole.shape[axis]) for node in nodes]
    order = [place for place in places if place is not None]
    if sorted(order) != list(range(len(values))) or (first.op == GATHER and whole.shape[axis] != len(values)):
        return None
    return first.op, whole, axis, order


def _index(node: Node | None, whole: Value, axis: int, size: Dim) -> int | None:
    """Which part of `whole` a Gather takes, if it is one, and all parts together are as many as there are."""
    if node is None or node.op != GATHER or node.domain or node.inputs[0] is not whole or not isinstance(size, int):
        return None
    index = node.inputs[1]
    if axis_in(node, whole.rank, 0) != axis or index is None or not index.is_const or index.shape != ():
        return None
    place = int(index.numpy().reshape(()))
    return place + size if -size <= place < 0 else place


def order_of(values: Sequence[Value], results: Sequence[Value]) -> list[int]:
    """The order in which operators are best put side by side: that of the parts that they read, or of the Concat that
    reads them; as they are, otherwise."""
    found = source_of(values)
    places = found[3] if found is not None else _slots(results)
    return sorted(range(len(values)), key=places.__getitem__) if places else list(range(len(values)))


def _slots(results: Sequence[Value]) -> list[int]:
    users = {user for value in results for user in value.users}
    if len(users) != 1 or not all(map(is_single, results)):
        return []
    (node,) = users
    return [list(node.inputs).index(value) for value in results] if node.op == "Concat" and not node.domain else []


def concat_of(values: Sequence[Value], axis: int) -> tuple[Node, int] | None:
    """The Concat along an axis (from the front) that alone reads these values, side by side and in order; and its first
    slot that does."""
    if not all(map(is_single, values)):
        return None
    users = {user for value in values for user in value.users}
    if len(users) != 1:
        return None
    (node,) = users
    if node.op != "Concat" or node.domain or node.graph is not values[0].graph:
        return None
    if axis_in(node, values[0].rank, 1) != axis:
        return None
    start = list(node.inputs).index(values[0])
    return (node, start) if list(node.inputs[start : start + len(values)]) == list(values) else None


def replaced_in(concat: tuple[Node, int], count: int, merged: Value, new: Builder) -> Value:
    """What stands for a Concat when one value holds `count` of its operands: it, or a Concat with the others."""
    node, start = concat
    if len(node.inputs) == count:
        return merged
    operands = list(node.inputs)
    operands[start : start + count] = [merged]
    made: Value = new.make("Concat", *operands, like=node, type_of=node.output)
    return made


def together(values: Sequence[Value], axis: int, new: Builder) -> Value:
    """All of them along an axis, by a Concat; or what they are the parts of, if they are in that order."""
    found = source_of(values)
    if found is not None and found[3] == list(range(len(values))):
        op, whole, at, _ = found
        if op == SPLIT and at == axis:
            return whole
        rest = values[0].shape
        if op == GATHER and at == 0 and axis == 0 and is_view(rest):
            return reshaped(whole, [-1, *(rest or ())[1:]], new, values[0])
    made: Value = new.make("Concat", *values, axis=axis, type_of=values[0])
    made.set_shape(longer(values[0].shape, axis, len(values)))
    return made


def is_view(shape: Shape | None) -> bool:
    """Whether a Reshape can give these dims when only the first is not known: at least one dim, the others positive."""
    return bool(shape) and all(isinstance(dim, int) and dim > 0 for dim in (shape or ())[1:])


def reshaped(value: Value, dims: Sequence[Dim], new: Builder, like: Value | None = None) -> Value:
    """A Reshape. dims: sizes; at most one that is no positive size, which follows from the others."""
    sizes = [dim if isinstance(dim, int) and dim > 0 else -1 for dim in dims]
    made: Value = new.make("Reshape", value, new.constant(np.array(sizes, np.int64), "sizes"), type_of=like or value)
    made.set_shape(tuple(size if size > 0 else None for size in sizes))
    return made


def longer(shape: Shape | None, axis: int, count: int) -> Shape:
    """The dims of `count` values of one shape side by side."""
    dims = list(shape or ())
    size = dims[axis]
    dims[axis] = size * count if isinstance(size, int) else None
    return tuple(dims)


def computes_sizes(result: Value, axis: int) -> bool:
    """Whether a Split into parts like this one needs their size, which is not known: from opset 18 on, a Split that is
    told only how many parts there are fails in ONNX Runtime where they are empty."""
    size = result.shape[axis] if result.shape else None
    return result.graph.opset() >= 18 and not isinstance(size, int)


def apart(merged: Value, results: Sequence[Value], axis: int, new: Builder) -> list[Value]:
    """A Split into parts of equal size, along an axis from the front; typed as the results."""
    opset, count = merged.graph.opset(), len(results)
    size = results[0].shape[axis] if results[0].shape else None
    sizes = [size] * count if isinstance(size, int) else []
    if computes_sizes(results[0], axis):
        whole = new.make("Shape", merged, start=axis, end=axis + 1)
        each = new.make("Div", whole, new.constant(np.array([count], np.int64), "count"))
        each = new.make("Tile", each, new.constant(np.array([count], np.int64), "count"))
        made = new.make("Split", merged, each, n_out=count, axis=axis)
    elif not sizes:
        made = new.make("Split", merged, n_out=count, axis=axis)
    elif opset < 13:
        made = new.make("Split", merged, n_out=count, axis=axis, split=sizes)
    else:
        made = new.make("Split", merged, new.constant(np.array(sizes, np.int64), "sizes"), n_out=count, axis=axis)
    for value, result in zip(made, results, strict=True):
        value.set_type(result.type)
    return list(made)
