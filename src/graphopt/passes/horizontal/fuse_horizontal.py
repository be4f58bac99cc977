"""y_i = f(x W_i + b_i)   ==   Split(f(x [W_1 W_2 ..] + [b_1 b_2 ..]))_i

Convolutions, matrix products and Gemm of one input, alike but for their weights, become one; activations, and operators
with a constant for each channel, that follow all of them in the same way are merged, too. Where one Concat reads the
results in order, it reads the one result instead, and nothing is split. Exact: every channel is computed from the
same products (their order of summation is the kernel's).

Guards: constant weights that nobody else reads, alike in all but the number of output channels; one group; a bias that
is one number per channel, for all or none; and it has to pay on the target (`graphopt.analysis.target`): on a CPU where
channels fill the kernel's blocks better together than apart, for TensorRT with every matrix product.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from graphopt.analysis.target import ENOUGH, gain_of_merging
from graphopt.ir import Model, Node, Value
from graphopt.passes.base import Pass
from graphopt.passes.horizontal._siblings import Family, concat_of, families, follow, reason_apart, stage_constants
from graphopt.rewrite import Context
from graphopt.rewrite.builder import Builder
from graphopt.rewrite.driver import site_of

NAME = "fuse-horizontal"


@dataclass(frozen=True)
class FuseHorizontal(Pass):
    """Merges operators that compute different channels from one input, where that pays on the target.

    gain: how many times as fast it must be by the model of cost; 0 merges whatever can be merged.
    """

    name = NAME
    checked_as: ClassVar[Mapping[str, Any]] = {"gain": 0.0}
    gain: float = ENOUGH

    def run(self, model: Model, ctx: Context) -> None:
        """Merges siblings, scope by scope."""
        for graph in list(model.scopes(functions=False)):
            for family in list(families(graph)):
                self._consider(family, ctx)

    def _consider(self, family: Family, ctx: Context) -> None:
        first = family.first
        apart = reason_apart(family)
        if apart is not None:
            ctx.refuse(NAME, apart.reason, first)
            return
        follow(family)
        concat = concat_of(family)
        gain = gain_of_merging(first.op, ctx.target, family.sizes, family.reduction, concat is None)
        if gain < self.gain:
            ctx.refuse(NAME, f"it does not pay here: {gain:.2f} times as fast by the model of cost", first)
        elif ctx.allow(NAME, site_of(first)):
            _merge(family, concat, ctx)


def _merge(family: Family, concat: tuple[Node, int] | None, ctx: Context) -> None:
    first, graph = family.first, family.first.graph
    old = [node for stage in family.stages for node in stage]
    labels = [node.label for node in old]
    new = Builder(graph, first, NAME, old)
    merged = _stage(family, new, first.inputs[0], family.stages[0])
    for stage in family.stages[1:]:
        merged = _stage(family, new, merged, stage)
    if concat is not None and len(concat[0].inputs) == len(family.tails):
        pairs = [(concat[0].output, merged)]
        old.append(concat[0])
    elif concat is not None:
        joined = list(concat[0].inputs)
        joined[concat[1] : concat[1] + len(family.tails)] = [merged]
        builder = Builder(graph, concat[0], NAME, [concat[0]])
        again = builder.make("Concat", *joined, like=concat[0], type_of=concat[0].output)
        new.nodes += builder.nodes
        pairs = [(concat[0].output, again)]
        old.append(concat[0])
    else:
        pairs = list(zip(family.tails, _split(family, new, merged), strict=True))
    ctx.claim(*(pair for pair in pairs if pair[0].users or pair[0].outs), nodes=old)
    for value, other in pairs:
        value.replace_with(other)
    for node in reversed(old):
        if node.alive:
            graph.erase(node)
    new.settle()
    ctx.record(NAME, labels, [node.label for node in new.nodes], graph)


def _stage(family: Family, new: Builder, x: Value | None, stage: list[Node]) -> Value:
    """One operator that does what all of a stage do."""
    like = stage[0]
    operands = [x]
    if stage is family.stages[0]:
        operands.append(_joined(new, [node.inputs[1] for node in stage], family.weights))
        if like.input(2) is not None:
            operands.append(_joined(new, [node.inputs[2] for node in stage], -1))
    elif len(like.inputs) == 2:
        slot, axis = stage_constants(family, stage) or (1, -1)
        operands.insert(slot, _joined(new, [node.inputs[slot] for node in stage], axis))
    made: Value = new.make(like.op, *operands, like=like, type_of=like.output)
    shape = like.output.shape
    if shape is not None and len(shape) > 1:
        dims = list(shape)
        dims[family.axis] = sum(family.sizes)
        made.set_shape(tuple(dims))
    return made


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
