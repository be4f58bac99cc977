"""Gathering, scattering and padding, which the reference evaluator does element by element or not at all."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from float64.node import Array, Node, Unsupported


def scatter_elements(node: Node, data: Array, indices: Array, updates: Array) -> Array:
    """ScatterElements."""
    axis, how, result = node.attrs.get("axis", 0) % data.ndim, node.text("reduction", "none"), data.copy()
    where: list[Array] = list(np.indices(indices.shape, sparse=True))
    where[axis] = np.where(indices < 0, indices + data.shape[axis], indices)
    return _scattered(result, tuple(where), updates, how)


def scatter_nd(node: Node, data: Array, indices: Array, updates: Array) -> Array:
    """ScatterND."""
    return _scattered(data.copy(), tuple(np.moveaxis(indices, -1, 0)), updates, node.text("reduction", "none"))


def _scattered(result: Array, where: tuple[Any, ...], updates: Array, how: str) -> Array:
    if how == "none":
        result[where] = updates
    else:
        {"add": np.add, "mul": np.multiply, "max": np.maximum, "min": np.minimum}[how].at(result, where, updates)
    return result


def gather_nd(node: Node, data: Array, indices: Array) -> Array:
    """GatherND, without batch dimensions."""
    if node.attrs.get("batch_dims", 0):
        raise Unsupported("GatherND with batch_dims")
    return np.asarray(data[tuple(np.moveaxis(indices, -1, 0))])


def pad(node: Node, x: Array, pads: Any = None, value: Any = None, axes: Any = None) -> Array:
    """Pad; negative pads cut."""
    pads = np.asarray(node.attrs["pads"] if pads is None else pads, np.int64)
    value = node.attrs.get("value", 0) if value is None else np.reshape(value, -1)[0]
    begin, end = np.zeros(x.ndim, np.int64), np.zeros(x.ndim, np.int64)
    chosen = np.arange(x.ndim) if axes is None else np.asarray(axes)
    begin[chosen], end[chosen] = np.split(pads, 2)
    cut = tuple(slice(max(0, -low), n - max(0, -high)) for low, high, n in zip(begin, end, x.shape, strict=True))
    widths = list(zip(np.maximum(begin, 0), np.maximum(end, 0), strict=True))
    mode: Any = node.text("mode", "constant")
    more = {"constant_values": value} if mode == "constant" else {}
    return np.asarray(np.pad(x[cut], widths, mode, **more))


def gather_elements(node: Node, data: Array, indices: Array) -> Array:
    """GatherElements."""
    axis = node.attrs.get("axis", 0) % data.ndim
    where: list[Array] = list(np.indices(indices.shape, sparse=True))
    where[axis] = np.where(indices < 0, indices + data.shape[axis], indices)
    return np.asarray(data[tuple(where)])


def one_hot(node: Node, indices: Array, depth: Array, values: Array) -> Array:
    """OneHot."""
    count, place = int(np.reshape(depth, ())), indices.astype(np.int64)
    hot = np.where(place < 0, place + count, place)[..., None] == np.arange(count)
    return np.where(np.moveaxis(hot, -1, node.attrs.get("axis", -1)), values[1], values[0])


def range_(node: Node, start: Array, limit: Array, delta: Array) -> Array:
    """Range."""
    first, end, step = (np.asarray(each).reshape(-1)[0] for each in (start, limit, delta))
    count = max(0, math.ceil((float(end) - float(first)) / float(step)))
    return (first + np.arange(count) * step).astype(np.asarray(start).dtype)


def stft(node: Node, x: Array, step: Array, window: Array | None = None, length: Array | None = None) -> Array:
    """STFT of real signals."""
    if x.shape[-1] == 2:
        raise Unsupported("STFT of complex signals")
    signal, hop = (x[..., 0] if x.ndim == 3 else x), int(step)
    size = int(length) if length is not None else len(window) if window is not None else 0
    frames = np.lib.stride_tricks.sliding_window_view(signal, size, -1)[:, ::hop]
    weighted = frames if window is None else frames * window
    found = np.fft.rfft(weighted) if node.attrs.get("onesided", 1) else np.fft.fft(weighted)
    return np.stack([found.real, found.imag], -1)
