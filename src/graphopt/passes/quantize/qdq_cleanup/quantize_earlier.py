"""Q(f(x))   ==   f(Q(x))     for an f that only picks or orders elements, or takes the largest

Where x is made of dequantized data, its operator and the Q become one kernel on integers, and f moves a quarter of the
bytes. Q never falls as x grows (division by s > 0, rounding and saturation never do), so it commutes with the largest
of a window; what pads a window is below every element in both types.

Guards: x is float32 and is made, perhaps through a Relu or Clip, by an operator whose first operand is dequantized;
one scale, 8 bits; nothing else reads x or f(x); MaxPool as in requantize-moved. Of a NaN, which Q may turn into any
integer, MaxPool may then choose another element.
"""

from graphopt.passes.quantize._grid import grid_of
from graphopt.passes.quantize.qdq_cleanup._moves import FEWER, RUNTIME, SAME_SIZE, is_float, why_not
from graphopt.rewrite import Builder, Match, P, maybe, one_of, refuse, rest, rule
from graphopt.rewrite.rule import Outcome

COMPUTES = "Conv ConvTranspose Gemm MatMul Add Sub Mul AveragePool GlobalAveragePool Sigmoid LeakyRelu".split()
SOURCE = P.op(*COMPUTES)(P.DequantizeLinear("a", "sa", maybe("za")).shared(), rest("operands")).as_("source").ordered()
MADE = one_of(SOURCE, P.op("Relu", "Clip")(SOURCE, rest("bounds")))
MOVED = P.op(*SAME_SIZE, *FEWER)(MADE, rest("more")).as_("move")


@rule(
    "quantize-earlier",
    P.QuantizeLinear(MOVED, "s", maybe("z")).as_("quantize"),
    opset=">=10",
    targets=RUNTIME,
    measure="order",
)
def quantize_earlier(m: Match, new: Builder) -> Outcome:
    """Quantizes the result of an operator on quantized data before it is moved."""
    grid, data = grid_of(m.quantize), m.move.inputs[0]
    if grid is None:
        return None
    reason = why_not(m.move, grid)
    if reason:
        return refuse(reason)
    if not is_float(data):
        return refuse("what is moved is not float32")
    codes = new.QuantizeLinear(data, m.s, m.z, like=m.quantize, axis=None)
    return new.make(m.move.op, codes, *m.more, like=m.move)
