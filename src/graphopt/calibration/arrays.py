"""Reading of .npz and .npy: whole, or a sample at a time off a leading axis. Nothing is unpickled."""

from __future__ import annotations

import os
from typing import IO, Any
from zipfile import BadZipFile, ZipFile

import numpy as np

from graphopt.errors import GraphoptError

NDArray = np.ndarray[Any, Any]
_BROKEN = (OSError, ValueError, AttributeError, TypeError, EOFError, KeyError, RuntimeError, BadZipFile)


def read_npz(path: str) -> dict[str, NDArray]:
    """All arrays of an archive, by name. Raises GraphoptError where it cannot be read, or holds pickled objects."""
    try:
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as data:
            arrays = {name: data[name] for name in data.files}
            if not all(isinstance(array, np.ndarray) for array in arrays.values()):
                raise ValueError("a member is no array")  # numpy hands out the bytes of what it does not know
            return arrays
    except _BROKEN as error:
        raise unreadable(path, error) from error


def read_npy(path: str, *, mapped: bool = False) -> NDArray:
    """The array in a .npy file; `mapped`, it stays on disk. Raises GraphoptError as `read_npz`."""
    try:
        array = np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
        if not isinstance(array, np.ndarray):
            raise ValueError("it is an archive of several arrays")
        return array
    except _BROKEN as error:
        raise unreadable(path, error) from error


def unreadable(path: str, error: BaseException) -> GraphoptError:
    """What to say of a file that cannot be read."""
    if isinstance(error, FileNotFoundError):
        return GraphoptError(f"calibration file {path!r} does not exist; check the path")
    if isinstance(error, PermissionError):
        return GraphoptError(f"calibration file {path!r} cannot be read: permission denied")
    if "Object arrays" in str(error):
        return GraphoptError(f"calibration file {path!r} holds pickled objects, which are not read; save plain arrays")
    hint = "write it with numpy.save(file, array)"
    if not path.endswith(".npy"):
        hint = "write it with numpy.savez(file, input_name=array, ...)"
    what = f" ({error})" if str(error) and "pickle" not in str(error) else ""
    return GraphoptError(f"calibration file {path!r} holds no plain arrays{what}; {hint}")


class Rows:
    """An array on disk, of which a few rows at a time are read: `rows[3:5]` without the rest.

    A .npy file is mapped; a member of an .npz archive is read on from where the last reading stopped.
    """

    def __init__(self, path: str, member: str = "") -> None:
        self.path, self.member = path, member
        self._mapped: NDArray | None = None
        self._stream: IO[bytes] | None = None
        self._archive: ZipFile | None = None
        if member:
            self._open_member()
        else:
            self._mapped = read_npy(path, mapped=True)
        if not self.shape:
            raise GraphoptError(f"calibration file {path!r}: {member or 'the array'} is a scalar: no axis of samples")

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the whole array."""
        return self._shape if self._mapped is None else self._mapped.shape

    def __getitem__(self, rows: slice) -> NDArray:
        if self._mapped is not None:
            return np.array(self._mapped[rows])
        start, stop, _ = rows.indices(self._shape[0])
        assert self._stream is not None
        try:
            self._stream.seek(self._begin + start * self._row)
            data = self._stream.read((stop - start) * self._row)
            array: NDArray = np.frombuffer(data, self._dtype).reshape((stop - start, *self._shape[1:]))
            return np.array(array)
        except _BROKEN as error:
            raise unreadable(self.path, error) from error

    def _open_member(self) -> None:
        try:
            self._archive = ZipFile(self.path)
            self._stream = self._archive.open(f"{self.member}.npy")
            version = np.lib.format.read_magic(self._stream)
            reads = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
            shape, by_column, dtype = reads[version](self._stream)
            if dtype.hasobject:
                raise ValueError("Object arrays are not read")
            if by_column:
                self.close()
                self._mapped = read_npz(self.path)[self.member]
                return
            self._shape, self._dtype = tuple(shape), dtype
            self._begin = self._stream.tell()
            self._row = dtype.itemsize * int(np.prod(shape[1:], dtype=np.int64))
        except _BROKEN as error:
            self.close()
            raise unreadable(self.path, error) from error

    def close(self) -> None:
        """Lets go of the file."""
        for item in (self._stream, self._archive):
            if item is not None:
                item.close()
        self._stream = self._archive = None


def members(path: str) -> list[str]:
    """The names of the arrays in an .npz archive."""
    try:
        with ZipFile(path) as archive:
            names = archive.namelist()
    except _BROKEN as error:
        raise unreadable(path, error) from error
    if not names or not all(name.endswith(".npy") for name in names):
        raise unreadable(path, ValueError("a member is no array" if names else "it is empty"))
    return [os.path.splitext(name)[0] for name in names]
