"""What must hold of the IR between two passes; see `Model.check`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from graphopt.errors import ModelError
from graphopt.ir.order import is_sorted

if TYPE_CHECKING:
    from graphopt.ir.graph import Graph
    from graphopt.ir.model import Model
    from graphopt.ir.node import Node, Value


def check(model: Model) -> None:
    """Raises ModelError naming the first violation. Linear in the size of the model."""
    reads: dict[Value, dict[Node, int]] = {}
    returns: dict[Value, int] = {}
    for graph in model.scopes():
        for fault in _faults(graph):
            raise ModelError(f"graph {graph.name!r}: {fault}")
        for node in graph:
            for value in node.inputs:
                if value is not None:
                    users = reads.setdefault(value, {})
                    users[node] = users.get(node, 0) + 1
        for value in graph.outputs:
            returns[value] = returns.get(value, 0) + 1
    for graph in model.scopes():
        for value in graph.values.values():
            if value.users != reads.get(value, {}):
                raise ModelError(f"{value!r} and the nodes of the model disagree on who reads it")
            if value.outs != returns.get(value, 0):
                raise ModelError(f"{value!r} is {value.outs} times a graph output by its own count, but not in fact")


def _faults(graph: Graph) -> Iterator[str]:
    nodes = list(graph)
    if len(nodes) != len(graph) or any(node.next.prev is not node for node in nodes):
        yield "the list of its nodes is broken"
    if not is_sorted(graph):
        yield "not in topological order"
    for node in nodes:
        yield from _node_faults(graph, node)
    for name, value in graph.values.items():
        if value.name != name or value.graph is not graph:
            yield f"{value!r} stands under the name {name!r}"
    for value in graph.inputs:
        if graph.values.get(value.name) is not value or not value.is_input or value.producer is not None:
            yield f"graph input {value!r} is not registered as one"
    for name, value in graph.initializers.items():
        if graph.values.get(name) is not value or value.tensor is None or value.tensor.proto.name != name:
            yield f"initializer {value!r} is not registered as one"
    for value in graph.outputs:
        if graph.find(value.name) is not value:
            yield f"graph output {value!r} is not what its name says"


def _node_faults(graph: Graph, node: Node) -> Iterator[str]:
    if node.graph is not graph or not node.alive:
        yield f"{node!r} stands in a graph that it does not belong to"
    for value in node.inputs:
        if value is not None and graph.find(value.name) is not value:
            yield f"{node!r} reads {value!r}, which is gone or hidden by another value of that name"
    for index, value in enumerate(node.outputs):
        registered = not value.name or graph.values.get(value.name) is value
        if value.producer is not node or value.index != index or not registered:
            yield f"{value!r} is not registered as made by {node!r}"
    if (node in graph.holders) != bool(node.subgraphs):
        yield f"the bodies of {node!r} are not registered"
    for body in node.subgraphs:
        if body.parent is not graph or body.owner is not node:
            yield f"a body of {node!r} takes another node for its owner"
