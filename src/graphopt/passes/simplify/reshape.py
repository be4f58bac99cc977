"""Reshape, Flatten, Squeeze, Unsqueeze or Expand of x   ==   x where the result's shape is certainly that of x; so is
Tile with all repeats 1.

The element count stays the same in the first four, so one dim may be unknown if the others are equal and positive (or,
in a Reshape, if it is written as -1). Guards: shapes must be known well enough. A Squeeze keeps the rank only where it
names no axis and no dim is 1 (an empty list of axes is read in two ways by runtimes: left alone).
"""

from __future__ import annotations

from graphopt.analysis.shapes import shapes_of
from graphopt.ir import Node, Value
from graphopt.passes.simplify._facts import ints, keeps_apart, option, same_elements, same_shape
from graphopt.rewrite import Builder, Match, P, maybe, refuse, rule
from graphopt.rewrite.rule import Outcome


@rule("eliminate-reshape", P.Reshape("x", maybe("shape")).as_("node"))
def eliminate_reshape(m: Match, new: Builder) -> Outcome:
    """Removes a Reshape to the shape that its input has."""
    x, result = m.x, m.node.output
    if x.shape is None or result.shape is None or not shapes_of(x).may_be_same(x, result):
        return None
    target = option(m.node, "shape", 1)
    if target is not None and not any(target) and keeps_apart(m.node):
        return refuse("it keeps ONNX Runtime from merging its neighbours")
    return x if same_elements(x, result) or _inferred(m.node, x) else None


def _inferred(node: Node, x: Value) -> bool:
    """The only dim that may differ is the one written as -1: with the others equal it cannot."""
    shapes = shapes_of(x)
    target, before, after = shapes.elements(node.input(1)), shapes.dims(x), shapes.dims(node.output)
    if "shape" in node.attributes:
        target = option(node, "shape", 1)
    if target is None or before is None or after is None or not len(target) == len(before) == len(after):
        return False
    return all(size == -1 or shapes.equal(a, b) for size, a, b in zip(target, before, after, strict=True))


@rule("eliminate-flatten", P.Flatten("x").as_("node"))
def eliminate_flatten(m: Match, new: Builder) -> Outcome:
    """Removes a Flatten of what is a matrix already."""
    if m.x.rank == 2 and m.node.attr("axis") in (1, -1):
        return m.x
    return m.x if same_elements(m.x, m.node.output) else None


@rule("eliminate-squeeze", P.Squeeze("x", maybe("axes")).as_("node"))
def eliminate_squeeze(m: Match, new: Builder) -> Outcome:
    """Removes a Squeeze of every axis of size 1 where there is none."""
    if m.axes is not None or "axes" in m.node.attributes:
        return None
    shapes = shapes_of(m.x)
    dims = shapes.dims(m.x)
    return m.x if dims is not None and all(size == 0 or shapes.at_least(size, 2) for size in dims) else None


@rule("eliminate-expand", P.Expand("x", "shape").as_("node"))
def eliminate_expand(m: Match, new: Builder) -> Outcome:
    """Removes an Expand to the shape that its input has."""
    if same_shape(m.x, m.node.output):
        return m.x
    sizes = ints(m.shape)
    if sizes is None or any(size != 1 for size in sizes):
        return None
    return m.x if not sizes or _has_rank(m.x, len(sizes)) else None


def _has_rank(value: Value, rank: int) -> bool:
    return value.rank is not None and value.rank >= rank


@rule("eliminate-tile", P.Tile("x", "repeats"), opset=">=6")
def eliminate_tile(m: Match, new: Builder) -> Outcome:
    """Removes a Tile that repeats nothing."""
    repeats = ints(m.repeats)
    return m.x if repeats is not None and all(count == 1 for count in repeats) else None
