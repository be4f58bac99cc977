"""What is equal for finite values alone waits for a bounded operand, or for fast_math."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto

from ..util import apply, assert_same, fired, model, node, rand, reasons
from . import fast

V, W = rand(8, 6), rand(6, 2, seed=1)
INFINITE = np.array([[np.inf, -np.inf, 1, 2, np.nan, 3, 4, 5], [0, 1, np.inf, 2, 3, 4, 5, 6]], np.float32)


def products(*before, opset=17, weights=None, dtype=TensorProto.FLOAT):
    """x through these operators into two products."""
    last = before[-1].output[0] if before else "x"
    nodes = [*before, node("MatMul", f"{last} v", "p"), node("MatMul", "p w", "y")]
    inputs = {"x": [2, 8]}
    return model(nodes, inputs, ["y"], {"v": V, "w": W, **(weights or {})}, opset=opset, dtype=dtype, output_dtype=1)


@pytest.mark.parametrize("op", ["Sigmoid", "Tanh", "Softmax", "HardSigmoid", "Erf", "Softsign", "Sin", "Cos"])
def test_behind_bounded_operators(op: str) -> None:
    before = products(node(op, "x", "b"), node("Transpose", "b", "t"), node("Transpose", "t", "u"))
    after, report = apply(before, "collapse-matmul-chain")
    assert fired(report) == ["collapse-matmul-chain"]
    assert_same(before, after, {"x": INFINITE}, reference=False)


@pytest.mark.parametrize(("opset", "low", "high", "fires"), [(10, 0, 6, True), (17, 0, 6, True), (17, 0, None, False)])
def test_behind_clip(opset: int, low: float, high: float | None, fires: bool) -> None:
    if opset < 11:
        before = products(node("Clip", "x", "b", min=float(low), max=6.0), opset=opset)
    else:
        bounds = {"low": np.float32(low)} | ({} if high is None else {"high": np.float32(high)})
        before = products(node("Clip", "x low" + (" high" if high else ""), "b"), weights=bounds)
    after, report = apply(before, "collapse-matmul-chain")
    assert bool(fired(report)) == fires
    assert_same(before, after, {"x": INFINITE}, reference=False)


def test_behind_integers() -> None:
    before = products(node("Cast", "x", "b", to=TensorProto.FLOAT), dtype=TensorProto.INT32)
    _, report = apply(before, "collapse-matmul-chain")
    assert fired(report)


@pytest.mark.parametrize("op", ["Relu", "Neg", "Gelu"])
def test_refuses_what_may_be_infinite(op: str) -> None:
    before = products(node(op, "x", "b"), opset=20)
    _, report = apply(before, "collapse-matmul-chain")
    assert not fired(report)
    assert "fast_math=True allows it" in reasons(report, "collapse-matmul-chain")[0]
    _, report = fast.apply(before, "collapse-matmul-chain")
    assert fired(report)


@pytest.mark.parametrize(
    ("name", "nodes", "weights"),
    [
        (
            "collapse-conv-chain",
            [node("Conv", "x v", "c"), node("Conv", "c w", "y")],
            {"v": rand(6, 4, 3, 3), "w": rand(2, 6, 1, 1)},
        ),
        (
            "collapse-conv-branches",
            [node("Conv", "x v", "c"), node("Conv", "x w", "d"), node("Add", "c d", "y")],
            {"v": rand(2, 4, 1, 1), "w": rand(2, 4, 1, 1, seed=1)},
        ),
        (
            "collapse-dead-channels",
            [node("Conv", "x v", "c"), node("Conv", "c w", "y")],
            {"v": rand(6, 4, 1, 1) * np.float32([1, 0, 1, 0, 1, 1]).reshape(-1, 1, 1, 1), "w": rand(2, 6, 1, 1)},
        ),
    ],
)
def test_the_others_ask_too(name: str, nodes, weights) -> None:
    before = model(nodes, {"x": [1, 4, 5, 5]}, ["y"], weights)
    _, report = apply(before, name)
    assert "fast_math=True allows it" in reasons(report, name)[0]
    _, report = fast.apply(before, name)
    assert fired(report) == [name]


@pytest.mark.parametrize("name", ["collapse-conv-chain", "collapse-dead-channels", "collapse-conv-branches"])
def test_weights_that_are_no_kernels_are_left_alone(name: str) -> None:
    """In a branch that is never run, say."""
    nodes = [node("Conv", "x v", "c"), node("Conv", "c w", "d"), node("Conv", "c w", "e"), node("Add", "d e", "y")]
    for v, w in ((rand(3), rand(3, seed=1)), (rand(3, 3, 1, 1) * 0, rand(3)), (rand(3), rand(3, 3, 1, 1))):
        given = model(nodes, {"x": [1, 3, 4, 4]}, {"y": [None] * 4}, {"v": v, "w": w})
        assert not fired(fast.apply(given, name)[1])
