"""collapse-affine-shared: one map in front of several convolutions."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from ..util import apply, assert_same, fired, model, node, ops, rand, reasons

RULE = "collapse-affine-shared"
FEEDS = {"x": rand(2, 4, 6, 6, seed=7)}
K = rand(4, 1, 1, seed=9, low=0.5, high=2)
STATISTICS = {"g": rand(4, seed=1), "t": rand(4, seed=2), "mu": rand(4, seed=3), "var": rand(4, seed=4, low=0.1)}
WEIGHTS: dict[str, Any] = {"v": rand(3, 4, 3, 3, seed=5), "w": rand(5, 4, 1, 1, seed=6), "b": rand(5, seed=8)}
READERS = [node("Conv", "a v", "p"), node("Conv", "a w b", "y")]


def shared(first: onnx.NodeProto, readers: list[onnx.NodeProto] = READERS, **more: Any) -> onnx.ModelProto:
    """x through a map to `a`, and its readers, which make p and y."""
    weights = {**WEIGHTS, **STATISTICS, "k": K, **more}
    nodes = [first, *readers]
    used = {name for item in nodes for name in item.input}
    given = {key: value for key, value in weights.items() if key in used}
    return model(nodes, {"x": [2, 4, 6, 6]}, ["p", "y"], given)


@pytest.mark.parametrize(
    "first",
    [*(node(op, "x k", "a") for op in ("Mul", "Div", "Add", "Sub")), node("BatchNormalization", "x g t mu var", "a")],
    ids=lambda item: str(item.op_type),
)
def test_folds_into_all_readers(first: onnx.NodeProto) -> None:
    before = shared(first)
    after, report = apply(before, RULE)
    assert ops(after) == {"Conv": 2}
    assert fired(report) == [RULE, RULE]
    assert_same(before, after, FEEDS, tol=5e-6)


def test_a_scale_goes_through_padding_and_into_transposed_convolutions() -> None:
    readers = [node("Conv", "a v", "p", pads=[1] * 4), node("ConvTranspose", "a u", "y", strides=[2, 2])]
    before = shared(node("Mul", "x k", "a"), readers, u=rand(4, 2, 2, 2, seed=3))
    after, _ = apply(before, RULE)
    assert ops(after) == {"Conv": 1, "ConvTranspose": 1}
    assert_same(before, after, FEEDS, tol=5e-6, reference=False)


MUL, ADD = node("Mul", "x k", "a"), node("Add", "x k", "a")


@pytest.mark.parametrize(
    ("before", "reason"),
    [
        (shared(MUL, [READERS[0], node("Relu", "a", "y")]), "not every reader is a convolution or product of this"),
        (shared(ADD, [READERS[1], node("Conv", "a v", "p", pads=[1] * 4)]), "what a reader pads in is zero"),
        (shared(MUL, [READERS[0], node("Conv", "a v", "y")]), "others read the weights of a reader, too"),
        (shared(MUL, v=np.full((3, 4, 3, 3), 3e38, np.float32)), "the scaled weights overflow their dtype"),
        (shared(MUL, k=rand(6)), "a constant of shape [6] is not one number, or one number per channel"),
        (shared(node("Div", "x k", "a"), k=np.float32(0)), "the constant divisor is zero in some channel"),
    ],
)
def test_refuses(before: onnx.ModelProto, reason: str) -> None:
    _, report = apply(before, RULE)
    assert not fired(report)
    assert any(each.startswith(reason) for each in reasons(report, RULE))


def test_leaves_a_value_that_is_an_output_and_one_that_enlarges() -> None:
    before = shared(MUL)
    before.graph.output.append(onnx.helper.make_tensor_value_info("a", TensorProto.FLOAT, [2, 4, 6, 6]))
    _, report = apply(before, RULE)
    assert reasons(report, RULE) == ["the value is an output, or is read in a body"]
    small = model([MUL, *READERS], {"x": [2, 1, 6, 6]}, ["p", "y"], {**WEIGHTS, "k": K})
    _, report = apply(small, RULE)
    assert reasons(report, RULE) == ["the constant is not proven to leave the shape of the other operand as it is"]


MATRIX = {"m": rand(4, 3, seed=5), "n": rand(4, 5, seed=6), "o": rand(6, 4, seed=1), "b": rand(5, seed=8)}
PRODUCTS = [node("MatMul", "a m", "p"), node("Gemm", "a n b", "q"), node("Gemm", "a o", "y", transB=1)]


def products(first: onnx.NodeProto, readers: list[onnx.NodeProto] = PRODUCTS, x: Any = (6, 4), **more: Any) -> Any:
    nodes = [first, *readers]
    used = {name for item in nodes for name in item.input}
    weights = {key: value for key, value in {**MATRIX, **STATISTICS, "k": K.reshape(4), **more}.items() if key in used}
    return model(nodes, {"x": x}, [item.output[0] for item in readers], weights)


@pytest.mark.parametrize("op", ["Mul", "Div"])
def test_a_scale_folds_into_products(op: str) -> None:
    before = products(node(op, "x k", "a"))
    after, report = apply(before, RULE)
    assert ops(after) == {"MatMul": 1, "Gemm": 2}
    assert fired(report) == [RULE] * 3
    assert_same(before, after, {"x": rand(6, 4, seed=7)}, tol=5e-6)


@pytest.mark.parametrize("first", [node("Add", "x k", "a"), node("BatchNormalization", "x g t mu var", "a")])
def test_a_shift_folds_into_gemms(first: onnx.NodeProto) -> None:
    before = products(first, PRODUCTS[1:])
    after, _ = apply(before, RULE)
    assert ops(after) == {"Gemm": 2}
    assert_same(before, after, {"x": rand(6, 4, seed=7)}, tol=5e-6)


def test_products_of_more_dims_and_a_convolution_of_one() -> None:
    before = products(MUL, [PRODUCTS[0], node("MatMul", "a n", "y")], (2, 3, 6, 4))
    after, _ = apply(before, RULE)
    assert ops(after) == {"MatMul": 2}
    assert_same(before, after, {"x": rand(2, 3, 6, 4, seed=7)}, tol=5e-6)


@pytest.mark.parametrize(
    ("before", "reason"),
    [
        (products(node("Add", "x k", "a")), "a product has no bias that would take the shift"),
        (products(MUL, [PRODUCTS[0], node("Gemm", "a r", "y", transA=1)], r=rand(6, 4)), "the weights of a reader do"),
        (
            products(MUL, [PRODUCTS[0], node("Gemm", "a n", "y", transA=1)], (4, 4), k=np.float32(2)),
            "the channels of a reader lie along another axis",
        ),
        (
            products(MUL, [PRODUCTS[0], node("Conv", "a v", "y")], (2, 4, 4), v=rand(3, 4, 1), k=np.float32(2)),
            "the channels of a reader lie along another axis",
        ),
        (
            products(MUL, [PRODUCTS[0], node("MatMul", "g3 a", "y")], (3, 4), g3=rand(2, 3)),
            "not every reader is a convolution",
        ),
        (products(MUL, [PRODUCTS[0], node("MatMul", "a f", "y")], f=rand(2, 4, 3)), "the weights are no matrix"),
    ],
)
def test_refuses_products(before: onnx.ModelProto, reason: str) -> None:
    after, report = apply(before, RULE)
    assert sum(ops(after)[op] for op in ("Mul", "Add")) == 1
    assert any(each.startswith(reason) for each in reasons(report, RULE))
