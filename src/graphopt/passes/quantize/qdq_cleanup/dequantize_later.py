"""f(DQ(q))   ==   DQ(f(q))     for an f that only picks or orders elements, or takes the largest

A quarter of the bytes are moved, and the DQ comes next to what computes, which a runtime then does in integers.

Guards: one scale, 8 bits; the DQ has no other reader; MaxPool and Resize as in requantize-moved; f does not stand
between a DQ and a Q only to keep them apart (see avoid-qdq-merge); and not where a Q follows, which runs on integers
anyway and belongs to what follows that.
"""

from graphopt.passes.quantize._grid import grid_of
from graphopt.passes.quantize.qdq_cleanup._moves import FEWER, RUNTIME, SAME_SIZE, why_not
from graphopt.rewrite import Builder, Match, P, maybe, refuse, rest, rule
from graphopt.rewrite.rule import Outcome

DEQUANTIZED = P.DequantizeLinear("q", "s", maybe("z")).as_("dequantize")
MOVED = P.op(*SAME_SIZE, *FEWER)(DEQUANTIZED, rest("more")).as_("move")


@rule("dequantize-later", MOVED, opset=">=10", targets=RUNTIME, measure="order")
def dequantize_later(m: Match, new: Builder) -> Outcome:
    """Moves data as integers and dequantizes it afterwards."""
    grid = grid_of(m.dequantize)
    if grid is None or any(reader.op == "QuantizeLinear" for reader in m.move.output.users):
        return None
    reason = why_not(m.move, grid)
    if reason:
        return refuse(reason)
    return new.DequantizeLinear(new.make(m.move.op, m.q, *m.more, like=m.move), m.s, m.z, like=m.dequantize, axis=None)
