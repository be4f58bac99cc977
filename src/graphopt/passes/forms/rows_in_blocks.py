"""sum(x [n, c], rows)   ==   sum(sum(x [k, n/k, c], 1), 0)   likewise the mean

ONNX Runtime's reduction of a single matrix over its rows takes 1.2 ns an element, that of several matrices less than
0.1. Measured, one thread: 12 times as fast (384 x 512), 7 (384 x 256; 56 x 56 x 64 over the first two axes), 2.0 (1000
x 16). The terms are added up in another order. (A product with a row of ones is faster still, 16 times, but there ONNX
Runtime's MatMul refuses an empty batch. A maximum by blocks would be 7 times as fast, but that kernel drops NaN, and
with it all of a block that begins with one.)

Guards: float32; neighbouring axes, not the last one, of known sizes; nothing in front of them but a batch of unknown
size (several matrices have a fast kernel); no Transpose before it that ONNX Runtime moves behind it; a divisor of n
from 2 to 48; from 12,000 elements and 8 columns on.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from graphopt.ir import Node, Value
from graphopt.passes.forms._cost import pays
from graphopt.passes.forms._reduce import reduce, reshape
from graphopt.passes.recognition._forms import is_float
from graphopt.passes.simplify._facts import option, static
from graphopt.passes.simplify.reduce import axes_of
from graphopt.rewrite import Builder, Match, P, const, maybe, refuse, rule
from graphopt.rewrite.rule import Outcome

FEWEST, NARROWEST = 12_000, 8  # elements, columns
FAR = 8  # operators between a reduction and a Transpose
ELEMENTWISE = frozenset("Abs Add Cast Clip Div Elu Exp LeakyRelu Max Min Mul Pow Relu Sigmoid Sqrt Sub Tanh".split())
BLOCKS = sorted(range(2, 49), key=lambda k: abs(k - 16))  # in how many to take the rows, best first


@rule(
    "reduce-rows-in-blocks",
    P.op("ReduceMean", "ReduceSum")("x", maybe(const("axes"))).as_("node"),
    opset=">=5",
    targets=["onnx", "onnxruntime"],
    measure="order",
)
def reduce_rows_in_blocks(m: Match, new: Builder) -> Outcome:
    if not is_float(m.x):
        return refuse("it was measured for float32, and this is not proven to be that")
    found = _rows(m.node, m.x)
    if found is None:
        return refuse("these are not proven to be the rows of a single matrix, of known size")
    if not (pays(found.rows * found.columns, FEWEST) and pays(found.columns, NARROWEST)):
        return refuse("the matrix is so small that one reduction is as fast")
    if _is_turned(m.x):
        return refuse("a Transpose in front of it could no longer be moved behind it")
    blocks = next((k for k in BLOCKS if found.rows % k == 0 and found.rows > k), 0)
    if not blocks:
        return refuse("the number of rows has no divisor near 16")
    op, shape, end = m.node.op, m.x.shape, found.first + found.count
    batch = shape[:1] if found.first else ()
    inner = reshape(new, m.x, (-1, found.rows // blocks, found.columns))
    inner = reduce(new, op, inner, 1, False, m.node)
    inner = reshape(new, inner, (*batch, blocks, found.columns))
    keep = bool(m.node.attr("keepdims", 1))
    if found.first < 2 and found.count == 1 and end == len(shape) - 1:
        return reduce(new, op, inner, found.first, keep, m.node, m.root.output)
    kept = shape[: found.first] + ((1,) * found.count if keep else ()) + shape[end:]
    return reshape(new, reduce(new, op, inner, len(batch), False, m.node), kept, m.root.output)


def _is_turned(x: Value) -> bool:
    """Whether x comes from a Transpose through functions, nothing read twice: ONNX Runtime moves it on."""
    for _ in range(FAR):
        node = x.producer
        if node is None or sum(x.users.values()) != 1 or node.op not in ELEMENTWISE:
            break
        operands = [value for value in node.inputs if value is not None and not value.is_const]
        if len(operands) != 1:
            break
        x = operands[0]
    node = x.producer
    return node is not None and node.op == "Transpose" and sum(x.users.values()) == 1


@dataclass(frozen=True)
class _Rows:
    """Rows and columns of the matrix, and the axes (first, first + count) of x that are its rows."""

    rows: int
    columns: int
    first: int
    count: int


def _rows(node: Node, x: Value) -> _Rows | None:
    """What a reduction of x adds up, if that is certainly a single matrix, but for a batch whose size is not known."""
    if node.attr("noop_with_empty_axes", 0) and not option(node, "axes", 1):
        return None
    axes, shape = axes_of(node, x), x.shape
    if not axes or shape is None:
        return None
    first, count = min(axes), len(axes)
    if sorted(axes) != list(range(first, first + count)) or first + count == len(shape):
        return None
    sizes, front = static(shape[first:]), shape[:first]
    if sizes is None or not prod(sizes) or any(dim != 1 for dim in front[1:]):
        return None
    if front and isinstance(front[0], int) and front[0] != 1:
        return None
    return _Rows(prod(sizes[:count]), prod(sizes[count:]), first, count)
