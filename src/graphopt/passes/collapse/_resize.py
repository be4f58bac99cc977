"""What a Resize or Upsample makes larger, and the same one on another number of channels."""

from __future__ import annotations

from math import prod

from graphopt.ir import Node, Value
from graphopt.passes.collapse._through import objection
from graphopt.passes.fusion._affine import Affine
from graphopt.passes.simplify._facts import ints, normalize, static, vector
from graphopt.rewrite import Builder


def growth(resize: Node, rank: int) -> float:
    """How many elements of the result there are for one of the operand, if the Resize enlarges some axes behind the
    second and leaves the others alone; 0 where that is not certain."""
    factors = _factors(resize, rank)
    if factors is None or len(factors) != rank or any(f != 1 for f in factors[:2]) or min(factors) < 1:
        return 0.0
    return float(prod(factors))


def is_nearest(resize: Node) -> bool:
    """Whether each element of the result is one of the operand."""
    return resize.attr("mode", "nearest") == "nearest" and not objection(resize, Affine(), None)


def remade(resize: Node, x: Value, channels: int, new: Builder, result: Value) -> Value:
    """The Resize on x, which has so many channels; it makes what `result` has the type of."""
    operands = list(resize.inputs[1:])
    sizes = ints(resize.input(3)) if resize.op == "Resize" and resize.graph.opset() >= 11 else None
    if sizes and not resize.attr("axes"):
        operands[2] = new.constant(vector([sizes[0], channels, *sizes[2:]]), "sizes")
    return new.make(resize.op, x, *operands, like=resize, type_of=result)


def _factors(resize: Node, rank: int) -> list[float] | None:
    """The scale of each axis, or None."""
    if resize.op == "Upsample" and "scales" in resize.attributes:
        return [float(scale) for scale in resize.attr("scales")]
    short = resize.op == "Upsample" or resize.graph.opset() < 11
    scales, sizes = resize.input(1 if short else 2), None if short else resize.input(3)
    axes = normalize(resize.attr("axes") or tuple(range(rank)), rank)
    if axes is None or resize.attr("keep_aspect_ratio_policy") not in (None, "stretch"):
        return None
    if scales is not None and scales.is_const and scales.numpy().size:
        given = [float(scale) for scale in scales.numpy().reshape(-1)]
    else:
        given = _by_sizes(resize, axes, ints(sizes))
    if len(given) != len(axes):
        return None
    factors = [1.0] * rank
    for axis, factor in zip(axes, given, strict=True):
        factors[axis] = factor
    return factors


def _by_sizes(resize: Node, axes: tuple[int, ...], sizes: tuple[int, ...] | None) -> list[float]:
    x = static(resize.inputs[0].shape) if resize.inputs[0] is not None else None
    if x is None or not sizes or len(sizes) != len(axes) or any(x[axis] <= 0 for axis in axes):
        return []
    return [size / x[axis] for size, axis in zip(sizes, axes, strict=True)]
