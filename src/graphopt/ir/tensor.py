"""Tensors that are looked at, not loaded: inline, mapped from the model's file, or in an external data file."""

from __future__ import annotations

import mmap
import os
from math import prod
from pathlib import Path

import numpy as np
from onnx import TensorProto

from graphopt.errors import ModelError
from graphopt.ir import dtypes
from graphopt.ir.dtypes import NDArray, payload_bytes
from graphopt.ir.external import DataFiles, external_bytes, shown, span
from graphopt.ir.wire import BIG, Buffer, token, token_index


class Store:
    """Where a model's large payloads live: views of its file, arrays made by passes, external data files.

    folder: what external data is relative to; path: the model's file, if it has one. One store serves all scopes of a
    model and its clones; payloads are never changed once they are in it.
    """

    def __init__(self, blobs: list[Buffer] | None = None, folder: str = "", path: str = ""):
        self.blobs: list[Buffer] = blobs if blobs is not None else []
        self.files = DataFiles(folder, path)
        self.mapped: list[mmap.mmap] = []  # the files that payloads are views of

    @property
    def folder(self) -> str:
        """What external data is relative to."""
        return self.files.folder

    def clone(self) -> Store:
        """Another store with the same payloads and files."""
        made = Store(list(self.blobs))
        made.files, made.mapped = self.files, list(self.mapped)
        return made

    def add(self, payload: Buffer) -> bytes:
        """Keeps a payload; returns the token that stands for it in `raw_data`."""
        self.blobs.append(payload)
        return token(len(self.blobs) - 1)

    def forget_pages(self) -> None:
        """Lets the system take back the memory of mapped files that were read; they can be read again."""
        for data in (*self.mapped, *self.files.maps.values()):
            if hasattr(mmap, "MADV_DONTNEED") and isinstance(data, mmap.mmap):
                data.madvise(mmap.MADV_DONTNEED)

    def external(self, proto: TensorProto) -> Buffer:
        """The bytes of an external tensor. Raises ExternalDataError, naming the tensor, when they cannot be had."""
        return self.files.read(span(proto), shown(proto.name or "a tensor"), external_bytes(proto))

    def range(self, proto: TensorProto, start: int, length: int) -> Buffer:
        """Bytes of the file that an external tensor is in."""
        at = span(proto)._replace(offset=start, length=length)
        return self.files.read(at, shown(proto.name or "a tensor"), length)

    def place(self, proto: TensorProto) -> str:
        """The real path of the file that an external tensor is in. Raises ExternalDataError when it may not be read."""
        return self.files.path(span(proto), shown(proto.name or "a tensor"))


class Tensor:
    """A constant tensor: dtype, shape and size at once, the values only when asked for.

    >>> import numpy as np
    >>> from onnx import numpy_helper
    >>> t = Tensor(numpy_helper.from_array(np.eye(2, dtype=np.float32), "eye"), Store())
    >>> t.shape, t.nbytes, t.numpy().sum()
    ((2, 2), 16, np.float32(2.0))
    """

    __slots__ = ("_array", "_shape", "proto", "store")

    def __init__(self, proto: TensorProto, store: Store):
        self.proto, self.store = proto, store
        self._array: NDArray | None = None
        self._shape: tuple[int, ...] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Its dims."""
        if self._shape is None:
            self._shape = tuple(self.proto.dims)
        return self._shape

    @property
    def dtype(self) -> int:
        """The element type, as in `onnx.TensorProto.DataType`."""
        return self.proto.data_type

    @property
    def nbytes(self) -> int:
        """Bytes of the values as stored in `raw_data` (0 for strings)."""
        return payload_bytes(self.proto.data_type, prod(self.shape))

    @property
    def is_external(self) -> bool:
        """Whether the values are in a file of their own."""
        return self.proto.data_location == TensorProto.EXTERNAL

    def raw(self) -> Buffer | None:
        """The little-endian payload without a copy, or None where the values are in a typed field."""
        if self.is_external:
            return self.store.external(self.proto)
        if not self.proto.HasField("raw_data"):
            return None
        raw = self.proto.raw_data
        index = token_index(raw)
        return raw if index is None else self.store.blobs[index]

    def numpy(self) -> NDArray:
        """The values, read-only: 6-, 4- and 2-bit types unpacked, float8 and bfloat16 as ml_dtypes, text as bytes.

        Raises ModelError when the payload does not have the size that dtype and shape say.
        """
        if self._array is None:
            self._array = self._view()
            self._array.flags.writeable = False
        return self._array

    def _view(self) -> NDArray:
        raw, dtype = self.raw(), self.dtype
        try:
            if raw is None or dtype == dtypes.STRING:
                array = dtypes.from_fields(self.proto)
            elif dtype in dtypes.NARROW:
                array = dtypes.unpack(raw, dtype, prod(self.shape))
            else:
                array = np.frombuffer(raw, dtypes.to_numpy(dtype))
            array = array.reshape(self.shape)
            if array.shape != self.shape:
                raise ValueError(f"no tensor has dims {self.shape}")
            return array
        except KeyError as error:
            raise ModelError(f"tensor {self.proto.name!r} is of an unknown element type, number {error}") from None
        except (ValueError, TypeError) as error:
            raise ModelError(f"tensor {self.proto.name!r} does not hold what it declares: {error}") from error


def fill(proto: TensorProto, array: NDArray, name: str, store: Store, dtype: int | None = None) -> None:
    """Makes `proto` hold the array: small ones inline, large ones in the store. `dtype` overrides the array's own:
    unsigned integers are then the bits of a float8 or bfloat16 of their width; any other array is cast.

    Strings go to string_data as bytes; object arrays must hold `str` or `bytes`.
    """
    proto.name = name
    proto.dims.extend(array.shape)
    kind = dtype if dtype is not None else dtypes.from_numpy(array.dtype)
    proto.data_type = kind
    if kind == dtypes.STRING:
        proto.string_data.extend(s if isinstance(s, bytes) else str(s).encode() for s in array.ravel())
        return
    wanted = dtypes.to_numpy(kind)
    if array.dtype != wanted:
        bits = array.dtype.kind == "u" and wanted.kind not in "iub" and array.dtype.itemsize == wanted.itemsize
        array = array.view(wanted) if bits and kind not in dtypes.NARROW else array.astype(wanted)
    if kind in dtypes.NARROW:
        payload: Buffer = dtypes.pack(array, kind)
    else:
        payload = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
    proto.raw_data = store.add(payload) if len(payload) >= BIG else bytes(payload)


def folder_of(path: str | os.PathLike[str]) -> str:
    """The folder that external data of this model is relative to."""
    return str(Path(path).parent)


__all__ = ["NDArray", "Store", "Tensor", "fill", "folder_of", "payload_bytes"]
