"""Resize and Upsample, one axis after the other."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from float64.node import Array, Node, Unsupported

_ROUNDINGS: dict[str, Callable[[Array], Array]] = {
    "floor": np.floor,
    "ceil": np.ceil,
    "round_prefer_floor": lambda where: np.ceil(where - 0.5),
    "round_prefer_ceil": lambda where: np.floor(where + 0.5),
}


def resize(node: Node, x: Array, roi: Any = None, scales: Any = None, sizes: Any = None) -> Array:
    """Resize and Upsample."""
    if node.op == "Upsample" or node.opset == 10:
        scales, roi = (node.attrs.get("scales") if roi is None else roi), None
    default = "asymmetric" if node.op == "Upsample" or node.opset < 11 else "half_pixel"
    how = node.text("coordinate_transformation_mode", default)
    odd = {"axes", "keep_aspect_ratio_policy", "antialias", "exclude_outside"} & {k for k, v in node.attrs.items() if v}
    if odd or how == "tf_crop_and_resize":
        raise Unsupported(f"Resize with {', '.join(odd) or how}")
    if sizes is not None and np.size(sizes):
        targets = [int(size) for size in sizes]
        factors = [t / s for t, s in zip(targets, x.shape, strict=True)]
    else:
        factors = [float(factor) for factor in np.asarray(scales).reshape(-1)]
        targets = [math.floor(s * f) for s, f in zip(x.shape, factors, strict=True)]
    for axis, (size, target, factor) in enumerate(zip(x.shape, targets, factors, strict=True)):
        if size != target or factor != 1:
            x = _resized(node, x, axis, _coordinates(how, size, target, factor))
    return x


def _coordinates(how: str, size: int, target: int, factor: float) -> Array:
    """Where in the input each place of the output is."""
    place = np.arange(target, dtype=np.float64)
    if how == "align_corners":
        return place * ((size - 1) / (target - 1)) if target > 1 else np.zeros(target)
    if how == "asymmetric":
        return place / factor
    if how == "pytorch_half_pixel" and target == 1:
        return np.zeros(1)
    if how == "half_pixel_symmetric":
        return size / 2 * (1 - target / (factor * size)) + (place + 0.5) / factor - 0.5
    return (place + 0.5) / factor - 0.5


def _resized(node: Node, x: Array, axis: int, where: Array) -> Array:
    mode, size = node.text("mode", "nearest"), x.shape[axis]
    if mode == "nearest":
        default = "round_prefer_floor" if node.op == "Resize" and node.opset > 10 else "floor"
        rounded = _ROUNDINGS[node.text("nearest_mode", default)](where)
        return np.take(x, np.clip(rounded.astype(np.int64), 0, size - 1), axis)
    low = np.floor(where)
    part = where - low
    if mode == "linear":
        taps = {0: 1 - part, 1: part}
    else:
        a = node.attrs.get("cubic_coeff_a", -0.75)
        taps = {step: _cubic(np.abs(part - step), a) for step in (-1, 0, 1, 2)}
    shape = [-1 if place == axis else 1 for place in range(x.ndim)]
    places = {step: np.clip(low.astype(np.int64) + step, 0, size - 1) for step in taps}
    return sum((np.take(x, places[step], axis) * tap.reshape(shape) for step, tap in taps.items()), np.zeros(1))


def _cubic(t: Array, a: float) -> Array:
    near = ((a + 2) * t - (a + 3)) * t * t + 1
    far = ((a * t - 5 * a) * t + 8 * a) * t - 4 * a
    return np.where(t <= 1, near, np.where(t < 2, far, 0))
