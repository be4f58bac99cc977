"""The option `ranges` of a pass: a file's path in a pipeline's text, or the ranges themselves."""

from __future__ import annotations

import os
from functools import lru_cache

from graphopt.analysis.ranges import Ranges
from graphopt.errors import GraphoptError


def ranges_of(option: str | Ranges) -> Ranges:
    """The ranges that an option stands for. A file is read once, unless it changes.

    Raises GraphoptError, saying what to do, where there are none or they cannot be read.
    """
    if isinstance(option, Ranges):
        if not option:
            raise GraphoptError("the ranges are empty: calibrate the model that is to be quantized")
        return option
    if not isinstance(option, str):
        raise GraphoptError(f"ranges are a file's path or a Ranges object, not {type(option).__name__}")
    if not option:
        raise GraphoptError("no ranges were given: write them with `graphopt calibrate`, then pass ranges='FILE'")
    try:
        stamp = os.stat(option).st_mtime_ns
    except OSError:
        stamp = 0  # load says what is wrong
    return _load(option, stamp)


@lru_cache(maxsize=4)
def _load(path: str, stamp: int) -> Ranges:
    found = Ranges.load(path)
    if not found:
        raise GraphoptError(f"ranges file {path} holds no ranges; calibrate again")
    return found
