"""fuse-matmul-bn, fuse-matmul-affine, fuse-matmul-add-gemm."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto

from ..util import apply, assert_same, fired, model, node, ops, rand, reasons

STATISTICS = {"g": rand(4, seed=1), "t": rand(4, seed=2), "mu": rand(4, seed=3), "var": rand(4, seed=4, low=0.1)}
UNKNOWN = node("Unknown", "z", "x", domain="custom")  # a value of which nothing is known
BN = node("BatchNormalization", "c g t mu var", "y")


def test_batch_normalization() -> None:
    before = model([node("MatMul", "x w", "c"), BN], {"x": ["N", 3]}, ["y"], {"w": rand(3, 4), **STATISTICS})
    after, report = apply(before, "fuse-matmul-bn")
    assert ops(after) == {"Gemm": 1}
    assert fired(report) == ["fuse-matmul-bn"]
    assert_same(before, after, {"x": rand(5, 3)})


def test_batch_normalization_whose_channels_are_no_columns() -> None:
    before = model([node("MatMul", "x w", "c"), BN], {"x": [2, 4, 3]}, ["y"], {"w": rand(3, 4), **STATISTICS})
    after, report = apply(before, "fuse-matmul-bn")
    assert ops(after)["BatchNormalization"] == 1
    assert reasons(report, "fuse-matmul-bn") == ["the first operand is not proven to be a matrix"]
    nodes, weights = [UNKNOWN, node("MatMul", "x w", "c"), BN], {"w": rand(3, 4), **STATISTICS}
    before = model(nodes, {"z": [1]}, {"y": ["N", 4]}, weights, imports={"custom": 1})
    _, report = apply(before, "fuse-matmul-bn")
    assert reasons(report, "fuse-matmul-bn") == ["the first operand is not proven to be a matrix"]


@pytest.mark.parametrize("step", ["Mul c k", "Mul k c", "Div c k"])
@pytest.mark.parametrize("shape", [(), (1,), (4,), (1, 4), (1, 1, 4)])
@pytest.mark.parametrize("bias", [None, (4,), (2, 1, 1), (2, 1, 5, 4)])
def test_scale(step: str, shape: tuple[int, ...], bias: tuple[int, ...] | None) -> None:
    op, inputs = step.split(" ", 1)
    nodes = [node("MatMul", "x w", "a" if bias else "c"), node(op, inputs, "y")]
    weights = {"w": rand(3, 4), "k": rand(*shape, seed=1, low=0.5, high=2)}
    if bias:
        nodes.insert(1, node("Add", "b a", "c"))
        weights["b"] = rand(*bias, seed=2)
    before = model(nodes, {"x": [2, 5, 3]}, ["y"], weights)
    after, report = apply(before, "fuse-matmul-affine")
    assert ops(after) == ({"MatMul": 1, "Add": 1} if bias else {"MatMul": 1})
    assert fired(report) == ["fuse-matmul-affine"]
    assert_same(before, after, {"x": rand(2, 5, 3, seed=5)})


def test_scale_of_a_stack_of_weights_and_of_a_vector() -> None:
    nodes = [node("MatMul", "x w", "c"), node("Mul", "c k", "y")]
    before = model(nodes, {"x": [2, 5, 3]}, ["y"], {"w": rand(2, 3, 4), "k": rand(4, seed=1)})
    after, _ = apply(before, "fuse-matmul-affine")
    assert ops(after) == {"MatMul": 1}
    assert_same(before, after, {"x": rand(2, 5, 3)})
    before = model(nodes, {"x": [3]}, ["y"], {"w": rand(3, 4), "k": rand(4, seed=1)})
    after, _ = apply(before, "fuse-matmul-affine")
    assert ops(after) == {"MatMul": 1}
    assert_same(before, after, {"x": rand(3)})


@pytest.mark.parametrize(("rank", "shape"), [(3, (5, 1)), (2, (1, 1, 4)), (None, (1, 4))])
def test_scale_refuses_shapes(rank: int | None, shape: tuple[int, ...]) -> None:
    nodes = [node("MatMul", "x w", "c"), node("Mul", "c k", "y")]
    if rank is None:
        nodes.insert(0, UNKNOWN)
    inputs = {"z": [1]} if rank is None else {"x": [5] * (rank - 1) + [3]}
    weights = {"w": rand(3, 4), "k": rand(*shape)}
    _, report = apply(model(nodes, inputs, {"y": ["?"]}, weights, imports={"custom": 1}), "fuse-matmul-affine")
    reason = f"a constant of shape {list(shape)} is not one number, or one number per channel"
    assert reasons(report, "fuse-matmul-affine") == [reason]


def test_scale_refuses_integers_and_vectors() -> None:
    nodes = [node("MatMul", "x w", "c"), node("Mul", "c k", "y")]
    ints = {"w": np.ones((3, 4), np.int32), "k": np.int32(2)}
    _, report = apply(model(nodes, {"x": [2, 3]}, ["y"], ints, dtype=TensorProto.INT32), "fuse-matmul-affine")
    assert reasons(report, "fuse-matmul-affine") == ["the weights are not floating-point numbers"]
    _, report = apply(model(nodes, {"x": [2, 3]}, ["y"], {"w": rand(3), "k": np.float32(2)}), "fuse-matmul-affine")
    assert reasons(report, "fuse-matmul-affine") == ["the weights are no matrix"]


def matmul_add(x: Any, w: Any, t: Any, order: str = "c t", **options: Any) -> Any:
    inputs = {"x": x} if isinstance(w, np.ndarray) else {"x": x, "w": w}
    weights = {"t": t, "w": w} if isinstance(w, np.ndarray) else {"t": t}
    outputs = options.pop("outputs", ["y"])
    return model([node("MatMul", "x w", "c"), node("Add", order, "y")], inputs, outputs, weights, **options)


@pytest.mark.parametrize("order", ["c t", "t c"])
@pytest.mark.parametrize("shape", [(), (1,), (4,), (1, 4), (1, 1)])
@pytest.mark.parametrize("opset", [7, 9, 13, 17])
def test_add_becomes_gemm(order: str, shape: tuple[int, ...], opset: int) -> None:
    before = matmul_add(["N", 3], rand(3, 4), rand(*shape, seed=2), order, opset=opset)
    after, report = apply(before, "fuse-matmul-add-gemm")
    assert ops(after) == {"Gemm": 1}
    assert fired(report) == ["fuse-matmul-add-gemm"]
    assert_same(before, after, {"x": rand(5, 3, seed=5)})


def test_add_with_a_proven_number_of_rows_and_computed_weights() -> None:
    before = matmul_add([5, 3], [3, 4], rand(5, 4, seed=2))
    after, _ = apply(before, "fuse-matmul-add-gemm")
    assert ops(after) == {"Gemm": 1}
    assert_same(before, after, {"x": rand(5, 3), "w": rand(3, 4, seed=3)})


@pytest.mark.parametrize(
    ("x", "w", "t", "reason"),
    [
        ([2, 5, 3], (3, 4), (4,), "the product is no matrix: the runtime fuses MatMul and Add of that kind itself"),
        (["N", 3], (3, 4), (5, 4), "the constant is not proven to leave the shape of the product as it is"),
        (["N", 3], (3, 4), (2, 1, 4), "the constant is not proven to leave the shape of the product as it is"),
        (["N", 3], (3, 1), (4,), "the constant is not proven to leave the shape of the product as it is"),
        (["N", 3], (3, 4), (4, 1), "the constant is not proven to leave the shape of the product as it is"),
    ],
)
def test_add_refuses(x: Any, w: tuple[int, ...], t: tuple[int, ...], reason: str) -> None:
    before = matmul_add(x, rand(*w), rand(*t), outputs={"y": ["?", "?"]})
    after, report = apply(before, "fuse-matmul-add-gemm")
    assert ops(after)["MatMul"] == 1
    assert reasons(report, "fuse-matmul-add-gemm") == [reason]


def test_add_refuses_an_unknown_rank() -> None:
    nodes = [UNKNOWN, node("MatMul", "x w", "c"), node("Add", "c t", "y")]
    before = model(nodes, {"z": [1]}, {"y": ["N", 4]}, {"w": rand(3, 4), "t": rand(4)}, imports={"custom": 1})
    _, report = apply(before, "fuse-matmul-add-gemm")
    assert reasons(report, "fuse-matmul-add-gemm") == ["the operands are not proven to be matrices"]


def test_add_refuses_dtypes_that_gemm_has_not() -> None:
    ints = np.ones((3, 4), np.int32), np.ones(4, np.int32)
    _, report = apply(matmul_add([2, 3], *ints, dtype=TensorProto.INT32), "fuse-matmul-add-gemm")
    assert reasons(report, "fuse-matmul-add-gemm") == ["Gemm does not have this dtype in this opset"]


def test_add_leaves_dequantized_weights_to_the_runtime() -> None:
    nodes = [node("DequantizeLinear", "q s", "w"), node("MatMul", "x w", "c"), node("Add", "c t", "y")]
    weights = {"q": np.ones((3, 4), np.int8), "s": np.float32(0.5), "t": rand(4)}
    _, report = apply(model(nodes, {"x": [2, 3]}, ["y"], weights), "fuse-matmul-add-gemm")
    assert "dequantized" in reasons(report, "fuse-matmul-add-gemm")[0]


def test_chain_of_matmul_add_and_batch_normalization() -> None:
    nodes = [node("MatMul", "x w", "a"), node("Add", "a t", "c"), BN]
    before = model(nodes, {"x": ["N", 3]}, ["y"], {"w": rand(3, 4), **STATISTICS})
    after, report = apply(before, "fuse-matmul-add-gemm", "fuse-gemm-bn")
    assert fired(report) == ["fuse-matmul-add-gemm", "fuse-gemm-bn"]
    assert ops(after) == {"Gemm": 1}
    assert_same(before, after, {"x": rand(5, 3)})
