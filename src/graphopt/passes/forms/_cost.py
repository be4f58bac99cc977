"""Sizes from which on a form pays: below, further operators cost more than they save."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

_lifted: list[bool] = []


def pays(size: int, fewest: int) -> bool:
    """Whether there is enough to do for a form with more operators."""
    return bool(_lifted) or size >= fewest


@contextmanager
def at_any_size() -> Iterator[None]:
    """Lets the rules fire on tensors of a few elements, to check what they compute.

    >>> with at_any_size():
    ...     pays(1, 4096)
    True
    """
    _lifted.append(True)
    try:
        yield
    finally:
        _lifted.pop()
