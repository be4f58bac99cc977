"""gemm(transpose(a), B, C)   ==   gemm(a, B, C) with transA flipped; the same for B.

Exact: Gemm reads its operands either way round. Guards: none beyond the match (both operands of Gemm are matrices, so
any Transpose of them but the identity swaps the two axes); the transposed value is read by nothing else.
"""

from __future__ import annotations

from graphopt.rewrite import Builder, Match, P, maybe, rule
from graphopt.rewrite.rule import Outcome

TRANSPOSE = P.Transpose("t").as_("transpose")


@rule(
    "fuse-transpose-gemm",
    P.Gemm(TRANSPOSE, "other", maybe("c")).as_("first"),
    P.Gemm("other", TRANSPOSE, maybe("c")).as_("second"),
    opset=">=7",
)
def fuse_transpose_gemm(m: Match, new: Builder) -> Outcome:
    swaps = tuple(m.transpose.attr("perm") or (1, 0)) == (1, 0)
    key, operands = ("transA", (m.t, m.other)) if m.get("first") else ("transB", (m.other, m.t))
    flipped = bool(m.root.attr(key)) ^ swaps
    return new.Gemm(*operands, m.c, like=m.root, **{key: int(flipped) or None})
