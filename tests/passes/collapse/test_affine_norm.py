"""collapse-affine-norm: a Mul and an Add in the runtime's blocked layout."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from ..util import apply, assert_same, fired, model, node, ops, rand, reasons, run

RULE = "collapse-affine-norm"
FEEDS = {"x": rand(2, 4, 6, 6, seed=7)}


def block(steps: list[onnx.NodeProto], reader: str = "Relu", x: Any = (2, 4, 6, 6), **weights: Any) -> onnx.ModelProto:
    """Two steps from x to `v`, and what reads it."""
    constants = {"s": rand(1, 4, 1, 1, low=0.5, high=2), "t": rand(4, 1, 1, seed=2), **weights}
    last = node("Conv", "v w", "y", pads=[1, 1, 1, 1], group=4) if reader == "Conv" else node(reader, "v", "y")
    used = {name for step in [*steps, last] for name in step.input}
    constants["w"] = rand(4, 1, 3, 3, seed=5)
    return model([*steps, last], {"x": x}, ["y"], {k: v for k, v in constants.items() if k in used})


@pytest.mark.parametrize("reader", ["Conv", "Relu", "GlobalAveragePool"])
@pytest.mark.parametrize("first", ["Mul x s", "Mul s x", "Div x s"])
@pytest.mark.parametrize("second", ["Add u t", "Add t u", "Sub u t", "Sub t u"])
def test_scale_then_shift(first: str, second: str, reader: str) -> None:
    steps = [node(*_split(first), "u"), node(*_split(second), "v")]
    before = block(steps, reader)
    after, report = apply(before, RULE)
    assert ops(after) == {"BatchNormalization": 1, reader: 1}
    assert fired(report) == [RULE]
    assert_same(before, after, FEEDS)


@pytest.mark.parametrize("first", ["Add x t", "Sub x t", "Sub t x"])
@pytest.mark.parametrize("second", ["Mul u s", "Div u s"])
def test_shift_then_scale(first: str, second: str) -> None:
    before = block([node(*_split(first), "u"), node(*_split(second), "v")])
    after, _ = apply(before, RULE)
    assert ops(after) == {"BatchNormalization": 1, "Relu": 1}
    assert_same(before, after, FEEDS)


def _split(text: str) -> tuple[str, str]:
    op, inputs = text.split(" ", 1)
    return op, inputs


STEPS = [node("Mul", "x s", "u"), node("Add", "u t", "v")]


@pytest.mark.parametrize("opset", [7, 9, 14, 15, 21])
def test_every_form_of_batch_normalization(opset: int) -> None:
    constants = {"s": np.float32(0.5), "t": rand(4, 1, 1)}
    before = model([*STEPS, node("Relu", "v", "y")], {"x": ["N", 4, "H", "W"]}, ["y"], constants, opset=opset)
    after, _ = apply(before, RULE)
    assert ops(after) == {"BatchNormalization": 1, "Relu": 1}
    assert_same(before, after, FEEDS, reference=False)


def test_numbers_that_are_not_finite_stay_where_they_are() -> None:
    before = block(STEPS, s=np.float32(2.0))
    after, _ = apply(before, RULE)
    x = np.zeros((2, 4, 6, 6), np.float32)
    x[0, 0, 0, :4] = np.inf, -np.inf, np.nan, -0.0
    for want, got in zip(run(before, {"x": x}), run(after, {"x": x}), strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(
    ("before", "reason"),
    [
        (block(STEPS, x=(4, 6, 6), s=np.float32(2.0)), "this is not proven to be an image with a known number of"),
        (block(STEPS, x=(2, "C", 6, 6), s=np.float32(2.0)), "this is not proven to be an image with a known number of"),
        (block(STEPS, s=rand(6)), "a constant of shape [6] is not one number, or one number per channel"),
        (block(STEPS, x=(2, 1, 6, 6)), "a constant of shape [1, 4, 1, 1] is not one number, or one number per channel"),
        (block(STEPS, "Sigmoid"), "the constants seem to be part of an activation written out"),
        (block(STEPS, "Neg"), "no operator of the runtime's blocked layout reads this"),
        (block(STEPS, t=np.float32(np.inf)), "the constant is not finite"),
        (block([node("Div", "x s", "u"), STEPS[1]], s=np.float32(0)), "the constant divisor is zero in some channel"),
        (
            block([node("Sub", "x t", "u"), node("Mul", "u s", "v")], t=np.float32(1e6)),
            "the shift is so large that behind the product it would cancel digits",
        ),
        (
            block([node("Sub", "x t", "u"), node("Mul", "u s", "v")], t=np.float32(9e3), s=np.float32(3e38)),
            "the bias overflows its dtype, or is not finite",
        ),
    ],
)
def test_refuses(before: onnx.ModelProto, reason: str) -> None:
    after, report = apply(before, RULE)
    assert "BatchNormalization" not in ops(after)
    assert reasons(report, RULE)[0].startswith(reason)


def test_refuses_other_types() -> None:
    constants = {"s": np.float64(2.0), "t": np.float64(1.0)}
    nodes = [*STEPS, node("Relu", "v", "y")]
    before = model(nodes, {"x": [2, 4, 6, 6]}, ["y"], constants, dtype=TensorProto.DOUBLE)
    _, report = apply(before, RULE)
    assert reasons(report, RULE) == ["this is not proven to be float32"]


def test_leaves_a_value_that_is_read_elsewhere() -> None:
    before = block(STEPS)
    before.graph.output.append(onnx.helper.make_tensor_value_info("u", TensorProto.FLOAT, [2, 4, 6, 6]))
    after, _ = apply(before, RULE)
    assert "BatchNormalization" not in ops(after)


def test_leaves_a_gelu_and_a_hard_swish() -> None:
    half = {"k": np.float32(0.5), "one": np.float32(1.0), "r": np.float32(1.414)}
    nodes = [
        node("Div", "x r", "a"),
        node("Erf", "a", "e"),
        node("Add", "e one", "u"),
        node("Mul", "u k", "v"),
        node("Mul", "v x", "g"),
        node("Relu", "g", "y"),
    ]
    after, _ = apply(model(nodes, {"x": [2, 4, 6, 6]}, ["y"], half), RULE)
    assert "BatchNormalization" not in ops(after)
    clip = [node("Mul", "x k", "u"), node("Add", "u one", "v"), node("Clip", "v zero one", "y")]
    zero = {"k": np.float32(0.2), "one": np.float32(0.5), "zero": np.float32(0)}
    after, report = apply(model(clip, {"x": [2, 4, 6, 6]}, ["y"], zero), RULE)
    assert reasons(report, RULE) == ["the constants seem to be part of an activation written out"]


def test_refuses_a_constant_without_elements() -> None:
    """It makes 0 of a dim of 1, which BatchNormalization does not."""
    before = block(STEPS, x=(1, 0, 1, 1), s=np.zeros((0, 0, 0, 0), np.float32), t=np.float32(1))
    _, report = apply(before, RULE)
    assert not fired(report)
