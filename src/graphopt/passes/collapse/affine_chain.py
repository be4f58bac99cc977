"""s (x + a) + t   ==   s x + (s a + t),   r (s x + a)   ==   (r s) x + r a,   in every spelling with Sub and Div.

Three operators with constants as two: a BatchNormalization written out (Sub, Mul, Add, of which fuse-constant-chain has
made one of two Muls), an image normalized (Div, Sub, Div). What is next to weights is folded into them instead; of what
is left, collapse-affine-norm may make one. Exact in real arithmetic; computed in float64 and rounded once.

Guards: floating point; all constants finite; s a at most 100 (float32; it is subtracted behind the product, where it
would cancel digits); r s within its dtype, and r and s both at least 1 or both at most 1 in magnitude, or s not below
1e-6 and r not above 1e6 (what lies between may overflow or vanish otherwise); a new constant is no larger than the
largest old one; the constants are no part of a written-out activation or normalization (see fusion/_keep.py); the
values between read by nothing else.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from graphopt.ir import NDArray, Node, Value
from graphopt.passes.collapse.affine_norm import GATES
from graphopt.passes.fusion._affine import FLOATS
from graphopt.passes.fusion._keep import reason_to_stay, starts_hard_sigmoid
from graphopt.rewrite import Builder, Match, P, const, one_of, refuse, rule
from graphopt.rewrite.pattern import Pattern
from graphopt.rewrite.rule import Outcome


def _sums(x: Any, name: str, node: str) -> Pattern:
    return one_of(P.op("Add", "Sub")(x, const(name)).as_(node), P.Sub(const(name), x).as_(node))


SHIFTED = _sums("x", "a", "first")
SCALED = P.op("Mul", "Div")("x", const("a")).as_("first")
SHIFT_SCALE = P.op("Mul", "Div")(SHIFTED, const("b")).as_("second")
_UNDONE = 1e6  # how much smaller a product may become before it is enlarged again
_DIGITS = {2: 1.0, 4: 1e2, 8: 1e11}  # what may be subtracted behind a product, by bytes of an element


@rule(
    "collapse-affine-chain",
    P.op("Add", "Sub")(SHIFT_SCALE, const("c")),
    P.Sub(const("c"), SHIFT_SCALE),
    P.op("Mul", "Div")(_sums(SCALED, "b", "second"), const("c")),
    opset=">=7",
)
def collapse_affine_chain(m: Match, new: Builder) -> Outcome:
    names = ("a", "b", "c")
    nodes: tuple[Node, ...] = (m.first, m.second, m.root)
    arrays: list[NDArray] = [m.get(name).numpy() for name in names]
    if m.x.is_const or any(m.get(name).dtype not in FLOATS for name in names):
        return None
    reason = _reason_to_stay(m, nodes)
    if reason:
        return refuse(reason)
    scale, shift = np.asarray(1.0), np.asarray(0.0)
    with np.errstate(all="ignore"):
        for node, name in zip(nodes, names, strict=True):
            scale, shift = _then(scale, shift, node, m.get(name))
        if not all(np.isfinite(array.astype(np.float64)).all() for array in arrays):
            return refuse("a constant is not finite")
        reason = _rounding(m, [np.abs(array.astype(np.float64)) for array in arrays])
    if reason:
        return refuse(reason)
    if max(scale.size, shift.size) > max(array.size for array in arrays) or not scale.size or not shift.size:
        return refuse("a new constant would be larger than the old ones")
    made = [_narrowed(values, m.c) for values in (scale, shift)]
    if made[0] is None or made[1] is None:
        return refuse("a new constant is too large, or too small, for its dtype")
    product = new.Mul(m.x, new.constant(made[0], m.b.name), name=m.second.label)
    return new.Add(product, new.constant(made[1], m.c.name), name=m.root.label, type_of=m.root.output)


def _reason_to_stay(m: Match, nodes: tuple[Node, ...]) -> str:
    if any(reader.op in GATES for reader in m.root.output.users) or starts_hard_sigmoid(m.root):
        return "the constants seem to be part of an activation written out"
    operands = (m.x, m.first.output, m.second.output)
    constants: tuple[Value, ...] = (m.a, m.b, m.c)
    reasons = (reason_to_stay(*each) for each in zip(nodes, operands, constants, strict=True))
    return next((reason for reason in reasons if reason), "")


def _then(scale: NDArray, shift: NDArray, node: Node, constant: Value) -> tuple[NDArray, NDArray]:
    """The map with one more operator behind it."""
    values: NDArray = constant.numpy().astype(np.float64)
    if node.op == "Mul":
        return scale * values, shift * values
    if node.op == "Div":
        return scale / values, shift / values
    if node.op == "Sub" and node.inputs[0] is constant:
        return -scale, values - shift
    return scale, shift + (values if node.op == "Add" else -values)


def _rounding(m: Match, sizes: list[NDArray]) -> str:
    """Why the new order may round, overflow or vanish where the old one does not, or nothing."""
    first, second, third = sizes
    if m.second.op == "Div":
        second = 1 / second
    if m.second.op in ("Mul", "Div"):  # s (x + a) + t
        moved = float((first * second).max(initial=0.0))
        far = not moved <= _DIGITS[m.c.numpy().dtype.itemsize]
        return "the shift is so large that behind the product it would cancel digits" if far else ""
    first, third = (1 / each if node.op == "Div" else each for each, node in ((first, m.first), (third, m.root)))
    one_way = ((first >= 1) & (third >= 1)) | ((first <= 1) & (third <= 1))
    if m.c.numpy().dtype.itemsize > 2:  # what a small factor takes from the subnormals is less than the shift rounds
        one_way |= (first <= 1) & (first >= 1 / _UNDONE) & (third <= _UNDONE)
    return (
        "" if one_way.all() else "one factor undoes some of the other, after what may overflow or vanish between them"
    )


def _narrowed(values: NDArray, like: Value) -> NDArray | None:
    with np.errstate(all="ignore"):
        data: NDArray = values.astype(like.numpy().dtype)
        lost = np.abs(data.astype(np.float64) - values) > 1e-2 * np.abs(values)
    return None if not np.isfinite(data).all() or lost.any() else data
