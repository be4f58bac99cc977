"""Rewrites that an infinity would tell apart: a sum of products gives NaN where infinities of both signs meet in it,
and what takes its place may give an infinity there. They need an operand that is never infinite.

That is found by intervals (see _transfer.py), from what is bounded by itself (integers, Sigmoid, Clip, normalizations)
through everything that keeps a bound: a Conv of numbers below B gives numbers below B |W| + |b|, and as long as that is
far below the largest number of the type, nothing in it was infinite.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf

from graphopt.ir import Model, Value
from graphopt.passes.collapse._intervals import UNKNOWN, Interval, of_constant, of_type, within_type
from graphopt.passes.collapse._transfer import interval_of, is_hopeless, makes_nan, operands_of, without_nan

_FACT = "intervals"
_EDITS = 64  # and an eighth of the nodes: after so many changes what is known is found again


def objection(x: Value) -> str:
    """Why x may be infinite, or nothing: where it is bounded, or the user allowed it (`fast_math=True`)."""
    if x.graph.model.fast_math or is_bounded(x):
        return ""
    return "an infinite operand could give NaN where this gives infinity; fast_math=True allows it"


def is_bounded(x: Value) -> bool:
    """Whether a value is certainly finite or NaN."""
    return _is_finite(interval(x))


def interval(x: Value) -> Interval:
    """What every element of a value certainly lies between, if it is a number; (-inf, inf) where nothing is known."""
    memo = _Known.of(x.graph.model)
    known, pending = memo.intervals, [x]
    while pending:
        value = pending[-1]
        if value not in known and not memo.note(value):
            operands = operands_of(value)
            missing = [v for v in operands if v not in known and not v.is_const]
            if missing:
                pending.extend(missing)
                continue
            memo.find(value, operands)
        pending.pop()
    return known[x]


@dataclass
class _Known:
    """Intervals by value, as of a version of the model. Rewrites do not change what a value is, so that they stay true;
    they are given up now and then for the sake of what could not be told before, and of the memory."""

    version: int
    intervals: dict[Value, Interval] = field(default_factory=dict)
    numbers: set[Value] = field(default_factory=set)  # that are never NaN

    @classmethod
    def of(cls, model: Model) -> _Known:
        kept = model.facts.get(_FACT)
        if isinstance(kept, cls) and model.version - kept.version <= _EDITS + len(model.graph) // 8:
            return kept
        made = model.facts[_FACT] = cls(model.version)
        return made

    def note(self, value: Value) -> bool:
        """Notes what is bounded by itself; returns whether it is."""
        found = of_type(value)
        if found is None:
            return False
        self.intervals[value] = found
        if _is_finite(found):
            self.numbers.add(value)
        return True

    def find(self, value: Value, operands: list[Value]) -> None:
        """Notes what follows from the operands, of which only constants may be unknown."""
        if is_hopeless(value, [self.intervals.get(v) for v in operands]):
            self.intervals[value] = UNKNOWN
            return
        each = [of_constant(v) if v.is_const else self.intervals[v] for v in operands]
        found = interval_of(value, each)
        are_numbers = all(
            _is_finite(known) if v.is_const else v in self.numbers for v, known in zip(operands, each, strict=True)
        )
        if not are_numbers:
            found = without_nan(value, found)
        self.intervals[value] = found = within_type(found, value)
        if are_numbers and _is_finite(found) and not makes_nan(value, each):
            self.numbers.add(value)


def _is_finite(found: Interval) -> bool:
    return found[0] > -inf and found[1] < inf
