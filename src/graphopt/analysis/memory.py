"""Activation memory over time: what is alive while each node runs.

A value takes its bytes from the node that makes it until the last that reads it, and graph outputs until the end;
inputs are there from the beginning. Views (Reshape, Squeeze, ...) share the bytes of what they view, as runtimes do it.
Weights are not counted. Nodes run in the order of the graph: a runtime that reorders, or works in place, needs less.
(Linear scan over live intervals, as in Poletto and Sarkar, TOPLAS 1999.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from graphopt.analysis.cost import Sizes
from graphopt.analysis.cost.traffic import is_view
from graphopt.ir import Graph, Node, Value
from graphopt.ir.order import reads_of
from graphopt.ir.tensor import payload_bytes

__all__ = ["Moment", "activation_memory"]


@dataclass(frozen=True)
class Moment:
    """bytes: alive while a node runs, its inputs and outputs included. unknown: values among them of unknown size."""

    node: Node
    bytes: int
    unknown: int = 0


def activation_memory(graph: Graph, sizes: Sizes | None = None) -> list[Moment]:
    """The bytes alive at each node of a graph, in its order; bodies count as their nodes' inputs and outputs.

    sizes: what symbolic dims stand for. The graph's types are inferred.

    >>> from graphopt import ir
    >>> from graphopt.analysis.shapes import infer
    >>> from onnx import parser
    >>> head = '<ir_version: 8, opset_import: ["": 17]> g (float[N, 8] x) => (float[N, 8] y) '
    >>> m = ir.from_proto(parser.parse_model(head + '{ a = Neg(x)  y = Relu(a) }'))
    >>> infer(m)
    >>> [(moment.node.op, moment.bytes) for moment in activation_memory(m.graph, Sizes({"N": 2}))]
    [('Neg', 128), ('Relu', 128)]
    """
    sizes = sizes or Sizes()
    nodes = [node for node in graph if node.op != "Constant" or node.domain]
    owner: dict[Value, Value] = {}  # of a view, what it views
    last: dict[Value, int] = {}
    for place, node in enumerate(nodes):
        if is_view(node) and node.inputs[0] is not None and not node.inputs[0].is_const:
            owner[node.output] = owner.get(node.inputs[0], node.inputs[0])
        for value in (*reads_of(node), *node.outputs):
            last[owner.get(value, value)] = place
    for value in graph.outputs:
        last[owner.get(value, value)] = len(nodes)
    return _scan(graph, nodes, owner, last, sizes)


def _scan(
    graph: Graph, nodes: Sequence[Node], owner: dict[Value, Value], last: dict[Value, int], sizes: Sizes
) -> list[Moment]:
    ends: dict[int, list[Value]] = {}
    for value, place in last.items():
        ends.setdefault(place, []).append(value)
    alive: dict[Value, int | None] = {}
    known = unknown = 0
    found = []
    starting = [value for value in graph.inputs if not value.is_const and value in last]
    for place, node in enumerate(nodes):
        made = [v for v in node.outputs if v.name and v not in owner]
        for value in (*starting, *made):
            if value in last and value not in alive:
                size = alive[value] = _bytes(value, sizes)
                known, unknown = known + (size or 0), unknown + (size is None)
        starting = []
        found.append(Moment(node, known, unknown))
        for value in ends.get(place, ()):
            if value in alive:
                size = alive.pop(value)
                known, unknown = known - (size or 0), unknown - (size is None)
    return found


def _bytes(value: Value, sizes: Sizes) -> int | None:
    shape = sizes.of(value)
    return None if shape is None or value.dtype is None else payload_bytes(value.dtype, prod(shape))
