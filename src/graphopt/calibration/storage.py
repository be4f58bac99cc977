"""Collections as bytes: a line that says what they are, a digest, then JSON and arrays, compressed."""

from __future__ import annotations

import hashlib
import json
import zlib
from dataclasses import asdict
from typing import Any

import numpy as np

from graphopt.calibration.collection import Collection, Plan
from graphopt.calibration.histogram import HALF, Histogram
from graphopt.errors import GraphoptError

__all__ = ["packed", "unpacked"]

MAGIC = b"graphopt collection 1\n"
_BROKEN = (ValueError, KeyError, TypeError, IndexError, AttributeError, zlib.error)


def packed(found: Collection) -> bytes:
    """See `Collection.to_bytes`."""
    plan = found.plan
    arrays: list[np.ndarray] = []
    head: dict[str, Any] = {"plan": asdict(plan), "samples": _runs(sorted(found.seen))}
    head["infinite"] = sorted(found.infinite.items())
    head["extents"] = [_pair(found.extents[name].low, found.extents[name].high) for name in plan.tensors]
    head["histograms"] = [_histogram(found.histograms[name], arrays) for name in plan.tensors if plan.histograms]
    head["channels"] = []
    for name, _ in plan.channels:
        seen = found.channels[name]
        head["channels"].append([seen.count, seen.low.size])
        arrays += [seen.low.astype("<f4"), seen.high.astype("<f4"), seen.sums.astype("<i8")]
    head["pairs"] = []
    for name in plan.tensors if plan.per_sample else ():
        pairs = found.pairs[name]
        head["pairs"].append(sorted(pairs))
        arrays.append(np.array([pairs[sample] for sample in sorted(pairs)], "<f4"))
    text = json.dumps(head, separators=(",", ":")).encode()
    body = len(text).to_bytes(8, "little") + text + b"".join(array.tobytes() for array in arrays)
    content = zlib.compress(body, 1)
    return MAGIC + hashlib.sha256(content).digest() + content


def unpacked(content: bytes) -> Collection:
    """See `Collection.from_bytes`."""
    start = len(MAGIC) + 32
    if not content.startswith(MAGIC):
        raise GraphoptError("this is no collection of calibration statistics, or one of another version; collect again")
    if hashlib.sha256(content[start:]).digest() != content[len(MAGIC) : start]:
        raise GraphoptError("the calibration statistics are cut short or altered; collect again")
    try:
        return _read(zlib.decompress(content[start:]))
    except _BROKEN as error:
        raise GraphoptError(f"the calibration statistics cannot be read ({error}); collect again") from error


def _read(body: bytes) -> Collection:
    size = int.from_bytes(body[:8], "little")
    head = json.loads(body[8 : 8 + size])
    stream = _Stream(body, 8 + size)
    found = Collection(_plan(head["plan"]))
    plan = found.plan
    found.seen = {sample for start, stop in head["samples"] for sample in range(start, stop)}
    found.infinite = {str(name): int(sample) for name, sample in head["infinite"]}
    for name, pair in zip(plan.tensors, head["extents"], strict=True):
        if pair is not None:
            found.extents[name].add(*pair)
    for name, (exponent, count) in zip(found.histograms, head["histograms"], strict=True):
        counts = np.zeros(2 * HALF, np.int64)
        indices = stream.take("<u2", count)
        counts[indices] = stream.take("<i8", count)
        found.histograms[name] = Histogram(exponent, counts)
    for (name, _), (count, channels) in zip(plan.channels, head["channels"], strict=True):
        seen = found.channels[name]
        seen.count, seen.low, seen.high = count, stream.take("<f4", channels), stream.take("<f4", channels)
        seen.sums = stream.take("<i8", 3 * channels).reshape(3, channels)
    for name, samples in zip(found.pairs, head["pairs"], strict=True):
        rows = stream.take("<f4", 2 * len(samples)).reshape(-1, 2).tolist()
        found.pairs[name] = {sample: (low, high) for sample, (low, high) in zip(samples, rows, strict=True)}
    return found


class _Stream:
    """Arrays, one behind the other."""

    def __init__(self, body: bytes, position: int) -> None:
        self.body, self.position = body, position

    def take(self, kind: str, count: int) -> np.ndarray:
        found = np.frombuffer(self.body, kind, count, self.position)
        self.position += found.nbytes
        return found.astype(found.dtype.newbyteorder("="))


def _plan(plain: dict[str, Any]) -> Plan:
    """JSON has lists where the plan has tuples."""
    pairs = {key: tuple((name, item) for name, item in plain[key]) for key in ("aliases", "channels")}
    texts = {key: tuple(plain[key]) for key in ("tensors", "finite", "notes")}
    return Plan(**{**plain, **pairs, **texts})


def _runs(samples: list[int]) -> list[list[int]]:
    """Numbers in order as ranges: first and one past the last."""
    found: list[list[int]] = []
    for sample in samples:
        if found and found[-1][1] == sample:
            found[-1][1] += 1
        else:
            found.append([sample, sample + 1])
    return found


def _pair(low: float, high: float) -> list[float] | None:
    return [low, high] if low <= high else None


def _histogram(found: Histogram, arrays: list[np.ndarray]) -> list[int]:
    """Only the bins that hold something."""
    indices = np.flatnonzero(found.counts)
    arrays += [indices.astype("<u2"), found.counts[indices].astype("<i8")]
    return [found.exponent, int(indices.size)]
