"""x*1, x/1, x^1, x+0, x-0, and(x, true), or(x, false), xor(x, false), x|0, x^0, x<<0   ==   x.

Guards: broadcasting against the constant must leave the shape of x as it is; the constant may be any tensor of ones or
zeros. Zeros of floats have a sign: x + (-0) and x - (+0) are x, but -0 + (+0) is +0, so that adding +0 is refused, and
so is subtracting -0. From opset 7 on: before, broadcasting had attributes of its own.
"""

from __future__ import annotations

import numpy as np

from graphopt.ir import Node, Value
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
    if not fits_into(constant, m.x) or not filled_with(constant, NEUTRAL[node.op]):
        return None
    if node.op in ("Add", "Sub") and not _keeps_zeros(node, constant):
        return refuse("it turns -0 into +0")
    return m.x


def _keeps_zeros(node: Node, zeros: Value) -> bool:
    if zeros.dtype in INTEGERS:
        return True
    signs = np.signbit(zeros.numpy().astype(np.float32))
    return bool(signs.all()) if node.op == "Add" else not signs.any()
