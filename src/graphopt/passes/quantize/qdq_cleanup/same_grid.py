"""Q(DQ(q, s, z), s, z)   ==   q

q - z is at most 2^16, so s * (q - z) and its quotient by s are each off by a factor of at most 1 + 2^-24: the quotient
lies within 2^-7 of q - z, and rounds to it.

Guards: equal scales and zero points, constant, and of one integer type of 8 or 16 bits; scales of float32, normal and
so small that no product overflows; no blocks. The DQ may have other readers.
"""

from graphopt.passes.quantize._grid import grid_of
from graphopt.rewrite import Builder, Match, P, maybe, refuse, rule
from graphopt.rewrite.rule import Outcome

DEQUANTIZED = P.DequantizeLinear("q", "s", maybe("z")).as_("dequantize").shared()


@rule("eliminate-requantize", P.QuantizeLinear(DEQUANTIZED, "s2", maybe("z2")).as_("quantize"))
def eliminate_requantize(m: Match, new: Builder) -> Outcome:
    """Removes a quantization of what is on its grid already."""
    before, after = grid_of(m.dequantize), grid_of(m.quantize)
    if before is None or after is None:
        return refuse("scale or zero point are not constants for which rounding is sure to come back")
    if not before.same(after):
        return refuse("the two have different scales, zero points or types")
    return m.q
