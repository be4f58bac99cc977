"""Masks: numbers like -3.4e38 that take part in nothing but a Softmax.

A Softmax gives 0 for what is far enough below the largest number of its row, however far: such a number can be the
lowest that float16 has. In `Where(mask, -3.4e38, scores)` that is exact, also for a row in which everything is masked
(the mean, in both). In `scores + mask` the sum must not leave float16's range, so the mask is raised to half of it, and
the scores are known to be small; where everything is masked the row then follows the scores, and is finite as before.
"""

from __future__ import annotations

from math import inf

from graphopt.ir import Node, Value
from graphopt.passes.precision._bounds import Bounds

_ON_THE_WAY = frozenset({"Identity", "Reshape", "Transpose", "Unsqueeze", "Squeeze", "Dropout", "Cast"})
_FAR = 100.0  # below the largest of its row, where exp is 0 in float16


class Masks:
    """Finds them. limit: the largest number of the new type."""

    def __init__(self, bounds: Bounds, limit: float):
        self.bounds, self.limit = bounds, limit
        self.floors: dict[tuple[Node, int], float] = {}
        self._low: dict[Value, bool] = {}

    def may_be_low(self, node: Node, value: Value) -> bool:
        """Whether a value that a node reads or makes is, or holds, a mask that can be raised."""
        if node.op in ("Add", "Where") and not node.domain and self._is_masked(node.output):
            return value is node.output or any((node, slot) in self.floors for slot in _slots(node, value))
        return node.op in (*_ON_THE_WAY, "Softmax") and self._behind(value)

    def _behind(self, value: Value) -> bool:
        while value.producer is not None and value.producer.op in _ON_THE_WAY and value.producer.inputs[0] is not None:
            if self._is_masked(value):
                return True
            value = value.producer.inputs[0]
        return self._is_masked(value)

    def _is_masked(self, value: Value) -> bool:
        if value not in self._low:
            self._low[value] = self._find(value)
        return self._low[value]

    def _find(self, value: Value) -> bool:
        node = value.producer
        if node is None or node.domain or node.op not in ("Add", "Where") or not _only_softmax(value):
            return False
        slots = (0, 1) if node.op == "Add" else (1, 2)
        found = [node.inputs[slot] for slot in slots]
        if any(v is None for v in found):
            return False
        pairs = [(slot, v, found[1 - k]) for k, (slot, v) in enumerate(zip(slots, found, strict=True))]
        for slot, mask, scores in pairs:
            assert mask is not None and scores is not None
            low, high = self.bounds.of(mask)
            room = self.bounds.magnitude(scores)
            floor = -self.limit if node.op == "Where" else -self.limit / 2
            if low >= -self.limit or high > -low or high > self.limit / 8 or room > self.limit / 8 - _FAR:
                continue
            if low == -inf and not mask.is_const:
                continue
            self.floors[node, slot] = floor
            return True
        return False


def _slots(node: Node, value: Value) -> list[int]:
    return [slot for slot, read in enumerate(node.inputs) if read is value]


def _only_softmax(value: Value) -> bool:
    pending, found = [value], False
    while pending:
        item = pending.pop()
        if item.outs:
            return False
        for user in item.users:
            if user.op == "Softmax" and not user.domain:
                found = True
            elif user.op in _ON_THE_WAY and not user.domain and user.op != "Cast" and user.graph is item.graph:
                pending.append(user.output)
            else:
                return False
    return found
