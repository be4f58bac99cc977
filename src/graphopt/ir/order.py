"""Topological order, and what a node's bodies read from outside."""

from __future__ import annotations

from typing import TYPE_CHECKING

from graphopt.errors import ModelError

if TYPE_CHECKING:
    from graphopt.ir.graph import Graph
    from graphopt.ir.node import Node, Value


def captures(node: Node) -> list[Value]:
    """The values of enclosing scopes that the node's bodies read, at any depth; each once, in order."""
    found: dict[Value, None] = {}
    inside: dict[Graph, None] = {}
    pending = list(node.subgraphs)
    while pending:
        body = pending.pop()
        inside[body] = None
        for inner in body:
            pending.extend(inner.subgraphs)
    for body in inside:
        for inner in body:
            found.update((v, None) for v in inner.inputs if v is not None and v.graph not in inside)
        found.update((v, None) for v in body.outputs if v.graph not in inside)
    return list(found)


def reads_of(node: Node) -> list[Value]:
    """The values that a node reads, those that its bodies capture included."""
    own = [value for value in node.inputs if value is not None]
    return own + captures(node) if node.subgraphs else own


def reads(node: Node, graph: Graph) -> list[Node]:
    """The nodes of `graph` that must come before `node`."""
    values = node.inputs if not node.subgraphs else [*node.inputs, *captures(node)]
    return [v.producer for v in values if v is not None and v.producer is not None and v.graph is graph]


def is_sorted(graph: Graph) -> bool:
    """Whether every definition comes before its uses."""
    seen: set[Node] = set()
    for node in graph:
        for before in reads(node, graph):
            if before not in seen:
                return False
        seen.add(node)
    return True


def sort(graph: Graph) -> list[Node]:
    """The nodes in topological order, as near to the present order as depth-first search leaves them.

    Iterative (Tarjan 1976 without recursion). Raises ModelError naming a node on a cycle.
    """
    order: list[Node] = []
    state: dict[Node, bool] = {}  # False while its inputs are being visited, True when placed
    for root in graph:
        stack = [root]
        while stack:
            node = stack[-1]
            if state.get(node):
                stack.pop()
                continue
            waiting = [n for n in reads(node, graph) if not state.get(n)]
            if node in state and any(n in state for n in waiting):
                raise ModelError(f"the graph has a cycle through {node!r}; the model is not valid ONNX")
            if waiting:
                state[node] = False
                stack.extend(reversed(waiting))
            else:
                state[node] = True
                order.append(node)
                stack.pop()
    return order
