"""LSTM(x, W, R, B, n, 0, 0)   ==   LSTM(x, W, R, B, n): a state left out starts at zero. GRU and RNN likewise. The
shape computations that made the zeros go away with them.

Guards: every element is certainly +0 (a constant, a ConstantOfShape, or what operators that only move, repeat, cut or
join elements make of such); nothing is assumed of the shape, which the operator checks only where a state is given.
What the state is multiplied by (R, and P of an LSTM) are finite constants: ONNX Runtime multiplies by a state of zeros
only where one is given, and 0 times infinity is NaN.
"""

from __future__ import annotations

import numpy as np

from graphopt.ir import NDArray, Node, Tensor, Value
from graphopt.rewrite import Builder, Match, P, refuse, rest, rule
from graphopt.rewrite.rule import Outcome

RECURRENT = P.op("GRU", "LSTM", "RNN")(rest("operands")).as_("node").binding("y")
FARTHEST = 24  # operators looked at for one state

# Operators whose elements are those of their first input, or of all inputs.
_MOVES = frozenset("Cast Expand Flatten Gather Identity Reshape Slice Squeeze Tile Transpose Unsqueeze".split())


@rule("drop-zero-state", RECURRENT, measure="bytes")
def drop_zero_state(m: Match, new: Builder) -> Outcome:
    node: Node = m.node
    slots = [i for i in (5, 6) if i < len(node.inputs) and (node.op == "LSTM" or i == 5)]
    zero = [i for i in slots if is_zero(node.inputs[i])]
    if not zero:
        return None
    if not all(node.input(slot) is None or _is_finite(node.inputs[slot]) for slot in (2, 7)):
        return refuse("what the state is multiplied by is not known to be finite")
    operands = [None if i in zero else value for i, value in enumerate(node.inputs)]
    made = new.make(node.op, *operands, like=node, n_out=len(node.outputs))
    values: tuple[Value, ...] = made if isinstance(made, tuple) else (made,)
    for old, value in zip(node.outputs, values, strict=True):
        if not old.name:  # not wanted before either
            del node.graph.values[value.name]
            value.name = ""
    return values


def is_zero(value: Value | None) -> bool:
    """Whether every element of a value is certainly +0."""
    pending, seen = [value], 0
    while pending:
        value = pending.pop()
        seen += 1
        if value is None or seen > FARTHEST:
            return False
        if value.is_const:
            if not _is_zero(value.numpy()):
                return False
            continue
        node = value.producer
        if node is None or node.domain or node.has_references:
            return False
        if node.op == "Concat":
            pending += node.inputs
        elif node.op in _MOVES:
            pending.append(node.inputs[0])
        elif node.op != "ConstantOfShape" or not _fills_with_zero(node):
            return False
    return True


def _fills_with_zero(node: Node) -> bool:
    given = node.attr("value", None)
    return given is None or _is_zero(Tensor(given, node.graph.model.store).numpy())


def _is_finite(value: Value | None) -> bool:
    return value is not None and value.is_const and bool(np.isfinite(value.numpy()).all())


def _is_zero(array: NDArray) -> bool:
    if array.dtype.kind not in "fiu" or (array.size and array.reshape(-1)[0]):
        return False
    return not array.any() and not np.signbit(array).any()
