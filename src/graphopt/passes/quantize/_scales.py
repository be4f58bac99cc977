"""Scale and zero point of a range:   x  ~  (q - zero) * scale

0 is always a value that q can stand for (padding, Relu). Computed in float64 and rounded once, to float32, as ONNX
Runtime's quantizer does, so that the same range gives the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from graphopt.analysis.ranges import TensorRange
from graphopt.errors import GraphoptError
from graphopt.ir import NDArray

UINT8, INT8 = "uint8", "int8"
BOUNDS = {
    "uint8": (0, 255),
    "int8": (-128, 127),
    "uint16": (0, 65535),
    "int16": (-32768, 32767),
    "uint4": (0, 15),
    "int4": (-8, 7),
}
TINY = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True)
class Scale:
    """How one tensor is quantized. scale: float32; zero: of an integer dtype; both one number, or one a channel.

    dtype: "uint8", "int8", "uint16", "int16"; "int4" and "uint4", whose zero is kept in 8 bits.
    """

    scale: NDArray
    zero: NDArray
    dtype: str

    @property
    def low(self) -> NDArray:
        """The least real value (float64) that it can stand for."""
        return self._real(BOUNDS[self.dtype][0])

    @property
    def high(self) -> NDArray:
        """The largest real value (float64) that it can stand for."""
        return self._real(BOUNDS[self.dtype][1])

    def _real(self, code: int) -> NDArray:
        return (code - self.zero.astype(np.float64)) * self.scale.astype(np.float64)

    def same(self, other: Scale) -> bool:
        """Whether both give every number the same code."""
        return (
            self.dtype == other.dtype
            and np.array_equal(self.scale, other.scale)
            and np.array_equal(self.zero, other.zero)
        )


def check_dtype(dtype: str) -> None:
    """Raises GraphoptError for what is no dtype to quantize to."""
    if dtype not in BOUNDS:
        raise GraphoptError(f"cannot quantize to {dtype!r}; there are {', '.join(BOUNDS)}")


def activation_scale(found: TensorRange, dtype: str = UINT8, symmetric: bool = False) -> Scale:
    """Of an activation, by its range.

    symmetric: the zero point is in the middle (0 for int8, 128 for uint8).

    >>> from graphopt.analysis.ranges import TensorRange
    >>> s = activation_scale(TensorRange(-1.0, 1.55, -1.0, 1.55))
    >>> round(float(s.scale), 4), int(s.zero)
    (0.01, 100)
    """
    return scale_between(found.low, found.high, dtype, symmetric)


def scale_between(low: NDArray | float, high: NDArray | float, dtype: str, symmetric: bool = False) -> Scale:
    """Of what lies between low and high: numbers, or arrays with one a channel."""
    check_dtype(dtype)
    least, most = BOUNDS[dtype]
    low = np.minimum(np.asarray(low, np.float64), 0.0)
    high = np.maximum(np.asarray(high, np.float64), 0.0)
    if symmetric:
        high = np.maximum(-low, high)
        low = -high
    steps = (high - low) / float(most - least)
    flat = steps < TINY
    safe = np.where(flat, 1.0, steps)
    zero = np.round((least + most) / 2.0) if symmetric else np.round(least - low / safe)
    if not symmetric or flat.ndim == 0:  # per channel, symmetric ones keep the same zero
        zero = np.where(flat, 0.0, zero)
    kept = np.int8 if dtype == "int4" else np.uint8 if dtype == "uint4" else np.dtype(dtype)
    return Scale(np.asarray(safe, np.float32), np.asarray(np.broadcast_to(zero, safe.shape)).astype(kept), dtype)


def weight_scale(weight: NDArray, axis: int | None, dtype: str = INT8) -> Scale:
    """Of a constant, symmetric (-127 to 127 for int8): one scale, or one for each index of `axis`.

    A channel of zeros gets scale 1.
    """
    check_dtype(dtype)
    least, most = BOUNDS[dtype]
    others = tuple(i for i in range(weight.ndim) if axis is None or i != axis % max(weight.ndim, 1))
    amax = np.abs(weight).max(axis=others, initial=0.0).astype(np.float64)
    steps = 2 * amax / float(2 * most if least < 0 else most - least)
    scale = np.asarray(np.where(steps < TINY, 1.0, steps), np.float32)
    kept = np.int8 if dtype == "int4" else np.uint8 if dtype == "uint4" else np.dtype(dtype)
    return Scale(scale, np.full(scale.shape, 0 if least < 0 else round((least + most) / 2), kept), dtype)


def quantize(array: NDArray, scale: Scale, axis: int | None = None) -> NDArray:
    """The codes of an array: rounded half to even, saturated. axis: that of scales per channel."""
    least, most = BOUNDS[scale.dtype]
    if least < 0 and not scale.zero.any():
        least = -most  # symmetric: -128 is not used, which keeps u8 x s8 products from saturating in pairs
    step, zero = spread(scale.scale, axis, array.ndim), spread(scale.zero, axis, array.ndim)
    codes = np.round(array.astype(np.float32) / step) + zero.astype(np.float32)
    return np.clip(codes, least, most).astype(scale.zero.dtype)


def dequantize(codes: NDArray, scale: Scale, axis: int | None = None) -> NDArray:
    """The real values (float32) of codes, as DequantizeLinear gives them."""
    step, zero = spread(scale.scale, axis, codes.ndim), spread(scale.zero, axis, codes.ndim)
    return (codes.astype(np.int32) - zero.astype(np.int32)).astype(np.float32) * step


def spread(numbers: NDArray, axis: int | None, rank: int) -> NDArray:
    """One number a channel, in a shape that broadcasts along `axis` of an array of this rank."""
    if numbers.ndim == 0 or axis is None:
        return numbers
    shape = [1] * rank
    shape[axis] = -1
    return numbers.reshape(shape)


INT32_MOST = 2**31 - 1


def widen_for_bias(weight: NDArray, activation: NDArray, bias: NDArray) -> NDArray:
    """Weight scales (float32, one or one a channel) that leave room for a bias in int32 of scale activation * weight.

    A channel whose weights are all but zero has so small a scale that its bias would overflow. Such a scale grows until
    the bias takes half of int32, the rest being for the products; the channel's weights are then coarser, but they are
    small beside its bias.

    >>> wider = widen_for_bias(np.float32([1e-12, 0.01]), np.float32(0.02), np.float32([1.0, 1.0]))
    >>> [f"{scale:.2g}" for scale in wider]
    ['4.7e-08', '0.01']
    """
    least = 2.0 * np.abs(bias.astype(np.float64)) / INT32_MOST / activation.astype(np.float64)
    if weight.ndim == 0:
        least = np.asarray(least.max(initial=0.0))
    wider = np.maximum(weight.astype(np.float64), least)
    return np.where(wider > weight, np.nextafter(wider.astype(np.float32), np.float32(np.inf)), weight)


def bias_codes(bias: NDArray, scale: NDArray) -> NDArray:
    """A bias in int32 of this scale (float32, one or one a channel), rounded and saturated in float64."""
    codes = np.round(bias.astype(np.float64) / scale.astype(np.float64))
    return np.clip(codes, -INT32_MOST, INT32_MOST).astype(np.int32)


ONNX_TYPES = {
    "uint8": TensorProto.UINT8,
    "int8": TensorProto.INT8,
    "uint16": TensorProto.UINT16,
    "int16": TensorProto.INT16,
    "uint4": TensorProto.UINT4,
    "int4": TensorProto.INT4,
}
