"""Protobuf wire format: take large tensor payloads out of a serialized model and put them back.

`split` replaces each large `TensorProto.raw_data` by a short token and returns the payloads as views of the buffer
they came from (usually a memory-mapped file); `join` is its inverse and yields the pieces of the file to write. Neither
copies a payload, and `join(split(data)) == data` for minimally encoded input. Field numbers: onnx.proto; encoding:
https://protobuf.dev/programming-guides/encoding/.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Callable, Sequence

from graphopt.errors import ModelError

Buffer = bytes | memoryview
BIG = 1 << 16  # payloads below this are parsed as usual: views of them would cost more than they save

_MODEL, _GRAPH, _FUNCTION, _NODE, _ATTRIBUTE, _SPARSE, _TENSOR, _RAW = range(8)
_CHILD: tuple[dict[int, int], ...] = (
    {7: _GRAPH, 25: _FUNCTION},
    {1: _NODE, 5: _TENSOR, 15: _SPARSE},
    {7: _NODE},
    {5: _ATTRIBUTE},
    {5: _TENSOR, 6: _GRAPH, 10: _TENSOR, 11: _GRAPH, 22: _SPARSE, 23: _SPARSE},
    {1: _TENSOR, 2: _TENSOR},
    {9: _RAW},
    {},
)
# Random per process, so that no file can contain a token that we would take for our own.
_MAGIC = b"\0graphopt" + os.urandom(16)
TOKEN_SIZE = len(_MAGIC) + 8


def token(index: int) -> bytes:
    """The stand-in for payload number `index`."""
    return _MAGIC + index.to_bytes(8, "little")


def token_index(raw: bytes) -> int | None:
    """The payload number that `raw` stands for, or None when it is ordinary data."""
    if len(raw) == TOKEN_SIZE and raw.startswith(_MAGIC):
        return int.from_bytes(raw[-8:], "little")
    return None


def split(data: Buffer, big: int = BIG) -> tuple[Buffer, list[memoryview]]:
    """Serialized model -> (the same without large payloads, the payloads).

    Raises ModelError when the buffer is cut short or is no protobuf message.
    """
    view = memoryview(data)
    blobs: list[memoryview] = []

    def payload(start: int, end: int) -> Buffer:
        blobs.append(view[start:end])
        return token(len(blobs) - 1)

    pieces, _ = _substitute(view, lambda start, end: end - start >= big, payload)
    return b"".join(pieces) if blobs else view, blobs


def join(data: bytes, blobs: Sequence[Buffer]) -> tuple[list[Buffer], int]:
    """Serialized model with tokens -> (pieces of the whole, their total length in bytes)."""
    places: list[int] = []
    at = data.find(_MAGIC)
    while at >= 0:
        places.append(at)
        at = data.find(_MAGIC, at + 1)
    if not places:
        return [data], len(data)

    def descend(start: int, end: int) -> bool:
        i = bisect_left(places, start)
        return i < len(places) and places[i] < end

    def payload(start: int, end: int) -> Buffer | None:
        index = token_index(data[start:end])
        return None if index is None else blobs[index]

    return _substitute(memoryview(data), descend, payload)


class _Frame:
    __slots__ = ("end", "field", "kind", "kept", "pieces", "pos", "size")

    def __init__(self, kind: int, field: int, start: int, end: int):
        self.kind, self.field, self.pos, self.end = kind, field, start, end
        self.kept = start  # everything before this is already in `pieces`
        self.pieces: list[Buffer] = []
        self.size = 0

    def add(self, piece: Buffer) -> None:
        if len(piece):
            self.pieces.append(piece)
            self.size += len(piece)


def _substitute(
    view: memoryview, descend: Callable[[int, int], bool], payload: Callable[[int, int], Buffer | None]
) -> tuple[list[Buffer], int]:
    """Replaces tensor payloads, fixing the length prefixes of the messages around them."""
    stack = [_Frame(_MODEL, 0, 0, len(view))]
    while True:
        frame = stack[-1]
        children, end = _CHILD[frame.kind], frame.end
        while frame.pos < end:
            tag_at = frame.pos
            field, wire, start, stop = _field(view, tag_at, end)
            frame.pos = stop
            child = children.get(field) if wire == 2 else None
            if child is None or not descend(start, stop):
                continue
            if child != _RAW:
                frame.add(view[frame.kept : tag_at])
                frame.kept = stop
                stack.append(_Frame(child, field, start, stop))
                break
            new = payload(start, stop)
            if new is not None:
                frame.add(view[frame.kept : tag_at])
                frame.add(_head(field, len(new)))
                frame.add(new)
                frame.kept = stop
        else:
            frame.add(view[frame.kept : end])
            stack.pop()
            if not stack:
                return frame.pieces, frame.size
            parent = stack[-1]
            parent.add(_head(frame.field, frame.size))
            parent.pieces += frame.pieces
            parent.size += frame.size


def _field(view: memoryview, at: int, end: int) -> tuple[int, int, int, int]:
    """(field number, wire type, start and end of the payload) of the field whose tag is at `at`."""
    try:
        tag = view[at]
        at += 1
        if tag > 127:
            tag, at = _varint(view, at - 1)
        wire = tag & 7
        if wire == 2:
            size = view[at]
            at += 1
            if size > 127:
                size, at = _varint(view, at - 1)
            stop = at + size
        elif wire == 0:
            stop = _varint(view, at)[1]
        elif wire == 5:
            stop = at + 4
        elif wire == 1:
            stop = at + 8
        else:
            raise ModelError("not an ONNX model: it is no valid protobuf message; is this the right file?")
    except IndexError:
        stop = end + 1
    if stop > end:
        raise ModelError("the model is cut short: a field runs past the end; copy or export the file again")
    return tag >> 3, wire, at, stop


def _varint(view: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = view[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
        if shift > 63:
            raise ModelError("not an ONNX model: it is no valid protobuf message; is this the right file?")


def _head(field: int, size: int) -> bytes:
    out = bytearray()
    for rest in (field << 3 | 2, size):
        while rest > 127:
            out.append(rest & 127 | 128)
            rest >>= 7
        out.append(rest)
    return bytes(out)
