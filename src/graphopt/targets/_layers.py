"""From the nodes that ONNX Runtime executes back to those of the file, and to those of the original."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from onnx import GraphProto, ModelProto, NodeProto

from graphopt.ir import Model, Node, Value
from graphopt.ir.order import reads_of
from graphopt.ir.provenance import origin_of

__all__ = ["Layers"]

_LAYOUT = frozenset({"ReorderInput", "ReorderOutput", "MemcpyToHost", "MemcpyFromHost"})
_MARKS = ("_nchwc", "_quant", "_transpose", "_fused", "_fusion", "_token")  # what the runtime puts behind a name
_FAR = 64  # nodes looked at to find what one kernel computes


class Layers:
    """What each executed node stands for. model: the file's; executed: the graph that the runtime wrote out."""

    def __init__(self, model: Model, executed: ModelProto) -> None:
        from graphopt.verify.source import bodies

        self._values: dict[str, Value] = {}
        self._nodes: dict[str, Node] = {}
        for graph in model.scopes():
            for name, value in graph.values.items():
                self._values.setdefault(name, value)
            for node in graph:
                if node.name:
                    self._nodes.setdefault(node.name, node)
        self._by_name: dict[tuple[str, str], NodeProto] = {}
        self._unnamed: dict[str, list[NodeProto]] = defaultdict(list)
        self._makers: dict[str, NodeProto] = {}
        self._readers: dict[str, list[NodeProto]] = defaultdict(list)
        pending: list[GraphProto] = [executed.graph, *executed.functions]  # type: ignore[list-item]
        while pending:
            for proto in pending.pop().node:
                if proto.name:
                    self._by_name.setdefault((proto.name, proto.op_type), proto)
                else:
                    self._unnamed[proto.op_type].append(proto)
                self._makers.update((name, proto) for name in proto.output if name)
                for name in proto.input:
                    self._readers[name].append(proto)
                pending += bodies(proto)
        self._known: dict[tuple[str, str], tuple[tuple[str, ...], str]] = {}
        self._places: dict[str, int] = defaultdict(int)
        every = [*self._by_name.values(), *(proto for protos in self._unnamed.values() for proto in protos)]
        self._taken = {node: proto for proto in every for node in self._ends(proto, proto.name, proto.op_type)}

    def of(self, name: str, op: str) -> tuple[tuple[str, ...], str]:
        """Labels of the original nodes behind an executed node, and how they were found."""
        key = name, op
        if key not in self._known:
            self._known[key] = self._find(name, op)
        return self._known[key]

    def _find(self, name: str, op: str) -> tuple[tuple[str, ...], str]:
        proto = self._by_name.get((name, op))
        if proto is None and self._unnamed[op]:  # called by operator and number, in the order of execution
            place = self._places[op]
            self._places[op] = min(place + 1, len(self._unnamed[op]) - 1)
            proto = self._unnamed[op][place]
        direct = self._direct(proto, name, op)
        if direct:
            return _labels(direct), "name"
        if proto is not None:
            near = self._near(proto)
            if near:
                return _labels(near), "place"
        return (f"{op} {name}",), "unknown"

    def _direct(self, proto: NodeProto | None, name: str, op: str) -> list[Node]:
        """The file's nodes that an executed node computes, by the names of tensors or by its own."""
        makers = self._ends(proto, name, op)
        return self._between(makers, proto) if proto is not None and makers else makers

    def _ends(self, proto: NodeProto | None, name: str, op: str) -> list[Node]:
        """The last of them."""
        if op in _LAYOUT:
            return []
        ends = [self._values[out] for out in proto.output if out in self._values] if proto is not None else []
        if not ends:
            value = self._values.get(_plain(name))
            node = self._nodes.get(name) or self._nodes.get(_plain(name))
            if value is not None and value.producer is not None:
                ends = [value]
            elif node is not None:
                return [node]
        return [value.producer for value in ends if value.producer is not None]

    def _between(self, makers: list[Node], proto: NodeProto) -> list[Node]:
        """These nodes and those before them, back to what other executed nodes make."""
        found = dict.fromkeys(makers)
        pending = list(found)
        own = set(proto.output)
        while pending and len(found) < _FAR:
            for value in reads_of(pending.pop()):
                maker = value.producer
                if maker is None or maker in found or maker.op == "Constant" or maker.graph is not makers[0].graph:
                    continue
                if self._taken.get(maker, proto) is not proto:
                    continue  # another kernel's
                if value.name not in own and (value.name in self._makers or value.name in self._readers):
                    continue
                if any(user not in found for user in value.users) or value.outs:
                    continue  # something else needs it, so another kernel makes it
                found[maker] = None
                pending.append(maker)
        return list(found)

    def _near(self, proto: NodeProto) -> list[Node]:
        """For what the runtime put in: the nodes that read what it makes, else those that make what it reads."""
        for forward in (True, False):
            seen: set[int] = set()
            layer = [proto]
            while layer and len(seen) < _FAR:
                following: list[NodeProto] = []
                for item in layer:
                    for other in self._next_to(item, forward):
                        if id(other) in seen:
                            continue
                        seen.add(id(other))
                        found = self._direct(other, other.name, other.op_type)
                        if found:
                            return found
                        following.append(other)
                layer = following
        return []

    def _next_to(self, item: NodeProto, forward: bool) -> list[NodeProto]:
        if forward:
            return [other for name in item.output for other in self._readers[name]]
        return [self._makers[name] for name in item.input if name in self._makers]


def _plain(name: str) -> str:
    """A name without what the runtime put behind it."""
    for mark in _MARKS:
        head, found, _ = name.rpartition(mark)
        if found and head:
            return head
    return name.removeprefix("fused ")


def _labels(nodes: Iterable[Node]) -> tuple[str, ...]:
    found: dict[str, None] = {}
    for node in nodes:
        found.update(dict.fromkeys(origin_of(node).sources))
    return tuple(found)
