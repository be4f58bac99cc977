"""x_i W_i + b_i, for i = 1 .. n   ==   Split(Stack(x_i) Stack(W_i) + Stack(b_i))_i   as one batched product.

Products of different inputs with different weights of one shape, and activations, and operators with a constant for
each column, that follow all of them alike. Inputs that are the parts of one value (of a Split along the first or last
axis, or one Gather for each index) are one Reshape away from a stack, results that one Concat reads likewise. Exact:
each product is computed from its own numbers, so that nothing crosses over, NaN and infinities neither.

Guards: inputs certainly of one shape, no size zero, at most one of them unknown where a Reshape must find it; constant
matrices that nobody else reads; Gemm without alpha, beta, a transposed input, or a bias for each row; no product
depends on another (all are on one level of the graph). And it has to pay: in ONNX Runtime for many tiny ones, as the
weights of a batched product are not packed in advance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from typing import Any, ClassVar

import numpy as np
from onnx import TensorProto

from graphopt.analysis.batching import Plan, Work, pays_on_tensorrt
from graphopt.analysis.shapes import ensure_types
from graphopt.analysis.target import ENOUGH
from graphopt.ir import Dim, Graph, Model, NDArray, Node, Value
from graphopt.passes.base import Pass
from graphopt.passes.horizontal import _join
from graphopt.passes.horizontal._finish import finish
from graphopt.passes.horizontal._levels import (
    attributes,
    by_shape,
    estimate,
    gain_at_any_size,
    is_single,
    known,
    levels,
    operand,
    restore_order,
    rounds_anew,
)
from graphopt.passes.horizontal._siblings import BINARY, UNARY
from graphopt.rewrite import Context
from graphopt.rewrite.builder import Builder
from graphopt.rewrite.driver import site_of
from graphopt.rewrite.sweep import is_opaque

NAME = "batch-matmul"
PRODUCTS = ("MatMul", "Gemm")


@dataclass
class Batch:
    """Products to be one. last: the one in front of which all inputs are there. stages: what follows each of them, more
    products among it."""

    products: list[Node]
    last: Node
    stages: list[list[Node]]

    @property
    def inputs(self) -> list[Value]:
        """What they multiply."""
        return [operand(node) for node in self.products]

    @property
    def results(self) -> list[Value]:
        """What comes out at the end."""
        return [node.output for node in (self.stages or [self.products])[-1]]

    @property
    def columns(self) -> int:
        """Of the results."""
        products = [stage[0] for stage in [self.products, *self.stages] if stage[0].op in PRODUCTS]
        return _matrix(products[-1]).shape[1]

    @property
    def rows(self) -> list[Dim]:
        """All dims of an input but the last."""
        return list((self.inputs[0].shape or ())[:-1])

    @property
    def count_of_rows(self) -> int | None:
        """Their product, if they are known."""
        sizes = [dim for dim in self.rows if isinstance(dim, int)]
        return prod(sizes) if len(sizes) == len(self.rows) else None


@dataclass(frozen=True)
class BatchMatmul(Pass):
    """Makes one batched product of matrix products with different inputs and weights, where that pays on the target.

    gain: how many times as fast it must be by the model of cost; 0 merges whatever can be merged.
    """

    name = NAME
    checked_as: ClassVar[Mapping[str, Any]] = {"gain": 0.0}
    gain: float = ENOUGH

    def run(self, model: Model, ctx: Context) -> None:
        """Merges products, scope by scope."""
        ensure_types(model)
        for graph in list(model.scopes(functions=False)):
            if is_opaque(graph) or graph.opset() < 7:
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
            elif len({node.inputs[0] for node in lanes}) == len(lanes):
                self._decide(lanes, ctx)

    def _decide(self, lanes: list[Node], ctx: Context) -> None:
        order = _join.order_of([operand(node) for node in lanes], [node.output for node in lanes])
        batch = Batch([lanes[k] for k in order], lanes[-1], [])
        reason = _why_not(batch) or rounds_anew(lanes[0].output, ctx.target)
        if reason:
            ctx.refuse(NAME, reason, lanes[0])
            return
        _follow(batch)
        count, inner = len(lanes), _matrix(lanes[0]).shape[0]
        if ctx.target == "tensorrt":
            gain = pays_on_tensorrt(count, 2.0 * estimate(lanes[0].output.shape) * inner)
        else:
            gain = gain_at_any_size(operand(lanes[0]).shape, partial(_priced, batch))
        if gain < self.gain:
            ctx.refuse(NAME, f"it does not pay here: {gain:.2f} times as fast by the model of cost", lanes[0])
        elif ctx.allow(NAME, site_of(lanes[0])):
            _merge(batch, ctx)


def _groups(graph: Graph) -> list[list[Node]]:
    """Products that may be one but for the shapes of their inputs, which are not all the same one."""
    found: dict[object, list[Node]] = {}
    for node, level in levels(graph).items():
        if _is_product(node) and not operand(node).is_const:
            weight, bias = operand(node, 1), node.input(2)
            key = level, node.op, attributes(node, without="transB"), _dims(node), weight.dtype, bias is None
            found.setdefault(key, []).append(node)
    return [group for group in found.values() if len({node.inputs[0] for node in group}) > 1]


def _is_product(node: Node) -> bool:
    """Whether it is one with a constant matrix, and constant bias, of its own."""
    if node.op not in PRODUCTS or node.domain or node.input(0) is None or node.input(1) is None:
        return False
    weight, bias = operand(node, 1), node.input(2)
    if not weight.is_const or weight.rank != 2 or not is_single(weight):
        return False
    return bias is None or (bias.is_const and is_single(bias))


def _dims(product: Node) -> tuple[Dim, ...]:
    """Rows and columns of the matrix."""
    shape = operand(product, 1).shape or ()
    return shape[::-1] if product.op == "Gemm" and product.attr("transB") else shape


def _matrix(product: Node) -> NDArray:
    array = operand(product, 1).numpy()
    return array.T if product.op == "Gemm" and product.attr("transB") else array


def _why_not(batch: Batch) -> str:
    first = batch.products[0]
    dims = known(operand(first))
    if dims is None or len(dims) < 2:
        return "the inputs have no rows"
    if 0 in dims or 0 in _matrix(first).shape:
        return "a size is zero"
    if any(not isinstance(dim, int) for dim in dims[1:-1]):
        return "more than the first size is not known"
    return _is_plain(batch.products)


def _is_plain(products: list[Node]) -> str:
    """Why products of one kind are not x W + b; nothing where they are."""
    first, columns = products[0], _matrix(products[0]).shape[1]
    if first.op == "Gemm" and (first.attr("transA") or first.attr("alpha") != 1 or first.attr("beta") != 1):
        return "a Gemm scales, or transposes its input"
    biases = [node.input(2) for node in products]
    if any(bias is not None and not _is_row(bias.shape or (), columns) for bias in biases):
        return "a bias is not one number per column"
    return ""


def _is_row(shape: Sequence[Dim], columns: int) -> bool:
    return tuple(shape) in ((columns,), (1, columns))


def _follow(batch: Batch) -> None:
    """Adds the stages in which every product is followed by the same operator, and by nothing else."""
    while all(map(is_single, batch.results)):
        stage = [user for value in batch.results for user in value.users]
        first = stage[0]
        alike = {(node.op, attributes(node), node.domain, len(node.inputs), len(node.outputs)) for node in stage}
        if len(alike) != 1 or first.domain or len(set(stage)) < len(stage) or len(first.outputs) != 1:
            return
        if any(node.graph is not batch.last.graph for node in stage):
            return
        if first.op in PRODUCTS:
            goes_on = _goes_on(batch, stage)
        else:
            is_alone = first.op in UNARY and len(first.inputs) == 1
            goes_on = is_alone or _constant_slot(batch, stage, batch.columns) is not None
        if not goes_on:
            return
        batch.stages.append(stage)


def _goes_on(batch: Batch, stage: list[Node]) -> bool:
    """Whether the results are multiplied again, by matrices of one shape, each by its own."""
    if [node.inputs[0] for node in stage] != batch.results or not all(map(_is_product, stage)):
        return False
    if len({(_dims(node), operand(node, 1).dtype, node.input(2) is None) for node in stage}) > 1:
        return False
    return 0 not in _dims(stage[0]) and not _is_plain(stage)


def _constant_slot(batch: Batch, stage: list[Node], columns: int) -> int | None:
    """Where operators of two operands have a constant, one number per column, or one for all."""
    if stage[0].op not in BINARY or len(stage[0].inputs) != 2:
        return None
    for slot in (0, 1):
        constants = [node.inputs[slot] for node in stage if node.inputs[slot] is not None]
        live = [node.inputs[1 - slot] for node in stage]
        shapes = {value.shape for value in constants if value is not None and value.is_const}
        if live == batch.results and all(v is not None and v.is_const for v in constants) and len(shapes) == 1:
            (shape,) = shapes
            fits = shape is not None and (
                shape == () or (_is_row(shape, columns) and len(shape) <= len(batch.rows) + 1)
            )
            return slot if fits else None
    return None


def _priced(batch: Batch, first: int) -> Plan:
    """What it costs as it is, and as one product. first: the first size, where it is not known."""
    count, plan = len(batch.products), Plan()
    inner, columns = _matrix(batch.products[0]).shape
    read = count * estimate(batch.inputs[0].shape, first)
    rows = read / count / inner
    half = operand(batch.products[0], 1).dtype == TensorProto.FLOAT16
    before = ""
    for stage in [batch.products, *batch.stages]:
        op = stage[0].op
        if op in PRODUCTS:
            inner, columns = _matrix(stage[0]).shape
            work = Work(rows=rows, weights=inner * columns, half=half)
            plan.apart += [work] * count
            plan.together += [replace(work, packed=False, nodes=0)] * count + [Work()]
            plan.together += [Work(elements=count * rows * columns)] * (stage[0].input(2) is not None)
        else:
            merged = before in PRODUCTS or before == "Add"  # by the runtime, into a Gemm
            plan.apart += [Work(elements=rows * columns, nodes=0 if merged else 1)] * count
            plan.together.append(Work(elements=count * rows * columns))
        before = op
    made = count * rows * columns
    found = _join.source_of(batch.inputs)
    if found is not None and _is_stack(batch, found):
        plan.views += found[0] == _join.SPLIT
        free = all(map(is_single, batch.inputs))
        if found[0] == _join.SPLIT:
            plan.copies_apart += [(count, read)] * free
        else:
            plan.copies_apart += [(0, read / count)] * (count * free)
        plan.copies_together += [(0, read)] * (found[2] > 0 and rows != 1)
    else:
        plan.copies_together.append((count, read))
        plan.views += 1
    last = len(batch.rows)
    if _join.concat_of(batch.results, 0) is not None:
        plan.copies_apart.append((count, made))
    elif _join.concat_of(batch.results, last) is not None and _knows_rows(batch):
        plan.copies_apart.append((count, made))
        plan.copies_together += [(0, made)] * (rows != 1)
    else:
        plan.copies_together.append((count, made))
        plan.views += 3 * _join.computes_sizes(batch.results[0], 0)
    plan.views += 1
    return plan


def _is_stack(batch: Batch, found: tuple[str, Value, int, list[int]]) -> bool:
    """Whether the parts can be stacked without a Concat."""
    op, _, axis, order = found
    if order != list(range(len(order))):
        return False
    return axis == 0 or (op == _join.SPLIT and axis == len(batch.rows))


def _knows_rows(batch: Batch) -> bool:
    return sum(not isinstance(dim, int) for dim in batch.rows) <= 1


def _merge(batch: Batch, ctx: Context) -> None:
    old = [*batch.products, *(node for stage in batch.stages for node in stage)]
    labels = [node.label for node in old]
    new = Builder(batch.last.graph, batch.last, NAME, old)
    merged = _stacked(batch, new)
    for stage in [batch.products, *batch.stages]:
        merged = (_product if stage[0].op in PRODUCTS else _stage)(batch, stage, merged, new)
    results, count, columns = batch.results, len(batch.products), batch.columns
    flat = [-1 if not isinstance(batch.rows[0], int) else batch.rows[0] * count, *batch.rows[1:], columns]
    for axis in (0, len(batch.rows)):
        concat = _join.concat_of(results, axis)
        if concat is None or (axis and not _knows_rows(batch)):
            continue
        new.before = concat[0]
        if axis == 0:
            joined = _join.reshaped(merged, flat, new, results[0])
        else:
            joined = _join.reshaped(_swapped(batch, merged, new), [*batch.rows, count * columns], new, results[0])
        pairs = [(concat[0].output, _join.replaced_in(concat, count, joined, new))]
        finish([*old, concat[0]], labels, pairs, new, ctx, NAME)
        return
    parts = _join.apart(_join.reshaped(merged, flat, new, results[0]), results, 0, new)
    finish(old, labels, list(zip(results, parts, strict=True)), new, ctx, NAME)


def _stacked(batch: Batch, new: Builder) -> Value:
    """The inputs as [count, rows, inner]."""
    values, count = batch.inputs, len(batch.products)
    inner = _matrix(batch.products[0]).shape[0]
    rows = batch.count_of_rows
    found = _join.source_of(values)
    if found is not None and _is_stack(batch, found):
        op, whole, axis, _ = found
        if op == _join.GATHER and len(batch.rows) == 1:
            return whole
        if axis == 0:
            return _join.reshaped(whole, [count, rows, inner], new)
        if rows == 1:
            return _join.reshaped(whole, [count, 1, inner], new)
        return _swapped(batch, _join.reshaped(whole, [rows, count, inner], new), new)
    return _join.reshaped(_join.together(values, 0, new), [count, rows, inner], new)


def _swapped(batch: Batch, value: Value, new: Builder) -> Value:
    """[a, b, c] as [b, a, c]; where there is one row, a Reshape will do."""
    if all(dim == 1 for dim in batch.rows):
        return value
    made: Value = new.make("Transpose", value, perm=[1, 0, 2], type_of=value)
    if value.shape is not None and len(value.shape) == 3:
        a, b, c = value.shape
        made.set_shape((b, a, c))
    return made


def _product(batch: Batch, products: list[Node], x: Value, new: Builder) -> Value:
    first = products[0]
    stacked = new.constant(np.stack([_matrix(node) for node in products]), like=first.inputs[1])
    merged: Value = new.make("MatMul", x, stacked, name=first.label, type_of=first.output)
    merged.set_shape((*_stack_of(batch), stacked.shape[-1] if stacked.shape else None))
    if first.input(2) is None:
        return merged
    biases = new.constant(np.stack([_row(node.inputs[2]) for node in products]), like=first.inputs[2])
    made: Value = new.make("Add", merged, biases, type_of=merged)
    made.set_shape(merged.shape or ())
    return made


def _stage(batch: Batch, stage: list[Node], merged: Value, new: Builder) -> Value:
    like = stage[0]
    operands = [merged]
    if len(like.inputs) == 2:
        slot = 1 if like.inputs[0] is not None and not like.inputs[0].is_const else 0
        constants = np.stack([_row(node.inputs[slot]) for node in stage])
        operands.insert(slot, new.constant(constants, like=like.inputs[slot]))
    made: Value = new.make(like.op, *operands, like=like, type_of=like.output)
    made.set_shape(merged.shape or ())
    return made


def _row(value: Value | None) -> NDArray:
    assert value is not None
    return value.numpy().reshape(1, -1)


def _stack_of(batch: Batch) -> tuple[int, int | None]:
    return len(batch.products), batch.count_of_rows
