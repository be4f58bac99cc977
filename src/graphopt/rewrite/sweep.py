"""Removing what nothing reads any more."""

from __future__ import annotations

from collections.abc import Container, Iterator

from graphopt.ir import Graph, Node, captures
from graphopt.rewrite.pattern import FEW

# Domains whose operators are known to have no effect but their outputs.
PURE_DOMAINS = frozenset({"", "ai.onnx.ml", "ai.onnx.training", "ai.onnx.preview.training", "com.microsoft"})


def is_dead(node: Node) -> bool:
    """Nothing reads any output, and the operator is known to do nothing else."""
    if not node.alive or node.domain not in PURE_DOMAINS or not node.outputs:
        return False
    if is_read(node):
        return False
    return not node.subgraphs or all(inner.domain in PURE_DOMAINS for inner in _inside(node))


def is_read(node: Node) -> bool:
    """Whether anything uses what the node makes."""
    return any(value.users or value.outs for value in node.outputs)


def _inside(node: Node) -> Iterator[Node]:
    pending = [node]
    while pending:
        for body in pending.pop().subgraphs:
            for inner in body:
                yield inner
                pending.append(inner)


def is_opaque(graph: Graph) -> bool:
    """Whether this scope, or one around it, is a body of an operator that is not standard: its inner names and order
    may be an interface (BeamSearch), so that it stays as it is."""
    scope: Graph | None = graph
    while scope is not None:
        if scope.owner is not None and scope.owner.domain:
            return True
        scope = scope.parent
    return False


def sweep(*start: Node, replaced: Container[Node] = ()) -> int:
    """Erases these nodes if they are dead, and then whatever that leaves dead; returns how many.

    replaced: nodes that something else now stands for, so that they may go even if their operator is not known.
    """
    pending, count = list(start), 0
    while pending:
        node = pending.pop()
        if not is_dead(node) and not (node in replaced and node.alive and not is_read(node)):
            continue
        values = node.inputs if not node.subgraphs else [*node.inputs, *captures(node)]
        before = [v.producer for v in values if v is not None and v.producer is not None]
        node.graph.erase(node)
        count += 1
        for producer in before:
            if producer.alive and not is_opaque(producer.graph):
                pending.append(producer)
                if sum(len(v.users) for v in producer.outputs) <= FEW:
                    producer.graph.model.journal.append(producer)  # a pattern may now hold its value alone
    return count
