"""x w + b   ~   (q(x) - zero) q(w) * (s_x s_w) + b        with q(x), s_x, zero found out at run time, from x itself

x becomes uint8 by DynamicQuantizeLinear, one for all that read x (the projections to q, k and v); w is int8, symmetric,
with a scale for each column; the product is MatMulInteger, exact in int32. Standard ONNX (opset 11), spelled as ONNX
Runtime fuses it: with one reader of x to DynamicQuantizeMatMul, with several to MatMulIntegerToFloat, the bias in
either. No calibration is needed, and the range of x fits each input, so that the error is smaller than with static
Q/DQ, and so is the time: nothing else is quantized. docs/quantization-dynamic.md has figures.

Lossy. x is rounded to one of 256 steps between its least and its largest number: an outlier costs everybody else digits
(`smooth-quant` helps), samples of a batch share the steps. A NaN in x comes out as some number; an infinity makes all
rows NaN, not its own alone.

Guards: MatMul or Gemm with a constant float32 matrix; float32 x; enough to do for int8 to pay.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from graphopt.analysis.shapes import ensure_types
from graphopt.ir import Graph, Model, Node, Value
from graphopt.passes.base import Pass
from graphopt.passes.quantize._dynamic import Matrices, Product, find_product
from graphopt.passes.quantize._recurrent import make_lstm, why_not_lstm
from graphopt.passes.quantize._select import selected
from graphopt.rewrite import Context
from graphopt.rewrite.builder import Builder
from graphopt.rewrite.driver import site_of
from graphopt.rewrite.sweep import is_opaque, sweep

NAME = "quantize-dynamic"
OPERATORS = ("MatMul", "Gemm", "LSTM")
LEAST = 4096
"""Weights of a product below which its int8 form gains nothing: 1.03 times as fast at 64 x 64, 1.2 at 256 x 256."""
FEW = 32
"""Numbers summed up below which it may lose: 0.75 at 4 x 1024, 0.8 at 16 x 1024."""


@dataclass(frozen=True)
class QuantizeDynamic(Pass):
    """Makes products with constant weights int8, their activations quantized at run time.

    only, keep_float: comma-separated patterns of node names, those to quantize and those not to. per_channel: a scale
    for each column of the weights, or one for all. least: weights that a product must have for it to pay.

    >>> import graphopt
    >>> from graphopt.demo import demo_model
    >>> small = graphopt.optimize(demo_model(), ["default", QuantizeDynamic(least=0)], verify="check")
    """

    name = NAME
    lossy = True
    checked_as: ClassVar[Mapping[str, Any]] = {"least": 0}
    only: str = "*"
    keep_float: str = ""
    per_channel: bool = True
    least: int = LEAST

    def run(self, model: Model, ctx: Context) -> None:
        """Quantizes product after product, scope by scope."""
        ensure_types(model)
        made = Matrices()
        for graph in list(model.scopes()):
            if is_opaque(graph):
                continue
            graph.ensure_sorted()
            work = _Scope(graph, made)
            for node in graph.nodes:
                if node.op not in OPERATORS or node.domain or node.has_references or not node.alive:
                    continue
                if selected(node, self.only, self.keep_float):
                    self._visit(node, work, ctx)
        made.drop_unread()

    def _visit(self, node: Node, work: _Scope, ctx: Context) -> None:
        if node.op == "LSTM":
            reason = why_not_lstm(node, self.least, ctx.target)
            if reason:
                ctx.refuse(NAME, reason, node)
            elif ctx.allow(NAME, site_of(node)):
                _rewrite_lstm(node, self.per_channel, ctx)
            return
        found = find_product(node)
        if isinstance(found, Product):
            found = self._why_not(found, ctx.target) or found
        if isinstance(found, str):
            ctx.refuse(NAME, found, node)
        elif found is not None and ctx.allow(NAME, site_of(found.last)):
            _rewrite(found, work, self.per_channel, ctx)

    def _why_not(self, found: Product, target: str) -> str:
        if target == "tensorrt":
            return "TensorRT has no DynamicQuantizeLinear: use insert-qdq"
        if found.node.graph.opset() < 11:
            return "DynamicQuantizeLinear is of opset 11: run raise-opset first"
        rows, columns = found.weights.shape
        if rows * columns < max(1, self.least):
            return f"it has {rows * columns} weights, too few for int8 to pay"
        if rows < FEW and self.least:
            return f"it sums up {rows} products, too few for int8 to pay"
        return ""


@dataclass
class _Scope:
    """What is quantized already in a scope: the codes, scale and zero point of each activation."""

    graph: Graph
    made: Matrices
    activations: dict[Value, tuple[Value, Value, Value]] = field(default_factory=dict)

    def quantized(self, x: Value, new: Builder) -> tuple[Value, Value, Value]:
        """x in uint8, its scale and its zero point."""
        if x not in self.activations:
            codes, scale, zero = new.DynamicQuantizeLinear(x, n_out=3, name=f"{x.name}_quantize")
            self.activations[x] = codes, scale, zero
        return self.activations[x]


def _rewrite(found: Product, work: _Scope, per_channel: bool, ctx: Context) -> None:
    node, last, graph = found.node, found.last, work.graph
    labels = list(dict.fromkeys((node.label, last.label)))
    new = Builder(graph, node, NAME, list(dict.fromkeys((node, last))))
    codes, x_scale, zero = work.quantized(found.x, new)
    weights, scales = found.weights.codes(work.made, per_channel)
    weights = found.weights.repeated(weights, new)
    scales = (scales.astype(np.float64) * found.alpha).astype(np.float32)
    hint = f"{found.weights.value.name}_scale"
    product = new.Cast(new.MatMulInteger(codes, weights, zero, name=node.label), to=1, name=f"{node.label}_float")
    factor = new.Mul(x_scale, work.made.numbers.number(graph, scales, hint), name=f"{node.label}_scale")
    value = new.Mul(product, factor, name=f"{node.label}_scaled", type_of=node.output)
    if found.bias is not None:
        value = new.Add(value, _bias(found, work), name=f"{node.label}_bias", type_of=last.output)
    source = node.inputs[1].producer if node.inputs[1] is not None else None
    last.output.replace_with(value)
    for old in (last, node):
        if old.alive:
            graph.erase(old)
    if source is not None:
        sweep(source)
    ctx.record(NAME, labels, [made.label for made in new.nodes], graph)


def _rewrite_lstm(node: Node, per_channel: bool, ctx: Context) -> None:
    new = Builder(node.graph, node, NAME, [node])
    label, old = node.label, [v for v in node.inputs[1:3] if v is not None]
    for value, made in zip(node.outputs, make_lstm(node, new, per_channel), strict=True):
        if value.name:
            value.replace_with(made)
    node.graph.erase(node)
    for weight in old:
        if weight.tensor is not None and not weight.users and not weight.outs:
            weight.graph.erase_initializer(weight)
    ctx.record(NAME, [label], [made.label for made in new.nodes], new.graph)


def _bias(found: Product, work: _Scope) -> Value:
    """The bias, times beta; one number for each column where it is constant, as ONNX Runtime fuses it."""
    bias = found.bias
    assert bias is not None
    if not bias.is_const:
        return bias
    array, columns = bias.numpy(), found.weights.shape[1]
    if found.beta == 1.0 and array.shape[-1:] == (columns,):
        return bias
    numbers = (array.astype(np.float64) * found.beta).astype(np.float32)
    each = np.broadcast_to(numbers, (*numbers.shape[:-1], columns)) if numbers.shape[-1:] != (columns,) else numbers
    return work.made.numbers.number(work.graph, np.ascontiguousarray(each), bias.name)
