"""Transpose(DequantizeLinear(q, s, z, axis))   ==   DequantizeLinear(q^T, s', z', 1 - axis)     for a constant matrix q

The scale stays as it is, per tensor or per channel; in blocks it has the weight's rank and is transposed with it.

Guards: constants of rank 2, perm=[1, 0], the dequantized weight read by the Transpose alone.
"""

from graphopt.ir import Value
from graphopt.rewrite import Builder, Match, P, const, maybe, rule
from graphopt.rewrite.rule import Outcome

TRANSPOSED = P.Transpose(P.DequantizeLinear(const("q"), const("s"), maybe(const("z"))).as_("dequantize"))


@rule("transpose-dequantize", TRANSPOSED)
def transpose_dequantize(m: Match, new: Builder) -> Outcome:
    """Transposes a quantized weight where it is stored."""
    if m.q.rank != 2 or list(m.root.attr("perm", None) or (1, 0)) != [1, 0] or m.s.rank is None:
        return None
    axis = m.dequantize.attr("axis") if new.graph.opset() >= 13 else None
    if axis is not None and m.s.rank > 0:
        axis = 1 - axis % 2
    parts = [_transposed(m.q, new), *(_transposed(v, new) if v is not None and v.rank == 2 else v for v in (m.s, m.z))]
    return new.DequantizeLinear(*parts, like=m.dequantize, axis=axis if m.s.rank else None)


def _transposed(value: Value, new: Builder) -> Value:
    return new.graph.constant(value.numpy().T, value.name, value.dtype)
