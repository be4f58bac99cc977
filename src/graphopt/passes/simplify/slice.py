"""Slice(x) that takes every element   ==   x;  Slice(Slice(x, a), b)   ==   Slice(x, a and b).

All is taken where each step is 1 and the result certainly has the shape of x, or each start is 0 (or so negative that
it means 0) and each end is the dim, or at least 2^31 - 1.

Two slices merge if they cut different axes; or the same axis with steps of 1 and starts and ends that count from the
front, where the sum of the starts and the nearer end do the same, whatever the size (a slice stops at the border); what
counts from the end of a dim of known size is taken from the front.
Guards: starts, ends, axes and steps must be constant; the inner slice is read by nothing else.
"""

from __future__ import annotations

from graphopt.analysis.shapes import shapes_of
from graphopt.ir import Node, Value
from graphopt.passes.simplify._facts import option, same_shape, vector
from graphopt.rewrite import Builder, Match, P, refuse, rest, rule
from graphopt.rewrite.rule import Outcome

FAR = 2**31 - 1  # an end at least this far means "all": no dim is longer

Cut = tuple[int, int, int]  # start, end, step


def cuts_of(node: Node, x: Value) -> dict[int, Cut] | None:
    """What is cut from each axis; None where that is not constant, or an axis may be named twice."""
    starts, ends = option(node, "starts", 1), option(node, "ends", 2)
    axes, steps = option(node, "axes", 3), option(node, "steps", 4)
    if starts is None or ends is None or axes is None or steps is None or not starts or len(starts) != len(ends):
        return None
    axes = axes or tuple(range(len(starts)))
    steps = steps or (1,) * len(starts)
    if min(axes) < 0:
        if x.rank is None:
            return None
        axes = tuple(axis + x.rank if axis < 0 else axis for axis in axes)
    if not len(starts) == len(axes) == len(steps) == len(set(axes)):
        return None
    return dict(zip(axes, zip(starts, ends, steps, strict=True), strict=True))


def _takes_all(cut: Cut, size: int | None) -> bool:
    start, end, step = cut
    first = start == 0 or (size is not None and start <= -size)
    return step == 1 and first and (end >= FAR or (size is not None and end >= size))


@rule("eliminate-slice", P.Slice("x", rest("operands")).as_("node"))
def eliminate_slice(m: Match, new: Builder) -> Outcome:
    """Removes a Slice that takes every element."""
    cuts, shape = cuts_of(m.node, m.x), m.x.shape or ()
    sizes = {axis: size for axis, size in enumerate(shape) if isinstance(size, int)}
    if cuts is not None and all(_takes_all(cut, sizes.get(axis)) for axis, cut in cuts.items()):
        return m.x
    steps = option(m.node, "steps", 4)
    if steps is None or any(step != 1 for step in steps) or (cuts is not None and shape != m.node.output.shape):
        return None
    return m.x if same_shape(m.x, m.node.output) else None


@rule("compose-slices", P.Slice(P.Slice("x", rest("a")).as_("inner"), rest("b")).as_("outer"))
def compose_slices(m: Match, new: Builder) -> Outcome:
    """Merges two Slices."""
    first, second = cuts_of(m.inner, m.x), cuts_of(m.outer, m.x)
    if first is None or second is None:
        return refuse("what is cut is not constant")
    cuts = dict(first)
    for axis, cut in second.items():
        if axis not in cuts:
            cuts[axis] = cut
            continue
        both = _both(_from_front(cuts[axis], m.x, axis), _from_front(cut, m.inner.output, axis))
        if both is None:
            return refuse("both cut the same axis, counting from its end or with steps")
        cuts[axis] = both
    return make_slice(new, m.x, cuts, m.outer)


def _from_front(cut: Cut, value: Value, axis: int) -> Cut:
    """The same cut with a start and an end that count from the front, where the size of the dim is a number."""
    if cut[2] != 1 or min(cut[:2]) >= 0:
        return cut
    size = shapes_of(value).dim(value, axis)
    if not isinstance(size, int):
        return cut
    start, end, _ = slice(cut[0], cut[1], 1).indices(size)
    return start, max(start, end), 1


def _both(a: Cut, b: Cut) -> Cut | None:
    if a[2] != 1 or b[2] != 1 or min(a[:2] + b[:2]) < 0:
        return None
    return a[0] + b[0], min(a[1], a[0] + b[1], 2**63 - 1), 1


def make_slice(new: Builder, x: Value, cuts: dict[int, Cut], like: Node) -> Value:
    """A Slice in the form that the model's opset has."""
    axes = sorted(cuts)
    starts, ends, steps = ([cuts[axis][part] for axis in axes] for part in range(3))
    if like.graph.opset() < 10:
        return new.make("Slice", x, like=like, starts=starts, ends=ends, axes=axes)
    operands = [new.constant(vector(numbers), hint) for numbers, hint in ((starts, "starts"), (ends, "ends"))]
    operands.append(new.constant(vector(axes), "axes"))
    if any(step != 1 for step in steps):
        operands.append(new.constant(vector(steps), "steps"))
    return new.make("Slice", x, *operands, like=like)
