"""Operators that an affine map along channels can be moved through, with what each asks of it.

Data movement lets any map through, as do means (their weights add up to 1). A maximum lets rising maps through;
activations that are positively homogeneous, f(s x) = s f(x) for s > 0, let through positive scales without a shift;
zeros put in by a Pad any scale without a shift, and another number that it puts in is mapped, too, where the map has
one scale and shift for all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from graphopt.ir import Node
from graphopt.passes.fusion._affine import Affine
from graphopt.passes.simplify._facts import equal, every_pad

MOVES = ("Flatten", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
MEANS = ("AveragePool", "GlobalAveragePool", "Resize", "Upsample")
MAXIMA = ("GlobalMaxPool", "MaxPool")
HOMOGENEOUS = ("LeakyRelu", "PRelu", "Relu")
THROUGH = (*MOVES, *MEANS, *MAXIMA, *HOMOGENEOUS, "Pad")
_FARTHEST = 6e4  # in any type
_SPATIAL = frozenset((*MEANS, *MAXIMA))


def axis_behind(node: Node, axis: int) -> int | None:
    """Where the channels, at `axis` of the node's first operand (from 0), are in its result; None if not certain."""
    x, y = node.inputs[0], node.output
    if x is None or x.shape is None or y.shape is None or not 0 <= axis < len(x.shape):
        return None
    rank = len(x.shape)
    if node.op == "Transpose":
        perm = node.attr("perm") or tuple(reversed(range(rank)))
        return list(perm).index(axis) if sorted(perm) == list(range(rank)) else None
    if node.op in ("Flatten", "Reshape", "Squeeze", "Unsqueeze"):
        return _kept(x.shape, y.shape, axis)
    if node.op in ("PRelu", "Pad", "Resize", "Upsample"):
        return axis if len(y.shape) == rank and equal(x.shape[axis], y.shape[axis]) else None
    return axis


def axis_before(node: Node, axis: int) -> int | None:
    """Where the channels, at `axis` of the node's result (from 0), are in its first operand; None if not certain."""
    x, y = node.inputs[0], node.output
    if x is None or x.shape is None or y.shape is None or not 0 <= axis < len(y.shape):
        return None
    if node.op == "Transpose":
        perm = node.attr("perm") or tuple(reversed(range(len(x.shape))))
        return int(perm[axis]) if sorted(perm) == list(range(len(x.shape))) else None
    if node.op in ("Flatten", "Reshape", "Squeeze", "Unsqueeze"):
        return _kept(y.shape, x.shape, axis)
    return axis if axis < len(x.shape) and axis_behind(node, axis) == axis else None


def _kept(x: Sequence[object], y: Sequence[object], axis: int) -> int | None:
    """Which dim of y runs along the same elements as dim `axis` of x, where y is x in another shape: one with equal
    dims, but for ones, up to there, or from there."""
    for step in (1, -1):
        ours = [d for d in (x[: axis + 1] if step == 1 else x[axis:][::-1]) if d != 1]
        if x[axis] == 1:
            return None
        place, count = (0, 0) if step == 1 else (len(y) - 1, 0)
        while 0 <= place < len(y) and count < len(ours):
            if y[place] != 1:
                if not equal(y[place], ours[count]):
                    break
                count += 1
            place += step
        if count == len(ours):
            return place - step
    return None


def objection(node: Node, affine: Affine, channels: int | None, back: bool = True) -> str:
    """Why the map cannot be moved through a node, or nothing. channels: the axis they lie along in its first operand,
    or None for a map of one scale and shift for all. back: whether the map is behind the node, or in front of it."""
    if node.op in HOMOGENEOUS:
        return _needs(affine, node.op, positive=True, shift=False)
    if node.op in MAXIMA:
        return _needs(affine, node.op, positive=True, shift=True) or windows(node)
    if node.op == "Pad":
        return _pad(node, affine, channels, back)
    if node.op == "AveragePool" and affine.shift is not None and _counts(node):
        return "the pool may count what it pads, which is zero and not the shift"
    if node.op in ("Resize", "Upsample"):
        return _resize(node)
    return ""


def _needs(affine: Affine, op: str, *, positive: bool, shift: bool) -> str:
    if affine.shift is not None and not shift:
        return f"a shift does not move through {op}"
    if positive and affine.scale is not None and not (affine.scale > 0).all():
        return f"a scale that is not positive does not move through {op}"
    return ""


def _counts(node: Node) -> bool:
    """Whether an AveragePool may count padding, its own or what windows that hang over the end find there."""
    pads = any(node.attr("pads") or ()) or str(node.attr("auto_pad", "NOTSET")).startswith("SAME")
    hangs = node.attr("ceil_mode", 0) or any(step != 1 for step in node.attr("dilations", ()))
    return bool(hangs or (pads and node.attr("count_include_pad", 0)))


def windows(node: Node) -> str:
    """A window that lies in the padding alone gives the lowest number, which is no value of x."""
    if node.op == "GlobalMaxPool":
        return ""
    hangs = node.attr("ceil_mode", 0) or any(step != 1 for step in node.attr("dilations") or ())
    kernel, pads = node.attr("kernel_shape"), node.attr("pads") or ()
    if hangs or any(pad >= size for pad, size in zip(pads, (*kernel, *kernel), strict=False)):
        return "a window of the pool may lie in the padding alone"
    return ""


def padded_with(node: Node) -> float | None:
    """What a Pad puts in; None where it is not known, or where it repeats or reflects what is there."""
    if node.attr("mode", "constant") != "constant":
        return None
    value = node.input(2)
    if value is None:
        return float(node.attr("value", 0.0))
    return float(value.numpy().reshape(())) if value.is_const and value.numpy().size == 1 else None


def mapped(value: float, affine: Affine, back: bool) -> float:
    """What a Pad is to put in when the map is moved through it: s v + t, or in the other direction (v - t) / s."""
    scale = 1.0 if affine.scale is None else float(affine.scale)
    shift = 0.0 if affine.shift is None else float(affine.shift)
    if back:
        return scale * value + shift
    return (value - shift) / scale if scale else math.nan


def _pad(node: Node, affine: Affine, channels: int | None, back: bool) -> str:
    if node.attr("mode", "constant") == "constant":
        value = padded_with(node)
        if value is None:
            return "what the Pad puts in is not known"
        if (value or affine.shift is not None) and channels is not None:
            return "what the Pad puts in is one number, and the map has others for each channel"
        if not back and affine.shift is not None and value == 0:
            return "zeros that a Pad puts in join the padding of the convolution, and the shift is none"
        if (value or affine.shift is not None) and not abs(mapped(value, affine, back)) < _FARTHEST:
            return "what the Pad puts in would leave the range of its type"
    if channels is None:
        return ""
    x = node.inputs[0]
    rank = None if x is None else x.rank
    pads = every_pad(node, rank)
    if pads is None or rank is None or len(pads) != 2 * rank or pads[channels] or pads[rank + channels]:
        return "the Pad may be over the channels"
    return ""


def _resize(node: Node) -> str:
    """Interpolation with weights that add up to 1 (those of cubic interpolation overshoot, but do so, too)."""
    if node.attr("mode", "nearest") not in ("nearest", "linear", "bilinear", "cubic"):
        return "this interpolation is not known to have weights that add up to 1"
    if node.attr("coordinate_transformation_mode", "") == "tf_crop_and_resize":
        return "what lies outside has a value of its own"
    if node.attr("antialias", 0) or node.attr("exclude_outside", 0):
        return "the weights of this interpolation are not certain"
    return ""
