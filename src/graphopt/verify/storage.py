"""Inputs and outputs in an .npz file, without pickle: every part of a value is a plain array under a name of its own.

A tensor is stored under its name, strings as arrays of fixed width, types that numpy lacks as their bytes. Item i of a
sequence goes by ``name[i]``, an empty sequence has ``name[]``; keys and values of a map go by ``name{keys}`` and
``name{values}``, the parts of a sparse tensor by ``name.values``, ``name.indices`` and ``name.shape``. An empty
optional is not there at all.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from graphopt.ir import dtypes
from graphopt.verify.run import BY_ADDRESS, raw_bytes

__all__ = ["save_values", "stored"]

_LONGEST = 1 << 15  # bytes of a name: archives take 65,535


def stored(values: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The arrays that stand for `values`. Raises `ValueError` where two would go by one name.

    >>> {name: array.tolist() for name, array in stored({"x": [np.int64([1]), np.int64([2])], "m": {"a": 1.5}}).items()}
    {'x[0]': [1], 'x[1]': [2], 'm{keys}': ['a'], 'm{values}': [1.5]}
    """
    found: dict[str, np.ndarray] = {}
    for key, value in values.items():
        for name, array in _parts(key, value):
            if name in found:
                raise ValueError(f"two values would go by the name {name!r}")
            found[name] = array
    return found


def _parts(name: str, value: Any) -> Iterator[tuple[str, np.ndarray]]:
    waiting = [(name, value)]
    while waiting:
        path, item = waiting.pop(0)
        if isinstance(item, (list, tuple)):
            if not item:
                yield f"{path}[]", np.zeros(0, np.uint8)
            waiting += [(f"{path}[{place}]", part) for place, part in enumerate(item)]
        elif isinstance(item, dict):
            yield f"{path}{{keys}}", _plain(np.asarray(list(item)))
            yield f"{path}{{values}}", _plain(np.asarray(list(item.values())))
        elif hasattr(item, "dense_shape"):
            yield f"{path}.values", np.asarray(item.values())
            yield f"{path}.indices", np.asarray(item.as_coo_view().indices())
            yield f"{path}.shape", np.asarray(item.dense_shape(), np.int64)
        elif item is not None:
            yield path, _plain(np.asarray(item))


def _plain(array: np.ndarray) -> np.ndarray:
    if array.dtype.kind in "OUS":
        words = [word.decode("utf-8", "replace") if isinstance(word, bytes) else str(word) for word in array.ravel()]
        return np.asarray(words, dtype=None if words else "U1").reshape(array.shape)
    return raw_bytes(array) if dtypes.from_numpy(array.dtype) in BY_ADDRESS else array


def save_values(file: str | os.PathLike[str], values: Mapping[str, Any]) -> None:
    """Write `values` as `numpy.load` reads them, the same bytes for the same values. Raises `OSError`, and `ValueError`
    where names are too long or not apart."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in stored(values).items():
            if len(name.encode("utf-8", "surrogatepass")) > _LONGEST:
                raise ValueError("the name of an input or output is too long")
            with archive.open(zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0)), "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, np.asanyarray(array), allow_pickle=False)
