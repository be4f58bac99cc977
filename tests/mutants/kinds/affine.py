"""Weights, biases and normalizations folded into Conv, ConvTranspose, Gemm and MatMul."""

from __future__ import annotations

from typing import Any

import numpy as np

from graphopt import refuse, rule
from graphopt.rewrite import P, const, maybe

from ..mutant import broken, witness


def rand(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).uniform(0.5, 2.0, shape).astype(np.float32)


def wide(value: Any) -> Any:
    return value.numpy().astype(np.float64)


def moderate(*values: Any) -> bool:
    """Whether products of these constants are far from overflow, so that a mutant is wrong in nothing else."""
    return all(v is None or (np.abs(wide(v)) < 1e4).all() for v in values)


CONV = P.Conv("x", const("w"), maybe(const("b"))).as_("conv")
BN = P.BatchNormalization(CONV, const("g"), const("t"), const("mu"), const("var")).as_("bn")
STATISTICS = {"g": rand(2, seed=1), "t": rand(2, seed=2), "mu": rand(2, seed=3), "var": rand(2, seed=4)}
CONV_BN = "g (float[1,2,3,3] x) => (float[1,2,2,2] y) { c = Conv(x, w)  %s = BatchNormalization%s(c, g, t, mu, var) }"


def fold(m: Any, new: Any, scale: Any, shift: Any) -> Any:
    if not moderate(m.w, m.b) or not (np.abs(scale) < 1e4).all():
        return refuse("a weight is large")
    w = wide(m.w) * scale.reshape(-1, *[1] * (m.w.rank - 1))
    b = (wide(m.b) if m.b is not None else 0) * scale + shift
    return new.Conv(m.x, new.constant(w, like=m.w), new.constant(b, like=m.w), like=m.conv)


@broken(
    "a BatchNormalization in training, which uses the statistics of its input, is folded as if in inference",
    witness(CONV_BN % ("y, rm, rv", "<training_mode=1>"), {"x": rand(1, 2, 3, 3)}, w=rand(2, 2, 2, 2), **STATISTICS),
)
@rule("bn-of-training-folded", BN, opset=">=9")
def bn_of_training_folded(m: Any, new: Any) -> Any:
    if not (wide(m.var) > 0).all() or not moderate(m.g, m.t, m.mu):
        return refuse("a variance of zero, or a large statistic")
    scale = wide(m.g) / np.sqrt(wide(m.var) + m.bn.attr("epsilon"))
    return fold(m, new, scale, wide(m.t) - scale * wide(m.mu))


@broken(
    "the epsilon of a BatchNormalization is dropped",
    witness(CONV_BN % ("y", "<epsilon=0.5>"), {"x": rand(1, 2, 3, 3)}, w=rand(2, 2, 2, 2), **STATISTICS),
)
@rule("bn-without-epsilon", BN, opset=">=9")
def bn_without_epsilon(m: Any, new: Any) -> Any:
    if m.bn.attr("training_mode", 0) or not (wide(m.var) > 0).all() or not moderate(m.g, m.t, m.mu):
        return refuse("in training, a variance of zero, or a large statistic")
    scale = wide(m.g) / np.sqrt(wide(m.var))
    return fold(m, new, scale, wide(m.t) - scale * wide(m.mu))


@broken(
    "a constant of shape [C] added to a Conv, which broadcasts over the width, becomes its bias",
    witness(
        "g (float[1,1,2,3] x) => (float[1,3,2,3] y) { c = Conv(x, w)  y = Add(c, k) }",
        {"x": rand(1, 1, 2, 3)}, w=rand(3, 1, 1, 1), k=[1.0, 2.0, 3.0],
    ),
)  # fmt: skip
@rule("width-as-channels", P.Add(P.Conv("x", const("w")).as_("conv"), const("k")))
def width_as_channels(m: Any, new: Any) -> Any:
    if m.k.numpy().size != m.w.shape[0] or m.k.rank > m.w.rank:
        return refuse("not one number for each channel")
    return new.Conv(m.x, m.w, new.constant(m.k.numpy().reshape(-1), like=m.k), like=m.conv)


SCALED = P.Mul(P.ConvTranspose("x", const("w")).as_("conv"), const("k"))
TRANSPOSED = "g (float[1,2,2,2] x) => (float[1,%d,3,3] y) { c = ConvTranspose%s(x, w)  y = Mul(c, k) }"


@broken(
    "a scale for each output channel multiplies the weights of a ConvTranspose along the input channels",
    witness(TRANSPOSED % (2, ""), {"x": rand(1, 2, 2, 2)}, w=rand(2, 2, 2, 2), k=[[[1.0]], [[-3.0]]]),
)
@rule("conv-transpose-wrong-axis", SCALED)
def conv_transpose_wrong_axis(m: Any, new: Any) -> Any:
    scale = wide(m.k)
    if scale.shape != (m.w.shape[0], *[1] * (m.w.rank - 2)) or m.conv.attr("group") != 1 or not moderate(m.w, m.k):
        return refuse("not one number for each channel, or groups")
    w = wide(m.w) * scale.reshape(-1, *[1] * (m.w.rank - 1))
    return new.ConvTranspose(m.x, new.constant(w, like=m.w), like=m.conv)


@broken(
    "every group of a ConvTranspose is scaled by the numbers of the first one",
    witness(
        TRANSPOSED % (4, "<group=2>"), {"x": rand(1, 2, 2, 2)},
        w=rand(2, 2, 2, 2), k=np.arange(1, 5, dtype=np.float32).reshape(4, 1, 1),
    ),
)  # fmt: skip
@rule("conv-transpose-ignores-groups", SCALED)
def conv_transpose_ignores_groups(m: Any, new: Any) -> Any:
    per_group, scale = m.w.shape[1], wide(m.k)
    if scale.shape != (per_group * m.conv.attr("group"), *[1] * (m.w.rank - 2)) or not moderate(m.w, m.k):
        return refuse("not one number for each channel")
    w = wide(m.w) * scale[:per_group].reshape(1, -1, *[1] * (m.w.rank - 2))
    return new.ConvTranspose(m.x, new.constant(w, like=m.w), like=m.conv)


@broken(
    "the beta of a Gemm, which multiplies its bias, also multiplies what is added afterwards",
    witness(
        "g (float[2,3] x) => (float[2,2] y) { c = Gemm<beta=0.5>(x, w, b)  y = Add(c, k) }",
        {"x": rand(2, 3)}, w=rand(3, 2), b=[1.0, 2.0], k=[3.0, 5.0],
    ),
)  # fmt: skip
@rule("gemm-ignores-beta", P.Add(P.Gemm("x", const("w"), const("b")).as_("gemm"), const("k")), opset=">=7")
def gemm_ignores_beta(m: Any, new: Any) -> Any:
    columns = m.w.shape[0 if m.gemm.attr("transB") else 1]
    if m.k.rank > 1 or m.b.rank > 1 or {m.k.numpy().size, m.b.numpy().size} - {1, columns} or not moderate(m.b, m.k):
        return refuse("not one number for each column")
    return new.Gemm(m.x, m.w, new.constant(m.b.numpy() + m.k.numpy(), like=m.b), like=m.gemm)


@broken(
    "a Gemm without bias becomes a MatMul, and its alpha is lost",
    witness("g (float[2,3] x) => (float[2,2] y) { y = Gemm<alpha=0.5>(x, w) }", {"x": rand(2, 3)}, w=rand(3, 2)),
)
@rule("gemm-ignores-alpha", P.Gemm("x", const("w")).as_("gemm"), opset=">=11")
def gemm_ignores_alpha(m: Any, new: Any) -> Any:
    if m.gemm.attr("transA"):
        return refuse("the first operand is transposed")
    return new.MatMul(m.x, new.constant(m.w.numpy().T, like=m.w) if m.gemm.attr("transB") else m.w)


@broken(
    "a Gemm is scaled through its weights alone, although it has a bias",
    witness(
        "g (float[2,3] x) => (float[2,2] y) { c = Gemm(x, w, b)  y = Mul(c, k) }",
        {"x": rand(2, 3)}, w=rand(3, 2), b=[1.0, 2.0], k=[3.0],
    ),
)  # fmt: skip
@rule("gemm-bias-not-scaled", P.Mul(P.Gemm("x", const("w"), maybe("b")).as_("gemm"), const("k")), opset=">=11")
def gemm_bias_not_scaled(m: Any, new: Any) -> Any:
    if m.k.numpy().size != 1 or m.k.rank > 2 or not moderate(m.w, m.k):
        return refuse("the scale is no scalar")
    return new.Gemm(m.x, new.constant(wide(m.w) * wide(m.k).item(), like=m.w), m.b, like=m.gemm)


@broken(
    "MatMul + Add becomes a Gemm, which takes matrices, although the input has three axes",
    witness(
        "g (float[2,2,3] x) => (float[2,2,2] y) { c = MatMul(x, w)  y = Add(c, b) }",
        {"x": rand(2, 2, 3)}, w=rand(3, 2), b=[1.0, 2.0],
    ),
    shows="invalid",
)  # fmt: skip
@rule("gemm-of-any-rank", P.Add(P.MatMul("x", const("w")), const("b")), opset=">=11")
def gemm_of_any_rank(m: Any, new: Any) -> Any:
    if m.w.rank != 2 or m.b.shape != (m.w.shape[1],):
        return refuse("no matrix and bias")
    return new.Gemm(m.x, m.w, m.b)


@broken(
    "(x W1) W2 becomes x (W2 W1)",
    witness(
        "g (float[2,2] x) => (float[2,2] y) { c = MatMul(x, v)  y = MatMul(c, w) }",
        {"x": rand(2, 2)}, v=rand(2, 2, seed=1), w=rand(2, 2, seed=2),
    ),
)  # fmt: skip
@rule("matrices-in-the-wrong-order", P.MatMul(P.MatMul("x", const("v")), const("w")))
def matrices_in_the_wrong_order(m: Any, new: Any) -> Any:
    if (
        m.v.rank != 2
        or m.w.rank != 2
        or m.v.shape != m.w.shape
        or m.v.shape[0] != m.v.shape[1]
        or not moderate(m.v, m.w)
    ):
        return refuse("the weights are not square matrices of one size")
    return new.MatMul(m.x, new.constant(wide(m.w) @ wide(m.v), like=m.w))
