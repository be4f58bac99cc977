"""Where nodes and constants come from: the original nodes behind each, and the chain of rules that made it.

What a rule makes is marked, in the metadata_props of the node or tensor: under ``graphopt.sources`` the labels of
original nodes, under ``graphopt.rule`` the rules that were at it, in their order, both between commas (the labels as a
JSON list where one has a comma). What is not marked is an original, under its own name: nodes under their labels, and
initializers under the names of the values that they are. The marks are kept through save and load, and of a model that
is optimized again the originals stay those of the first.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from onnx import NodeProto, TensorProto

    from graphopt.ir.node import Node

__all__ = ["RULE_KEY", "SOURCES_KEY", "Origin", "mark", "mark_tensor", "origin_in", "origin_of", "origin_of_all"]

RULE_KEY, SOURCES_KEY = "graphopt.rule", "graphopt.sources"
MOST = 64  # labels kept for one node: of a long chain that collapses step by step, all would cost its length squared


class Origin(NamedTuple):
    """sources: labels of original nodes, the first `MOST` of them. rules: names of the rules that made it, each once,
    in their order; none for an original."""

    sources: tuple[str, ...]
    rules: tuple[str, ...] = ()


def origin_of(node: Node) -> Origin:
    """The origin of a node: its own label where it is an original."""
    if node.sources:
        return Origin(node.sources, node.rules)
    found = origin_in(node.proto)
    if found is None:
        return Origin((node.label,))
    node.sources, node.rules = found
    return found


def origin_in(proto: NodeProto | TensorProto) -> Origin | None:
    """What is marked in a file; None where nothing is, or nothing that can be read."""
    if not proto.metadata_props:
        return None
    marks = {entry.key: entry.value for entry in proto.metadata_props}
    sources = _names(marks.get(SOURCES_KEY, ""))
    return Origin(sources, tuple(filter(None, marks.get(RULE_KEY, "").split(",")))) if sources else None


def origin_of_all(nodes: Iterable[Node | str], rule: str = "") -> Origin:
    """The origin of what a rule makes of these nodes; a text stands for the label of an original."""
    sources: dict[str, None] = {}
    rules: dict[str, None] = {}
    for node in nodes:
        found = Origin((node,)) if isinstance(node, str) else origin_of(node)
        sources.update(dict.fromkeys(found.sources))
        rules.update(dict.fromkeys(found.rules))
    if rule:
        rules.pop(rule, None)
        rules[rule] = None
    return Origin(tuple(sources) if len(sources) <= MOST else tuple(sources)[:MOST], tuple(rules))


def mark(node: Node, origin: Origin) -> None:
    """Notes in a node's metadata_props where it comes from."""
    node.sources, node.rules = origin
    _write(node.proto, origin)


def mark_tensor(proto: TensorProto, origin: Origin) -> None:
    """The same for a constant."""
    _write(proto, origin)


def _write(proto: NodeProto | TensorProto, origin: Origin) -> None:
    kept = [entry for entry in proto.metadata_props if entry.key not in (RULE_KEY, SOURCES_KEY)]
    if len(kept) != len(proto.metadata_props):
        pairs = [(entry.key, entry.value) for entry in kept]
        del proto.metadata_props[:]
        for key, value in pairs:
            proto.metadata_props.add(key=key, value=value)
    proto.metadata_props.add(key=RULE_KEY, value=",".join(origin.rules))
    proto.metadata_props.add(key=SOURCES_KEY, value=_text(origin.sources))


def _text(names: Sequence[str]) -> str:
    plain = not any("," in name or name.startswith("[") for name in names)
    return ",".join(names) if plain else json.dumps(names)


def _names(text: str) -> tuple[str, ...]:
    if not text.startswith("["):
        return tuple(filter(None, text.split(",")))
    try:
        return tuple(map(str, json.loads(text)))
    except ValueError:
        return (text,)  # by another hand
