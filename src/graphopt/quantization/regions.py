"""The parts of a model that are quantized, or kept in float, together: a product and what is computed from it.

>>> from onnx import parser
>>> from graphopt import ir
>>> m = ir.from_proto(parser.parse_model('''<ir_version: 8, opset_import: ["": 17]>
...     g (float[4, 4] x, float[4, 4] w) => (float[4, 4] y) { a = MatMul(x, w)  b = Relu(a)  y = MatMul(b, w) }'''))
>>> [region.labels for region in regions_of(m)]
[('a', 'b'), ('y',)]
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from graphopt.errors import GraphoptError
from graphopt.ir import Model, Node
from graphopt.ir.provenance import origin_of

__all__ = [
    "ANCHORS",
    "CONVOLUTIONS",
    "PRODUCTS",
    "Region",
    "anchors_of",
    "grouped",
    "patterns",
    "regions_of",
    "translated",
]

CONVOLUTIONS = frozenset({"Conv", "ConvTranspose"})
PRODUCTS = frozenset({"MatMul", "Gemm"})
RECURRENCES = frozenset({"LSTM", "GRU", "RNN"})
ANCHORS = CONVOLUTIONS | PRODUCTS | RECURRENCES


@dataclass(frozen=True)
class Region:
    """anchors: labels of its products. labels: of all its nodes. origins: labels of the nodes of the user's file that
    these were made from."""

    anchors: tuple[str, ...]
    labels: tuple[str, ...]
    origins: frozenset[str]

    @property
    def name(self) -> str:
        """The first product, and how many more there are."""
        more = len(self.anchors) - 1
        return self.anchors[0] + (f" and {more} more" if more else "")


def anchors_of(model: Model) -> list[Node]:
    """The products of a model: Conv, ConvTranspose, MatMul, Gemm, LSTM, GRU, RNN; of float values."""
    return [node for node in _nodes(model) if _is_anchor(node)]


def regions_of(model: Model) -> list[Region]:
    """Every anchor with the nodes that follow it, up to the next ones; a node with several inputs goes with the last of
    them. What comes before the first anchor of its scope is in no region."""
    members: dict[Node, list[Node]] = {}
    home: dict[Node, Node] = {}
    order: dict[Node, int] = {}
    for node in _nodes(model):
        if _is_anchor(node):
            order[node] = len(order)
            home[node] = node
        else:
            before = [home[v.producer] for v in node.inputs if v is not None and v.producer in home]
            if not before:
                continue
            home[node] = max(before, key=order.__getitem__)
        members.setdefault(home[node], []).append(node)
    return [
        Region((anchor.label,), tuple(node.label for node in nodes), _origins(nodes))
        for anchor, nodes in members.items()
    ]


def grouped(regions: Sequence[Region], most: int) -> list[Region]:
    """At most so many: neighbours joined."""
    size = max(1, -(-len(regions) // max(1, most)))
    return [_joined(regions[at : at + size]) for at in range(0, len(regions), size)]


def _joined(regions: Sequence[Region]) -> Region:
    anchors = tuple(name for region in regions for name in region.anchors)
    labels = tuple(name for region in regions for name in region.labels)
    return Region(anchors, labels, frozenset().union(*(region.origins for region in regions)))


def patterns(labels: Iterable[str]) -> str:
    """Labels as the options `only` and `keep_float` of passes take them: a comma becomes the pattern of any
    character, and a label that looks like a pattern matches itself, too."""
    return ",".join(dict.fromkeys(label.replace(",", "?").strip() for label in labels))


def translated(model: Model, given: str, what: str) -> list[str]:
    """The labels of nodes that comma-separated patterns mean: by the label, or by that of a node of the user's file
    which it was made from. Raises GraphoptError for a pattern that means nothing, naming it."""
    parts = [part.strip() for part in given.split(",") if part.strip()]
    found: dict[str, None] = {}
    used: set[str] = set()
    for node in _nodes(model):
        names = dict.fromkeys((node.label, *origin_of(node).sources))
        for part in parts:
            if any(part == name or fnmatchcase(name, part) for name in names):
                used.add(part)
                found[node.label] = None
    lost = [part for part in parts if part not in used]
    if lost:
        raise GraphoptError(f"{what} {lost[0]!r} matches no node; names are as `graphopt inspect` lists them")
    return list(found)


def _nodes(model: Model) -> Iterator[Node]:
    for graph in model.scopes():
        yield from graph


def _is_anchor(node: Node) -> bool:
    if node.domain or node.op not in ANCHORS:
        return False
    return len(node.inputs) > 1 and node.inputs[1] is not None


def _origins(nodes: Iterable[Node]) -> frozenset[str]:
    return frozenset(name for node in nodes for name in origin_of(node).sources)
