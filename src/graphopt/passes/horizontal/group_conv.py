"""conv(x_i, W_i, b_i), for i = 1 .. n   ==   Split(conv(Concat(x_i), Concat(W_i), Concat(b_i); n groups))_i

along the channels. Convolutions of different inputs with different weights of one shape, and what follows all of them
alike: a grouped convolution that was written out with a Split and a Concat, which then have nothing left to do. Exact:
each group is computed from its own numbers.

Guards: the same attributes; inputs certainly of one shape, their channels those of the weights; constant weights that
nobody else reads; no convolution depends on another (all are on one level of the graph). And it has to pay: in ONNX
Runtime where channels fill whole blocks or every channel is by itself, and no Concat has to be made for it; TensorRT
does as it likes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from graphopt.analysis.batching import CONVOLUTION, DEPTHWISE, Plan, Work, loss_of_groups
from graphopt.analysis.shapes import ensure_types
from graphopt.analysis.target import ENOUGH
from graphopt.ir import Graph, Model, Node
from graphopt.passes.base import Pass
from graphopt.passes.horizontal import _join
from graphopt.passes.horizontal._levels import (
    attributes,
    by_shape,
    estimate,
    gain_at_any_size,
    is_single,
    levels,
    operand,
    restore_order,
    rounds_anew,
)
from graphopt.passes.horizontal._merge import merge
from graphopt.passes.horizontal._siblings import Family, concat_of, family_of, follow, shares_weights
from graphopt.rewrite import Context
from graphopt.rewrite.driver import site_of
from graphopt.rewrite.sweep import is_opaque

NAME = "group-conv"


@dataclass(frozen=True)
class GroupConv(Pass):
    """Makes one grouped convolution of convolutions with different inputs and weights, where that pays on the target.

    gain: how many times as fast it must be by the model of cost; 0 merges whatever can be merged.
    """

    name = NAME
    checked_as: ClassVar[Mapping[str, Any]] = {"gain": 0.0}
    gain: float = ENOUGH

    def run(self, model: Model, ctx: Context) -> None:
        """Merges convolutions, scope by scope."""
        ensure_types(model)
        for graph in list(model.scopes(functions=False)):
            if is_opaque(graph):
                continue
            count = ctx.count
            for group in _groups(graph):
                self._consider([node for node in group if node.alive], ctx)
            if ctx.count > count:
                restore_order(graph)

    def _consider(self, group: list[Node], ctx: Context) -> None:
        for lanes in by_shape(group):
            if len(lanes) < 2:
                ctx.refuse(NAME, "the inputs are not certainly of the same shape", lanes[0])
            elif len({operand(node) for node in lanes}) == len(lanes):
                self._decide(lanes, ctx)

    def _decide(self, lanes: list[Node], ctx: Context) -> None:
        first, shape = lanes[0], operand(lanes[0]).shape or ()
        dims = [dim for dim in (first.inputs[1].shape or ()) if isinstance(dim, int)] if first.inputs[1] else []
        if len(dims) < 3 or len(shape) != len(dims) or 0 in dims or shape[1] != dims[1] * int(first.attr("group")):
            ctx.refuse(NAME, "the channels are not certainly those of the weights", first)
            return
        reason = rounds_anew(first.output, ctx.target)
        if reason:
            ctx.refuse(NAME, reason, first)
            return
        order = _join.order_of([operand(node) for node in lanes], [node.output for node in lanes])
        family = family_of([lanes[place] for place in order])
        family.before = lanes[-1]
        follow(family)
        concat = concat_of(family)
        gain = (
            1.0
            if ctx.target == "tensorrt"
            else gain_at_any_size(shape, partial(_priced, family, dims, concat is not None))
        )
        if gain < self.gain:
            ctx.refuse(NAME, f"it does not pay here: {gain:.2f} times as fast by the model of cost", first)
        elif ctx.allow(NAME, site_of(first)):
            merge(family, concat, ctx, NAME)


def _groups(graph: Graph) -> list[list[Node]]:
    """Convolutions that may be one but for the shapes of their inputs, which are not all the same one."""
    found: dict[object, list[Node]] = {}
    for node, level in levels(graph).items():
        if node.op != "Conv" or node.domain or len(node.outputs) != 1 or shares_weights(node):
            continue
        x, weight, bias = node.input(0), node.input(1), node.input(2)
        if x is None or x.is_const or weight is None or not weight.is_const or (bias is not None and not bias.is_const):
            continue
        key = level, attributes(node), weight.shape, weight.dtype, bias is None or bias.shape
        found.setdefault(key, []).append(node)
    return [group for group in found.values() if len({node.inputs[0] for node in group}) > 1]


def _priced(family: Family, dims: list[int], joined: bool, items: int) -> Plan:
    """What they cost as they are, and as one. items: how many images, where that is not known."""
    count, first = len(family.sizes), family.first
    groups = int(first.attr("group"))
    read, made = count * estimate(operand(first).shape, items), count * estimate(first.output.shape, items)
    macs, depthwise = made / count * family.reduction, dims[1] == 1 and dims[0] == groups
    time = macs * (DEPTHWISE if depthwise else CONVOLUTION)
    loss = loss_of_groups(dims[1], dims[0] // groups, depthwise)
    plan = Plan([Work(other=time)] * count, [Work(other=loss * time * count)])
    for stage in family.stages[1:]:
        merged = stage is family.stages[1] and len(stage[0].inputs) == 1  # an activation, by the runtime
        plan.apart += [Work(elements=made / count, nodes=0 if merged else 1)] * count
        plan.together.append(Work(elements=made, nodes=0 if merged else 1))
    found = _join.source_of(family.inputs)
    if found is not None and found[:1] == (_join.SPLIT,) and found[2] == 1 and found[3] == sorted(found[3]):
        plan.copies_apart += [(count, read)] * all(map(is_single, family.inputs))
    else:
        plan.copies_together.append((count, read))
    (plan.copies_apart if joined else plan.copies_together).append((count, made))
    return plan
