"""Holding back Python's cycle collector while many objects are made.

A graph is one large cycle that lives until the end of the run; walking it again and again finds nothing to free and
makes the time grow faster than the graph.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def paused() -> Iterator[None]:
    """Collects no cycles inside the block; afterwards the collector is as it was."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            if not gc.get_freeze_count():  # through the frozen generation and back: old, without being walked now
                gc.freeze()
                gc.unfreeze()
            gc.enable()
