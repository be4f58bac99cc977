"""Weights in blocks along the axis they are summed over, and how the two forms of ONNX pack them.

    w[k, n]  ~  (codes[k, n] - zero[k // size, n]) * scale[k // size, n]          k: the axis that a product sums over

DequantizeLinear (opset 21) keeps codes, scales and zero points in the layout of the weight; int4 and uint4 take half a
byte, the lower half first. MatMulNBits of com.microsoft keeps them by column: codes uint8 [N, blocks, size * bits / 8],
the last block padded, scales [N, blocks], zero points uint8 [N, ceil(blocks * bits / 8)], each column's beginning on a
byte; without zero points they are 2 ** (bits - 1). Spec: onnxruntime, docs/ContribOperators.md, MatMulNBits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from graphopt.ir import NDArray

KINDS = {
    (4, True): TensorProto.INT4,
    (4, False): TensorProto.UINT4,
    (8, True): TensorProto.INT8,
    (8, False): TensorProto.UINT8,
}


@dataclass(frozen=True)
class Blocks:
    """A quantized matrix [K, N].

    codes: uint8 [K, N], from 0 to 2 ** bits - 1. scale: float [ceil(K / size), N]; negative ones may be. zero: uint8
    [ceil(K / size), N]. symmetric: whether every zero is 2 ** (bits - 1).

    >>> ones = np.full((4, 2), 9, np.uint8)
    >>> Blocks(ones, np.full((1, 2), 0.5, np.float32), np.full((1, 2), 8, np.uint8), 4, 4, True).real()[0]
    array([0.5, 0.5], dtype=float32)
    """

    codes: NDArray
    scale: NDArray
    zero: NDArray
    bits: int
    size: int
    symmetric: bool

    @property
    def shape(self) -> tuple[int, int]:
        """K, N."""
        rows, columns = self.codes.shape
        return rows, columns

    def real(self) -> NDArray:
        """The matrix that the codes stand for, float32, computed as the operators do."""
        rows = np.arange(self.codes.shape[0]) // self.size
        steps = self.codes.astype(np.float32) - self.zero.astype(np.float32)[rows]
        return np.asarray(steps * self.scale.astype(np.float32)[rows])


def blocks_of(length: int, size: int) -> int:
    """How many blocks cover `length`; the last one may be short."""
    return -(-length // size)


def pack_bits(codes: NDArray, bits: int) -> NDArray:
    """Codes along the last axis, several to a byte, the lowest bits first; zeros fill the last byte.

    >>> pack_bits(np.array([[1, 2, 3]], np.uint8), 4).tolist()
    [[33, 3]]
    """
    each = 8 // bits
    if each == 1:
        return codes
    short = -codes.shape[-1] % each
    if short:
        codes = np.concatenate([codes, np.zeros((*codes.shape[:-1], short), np.uint8)], axis=-1)
    parts = codes.reshape(*codes.shape[:-1], -1, each)
    packed = parts[..., 0].copy()
    for index in range(1, each):
        packed |= parts[..., index] << np.uint8(bits * index)
    return packed


def unpack_bits(packed: NDArray, bits: int, length: int) -> NDArray:
    """The inverse of `pack_bits`; length: of the last axis."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    codes = (packed[..., None] >> shifts) & np.uint8(2**bits - 1)
    return codes.reshape(*packed.shape[:-1], -1)[..., :length]


def for_matmul_nbits(found: Blocks) -> tuple[NDArray, NDArray, NDArray | None]:
    """Codes, scales and zero points as MatMulNBits reads them; the last is None for symmetric weights."""
    (rows, columns), bits, size = found.shape, found.bits, found.size
    count = blocks_of(rows, size)
    padded = np.zeros((columns, count * size), np.uint8)
    padded[:, :rows] = found.codes.T
    packed = pack_bits(padded.reshape(columns, count, size), bits)
    scales = np.ascontiguousarray(found.scale.T)
    if found.symmetric:
        return packed, scales, None
    zero = found.zero.T
    short = -count % (8 // bits)
    padding = np.full((columns, short), 2 ** (bits - 1), np.uint8)  # of no block
    return packed, scales, pack_bits(np.concatenate([zero, padding], axis=1), bits)


def for_dequantize(found: Blocks, transposed: bool = False) -> tuple[NDArray, NDArray, NDArray | None, int]:
    """Codes, scales and zero points as DequantizeLinear reads them, and the element type of codes and zero points.

    Signed for symmetric weights, which need no zero points. transposed: the weight is [N, K].
    """
    kind = KINDS[found.bits, found.symmetric]
    codes, zero, scale = (array.T if transposed else array for array in (found.codes, found.zero, found.scale))
    scale = np.ascontiguousarray(scale)
    if not found.symmetric:
        return np.ascontiguousarray(codes), scale, np.ascontiguousarray(zero), kind
    signed = np.ascontiguousarray(codes - np.uint8(2 ** (found.bits - 1)))  # wraps to the bits of the signed number
    return signed.view(np.int8), scale, None, kind
