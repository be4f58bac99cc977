"""x*1, x/1, x^1, x+0, x-0, and(x, true), or(x, false), xor(x, false), x|0, x^0, x<<0   ==   x
x / c   ==   x * (1 / c)   for powers of two

Guards of the first: broadcasting against the constant must leave the shape of x as it is; the constant may be any
tensor of ones or zeros. Zeros of floats have a sign: x + (-0) and x - (+0) are x, but -0 + (+0) is +0, so that adding
+0 is refused, and so is subtracting -0. From opset 7 on: before, broadcasting had attributes of its own.

The second is exact: 1 / c has no rounding, and so both round the same number. ORT 1.31, one thread: 1.25 times as fast.
Guards: floating point; every element of c a power of two (of any sign) whose reciprocal is a normal number, or under
fast_math=True any number like that; not next to a product of matrices, of which the runtime makes one scaled product,
or an attention whose spelling has a Div; not the divisor of a written-out activation or normalization (see
fusion/_keep.py); c is read by nothing else, or small.
"""

from __future__ import annotations

import numpy as np

from graphopt.ir import NDArray, Node, Value
from graphopt.passes.fusion._affine import FLOATS
from graphopt.passes.fusion._keep import reason_to_stay
from graphopt.passes.recognition._norms import is_normalized
from graphopt.passes.simplify._facts import INTEGERS, filled_with, fits_into
from graphopt.rewrite import Builder, Match, P, const, refuse, rule
from graphopt.rewrite.rule import Outcome

NEUTRAL = {
    "Add": 0,
    "And": 1,
    "BitShift": 0,
    "BitwiseOr": 0,
    "BitwiseXor": 0,
    "Div": 1,
    "Mul": 1,
    "Or": 0,
    "Pow": 1,
    "Sub": 0,
    "Xor": 0,
}


@rule("eliminate-neutral", P.op(*NEUTRAL)("x", const("c")).as_("node"), opset=">=7")
def eliminate_neutral(m: Match, new: Builder) -> Outcome:
    node, constant = m.node, m.c
    if not filled_with(constant, NEUTRAL[node.op]) or not fits_into(constant, m.x):
        return None
    if node.op in ("Add", "Sub") and not _keeps_zeros(node, constant):
        return refuse("it turns -0 into +0")
    if node.op == "Mul" and is_normalized(m.x):
        return refuse("ONNX Runtime knows a normalization written out by the scale behind it, be it of ones")
    return m.x


def _keeps_zeros(node: Node, zeros: Value) -> bool:
    if zeros.dtype in INTEGERS:
        return True
    signs = np.signbit(zeros.numpy().astype(np.float32))
    return bool(signs.all()) if node.op == "Add" else not signs.any()


_PRODUCTS = frozenset({"Gemm", "MatMul"})
_NORMAL = {2: (6.2e-5, 6.5e4), 4: (1.2e-38, 3.4e38), 8: (2.3e-308, 1.7e308)}  # by bytes of an element
_SMALL = 32 << 10  # bytes


@rule("multiply-by-reciprocal", P.Div("x", const("c")), opset=">=7", measure="order")
def multiply_by_reciprocal(m: Match, new: Builder) -> Outcome:
    """x / c == x * (1 / c) for a power of two"""
    if m.c.dtype not in FLOATS or m.x.is_const or not m.c.numpy().size:
        return None
    source = m.x.producer
    if (source is not None and source.op in _PRODUCTS) or any(node.op in _PRODUCTS for node in m.root.output.users):
        return refuse("the runtime takes it into the product of matrices next to it as it is")
    if (source is not None and source.op == "Clip") or any(node.op == "Erf" for node in m.root.output.users):
        return refuse("the constant is part of an activation written out, which is worth more when recognised as one")
    reason = reason_to_stay(m.root, m.x, m.c)
    if reason:
        return refuse(reason)
    if m.c.numpy().nbytes > _SMALL and m.c.outs + sum(m.c.users.values()) > 1:
        return refuse("others read the constant, too, and a second one would make the file larger")
    inverse = _inverse(m.c.numpy())
    if inverse is None:
        return refuse("a reciprocal is zero, infinite, or among the subnormals, which have few digits")
    if not new.graph.model.fast_math and (np.abs(np.frexp(inverse)[0]) != 0.5).any():
        return refuse("the constant is no power of two, so that its reciprocal is rounded; fast_math=True allows it")
    return new.Mul(m.x, new.constant(inverse, like=m.c), name=m.root.label)


def _inverse(divisor: NDArray) -> NDArray | None:
    """1 / divisor in float64, where neither is out of the range in which their type has all its digits."""
    with np.errstate(all="ignore"):
        inverse: NDArray = np.asarray(1.0 / divisor.astype(np.float64))
    low, high = _NORMAL[divisor.dtype.itemsize]
    sizes = np.abs(inverse)
    return inverse if bool(((sizes >= low) & (sizes <= high)).all()) else None
