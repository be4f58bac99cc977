"""What callers hand to an engine, as an address with shape and dtype: numpy arrays, or memory on the device.

Memory on the device is taken without a copy: whatever has `__cuda_array_interface__` (CuPy, Numba, PyTorch; the
interface's version 3, https://numba.readthedocs.io/en/stable/cuda/cuda_array_interface.html) or `__dlpack__` (DLPack,
https://dmlc.github.io/dlpack/latest/python_spec.html).
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphopt.errors import GraphoptError

__all__ = ["DeviceArray", "Located", "located", "named_type"]

_LEGACY = 1  # the default stream, in which producers of arrays work unless they say otherwise
_CUDA_DEVICES = (2, 13)  # kDLCUDA, kDLCUDAManaged
_CODES = {0: "i", 1: "u", 2: "f", 6: "b"}  # DLDataTypeCode; 4 is bfloat16


@dataclass(frozen=True)
class Located:
    """An array somewhere. address: of its first element. on_device: or in host memory. owner: keeps it alive. stream:
    of CUDA, in which what makes it may still be under way; None if it is there."""

    address: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    on_device: bool
    owner: Any
    stream: int | None = None

    @property
    def nbytes(self) -> int:
        """Bytes."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    def numpy(self) -> np.ndarray:
        """The array in host memory that it is, or a copy of it."""
        if isinstance(self.owner, np.ndarray):
            return self.owner
        made = np.empty(self.shape, self.dtype)
        if made.nbytes:
            ctypes.memmove(made.ctypes.data, self.address, made.nbytes)
        return made


def located(name: str, given: Any) -> Located:
    """Where an input is. Raises GraphoptError for what is no array, and for memory that is not in C order."""
    if isinstance(given, (np.ndarray, np.generic, bool, int, float, list, tuple)):
        array = np.asarray(given)
        ready = array if array.flags.c_contiguous else np.ascontiguousarray(array)
        return Located(ready.ctypes.data, ready.shape, ready.dtype, False, ready)
    if hasattr(given, "__dlpack__"):  # first: PyTorch's other interface calls bfloat16 a float16
        return _of_dlpack(name, given)
    interface = getattr(given, "__cuda_array_interface__", None)
    if interface is not None:
        return _of_interface(name, interface, given)
    raise GraphoptError(f"input {name!r} is a {type(given).__name__}; give a numpy array, or an array on the device")


def _of_interface(name: str, interface: dict[str, Any], owner: Any) -> Located:
    shape, dtype = tuple(interface["shape"]), np.dtype(interface["typestr"])
    _check_order(name, shape, dtype.itemsize, interface.get("strides"))
    stream = interface.get("stream") if interface.get("version", 0) >= 3 else _LEGACY
    return Located(int(interface["data"][0]), shape, dtype, True, owner, stream)


def _check_order(name: str, shape: Sequence[int], itemsize: int, strides: Sequence[int] | None) -> None:
    """strides: in bytes; None for C order."""
    if strides is None:
        return
    expected = itemsize
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if size > 1 and stride != expected:
            raise GraphoptError(f"input {name!r} is not in C order on the device; make it contiguous first")
        expected *= size


class _DLDevice(ctypes.Structure):
    _fields_ = (("device_type", ctypes.c_int32), ("device_id", ctypes.c_int32))


class _DLDataType(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16))


class _DLTensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device", _DLDevice),
        ("ndim", ctypes.c_int32),
        ("dtype", _DLDataType),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


def _of_dlpack(name: str, owner: Any) -> Located:
    """By the capsule's DLTensor, with which DLManagedTensor begins. It stays unconsumed: its producer frees it."""
    capsule = owner.__dlpack__()
    address = ctypes.pythonapi.PyCapsule_GetPointer
    address.restype, address.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    tensor = _DLTensor.from_address(address(capsule, b"dltensor"))
    shape = tuple(tensor.shape[axis] for axis in range(tensor.ndim))
    dtype = _dtype_of(name, tensor.dtype)
    if tensor.strides:
        strides = [tensor.strides[axis] * dtype.itemsize for axis in range(tensor.ndim)]
        _check_order(name, shape, dtype.itemsize, strides)
    on_device = tensor.device.device_type in _CUDA_DEVICES
    start = (tensor.data or 0) + tensor.byte_offset
    return Located(start, shape, dtype, on_device, (owner, capsule), _LEGACY if on_device else None)


def _dtype_of(name: str, found: _DLDataType) -> np.dtype[Any]:
    if found.code == 4 and found.bits == 16:
        return named_type("bfloat16")
    kind = _CODES.get(found.code)
    if kind is None or found.lanes != 1 or found.bits % 8:
        raise GraphoptError(f"input {name!r} has a type that engines do not take (DLPack code {found.code})")
    return np.dtype(np.bool_) if kind == "b" else np.dtype(f"{kind}{found.bits // 8}")


def named_type(name: str) -> np.dtype[Any]:
    """A numpy type by name, those of ml_dtypes included."""
    if hasattr(np, name):
        return np.dtype(name)
    import ml_dtypes

    found: np.dtype[Any] = np.dtype(getattr(ml_dtypes, name))
    return found


class DeviceArray:
    """An output that stays on the device: `__cuda_array_interface__` for CuPy, PyTorch and others; `numpy()` copies.

    Valid until the engine's next run, which writes into the same memory.
    """

    def __init__(self, address: int, shape: tuple[int, ...], dtype: np.dtype[Any], owner: Any, copy: Any) -> None:
        self.address, self.shape, self.dtype = address, shape, dtype
        self._owner, self._copy = owner, copy

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        typestr = self.dtype.str if self.dtype.kind != "V" else f"|V{self.dtype.itemsize}"
        return {"shape": self.shape, "typestr": typestr, "data": (self.address, False), "version": 3, "strides": None}

    def numpy(self) -> np.ndarray:
        """A copy in host memory."""
        result: np.ndarray = self._copy(self)
        return result
