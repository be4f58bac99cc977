"""Holding back Python's cycle collector while many objects are made.

A graph is one large cycle that lives until the end of the run; walking it again and again finds nothing to free and
makes the time grow faster than the graph.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

_MANY = 100_000  # objects that may be left unwalked; a tenth is worth it
_aged = [0]  # objects that were made old unwalked since the last full collection


@contextmanager
def paused() -> Iterator[None]:
    """Collects no cycles inside the block; afterwards the collector is as it was.

    What a large graph leaves in the oldest generation that way Python does not count, and so would never collect: the
    next block begins with that.
    """
    was_on = gc.isenabled()
    if was_on and _aged[0] > _MANY:
        _aged[0] = 0
        gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            fresh = gc.get_count()[0]
            if fresh > _MANY // 10 and not gc.get_freeze_count():
                _aged[0] += fresh
                gc.freeze()  # through the frozen generation and back: old, without being walked now
                gc.unfreeze()
            gc.enable()
