"""What `inspect` says of time: an estimate of what the runtime executes, by the operators of the file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graphopt.analysis.cost import Sizes
    from graphopt.ir import Model

Rows = dict[tuple[str, str], dict[str, Any]]


def add_times(facts: dict[str, Any], model: Model, sizes: Sizes, target: str, fits: bool) -> None:
    """Adds `seconds` and `moved_bytes` to the facts and to each of their operators, and what they are counted by.

    A kernel of the runtime counts for the operator that does the most in it. fits: whether sizes suit the model; if
    not, there are no figures.
    """
    from graphopt.analysis.cost import kernel_costs, machine_for

    machine = machine_for(target)
    facts["machine"] = {"name": machine.name, "source": machine.source}
    rows: Rows = {(row["domain"], row["op"]): row for row in facts["operators"]}
    for row in rows.values():
        row["seconds"], row["moved_bytes"] = 0.0, 0
    total = {"seconds": 0.0, "moved_bytes": 0}
    layout, kernels = 0.0, 0
    for cost in kernel_costs(model, sizes, machine):
        kernels += 1
        _count(total, cost.seconds, cost.bytes)
        if cost.region.nodes:
            node = cost.region.anchor or cost.region.root
            _count(rows[node.domain, node.op], cost.seconds, cost.bytes)
        else:
            layout += cost.seconds
    found: Mapping[str, Any] = {**total, "layout_seconds": layout, "kernels": kernels}
    facts.update(found if fits else dict.fromkeys(found))


def _count(row: dict[str, Any], seconds: float, moved: int) -> None:
    row["seconds"] += seconds
    row["moved_bytes"] += moved


def human_seconds(seconds: float) -> str:
    """A duration as people read it.

    >>> human_seconds(0.0123), human_seconds(4.2e-6), human_seconds(2)
    ('12.3 ms', '4.2 us', '2 s')
    """
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e6:.3g} us"
