"""Siblings become one operator: weights, biases and the constants that follow side by side."""

from __future__ import annotations

from typing import Any

import numpy as np

from graphopt.ir import NDArray, Node, Value
from graphopt.passes.horizontal import _join
from graphopt.passes.horizontal._finish import finish
from graphopt.passes.horizontal._siblings import Family, stage_constants, weight_axis
from graphopt.rewrite import Context
from graphopt.rewrite.builder import Builder


def merge(family: Family, concat: tuple[Node, int] | None, ctx: Context, rule: str) -> None:
    """Makes one operator of siblings and what follows them. concat: what alone reads the results, if anything does."""
    first = family.first
    old = family.nodes
    labels = [node.label for node in old]
    new = Builder(first.graph, family.last, rule, old)
    inputs = family.inputs
    merged = _join.together(inputs, 1, new) if len(inputs) > 1 else inputs[0]
    for stage in family.stages:
        merged = _stage(family, new, merged, stage)
    if concat is not None:
        new.before = concat[0]
        pairs = [(concat[0].output, _join.replaced_in(concat, len(family.tails), merged, new))]
        old = [*old, concat[0]]
    else:
        pairs = list(zip(family.tails, _split(family, new, merged), strict=True))
    finish(old, labels, pairs, new, ctx, rule)


def _stage(family: Family, new: Builder, x: Value, stage: list[Node]) -> Value:
    """One operator that does what all of a stage do."""
    like = stage[0]
    operands: list[Value | None] = [x]
    groups: dict[str, Any] = {}
    if stage is family.stages[0]:
        weights = [_weight(node, family.weights) for node in stage]
        operands.append(new.constant(np.concatenate(weights, family.weights), like=like.inputs[1]))
        if any(node.input(2) is not None for node in stage):
            operands.append(_biases(family, new, stage))
        if len(family.inputs) > 1:
            groups["group"] = len(stage) * int(like.attr("group"))
    elif len(like.inputs) == 2:
        slot, axis = stage_constants(family, stage) or (1, -1)
        operands.insert(slot, _joined(new, [node.inputs[slot] for node in stage], axis))
    made: Value = new.make(like.op, *operands, like=like, type_of=like.output, **groups)
    shape = like.output.shape
    if shape is not None and len(shape) > 1:
        dims = list(shape)
        dims[family.axis] = sum(family.sizes)
        made.set_shape(tuple(dims))
    return made


def _weight(node: Node, axis: int) -> NDArray:
    weight = node.inputs[1]
    assert weight is not None
    return weight.numpy() if weight_axis(node) == axis else weight.numpy().T


def _biases(family: Family, new: Builder, stage: list[Node]) -> Value:
    """One number a channel; where there was no bias, minus zero, which changes nothing."""
    given = [node.input(2) for node in stage]
    first = next(value for value in given if value is not None)
    dtype = first.numpy().dtype
    rows = [
        value.numpy().reshape(-1) if value is not None else np.full(size, -0.0).astype(dtype)
        for value, size in zip(given, family.sizes, strict=True)
    ]
    return new.constant(np.concatenate(rows), like=first)


def _joined(new: Builder, values: list[Value | None], axis: int) -> Value:
    known = [value for value in values if value is not None]
    arrays = [value.numpy() for value in known]
    if axis == -1:
        arrays = [array.reshape(-1) if array.ndim == 2 and len(array) == 1 else array for array in arrays]
    return new.constant(np.concatenate(arrays, axis), like=known[0])


def _split(family: Family, new: Builder, merged: Value) -> list[Value]:
    sizes, opset, count = family.sizes, family.first.graph.opset(), len(family.sizes)
    axis = family.axis
    if opset < 11 and axis < 0:
        axis += merged.rank or 0
    if opset < 13:
        made = new.make("Split", merged, n_out=count, axis=axis, split=sizes)
    else:
        made = new.make("Split", merged, new.constant(np.array(sizes, np.int64), "sizes"), n_out=count, axis=axis)
    for value, tail in zip(made, family.tails, strict=True):
        value.set_type(tail.type)
    return list(made)
