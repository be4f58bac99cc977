"""Chains of one to three operators that a map is moved through: their pattern, the way of the channels through them,
and the same chain on another operand."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import TensorProto, helper

from graphopt.ir import Node, Value
from graphopt.passes.collapse._through import THROUGH, axis_before, axis_behind, mapped, objection, padded_with
from graphopt.passes.fusion._affine import Affine
from graphopt.rewrite import Builder, Match, P, one_of, rest
from graphopt.rewrite.pattern import Pattern

NAMES = ("t1", "t2", "t3")  # of the chain's nodes, the first one lowest


def over(start: Any) -> Pattern:
    """The pattern of a chain that begins with `start`; longer ones are tried first."""
    chains = []
    for name in NAMES:
        start = P.op(*THROUGH)(start, rest(f"{name}_operands")).as_(name)
        chains.append(start)
    return one_of(*reversed(chains))


def nodes_of(m: Match) -> list[Node]:
    """The chain's nodes, from the data on."""
    return [m.get(name) for name in NAMES if m.get(name) is not None]


def behind(chain: list[Node], axis: int | None) -> int | None:
    """The channels' axis behind the chain."""
    for node in chain:
        axis = None if axis is None else axis_behind(node, axis)
    return axis


def before(chain: list[Node], axis: int | None) -> int | None:
    """The channels' axis in front of the chain."""
    for node in reversed(chain):
        axis = None if axis is None else axis_before(node, axis)
    return axis


def why_not(chain: list[Node], affine: Affine, axis: int | None, back: bool = True) -> str:
    """Why a map cannot be moved through the chain, or nothing. axis: of its channels in front of the chain, or None if
    it has one scale and shift for all. back: whether the map is behind the chain, or in front of it."""
    for node in chain:
        if node.inputs[0] in node.inputs[1:]:
            return "an operator in between reads the value twice"
        reason = objection(node, affine, axis, back)
        if reason:
            return reason
        axis = None if axis is None else axis_behind(node, axis)
    return ""


def rebuilt(chain: list[Node], x: Value, new: Builder, affine: Affine, back: bool = True) -> Value:
    """The chain on another operand of the same type, with the map on the other side of it."""
    for node in chain:
        value = padded_with(node) if node.op == "Pad" and is_single(affine) else None
        if value is None or not (value or affine.shift is not None):
            x = new.make(node.op, x, *node.inputs[1:], like=node, type_of=node.output)
        elif new.graph.opset() < 11:
            x = new.Pad(x, like=node, type_of=node.output, value=mapped(value, affine, back))
        else:
            dtype = helper.tensor_dtype_to_np_dtype(x.dtype or TensorProto.FLOAT)
            filled = new.constant(np.asarray(mapped(value, affine, back)).astype(dtype), "padding")
            x = new.Pad(x, node.inputs[1], filled, *node.inputs[3:], like=node, type_of=node.output)
    return x


def is_single(affine: Affine) -> bool:
    """Whether a map has one scale and shift for all channels."""
    return all(part is None or part.ndim == 0 for part in (affine.scale, affine.shift))
