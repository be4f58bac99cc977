"""Operators that compute different channels from one input, and what follows each of them in the same way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

from graphopt.ir import Graph, Node, Value
from graphopt.passes.horizontal._levels import attributes
from graphopt.rewrite import Refusal, refuse

MERGED = ("Conv", "ConvTranspose", "MatMul", "Gemm")
CONVOLUTIONS = ("Conv", "ConvTranspose")
UNARY = frozenset(
    "Relu LeakyRelu Sigmoid Tanh HardSigmoid HardSwish Elu Selu Softplus Softsign Gelu Mish Abs Neg Exp".split()
)
BINARY = frozenset("Add Sub Mul Div".split())


@dataclass
class Family:
    """Siblings of one input; or convolutions, each of an input of its own.

    stages: first the operators, then what follows each of them, in the same order. weights: which axis of the weight
    holds the output channels. axis: which axis of the results does. sizes: channels of each. reduction: products that
    are added up for one element of a result.
    """

    stages: list[list[Node]]
    weights: int
    axis: int
    sizes: list[int]
    reduction: int
    before: Node | None = None  # what the merged operator stands in front of, if not the first

    @property
    def first(self) -> Node:
        """The sibling that stands first."""
        return self.stages[0][0]

    @property
    def last(self) -> Node:
        """In front of it, all inputs are there."""
        return self.before or self.first

    @property
    def inputs(self) -> list[Value]:
        """What they read, each once."""
        return list(dict.fromkeys(node.inputs[0] for node in self.stages[0] if node.inputs[0] is not None))

    @property
    def nodes(self) -> list[Node]:
        """All of them."""
        return [node for stage in self.stages for node in stage]

    @property
    def tails(self) -> list[Value]:
        """The last result of each sibling."""
        return [node.output for node in self.stages[-1]]


def families(graph: Graph) -> Iterator[list[Node]]:
    """All operators of a graph that read one input and are alike but for their weights."""
    found: dict[object, list[Node]] = {}
    for node in graph:
        if node.op in MERGED and not node.domain and len(node.outputs) == 1:
            key = _likeness(node)
            if key is not None:
                found.setdefault(key, []).append(node)
    yield from (siblings for siblings in found.values() if len(siblings) > 1)


def _likeness(node: Node) -> object:
    """The same for siblings; None for what has no constant weight."""
    x, weight, bias = node.input(0), node.input(1), node.input(2)
    if x is None or x.is_const or weight is None or not weight.is_const or (bias is not None and not bias.is_const):
        return None
    dims, axis = _dims(weight), weight_axis(node)
    rest = tuple(d for k, d in enumerate(dims) if k != axis)
    bare = bias is None and node.op == "Gemm" and node.attr("beta") != 1  # else a bias that adds nothing can be made
    return node.op, x, attributes(node, without="transB"), weight.dtype, len(dims), rest, bare


def _dims(constant: Value | None) -> tuple[int, ...]:
    shape = constant.shape if constant is not None else None
    return tuple(int(d) for d in shape or () if isinstance(d, int))


def weight_axis(node: Node) -> int:
    """The axis of the weights that holds the output channels."""
    if node.op == "Conv":
        return 0
    return 0 if node.op == "Gemm" and node.attr("transB", 0) else 1


def family_of(siblings: list[Node]) -> Family:
    """The family, without what follows."""
    first, axis = siblings[0], weight_axis(siblings[0])
    shapes = [_dims(node.inputs[1]) for node in siblings]
    sizes = [dims[weight_axis(node)] for node, dims in zip(siblings, shapes, strict=True) if len(dims) > 1]
    reduction = prod(d for k, d in enumerate(shapes[0]) if k != axis)
    return Family([siblings], axis, 1 if first.op in CONVOLUTIONS else -1, sizes, reduction)


def reason_apart(family: Family) -> Refusal | None:
    """Why the siblings cannot be one operator, or None."""
    first = family.first
    if not family.sizes or (first.op not in CONVOLUTIONS and len(_dims(first.inputs[1])) != 2):
        return refuse("the weights are not matrices")
    if first.op in CONVOLUTIONS and first.attr("group", 1) != 1:
        return refuse("the convolutions are grouped")
    if any(not _fits_bias(node, size) for node, size in zip(family.stages[0], family.sizes, strict=True)):
        return refuse("a bias is not one number per column")
    if first.op == "MatMul" and first.graph.opset() < 11 and first.output.rank is None:
        return refuse("the rank is not known, and Split counts its axis from the front before opset 11")
    return None


def shares_weights(node: Node) -> bool:
    """Whether others read its weight or bias, too, so that the file would grow."""
    return any(_is_shared(node.input(k)) for k in (1, 2))


def _is_shared(value: Value | None) -> bool:
    return value is not None and value.outs + sum(value.users.values()) > 1


def _fits_bias(node: Node, size: int) -> bool:
    bias = node.input(2)
    return bias is None or bias.shape in ((size,), (1, size))


def follow(family: Family) -> None:
    """Adds the stages in which every sibling is followed by the same operator, and by nothing else."""
    while True:
        stage = _next(family)
        if stage is None:
            return
        family.stages.append(stage)


def _next(family: Family) -> list[Node] | None:
    stage = []
    for tail in family.tails:
        if tail.outs or sum(tail.users.values()) != 1:
            return None
        (user,) = tail.users
        if user.graph is not family.first.graph or user.domain or len(user.outputs) != 1:
            return None
        stage.append(user)
    alike = {(node.op, attributes(node)) for node in stage}
    if len(alike) != 1 or len(set(stage)) != len(stage):
        return None
    if stage[0].op in UNARY and all(len(node.inputs) == 1 for node in stage):
        return stage
    if stage[0].op in BINARY and stage_constants(family, stage) is not None:
        return stage
    return None


def stage_constants(family: Family, stage: Sequence[Node]) -> tuple[int, int] | None:
    """Of a stage of two operands, one of them a constant with a number for each channel: the slot of the constant, and
    its axis that holds the channels, counted from the end. None where it is anything else."""
    axis = -1 if family.axis == -1 else 1 - len(_dims(family.first.inputs[1]))
    for slot in (0, 1):
        constants = [node.inputs[slot] for node in stage]
        if any(value is None or not value.is_const or _is_shared(value) for value in constants):
            continue
        shapes = [_dims(value) for value in constants]
        fit = all(_holds(dims, axis, size) for dims, size in zip(shapes, family.sizes, strict=True))
        return (slot, axis) if fit and len({len(dims) for dims in shapes}) == 1 else None
    return None


def _holds(dims: Sequence[int], axis: int, size: int) -> bool:
    """Whether a constant of these dims varies along that axis only, has the channels there, and adds no dims."""
    most = 1 if axis == -1 else 1 - axis  # of the results of convolutions; those of MatMul may be vectors
    return -axis <= len(dims) <= most and dims[axis] == size == prod(dims)


def concat_of(family: Family) -> tuple[Node, int] | None:
    """The Concat that reads the results, all of them and nothing else of them, side by side and in order; and its first
    slot that does."""
    users = {user for tail in family.tails for user in tail.users}
    if len(users) != 1 or any(tail.outs or sum(tail.users.values()) != 1 for tail in family.tails):
        return None
    (node,) = users
    if node.op != "Concat" or node.domain or node.graph is not family.first.graph:
        return None
    axis, rank = int(node.attr("axis", 1)), family.tails[0].rank
    if axis != family.axis and (rank is None or axis % rank != family.axis % rank):
        return None
    start = list(node.inputs).index(family.tails[0])
    return (node, start) if list(node.inputs[start : start + len(family.tails)]) == family.tails else None
