"""Q(Relu(x))   ==   Q(x)     where the zero point is the type's least integer;
Q(Clip(x, low, high))   ==   Q(x)     where Q(low) and Q(high) are the type's least and largest integer

Q never falls as x grows, so Q(Clip(x, low, high)) is Q(x) cut off at Q(low) and Q(high), which it already is: Q
saturates. Relu is a Clip at 0, and Q(0) is the zero point. Q(-0) == Q(0).

Guards: one scale; low / s and high / s stay a quarter away from where rounding would leave the last integer, so that it
does not matter how a runtime divides; low <= high, both constant. Of a NaN: Q of it is any integer, as it was before
if Relu and Clip pass it on.
"""

import numpy as np

from graphopt.ir import Node, Value
from graphopt.passes.quantize._grid import Grid, grid_of
from graphopt.rewrite import Builder, Match, P, maybe, refuse, rest, rule
from graphopt.rewrite.rule import Outcome

CUT = P.op("Relu", "Clip")("x", rest("bounds")).as_("cut")
MARGIN = 0.25


@rule("eliminate-clip-quantize", P.QuantizeLinear(CUT, "s", maybe("z")).as_("quantize"))
def eliminate_clip_quantize(m: Match, new: Builder) -> Outcome:
    """Removes a Relu or Clip that the saturation of a QuantizeLinear makes up for."""
    grid = grid_of(m.quantize)
    if grid is None or not grid.is_single:
        return refuse("no single constant scale and zero point")
    bounds = cut_of(m.cut, m.bounds)
    if bounds is None or not bounds[0] <= bounds[1]:
        return refuse("the bounds are not constants in order")
    if not _saturates(grid, *bounds):
        return refuse("the integers go on beyond the bounds")
    return new.QuantizeLinear(m.x, m.s, m.z, like=m.quantize)


def cut_of(node: Node, bounds: tuple[Value | None, ...]) -> tuple[float, float] | None:
    """The least and the largest number that a Relu or Clip lets through; None where they are not constant."""
    if node.op == "Relu":
        return 0.0, float("inf")
    if node.graph.opset() < 11:
        return float(node.attr("min", -np.inf)), float(node.attr("max", np.inf))
    found = [-np.inf, np.inf]
    for slot, value in enumerate(bounds[:2]):
        if value is None:
            continue
        if not value.is_const or value.numpy().size != 1:
            return None
        found[slot] = float(value.numpy().reshape(()))
    return found[0], found[1]


def _saturates(grid: Grid, low: float, high: float) -> bool:
    """Whether Q gives its least integer at `low`, and its largest at `high`."""
    least, most = grid.codes
    scale, zero = float(grid.scale), int(grid.zero)
    return low / scale <= least - zero + MARGIN and high / scale >= most - zero - MARGIN
