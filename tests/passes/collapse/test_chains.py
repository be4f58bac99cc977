"""collapse-conv-chain and collapse-matmul-chain: linear operators in a row."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from ..util import assert_same, fired, model, node, ops, rand, reasons
from .fast import apply

CONV, MATMUL = "collapse-conv-chain", "collapse-matmul-chain"
IMAGE = {"x": rand(2, 4, 9, 9, seed=7)}


def convs(v: Any, w: Any, inner: Any = None, outer: Any = None, biases: str = "ab") -> onnx.ModelProto:
    first, second = ("a" if "a" in biases else ""), ("b" if "b" in biases else "")
    nodes = [node("Conv", f"x v {first}", "c", **(inner or {})), node("Conv", f"c w {second}", "y", **(outer or {}))]
    weights = {"v": v, "w": w, "a": rand(v.shape[0], seed=3), "b": rand(w.shape[0], seed=4)}
    used = {name for item in nodes for name in item.input}
    return model(nodes, {"x": [2, 4, 9, 9]}, ["y"], {k: value for k, value in weights.items() if k in used})


@pytest.mark.parametrize("biases", ["", "a", "b", "ab"])
@pytest.mark.parametrize(
    ("v", "w", "inner", "outer"),
    [
        ((8, 4, 1, 1), (3, 8, 1, 1), {}, {}),
        ((8, 4, 1, 1), (3, 8, 1, 1), {"strides": [2, 2]}, {"strides": [2, 1]}),
        ((8, 4, 3, 3), (5, 8, 1, 1), {"pads": [1, 1, 1, 1], "strides": [2, 1]}, {"strides": [2, 3]}),
        ((8, 4, 3, 3), (5, 8, 1, 1), {"auto_pad": "SAME_UPPER"}, {"auto_pad": "VALID"}),
        ((8, 4, 1, 1), (3, 8, 3, 3), {}, {"strides": [2, 1]}),
        ((8, 4, 1, 1), (3, 8, 3, 2), {"auto_pad": "SAME_LOWER"}, {"auto_pad": "VALID", "dilations": [1, 2]}),
    ],
)
def test_convolutions(v: Any, w: Any, inner: Any, outer: Any, biases: str) -> None:
    before = convs(rand(*v, seed=1), rand(*w, seed=2), inner, outer, biases)
    after, report = apply(before, CONV)
    assert ops(after) == {"Conv": 1}
    assert fired(report) == [CONV]
    assert_same(before, after, IMAGE, tol=5e-6, reference=False)


@pytest.mark.parametrize("pads", [{"pads": [1, 1, 1, 1]}, {"auto_pad": "SAME_UPPER"}], ids=str)
def test_a_padded_convolution_behind_a_pointwise_one(pads: dict[str, Any]) -> None:
    v, w = rand(8, 4, 1, 1, seed=1), rand(3, 8, 3, 3, seed=2)
    before = convs(v, w, {}, pads, "b")
    after, _ = apply(before, CONV)
    assert ops(after) == {"Conv": 1}
    assert_same(before, after, IMAGE, tol=5e-6)
    after, report = apply(convs(v, w, {}, pads, "ab"), CONV)
    assert ops(after) == {"Conv": 2}
    assert reasons(report, CONV) == ["what is padded in is zero, not the bias"]


def test_one_dimension_and_three() -> None:
    for rank in (1, 3):
        v, w = rand(8, 4, *[1] * rank, seed=1), rand(3, 8, *[2] * rank, seed=2)
        nodes = [node("Conv", "x v", "c"), node("Conv", "c w", "y")]
        before = model(nodes, {"x": [1, 4, *[5] * rank]}, ["y"], {"v": v, "w": w})
        after, _ = apply(before, CONV)
        assert ops(after) == {"Conv": 1}
        assert_same(before, after, {"x": rand(1, 4, *[5] * rank, seed=7)}, tol=5e-6)


BIG = (8, 4, 1, 1)


@pytest.mark.parametrize(
    ("before", "reason"),
    [
        (convs(rand(8, 4, 3, 3), rand(3, 8, 3, 3)), "neither kernel is a single element"),
        (convs(rand(*BIG), rand(3, 8, 3, 3), {"strides": [2, 2]}), "neither kernel is a single element"),
        (convs(rand(*BIG), rand(3, 8, 3, 3), {"pads": [1, 1, 1, 1]}), "neither kernel is a single element"),
        (convs(rand(2, 4, 1, 1), rand(8, 2, 1, 1)), "one convolution would multiply more than the two do, or hardly"),
        (convs(rand(4, 4, 3, 3), rand(32, 4, 1, 1)), "one convolution would multiply more than the two do, or hardly"),
        (convs(rand(8, 2, 1, 1), rand(3, 8, 1, 1), {"group": 2}), "a convolution has groups"),
        (convs(rand(*BIG), rand(4, 4, 1, 1), {}, {"group": 2}), "a convolution has groups"),
        (
            convs(rand(8, 4, 3, 3), rand(3, 8, 1, 1), {"auto_pad": "SAME_UPPER"}, {"strides": [2, 2]}),
            "auto_pad computes pads from the strides",
        ),
        (convs(np.full(BIG, np.inf, np.float32), rand(3, 8, 1, 1)), "the weights are not finite"),
        (
            convs(np.full(BIG, 1e30, np.float32), np.full((3, 8, 1, 1), 1e30, np.float32)),
            "the product of the weights would be too small, or too large, for their type",
        ),
        (
            convs(np.full(BIG, 1e-30, np.float32), np.full((3, 8, 1, 1), 1e-30, np.float32)),
            "the product of the weights would be too small, or too large, for their type",
        ),
    ],
)
def test_refuses_convolutions(before: onnx.ModelProto, reason: str) -> None:
    after, report = apply(before, CONV)
    assert ops(after) == {"Conv": 2}
    assert reasons(report, CONV)[0].startswith(reason)


def test_refuses_weights_that_are_read_elsewhere() -> None:
    before = convs(rand(*BIG), rand(3, 8, 1, 1))
    before.graph.node.append(node("Neg", "v", "z"))
    before.graph.output.append(onnx.helper.make_tensor_value_info("z", TensorProto.FLOAT, BIG))
    _, report = apply(before, CONV)
    assert reasons(report, CONV) == ["others read the weights, too"]


def test_leaves_a_value_between_that_is_read_elsewhere() -> None:
    before = convs(rand(*BIG), rand(3, 8, 1, 1))
    before.graph.output.append(onnx.helper.make_tensor_value_info("c", TensorProto.FLOAT, [2, 8, 9, 9]))
    after, _ = apply(before, CONV)
    assert ops(after) == {"Conv": 2}


def products(nodes: list[onnx.NodeProto], x: Any = (2, 5, 4), **weights: Any) -> onnx.ModelProto:
    constants = {"v": rand(4, 16, seed=1), "w": rand(16, 3, seed=2), "a": rand(16, seed=3), "b": rand(3, seed=4)}
    used = {name for item in nodes for name in item.input}
    return model(nodes, {"x": x}, ["y"], {k: v for k, v in {**constants, **weights}.items() if k in used})


PLAIN = [node("MatMul", "x v", "p"), node("MatMul", "p w", "y")]
ADDED = [node("MatMul", "x v", "p"), node("Add", "p a", "q"), node("MatMul", "q w", "y")]
GEMMS = [node("Gemm", "x v a", "p"), node("Gemm", "p w b", "y")]


@pytest.mark.parametrize("x", [(4,), (5, 4), (2, 5, 4), ("N", 3, 5, 4)])
@pytest.mark.parametrize("nodes", [PLAIN, ADDED], ids=["plain", "added"])
def test_products(nodes: list[onnx.NodeProto], x: Any) -> None:
    before = products(nodes, x)
    after, report = apply(before, MATMUL)
    assert ops(after) == ({"MatMul": 1} if nodes is PLAIN else {"MatMul": 1, "Add": 1})
    assert fired(report) == [MATMUL]
    assert_same(before, after, {"x": rand(*[2 if d == "N" else d for d in x], seed=7)}, tol=5e-6)


@pytest.mark.parametrize("first", ["x v", "x v a"])
@pytest.mark.parametrize("second", ["p w", "p w b"])
@pytest.mark.parametrize("flips", [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)])
def test_gemms(first: str, second: str, flips: tuple[int, int, int]) -> None:
    nodes = [node("Gemm", first, "p", transA=flips[0], transB=flips[1]), node("Gemm", second, "y", transB=flips[2])]
    v, w = rand(4, 16, seed=1), rand(16, 3, seed=2)
    shape = (4, 5) if flips[0] else (5, 4)
    before = products(nodes, shape, v=v.T.copy() if flips[1] else v, w=w.T.copy() if flips[2] else w)
    after, _ = apply(before, MATMUL)
    assert ops(after) == {"Gemm": 1}
    assert_same(before, after, {"x": rand(*shape, seed=7)}, tol=5e-6)


@pytest.mark.parametrize("first", [["Gemm x v a p"], ["Gemm x v p"], ["MatMul x v p"], ["MatMul x v q", "Add q a p"]])
@pytest.mark.parametrize("second", ["Gemm p w b y", "Gemm p w y", "MatMul p w y"])
def test_gemms_and_products(first: list[str], second: str) -> None:
    nodes = []
    for step in [*first, second]:
        op, *inputs, output = step.split()
        nodes.append(node(op, " ".join(inputs), output))
    before = products(nodes, (5, 4))
    after, report = apply(before, MATMUL)
    assert fired(report) == [MATMUL]
    assert sum(ops(after)[op] for op in ("Gemm", "MatMul")) == 1
    assert_same(before, after, {"x": rand(5, 4, seed=7)}, tol=5e-6)


@pytest.mark.parametrize(
    ("before", "reason"),
    [
        (products(PLAIN, v=rand(4, 2), w=rand(2, 8)), "one product would multiply more than the two do, or"),
        (products(PLAIN, v=rand(2, 4, 16)), "the weights are no matrices, or do not fit each other, or are scaled"),
        (
            products([node("Gemm", "x v", "p", alpha=0.5), node("Gemm", "p w", "y")], (5, 4)),
            "the weights are no matrices, or do not fit each other, or are scaled",
        ),
        (
            products([node("Gemm", "x v a", "p", beta=0.5), node("Gemm", "p w", "y")], (5, 4)),
            "the weights are no matrices, or do not fit each other, or are scaled",
        ),
        (
            products([node("Gemm", "x v", "p"), node("Gemm", "p w", "y", transA=1)], (16, 4), w=rand(16, 3)),
            "the inner product is transposed",
        ),
        (products(ADDED, a=rand(5, 16)), "what is added between is not one number for each column, or not finite"),
        (products(ADDED, a=np.full(16, np.nan, np.float32)), "what is added between is not one number for each"),
        (products(ADDED, (4,), a=rand(1, 16)), "what is added between may have more dims than the product"),
        (products(GEMMS, (5, 4), b=rand(5, 3)), "what is added is not one number for each column, or not finite"),
    ],
)
def test_refuses_products(before: onnx.ModelProto, reason: str) -> None:
    after, report = apply(before, MATMUL)
    assert sum(ops(after)[op] for op in ("Gemm", "MatMul")) == 2
    assert reasons(report, MATMUL)[0].startswith(reason)
