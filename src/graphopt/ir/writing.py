"""Files that appear whole or not at all, and data files in which no byte is copied twice."""

from __future__ import annotations

import os
import secrets
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import IO

from onnx import TensorProto

from graphopt.errors import OutputError
from graphopt.ir.external import external_bytes, span

_END = 1 << 64  # past the end of any file


class Blocks:
    """Ranges of files, those that overlap joined: copying them copies no byte twice."""

    def __init__(self) -> None:
        self.spans: dict[str, list[tuple[int, int]]] = {}
        self.joined: dict[str, list[tuple[int, int]]] = {}

    def add(self, path: str, tensor: TensorProto) -> None:
        """Takes in the range of a tensor; all are added before `of` is asked."""
        start = span(tensor).offset
        self.spans.setdefault(path, []).append((start, start + external_bytes(tensor)))

    def of(self, path: str, tensor: TensorProto) -> tuple[str, int, int] | None:
        """(path, start, length) of the block that holds a tensor; None where its file was not added."""
        if path not in self.spans:
            return None
        if path not in self.joined:
            joined: list[tuple[int, int]] = []
            for start, end in sorted(self.spans[path]):
                if joined and start < joined[-1][1]:
                    joined[-1] = joined[-1][0], max(end, joined[-1][1])
                else:
                    joined.append((start, end))
            self.joined[path] = joined
        blocks = self.joined[path]
        start, end = blocks[max(0, bisect_right(blocks, (span(tensor).offset, _END)) - 1)]
        return path, start, end - start


def refer(proto: TensorProto, location: str, offset: int, length: int) -> None:
    """Makes a tensor point to external data."""
    proto.ClearField("raw_data")
    del proto.external_data[:]
    proto.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", str(offset)), ("length", str(length))):
        proto.external_data.add(key=key, value=value)


@contextmanager
def replacing(path: str) -> Iterator[IO[bytes]]:
    """A file that takes the place of `path` when the block ends well, and vanishes when it does not.

    A link is replaced, not followed. Raises OutputError where `path` is something that no file can replace.
    """
    with replacing_all([path]) as (file,):
        yield file


@contextmanager
def replacing_all(paths: Sequence[str]) -> Iterator[list[IO[bytes]]]:
    """Files that take the places of several, all of them or none; see `replacing`."""
    for path in paths:
        if os.path.exists(path) and not os.path.isfile(path):  # renaming onto /dev/null would replace the device
            raise OutputError(f"cannot write {path}: it exists and is no regular file; choose another name")
    beside: list[str] = []
    try:
        with ExitStack() as stack:
            files: list[IO[bytes]] = []
            for path in paths:
                part = _spare(path)
                files.append(stack.enter_context(open(part, "xb")))
                beside.append(part)
            yield files
        _swap(list(zip(beside, paths, strict=True)))
    except BaseException:
        for part in beside:
            with suppress(OSError):
                os.remove(part)
        raise


def _swap(pairs: list[tuple[str, str]]) -> None:
    """Renames each first to the second; when one cannot be, the others are as they were before."""
    old: list[tuple[str, str]] = []
    try:
        for part, path in pairs[:-1]:
            kept = _spare(path, "old") if os.path.lexists(path) else ""
            old.append((kept, path))
            if kept:
                os.replace(path, kept)
            os.replace(part, path)
        os.replace(*pairs[-1])
    except BaseException:
        for kept, path in reversed(old):
            with suppress(OSError):
                if kept:
                    os.replace(kept, path)
                else:
                    os.remove(path)
        raise
    for kept, _ in old:
        with suppress(OSError):
            os.remove(kept)


def _spare(path: str, kind: str = "part") -> str:
    """A name beside a path that nobody can have guessed; the process is in it, so that others can tell whose it is."""
    folder, name = os.path.split(path)
    return os.path.join(folder, f"{name[:48]}.{os.getpid()}-{secrets.token_hex(6)}.{kind}")


__all__ = ["Blocks", "refer", "replacing", "replacing_all"]
