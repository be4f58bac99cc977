"""Concat(DQ(a), DQ(b), ...)   ==   DQ(Concat(a, b, ...))     on one grid

Guards: all operands dequantized with one and the same single scale and zero point, 8 bits; at most one of these DQs has
other readers (each of those stays, so that nothing would be saved).
"""

from graphopt.passes.quantize._grid import BITS8
from graphopt.passes.quantize.qdq_cleanup._moves import NOT_8_BITS, PER_CHANNEL, RUNTIME, common_grid
from graphopt.rewrite import Builder, Match, P, maybe, refuse, rest, rule
from graphopt.rewrite.rule import Outcome

FIRST = P.DequantizeLinear("a", "s", maybe("z")).as_("first").shared()
ALIKE = P.DequantizeLinear("b", "s", maybe("z")).shared()
OTHER = P.DequantizeLinear("b", "s2", maybe("z2")).shared()


@rule(
    "concat-dequantized",
    P.Concat(FIRST, ALIKE, rest("more")).as_("concat"),
    P.Concat(FIRST, OTHER, rest("more")).as_("concat"),
    opset=">=10",
    targets=RUNTIME,
)
def concat_dequantized(m: Match, new: Builder) -> Outcome:
    """Joins integers, and dequantizes the result once."""
    parts = [part for part in m.concat.inputs if part is not None]
    grid = common_grid(parts)
    if grid is None:
        return refuse("not all operands are dequantized, or with different scales, zero points or types")
    if not grid.is_single or grid.dtype not in BITS8:
        return refuse(NOT_8_BITS if grid.is_single else PER_CHANNEL)
    kept = [p for p in dict.fromkeys(parts) if len(p.users) > 1 or p.is_output]
    if len(kept) > 1:
        return refuse("the dequantized operands have other readers")
    codes = [part.producer.inputs[0] for part in parts if part.producer is not None]
    return new.DequantizeLinear(new.Concat(*codes, like=m.concat), *m.first.inputs[1:], like=m.first, axis=None)
