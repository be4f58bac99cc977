"""What the rules here ask of constants and sizes. Every answer is certain, or None."""

from __future__ import annotations

from math import isfinite, prod

from onnx import TensorProto

from graphopt.ir import Node, Value
from graphopt.passes.simplify._facts import fits_into, option
from graphopt.passes.simplify.reduce import axes_of

UNKNOWN_DIM = 64


def number(value: Value | None) -> float | None:
    """The one element of a constant of floats or integers, if that is finite."""
    if value is None or not value.is_const or value.shape is None or any(dim != 1 for dim in value.shape):
        return None
    array = value.numpy()
    found = float(array.reshape(())) if array.dtype.kind in "fiu" else float("nan")
    return found if isfinite(found) else None


def keep_shape(x: Value, *constants: Value | None) -> bool:
    """Whether arithmetic with these constants certainly leaves the shape of x as it is."""
    return all(c is None or fits_into(c, x) for c in constants)


def is_float(value: Value) -> bool:
    """Whether it is float32: the only type that ONNX Runtime has kernels for in all that is emitted here."""
    return value.dtype == TensorProto.FLOAT


def elements(value: Value) -> int:
    """About how many elements a value has in use, for rules that pay from some size on: dims that are not known are
    those of images, of texts or of frames, and count 64; the first, mostly a batch, counts 1."""
    shape = value.shape
    if shape is None:
        return UNKNOWN_DIM**2
    return prod(dim if isinstance(dim, int) else UNKNOWN_DIM if place else 1 for place, dim in enumerate(shape))


def reduced(node: Node, x: Value) -> tuple[int, ...] | None:
    """The axes that a reduction of x takes out, in order, if it leaves them as 1; None where that is not certain."""
    if not node.attr("keepdims", 1) or (node.attr("noop_with_empty_axes", 0) and not option(node, "axes", 1)):
        return None
    axes = axes_of(node, x)
    return None if axes is None else tuple(sorted(axes))
