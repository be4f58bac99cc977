"""A region: some nodes of one scope, what they read from outside of it, and what is read of them.

The boundary follows from the def-use chains: inputs are values that no node of the region makes, and that are not
constant; outputs are those that something outside of it reads, or the graph returns. Values that the nodes' bodies
capture are inputs as well. Constants come along, from whichever enclosing scope they are in.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from graphopt.errors import GraphoptError
from graphopt.ir import Graph, Node, Value
from graphopt.ir.order import reads_of

__all__ = ["SCOPE_KEY", "Region", "is_convex", "region_of", "scope_of"]

SCOPE_KEY = "graphopt.scope"  # in metadata_props of a part: the body that it was in, as bodies may share names


@dataclass(frozen=True)
class Region:
    """nodes: in the order of the graph. inputs, outputs: its interface. constants: initializers that it reads, and
    what Constant nodes outside of it make (a value that a caller may override is an input)."""

    graph: Graph
    nodes: tuple[Node, ...]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    constants: tuple[Value, ...]


def region_of(
    nodes: Iterable[Node], inputs: Sequence[Value] | None = None, outputs: Sequence[Value] | None = None
) -> Region:
    """The region of these nodes, which are all in one scope.

    inputs, outputs: the interface and its order, where it is given; without, what follows from the def-use chains, in
    the order of the nodes. Raises GraphoptError where there are no nodes, or they are in several scopes.
    """
    chosen = set(nodes)
    scopes = {node.graph for node in chosen}
    if len(scopes) != 1:
        raise GraphoptError(
            "the nodes are in several scopes (bodies or functions); name nodes of one" if scopes else "no nodes chosen"
        )
    graph = scopes.pop()
    ordered = tuple(node for node in graph if node in chosen)
    ends = set(inputs or ())
    entering: dict[Value, None] = {}
    constants: dict[Value, None] = {}
    for node in ordered:
        for value in reads_of(node):
            if value in ends or value.producer not in chosen:
                (constants if value not in ends and _comes_along(value) else entering)[value] = None
    found = tuple(outputs) if outputs is not None else tuple(_leaving(ordered, chosen))
    return Region(graph, ordered, tuple(inputs) if inputs is not None else tuple(entering), found, tuple(constants))


def scope_of(graph: Graph) -> str:
    """Where a body is: the labels of the nodes that hold it, the outermost first, each with which of its bodies it is.
    Nothing for the main graph."""
    steps: list[str] = []
    while graph.owner is not None and graph.parent is not None:
        steps.append(f"{graph.owner.label}#{list(graph.owner.subgraphs).index(graph)}")
        graph = graph.parent
    return json.dumps(steps[::-1]) if steps else ""


def is_convex(region: Region) -> bool:
    """Whether no path leaves the region and comes back: then it can be run, or replaced, in one piece.

    The graph is in topological order.
    """
    chosen = set(region.nodes)
    after: set[Node] = set()  # nodes outside that depend on the region
    for node in _between(region.graph, region.nodes):
        makers = {value.producer for value in reads_of(node)}
        if not makers.isdisjoint(after):
            if node in chosen:
                return False
            after.add(node)
        elif node not in chosen and not makers.isdisjoint(chosen):
            after.add(node)
    return True


def _between(graph: Graph, nodes: Sequence[Node]) -> Iterator[Node]:
    """The nodes from the first to the last of these, which are in the graph's order."""
    node, last = nodes[0], nodes[-1]
    while True:
        yield node
        if node is last:
            return
        node = node.next


def _comes_along(value: Value) -> bool:
    """Whether a value from outside is a constant, to be copied: initializers, sparse ones too, Constant nodes."""
    return value.is_const or (value.producer is None and not value.is_input)


def _leaving(nodes: Sequence[Node], chosen: set[Node]) -> Iterator[Value]:
    """What something outside reads; of a region that nobody reads, what it makes and does not read itself."""
    found = [value for node in nodes for value in node.outputs if value.name and _is_read_outside(value, chosen)]
    if not found:
        found = [value for node in nodes for value in node.outputs if value.name and not value.users]
    yield from found


def _is_read_outside(value: Value, chosen: set[Node]) -> bool:
    return value.outs > 0 or any(_in_scope(user, value.graph) not in chosen for user in value.users)


def _in_scope(node: Node, graph: Graph) -> Node | None:
    """The node of this scope that a node is, or is nested in."""
    while node.graph is not graph:
        if node.graph.owner is None:
            return None
        node = node.graph.owner
    return node
