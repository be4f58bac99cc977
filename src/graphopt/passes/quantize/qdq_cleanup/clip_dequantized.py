"""Relu(DQ(q))   ==   DQ(q)     where the zero point is the type's least integer;
Clip(DQ(q), low, high)   ==   DQ(q)     where low and high lie outside of what DQ can give

Guards: one scale; low <= s * (least - z) and s * (most - z) <= high, the products rounded as DQ rounds them, low and
high constant. There is no NaN, and no -0, among what DQ gives. The DQ may have other readers.
"""

import numpy as np

from graphopt.passes.quantize._grid import grid_of
from graphopt.passes.quantize.qdq_cleanup.clip_quantize import cut_of
from graphopt.rewrite import Builder, Match, P, maybe, refuse, rest, rule
from graphopt.rewrite.rule import Outcome

DEQUANTIZED = P.DequantizeLinear("q", "s", maybe("z")).as_("dequantize").shared()


@rule("eliminate-clip-dequantized", P.op("Relu", "Clip")(DEQUANTIZED, rest("bounds")).as_("cut"))
def eliminate_clip_dequantized(m: Match, new: Builder) -> Outcome:
    """Removes a Relu or Clip of what cannot lie outside of it."""
    grid, bounds = grid_of(m.dequantize), cut_of(m.cut, m.bounds)
    if grid is None or not grid.is_single or bounds is None:
        return refuse("no single constant scale and zero point, or bounds that are not constant")
    least, most = (float(np.float32(code - int(grid.zero)) * np.float32(grid.scale)) for code in grid.codes)
    if not (bounds[0] <= least and most <= bounds[1]):
        return refuse("it cuts something off")
    return m.dequantize.output
