"""Gather(x, Range(s, l, d))   ==   Gather(x, Reshape(Range(s, l, d), [0]))   where a Slice from s to l is not the same

ONNX Runtime (1.31, GatherToSliceFusion) makes a Slice of it, whose bounds mean something else below zero: indices that
count down to 0 end at -1, which to a Slice is the last element, and indices -2, -1 are none between -2 and 0. Flipping
an axis that way (start n - 1, limit -1, step -1) gives an empty tensor.

Guards: the Range is read by the Gather alone, as its indices. Not where the indices count up from a constant start >= 0
to a limit that is a constant >= 0, or a dimension: there the Slice is right, and quicker.
"""

import numpy as np

from graphopt.ir import Value
from graphopt.rewrite import Builder, Match, P, rule
from graphopt.rewrite.rule import Outcome

GATHER = P.Gather("x", P.Range("start", "limit", "step").as_("range")).as_("gather")
_STEPS = 6  # operators between a dimension and the limit
_KEPT = frozenset({"Gather", "Squeeze", "Unsqueeze", "Reshape", "Cast", "Identity", "Slice"})


@rule("avoid-range-gather", GATHER, targets=["onnx", "onnxruntime"], measure="order")
def avoid_range_gather(m: Match, new: Builder) -> Outcome:
    """Keeps ONNX Runtime from slicing where indices are negative or count down."""
    if _at_least(m.start, 0) and _at_least(m.step, 1) and (_at_least(m.limit, 0) or _is_dimension(m.limit)):
        return None
    same = new.constant(np.zeros(1, np.int64), "same_dims")
    return new.Gather(m.x, new.Reshape(m.range.output, same, type_of=m.range.output), like=m.gather)


def _at_least(value: Value, least: int) -> bool:
    return value.is_const and bool((value.numpy() >= least).all())


def _is_dimension(value: Value) -> bool:
    """Whether it is taken out of a Shape, or a Size."""
    for _ in range(_STEPS):
        node = value.producer
        if node is None or node.domain:
            return False
        if node.op in ("Shape", "Size"):
            return True
        source = node.inputs[0] if node.op in _KEPT else None
        if source is None:
            return False
        value = source
    return False
