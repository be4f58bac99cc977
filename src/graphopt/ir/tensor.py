"""Tensors that are looked at, not loaded: inline, mapped from the model's file, or in an external data file."""

from __future__ import annotations

import mmap
import os
from math import prod
from pathlib import Path

import numpy as np
from onnx import TensorProto

from graphopt.errors import ExternalDataError, ModelError
from graphopt.ir import dtypes
from graphopt.ir.dtypes import NDArray, payload_bytes
from graphopt.ir.wire import BIG, Buffer, token, token_index


class Store:
    """Where a model's large payloads live: views of its file, arrays made by passes, external data files.

    One store serves all scopes of a model and its clones; payloads are never changed once they are in it.
    """

    def __init__(self, blobs: list[Buffer] | None = None, folder: str = ""):
        self.blobs: list[Buffer] = blobs if blobs is not None else []
        self.folder = folder
        self.mapped: list[mmap.mmap] = []  # the files that payloads are views of
        self._files: dict[str, mmap.mmap | bytes] = {}

    def add(self, payload: Buffer) -> bytes:
        """Keeps a payload; returns the token that stands for it in `raw_data`."""
        self.blobs.append(payload)
        return token(len(self.blobs) - 1)

    def forget_pages(self) -> None:
        """Lets the system take back the memory of mapped files that were read; they can be read again."""
        for data in self.mapped:
            if hasattr(mmap, "MADV_DONTNEED"):
                data.madvise(mmap.MADV_DONTNEED)

    def external(self, proto: TensorProto) -> memoryview:
        """The bytes of an external tensor. Raises ExternalDataError, naming the tensor, when they cannot be had."""
        path, offset, length = locate(proto, self.folder)
        size = os.path.getsize(path)
        length = size - offset if length is None else length
        if offset < 0 or length < 0 or offset + length > size:
            raise ExternalDataError(
                f"external data of {proto.name!r} (offset {offset}, length {length}) runs past the end of {path} "
                f"({size} bytes); the data file does not belong to this model or is cut short"
            )
        if path not in self._files:
            with open(path, "rb") as file:
                data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b""
            self._files[path] = data
            if isinstance(data, mmap.mmap):
                self.mapped.append(data)
        return memoryview(self._files[path])[offset : offset + length]


def locate(proto: TensorProto, folder: str) -> tuple[str, int, int | None]:
    """(path, offset, length or None) of an external tensor. Raises ExternalDataError for anything but a regular
    file inside the model's folder: absolute paths, `..`, links that lead out, devices."""
    entries = {entry.key: entry.value for entry in proto.external_data}
    location: object = entries.get("location", "")
    name = proto.name or "a tensor"
    if not isinstance(location, str) or "\0" in location:  # protobuf hands out bytes for what is no text
        raise ExternalDataError(f"external data of {name!r} is at {location!r}, which is no file name")
    root = os.path.realpath(folder or ".")
    path = os.path.realpath(os.path.join(root, location))
    if not location or os.path.isabs(location) or os.path.commonpath([root, path]) != root:
        raise ExternalDataError(
            f"external data of {name!r} is at {location!r}, outside the model's folder; "
            "move the file beside the model and use a relative path"
        )
    if not os.path.isfile(path):
        what = "is no regular file" if os.path.exists(path) else "is missing"
        raise ExternalDataError(
            f"external data file {os.path.join(folder or '.', location)} of {name!r} {what}; put it beside the model"
        )
    try:
        offset = int(entries.get("offset") or 0)
        length = int(entries["length"]) if entries.get("length") else None
    except ValueError:
        raise ExternalDataError(
            f"external data of {name!r} has an offset or length that is no number; export the model again"
        ) from None
    return path, offset, length


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


__all__ = ["NDArray", "Store", "Tensor", "fill", "folder_of", "locate", "payload_bytes"]
