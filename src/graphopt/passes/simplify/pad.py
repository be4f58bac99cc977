"""Pad(x, all zero)   ==   x in every mode;  Pad(Pad(x, p), q)   ==   Pad(x, p + q) for constant padding with one value.

Guards of the second: both in constant mode with bitwise the same constant value and only positive pads (a negative pad
crops what the other pad has added); the rank is known where one of them has `axes`.
"""

from __future__ import annotations

import numpy as np

from graphopt.ir import NDArray, Node
from graphopt.passes.simplify._facts import every_pad, option, vector
from graphopt.rewrite import Builder, Match, P, refuse, rest, rule
from graphopt.rewrite.rule import Outcome


def pads_of(node: Node) -> tuple[int, ...] | None:
    """The pads as written, at any opset; None where they are computed."""
    return option(node, "paddings" if node.graph.opset() < 2 else "pads", 1)


@rule("eliminate-pad", P.Pad("x", rest("operands")).as_("node"))
def eliminate_pad(m: Match, new: Builder) -> Outcome:
    """Removes a Pad by nothing."""
    pads = pads_of(m.node)
    return m.x if pads and not any(pads) else None


@rule("compose-pads", P.Pad(P.Pad("x", rest("a")).as_("inner"), rest("b")).as_("outer"), opset=">=2")
def compose_pads(m: Match, new: Builder) -> Outcome:
    """Merges two Pads by the same constant."""
    inner, outer = m.inner, m.outer
    first, second = every_pad(inner, m.x.rank), every_pad(outer, m.x.rank)
    if any(_mode(node) != "constant" for node in (inner, outer)):
        return refuse("only constant padding adds up")
    if first is None or second is None or len(first) != len(second):
        return refuse("the pads, their axes or the rank are not constant")
    if min(first + second, default=0) < 0:
        return refuse("a negative pad crops what the other has added")
    values = _fill(inner), _fill(outer)
    if values[0] is None or values[1] is None or values[0].tobytes() != values[1].tobytes():
        return refuse("the two pad with different or computed values")
    total = [a + b for a, b in zip(first, second, strict=True)]
    if inner.graph.opset() < 11:
        return new.Pad(m.x, like=inner, pads=total)
    return new.Pad(m.x, new.constant(vector(total), "pads"), inner.input(2), None, like=inner)


def _mode(node: Node) -> str:
    return str(node.attr("mode") or "constant")


def _fill(node: Node) -> NDArray | None:
    """The value that is padded with, or None where it is computed."""
    if node.graph.opset() < 11:
        return np.array(node.attr("value") or 0.0, np.float32)
    value = node.input(2)
    if value is None:
        return np.array(0.0, np.float32)
    if not value.is_const:
        return None
    array = value.numpy()
    return array if array.any() or np.signbit(array.astype(np.float32)).any() else np.array(0.0, np.float32)
