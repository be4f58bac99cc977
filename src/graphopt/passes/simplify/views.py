"""Any two of Reshape, Flatten, Squeeze and Unsqueeze   ==   one of them, or nothing.

They all keep the elements in order, so that the last shape alone counts: v2(v1(x)) == Reshape(x, shape of the result).
Squeeze(Unsqueeze(x)) over the same axes == x, and the other way round; two Squeezes or two Unsqueezes are one.

Guards: the result's shape must be known but for one dim, or come from x at the same place, or be given to the second
Reshape (written or computed) without 0: a 0 copies a dim of what lies between, which must then be the dim of x at that
place. A -1 is only made next to positive sizes. The inner view may have other readers.
"""

from __future__ import annotations

from graphopt.analysis.shapes import shapes_of
from graphopt.ir import Node, Value
from graphopt.passes.simplify._facts import normalize, option, same_elements, vector
from graphopt.passes.simplify._views import VIEWS, make_squeeze, target_of
from graphopt.rewrite import Builder, Match, P, maybe, refuse, rule
from graphopt.rewrite.rule import Outcome

INNER = P.op(*VIEWS)("x", maybe("a")).as_("inner").shared()


@rule("compose-views", P.op(*VIEWS)(INNER, maybe("b")).as_("outer"), opset=">=5")
def compose_views(m: Match, new: Builder) -> Outcome:
    x, inner, outer = m.x, m.inner, m.outer
    if same_elements(x, outer.output):
        return x
    merged = _axes(x, inner, outer)
    if merged is not None:
        return make_squeeze(new, x, merged, outer, outer.op) if merged else x
    shapes = shapes_of(x)
    target = target_of(shapes.dims(x), shapes.dims(outer.output), shapes)
    if target is not None:
        return new.Reshape(x, new.constant(vector(target), "shape"), name=outer.name or None)
    if outer.op == "Reshape" and _is_own(x, inner, outer):
        return new.Reshape(x, m.b, like=outer)
    return refuse("the resulting shape has more than one dim that is not known")


def _is_own(x: Value, inner: Node, outer: Node) -> bool:
    """Whether the second Reshape's operand means the same for x as for what lies between."""
    if outer.attr("allowzero", 0):
        return True
    shapes, written = shapes_of(x), option(outer, "shape", 1)
    target = written if written is not None else shapes.elements(outer.input(1))
    if target is None:
        return False
    between, before = shapes.dims(inner.output) or (), shapes.dims(x) or ()
    for index, size in enumerate(target):
        if size == -1 or (isinstance(size, int) and size != 0) or shapes.positive(size):
            continue
        if not (index < len(before) and index < len(between) and shapes.equal(before[index], between[index])):
            return False
    return True


def _axes(x: Value, inner: Node, outer: Node) -> tuple[int, ...] | None:
    """The axes of the one Squeeze or Unsqueeze that does both; () where both cancel; None for another pair."""
    ops = inner.op, outer.op
    if not set(ops) <= {"Squeeze", "Unsqueeze"}:
        return None
    a, b = option(inner, "axes", 1), option(outer, "axes", 1)
    if not a or not b:
        return None
    between = inner.output.rank
    first = _front(a, x.rank if inner.op == "Squeeze" else between)
    second = _front(b, between if outer.op == "Squeeze" else None if between is None else between + len(b))
    if first is None or second is None:
        return None
    if ops[0] != ops[1]:
        return () if set(first) == set(second) else None
    if outer.op == "Squeeze":
        left = [axis for axis in range(len(first) + max(second) + 1) if axis not in first]
        return tuple(sorted([*first, *(left[axis] for axis in second)]))
    left = [axis for axis in range(len(second) + max(first) + 1) if axis not in second]
    return tuple(sorted([*second, *(left[axis] for axis in first)]))


def _front(axes: tuple[int, ...], rank: int | None) -> tuple[int, ...] | None:
    """Axes counted from the front: as they are, where none is negative."""
    return tuple(axes) if min(axes) >= 0 else normalize(axes, rank)
