"""Element types of onnx 1.23, whichever onnx is installed: their numpy types, their widths, how they are packed.

Numbers are those of `onnx.TensorProto.DataType`. Packing: onnx.proto, comments on `int32_data` and `raw_data`.
"""

from __future__ import annotations

from functools import lru_cache
from math import prod
from typing import Any

import numpy as np
from onnx import TensorProto

NDArray = np.ndarray[Any, Any]
STRING = 8

_NAMES = {
    1: "float32",
    2: "uint8",
    3: "int8",
    4: "uint16",
    5: "int16",
    6: "int32",
    7: "int64",
    8: "object",
    9: "bool",
    10: "float16",
    11: "float64",
    12: "uint32",
    13: "uint64",
    14: "complex64",
    15: "complex128",
    16: "bfloat16",
    17: "float8_e4m3fn",
    18: "float8_e4m3fnuz",
    19: "float8_e5m2",
    20: "float8_e5m2fnuz",
    21: "uint4",
    22: "int4",
    23: "float4_e2m1fn",
    24: "float8_e8m0fnu",
    25: "uint2",
    26: "int2",
    27: "float6_e2m3fn",
    28: "float6_e3m2fn",
}
_KINDS = {name: kind for kind, name in _NAMES.items()}
# Bits of one element, for the types whose elements are narrower than a byte.
NARROW = {21: 4, 22: 4, 23: 4, 25: 2, 26: 2, 27: 6, 28: 6}
_FIELDS = {
    1: "float_data",
    7: "int64_data",
    8: "string_data",
    11: "double_data",
    12: "uint64_data",
    13: "uint64_data",
    14: "float_data",
    15: "double_data",
}
_PLAIN = frozenset({2, 3, 4, 5, 6, 9})  # their int32_data holds the values; that of other types holds bits


def name(kind: int) -> str:
    """An element type as text: its numpy or ml_dtypes name, "string", or the number of an unknown one."""
    return "string" if kind == STRING else _NAMES.get(kind, f"type{kind}")


@lru_cache(maxsize=64)
def to_numpy(kind: int) -> np.dtype[Any]:
    """The numpy type of an element type, from ml_dtypes where numpy has none. Raises KeyError for an unknown one."""
    name = _NAMES[kind]
    try:
        dtype: np.dtype[Any] = np.dtype(name)
    except TypeError:
        import ml_dtypes

        dtype = np.dtype(getattr(ml_dtypes, name))
    return dtype


def from_numpy(dtype: np.dtype[Any]) -> int:
    """The element type of a numpy or ml_dtypes type; text of any kind is STRING. Raises KeyError for what ONNX has not.

    >>> from_numpy(np.dtype(np.float16)) == TensorProto.FLOAT16
    True
    """
    return STRING if dtype.kind in "USO" else _KINDS[dtype.name]


def payload_bytes(kind: int, elements: int) -> int:
    """Bytes that `elements` values of a type take in raw_data; 0 for strings and unknown types."""
    if kind == STRING or kind not in _NAMES:
        return 0
    return (elements * NARROW.get(kind, 8 * to_numpy(kind).itemsize) + 7) // 8


def entries(proto: TensorProto) -> int:
    """How many entries the typed field of a tensor has (float_data, int32_data ...)."""
    return len(getattr(proto, _FIELDS.get(proto.data_type, "int32_data")))


def entries_wanted(kind: int, elements: int) -> int:
    """How many entries that field takes: complex numbers have two, of narrow types a byte's worth has one."""
    if kind in NARROW:
        return payload_bytes(kind, elements) if NARROW[kind] != 6 else elements
    return 2 * elements if kind in (14, 15) else elements


def unpack(raw: Any, kind: int, elements: int) -> NDArray:
    """Narrow elements out of their bit stream (lowest bits first), one a byte. Raises ValueError for too few bytes."""
    bits, packed = NARROW[kind], np.frombuffer(raw, np.uint8)
    if packed.size < payload_bytes(kind, elements):
        raise ValueError(f"{packed.size} bytes where {elements} elements take {payload_bytes(kind, elements)}")
    if bits == 6:
        stream = np.unpackbits(packed, bitorder="little", count=6 * elements).reshape(-1, 6)
        wide = np.packbits(stream, axis=1, bitorder="little").reshape(-1)
    else:
        shifts = np.arange(0, 8, bits, dtype=np.uint8)
        wide = ((packed[:, None] >> shifts) & np.uint8((1 << bits) - 1)).reshape(-1)[:elements]
    return wide.view(to_numpy(kind))


def pack(array: NDArray, kind: int) -> bytes:
    """The inverse of `unpack`."""
    bits = NARROW[kind]
    wide: NDArray = np.array(array, to_numpy(kind)).reshape(-1).view(np.uint8)
    if bits == 6:
        stream = np.unpackbits(wide[:, None], axis=1, count=6, bitorder="little")
        return np.packbits(stream.reshape(-1), bitorder="little").tobytes()
    wide &= np.uint8((1 << bits) - 1)
    wide = np.append(wide, np.zeros(-wide.size % (8 // bits), np.uint8)).reshape(-1, 8 // bits)
    joined: NDArray = np.bitwise_or.reduce(wide << np.arange(0, 8, bits, dtype=np.uint8), axis=1)
    return joined.tobytes()


def from_fields(proto: TensorProto) -> NDArray:
    """The values of a tensor that keeps them in a typed field (float_data, int32_data ...), flat; strings as bytes.

    Raises KeyError for an unknown element type, ValueError when packed values are missing.
    """
    kind = proto.data_type
    dtype = to_numpy(kind)
    data: Any = getattr(proto, _FIELDS.get(kind, "int32_data"))
    if kind == STRING:  # numpy_helper would decode UTF-8, which a string tensor need not be
        return np.array(list(data), dtype=object)
    if dtype.kind == "c":
        return np.array(data, np.float32 if dtype.itemsize == 8 else np.float64).view(dtype)
    if kind in _FIELDS:
        return np.array(data, dtype)
    words = np.array(data, np.int32)
    if kind in _PLAIN:
        return words.astype(dtype)
    if NARROW.get(kind, 6) != 6:  # as in raw_data, one byte of it in each entry
        return unpack(words.astype(np.uint8).tobytes(), kind, prod(proto.dims))
    return words.astype(np.uint16 if dtype.itemsize == 2 else np.uint8).view(dtype)
