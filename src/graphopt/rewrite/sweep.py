"""Removing what nothing reads any more."""

from __future__ import annotations

from graphopt.ir import Graph, Node

# Domains whose operators are known to have no effect but their outputs.
PURE_DOMAINS = frozenset({"", "ai.onnx.ml", "ai.onnx.training", "ai.onnx.preview.training", "com.microsoft"})


def is_dead(node: Node) -> bool:
    """Nothing reads any output, and the operator is known to do nothing else."""
    if not node.alive or node.domain not in PURE_DOMAINS or not node.outputs:
        return False
    return not any(value.users or value.outs for value in node.outputs)


def is_opaque(graph: Graph) -> bool:
    """Whether this scope, or one around it, is a body of an operator that is not standard: its inner names and order
    may be an interface (BeamSearch), so that it stays as it is."""
    scope: Graph | None = graph
    while scope is not None:
        if scope.owner is not None and scope.owner.domain:
            return True
        scope = scope.parent
    return False


def sweep(*start: Node) -> int:
    """Erases these nodes if they are dead, and then whatever that leaves dead; returns how many."""
    pending, count = list(start), 0
    while pending:
        node = pending.pop()
        if not is_dead(node):
            continue
        before = [v.producer for v in node.inputs if v is not None and v.producer is not None]
        for body in node.subgraphs:
            before += [v.producer for inner in body for v in inner.inputs if v is not None and v.producer is not None]
        node.graph.erase(node)
        count += 1
        for producer in before:
            if producer.alive and not is_opaque(producer.graph):
                pending.append(producer)
                producer.graph.model.journal.append(producer)  # it lost a reader: a pattern may now hold its value alone
    return count
