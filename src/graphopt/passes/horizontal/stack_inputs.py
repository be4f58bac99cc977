"""f(x_1), f(x_2) ..   ==   Split(f(Concat(x_1, x_2 ..)))   along the first axis, where f treats its items one by one.

f is a product or convolution with the same weights on several inputs, and all that follows each of them alike: the two
branches of a siamese network, the input projection of a recurrent cell that was unrolled. What are parts of one value
(of a Split, or one Gather for each index) needs no Concat, what a Concat reads no Split. Exact: every item is computed
from the same numbers.

Guards: the very same weights and attributes; inputs certainly of one shape; no lane depends on another (all are on one
level of the graph); operators that work on each item along the first axis by itself: no product with a transposed first
operand, no bias for each row, no normalization or broadcasting along that axis. And it has to pay: a product with one
row reads all its weights for it; convolutions gain on TensorRT only as far as they are small, and not in ONNX Runtime.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from graphopt.analysis.batching import pays_on_tensorrt
from graphopt.analysis.shapes import ensure_types
from graphopt.analysis.target import ENOUGH
from graphopt.ir import Graph, Model, Node, Value
from graphopt.passes.base import Pass
from graphopt.passes.horizontal import _join
from graphopt.passes.horizontal._finish import finish
from graphopt.passes.horizontal._levels import (
    attributes,
    by_shape,
    estimate,
    gain_at_any_size,
    levels,
    operand,
    restore_order,
    rounds_anew,
)
from graphopt.passes.horizontal._towers import Tower, grow, is_product_of_rows, keeps_items_apart, priced
from graphopt.rewrite import Context
from graphopt.rewrite.builder import Builder
from graphopt.rewrite.driver import site_of
from graphopt.rewrite.sweep import is_opaque

NAME = "stack-inputs"


@dataclass(frozen=True)
class StackInputs(Pass):
    """Runs operators with the same weights once, on all of their inputs side by side, where that pays on the target.

    gain: how many times as fast it must be by the model of cost; 0 merges whatever can be merged.
    """

    name = NAME
    checked_as: ClassVar[Mapping[str, Any]] = {"gain": 0.0}
    gain: float = ENOUGH

    def run(self, model: Model, ctx: Context) -> None:
        """Merges lanes, scope by scope."""
        ensure_types(model)
        for graph in list(model.scopes(functions=False)):
            if is_opaque(graph):
                continue
            count = ctx.count
            self._visit(graph, ctx)
            if ctx.count > count:
                restore_order(graph)

    def _visit(self, graph: Graph, ctx: Context) -> None:
        level = levels(graph)
        found: dict[object, list[Node]] = {}
        for node in level:
            if node.op in ("Conv", "ConvTranspose", "Gemm", "MatMul") and _begins(node):
                operands = tuple(node.inputs[1:])
                found.setdefault((level[node], node.op, operands, attributes(node)), []).append(node)
        for group in found.values():
            self._consider([node for node in group if node.alive], level, ctx)

    def _consider(self, group: list[Node], level: dict[Node, int], ctx: Context) -> None:
        for lanes in by_shape(group):
            if len({node.inputs[0] for node in lanes}) < len(lanes):
                continue  # equal nodes: a matter of cse
            if len(lanes) > 1:
                order = _join.order_of(
                    [n.inputs[0] for n in lanes if n.inputs[0] is not None], [n.output for n in lanes]
                )
                self._decide(grow([lanes[k] for k in order], lanes[-1], level), ctx)
            elif len(group) > 1:
                ctx.refuse(NAME, "the inputs are not certainly of the same shape", lanes[0])

    def _decide(self, tower: Tower, ctx: Context) -> None:
        first = tower.stages[0][0][0]
        reason = rounds_anew(first.output, ctx.target)
        if reason:
            ctx.refuse(NAME, reason, first)
            return
        if ctx.target == "tensorrt":
            flops = 2.0 * estimate(first.output.shape) * estimate(operand(first, 1).shape) / max(1, _columns(first))
            gain = pays_on_tensorrt(tower.lanes, flops) if first.op in ("Gemm", "MatMul") else 1.0
        else:
            gain = gain_at_any_size(tower.rows[0][0].shape, partial(priced, tower))
        if gain < self.gain:
            ctx.refuse(NAME, f"it does not pay here: {gain:.2f} times as fast by the model of cost", first)
        elif ctx.allow(NAME, site_of(first)):
            _merge(tower, ctx)


def _begins(node: Node) -> bool:
    x, weight = node.input(0), node.input(1)
    if x is None or x.is_const or weight is None or not weight.is_const:
        return False
    return keeps_items_apart(node, [x]) and (node.op in ("Conv", "ConvTranspose") or is_product_of_rows(node))


def _columns(node: Node) -> int:
    weight = operand(node, 1).numpy().shape
    return int(weight[0] if node.op == "Gemm" and node.attr("transB") else weight[-1])


def _merge(tower: Tower, ctx: Context) -> None:
    old = tower.nodes
    graph, labels = old[0].graph, [node.label for node in old]
    new = Builder(graph, tower.last, NAME, old)
    merged: list[Value] = [_join.together(tower.rows[0], 0, new)]
    for stage, rows in tower.stages:
        like = stage[0]
        operands = [v if row is None else merged[row] for v, row in zip(like.inputs, rows, strict=True)]
        value: Value = new.make(like.op, *operands, like=like, type_of=like.output)
        if like.output.shape:
            value.set_shape(_join.longer(like.output.shape, 0, tower.lanes))
        merged.append(value)
    pairs = []
    for row in tower.exits():
        concat = _join.concat_of(tower.rows[row], 0)
        if concat is not None:
            builder = Builder(graph, concat[0], NAME, [concat[0]])
            pairs.append((concat[0].output, _join.replaced_in(concat, tower.lanes, merged[row], builder)))
            new.nodes += builder.nodes
            old.append(concat[0])
        else:
            pairs += zip(tower.rows[row], _join.apart(merged[row], tower.rows[row], 0, new), strict=True)
    finish(old, labels, pairs, new, ctx, NAME)
