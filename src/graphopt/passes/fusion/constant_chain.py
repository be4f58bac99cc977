"""(x + a) + b   ==   x + (a + b),   (x * a) * b   ==   x * (a * b),   and Sub and Div wherever x stays linear.

Integers: exact (both sides are modulo 2^n), but no division. Floating point: one rounding instead of two, within the
rounding of the original; computed in float64. Guards: both operands constant; the merged one is not larger than the
larger of the two; in floating point, a and b finite, and of the same sign when added (x + 2^23 - 2^23 rounds x, and
must go on to), both at least 1 or both at most 1 in magnitude when multiplied (x * 1e30 / 1e30 may overflow, and must
go on to); the constants are no part of a written-out activation or normalization (see _keep.py); the value between
read by nothing else.
"""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from graphopt.ir import NDArray, Node, Value
from graphopt.passes.fusion._affine import FLOATS
from graphopt.passes.fusion._keep import reason_to_stay
from graphopt.rewrite import Builder, Match, P, Refusal, const, one_of, refuse, rule
from graphopt.rewrite.rule import Outcome

SHIFT = one_of(P.op("Add", "Sub")("x", const("a")).as_("inner"), P.Sub(const("a"), "x").as_("inner"))
PRODUCT = P.op("Mul", "Div")("x", const("a")).as_("inner")
_INTEGERS = frozenset(
    getattr(TensorProto, name) for name in "INT8 INT16 INT32 INT64 UINT8 UINT16 UINT32 UINT64".split()
)


@rule(
    "fuse-constant-chain",
    P.op("Add", "Sub")(SHIFT, const("b")),
    P.Sub(const("b"), SHIFT),
    P.op("Mul", "Div")(PRODUCT, const("b")),
    opset=">=7",
)
def fuse_constant_chain(m: Match, new: Builder) -> Outcome:
    if m.x.is_const:
        return None  # constant folding's
    if m.a.dtype not in FLOATS and m.a.dtype not in _INTEGERS:
        return refuse("the constants are no numbers")
    if np.broadcast(m.a.numpy(), m.b.numpy()).size > max(m.a.numpy().size, m.b.numpy().size):
        return refuse("the merged constant would be larger than both")
    if m.a.dtype in FLOATS:
        reason = reason_to_stay(m.inner, m.x, m.a) or reason_to_stay(m.root, m.inner.output, m.b)
        if reason:
            return refuse(reason)
    return _product(m, new) if m.root.op in ("Mul", "Div") else _sum(m, new)


def _sum(m: Match, new: Builder) -> Outcome:
    """The inner node is i x + a, the outer one o (inner) + b, with i, o = 1 or -1."""
    inner, outer = _sign(m.inner, m.a), _sign(m.root, m.b)
    a, b = (_signed(node, constant) for node, constant in ((m.inner, m.a), (m.root, m.b)))
    with np.errstate(over="ignore"):
        a = a if outer > 0 else np.negative(a)
        if m.a.dtype in FLOATS and not (np.isfinite(a).all() and np.isfinite(b).all() and (a * b >= 0).all()):
            return refuse("the constants cancel, which rounds in a way that may be meant, or are not finite")
        total = np.asarray(np.add(a, b))
    data = _narrowed(total, m.b)
    if isinstance(data, Refusal):
        return data
    merged = new.constant(data, m.b.name)
    if inner * outer > 0:
        return new.Add(m.x, merged, name=m.root.label)
    return new.Sub(merged, m.x, name=m.root.label)


def _sign(node: Node, constant: Value) -> int:
    return -1 if node.op == "Sub" and node.inputs[0] is constant else 1


def _signed(node: Node, constant: Value) -> NDArray:
    """What the node adds, in float64 or the integers' own dtype."""
    array = constant.numpy()
    if constant.dtype in FLOATS:
        array = array.astype(np.float64)
    with np.errstate(over="ignore"):
        return np.negative(array) if node.op == "Sub" and node.inputs[1] is constant else array


def _product(m: Match, new: Builder) -> Outcome:
    if m.a.dtype in _INTEGERS:
        if "Div" in (m.inner.op, m.root.op):
            return refuse("integer division rounds")
        with np.errstate(over="ignore"):
            total: NDArray = np.asarray(np.multiply(m.a.numpy(), m.b.numpy()))
    else:
        a, b = m.a.numpy().astype(np.float64), m.b.numpy().astype(np.float64)
        with np.errstate(all="ignore"):
            a, b = (1.0 / v if node.op == "Div" else v for node, v in ((m.inner, a), (m.root, b)))
            total = np.asarray(a * b)
        if not all(np.isfinite(v).all() for v in (a, b, total)) or not _one_way(np.abs(a), np.abs(b)):
            return refuse("one constant undoes some of the other, after what may overflow or vanish between them")
    data = _narrowed(total, m.b)
    if isinstance(data, Refusal):
        return data
    return new.Mul(m.x, new.constant(data, m.b.name), name=m.root.label)


def _one_way(a: NDArray, b: NDArray) -> bool:
    """Both products enlarge or both reduce, so that what lies between is no further out than the result."""
    return bool((((a >= 1) & (b >= 1)) | ((a <= 1) & (b <= 1))).all())


def _narrowed(total: NDArray, like: Value) -> NDArray | Refusal:
    with np.errstate(all="ignore"):
        data: NDArray = total.astype(like.numpy().dtype)
    if like.dtype in FLOATS:
        if not np.isfinite(data).all():
            return refuse("the merged constant overflows its dtype")
        if (np.abs(data.astype(np.float64) - total) > 1e-2 * np.abs(total)).any():
            return refuse("the merged constant is too small for its dtype")
    return data
