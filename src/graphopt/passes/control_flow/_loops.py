"""What is certain of a Loop, and of operators that leave it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from math import prod

from onnx import TensorProto, TypeProto, helper

from graphopt.ir import Dim, Graph, Model, Node, Shape, Value
from graphopt.passes.simplify._facts import ints, is_true
from graphopt.rewrite import Builder
from graphopt.rewrite.sweep import is_opaque, sweep

LARGEST = 1 << 24  # elements of what is kept as long as a loop runs
# Elementwise, deterministic, and defined for every value.
TOTAL = frozenset(
    "Abs Acos Acosh Add And Asin Asinh Atan Atanh Ceil Clip Cos Cosh Elu Equal Erf Exp Floor Greater HardSigmoid "
    "LeakyRelu Less Log Max Min Mul Neg Not Or Reciprocal Relu Round Selu Sigmoid Sign Sin Sinh Softplus "
    "Softsign Sqrt Sub Sum Tan Tanh Where Xor".split()
)
NUMBERS = frozenset(
    {TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.INT32, TensorProto.INT64, TensorProto.BOOL, TensorProto.UINT8}
)  # what a Cast turns into each other without fail


def loops(model: Model, *ops: str) -> Iterator[tuple[Node, Graph]]:
    """Every loop with its body, inner ones first."""
    for graph in reversed(list(model.scopes())):
        owner = graph.owner
        if owner is None or owner.op not in ops or owner.domain or owner.has_references or is_opaque(graph):
            continue
        yield owner, graph


def runs(loop: Node) -> bool:
    """Whether the body certainly runs at least once."""
    if loop.op != "Loop":
        return False
    limit, condition = loop.inputs[:2]
    most = ints(limit)
    once = limit is None or (most is not None and len(most) == 1 and most[0] > 0)
    return once and (condition is None or is_true(condition) is True)


def is_outer(value: Value, body: Graph) -> bool:
    """Whether a value that the body reads is the same in every trip and can be had in front of the loop."""
    return value.graph is not body or value.is_const


def broadcast(shapes: Sequence[Shape]) -> Shape | None:
    """The shape of an elementwise result, or None where the operands are not certain to fit."""
    if len(shapes) > 1 and any(None in shape for shape in shapes):
        return None
    dims: list[Dim] = []
    for axis in range(max(map(len, shapes), default=0), 0, -1):
        sizes = {shape[-axis] for shape in shapes if len(shape) >= axis}
        if len(sizes) > 1:
            sizes -= {1}
        if len(sizes) > 1:
            return None
        dims.append(sizes.pop())
    return tuple(dims)


def is_bounded(result: Shape | None, operands: Sequence[Shape | None]) -> bool:
    """Whether a result is certainly not much larger than one of the operands, whatever the sizes not known are."""
    if result is None or prod(dim for dim in result if isinstance(dim, int)) > LARGEST:
        return False
    unknown = Counter(dim for dim in result if not isinstance(dim, int))
    sizes = [Counter(dim for dim in shape if not isinstance(dim, int)) for shape in operands if shape is not None]
    return not unknown or any(unknown <= size for size in sizes)


def copy_out(node: Node, loop: Node, given: Sequence[Value | None], shape: Shape | None, rule: str) -> Builder:
    """The node again, in front of the loop; constants of the body come along. Its name is a new one: bodies may share
    names, and what leaves them meets in one graph. shape: of the result, if that is known to differ."""
    new = Builder(loop.graph, loop, rule, [node])
    inputs: list[Value | None] = []
    for value in given:
        own = value is not None and value.graph is node.graph
        inputs.append(new.constant(value.numpy(), value.name) if own and value is not None else value)
    made = new.make(node.op, *inputs, like=node)
    made.set_type(node.output.type if shape is None else _typed(node.output.dtype, shape))
    return new


def _typed(dtype: int | None, shape: Shape) -> TypeProto | None:
    return None if dtype is None else helper.make_tensor_type_proto(dtype, shape)


def replace(old: Node, made: Value) -> None:
    """Readers of the old node read what is made; it goes."""
    old.output.replace_with(made)
    sweep(old)
