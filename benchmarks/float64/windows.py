"""Convolutions and pools of any rank: a product or a maximum for each place in the kernel, over the whole output."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from float64.node import Array, Node, Unsupported, channels

_GROUPED = 64  # channels that one product of a convolution sums over, about


@dataclass
class Windows:
    """Where a kernel of some size looks: sizes of the output and pads before and after, for each spatial axis."""

    kernel: list[int]
    strides: list[int]
    dilations: list[int]
    before: list[int]
    after: list[int]
    sizes: list[int]

    @classmethod
    def of(cls, node: Node, shape: tuple[int, ...], kernel: list[int]) -> Windows:
        """Those of a node with the common attributes, over spatial axes of these sizes."""
        count = len(kernel)
        strides, dilations = node.ints("strides", 1, count), node.ints("dilations", 1, count)
        pads, ceil = node.ints("pads", 0, 2 * count), node.attrs.get("ceil_mode", 0)
        auto = node.text("auto_pad", "NOTSET")
        before, after, sizes = pads[:count], pads[count:], []
        for i, (size, k, s, d) in enumerate(zip(shape, kernel, strides, dilations, strict=True)):
            reach = (k - 1) * d + 1
            if auto.startswith("SAME"):
                out = -(-size // s)
                total = max(0, (out - 1) * s + reach - size)
                before[i] = total // 2 if auto == "SAME_UPPER" else total - total // 2
                after[i] = total - before[i]
            else:
                before[i], after[i] = (0, 0) if auto == "VALID" else (before[i], after[i])
                room = size + before[i] + after[i] - reach
                out = (-(-room // s) if ceil else room // s) + 1
                if ceil and (out - 1) * s >= size + before[i]:
                    out -= 1  # a window that begins behind the data
            sizes.append(out)
        return cls(kernel, strides, dilations, before, after, sizes)

    def views(self, x: Array, fill: float) -> Iterator[Array]:
        """For each place in the kernel, what it meets: the input's two leading axes, then `sizes`."""
        ends = [
            max(0, (out - 1) * s + (k - 1) * d + 1 - size - low)
            for out, s, k, d, size, low in zip(
                self.sizes, self.strides, self.kernel, self.dilations, x.shape[2:], self.before, strict=True
            )
        ]
        if any(self.before) or any(ends):
            x = np.pad(x, [(0, 0), (0, 0), *zip(self.before, ends, strict=True)], constant_values=fill)
        for where in self.places():
            yield x[where]

    def places(self) -> Iterator[tuple[slice, ...]]:
        """For each place in the kernel, what it meets of the padded input."""
        whole = slice(None)
        for place in itertools.product(*map(range, self.kernel)):
            steps = zip(place, self.dilations, self.strides, self.sizes, strict=True)
            yield (whole, whole, *(slice(i * d, i * d + (out - 1) * s + 1, s) for i, d, s, out in steps))


def conv(node: Node, x: Array, w: Array, b: Array | None = None) -> Array:
    """Conv: products of matrices, summed over the places in the kernel; some places at once where channels are few."""
    windows, group = Windows.of(node, x.shape[2:], list(w.shape[2:])), node.attrs.get("group", 1)
    batch, points, inner = x.shape[0], math.prod(windows.sizes), w.shape[1]
    result = np.zeros((batch, group, w.shape[0] // group, points))
    weights, values = [], []
    places = math.prod(windows.kernel)
    flat = w.reshape(group, -1, inner, places)
    for number, view in enumerate(windows.views(x, 0.0)):
        weights.append(flat[..., number])
        values.append(view.reshape(batch, group, inner, points))
        if len(values) * inner >= _GROUPED or number == places - 1:
            result += np.concatenate(weights, 2) @ np.concatenate(values, 2)
            weights, values = [], []
    y = result.reshape(batch, w.shape[0], *windows.sizes)
    return y if b is None else y + channels(b, y.ndim)


def conv_integer(node: Node, x: Array, w: Array, zx: Array | None = None, zw: Array | None = None) -> Array:
    """ConvInteger."""
    if zw is not None and np.any(zw):
        w = w - channels(np.asarray(zw, np.float64).reshape(-1), w.ndim, 0)
    shifted = x.astype(np.float64) - (0 if zx is None else zx)  # pads are the zero point, which is 0 then
    return conv(node, shifted, w.astype(np.float64)).astype(np.int32)


def conv_transpose(node: Node, x: Array, w: Array, b: Array | None = None) -> Array:
    """ConvTranspose, with its output as large as its pads make it."""
    kernel, group, count = list(w.shape[2:]), node.attrs.get("group", 1), x.ndim - 2
    strides, dilations = node.ints("strides", 1, count), node.ints("dilations", 1, count)
    pads, extra = node.ints("pads", 0, 2 * count), node.ints("output_padding", 0, count)
    if "output_shape" in node.attrs or node.text("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        raise Unsupported("ConvTranspose of a given output shape")
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    full = [(n - 1) * s + r + e for n, s, r, e in zip(x.shape[2:], strides, reach, extra, strict=True)]
    windows = Windows(kernel, strides, dilations, [0] * count, [0] * count, list(x.shape[2:]))
    result = np.zeros((x.shape[0], w.shape[1] * group, *full))
    columns = x.reshape(x.shape[0], group, -1, math.prod(x.shape[2:]))
    flat = w.reshape(group, -1, w.shape[1], math.prod(kernel))
    for number, where in enumerate(windows.places()):
        part = flat[..., number].transpose(0, 2, 1) @ columns
        result[where] += part.reshape(result[where].shape)
    inside = (slice(low, size - high) for low, high, size in zip(pads[:count], pads[count:], full, strict=True))
    kept = (slice(None), slice(None), *inside)
    y = result[kept]
    return y if b is None else y + channels(b, y.ndim)


def max_pool(node: Node, x: Array) -> Array:
    """MaxPool, without indices."""
    if len([name for name in node.outputs if name]) > 1:
        raise Unsupported("MaxPool with indices")
    windows = Windows.of(node, x.shape[2:], list(node.attrs["kernel_shape"]))
    low = -np.inf if x.dtype.kind == "f" else np.iinfo(x.dtype).min
    result = np.full((*x.shape[:2], *windows.sizes), low, x.dtype)
    for view in windows.views(x, low):
        np.maximum(result, view, out=result)
    return result


def average_pool(node: Node, x: Array) -> Array:
    """AveragePool."""
    windows = Windows.of(node, x.shape[2:], list(node.attrs["kernel_shape"]))
    ones = np.ones((1, 1, *x.shape[2:]))
    if node.attrs.get("count_include_pad", 0):  # what is padded counts, not what the last window reaches beyond
        ones = np.pad(ones, [(0, 0), (0, 0), *zip(windows.before, windows.after, strict=True)], constant_values=1.0)
        none = [0] * (x.ndim - 2)
        beside = Windows(windows.kernel, windows.strides, windows.dilations, none, none, windows.sizes)
    else:
        beside = windows
    total = sum(windows.views(x, 0.0))
    return np.asarray(total / sum(beside.views(ones, 0.0)))


def global_pool(node: Node, x: Array) -> Array:
    """GlobalAveragePool and GlobalMaxPool."""
    axes = tuple(range(2, x.ndim))
    return np.asarray(x.mean(axes, keepdims=True) if node.op == "GlobalAveragePool" else x.max(axes, keepdims=True))
