"""Which node of one model is which of another.

By provenance first: a node that rules made says which originals it stands for. The others by name and operator, then by
the name of their first output; and those that are left by what they compute: the same operator and attributes on
operands that are matched already, in the order of the graphs (the tree matching of Hoffmann and O'Donnell, JACM 1982,
on a graph in topological order).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field

from graphopt.ir import Model, Node, Value
from graphopt.ir.provenance import origin_of

__all__ = ["Matching", "match_models"]


@dataclass
class Matching:
    """pairs: nodes of the first -> the node of the second that is the same one. made: nodes of the second that rules
    made -> the nodes of the first that they stand for (as far as these are there). removed, added: the rest."""

    pairs: dict[Node, Node] = field(default_factory=dict)
    made: dict[Node, list[Node]] = field(default_factory=dict)
    removed: list[Node] = field(default_factory=list)
    added: list[Node] = field(default_factory=list)


def match_models(a: Model, b: Model) -> Matching:
    """Matches the nodes of all scopes. Constant nodes count as what they hold, and are left out."""
    ours, theirs = _nodes(a), _nodes(b)
    found = Matching()
    by_label: dict[str, Node] = {}
    for node in ours:
        by_label.setdefault(node.label, node)
    left: list[Node] = []
    for node in theirs:
        origin = origin_of(node)
        sources = [by_label[label] for label in origin.sources if label in by_label]
        if origin.rules and sources:
            found.made[node] = sources
        else:
            left.append(node)
    taken: dict[Node, Node] = {}
    for key in (_by_name, _by_output):
        left = _match_by(key, ours, left, taken)
    _match_by_content(ours, left, taken, found.made)
    found.pairs = {mine: other for other, mine in taken.items()}
    standing = {node for sources in found.made.values() for node in sources}
    found.removed = [node for node in ours if node not in found.pairs and node not in standing]
    found.added = [node for node in theirs if node not in taken and node not in found.made]
    return found


def _nodes(model: Model) -> list[Node]:
    return [node for graph in model.scopes() for node in graph if node.op != "Constant" or node.domain]


def _by_name(node: Node) -> Hashable:
    return (node.domain, node.op, node.name) if node.name else None


def _by_output(node: Node) -> Hashable:
    name = next((value.name for value in node.outputs if value.name), "")
    return (node.domain, node.op, name) if name else None


def _match_by(key, ours: Iterable[Node], theirs: list[Node], taken: dict[Node, Node]) -> list[Node]:  # type: ignore[no-untyped-def]
    used = set(taken.values())
    table: dict[Hashable, Node] = {}
    for node in ours:
        if node not in used and key(node) is not None:
            table.setdefault(key(node), node)
    left = []
    for node in theirs:
        mine = table.pop(key(node), None) if key(node) is not None else None
        if mine is None:
            left.append(node)
        else:
            taken[node] = mine
    return left


def _match_by_content(
    ours: Iterable[Node], theirs: Iterable[Node], taken: dict[Node, Node], made: dict[Node, list[Node]]
) -> None:
    """Nodes of the same operator and attributes whose operands are the same values."""
    used = set(taken.values()) | {node for sources in made.values() for node in sources}
    table: dict[Hashable, list[Node]] = defaultdict(list)
    for node in ours:
        if node not in used:
            table[_content(node, {})].append(node)
    for node in theirs:
        if node in taken:
            continue
        waiting = table.get(_content(node, taken))
        if waiting:
            taken[node] = waiting.pop(0)


def _content(node: Node, taken: dict[Node, Node]) -> Hashable:
    """What a node computes, in terms of the first model's values."""
    operands = tuple(_identity(value, taken) for value in node.inputs)
    attributes = tuple(sorted(a.SerializeToString(deterministic=True) for a in node.proto.attribute))
    return node.domain, node.op, operands, attributes


def _identity(value: Value | None, taken: dict[Node, Node]) -> Hashable:
    if value is None:
        return None
    maker = value.producer
    if value.is_const or maker is None:
        return value.name if maker is None else ("constant", value.dtype, value.shape)
    twin = taken.get(maker, maker)
    return twin.label, value.index
