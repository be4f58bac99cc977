"""What builds leave for later builds: the timing cache, and whole engines.

Both lie in `$GRAPHOPT_CACHE/tensorrt`, else `~/.cache/graphopt/tensorrt`. A timing cache holds for a device and a
version of TensorRT, and every build adds to it; an engine holds for a model, its profiles and options as well. Files
are written beside and renamed, so that builds side by side lose each other's additions at the worst.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from graphopt.analysis.cost.saved import folder
from graphopt.errors import OutputError
from graphopt.ir.files import replacing

__all__ = ["cache_folder", "engine_key", "read_cached", "timing_cache_file", "write_cached"]


def cache_folder() -> Path:
    """Where they lie."""
    return Path(folder()) / "tensorrt"


def timing_cache_file(version: Iterable[int], device: str) -> Path:
    """The timing cache of a device (its `Cuda.key`) and a version of TensorRT."""
    version_text = ".".join(map(str, version))
    return cache_folder() / f"timing-{version_text}-{_digest(device.encode())[:16]}.cache"


def engine_key(
    model: bytes, profiles: Iterable[Any], options: Mapping[str, Any], version: Iterable[int], device: str
) -> str:
    """What an engine depends on, as a digest: the model that TensorRT parses, profiles, options, version and device.

    >>> engine_key(b"m", [], {}, (8, 5), "gpu") == engine_key(b"m", [], {}, (8, 6), "gpu")
    False
    """
    rest = json.dumps([list(map(str, profiles)), dict(options), list(version), device], sort_keys=True, default=str)
    return _digest(model + b"\0" + rest.encode())


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def read_cached(path: Path) -> bytes | None:
    """The file's bytes, or None where there is none that can be read."""
    try:
        return path.read_bytes()
    except OSError:
        return None


def write_cached(path: Path, content: bytes) -> None:
    """Writes beside and renames. Raises OutputError, naming the folder."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(os.fspath(path)) as stream:
            stream.write(content)
    except OSError as error:
        reason = error.strerror or error
        raise OutputError(f"cannot write {path}: {reason}; set GRAPHOPT_CACHE to another folder") from error
