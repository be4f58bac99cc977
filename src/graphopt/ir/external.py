"""Files of external tensor data: which of them a model may read, and how they are opened.

A model is not trusted: what it says of its data could name any file. It may read regular files inside its own folder,
wherever links in between lead as long as they stay there; and, where the model is itself a link (Hugging Face's cache:
`snapshots/x/model.onnx` and `model.onnx_data` are links into `blobs`), files right beside the one that the link leads
to. docs/security.md has the reasons; ONNX Runtime's rule (its pull requests 26776 and 27374) is the same but for
taking the folders below that one, too.
"""

from __future__ import annotations

import errno
import mmap
import os
import re
import stat
import sys
from collections.abc import Iterable
from contextlib import suppress
from math import prod
from typing import NamedTuple

from onnx import TensorProto

from graphopt.errors import ExternalDataError
from graphopt.ir import dtypes
from graphopt.ir.dtypes import payload_bytes

Buffer = bytes | memoryview
SMALL = 1 << 20  # files below this are read, not mapped
MAPS = 128  # files mapped at a time: before Python 3.13 each holds a file descriptor, and there are 1,024 or fewer
SHARED = 8  # bytes that tensors claim for each byte of their file; overlapping ones could claim without bound
_NUMBER = re.compile(r"-?[0-9]{1,19}\Z", re.ASCII)
_OPEN = os.O_RDONLY
for _flag in ("O_CLOEXEC", "O_NOCTTY", "O_NONBLOCK", "O_NOFOLLOW", "O_BINARY"):  # a pipe must not keep us waiting
    _OPEN |= getattr(os, _flag, 0)
_WALK = getattr(os, "O_PATH", os.O_RDONLY) | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_CLOEXEC", 0)
_CAN_WALK = os.open in os.supports_dir_fd and os.stat in os.supports_dir_fd and hasattr(os, "O_NOFOLLOW")


class Span(NamedTuple):
    """What a tensor says of its bytes: a file, relative to the model's folder, and a range of it (None: to its end)."""

    location: str
    offset: int
    length: int | None


def span(proto: TensorProto) -> Span:
    """Reads the entries of an external tensor. Raises ExternalDataError for any that could be taken in two ways."""
    entries: dict[str, str] = {}
    name = shown(proto.name or "a tensor")
    for entry in proto.external_data:
        if entry.key in entries and entry.key in ("location", "offset", "length"):
            raise ExternalDataError(
                f"external data of {name} has two entries {entry.key!r}: readers differ on which counts; "
                "export the model again"
            )
        entries[entry.key] = entry.value
    location: object = entries.get("location", "")
    if not isinstance(location, str) or "\0" in location:  # protobuf hands out bytes for what is no text
        raise ExternalDataError(
            f"external data of {name} is at {shown(location)}, which is no file name; export the model again"
        )
    numbers: list[int | None] = []
    for key in ("offset", "length"):
        text: object = entries.get(key) or ""
        if text and not (isinstance(text, str) and _NUMBER.match(text)):
            raise ExternalDataError(
                f"external data of {name} has the {key} {shown(text)}, which is no number of bytes; "
                "export the model again"
            )
        numbers.append(int(str(text)) if text else None)
    return Span(location, numbers[0] or 0, numbers[1])


class DataFiles:
    """The data files of one model. folder: what they are relative to; model: its path, "" for one in memory."""

    def __init__(self, folder: str = "", model: str = ""):
        self.folder, self.model = folder, model
        self.maps: dict[str, mmap.mmap | bytes] = {}  # by real path
        self._roots: tuple[str, str] | None = None
        self._places: dict[str, tuple[str, str]] = {}

    def path(self, at: Span, name: str) -> str:
        """The real path of a data file. Raises ExternalDataError for anything but a regular file that may be read."""
        root, rest = self._place(at.location, name)
        path = os.path.join(root, rest)
        try:
            kind = os.lstat(path).st_mode
        except (OSError, ValueError) as error:
            raise self._unreadable(at, name, error) from None
        if not stat.S_ISREG(kind):
            raise self._unreadable(at, name, None)
        return path

    def size(self, at: Span, name: str) -> int:
        """Bytes of a data file, which can be opened. Raises as `path`."""
        descriptor = self._open(at, name)
        try:
            return os.fstat(descriptor).st_size
        finally:
            os.close(descriptor)

    def read(self, at: Span, name: str, needed: int) -> Buffer:
        """The bytes of a span that must hold `needed`, mapped where the file is large. Raises ExternalDataError."""
        path = os.path.join(*self._place(at.location, name))
        data = self.maps.get(path)
        if data is None:
            descriptor = self._open(at, name)
            try:
                size = os.fstat(descriptor).st_size
                check_range(at, name, size, needed)
                if size < SMALL or len(self.maps) >= MAPS:
                    return _read(descriptor, at.offset, needed)
                data = self.maps[path] = _map(descriptor)
            except OSError as error:
                raise self._unreadable(at, name, error) from None
            finally:
                os.close(descriptor)
        check_range(at, name, len(data), needed)
        return memoryview(data)[at.offset : at.offset + needed]

    def keep(self, at: Span, name: str) -> None:
        """Makes sure that a file's present content stays readable although its name goes to another file."""
        path = os.path.join(*self._place(at.location, name))
        if path not in self.maps:
            descriptor = self._open(at, name)
            try:
                size = os.fstat(descriptor).st_size
                self.maps[path] = _map(descriptor) if size >= SMALL else _read(descriptor, 0, size)
            finally:
                os.close(descriptor)

    # -- where ---------------------------------------------------------------------------------------------------------

    def roots(self) -> tuple[str, str]:
        """The real folder that the model was opened in, and the one of the file that it is a link to (or "")."""
        if self._roots is None:
            root = os.path.realpath(self.folder or ".")
            real = os.path.dirname(os.path.realpath(self.model)) if self.model else root
            self._roots = root, "" if real == root else real
        return self._roots

    def _place(self, location: str, name: str) -> tuple[str, str]:
        """A folder that is allowed, and the path below it, without links or `..` in it."""
        if location not in self._places:
            self._places[location] = self._find(location, name)
        return self._places[location]

    def _find(self, location: str, name: str) -> tuple[str, str]:
        root, beside = self.roots()
        if self.model and os.path.exists(self.model) and not os.path.isfile(self.model):
            raise ExternalDataError(
                f"the model comes from {shown(self.model)}, which is no regular file and has no folder to look for "
                f"the external data of {name} in; write it to a file first"
            )
        joined = os.path.join(root, location)
        try:
            path = os.path.realpath(joined)
            inside = os.path.commonpath([root, path]) == root and path != root
        except (OSError, ValueError):  # names that the system cannot spell; another drive
            path, inside = root, False
        if location and not os.path.isabs(location) and not os.path.splitdrive(location)[0]:
            if inside:
                return root, os.path.relpath(path, root)
            if beside and os.path.dirname(path) == beside:
                return beside, os.path.basename(path)
        linked = bool(location) and os.path.islink(joined)
        how = "by a link, " if linked else ""
        what = "copy the file itself (cp -L) beside the model" if linked else "move the file beside the model"
        raise ExternalDataError(
            f"external data of {name} is at {shown(location)}, {how}outside the model's folder; "
            f"{what} and use a relative path"
        )

    def _open(self, at: Span, name: str) -> int:
        """A descriptor of a data file. Where the system can, no part of the path is followed if it became a link
        since it was looked at, so what is opened is what was allowed."""
        path = self.path(at, name)
        try:
            descriptor = _walk(*self._place(at.location, name)) if _CAN_WALK else os.open(path, _OPEN)
        except OSError as error:
            raise self._unreadable(at, name, error) from None
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise self._unreadable(at, name, None)
        return descriptor

    def _unreadable(self, at: Span, name: str, error: OSError | ValueError | None) -> ExternalDataError:
        what = "is no regular file"
        if isinstance(error, FileNotFoundError):
            what = "is missing"
        elif error is not None:
            what = f"cannot be read ({getattr(error, 'strerror', None) or error})"
        where = shown(os.path.join(self.folder or ".", at.location), quoted=False)
        return ExternalDataError(f"external data file {where} of {name} {what}; put it beside the model")


def external_bytes(proto: TensorProto) -> int:
    """Bytes that an external tensor takes. Raises ExternalDataError where its type and dims do not say."""
    if not payload_bytes(proto.data_type, 8):
        raise ExternalDataError(
            f"external data of {shown(proto.name)} is of type {dtypes.name(proto.data_type)}, which is never external; "
            "export the model again"
        )
    if any(dim < 0 for dim in proto.dims):
        raise ExternalDataError(
            f"tensor {shown(proto.name)} has a negative dim in {list(proto.dims)[:16]}; export the model again"
        )
    return payload_bytes(proto.data_type, prod(proto.dims))


def refill(proto: TensorProto, raw: bytes) -> None:
    """Makes an external tensor hold its bytes itself."""
    proto.ClearField("external_data")
    proto.ClearField("data_location")
    proto.raw_data = raw


def check_tensors(tensors: Iterable[TensorProto], files: DataFiles) -> None:
    """Every one of them that is external can be read. Raises ExternalDataError, naming the first that cannot."""
    sizes: dict[str, int] = {}
    spans: dict[str, set[tuple[int, int]]] = {}
    for tensor in tensors:
        if tensor.data_location != TensorProto.EXTERNAL:
            continue
        at, name, needed = span(tensor), shown(tensor.name or "a tensor"), external_bytes(tensor)
        if at.location not in sizes:
            sizes[at.location] = files.size(at, name)
        check_range(at, name, sizes[at.location], needed)
        spans.setdefault(at.location, set()).add((at.offset, needed))
    for location, held in spans.items():
        claimed, size = sum(length for _, length in held), sizes[location]
        if claimed > SHARED * size:
            raise ExternalDataError(
                f"the ranges of external data in {shown(location, quoted=False)} overlap: together they have {claimed} "
                f"bytes, the file {size}; export the model again"
            )


def check_range(at: Span, name: str, size: int, needed: int) -> None:
    """The range lies in a file of `size` bytes and has the bytes `needed`. Raises ExternalDataError."""
    length = at.length if at.length is not None else max(0, size - at.offset)
    if at.offset < 0 or length < 0 or at.offset + length > size:
        raise ExternalDataError(
            f"external data of {name} (offset {at.offset}, length {length}) runs past the end of "
            f"{shown(at.location, quoted=False)} ({size} bytes); the data file does not belong to this model or is "
            "cut short"
        )
    if length < needed or (at.length is not None and length != needed):
        raise ExternalDataError(
            f"external data of {name} has {length} bytes where its type and dims take {needed}; "
            "the data file does not belong to this model"
        )


def shown(text: object, quoted: bool = True) -> str:
    """A name out of a model for a message: on one line, and not a megabyte of it."""
    spelled = repr(text) if quoted or not str(text).isprintable() else str(text)
    return spelled if len(spelled) <= 200 else f"{spelled[:120]}...{spelled[-60:]}"


def _walk(root: str, rest: str) -> int:
    """Opens a file below a folder, one step at a time, following no link."""
    folder = os.open(root, _WALK)
    try:
        *steps, last = rest.split(os.sep)
        for step in steps:
            below = os.open(step, _WALK | os.O_NOFOLLOW, dir_fd=folder)
            os.close(folder)
            folder = below
        if not stat.S_ISREG(os.stat(last, dir_fd=folder, follow_symlinks=False).st_mode):
            raise OSError(errno.EINVAL, "it is no regular file")  # opening a device may have effects of its own
        return os.open(last, _OPEN, dir_fd=folder)
    finally:
        with suppress(OSError):
            os.close(folder)


def _map(descriptor: int) -> mmap.mmap:
    if sys.version_info >= (3, 13):
        return mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ, trackfd=False)
    return mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)


def _read(descriptor: int, offset: int, length: int) -> bytes:
    with open(descriptor, "rb", closefd=False) as file:
        file.seek(offset)
        data = file.read(length)
    if len(data) != length:
        raise OSError(errno.EIO, "it became shorter while it was read")
    return data


__all__ = ["DataFiles", "Span", "check_range", "check_tensors", "external_bytes", "refill", "shown", "span"]
