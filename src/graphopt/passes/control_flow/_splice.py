"""Moving the nodes of a body into the graph around it."""

from __future__ import annotations

from collections.abc import Mapping

from graphopt.ir import Graph, Node, Value, captures
from graphopt.ir.provenance import mark, origin_of_all


def why_not(body: Graph) -> str:
    """Why a body cannot be moved, or nothing."""
    if body.proto.sparse_initializer:  # type: ignore[union-attr]
        return "the body holds sparse initializers"
    return ""


def splice(body: Graph, given: Mapping[Value, Value], rule: str) -> tuple[list[Value], list[Node]]:
    """Copies a body in front of the node that holds it.

    given: for each input of the body, the value of the enclosing graph that it stands for. Returns what the body's
    outputs are in the enclosing graph, and the new nodes. New values get names that no scope uses; nested bodies come
    along, and say that `rule` moved them. The old body stays, to go away with its node; values in it may be renamed.
    """
    owner, graph = body.owner, body.parent
    assert owner is not None and graph is not None
    here: dict[Value, Value] = dict(given)
    made: list[Node] = []
    for value in body.initializers.values():
        here[value] = _initializer(graph, value, owner)
    for node in body:
        if node.subgraphs:
            _rename_captured(node, body, here)
        copy = _copy(node, graph, owner, here)
        mark(copy, origin_of_all([node], rule))
        made.append(copy)
        here.update((old, new) for old, new in zip(node.outputs, copy.outputs, strict=True) if old.name)
    return [here.get(value, value) for value in body.outputs], made


def _initializer(graph: Graph, value: Value, owner: Node) -> Value:
    assert value.tensor is not None
    if graph.holds_initializers:
        return graph.adopt(value.tensor.proto, value.name)
    return graph.insert("Constant", [], before=owner, out=value.name, value=value.tensor.proto).output


def _rename_captured(node: Node, body: Graph, here: Mapping[Value, Value]) -> None:
    """Makes nested bodies, which are copied as protos, name what they capture as it is called outside."""
    for value in captures(node):
        if value.graph is body and value.name != here[value].name:
            clash = body.values.get(here[value].name)
            if clash is not None:
                body.rename(clash, body.model.fresh(clash.name))
            body.rename(value, here[value].name)
    body.model.commit()


def _copy(node: Node, graph: Graph, before: Node, here: Mapping[Value, Value]) -> Node:
    inputs = [None if value is None else here.get(value, value) for value in node.inputs]
    copy = graph.insert_copy(node, inputs, before)
    if node.subgraphs:
        graph.attach(copy)
    return copy
