"""Which nodes are meant: by the names of tensors or nodes, by a chain of operators, or by two ends."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase

from graphopt.errors import GraphoptError
from graphopt.ir import Graph, Model, Node, Value
from graphopt.ir.external import shown
from graphopt.ir.order import reads_of
from graphopt.subgraphs.boundary import before
from graphopt.subgraphs.instance import instantiate
from graphopt.subgraphs.region import Region, region_of

__all__ = ["choose", "places_of"]

Names = Sequence[str] | None


def choose(
    model: Model, inputs: Names, outputs: Names, nodes: Names, pattern: str, match: int, between: tuple[str, str] | None
) -> Region:
    """The region that is asked for; see `extract`. Raises GraphoptError naming what is wrong."""
    asked = {"outputs": outputs, "nodes": nodes, "pattern": pattern, "between": between}
    ways = [name for name, given in asked.items() if given]
    if len(ways) != 1:
        given = " and ".join(ways) if ways else "nothing"
        raise GraphoptError(f"say what to extract by one of outputs, nodes, pattern or between; {given} was given")
    if inputs and not outputs:
        raise GraphoptError("inputs go with outputs: name the tensors to be computed from them")
    if outputs:
        return _by_tensors(model, inputs, outputs)
    if nodes:
        return region_of(_open(_named(model, nodes)))
    if between:
        return _between(model, *between)
    return region_of(_open(_matching(model, pattern, match)))


def places_of(model: Model, pattern: str) -> Iterator[list[Node]]:
    """Chains of nodes with these operators, each reading what the one before makes; no node is in two of them."""
    ops = pattern.replace(",", " ").split()
    taken: set[Node] = set()
    for graph in model.scopes():
        for node in graph:
            if node.op == ops[0] and node not in taken:
                chain = _chain(node, ops, taken)
                if chain:
                    taken.update(chain)
                    yield chain


def _chain(start: Node, ops: Sequence[str], taken: set[Node]) -> list[Node]:
    """Depth first over the readers; the first chain that fits."""
    stack = [[start]]
    while stack:
        path = stack.pop()
        if len(path) == len(ops):
            return path
        readers = dict.fromkeys(user for value in path[-1].outputs for user in value.users)
        fits = [n for n in readers if n.op == ops[len(path)] and n.graph is start.graph and n not in taken]
        stack += [[*path, reader] for reader in reversed(fits)]
    return []


def _matching(model: Model, pattern: str, match: int) -> list[Node]:
    found = 0
    for found, chain in enumerate(places_of(model, pattern), 1):
        if found == match:
            return chain
    count = f"only {found} places match" if found else "nothing matches"
    raise GraphoptError(f"{count} {pattern!r}" + (f", so there is no place {match}" if found else ""))


def _by_tensors(model: Model, inputs: Names, outputs: Sequence[str]) -> Region:
    wanted = _values(model, outputs)
    graph = wanted[0].graph
    if graph.in_function:
        graph = instantiate(graph).graph
        wanted = [graph.values[value.name] for value in wanted]
    ends = [_visible(graph, name) for name in inputs or ()]
    for value in wanted:
        if value.producer is None:
            kind = "an input" if value.is_input else "a constant"
            raise GraphoptError(f"{shown(value.name)} is {kind} of the graph, nothing computes it; name other outputs")
        if value in ends:
            raise GraphoptError(f"{shown(value.name)} is named as an input and as an output; choose one")
    region = before(wanted, frozenset(ends))
    if inputs is None:
        return region
    extra = [value.name for value in region.inputs if value not in ends]
    if extra:
        listed = ", ".join(map(shown, extra[:8]))
        raise GraphoptError(f"the outputs depend on more than the inputs named: on {listed}; add it to the inputs")
    return region_of(region.nodes, inputs=ends, outputs=wanted)


def _visible(graph: Graph, name: str) -> Value:
    found = graph.find(name)
    if found is None:
        raise GraphoptError(f"there is no tensor {shown(name)} here{_near(name, graph.values)}")
    return found


def _values(model: Model, names: Sequence[str]) -> list[Value]:
    """Values of these names, all in one scope: the first that has them all."""
    scopes = list(model.scopes())
    for graph in scopes:
        if all(name in graph.values for name in names):
            return [graph.values[name] for name in names]
    known = {name for graph in scopes for name in graph.values}
    for name in names:
        if name not in known:
            raise GraphoptError(f"there is no tensor {shown(name)}{_near(name, known)}")
    raise GraphoptError("the outputs are in several scopes (bodies or functions); name those of one")


def _named(model: Model, names: Sequence[str]) -> list[Node]:
    """Nodes by label or glob; of a name that several scopes have, those of the first."""
    found: dict[Node, None] = {}
    labels = [(node.label, node) for graph in model.scopes() for node in graph]
    for name in names:
        hits = [node for label, node in labels if label == name]
        if not hits and any(mark in name for mark in "*?["):
            hits = [node for label, node in labels if fnmatchcase(label, name)]
        if not hits:
            raise GraphoptError(f"there is no node {shown(name)}{_near(name, (label for label, _ in labels))}")
        found.update(dict.fromkeys(hit for hit in hits if hit.graph is hits[0].graph))
    return list(found)


def _open(nodes: Sequence[Node]) -> list[Node]:
    """Nodes of a function as they are in its first call."""
    if not nodes or not nodes[0].graph.in_function:
        return list(nodes)
    place = {node: index for index, node in enumerate(nodes[0].graph)}
    if any(node not in place for node in nodes):
        return list(nodes)
    there = instantiate(nodes[0].graph).graph.nodes
    return [there[place[node]] for node in nodes]


def _between(model: Model, first: str, last: str) -> Region:
    """The nodes on paths from the first to the last, ends that are nodes included."""
    labels: dict[str, Node] = {}
    for graph in model.scopes():
        for node in graph:
            labels.setdefault(node.label, node)
    start = labels.get(first) or _values(model, [first])[0]
    end = labels.get(last) or _values(model, [last])[0]
    graph = start.graph
    if end.graph is not graph:
        raise GraphoptError(f"{shown(first)} and {shown(last)} are in different scopes; name two of one")
    if graph.in_function:
        raise GraphoptError("parts of functions are named by outputs, nodes or a pattern")
    down = _reach([start] if isinstance(start, Node) else start.users, graph, forward=True)
    maker = end if isinstance(end, Node) else end.producer
    up = _reach([maker] if maker is not None else [], graph, forward=False)
    nodes = [node for node in graph if node in down and node in up]
    if not nodes:
        raise GraphoptError(f"no path leads from {shown(first)} to {shown(last)}; is it the other way around?")
    return region_of(nodes, outputs=None if isinstance(end, Node) else _with(end, nodes))


def _with(end: Value, nodes: Sequence[Node]) -> list[Value]:
    """The end first, then what else is read of the nodes."""
    return list(dict.fromkeys([end, *region_of(nodes).outputs]))


def _reach(start: Iterable[Node], graph: Graph, forward: bool) -> set[Node]:
    found = {here for node in start if (here := _outermost(node, graph)) is not None}
    pending = list(found)
    while pending:
        node = pending.pop()
        if forward:
            following = [_outermost(user, graph) for value in node.outputs for user in value.users]
        else:
            following = [value.producer for value in reads_of(node) if value.graph is graph]
        for item in following:
            if item is not None and item not in found:
                found.add(item)
                pending.append(item)
    return found


def _outermost(node: Node, graph: Graph) -> Node | None:
    """The node of this scope that a node is, or is nested in."""
    while node.graph is not graph:
        if node.graph.owner is None:
            return None
        node = node.graph.owner
    return node


def _near(name: str, known: Iterable[str]) -> str:
    close = get_close_matches(name, [item for item in known if item], 3, 0.5)
    return f"; the nearest are {', '.join(map(shown, close))}" if close else ""
