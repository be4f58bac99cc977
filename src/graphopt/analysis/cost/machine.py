"""What a target costs: seconds for a unit of work of each kind, bytes per second, and what starting a node takes.

`Machine` is a plain record, so that another target is another record: see docs/cost.md. The shipped ones are in
`machines`; `machine_for` gives the one that passes go by: what the user measured with `graphopt machine`, if there is
such a file, else what is shipped.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any

OTHER = "other"  # the kind of operators that nothing is known of


@dataclass(frozen=True)
class Machine:
    """One runtime on one machine.

    name: for people. runtime: "onnxruntime" or "tensorrt", whose fusions are counted on (see
    `analysis.runtime_fusion`). source: where the numbers are from. threads: of an operator. overhead: seconds that
    starting a node takes. bandwidth: bytes per second from the caches; memory_bandwidth: from memory, for nodes that
    move more than `cache` bytes. seconds: of one unit of work by kind (`kinds`): a multiplication with its addition
    where matrices are multiplied, an element elsewhere. An operator that has an entry of its own name goes by that.
    widths: channels of a block of the layout in which convolutions run, the machine's own first, then those of others
    that a model may also run on; () where there is none. blocks_a_pass: blocks of output channels computed in one
    pass over the input; a_pass: what such a pass costs besides, in blocks. columns: by which matrix products work;
    rows_a_pass and a_pass_of_rows: the same for their rows. split: multiplications as long as copying one number
    takes.
    """

    name: str
    runtime: str
    source: str
    overhead: float
    bandwidth: float
    memory_bandwidth: float
    seconds: Mapping[str, float] = field(hash=False)
    threads: int = 1
    cache: int = 1 << 20
    widths: tuple[int, ...] = (16, 8)
    blocks_a_pass: int = 4
    a_pass: float = 0.75
    columns: int = 16
    rows_a_pass: int = 12
    a_pass_of_rows: float = 2.0
    split: float = 40.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "seconds", MappingProxyType(dict(self.seconds)))
        object.__setattr__(self, "widths", tuple(self.widths))

    def seconds_of(self, kind: str) -> float:
        """Seconds for one unit of work of this kind.

        >>> Machine("m", "onnxruntime", "", 1e-6, 1e10, 1e10, {"other": 2e-9, "Exp": 1e-9}).seconds_of("Exp")
        1e-09
        """
        found = self.seconds.get(kind)
        return self.seconds.get(OTHER, 1e-9) if found is None else found

    def to_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        shallow = {item.name: getattr(self, item.name) for item in fields(self)}
        return {**shallow, "seconds": dict(self.seconds), "widths": list(self.widths)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Machine:
        """The inverse of `to_dict`. Raises ValueError for what is no description, or has a number that cannot be.

        >>> machine = Machine("m", "onnxruntime", "", 1e-6, 1e10, 1e10, {"other": 2e-9})
        >>> Machine.from_dict(machine.to_dict()) == machine
        True
        """
        try:
            machine = cls(**data)
            machine._check()
        except (TypeError, AttributeError, ValueError, KeyError) as error:
            raise ValueError(f"this is no description of a machine: {error}") from None
        return machine

    def _check(self) -> None:
        """Raises ValueError or TypeError for what cannot be."""
        if not all(isinstance(text, str) for text in (self.name, self.runtime, self.source, *self.seconds)):
            raise TypeError("a name that is no text")
        if self.runtime not in ("onnxruntime", "tensorrt"):
            raise ValueError(f"the runtime {self.runtime!r} is not known")
        counts = (self.threads, self.cache, self.blocks_a_pass, self.columns, self.rows_a_pass, *self.widths)
        if {type(count) for count in counts} != {int} or not all(0 < count < 1 << 50 for count in counts):
            raise ValueError("a count that no machine has")
        rates = (self.bandwidth, self.memory_bandwidth)
        costs = (self.overhead, self.a_pass, self.a_pass_of_rows, self.split, *self.seconds.values())
        if not all(rate > 0 for rate in rates) or not all(0 <= number < 1e30 for number in (*rates, *costs)):
            raise ValueError("a number that no machine has")
