"""Rewrites that an infinity would tell apart: a sum of products gives NaN where infinities of both signs meet in it,
and what takes its place may give an infinity there. They need an operand that is never infinite."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from graphopt.ir import Node, Value

_BOUNDED = frozenset({"Sigmoid", "Tanh", "Softmax", "HardSigmoid", "Erf", "Softsign", "Sin", "Cos"})
_MOVES = frozenset({"Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Slice", "Gather"})
_WIDE = (TensorProto.FLOAT, TensorProto.DOUBLE)
_FLOATS = frozenset({*_WIDE, TensorProto.FLOAT16, TensorProto.BFLOAT16})
_FARTHEST = 8  # operators to look back through


def objection(x: Value) -> str:
    """Why x may be infinite, or nothing: where it is bounded, or the user allowed it (`fast_math=True`)."""
    if x.graph.model.fast_math or is_bounded(x):
        return ""
    return "an infinite operand could give NaN where this gives infinity; fast_math=True allows it"


def is_bounded(x: Value) -> bool:
    """Whether a value is certainly finite or NaN."""
    for _ in range(_FARTHEST):
        node = x.producer
        if node is None or node.domain:
            return False
        if node.op in _BOUNDED or _is_clipped(node) or _is_cast_up(node):
            return True
        if node.op not in _MOVES or node.inputs[0] is None:
            return False
        x = node.inputs[0]
    return False


def _is_clipped(node: Node) -> bool:
    if node.op != "Clip":
        return False
    if node.graph.opset() < 11:
        bounds = [node.attr("min", None), node.attr("max", None)]
    else:
        given = [node.input(1), node.input(2)]
        bounds = [float(v.numpy().reshape(())) if v is not None and v.is_const else None for v in given]
    return all(bound is not None and abs(bound) < 3e38 and np.isfinite(bound) for bound in bounds)


def _is_cast_up(node: Node) -> bool:
    x = node.inputs[0] if node.op == "Cast" else None
    return x is not None and x.dtype is not None and x.dtype not in _FLOATS and node.attr("to") in _WIDE
