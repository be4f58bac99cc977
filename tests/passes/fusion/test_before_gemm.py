"""fuse-affine-gemm, fuse-affine-matmul and fuse-bn-gemm: maps in front of a product."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ..util import apply, assert_same, fired, model, node, ops, rand, reasons

STATISTICS = {"g": rand(4, seed=1), "t": rand(4, seed=2), "mu": rand(4, seed=3), "var": rand(4, seed=4, low=0.1)}
BN = node("BatchNormalization", "x g t mu var", "a")
STEPS = ["Mul x k", "Mul k x", "Div x k", "Add x k", "Add k x", "Sub x k", "Sub k x"]
GEMMS: list[dict[str, Any]] = [
    {},
    {"alpha": 0.5, "beta": 2.0},
    {"transB": 1, "alpha": -1.5},
    {"transA": 1, "beta": 0.0},
]


def gemm(first: Any, k: Any, bias: bool = True, **attrs: Any) -> Any:
    weights = {"w": rand(5, 4) if attrs.get("transB") else rand(4, 5), **STATISTICS}
    if bias:
        weights["b"] = rand(5, seed=6)
    if k is not None:
        weights["k"] = k
    nodes = [first, node("Gemm", "a w b" if bias else "a w", "y", **attrs)]
    return model(nodes, {"x": [4, 3] if attrs.get("transA") else [3, 4]}, ["y"], weights)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("kind", ["number", "per channel"])
@pytest.mark.parametrize("attrs", GEMMS, ids=str)
@pytest.mark.parametrize("bias", [True, False])
def test_affine_gemm(step: str, kind: str, attrs: dict[str, Any], bias: bool) -> None:
    op, inputs = step.split(" ", 1)
    shape = () if kind == "number" else (4, 1) if attrs.get("transA") else (4,)
    before = gemm(node(op, inputs, "a"), rand(*shape, seed=9, low=0.5, high=2), bias, **attrs)
    after, report = apply(before, "fuse-affine-gemm")
    assert ops(after) == {"Gemm": 1}
    assert fired(report) == ["fuse-affine-gemm"]
    assert_same(before, after, {"x": rand(4, 3, seed=7) if attrs.get("transA") else rand(3, 4, seed=7)}, tol=5e-6)


def test_affine_gemm_refuses_the_other_axis_and_growth() -> None:
    _, report = apply(gemm(node("Mul", "x k", "a"), rand(3, 1)), "fuse-affine-gemm")
    assert "is not one number, or one number per channel" in reasons(report, "fuse-affine-gemm")[0]
    nodes = [node("Mul", "x k", "a"), node("Gemm", "a w", "y")]
    before = model(nodes, {"x": [3, 1]}, ["y"], {"w": rand(4, 5), "k": rand(4)})
    _, report = apply(before, "fuse-affine-gemm")
    assert "is not proven to leave the shape" in reasons(report, "fuse-affine-gemm")[0]


@pytest.mark.parametrize("attrs", [{}, {"alpha": 0.5, "beta": 2.0}, {"transB": 1}], ids=str)
@pytest.mark.parametrize("bias", [True, False])
def test_bn_gemm(attrs: dict[str, Any], bias: bool) -> None:
    before = gemm(BN, None, bias, **attrs)
    after, report = apply(before, "fuse-bn-gemm")
    assert ops(after) == {"Gemm": 1}
    assert fired(report) == ["fuse-bn-gemm"]
    assert_same(before, after, {"x": rand(3, 4, seed=7)}, tol=5e-6)


def test_what_is_constant_is_left_to_constant_folding() -> None:
    _, report = apply(gemm(node("Sub", "k k", "a"), rand(3, 4)), "fuse-affine-gemm")
    assert reasons(report, "fuse-affine-gemm") == ["both operands are constant, a matter of constant folding"]


def test_bn_gemm_refuses_a_transposed_operand() -> None:
    nodes = [BN, node("Gemm", "a w", "y", transA=1)]
    before = model(nodes, {"x": [3, 4]}, ["y"], {"w": rand(3, 5), **STATISTICS})
    _, report = apply(before, "fuse-bn-gemm")
    assert reasons(report, "fuse-bn-gemm") == ["the first operand is transposed: its channels are columns"]


def test_bn_matmul_becomes_gemm() -> None:
    before = model([BN, node("MatMul", "a w", "y")], {"x": ["N", 4]}, ["y"], {"w": rand(4, 5), **STATISTICS})
    after, _ = apply(before, "fuse-bn-gemm")
    assert ops(after) == {"Gemm": 1}
    assert_same(before, after, {"x": rand(3, 4, seed=7)}, tol=5e-6)
    before = model([BN, node("MatMul", "a w", "y")], {"x": ["N", 4, 4]}, ["y"], {"w": rand(4, 5), **STATISTICS})
    _, report = apply(before, "fuse-bn-gemm")
    assert reasons(report, "fuse-bn-gemm") == ["the first operand is not proven to be a matrix"]


@pytest.mark.parametrize("step", STEPS[:3])
@pytest.mark.parametrize("shape", [(), (4,), (1, 4), (1, 1, 1)])
@pytest.mark.parametrize("w", [(4, 5), (2, 4, 5)])
def test_scale_before_matmul(step: str, shape: tuple[int, ...], w: tuple[int, ...]) -> None:
    op, inputs = step.split(" ", 1)
    nodes = [node(op, inputs, "a"), node("MatMul", "a w", "y")]
    weights = {"w": rand(*w), "k": rand(*shape, seed=1, low=0.5, high=2)}
    before = model(nodes, {"x": [2, 3, 4]}, ["y"], weights)
    after, report = apply(before, "fuse-affine-matmul")
    assert ops(after) == {"MatMul": 1}
    assert fired(report) == ["fuse-affine-matmul"]
    assert_same(before, after, {"x": rand(2, 3, 4, seed=7)})


@pytest.mark.parametrize("step", ["Add x k", "Add k x", "Sub x k"])
@pytest.mark.parametrize("shape", [(), (4,)])
def test_shift_before_matmul_and_add(step: str, shape: tuple[int, ...]) -> None:
    op, inputs = step.split(" ", 1)
    nodes = [node(op, inputs, "a"), node("MatMul", "a w", "c"), node("Add", "b c", "y")]
    weights = {"w": rand(4, 5), "k": rand(*shape, seed=1), "b": rand(2, 1, 5, seed=2)}
    before = model(nodes, {"x": [2, 3, 4]}, ["y"], weights)
    after, _ = apply(before, "fuse-affine-matmul")
    assert ops(after) == {"MatMul": 1, "Add": 1}
    assert_same(before, after, {"x": rand(2, 3, 4, seed=7)}, tol=5e-6)
    before = model(nodes[:2], {"x": [2, 3, 4]}, ["c"], {"w": rand(4, 5), "k": rand(*shape, seed=1)})
    after, report = apply(before, "fuse-affine-matmul")  # the shift would only move
    assert (ops(after)[op], fired(report)) == (1, [])


@pytest.mark.parametrize(("x", "shape"), [([3, 1], (4,)), ([4], (1, 4)), ([4], (1, 1))])
def test_refuses_a_constant_that_enlarges(x: list[int], shape: tuple[int, ...]) -> None:
    nodes = [node("Mul", "x k", "a"), node("MatMul", "a w", "y")]
    before = model(nodes, {"x": x}, ["y"], {"w": rand(4, 5), "k": rand(*shape)})
    after, report = apply(before, "fuse-affine-matmul")
    assert ops(after)["Mul"] == 1
    assert len(reasons(report, "fuse-affine-matmul")) == 1


def test_matmul_refuses_integers_vectors_and_cancellation() -> None:
    nodes = [node("Mul", "x k", "a"), node("MatMul", "a w", "y")]
    ints = {"w": np.ones((3, 4), np.int32), "k": np.int32(2)}
    _, report = apply(model(nodes, {"x": [2, 3]}, ["y"], ints, dtype=6), "fuse-affine-matmul")
    assert reasons(report, "fuse-affine-matmul") == ["the weights are not floating-point numbers"]
    _, report = apply(model(nodes, {"x": [2, 3]}, ["y"], {"w": rand(3), "k": np.float32(2)}), "fuse-affine-matmul")
    assert reasons(report, "fuse-affine-matmul") == ["the weights are no matrix"]
    nodes = [node("Sub", "x k", "a"), node("MatMul", "a w", "c"), node("Add", "c b", "y")]
    weights = {"w": rand(4, 5), "k": np.float32(1e6), "b": rand(5)}
    _, report = apply(model(nodes, {"x": [2, 3, 4]}, ["y"], weights), "fuse-affine-matmul")
    assert "cancel" in reasons(report, "fuse-affine-matmul")[0]
