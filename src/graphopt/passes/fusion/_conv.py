"""Affine maps folded into Conv and ConvTranspose. Layouts of the weights (ONNX operator specification): Conv [channels
out, channels in / group, ...]; ConvTranspose [channels in, channels out / group, ...], where the channels of each
group, on the side that is not divided, lie together.
"""

from __future__ import annotations

import numpy as np

from graphopt.ir import NDArray, Node, Value
from graphopt.passes.fusion._affine import FLOATS, Affine, cancels, rounded, scaled
from graphopt.rewrite import Builder, Match, Refusal, refuse
from graphopt.rewrite.rule import Outcome


def why_not(conv: Node, weight: Value) -> str:
    """Why nothing can be folded into these weights, or nothing."""
    if weight.dtype not in FLOATS:
        return "the weights are not floating-point numbers"
    shape, group = weight.numpy().shape, conv.attr("group")
    if len(shape) < 3 or group < 1 or shape[0] % group:
        return "the weights' shape and group do not fit together"
    return ""


def channels_out(conv: Node, weight: Value) -> int:
    shape: tuple[int, ...] = weight.numpy().shape
    return shape[1] * int(conv.attr("group")) if conv.op == "ConvTranspose" else shape[0]


def channels_in(conv: Node, weight: Value) -> int:
    shape: tuple[int, ...] = weight.numpy().shape
    return shape[0] if conv.op == "ConvTranspose" else shape[1] * int(conv.attr("group"))


def after(m: Match, new: Builder, affine: Affine) -> Outcome:
    """affine(conv(x, w, b)) as one node; m binds conv, x, w, b (or None)."""
    conv, w, b = m.conv, m.w, m.b
    weight, bias = w, b
    if b is not None and not b.is_const:
        return refuse("the bias is computed at run time")
    if affine.scale is not None and (affine.scale < 0).any() and _leaves_gaps(conv, w):
        return refuse("the zeros between its strides would not become -0")
    if affine.scale is not None:
        side = _undivided if conv.op == "Conv" else _divided
        data = scaled(w, side(affine.scale, conv, w), affine.worth)
        if isinstance(data, Refusal):
            return data
        weight = new.constant(data, w.name or "weight")
    if b is not None or affine.shift is not None:
        values = np.float64(0.0) if b is None else b.numpy().astype(np.float64)
        data = _bias(values, affine, channels_out(conv, w), w)
        if isinstance(data, Refusal):
            return data
        bias = new.constant(data, b.name if b is not None else f"{conv.label}_bias")
    return new.make(conv.op, m.x, weight, bias, like=conv)


def _leaves_gaps(conv: Node, weight: Value) -> bool:
    """Whether a ConvTranspose makes elements of nothing."""
    kernel = weight.numpy().shape[2:]
    ones = [1] * len(kernel)
    steps = zip(kernel, conv.attr("strides") or ones, conv.attr("dilations") or ones, strict=False)
    return conv.op == "ConvTranspose" and any(
        stride > size or (spread > 1 and size > 1) for size, stride, spread in steps
    )


def before(m: Match, new: Builder, affine: Affine) -> Outcome:
    """conv(affine(x), w, b) as one node; m binds conv, x, w, b (or None)."""
    conv, w, b = m.conv, m.w, m.b
    weight, bias = w, b
    if affine.shift is not None and (affine.shift != 0).any():
        if conv.op != "Conv" or is_padded(conv, w):
            return refuse("what is padded in is zero, not the shift: at the border the shift is no bias")
        if cancels(affine.shift, w):
            return refuse("the shift is so large that behind the products it would cancel their digits")
        if b is not None and not b.is_const:
            return refuse("the bias is computed at run time")
        sums = w.numpy().reshape(*w.numpy().shape[:2], -1).astype(np.float64).sum(-1)
        shape = (channels_in(conv, w),)
        moved = (sums * _divided(np.broadcast_to(affine.shift, shape), conv, w).reshape(sums.shape)).sum(-1)
        data = rounded(moved if b is None else moved + b.numpy().astype(np.float64), w)
        if isinstance(data, Refusal):
            return data
        bias = new.constant(data, b.name if b is not None else f"{conv.label}_bias")
    if affine.scale is not None:
        side = _divided if conv.op == "Conv" else _undivided
        data = scaled(w, side(affine.scale, conv, w), affine.worth)
        if isinstance(data, Refusal):
            return data
        weight = new.constant(data, w.name or "weight")
    return new.make(conv.op, m.x, weight, bias, like=conv)


def is_padded(conv: Node, weight: Value) -> bool:
    """Whether a Conv may read zeros from outside its input."""
    if conv.attr("auto_pad") in ("SAME_UPPER", "SAME_LOWER"):
        return any(size != 1 for size in weight.numpy().shape[2:])
    return conv.attr("auto_pad") != "VALID" and any(conv.attr("pads") or ())


def _undivided(values: NDArray, conv: Node, weight: Value) -> NDArray:
    """One number per channel, as a factor of the weights' axis 0."""
    return values if values.ndim == 0 else values.reshape(-1, *[1] * (weight.numpy().ndim - 1))


def _divided(values: NDArray, conv: Node, weight: Value) -> NDArray:
    """One number per channel, as a factor of the weights' axes 0 (by its group) and 1 (by its place in the group)."""
    if values.ndim == 0:
        return values
    shape, group = weight.numpy().shape, int(conv.attr("group"))
    rows = np.repeat(values.reshape(group, shape[1]), shape[0] // group, axis=0)
    factor: NDArray = rows.reshape(*shape[:2], *[1] * (len(shape) - 2))
    return factor


def _bias(values: NDArray, affine: Affine, channels: int, like: Value) -> NDArray | Refusal:
    with np.errstate(all="ignore"):
        if affine.scale is not None:
            values = values * affine.scale
        if affine.shift is not None:
            values = values + affine.shift
    return rounded(np.broadcast_to(values, (channels,)), like)
