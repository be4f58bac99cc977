"""Progress of a calibration in a file, so that a run that was stopped goes on where it was.

The file is a line of JSON (what the statistics are of: model, data, plan), then the collection's own bytes, which carry
their digest. It is written beside and renamed, so that there is always a whole one: a process killed at any moment
loses what it saw since the last time.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from typing import Any

from graphopt.calibration.collection import Collection
from graphopt.errors import GraphoptError, OutputError
from graphopt.ir.files import replacing

FORMAT = "graphopt.calibration-cache"
VERSION = 1
EVERY = 20.0  # seconds between two times that it is written
SHARE = 0.05  # of the run may be spent on writing
_HEAD = 1 << 20  # bytes that the first line may have

Path = str | os.PathLike[str]


class Cache:
    """The cache file of one calibration.

    collection: what was kept, or None. finished: whether it is of all samples.
    """

    def __init__(self, path: Path, key: Mapping[str, Any] | str, *, every: float | None = None) -> None:
        self.path = os.fspath(path)
        self.key = {"model, data or method": key} if isinstance(key, str) else {n: str(v) for n, v in key.items()}
        self.collection: Collection | None = None
        self.finished = False
        self._pause = EVERY if every is None else every
        self._next = time.monotonic() + self._pause
        self._written = -1

    def keep(self, collection: Collection) -> bool:
        """To be called between samples: writes the file when it is time to. Returns whether it did."""
        if time.monotonic() < self._next:
            return False
        begun = time.monotonic()
        self._write(collection, finished=False)
        now = time.monotonic()
        self._next = now + max(self._pause, (now - begun) / SHARE)
        return True

    def finish(self, collection: Collection) -> None:
        """Writes the file of a calibration that is done."""
        self._write(collection, finished=True)
        self.collection, self.finished = collection, True

    def _write(self, collection: Collection, *, finished: bool) -> None:
        head = {"format": FORMAT, "version": VERSION, "finished": finished, "samples": collection.samples}
        line = json.dumps({**head, "key": self.key}).encode() + b"\n"
        try:
            with replacing(self.path) as stream:
                stream.write(line)
                stream.write(collection.to_bytes())
        except OSError as error:
            reason = error.strerror or error
            raise OutputError(
                f"cannot write calibration cache {self.path!r}: {reason}; choose another place"
            ) from error


def open_cache(path: Path, key: Mapping[str, Any] | str, *, every: float | None = None) -> Cache:
    """The cache in a file, with what is in it, if there is one.

    key: what the statistics are of, by what to call it in an error ("model", "data", "method"), as text that differs
    where they do; or one text for all. every: seconds between two times that it is written.

    Raises GraphoptError where the file is none of ours, damaged, or of something else; OutputError where it could not
    be written.

    >>> import tempfile
    >>> from graphopt.calibration.collection import Plan
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     cache = open_cache(os.path.join(folder, "c"), {"model": "1"})
    ...     cache.finish(Collection(Plan(("x",))))
    ...     open_cache(os.path.join(folder, "c"), {"model": "1"}).finished
    True
    """
    cache = Cache(path, key, every=every)
    _check_place(cache.path)
    try:
        with open(cache.path, "rb") as stream:
            line, content = stream.readline(_HEAD), stream.read()
    except FileNotFoundError:
        return cache
    except OSError as error:
        reason = error.strerror or error
        raise GraphoptError(
            f"calibration cache {cache.path!r} cannot be read: {reason}; choose another file"
        ) from error
    head = _head(line, cache.path)
    _check_key(head["key"], cache)
    try:
        cache.collection = Collection.from_bytes(content)
    except GraphoptError as error:
        raise GraphoptError(f"calibration cache {cache.path!r}: {error}; delete it to calibrate anew") from error
    cache.finished = bool(head.get("finished"))
    return cache


def _check_place(path: str) -> None:
    """Finds out before the work that nothing can be written there."""
    folder = os.path.dirname(os.path.abspath(path))
    if os.path.isdir(path):
        raise OutputError(f"calibration cache {path!r} is a folder; name a file in it")
    if not os.path.isdir(folder):
        raise OutputError(f"folder {folder!r} of the calibration cache does not exist; create it first")
    if not os.access(folder, os.W_OK):
        raise OutputError(f"calibration cache {path!r} cannot be written: permission denied; choose another place")


def _head(line: bytes, path: str) -> dict[str, Any]:
    try:
        head = json.loads(line)
        if head["format"] != FORMAT or not isinstance(head["key"], dict):
            raise ValueError("another format")
    except (ValueError, KeyError, TypeError):
        raise GraphoptError(f"{path!r} is no calibration cache; name another file, or delete it") from None
    if head.get("version") != VERSION:
        raise GraphoptError(f"calibration cache {path!r} is of another version of graphopt; delete it")
    found: dict[str, Any] = head
    return found


def _check_key(found: Mapping[str, Any], cache: Cache) -> None:
    differs = [name for name in cache.key if found.get(name) != cache.key[name]]
    differs += [name for name in found if name not in cache.key]
    if differs:
        what = " and ".join(dict.fromkeys(differs))
        raise GraphoptError(
            f"calibration cache {cache.path!r} is of another {what}; name another file, or delete it to begin anew"
        )
