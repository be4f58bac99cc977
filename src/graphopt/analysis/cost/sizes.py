"""Numbers for symbolic shapes: bindings of dimension names, and the arithmetic that exporters write as names."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import ceil, floor
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from graphopt.ir import Value

Dim = int | str | None
Static = tuple[int, ...]


@dataclass(frozen=True)
class Sizes:
    """Turns symbolic shapes into numbers. bindings: dimension name -> size; default: for names not bound.

    shape_of: where a value's shape comes from; by default what the model declares.
    """

    bindings: Mapping[str, int] = field(default_factory=dict)
    default: int = 1
    shape_of: Callable[[Value], tuple[Dim, ...] | None] | None = None

    def of(self, value: Value | None) -> Static | None:
        """The shape in numbers, or None where the rank or an unnamed dimension is not known."""
        if value is None:
            return None
        shape = value.shape if self.shape_of is None else self.shape_of(value)
        if shape is None or None in shape:
            return None
        return tuple(self.dim(dim) for dim in shape)

    def dim(self, dim: Dim) -> int:
        """One dimension in numbers; a composite name such as ``2*N + 1`` is computed from the names in it."""
        if isinstance(dim, int):
            return dim
        if dim in self.bindings:
            return self.bindings[str(dim)]
        return evaluate(str(dim), self.bindings, self.default)


def evaluate(expression: str, bindings: Mapping[str, int], default: int) -> int:
    """A dimension's expression as exporters write them: ``batch``, ``2*N + 1``, ``floor(H/2)``; else `default`.

    >>> evaluate("floor(H/2) + 1", {"H": 9}, 1), evaluate("past sequence", {}, 1)
    (5, 1)
    """
    if expression.isidentifier():
        return bindings.get(expression, default)
    if len(expression) > _LONGEST:
        return default
    try:
        tree = ast.parse(expression, mode="eval")
        return max(0, int(_value(tree.body, bindings, default)))
    except (SyntaxError, ValueError, TypeError, ArithmeticError, RecursionError, MemoryError):
        return default


_LONGEST = 256  # characters of an expression: Python's parser runs out of stack on some that are long enough


def _value(tree: ast.expr, bindings: Mapping[str, int], default: int) -> float:
    """Value of an arithmetic expression; recursion goes as deep as its parentheses. Raises ValueError."""
    match tree:
        case ast.Constant(value=int() | float() as number):
            return number
        case ast.Name(id=name):
            return bindings.get(name, default)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand, bindings, default)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
            return _ARITHMETIC[type(op)](_value(left, bindings, default), _value(right, bindings, default))
        case ast.Call(func=ast.Name(id=name), args=args) if name.lower() in _FUNCTIONS:
            return _FUNCTIONS[name.lower()](*(_value(arg, bindings, default) for arg in args))
    raise ValueError(f"not arithmetic: {ast.dump(tree)}")


_ARITHMETIC: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_FUNCTIONS: dict[str, Callable[..., float]] = {"floor": floor, "ceil": ceil, "ceiling": ceil, "min": min, "max": max}
