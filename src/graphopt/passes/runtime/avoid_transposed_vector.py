"""MatMul(Transpose(x), v)   ==   MatMul(v, x)   for a vector v and a Transpose of the last two axes

ONNX Runtime (1.31, MatmulTransposeFusion) takes the Transpose into the product, and gets that wrong when the other
operand is a vector: it multiplies x, read as if it had the other shape. So it does with a Cast in between, and
(MatMulScaleFusion) with a product with one number. The vector in front gives the same sums, and no Transpose is left.

Guards: v has one axis; the Transpose swaps the last two axes and nothing else, with a Cast or a product or quotient
with one number behind it at the most.
"""

from graphopt.ir import Node, Value
from graphopt.rewrite import Builder, Match, P, const, rule
from graphopt.rewrite.pattern import one_of
from graphopt.rewrite.rule import Outcome

TURNED = P.Transpose("x").shared().as_("turn")
CAST = P.Cast(TURNED).shared().as_("cast")
SCALED = one_of(
    P.Mul(TURNED, const("k")).shared().as_("scale"), P.Div(TURNED, const("k")).ordered().shared().as_("scale")
)
PRODUCT = P.MatMul(one_of(TURNED, CAST, SCALED), "v").as_("product")


@rule("avoid-transposed-vector", PRODUCT, targets=["onnx", "onnxruntime"], measure="order")
def avoid_transposed_vector(m: Match, new: Builder) -> Outcome:
    """Puts the vector in front of a matrix that ONNX Runtime would transpose wrongly."""
    if m.v.rank != 1 or not _swaps_last(m.turn, m.x):
        return None
    matrix: Value = m.x
    cast, scale = m.get("cast"), m.get("scale")
    if cast is not None:
        matrix = new.Cast(matrix, like=cast)
    elif scale is not None:
        if m.k.numpy().size != 1 or m.k.numpy().ndim > m.x.rank:
            return None
        matrix = new.make(scale.op, matrix, m.k, like=scale)
    return new.MatMul(m.v, matrix, like=m.product)


def _swaps_last(turn: Node, x: Value) -> bool:
    rank = x.rank
    if rank is None or rank < 2:
        return False
    order = turn.attr("perm") or list(range(rank))[::-1]
    return list(order) == [*range(rank - 2), rank - 1, rank - 2]
