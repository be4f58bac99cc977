"""How large and how small a value gets: what calibration saw, with a margin, and what holds whatever the inputs are."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf

from graphopt.analysis.ranges import TensorRange
from graphopt.ir import Node, Tensor, Value
from graphopt.passes.collapse._intervals import RANGES, UNKNOWN, Interval, of_constant
from graphopt.passes.collapse._transfer import interval_of, operands_of

_THROUGH = frozenset({"Cast", "CastLike"})


class Bounds:
    """Intervals of values. ranges: by name, of the main graph's values; margin: by how much data may exceed them.

    A value's interval is what follows from its operands' and its own range, whichever says more.
    """

    def __init__(self, ranges: Mapping[str, TensorRange] | None = None, margin: float = 2.0):
        self.ranges, self.margin = ranges or {}, margin
        self._known: dict[Value, Interval] = {}

    def of(self, value: Value) -> Interval:
        """What every number in a value lies between."""
        pending = [value]
        while pending:
            item = pending[-1]
            if item in self._known:
                pending.pop()
                continue
            operands = operands_of(item) if item.producer is not None and not item.is_const else []
            missing = [v for v in operands if v not in self._known]
            if missing:
                pending.extend(missing)
                continue
            self._known[item] = self._find(item, [self._known[v] for v in operands])
            pending.pop()
        return self._known[value]

    def measured(self, value: Value) -> TensorRange | None:
        """What calibration saw of a value."""
        return self.ranges.get(value.name) if value.graph.parent is None else None

    def magnitude(self, value: Value) -> float:
        """The largest magnitude; infinity where it is not known."""
        low, high = self.of(value)
        return max(abs(low), abs(high))

    def positive(self, value: Value, least: float) -> bool:
        """Whether every number is at least so far from zero, all on one side of it."""
        low, high = self.of(value)
        return low >= least or high <= -least

    def _find(self, value: Value, operands: list[Interval]) -> Interval:
        if value.is_const:
            return of_constant(value)
        low, high = self._inferred(value, operands)
        seen = self.measured(value)
        if seen is None:
            return low, high
        least, most = min(seen.low, seen.minimum), max(seen.high, seen.maximum)
        least, most = min(least * self.margin, least / self.margin), max(most * self.margin, most / self.margin)
        return min(max(low, least), seen.low), max(min(high, most), seen.high)

    def _inferred(self, value: Value, operands: list[Interval]) -> Interval:
        node = value.producer
        if node is None:
            return RANGES.get(value.dtype or 0, UNKNOWN)
        if value.dtype in RANGES and node.op not in _THROUGH:
            return RANGES[value.dtype or 0]
        if node.op == "ConstantOfShape" and not node.domain:
            return filled(node)
        try:
            low, high = interval_of(value, operands)
        except LookupError:  # of a type that it does not know
            return UNKNOWN
        return (low, high) if low <= high else (-inf, inf)


def filled(node: Node) -> Interval:
    """What a ConstantOfShape fills its result with."""
    given = node.attr("value")
    if given is None:
        return 0.0, 0.0
    number = float(Tensor(given, node.graph.model.store).numpy().reshape(-1)[0])
    return (number, number) if number == number else UNKNOWN
