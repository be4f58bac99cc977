"""recognize-hard-sigmoid and recognize-hard-swish."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from ..util import Array, apply, assert_same, fired, model, node, ops, rand, reasons, run

BOTH = ("recognize-hard-swish", "recognize-hard-sigmoid")
X = {"x": np.append(rand(2, 3, 5, 7, low=-8, high=8).ravel(), [-0.0, 0, -3, 3, 4, -4]).astype(np.float32)}
SPECIAL = {"x": np.array([np.nan, np.inf, -np.inf, -0.0, 0.0, 1e30, -1e30], np.float32)}
WEIGHTS: dict[str, Any] = {
    "three": 3.0, "minus3": -3.0, "zero": 0.0, "six": 6.0, "sixth": 1 / 6, "half": 0.5, "one": 1.0, "fifth": 0.2
}  # fmt: skip
PLUS3 = {"add": node("Add", "x three", "a"), "turned": node("Add", "three x", "a"), "sub": node("Sub", "x minus3", "a")}
RELU6 = {
    "clip": [node("Clip", "a zero six", "c")],
    "min-relu": [node("Relu", "a", "r"), node("Min", "six r", "c")],
    "relu-min": [node("Min", "a six", "r"), node("Relu", "r", "c")],
    "min-max": [node("Max", "zero a", "r"), node("Min", "r six", "c")],
    "max-min": [node("Min", "a six", "r"), node("Max", "r zero", "c")],
}
SWISH = {
    "div-after": [node("Mul", "x c", "p"), node("Div", "p six", "y")],
    "mul-after": [node("Mul", "c x", "p"), node("Mul", "sixth p", "y")],
    "div-gate": [node("Div", "c six", "p"), node("Mul", "x p", "y")],
    "mul-gate": [node("Mul", "sixth c", "p"), node("Mul", "p x", "y")],
    "div-x": [node("Div", "x six", "p"), node("Mul", "p c", "y")],
    "mul-x": [node("Mul", "x sixth", "p"), node("Mul", "c p", "y")],
}


def written(nodes: list[onnx.NodeProto], opset: int = 17, dtype: int = TensorProto.FLOAT) -> onnx.ModelProto:
    kind = onnx.helper.tensor_dtype_to_np_dtype(dtype)
    used = {name for each in nodes for name in each.input}
    weights = {k: np.asarray(v).astype(kind) for k, v in WEIGHTS.items() if k in used}
    return model(nodes, {"x": ["N"]}, ["y"], weights, dtype=dtype, opset=opset)


def same(before: onnx.ModelProto, after: onnx.ModelProto) -> None:
    assert_same(before, after, X)
    for want, got in zip(run(before, SPECIAL), run(after, SPECIAL), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-6)


@pytest.mark.parametrize("product", SWISH)
@pytest.mark.parametrize("clamp", RELU6)
@pytest.mark.parametrize("line", PLUS3)
def test_hard_swish(line: str, clamp: str, product: str) -> None:
    before = written([PLUS3[line], *RELU6[clamp], *SWISH[product]])
    after, _ = apply(before, *BOTH)
    assert ops(after) == {"HardSigmoid": 1, "Mul": 1}
    same(before, after)


@pytest.mark.parametrize("scale", [node("Div", "c six", "y"), node("Mul", "sixth c", "y")])
@pytest.mark.parametrize("clamp", RELU6)
def test_the_gate_alone(clamp: str, scale: onnx.NodeProto) -> None:
    before = written([PLUS3["add"], *RELU6[clamp], scale])
    after, _ = apply(before, *BOTH)
    assert ops(after) == {"HardSigmoid": 1}
    same(before, after)


@pytest.mark.parametrize(
    "line",
    [
        [node("Mul", "x fifth", "s"), node("Add", "half s", "a")],
        [node("Div", "x six", "s"), node("Sub", "s minus3", "a")],
        [node("Sub", "x half", "a")],
    ],
)
def test_any_line_clamped_to_one(line: list[onnx.NodeProto]) -> None:
    before = written([*line, node("Clip", "a zero one", "y")])
    after, _ = apply(before, *BOTH)
    assert ops(after) == {"HardSigmoid": 1}
    same(before, after)


@pytest.mark.parametrize("opset", [7, 10, 11])
def test_bounds_as_attributes(opset: int) -> None:
    clip = node("Clip", "a", "c", min=0.0, max=6.0) if opset < 11 else RELU6["clip"][0]
    before = written([PLUS3["add"], clip, *SWISH["div-after"]], opset)
    after, _ = apply(before, *BOTH)
    assert ops(after) == {"HardSigmoid": 1, "Mul": 1}
    assert_same(before, after, X)


def test_it_loads_into_the_convolution() -> None:
    nodes = [node("Conv", "x w", "v"), node("Add", "v three", "a"), *RELU6["clip"], node("Mul", "v c", "p")]
    weights: dict[str, Any] = {"w": rand(16, 16, 1, 1), "three": 3.0, "zero": 0.0, "six": 6.0}
    before = model([*nodes, node("Div", "p six", "y")], {"x": [1, 16, 8, 8]}, ["y"], weights)
    after, _ = apply(before, *BOTH)
    assert ops(after) == {"Conv": 1, "HardSigmoid": 1, "Mul": 1}
    feeds = {"x": rand(1, 16, 8, 8, low=-3, high=3)}
    np.testing.assert_allclose(run(after, feeds, optimize=True)[0], run(before, feeds)[0], atol=1e-5)


@pytest.mark.parametrize(
    "nodes",
    [
        [PLUS3["add"], node("Clip", "a zero six", "c"), node("Mul", "x c", "p"), node("Div", "p three", "y")],
        [node("Add", "x half", "a"), *RELU6["clip"], *SWISH["div-after"]],
        [PLUS3["add"], node("Clip", "a half six", "c"), *SWISH["div-after"]],
        [PLUS3["add"], node("Clip", "a zero six", "y")],
        [PLUS3["add"], node("Clip", "a zero", "c"), *SWISH["div-after"]],
    ],
)
def test_other_numbers_are_left_alone(nodes: list[onnx.NodeProto]) -> None:
    before = written(nodes)
    after, report = apply(before, *BOTH)
    assert (ops(after), fired(report)) == (ops(before), [])


def test_attributes_with_other_bounds_are_left_alone() -> None:
    before = written([PLUS3["add"], node("Clip", "a", "c", max=6.0), *SWISH["div-after"]], 10)
    assert fired(apply(before, *BOTH)[1]) == []


def test_the_clamp_read_elsewhere_is_left_alone() -> None:
    nodes = [PLUS3["add"], *RELU6["clip"], *SWISH["div-after"], node("Neg", "c", "z")]
    before = model(nodes, {"x": ["N"]}, ["y", "z"], {"three": 3.0, "zero": 0.0, "six": 6.0})
    assert fired(apply(before, *BOTH)[1]) == []


@pytest.mark.parametrize("kind", [TensorProto.DOUBLE, TensorProto.FLOAT16])
def test_refuses_other_types(kind: int) -> None:
    nodes = [PLUS3["add"], *RELU6["clip"], *SWISH["div-after"]]
    after, report = apply(written(nodes, dtype=kind), *BOTH)
    assert ops(after)["HardSigmoid"] == 0
    assert "float32 only" in reasons(report, BOTH[0])[0]


def test_refuses_a_constant_that_adds_an_axis() -> None:
    nodes = [PLUS3["add"], *RELU6["clip"], *SWISH["div-after"]]
    weights: dict[str, Array] = {"three": np.full((1, 1), 3, np.float32), "zero": np.float32(0), "six": np.float32(6)}
    before = model(nodes, {"x": [4]}, ["y"], weights)
    _, report = apply(before, *BOTH)
    assert "leave the shape" in reasons(report, BOTH[0])[0]


def test_refuses_nothing_when_the_slope_is_zero_or_infinite() -> None:
    for slope in (0.0, np.inf):
        nodes = [node("Mul", "x s", "m"), node("Add", "m half", "a"), node("Clip", "a zero one", "y")]
        weights = {"s": np.float32(slope), "half": 0.5, "zero": 0.0, "one": 1.0}
        assert fired(apply(model(nodes, {"x": ["N"]}, ["y"], weights), *BOTH)[1]) == []
