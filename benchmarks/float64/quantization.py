"""Quantization: rounded as the model says, but what is rounded is computed in double."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from float64.node import Array, Node, Unsupported, channels


def quantize(node: Node, x: Array, scale: Array, zero: Array | None = None) -> Array:
    """QuantizeLinear."""
    kind = node.attrs.get("output_dtype") or TensorProto.UINT8
    if node.attrs.get("block_size") or (zero is None and kind != TensorProto.UINT8):
        raise Unsupported("QuantizeLinear in blocks, or of another type")
    zero = np.zeros((), np.uint8) if zero is None else zero
    if zero.dtype.name not in ("uint8", "int8", "uint16", "int16"):
        raise Unsupported(f"QuantizeLinear to {zero.dtype}")
    scale, shift = (_per_axis(node, x, each) for each in (scale, zero))
    limits = np.iinfo(zero.dtype)
    return np.clip(np.rint(x / scale) + shift, limits.min, limits.max).astype(zero.dtype)


def dequantize(node: Node, x: Array, scale: Array, zero: Array | None = None) -> Array:
    """DequantizeLinear."""
    if node.attrs.get("block_size") or x.dtype.kind not in "iu":
        raise Unsupported("DequantizeLinear in blocks, or of another type")
    shift = 0.0 if zero is None else _per_axis(node, x, zero).astype(np.float64)
    return np.asarray((x.astype(np.float64) - shift) * _per_axis(node, x, scale))


def _per_axis(node: Node, x: Array, values: Array) -> Array:
    if np.size(values) == 1:
        return np.reshape(values, ())
    return channels(values, x.ndim, node.attrs.get("axis", 1) % x.ndim)


def dynamic_quantize(node: Node, x: Array) -> tuple[Array, ...]:
    """DynamicQuantizeLinear."""
    low, high = min(0.0, float(x.min())), max(0.0, float(x.max()))
    scale = (high - low) / 255 or 1.0
    zero = np.clip(np.rint(-low / scale), 0, 255)
    quantized = np.clip(np.rint(x / scale) + zero, 0, 255)
    return quantized.astype(np.uint8), np.array(scale), np.asarray(zero).astype(np.uint8)
