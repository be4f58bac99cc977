"""Mul(Div(1, x), z)   ==   Mul(Reshape(Div(1, x), its own dims), z)   where ONNX Runtime's Div(z, x) is not the same

ONNX Runtime (1.31, DivMulFusion) makes a quotient of a product with a reciprocal. In integers that is another number,
as 1 / x rounds; and where the 1 has more dims than x and z, the result loses them.

Guards: a constant 1 of one element; the quotient is read by the Mul alone; integers, or a 1 whose rank is larger than
those of x and z (or than what is known of them).
"""

from onnx import TensorProto

from graphopt.passes.runtime._apart import apart
from graphopt.rewrite import Builder, Match, P, const, rule
from graphopt.rewrite.rule import Outcome

RECIPROCAL = P.Mul(P.Div(const("one"), "x").as_("quotient"), "z").as_("mul")
_INTEGERS = (TensorProto.INT32, TensorProto.INT64)


@rule("avoid-reciprocal", RECIPROCAL, targets=["onnx", "onnxruntime"], measure="order")
def avoid_reciprocal(m: Match, new: Builder) -> Outcome:
    """Keeps ONNX Runtime from dividing where a rounded or a wider reciprocal is multiplied."""
    one = m.one.numpy()
    if one.size != 1 or one.reshape(()) != 1:
        return None
    ranks = (m.x.rank, m.z.rank)
    widens = one.ndim > 0 and (None in ranks or one.ndim > max(rank or 0 for rank in ranks))
    if m.one.dtype not in _INTEGERS and not widens:
        return None
    return new.Mul(apart(m.quotient.output, new), m.z, like=m.mul)
