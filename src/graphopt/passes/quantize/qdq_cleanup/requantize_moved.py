"""Q(f(DQ(q)))   ==   f(q)     for an f that picks, orders or repeats elements, or takes the largest, on one grid

f commutes with DQ as it computes nothing, and Q(DQ(q)) == q. MaxPool commutes with a function that never falls, and
s * (q - z) is one for s > 0; what pads it is below every element in both types.

Guards: one and the same grid (single scale) on both sides, 8 bits; MaxPool: no indices, no window that may lie in the
padding alone; Resize: nearest.
"""

from graphopt.passes.quantize._grid import grid_of
from graphopt.passes.quantize.qdq_cleanup._moves import FEWER, MORE, RUNTIME, SAME_SIZE, why_not
from graphopt.rewrite import Builder, Match, P, maybe, refuse, rest, rule
from graphopt.rewrite.rule import Outcome

DEQUANTIZED = P.DequantizeLinear("q", "s", maybe("z")).as_("dequantize").shared()
MOVED = P.op(*SAME_SIZE, *FEWER, *MORE)(DEQUANTIZED, rest("more")).as_("move")


@rule(
    "requantize-moved",
    P.QuantizeLinear(MOVED, "s", maybe("z")).as_("quantize"),
    P.QuantizeLinear(MOVED, "s2", maybe("z2")).as_("quantize"),
    opset=">=10",
    targets=RUNTIME,
)
def requantize_moved(m: Match, new: Builder) -> Outcome:
    """Moves data as integers where it was dequantized only to be moved."""
    before, after = grid_of(m.dequantize), grid_of(m.quantize)
    if before is None or after is None or not before.same(after):
        return refuse("the data is quantized again with another scale, zero point or type")
    reason = why_not(m.move, before)
    if reason:
        return refuse(reason)
    return new.make(m.move.op, m.q, *m.more, like=m.move)
