"""An operator of the catalog."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from graphopt.testing.catalog.call import Call
from graphopt.testing.draft import Var


@dataclass(frozen=True)
class Entry:
    """How to complete an operator.

    fill: completes a Call, and either returns the outputs it added or None (the node is then added as it stands).
    since, until: opsets in which it is drawn (onnx's schemas narrow this further).
    """

    op: str
    fill: Callable[[Call], list[Var] | None]
    since: int = 7
    until: int = 99
