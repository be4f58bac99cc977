"""value / sqrt(mean of squares + epsilon) in its spellings, which LayerNorm and RMSNorm share."""

from __future__ import annotations

from functools import cache

import numpy as np

from graphopt.ir import NDArray, Value
from graphopt.passes.recognition._forms import keep_shape, number, reduced
from graphopt.passes.simplify._facts import fits_into, static
from graphopt.rewrite import Builder, Match, P, const, maybe, one_of
from graphopt.rewrite.pattern import Op, Pattern, match

CONSTANTS = ("two", "one", "half", "eps")
SEEN = ("Pow", "Sqrt", "Div")  # how ONNX Runtime wants square, root and quotient


def normalized(value: Pattern | str) -> tuple[Op, ...]:
    """value / sqrt(mean(value^2) + eps); binds `square`, `var`, `eps`, `root` and `quotient`."""
    root, inverse = _root(value)
    return P.Div(value, root).as_("quotient"), P.Mul(value, inverse).as_("quotient")


def scaled_within(value: Pattern | str) -> Op:
    """The same times a constant `g`, as value * (g / sqrt(...))."""
    return P.Mul(value, P.Mul(_root(value)[1], const("g")))


def scaled(value: Pattern | str) -> tuple[Op, ...]:
    """The same times a constant `g`."""
    return (*(P.Mul(form, const("g")) for form in normalized(value)), scaled_within(value))


def inverse_root(value: Pattern | str) -> Pattern:
    """1 / sqrt(mean(value^2) + eps)."""
    return _root(value)[1]


def _root(value: Pattern | str) -> tuple[Pattern, Pattern]:
    """sqrt(mean(value^2) + eps), and its inverse."""
    square = one_of(P.Mul(value, value).as_("square"), P.Pow(value, const("two", 2.0)).as_("square"))
    var = P.Add(P.ReduceMean(square, maybe(one_of(const("axes"), const("var_axes")))).as_("var"), const("eps"))
    root = one_of(P.Sqrt(var).as_("deviation"), P.Pow(var, const("half", 0.5)).as_("deviation"))
    inverse = one_of(
        P.Reciprocal(root).as_("inverse"),
        P.Div(const("one", 1.0), root).as_("inverse"),
        P.Pow(var, const("half", -0.5)).as_("inverse"),
    )
    return root, inverse


@cache
def _forms() -> tuple[Op, ...]:
    return normalized("value")


def is_normalized(value: Value) -> bool:
    """Whether this is a normalization written out. A scale behind it, of ones too, is what ONNX Runtime knows it by."""
    node = value.producer
    return node is not None and node.op in ("Div", "Mul") and any(match(form, node) is not None for form in _forms())


def is_seen(m: Match) -> bool:
    """Whether the quotient is spelled as ONNX Runtime wants it: Pow, Sqrt, Div, and a scale behind these, if any."""
    last = m.get("quotient")
    return last is not None and (m.square.op, m.get("deviation") and m.deviation.op, last.op) == SEEN


def spelled(m: Match, new: Builder, value: Value) -> Value:
    """The quotient of value as ONNX Runtime wants it."""
    square = new.Pow(value, new.constant(np.array(2, np.float32), "two"), type_of=m.x)
    root = new.Sqrt(new.Add(new.ReduceMean(square, m.var.input(1), like=m.var), m.eps))
    quotient: Value = new.Div(value, root, type_of=m.x)
    return quotient


def follows(product: Value, op: str, x: Value, axis: int) -> Value | None:
    """What alone reads a value, if that is this operator with a constant of one number for each of x's elements from
    `axis` on."""
    if product.outs or len(product.users) != 1:
        return None
    reader = next(iter(product.users))
    if reader.op != op or reader.domain or len(reader.inputs) != 2:
        return None
    others = [v for v in reader.inputs if v is not None and v is not product]
    if len(others) != 1 or not others[0].is_const or per_element(others[0], x, axis) is None:
        return None
    return reader.output


def last_axes(m: Match) -> int | None:
    """The first of the axes that the mean of squares is taken over, counted from the front, where they are the last
    ones and stay as 1; None where that is not certain, or another constant enlarges the result."""
    rank = m.x.rank
    axes = reduced(m.var, m.x)
    if not axes or rank is None or axes != tuple(range(axes[0], rank)):
        return None
    return axes[0] if keep_shape(m.x, *(m.get(name) for name in CONSTANTS)) else None


def epsilon(m: Match) -> float | None:
    """The epsilon, if it is one number that is not negative."""
    found = number(m.eps)
    return None if found is None or found < 0 else found


def per_element(constant: Value, x: Value, axis: int) -> NDArray | None:
    """A constant in the shape of x's axes from `axis` on, if it spreads over these alone; None otherwise."""
    dims = static(None if x.shape is None else x.shape[axis:])
    array = constant.numpy()
    if dims is None or not fits_into(constant, x) or any(dim != 1 for dim in array.shape[: -len(dims)]):
        return None
    if array.shape[-len(dims) :] == dims:
        return array.reshape(dims)
    return None
