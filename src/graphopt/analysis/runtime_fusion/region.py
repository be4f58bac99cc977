"""What runs as one kernel, and the questions about readers and constants that recognising it takes."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from math import isfinite

from graphopt.ir import Node, Value

Shape = tuple[int | str | None, ...]


@dataclass(frozen=True)
class Region:
    """Nodes that a runtime executes as one kernel.

    kernel: the operator that it runs. nodes: in an order in which they could run, the one that gives the result last.
    anchor: the node that does the most, None where none does. folded: nodes that go into weights at load. domain: of
    the kernel. value: of a kernel that stands for no node (nodes is empty) what it brings into another layout or shape.
    """

    kernel: str
    nodes: tuple[Node, ...]
    anchor: Node | None = None
    folded: frozenset[Node] = field(default=frozenset())
    domain: str = ""
    value: Value | None = None

    @property
    def root(self) -> Node:
        """The node that gives the result. Raises IndexError for a kernel that stands for no node."""
        return self.nodes[-1]

    @property
    def is_renamed(self) -> bool:
        """Whether the kernel is another one than the result's node asks for."""
        return bool(self.nodes) and (self.kernel, self.domain) != (self.root.op, self.root.domain)


def only_reader(value: Value) -> Node | None:
    """The one node that reads a value, once; None where that is not so, or the graph gives it out."""
    if value.outs or len(value.users) != 1:
        return None
    ((reader, times),) = value.users.items()
    return reader if times == 1 else None


def all_read_in(value: Value, nodes: Collection[Node]) -> bool:
    """Whether nothing but these nodes reads a value."""
    return not value.outs and len(value.users) <= len(nodes) and set(value.users) <= set(nodes)


def inner(value: Value | None, *ops: str) -> Node | None:
    """The node of one of these operators that makes a value which nothing else reads."""
    node = None if value is None else value.producer
    if node is None or value is None or node.op not in ops or node.domain or only_reader(value) is None:
        return None
    return node


def operands(node: Node) -> tuple[Value | None, Value | None]:
    """The live one of two operands and the constant one; None for what is not there."""
    pair = list(node.inputs[:2])
    live = [value for value in pair if value is not None and not value.is_const]
    const = [value for value in pair if value is not None and value.is_const]
    return (live[0] if len(live) == 1 else None), (const[0] if const else None)


def number(value: Value | None) -> float | None:
    """The one element of a constant, if it is a finite number."""
    if value is None or not value.is_const or value.shape is None or any(dim != 1 for dim in value.shape):
        return None
    array = value.numpy()
    found = float(array.reshape(())) if array.dtype.kind in "fiu" else float("nan")
    return found if isfinite(found) else None


def near(found: float | None, wanted: float) -> bool:
    """Whether a constant is this number, as exporters round it."""
    return found is not None and abs(found - wanted) <= 1e-3 * abs(wanted)


def may_equal(one: Shape | None, other: Shape | None) -> bool:
    """Whether two shapes may be the same without broadcasting: what is not known may be anything but 1."""
    if one is None or other is None:
        return True
    if len(one) != len(other):
        return False
    return all(a == b or ((is_open(a) or is_open(b)) and 1 not in (a, b)) for a, b in zip(one, other, strict=True))


def is_open(dim: int | str | None) -> bool:
    """Whether nothing is known of a size; names that onnx makes up say nothing."""
    return dim is None or (isinstance(dim, str) and dim.startswith("unk__"))


def ordered(nodes: Sequence[Node], root: Node) -> tuple[Node, ...]:
    """Without repetitions, the root last."""
    return (*(node for node in dict.fromkeys(nodes) if node is not root), root)
