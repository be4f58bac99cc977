"""(x W1) W2   ==   x (W1 W2)

Two products with constant matrices are one, when that takes fewer multiplications: with W1 of k rows and m columns and
W2 of m rows and n columns, each row of x costs k n instead of k m + m n. A bottleneck (m small) is left as it is.

Exact in real arithmetic; W1 W2 is computed in float64 and rounded once to the weights' dtype. Try it with

    graphopt optimize model.onnx --fast-math --load passes/experiments/merge_matmul_weights.py

Only with fast_math, as infinities of both signs that meet in x W1 are NaN, and may not meet in x (W1 W2). (The built-in
`collapse-matmul-chain` does this, and more.)
"""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from graphopt import refuse, rule
from graphopt.ir import Value
from graphopt.rewrite import Builder, Match, P, Refusal, const

FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)


@rule("merge-matmul-weights", P.MatMul(P.MatMul("x", const("w1")), const("w2")), measure="flops")
def merge_matmul_weights(m: Match, new: Builder) -> Value | Refusal | None:
    """(x W1) W2 == x (W1 W2), when that takes fewer multiplications."""
    if m.x.is_const:
        return None  # constant folding does this, and more
    if m.w1.dtype not in FLOATS:
        return refuse("the weights are not floating-point numbers")
    if m.w1.rank != 2 or m.w2.rank != 2:
        return refuse("a weight is not a matrix")
    if not m.x.graph.model.fast_math:
        return refuse("an infinite operand could give NaN where this gives infinity; fast_math=True allows it")
    (k, inner), n = m.w1.shape, m.w2.shape[1]
    if k * n >= k * inner + inner * n:
        return refuse(f"one product of {k} x {n} costs no less than two through {inner} columns")
    if len(m.w1.users) > 1 or len(m.w2.users) > 1:
        return refuse("other nodes read the weights, so that the file would grow")
    with np.errstate(over="ignore", invalid="ignore"):
        merged = (m.w1.numpy().astype(np.float64) @ m.w2.numpy().astype(np.float64)).astype(m.w1.numpy().dtype)
    if not np.isfinite(merged.astype(np.float64)).all():
        return refuse("the merged weight overflows, or the weights hold NaN or infinity")
    result: Value = new.MatMul(m.x, new.constant(merged, like=m.w1), like=m.root, type_of=m.root.output)
    return result
