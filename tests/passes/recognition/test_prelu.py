"""prelu-of-equal-slopes and prelu-per-channel."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from ..util import Array, apply, fired, model, node, ops, rand, reasons, run

BOTH = ("prelu-of-equal-slopes", "prelu-per-channel")
SPECIAL = np.array([np.nan, np.inf, -np.inf, -0.0, 0.0, 3e38, -3e38, 1e-45, -1e-45], np.float32)


def prelu(slopes: Any, shape: Any = (1, 4, 16, 16), opset: int = 17, dtype: int = TensorProto.FLOAT) -> onnx.ModelProto:
    kind = onnx.helper.tensor_dtype_to_np_dtype(dtype)
    weights = {"s": np.asarray(slopes, kind)}
    return model([node("PRelu", "x s", "y")], {"x": shape}, ["y"], weights, dtype=dtype, opset=opset)


def channels(*slopes: float) -> Array:
    return np.array(slopes, np.float32).reshape(-1, 1, 1)


def same_bits(before: onnx.ModelProto, after: onnx.ModelProto) -> None:
    x = rand(1, 4, 16, 16, low=-5, high=5)
    x.reshape(4, -1)[:, : len(SPECIAL)] = SPECIAL
    for reference in (False, True):
        want, got = run(before, {"x": x}, reference)[0], run(after, {"x": x}, reference)[0]
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("slopes", [0.25, [0.1], channels(0.2, 0.2, 0.2, 0.2), 0.0, -0.5, 3.0], ids=str)
def test_equal_slopes(slopes: Any) -> None:
    before = prelu(slopes)
    after, report = apply(before, *BOTH)
    assert ops(after) == {"LeakyRelu": 1}
    assert fired(report) == ["prelu-of-equal-slopes"]
    same_bits(before, after)


@pytest.mark.parametrize(
    ("slopes", "form"),
    [
        (channels(0.1, 0.2, -0.3, 1.0), {"Mul": 1, "Max": 1}),
        (channels(1.0, 2.0, 1.5, 7.0), {"Mul": 1, "Min": 1}),
        (channels(0.1, 2.0, -0.3, 1.0), {"Min": 1, "Mul": 1, "Relu": 1, "Add": 1}),
        (channels(0.1, 0.0, -0.3, 1.0), {"Min": 1, "Mul": 1, "Relu": 1, "Add": 1}),
    ],
)
def test_per_channel(slopes: Array, form: dict[str, int]) -> None:
    before = prelu(slopes, (1, 4, 32, 32))
    after, report = apply(before, *BOTH)
    assert ops(after) == form
    assert fired(report) == ["prelu-per-channel"]
    same_bits(prelu(slopes), apply(prelu(slopes, ("N", "C", "H", "W")), *BOTH)[0])


@pytest.mark.parametrize("slopes", [channels(np.inf, 0, 0, 0), channels(np.nan, 1, 1, 1)], ids=str)
def test_refuses_what_is_not_finite(slopes: Array) -> None:
    _, report = apply(prelu(slopes), *BOTH)
    assert reasons(report, "prelu-per-channel") == ["a slope is not finite"]


def test_refuses_a_slope_that_is_not_finite() -> None:
    _, report = apply(prelu(np.inf), *BOTH)
    assert reasons(report, "prelu-of-equal-slopes") == ["the slope is not finite"]


def test_refuses_slopes_that_may_add_an_axis() -> None:
    before = prelu(np.full((1, 1, 1), 0.5), (4, 5))
    _, report = apply(before, *BOTH)
    assert "leave the shape" in reasons(report, "prelu-of-equal-slopes")[0]


def test_refuses_other_types() -> None:
    _, report = apply(prelu(0.5, dtype=TensorProto.DOUBLE), *BOTH)
    assert "float32" in reasons(report, "prelu-of-equal-slopes")[0]
    _, report = apply(prelu(channels(1, 2, 3, 4), dtype=TensorProto.FLOAT16), *BOTH)
    assert "float32" in reasons(report, "prelu-per-channel")[0]


def test_refuses_small_tensors() -> None:
    _, report = apply(prelu(channels(0.1, 0.2, 0.3, 0.4), (1, 4, 2, 2)), *BOTH)
    assert "so small" in reasons(report, "prelu-per-channel")[0]


def test_slopes_computed_at_run_time_are_left_alone() -> None:
    before = model([node("PRelu", "x s", "y")], {"x": [1, 4, 16, 16], "s": [4, 1, 1]}, ["y"])
    assert fired(apply(before, *BOTH)[1]) == []


def test_tensorrt_keeps_its_prelu() -> None:
    after, _ = apply(prelu(channels(0.1, 0.2, 0.3, 0.4)), *BOTH, target="tensorrt")
    assert ops(after) == {"PRelu": 1}


def test_before_opset_7_broadcasting_was_another() -> None:
    assert fired(apply(prelu(0.25, opset=6), *BOTH)[1]) == []
