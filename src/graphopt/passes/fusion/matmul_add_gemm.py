"""a b + t   ==   gemm(a, b, t).

Guards: a and b proven to be matrices (with more dims the runtime fuses MatMul and Add itself, and a Gemm would need
Reshapes around it); t constant, and no larger than the product; floating-point numbers, in a dtype that Gemm has in
this opset; no operand dequantized (the runtime recognises DequantizeLinear, MatMul); the product read by nothing
else.
"""

from __future__ import annotations

from onnx import TensorProto

from graphopt.ir import Shape
from graphopt.passes.fusion._affine import FLOATS
from graphopt.rewrite import Builder, Match, P, const, refuse, rule
from graphopt.rewrite.rule import Outcome

ADD = P.Add(P.MatMul("a", "b").as_("matmul"), const("t"))


def gemm_has(dtype: int | None, opset: int) -> bool:
    """Whether Gemm takes a floating-point dtype in an opset of the default domain."""
    return dtype in FLOATS and (dtype != TensorProto.BFLOAT16 or opset >= 13)


def fits_into(shape: tuple[int, ...], target: Shape) -> bool:
    """Whether a constant of this shape broadcasts to target (whose dims may be unknown) without enlarging it."""
    if len(shape) > len(target):
        return False
    return all(dim in (1, other) for dim, other in zip(reversed(shape), reversed(target), strict=False))


@rule("fuse-matmul-add-gemm", ADD, opset=">=7")
def fuse_matmul_add_gemm(m: Match, new: Builder) -> Outcome:
    if m.a.shape is None or m.b.shape is None:
        return refuse("the operands are not proven to be matrices")
    if len(m.a.shape) != 2 or len(m.b.shape) != 2:
        return refuse("the product is no matrix: the runtime fuses MatMul and Add of that kind itself")
    if not gemm_has(m.t.dtype, new.graph.opset()):
        return refuse("Gemm does not have this dtype in this opset")
    if not fits_into(m.t.numpy().shape, (m.a.shape[0], m.b.shape[1])):
        return refuse("the constant is not proven to leave the shape of the product as it is")
    if any(v.producer is not None and v.producer.op == "DequantizeLinear" for v in (m.a, m.b)):
        return refuse("an operand is dequantized here: the runtime recognises that in front of MatMul")
    return new.Gemm(m.a, m.b, m.t, name=m.matmul.label)
