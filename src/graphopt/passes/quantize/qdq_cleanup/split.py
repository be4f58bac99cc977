"""Split(DQ(q))   ==   DQ of each part of Split(q)

As many numbers are dequantized as before, each part next to what computes with it, which a runtime then does in
integers, and a quarter of the bytes are split.

Guards: one scale, 8 bits; the DQ has no other reader.
"""

from graphopt.passes.quantize._grid import BITS8, grid_of
from graphopt.passes.quantize.qdq_cleanup._moves import NOT_8_BITS, PER_CHANNEL, RUNTIME
from graphopt.rewrite import Builder, Match, P, maybe, refuse, rest, rule
from graphopt.rewrite.rule import Outcome

DEQUANTIZED = P.DequantizeLinear("q", "s", maybe("z")).as_("dequantize")


@rule(
    "split-dequantized",
    P.Split(DEQUANTIZED, rest("sizes")).as_("split").binding("y"),
    opset=">=10",
    targets=RUNTIME,
    measure="order",
)
def split_dequantized(m: Match, new: Builder) -> Outcome:
    """Splits integers instead of the numbers that they stand for."""
    grid = grid_of(m.dequantize)
    if grid is None or len(m.split.outputs) < 2:
        return None
    if not grid.is_single or grid.dtype not in BITS8:
        return refuse(NOT_8_BITS if grid.is_single else PER_CHANNEL)
    parts = new.make("Split", m.q, *m.sizes, like=m.split, n_out=len(m.split.outputs))
    return tuple(new.DequantizeLinear(part, m.s, m.z, like=m.dequantize, axis=None) for part in parts)
