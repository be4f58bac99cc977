"""Operators that go element by element: arithmetic, activations, comparisons, logic, bits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from graphopt.testing.catalog.call import FLOATS, Call, Shape, numpy_type, positive
from graphopt.testing.catalog.entry import Entry
from graphopt.testing.chooser import Chooser
from graphopt.testing.draft import DoesNotFit, Var

RANKS = (2, 1, 3, 4, 0)


def unary(**attributes: Sequence[Any]) -> Callable[[Call], None]:
    """One operand, and attributes with the values to choose from."""

    def fill(c: Call) -> None:
        c.any(0, (*RANKS, 5), unknown=True, low=0)
        for name, options in attributes.items():
            c.attr(name, *options)

    return fill


def binary(c: Call) -> list[Var] | None:
    """Two operands that broadcast."""
    return broadcast(c, 2)


def broadcast(c: Call, count: int, data: Any = None) -> list[Var] | None:
    """Operands that broadcast against each other. data: for those after the first (see `Call.make`)."""
    given = [slot for slot in range(count) if c.given(slot) is not None]
    if not given:
        free = [slot for slot in range(count) if slot not in c.const_slots] or [0]
        c.any(free[0], RANKS, low=0)
        given = [free[0]]
    shape: Shape = ()
    for slot in given:
        shape = _joint(shape, c.shape(slot))
    for slot in range(count):
        if c.given(slot) is None:
            made = c.make(slot, partner(c.chooser, shape), data if slot else None)
            shape = _joint(shape, made.shape or ())
    return c.emit(shape)


def _joint(a: Shape, b: Shape) -> Shape:
    try:
        return np.broadcast_shapes(a, b)
    except ValueError as error:
        raise DoesNotFit(f"{a} and {b} do not broadcast") from error


def partner(chooser: Chooser, shape: Shape) -> Shape:
    """A shape that broadcasts against another: the same, a scalar, per channel, a suffix, with ones, or larger."""
    options: list[Shape] = [shape, (), (1,), ()]
    if len(shape) > 1:
        options += [(shape[1],) + (1,) * (len(shape) - 2)] * (2 if len(shape) > 2 else 1)
        options += [(1, shape[1]) + (1,) * (len(shape) - 2)]
        options += [shape[-1:], shape[1:], (*shape[:-1], 1), (1,) * len(shape)]
    if len(shape) < 5:
        options += [(2, *shape), (1, *shape), (1,) * (len(shape) + 1)]
    if shape and shape[-1] == 1:
        options += [(3,), (2,)]
    if 1 in shape:
        options.append(tuple(3 if size == 1 else size for size in shape))
    return shape if chooser.chance(30) else chooser.pick(options)


def variadic(c: Call) -> list[Var] | None:
    """One or more operands that broadcast (Sum, Max ...)."""
    have = max([*c.inputs, *c.const_slots], default=-1) + 1
    if c.opset < 8:  # these do not broadcast yet
        first = next((slot for slot in range(have) if c.given(slot) is not None), 0)
        c.any(first, RANKS)
        for slot in range(have or c.chooser.pick((2, 1, 3))):
            c.exact(slot, c.shape(first))
        return None
    return broadcast(c, have or c.chooser.pick((2, 1, 3)))


def _clip(c: Call) -> None:
    c.any(0, RANKS, unknown=True)
    if c.opset < 11:
        low = c.attr("min", None, 0.0, -1.0)
        c.attr("max", None, 6.0, 1.0 if low is None else low + 1)
        return
    low, high = c.chooser.pick(((0, 6), (-1, 1), (0, 1), (2, 1), (-3, 4)))
    for slot, bound in ((1, low), (2, high)):
        if c.wants(slot, 60):
            dtype = c.dtype(slot)
            c.exact(slot, (), np.float64(bound if bound >= 0 or not _unsigned(dtype) else 0).astype(numpy_type(dtype)))


def _unsigned(dtype: int) -> bool:
    return bool(np.dtype(numpy_type(dtype)).kind == "u")


def _where(c: Call) -> list[Var] | None:
    return broadcast(c, 3)


def _divide(c: Call) -> list[Var] | None:
    """Whole numbers are divided by positive constants: zero, and the least number by -1, are undefined."""
    if c.op == "Mod":
        c.attr("fmod", *((1,) if c.dtype(0) in FLOATS else (None, 1)))
    if c.dtype(0) in FLOATS:
        return broadcast(c, 2)
    divisor = c.given(1)
    if divisor is None:
        return broadcast(c, 2, positive)
    if divisor.const is None or not (divisor.const.astype(np.int64) > 0).all():
        raise DoesNotFit("whole numbers are divided by positive constants only")
    return broadcast(c, 2)


def _shift(c: Call) -> list[Var] | None:
    c.attr("direction", "LEFT", "RIGHT")
    if c.given(1) is not None and c.given(1).const is None:  # type: ignore[union-attr]
        raise DoesNotFit("shifts are constants")
    return broadcast(c, 2, lambda chooser, dtype, shape: np.full(shape, chooser.integer(0, 7)))


def _prelu(c: Call) -> None:
    shape = c.shape(0) if c.given(0) else c.any(0, (2, 3, 4)).shape
    assert shape is not None
    if c.given(1) is None:
        options: list[Shape] = [(1,), shape, (shape[1],) + (1,) * (len(shape) - 2)] if len(shape) > 1 else [(1,), shape]
        c.make(1, c.chooser.pick(options))
    if _joint(shape, c.shape(1)) != shape:
        raise DoesNotFit("a slope that is larger")


def _pow(c: Call) -> list[Var] | None:
    if c.given(1) is None and c.draft.portable:
        c.bound.setdefault(c.slot(1)[0], c.dtype(0))
    if c.given(1) is None and c.chooser.chance(70):
        c.any(0, RANKS)
        dtype = c.dtype(1)
        c.exact(1, c.chooser.pick(((), (1,))), np.asarray(c.chooser.pick((2, 3, 1, 0)), dtype=numpy_type(dtype)))
        return c.emit(c.inputs[0].shape if c.inputs[0] is not None else None)
    return broadcast(c, 2)


_ALPHA = (None, 0.5, 0.0, 1.0, 2.0)
ENTRIES = [
    *(
        Entry(op, unary())
        for op in """Relu Abs Neg Exp Log Sqrt Sigmoid Tanh Erf Floor Ceil Round Reciprocal Sign Not Identity
        Softplus Softsign Sin Cos Tan Asin Acos Atan Sinh Cosh Asinh Acosh Atanh HardSwish Mish
        BitwiseNot IsNaN""".split()
    ),
    Entry("LeakyRelu", unary(alpha=_ALPHA)),
    Entry("Elu", unary(alpha=_ALPHA)),
    Entry("Celu", unary(alpha=(None, 0.5, 2.0))),
    Entry("Selu", unary(alpha=_ALPHA, gamma=(None, 1.0, 2.0))),
    Entry("HardSigmoid", unary(alpha=(None, 0.5, 1.0), beta=(None, 0.0, 1.0))),
    Entry("ThresholdedRelu", unary(alpha=_ALPHA)),
    Entry("Shrink", unary(lambd=(None, 0.0, 1.0), bias=(None, 1.0))),
    Entry("Gelu", unary(approximate=(None, "tanh", "none"))),
    Entry("Swish", unary(alpha=_ALPHA)),
    Entry("IsInf", unary(detect_negative=(None, 0), detect_positive=(None, 0))),
    *(Entry(op, binary) for op in "Add Mul Sub Equal Greater Less GreaterOrEqual LessOrEqual And Or Xor".split()),
    *(Entry(op, binary) for op in "BitwiseAnd BitwiseOr BitwiseXor".split()),
    *(Entry(op, variadic) for op in "Max Min Sum Mean".split()),
    Entry("Div", _divide),
    Entry("Mod", _divide),
    Entry("BitShift", _shift),
    Entry("Clip", _clip),
    Entry("Where", _where),
    Entry("PRelu", _prelu),
    Entry("Pow", _pow),
]
