"""Which operators of a scope cannot depend on each other: those of one level.

The level of a node is the length of the longest path that leads to it, so that every edge goes up. Merging nodes of one
level, and of any number of levels, leaves the graph without cycles: the merged node keeps the level.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import prod

from onnx import TensorProto

from graphopt.analysis.batching import Plan, gain_of_plan
from graphopt.ir import Dim, Graph, Node, Shape, Value
from graphopt.ir.order import is_sorted, reads

# What all operators that move data take at every opset, in ONNX Runtime, too: not bfloat16, strings, and what is newer.
_MOVABLE = "BOOL DOUBLE FLOAT FLOAT16 INT8 INT16 INT32 INT64 UINT8 UINT16 UINT32 UINT64"
MOVABLE = frozenset(getattr(TensorProto, name) for name in _MOVABLE.split())
HALVES = frozenset({TensorProto.FLOAT16, TensorProto.BFLOAT16})
UNKNOWN_SIZE = 64  # what a dim that is not known counts as; the first one, mostly a batch, as 1 and as this


def rounds_anew(value: Value, target: str) -> str:
    """Why values of this type must not be moved, or nothing. ONNX Runtime computes 16-bit numbers in float32 on a CPU
    and drops the roundings in between, but not where a Concat or Split moves them: measured, one such pair makes the
    outputs of a model 788 times less accurate."""
    if target == "tensorrt" or value.graph.model.fast_math or value.dtype not in HALVES:
        return ""
    return "a Concat or Split of 16-bit numbers would round what is computed in float32; fast_math=True allows it"


def levels(graph: Graph) -> dict[Node, int]:
    """The level of every node, from 1; what bodies read counts as read by their node."""
    found: dict[Node, int] = {}
    for node in graph:
        found[node] = 1 + max((found[before] for before in reads(node, graph)), default=0)
    return found


def restore_order(graph: Graph) -> None:
    """Puts definitions before uses again, after nodes of one level were merged."""
    if not is_sorted(graph):
        graph.toposort()


def attributes(node: Node, without: str = "") -> tuple[bytes, ...]:
    """The same for nodes with equal attributes."""
    return tuple(sorted(a.SerializeToString(deterministic=True) for a in node.proto.attribute if a.name != without))


def is_single(value: Value) -> bool:
    """Whether one slot reads it, and no graph returns it."""
    return not value.outs and sum(value.users.values()) == 1


def casts_to_what_moves(node: Node) -> bool:
    """Whether a Cast gives a type that can be split; True for all that is no Cast."""
    return node.op != "Cast" or node.attr("to") in MOVABLE


def operand(node: Node, slot: int = 0) -> Value:
    """An input that is known to be there."""
    value = node.inputs[slot]
    assert value is not None
    return value


def known(value: Value) -> tuple[int | str, ...] | None:
    """The dims, if each is a size or a symbol. Symbols of an input with a default are none: the default has sizes of
    its own, whatever the symbol stands for elsewhere."""
    shape = value.shape
    if shape is None:
        return None
    has_default = value.is_input and value.tensor is not None
    dims = tuple(dim for dim in shape if isinstance(dim, int) or (dim is not None and not has_default))
    return dims if len(dims) == len(shape) else None


def by_shape(group: Iterable[Node]) -> list[list[Node]]:
    """Operators whose first operands are certainly of one shape, together; one of which that is not known, alone."""
    found: dict[object, list[Node]] = {}
    for node in group:
        shape = known(operand(node))
        found.setdefault(node if shape is None else shape, []).append(node)
    return list(found.values())


def estimate(shape: Shape | None, first: int = 1) -> int:
    """About how many elements. first: what the first size counts as where it is not known."""
    return prod(_size(dim, UNKNOWN_SIZE if place else first) for place, dim in enumerate(shape or ()))


def _size(dim: Dim, unknown: int) -> int:
    return dim if isinstance(dim, int) else unknown


def gain_at_any_size(shape: Shape | None, price: Callable[[int], Plan]) -> float:
    """How many times as fast a plan is whose price depends on the first of these sizes: where that is not known, at 1,
    if nothing is lost at `UNKNOWN_SIZE`."""
    gain = gain_of_plan(price(1))
    if not shape or isinstance(shape[0], int):
        return gain
    at_most = gain_of_plan(price(UNKNOWN_SIZE))
    return gain if at_most >= 1 else min(gain, at_most)


def axis_in(node: Node, rank: int | None, default: int) -> int | None:
    """The attribute `axis` counted from the front, or None where the rank is not known or does not have it."""
    axis = int(node.attr("axis", default))
    if rank is None or not -rank <= axis < rank:
        return None
    return axis % rank
