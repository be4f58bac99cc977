"""Where TensorRT wants QuantizeLinear and DequantizeLinear (explicit quantization), and in which form.

TensorRT computes an operator in int8 where its inputs come from DQ, and moves what is around by itself. So Q/DQ stand
at the inputs of what has weights, and nothing is said of outputs (docs/quantization-tensorrt.md, with sources):

* symmetric int8, zero point 0; activations one scale, weights one a channel; biases stay float;
* none between Conv, BatchNormalization and activation: these become one kernel, whose result the next Q quantizes;
* one operand of a residual Add: the one that is not the Conv's result, which is fused with the Add;
* operands of a Concat on one scale, as its Q moves in front of it; so do those of what only moves elements;
* an AveragePool between quantized operators, too; MaxPool needs none;
* none behind Softmax and normalizations but for a product that follows; activation times activation on request.

TensorRT reads the kernel's size off the attribute where weights come from DQ: every Conv gets `kernel_shape`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from graphopt.analysis.ranges import Ranges
from graphopt.ir import Graph, Node, Value
from graphopt.passes.quantize._layers import Layer, layer_of
from graphopt.passes.quantize._select import selected
from graphopt.passes.quantize.qdq_cleanup._moves import FEWER, SAME_SIZE
from graphopt.rewrite import Context

NAME = "insert-qdq-tensorrt"
PASSED = frozenset(
    ("Relu", "LeakyRelu", "Clip", "BatchNormalization", "Identity", "Sigmoid", "HardSwish", "Elu", "Selu")
)
MOVES = frozenset((*SAME_SIZE, *FEWER))
Edge = tuple[Node, int]


@dataclass(frozen=True)
class Plan:
    """What is to be quantized in a scope. layers: those that get int8 weights. edges: inputs to put Q/DQ in front of,
    in order. scales: float32 scale of each value read there."""

    layers: list[Layer]
    edges: list[Edge]
    scales: dict[Value, np.float32]


def plan(graph: Graph, ranges: Ranges, only: str, keep_float: str, attention: bool, ctx: Context) -> Plan:
    """Chooses the inputs to quantize in a scope, and their scales."""
    layers: list[Layer] = []
    edges: dict[Edge, None] = {}
    for node in graph:
        layer = layer_of(node)
        if node.domain or not selected(node, only, keep_float):
            continue
        if layer is not None:
            reason = _why_not(layer.x, ranges)
            if reason:
                ctx.refuse(NAME, reason, node)
                continue
            layers.append(layer)
            edges[node, 0] = None
        elif attention and node.op == "MatMul" and not any(_why_not(v, ranges) for v in node.inputs):
            edges.update({(node, 0): None, (node, 1): None})
    quantized = {layer.node for layer in layers}
    for node in graph:
        if node.op == "Add" and not node.domain and selected(node, only, keep_float):
            edges.update((edge, None) for edge in _residual(node, quantized, ranges))
    _pools(graph, edges, ranges)
    return Plan(layers, list(edges), _scales(list(edges), ranges))


def _why_not(value: Value | None, ranges: Ranges) -> str:
    if value is None or value.is_const:
        return "its input is constant"
    if value.dtype != TensorProto.FLOAT:
        return "its input is not float32"
    if value.producer is not None and value.producer.op == "DequantizeLinear":
        return "its input is quantized already"
    if value.name not in ranges:
        return "there is no range of its input"
    return ""


def _residual(add: Node, quantized: set[Node], ranges: Ranges) -> Iterator[Edge]:
    """The operand of an Add that is not made by the Conv that the Add is fused with: of two Convs the later one."""
    if add.inputs[0] is add.inputs[1]:
        return
    makers = [_conv_behind(value, quantized) for value in add.inputs]
    order = {node: place for place, node in enumerate(add.graph)} if all(makers) else {}
    first, second = makers
    if first is not None and second is not None:
        slot = 1 if order[first] > order[second] else 0
    elif first is not None or second is not None:
        slot = 1 if first is not None else 0
    else:
        return
    if not _why_not(add.inputs[slot], ranges):
        yield add, slot


def _conv_behind(value: Value | None, quantized: set[Node]) -> Node | None:
    """The quantized Conv whose result this is, when nothing else reads it (a BatchNormalization in between)."""
    while value is not None and value.producer is not None and len(value.users) == 1 and not value.is_output:
        node = value.producer
        if node in quantized and node.op in ("Conv", "ConvTranspose"):
            return node
        if node.op != "BatchNormalization":
            return None
        value = node.inputs[0]
    return None


def _pools(graph: Graph, edges: dict[Edge, None], ranges: Ranges) -> None:
    """AveragePool between quantized operators: its result is read through Q/DQ, so that it can be int8 as a whole."""
    read = {node.inputs[slot] for node, slot in edges}
    for node in graph:
        if (
            node.op == "AveragePool"
            and not node.domain
            and node.output in read
            and not _why_not(node.inputs[0], ranges)
        ):
            edges[node, 0] = None


def _scales(edges: list[Edge], ranges: Ranges) -> dict[Value, np.float32]:
    """A scale for each value that is quantized, largest magnitude / 127: the largest one for all that must share it."""
    values = [value for value in dict.fromkeys(node.inputs[slot] for node, slot in edges) if value is not None]
    parent = {value: value for value in values}

    def root(value: Value) -> Value:
        while parent[value] is not value:
            parent[value] = parent[parent[value]]
            value = parent[value]
        return value

    for value in values:
        for other in _shared_with(value, parent):
            parent[root(other)] = root(value)
    largest: dict[Value, float] = {}
    for value in values:
        largest[root(value)] = max(largest.get(root(value), 0.0), ranges[value.name].amax)
    return {value: np.float32((largest[root(value)] or 127.0) / 127.0) for value in values}


def _shared_with(value: Value, quantized: dict[Value, Value]) -> Iterator[Value]:
    """Quantized values that a value is put together from, without computing, which TensorRT moves its Q in front of."""
    pending, seen = [value], {value}
    while pending:
        node = pending.pop().producer
        if node is None or node.domain or not (node.op == "Concat" or node.op in MOVES):
            continue
        for source in node.inputs if node.op == "Concat" else node.inputs[:1]:
            if source is None or source in seen:
                continue
            seen.add(source)
            if source in quantized:
                yield source
            pending.append(source)
