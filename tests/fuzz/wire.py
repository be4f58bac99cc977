"""Mutations of bytes: of the file as a string of bits, and of its protobuf fields whatever they mean."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

Mutation = Callable[[bytes, Random], bytes]
INTERESTING = (0, 1, 0x7F, 0x80, 0xFF, 0x10, 0x40, 0x08, 0x12, 0x2A, 0x3A)
NUMBERS = (0, 1, 2, 127, 128, 2**15, 2**31 - 1, 2**31, 2**32, 2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 1, 2**64 - 2)


def flip_bits(data: bytes, rng: Random) -> bytes:
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        if out:
            out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
    return bytes(out)


def overwrite(data: bytes, rng: Random) -> bytes:
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        if out:
            out[rng.randrange(len(out))] = rng.choice(INTERESTING)
    return bytes(out)


def splice(data: bytes, rng: Random) -> bytes:
    """A piece of the file copied over, or into, another place of it."""
    if not data:
        return data
    start = rng.randrange(len(data))
    piece = data[start : start + rng.choice((1, 4, 16, 64, 1024))]
    at = rng.randrange(len(data))
    return data[:at] + piece + data[at + (len(piece) if rng.random() < 0.5 else 0) :]


def cut_out(data: bytes, rng: Random) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + data[at + rng.choice((1, 1, 2, 5, 30, 500)) :]


def truncate(data: bytes, rng: Random) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def append_junk(data: bytes, rng: Random) -> bytes:
    return data + bytes(rng.choice(INTERESTING) for _ in range(rng.choice((1, 3, 20, 300))))


def repeat(data: bytes, rng: Random) -> bytes:
    """The message after itself: protobuf merges the two."""
    return data + data if rng.random() < 0.5 else data + data[: rng.randrange(len(data) + 1)]


# -- fields ------------------------------------------------------------------------------------------------------------


Field = tuple[int, int, bytes]  # number, wire type, payload without its length


def parse(data: bytes) -> list[Field] | None:
    """The fields of a message, or None where the bytes are no message."""
    fields: list[Field] = []
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, kind = tag >> 3, tag & 7
        if at < 0 or number == 0:
            return None
        if kind == 0:
            end = _varint(data, at)[1]
        elif kind in (1, 5):
            end = at + (8 if kind == 1 else 4)
        elif kind == 2:
            size, at = _varint(data, at)
            end = at + size
        else:
            return None
        if at < 0 or end < 0 or end > len(data):
            return None
        fields.append((number, kind, data[at:end]))
        at = end
    return fields


def build(fields: list[Field]) -> bytes:
    out = bytearray()
    for number, kind, payload in fields:
        out += varint(number << 3 | kind)
        if kind == 2:
            out += varint(len(payload))
        out += payload
    return bytes(out)


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
    return 0, -1


def change_fields(data: bytes, rng: Random) -> bytes:
    """Removes, doubles, swaps, renumbers or refills a field of some message in the file."""
    path: list[tuple[list[Field], int]] = []
    fields = parse(data)
    while fields:
        inner = [i for i, (_, kind, payload) in enumerate(fields) if kind == 2 and len(payload) > 1 and parse(payload)]
        if not inner or rng.random() < 0.2:
            break
        index = rng.choice(inner)
        path.append((fields, index))
        fields = parse(fields[index][2])
    if not fields:
        return flip_bits(data, rng)
    out = rng.choice((_remove, _double, _swap, _renumber, _renumber, _refill, _refill, _refill, _lie))(fields, rng)
    for outer, index in reversed(path):
        number, kind, _ = outer[index]
        outer[index] = (number, kind, out)
        out = build(outer)
    return out


def _remove(fields: list[Field], rng: Random) -> bytes:
    del fields[rng.randrange(len(fields))]
    return build(fields)


def _double(fields: list[Field], rng: Random) -> bytes:
    index = rng.randrange(len(fields))
    fields[index:index] = [fields[index]] * rng.choice((1, 1, 2, 300))
    return build(fields)


def _swap(fields: list[Field], rng: Random) -> bytes:
    rng.shuffle(fields)
    return build(fields)


def _renumber(fields: list[Field], rng: Random) -> bytes:
    index = rng.randrange(len(fields))
    number, kind, payload = fields[index]
    fields[index] = (rng.choice((number + 1, max(1, number - 1), rng.randrange(1, 30))), kind, payload)
    return build(fields)


def _refill(fields: list[Field], rng: Random) -> bytes:
    index = rng.randrange(len(fields))
    number, kind, payload = fields[index]
    if kind == 0:
        payload = varint(rng.choice(NUMBERS))
    elif kind == 2 and rng.random() < 0.5:
        payload = b"".join(varint(rng.choice(NUMBERS)) for _ in range(rng.randrange(4)))  # packed numbers
    else:
        payload = flip_bits(payload, rng)
    fields[index] = (number, kind, payload)
    return build(fields)


def _lie(fields: list[Field], rng: Random) -> bytes:
    """A length prefix that is not the length."""
    long = [i for i, field in enumerate(fields) if field[1] == 2]
    if not long:
        return _swap(fields, rng)
    index = rng.choice(long)
    number, kind, payload = fields[index]
    size = rng.choice((0, len(payload) + 1, max(0, len(payload) - 1), 2**31 - 1, 2**31, 2**62, 2**64 - 1))
    return build(fields[:index]) + varint(number << 3 | kind) + varint(size) + payload + build(fields[index + 1 :])


MUTATIONS: tuple[Mutation, ...] = (
    flip_bits, flip_bits, overwrite, splice, cut_out, truncate, append_junk, repeat, change_fields, change_fields,
    change_fields, change_fields,
)  # fmt: skip
