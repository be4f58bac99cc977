"""Which integers a value can hold, as far as it follows from constants, shapes and operators: exactly, for every call.

Sums and products are bounded before they wrap around; what may wrap is not known. `largest` bounds dims that are
symbols; 0: they are not bounded, for an empty tensor can have dims of any size.
"""

from __future__ import annotations

from math import inf

from graphopt.analysis.shapes import shapes_of
from graphopt.ir import Node, Value
from graphopt.passes.collapse._intervals import Interval
from graphopt.passes.collapse._transfer import interval_of
from graphopt.passes.precision._bounds import Bounds, filled

INT32: Interval = (-(2.0**31), 2.0**31 - 1)
_TYPES: dict[int, Interval] = {9: (0.0, 1.0)} | {
    kind: (-(2.0 ** (bits - 1)) if signed else 0.0, 2.0 ** (bits - 1 if signed else bits) - 1)
    for kind, bits, signed in (
        (2, 8, 0),
        (3, 8, 1),
        (4, 16, 0),
        (5, 16, 1),
        (6, 32, 1),
        (7, 64, 1),
        (12, 32, 0),
        (13, 64, 0),
    )
}
# Their rules hold for integers as for numbers: quotients are rounded towards zero, which their intervals allow for.
_EXACT = frozenset(
    "Abs Add Clip Concat Div Expand Flatten Gather GatherElements Identity Max Min Mul Neg Pad ReduceMax ReduceMin "
    "ReduceSum Reshape Slice Split Squeeze Sub Sum Tile Transpose Unsqueeze Where".split()
)


class Integers(Bounds):
    """Intervals of integers; see `Bounds`."""

    def __init__(self, largest: int = 0):
        super().__init__()
        self.largest = float(largest) if largest else inf

    def fits(self, value: Value) -> bool:
        """Whether every number in a value is one of int32."""
        low, high = self.of(value)
        return low >= INT32[0] and high <= INT32[1]

    def _inferred(self, value: Value, operands: list[Interval]) -> Interval:
        whole = _TYPES.get(value.dtype or 0, (-inf, inf))
        node = value.producer
        low, high = self._made(node, value, operands) if node is not None and not node.domain else whole
        used = _index_range(value)
        if used is not None:
            low, high = max(low, used[0]), min(high, used[1])
        return (low, high) if whole[0] <= low <= high <= whole[1] else whole

    def _made(self, node: Node, value: Value, operands: list[Interval]) -> Interval:
        known = _elements(value)
        if known is not None:
            return known
        if node.op in _EXACT:
            return interval_of(value, operands)
        if node.op == "Cast":
            return self._cast(node, operands)
        if node.op in _OWN:
            return getattr(self, _OWN[node.op])(node, operands)
        return -inf, inf

    def _cast(self, node: Node, operands: list[Interval]) -> Interval:
        source = node.inputs[0]
        return operands[0] if source is not None and source.dtype in _TYPES else (-inf, inf)

    def _dims(self, value: Value | None) -> Interval:
        if value is None or value.shape is None:
            return 0.0, self.largest
        return 0.0, max([float(d) if isinstance(d, int) else self.largest for d in value.shape], default=0.0)

    def _shape(self, node: Node, operands: list[Interval]) -> Interval:
        return self._dims(node.inputs[0])

    def _index(self, node: Node, operands: list[Interval]) -> Interval:
        return 0.0, max(0.0, self._dims(node.inputs[0])[1] - 1)

    def _filled(self, node: Node, operands: list[Interval]) -> Interval:
        return filled(node)

    def _range(self, node: Node, operands: list[Interval]) -> Interval:
        found = [self.of(v) for v in node.inputs if v is not None]
        return min(found[0][0], found[1][0]), max(found[0][1], found[1][1])

    def _mod(self, node: Node, operands: list[Interval]) -> Interval:
        low, high = self.of(node.inputs[1]) if node.inputs[1] is not None else (-inf, inf)
        size = max(abs(low), abs(high))
        return -size, size


_OWN = {
    "ArgMax": "_index",
    "ArgMin": "_index",
    "ConstantOfShape": "_filled",
    "Mod": "_mod",
    "NonZero": "_index",
    "Range": "_range",
    "Shape": "_shape",
}


def _elements(value: Value) -> Interval | None:
    """Of small integer tensors that are computed from shapes, what they hold may be known in numbers."""
    if value.shape is None or len(value.shape) > 1:
        return None
    found = shapes_of(value).elements(value)
    numbers = [item for item in found if isinstance(item, int)] if found is not None else []
    return (float(min(numbers)), float(max(numbers))) if found and len(numbers) == len(found) else None


def _index_range(value: Value) -> Interval | None:
    """What indices are that a Gather of the main graph reads: others have no result, as it fails."""
    if value.graph.parent is not None:
        return None
    for user in value.users:
        if user.op != "Gather" or user.domain or user.graph is not value.graph or user.input(1) is not value:
            continue
        data = user.inputs[0]
        shape = data.shape if data is not None else None
        axis = int(user.attr("axis"))
        size = shape[axis] if shape is not None and -len(shape) <= axis < len(shape) else None
        if isinstance(size, int) and size > 0 and (user.output.users or user.output.outs):
            return -float(size), float(size - 1)
    return None
