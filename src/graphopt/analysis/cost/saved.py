"""The description that `graphopt machine` measured: a JSON file in the user's cache folder.

It is there only if the user had it measured, and holds for one processor, version of ONNX Runtime and number of
threads: under another one it is not found. A file that cannot be read, or holds no description, is ignored with a
warning.
"""

from __future__ import annotations

import json
import os
import platform
import re
import warnings
from functools import cache
from pathlib import Path

from graphopt.analysis.cost.machine import Machine
from graphopt.analysis.cost.machines import ORT_CPU, TENSORRT_H200
from graphopt.ir.files import replacing

FOLDER = "GRAPHOPT_CACHE"
_LONGEST = 1 << 20  # bytes of a file that may be a description


def folder() -> Path:
    """Where descriptions are kept: `$GRAPHOPT_CACHE`, else `graphopt` in `$XDG_CACHE_HOME` or `~/.cache`."""
    given = os.environ.get(FOLDER)
    if given:
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser(), "graphopt")


def path_for(threads: int = 1) -> Path:
    """The file for this processor, the installed ONNX Runtime and a number of threads."""
    key = f"{cpu_name()} ort {_runtime_version()} threads {threads}"
    return folder() / f"machine-{re.sub(r'[^A-Za-z0-9.]+', '-', key).strip('-').lower()}.json"


def load(threads: int = 1) -> Machine | None:
    """What was measured here, or None."""
    if not any(folder().glob("machine-*.json")):  # nearly always: then versions need not be looked up
        return None
    path = path_for(threads)
    try:
        if path.stat().st_size > _LONGEST:
            raise ValueError("it is too large")
        return Machine.from_dict(json.loads(path.read_text()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        warnings.warn(
            f"{path} is ignored ({error}); `graphopt machine` writes it anew, --forget removes it", stacklevel=2
        )
        return None


def save(machine: Machine) -> Path:
    """Writes the file: beside its place first, so that it is there as a whole or not at all. Raises OSError."""
    path = path_for(machine.threads)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(str(path)) as stream:
        stream.write(json.dumps(machine.to_dict(), indent=1).encode())
    machine_for.cache_clear()
    return path


def forget(threads: int = 1) -> Path | None:
    """Removes the file; its path, or None where there was none."""
    path = path_for(threads)
    machine_for.cache_clear()
    if not path.exists():
        return None
    path.unlink()
    return path


@cache
def machine_for(target: str) -> Machine:
    """The description that passes go by for a target ("onnx", "onnxruntime", "tensorrt"): the one that was measured
    here for one thread, if there is one, else the shipped one. Looked up once in a process.

    >>> machine_for("tensorrt").runtime
    'tensorrt'
    """
    if target == "tensorrt":
        return TENSORRT_H200
    return load() or ORT_CPU


def cpu_name() -> str:
    """The processor, as the system calls it."""
    try:
        found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found.group(1) if found else platform.processor() or platform.machine()


def _runtime_version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("onnxruntime")
    except PackageNotFoundError:
        return "none"
