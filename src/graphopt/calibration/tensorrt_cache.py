"""The calibration cache of TensorRT's int8 calibrators (until version 10), as ranges and back.

The file is text: a line such as ``TRT-8503-EntropyCalibration2``, then one ``NAME: 3c010a14`` a tensor, the scale as
the hexadecimal digits of a big-endian float32. TensorRT quantizes symmetrically, so a range is +-127 scales. See
https://docs.nvidia.com/deeplearning/tensorrt, IInt8EntropyCalibrator2::writeCalibrationCache.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterable, Mapping

import numpy as np

from graphopt.analysis.ranges import Ranges, TensorRange
from graphopt.errors import GraphoptError
from graphopt.ir.external import shown
from graphopt.ir.files import replacing

STEPS = 127  # of int8 to one side
_HEAD = re.compile(r"TRT-\d+-\w+")
_LINE = re.compile(r"(?P<name>.+): ?(?P<scale>[0-9a-fA-F]{8})")

Path = str | os.PathLike[str]


def read_tensorrt_cache(path: Path, names: Iterable[str] | None = None) -> Ranges:
    """Ranges out of a TensorRT calibration cache, symmetric, with method "import".

    names: of the model's tensors; others are left out (TensorRT writes some for tensors of its own). Raises
    GraphoptError, naming file and line, where the file is no such cache, or names none of the model's tensors.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "model.cache")
    ...     with open(path, "w") as stream:
    ...         _ = stream.write("TRT-8503-EntropyCalibration2\\nx: 3c010a14\\n")
    ...     round(read_tensorrt_cache(path)["x"].high, 6)
    1.000244
    """
    name = os.fspath(path)
    try:
        with open(name, encoding="utf-8") as stream:
            lines = stream.read().splitlines()
    except FileNotFoundError:
        raise GraphoptError(f"there is no TensorRT calibration cache {name!r}; check the path") from None
    except (OSError, UnicodeDecodeError) as error:
        raise GraphoptError(f"TensorRT calibration cache {name!r} cannot be read ({error})") from error
    if not lines or not _HEAD.fullmatch(lines[0].strip()):
        raise GraphoptError(f"{name!r} is no TensorRT calibration cache: its first line is not like TRT-8503-...")
    found: dict[str, TensorRange] = {}
    for number, line in enumerate(lines[1:], 2):
        if line.strip():
            tensor, scale = _entry(line, f"{name!r}, line {number}")
            found[tensor] = TensorRange(-scale * STEPS, scale * STEPS, -scale * STEPS, scale * STEPS, "import")
    if not found:
        raise GraphoptError(f"TensorRT calibration cache {name!r} has no tensors in it; calibrate again")
    wanted = None if names is None else set(names)
    kept = found if wanted is None else {tensor: found[tensor] for tensor in found if tensor in wanted}
    if not kept:
        example = shown(next(iter(found)))
        raise GraphoptError(f"{name!r} is of another model: none of its tensors, such as {example}, is in this one")
    return Ranges(kept)


def _entry(line: str, where: str) -> tuple[str, float]:
    match = _LINE.fullmatch(line.rstrip())
    if match is None:
        raise GraphoptError(f"{where}: not NAME: SCALE with eight hexadecimal digits; the cache is damaged")
    scale = float(struct.unpack(">f", bytes.fromhex(match["scale"]))[0])
    if not np.isfinite(scale) or scale < 0:
        raise GraphoptError(f"{where}: the scale of {shown(match['name'])} is {scale}; the cache is damaged")
    return match["name"], scale


def write_tensorrt_cache(
    ranges: Mapping[str, TensorRange], path: Path, *, head: str = "TRT-8503-EntropyCalibration2"
) -> None:
    """Writes ranges as a TensorRT calibration cache: scale = amax / 127, of what may be an asymmetric range.

    head: the first line; TensorRT takes a cache only if version and calibrator there are its own. Raises GraphoptError
    for a head of another form, and for a tensor whose name has a line break.
    """
    if not _HEAD.fullmatch(head):
        raise GraphoptError(f"{head!r} is no first line of a TensorRT cache, such as TRT-8503-EntropyCalibration2")
    lines = [head]
    for name in ranges:
        if not name or len(name.splitlines()) != 1:
            raise GraphoptError(f"tensor {name!r} cannot be named in a TensorRT cache: a name is one line")
        scale = np.float32(ranges[name].amax / STEPS)
        lines.append(f"{name}: {struct.pack('>f', scale).hex()}")
    with replacing(os.fspath(path)) as stream:
        stream.write(("\n".join(lines) + "\n").encode())
