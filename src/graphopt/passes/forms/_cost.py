"""Sizes from which on a form pays: below, further operators cost more than they save.

The rules' files say from how many elements on, for the machine that was measured. Where `graphopt machine` has
described another one, these numbers go with how many elements a cheap kernel does while a node is started: that is what
a further operator has to be paid with.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from graphopt.analysis.cost import ORT_CPU, Machine, machine_for

_lifted: list[bool] = []


def pays(size: int, fewest: int) -> bool:
    """Whether there is enough to do for a form with more operators."""
    return bool(_lifted) or size >= fewest * _relative(machine_for("onnxruntime"))


def _relative(machine: Machine) -> float:
    """How many elements the start of a node is worth, against the machine of the shipped description."""
    if machine is ORT_CPU:
        return 1.0
    return (machine.overhead / machine.seconds_of("add")) / (ORT_CPU.overhead / ORT_CPU.seconds_of("add"))


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
