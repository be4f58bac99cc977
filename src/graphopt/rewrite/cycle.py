"""Notices rewrites that do not end."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any

from graphopt.errors import RewriteCycle
from graphopt.ir import Graph, Value
from graphopt.rewrite.pattern import Match

_SUSPICIOUS = 8  # rewrites of one value from which on the regions are compared
_REPEATS = 3  # times that one region may come back
_MOST = 4096  # rewrites of one value, even if each region is another
_SMALL = 64  # elements of a constant that are compared


class Watch:
    """Raises RewriteCycle, naming the rules, when a region comes back to a form that it had before, or when there are
    many more rewrites than there were nodes."""

    def __init__(self, nodes: int):
        self._left = 64 * nodes + _MOST
        self._rules: dict[tuple[Graph, str], list[str]] = {}
        self._seen: dict[Any, int] = {}
        self._latest: deque[str] = deque(maxlen=64)

    def note(self, rule: str, found: Match) -> None:
        """Called before each rewrite."""
        root = found.root
        name = next((v.name for v in root.outputs if v.name), root.label)  # rewrites hand the name on
        key = (root.graph, name)
        rules = self._rules.setdefault(key, [])
        rules.append(rule)
        self._latest.append(rule)
        self._left -= 1
        if len(rules) > _SUSPICIOUS:
            region = (rule, *key, *_form(found))
            self._seen[region] = self._seen.get(region, 0) + 1
            if self._seen[region] > _REPEATS or len(rules) > _MOST:
                self._give_up(rules[-_SUSPICIOUS:], name)
        if self._left < 0:
            self._give_up(self._latest, name)

    def _give_up(self, rules: Iterable[str], name: str) -> None:
        names = sorted(set(rules))
        who = f"rules {' and '.join(names)} undo each other" if len(names) > 1 else f"rule {names[0]} does not end"
        raise RewriteCycle(f"{who}: {name!r} is rewritten again and again; leave one of them out of the pipeline")


def _form(found: Match) -> list[Any]:
    """The matched region, by what its nodes do and read; names of its inner values do not matter."""
    place = {value: (i, j) for i, node in enumerate(found.nodes) for j, value in enumerate(node.outputs)}
    form: list[Any] = []
    for node in found.nodes:
        form.append((node.domain, node.op, tuple(sorted(a.SerializeToString() for a in node.proto.attribute))))
        form += [place.get(v) or _leaf(v) if v is not None else None for v in node.inputs]
    return form


def _leaf(value: Value) -> Any:
    if not value.is_const:
        return value
    array = value.numpy()
    return array.dtype, array.shape, array.tobytes() if array.size <= _SMALL else None
