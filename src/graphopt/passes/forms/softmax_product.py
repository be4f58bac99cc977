"""sum w softmax(x)   ==   (sum w e) / (sum e),  e = exp(x - max(x))   for a Conv1x1 over the axis of the Softmax

The head that reads a distance off a distribution (distribution focal loss): Reshape, Transpose, Softmax(axis=1), Conv
from 16 channels to 1. ONNX Runtime's Softmax transposes there and back where its axis is not the last one, at 3 ns an
element each. Both sums run along the axis as it was before the Transposes; only their quotient is transposed. Measured,
one thread: 8.4 times as fast (4 x 16 x 336), 12 (4 x 16 x 2100), 22 (4 x 16 x 8400). Where the axis is the last one
before the Transposes, Softmax stays, and the Conv becomes a product with a vector: 5.5 times.

Guards: float32; a Softmax over one axis (before opset 13: the last one), which is the last one or the last but one
before the Transposes; Conv with constant, finite weights, 1 x 1 to one channel, no groups, pads and strides; nothing in
between read elsewhere; from 2,048 elements on.
"""

from __future__ import annotations

import numpy as np

from graphopt.ir import NDArray, Node, Value
from graphopt.passes.forms._cost import pays
from graphopt.passes.forms._reduce import reduce
from graphopt.passes.recognition._forms import elements, is_float
from graphopt.rewrite import Builder, Match, P, const, maybe, one_of, refuse, rule
from graphopt.rewrite.pattern import Pattern
from graphopt.rewrite.rule import Outcome

FEWEST = 2048
LARGEST = 1e30  # of the sum of the weights: no partial sum can overflow

_TURNED = P.Transpose("x").as_("first")


def _softmax(x: Pattern | str) -> Pattern:
    return P.Softmax(x).as_("softmax")


@rule(
    "spell-softmax-product",
    P.Conv(
        one_of(
            P.Transpose(_softmax(_TURNED)).as_("second"),
            P.Transpose(_softmax("x")).as_("second"),
            _softmax(_TURNED),
            _softmax("x"),
        ),
        const("w"),
        maybe(const("b")),
    ).as_("conv"),
    opset=">=9",
    targets=["onnx", "onnxruntime"],
    measure="order",
)
def spell_softmax_product(m: Match, new: Builder) -> Outcome:
    rank, w = m.x.rank, m.w.numpy()
    if rank is None or not is_float(m.x):
        return refuse("this is not proven to be float32 of a known rank")
    reason = _objection(m.conv, w, rank)
    if reason:
        return refuse(reason)
    order, matrix = _order(m.get("first"), m.softmax, m.get("second"), rank), w.reshape(w.shape[:2])
    if order is None:
        return refuse("the channels are not what the Softmax is over")
    if not pays(elements(m.x), FEWEST):
        return refuse("the tensor is so small that further operators cost more than they save")
    if order[1] == rank - 1:
        x = new.Softmax(m.x, like=m.softmax, axis=rank - 1, type_of=m.x)
        y = new.MatMul(x, new.constant(matrix.T.copy(), like=m.w))
        y = _plus(m.b, (-1,), y, new)
    elif order[1] == rank - 2:
        y = _plus(m.b, (-1, 1), _quotient(m.x, rank - 2, matrix, m.w, new), new)
    else:
        return refuse("the axis is neither the last one nor the last but one")
    return new.Transpose(y, perm=order, type_of=m.root.output)


def _objection(conv: Node, w: NDArray, rank: int) -> str:
    plain = all(k == 1 for k in (*w.shape[2:], *(conv.attr("strides") or ()))) and not any(conv.attr("pads") or ())
    if w.ndim != rank or not plain or conv.attr("group", 1) != 1:
        return "the Conv does more than to add up channels"
    if w.shape[0] != 1:
        return "the Conv makes more than one channel"
    if not np.isfinite(w).all() or np.abs(w.astype(np.float64)).sum() > LARGEST:
        return "the weights are not finite, or so large that sums may overflow"
    return ""


def is_head(softmax: Node) -> bool:
    """Whether this rule takes a Softmax with several axes behind its own into the Conv that reads it."""
    second = _reader(softmax)
    conv = second if second is None or second.op == "Conv" else _reader(second)
    rank, w = softmax.output.rank, None if conv is None else conv.input(1)
    if (
        conv is None
        or conv.op != "Conv"
        or rank is None
        or w is None
        or not w.is_const
        or _objection(conv, w.numpy(), rank)
    ):
        return False
    source = softmax.inputs[0]
    first = None if source is None or source.users[softmax] != sum(source.users.values()) else source.producer
    turned = first if first is not None and first.op == "Transpose" else None
    order = _order(turned, softmax, second if second is not conv else None, rank)
    return order is not None and order[1] >= rank - 2


def _reader(node: Node) -> Node | None:
    """The Transpose or Conv that alone reads a node's output."""
    readers = list(node.output.users)
    alone = len(readers) == 1 and not node.output.outs and readers[0].op in ("Conv", "Transpose")
    return readers[0] if alone else None


def _order(first: Node | None, softmax: Node, second: Node | None, rank: int) -> list[int] | None:
    """Where the axes that the Conv sees were before the Transposes; None if the Softmax is not over the channels."""
    inner, outer, axis = _perm(first, rank), _perm(second, rank), softmax.attr("axis", -1) % rank
    is_single = softmax.graph.opset() >= 13 or axis == rank - 1
    return [inner[place] for place in outer] if outer[1] == axis and is_single else None


def _perm(transpose: Node | None, rank: int) -> tuple[int, ...]:
    if transpose is None:
        return tuple(range(rank))
    return tuple(transpose.attr("perm") or range(rank)[::-1])


def _quotient(x: Value, axis: int, weights: NDArray, like: Value, new: Builder) -> Value:
    """The sum of weights * softmax(x) over an axis (from the front), divided at the end."""
    power = new.Exp(new.Sub(x, reduce(new, "ReduceMax", x, axis, True), type_of=x), type_of=x)
    weighted = new.Mul(power, new.constant(weights.reshape(-1, 1), like=like), type_of=x)
    total = reduce(new, "ReduceSum", power, axis, True)
    made: Value = new.Div(reduce(new, "ReduceSum", weighted, axis, True), total)
    return made


def _plus(bias: Value | None, shape: tuple[int, ...], y: Value, new: Builder) -> Value:
    if bias is None:
        return y
    made: Value = new.Add(y, new.constant(bias.numpy().reshape(shape), like=bias))
    return made
