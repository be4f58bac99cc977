"""Reducing over axes of size 1 keeps every element: with keepdims=1 it is x, else Squeeze(x, axes). It is x, too, where
no axis is given and noop_with_empty_axes=1. For ReduceMax, ReduceMin and ReduceProd, and for ReduceSum and ReduceMean
of integers of up to 32 bits: for floats a sum may start from +0, which turns -0 into +0; longer integers are added up
as doubles by ONNX Runtime.

Squeeze(Reduce(x, keepdims=1))   ==   Reduce(x, keepdims=0) over the same axes, and the other way round with Unsqueeze.

Guards: axes must be constant, their sizes numbers; without axes all are meant, so that the rank must be known.
"""

from __future__ import annotations

from typing import Any

from onnx import TensorProto

from graphopt.ir import Node, Value
from graphopt.passes.simplify._facts import INTEGERS, ints, normalize, option, vector
from graphopt.passes.simplify._views import make_squeeze
from graphopt.rewrite import Builder, Match, P, maybe, refuse, rule
from graphopt.rewrite.rule import Outcome

SUMS = ("ReduceMean", "ReduceSum")
EXACT = ("ReduceMax", "ReduceMin", "ReduceProd", *SUMS)
ALL = (*EXACT, "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceSumSquare", "ArgMax", "ArgMin")


def axes_of(node: Node, x: Value) -> tuple[int, ...] | None:
    """The axes that are reduced, counted from the front; None where that is not certain."""
    if node.op.startswith("Arg"):
        return normalize((node.attr("axis") or 0,), x.rank)
    axes = option(node, "axes", 1)
    if axes == ():
        return None if x.rank is None else tuple(range(x.rank))
    return normalize(axes, x.rank)


@rule("eliminate-reduce", P.op(*EXACT)("x", maybe("axes")).as_("node"))
def eliminate_reduce(m: Match, new: Builder) -> Outcome:
    """Removes a reduction over axes of size 1."""
    node: Node = m.node
    if node.attr("noop_with_empty_axes") and option(node, "axes", 1) == ():
        return m.x
    shape, axes = m.x.shape, axes_of(node, m.x)
    if shape is None or axes is None or any(shape[axis] != 1 for axis in axes):
        return None
    if node.op in SUMS and m.x.dtype not in INTEGERS:
        return refuse("a sum may turn -0 into +0")
    if node.op in SUMS and m.x.dtype in (TensorProto.INT64, TensorProto.UINT64):
        return refuse("ONNX Runtime adds up 64-bit integers as doubles, which changes those above 2^53")
    return m.x if node.attr("keepdims") else make_squeeze(new, m.x, axes, node)


REDUCE = P.op(*ALL)("x", maybe("a")).as_("node")


@rule("squeeze-of-reduce", P.Squeeze(REDUCE, maybe("b")).as_("view"), measure="nodes")
def squeeze_of_reduce(m: Match, new: Builder) -> Outcome:
    """Takes a Squeeze of the reduced axes into the reduction (keepdims=0)."""
    return _change(m, new, keep=False)


@rule("unsqueeze-of-reduce", P.Unsqueeze(REDUCE, maybe("b")).as_("view"), measure="nodes")
def unsqueeze_of_reduce(m: Match, new: Builder) -> Outcome:
    """Takes an Unsqueeze of the reduced axes into the reduction (keepdims=1)."""
    return _change(m, new, keep=True)


def _change(m: Match, new: Builder, keep: bool) -> Outcome:
    node, view = m.node, m.view
    if node.attr("keepdims") == keep or (node.attr("noop_with_empty_axes") and option(node, "axes", 1) == ()):
        return None
    axes, moved = axes_of(node, m.x), option(view, "axes", 1)
    if moved == () or axes is None:
        return refuse("the axes are not known")
    if normalize(moved, m.x.rank) is None or set(normalize(moved, m.x.rank) or ()) != set(axes):
        return refuse("the two do not change the same axes")
    # Axes from the front: with others ONNX Runtime gets the shape of an empty result wrong.
    attrs: dict[str, Any] = {"keepdims": int(keep)}
    if node.op.startswith("Arg"):
        attrs["axis"] = axes[0]
    elif "axes" in node.attributes:
        attrs["axes"] = list(axes)
    operand = m.a
    if operand is not None and min(ints(operand) or (0,)) < 0:
        operand = new.constant(vector(axes), "axes")
    return new.make(node.op, m.x, operand, like=node, **attrs)
