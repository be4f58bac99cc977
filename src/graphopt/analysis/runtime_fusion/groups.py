"""Kernels while they are put together: every node that runs starts as one of its own, and fusions join them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from graphopt.analysis.runtime_fusion.region import Region, only_reader
from graphopt.ir import Graph, Node, Value

_NEVER_RUN = frozenset(("Constant", "Identity"))


@dataclass(eq=False)
class Group:
    """A kernel that may still grow. kernel, domain: its operator. nodes: the last one gives the result. folded: those
    that go into weights. closed: whether it has an activation, behind which nothing is worked in."""

    kernel: str
    nodes: list[Node]
    domain: str = ""
    anchor: Node | None = None
    folded: set[Node] = field(default_factory=set)
    closed: bool = False

    @property
    def output(self) -> Value:
        """The result."""
        return self.nodes[-1].output

    def region(self) -> Region:
        """As it is now, for good."""
        return Region(self.kernel, tuple(self.nodes), self.anchor, frozenset(self.folded), self.domain)


class Groups:
    """The kernels of a graph."""

    def __init__(self, graph: Graph, never: frozenset[str] = _NEVER_RUN):
        self.of: dict[Node, Group] = {}
        self.extra: list[Region] = []
        self.folded: set[Value] = set()  # computed from constants alone
        self.graph = graph
        for node in graph:
            if self._runs(node, never):
                self.of[node] = Group(node.op, [node], node.domain, node)

    def is_const(self, value: Value | None) -> bool:
        """Whether a value is constant once the runtime has folded constants; so is one that is left out."""
        return value is None or value.is_const or value in self.folded

    def _runs(self, node: Node, never: frozenset[str]) -> bool:
        """Whether anything is left of a node once the runtime has folded constants."""
        if node.domain or node.subgraphs:
            return True
        if node.inputs and all(self.is_const(value) for value in node.inputs):
            self.folded.update(node.outputs)
            return False
        if node.op in never or (node.op == "Dropout" and not any(v.name and v.users for v in node.outputs[1:])):
            return False
        if node.op in ("Shape", "Size") and node.inputs[0] is not None:
            shape = node.inputs[0].shape
            return shape is None or not all(isinstance(dim, int) for dim in shape)
        return True

    def __iter__(self) -> Iterator[Group]:
        """Those that there are at the beginning and that no other has taken in since, in the order of the results."""
        for group in list(dict.fromkeys(self.of.values())):
            if self.of.get(group.nodes[-1]) is group:
                yield group

    def made_by(self, value: Value | None) -> Group | None:
        """The kernel whose result a value is."""
        group = None if value is None or value.producer is None else self.of.get(value.producer)
        return group if group is not None and group.output is value else None

    def next(self, group: Group) -> Group | None:
        """The kernel of one node that alone reads a result."""
        reader = only_reader(group.output)
        found = None if reader is None else self.of.get(reader)
        return found if found is not None and len(found.nodes) == 1 else None

    def join(self, nodes: Iterable[Node], kernel: str, domain: str = "", anchor: Node | None = None) -> Group | None:
        """Makes one kernel of nodes that are none of a larger one yet; the last gives the result. None where one is."""
        nodes = list(nodes)
        if any(node not in self.of or len(self.of[node].nodes) > 1 for node in nodes):
            return None
        group = Group(kernel, nodes, domain, anchor)
        self.of.update(dict.fromkeys(nodes, group))
        return group

    def absorb(self, group: Group, other: Group, *, folded: bool = False, closes: bool = False) -> None:
        """Works the kernel that reads a group's result into it."""
        group.nodes += other.nodes
        group.closed = group.closed or closes
        if folded:
            group.folded |= set(other.nodes)
        self.of.update(dict.fromkeys(other.nodes, group))

    def regions(self) -> list[Region]:
        """All kernels."""
        return [*(group.region() for group in self), *self.extra]

    def add(self, kernel: str, value: Value, domain: str = "") -> None:
        """A kernel that stands for no node, and reads or gives a value."""
        self.extra.append(Region(kernel, (), None, frozenset(), domain, value))
