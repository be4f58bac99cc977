"""BatchNormalization(x, ...)   ==   BatchNormalization(Max(x), ...)   some steps behind a MatMul whose columns x lost

ONNX Runtime (1.31, MatMul_BatchNormalization_Fusion) works a BatchNormalization into the columns of a constant weight,
through any Reshape and Transpose in between. It looks at the number of channels, not at where the columns went: when
the channels are another axis of the same size, the wrong ones are scaled.

Guards: in inference; constant parameters; one to three nodes in between, each read by the next alone; as many channels
as columns. Not where the columns are the channels for certain: after Transposes that move them to axis 1, or a Reshape
that keeps them last.
"""

from onnx import TensorProto

from graphopt.ir import Node
from graphopt.rewrite import Builder, Match, P, const, rule
from graphopt.rewrite.pattern import one_of, rest
from graphopt.rewrite.rule import Outcome

MOVE = P.op("Reshape", "Transpose")
PRODUCT = P.MatMul("a", const("w")).as_("product")
ONE = MOVE(PRODUCT, rest("s1")).as_("move1")
TWO = MOVE(MOVE(PRODUCT, rest("s1")).as_("move1"), rest("s2")).as_("move2")
THREE = MOVE(MOVE(MOVE(PRODUCT, rest("s1")).as_("move1"), rest("s2")).as_("move2"), rest("s3")).as_("move3")
MOVED = one_of(ONE, TWO, THREE)
NORM = P.BatchNormalization(MOVED, const("g"), const("b"), const("mean"), const("var")).as_("norm")


@rule("avoid-matmul-norm", NORM, targets=["onnx", "onnxruntime"], measure="order")
def avoid_matmul_norm(m: Match, new: Builder) -> Outcome:
    """Keeps ONNX Runtime from scaling the columns of a MatMul where other channels are normalized."""
    if not m.w.shape or not m.g.shape or m.w.shape[-1] != m.g.shape[0]:
        return None
    if m.norm.attr("training_mode", 0) or (new.graph.opset() < 8 and m.g.dtype != TensorProto.FLOAT):
        return None  # not fused; no kernel for Max
    path = [node for node in (m.product, m.get("move1"), m.get("move2"), m.get("move3")) if node is not None]
    if _columns(path) == 1:
        return None
    moved = path[-1].output
    return new.BatchNormalization(new.Max(moved, type_of=moved), m.g, m.b, m.mean, m.var, like=m.norm)


def _columns(path: list[Node]) -> int | None:
    """The axis that the columns of the MatMul at the start of `path` are at in its end; None for nobody knows."""
    rank = path[0].output.rank
    if rank is None:
        return None
    axis = rank - 1
    for node in path[1:]:
        if node.op == "Transpose":
            order = node.attr("perm") or list(range(rank))[::-1]
            axis, rank = list(order).index(axis), len(order)
            continue
        before, after = node.inputs[0].shape if node.inputs[0] is not None else None, node.output.shape
        if not before or not after or axis != rank - 1 or before[-1] != after[-1] or not isinstance(after[-1], int):
            return None
        rank = len(after)
        axis = rank - 1
    return axis
