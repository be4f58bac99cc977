"""value / sqrt(mean of squares + epsilon) in its spellings, which LayerNorm and RMSNorm share."""

from __future__ import annotations

from graphopt.ir import NDArray, Value
from graphopt.passes.recognition._forms import keep_shape, number, reduced
from graphopt.passes.simplify._facts import fits_into, static
from graphopt.rewrite import Match, P, const, maybe, one_of
from graphopt.rewrite.pattern import Op, Pattern

CONSTANTS = ("two", "one", "half", "eps")
SEEN = ("Pow", "Sqrt", "Div")  # how ONNX Runtime wants square, root and quotient


def normalized(value: Pattern | str) -> tuple[Op, ...]:
    """value / sqrt(mean(value^2) + eps); binds `square`, `var`, `eps`, `root` and `quotient`."""
    square = one_of(P.Mul(value, value).as_("square"), P.Pow(value, const("two", 2.0)).as_("square"))
    var = P.Add(P.ReduceMean(square, maybe(one_of(const("axes"), const("var_axes")))).as_("var"), const("eps"))
    root = one_of(P.Sqrt(var).as_("deviation"), P.Pow(var, const("half", 0.5)).as_("deviation"))
    inverse = one_of(
        P.Reciprocal(root).as_("inverse"),
        P.Div(const("one", 1.0), root).as_("inverse"),
        P.Pow(var, const("half", -0.5)).as_("inverse"),
    )
    return P.Div(value, root).as_("quotient"), P.Mul(value, inverse).as_("quotient")


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
