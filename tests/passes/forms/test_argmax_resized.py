"""ArgMax of a resized image, channels last."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tests.passes.util import apply, assert_same, model, node, ops, rand, reasons

NAME = "argmax-resized"
FEEDS = {"x": rand(2, 5, 6, 7, seed=1)}


def resized(keepdims: int = 0, axis: int = 1, inputs: str = "x - s", **attrs: Any) -> Any:
    weights = {"s": np.float32([1, 1, 3, 2]), "z": np.array([2, 5, 18, 15])}
    given = {"mode": "linear", "coordinate_transformation_mode": "half_pixel", **attrs}
    used = {name: weights[name] for name in inputs.split() if name in weights}
    nodes = [node("Resize", inputs, "r", **given), node("ArgMax", "r", "y", axis=axis, keepdims=keepdims)]
    return model(nodes, {"x": [2, 5, 6, 7]}, ["y"], used, output_dtype=7)


@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("inputs", ["x - s", "x - - z"])
@pytest.mark.parametrize("how", ["half_pixel", "align_corners", "asymmetric"])
def test_channels_last(how: str, inputs: str, keepdims: int) -> None:
    before = resized(keepdims, inputs=inputs, coordinate_transformation_mode=how)
    after, _ = apply(before, NAME, target="onnxruntime")
    assert ops(after)["Transpose"] == 1
    assert_same(before, after, FEEDS, reference=False)


def test_sizes_that_are_computed() -> None:
    before = model(
        [
            node("Shape", "like", "z"),
            node("Resize", "x - - z", "r", mode="linear"),
            node("ArgMax", "r", "y", axis=1, keepdims=0),
        ],
        {"x": [2, 5, 6, 7], "like": [2, 5, "h", "w"]},
        {"y": [2, "h", "w"]},
        output_dtype=7,
    )
    after, _ = apply(before, NAME, target="onnxruntime")
    assert ops(after)["Gather"] == 1
    assert_same(before, after, {**FEEDS, "like": rand(2, 5, 12, 9)}, reference=False)


def test_it_refuses() -> None:
    for before, why in (
        (resized(mode="nearest"), "not a bilinear Resize of an image"),
        (resized(axis=2), "not over the channels"),
    ):
        after, report = apply(before, NAME, target="onnxruntime")
        assert reasons(report, NAME) == [why]
        assert ops(after) == ops(before)


def test_only_for_onnxruntime() -> None:
    after, _ = apply(resized(), NAME, target="tensorrt")
    assert not ops(after)["Transpose"]


def old(keepdims: int = 0) -> Any:
    """As exporters write it before opset 13: an empty region, empty scales, sizes."""
    weights = {"none": np.zeros(0, np.float32), "z": np.array([2, 5, 18, 15])}
    nodes = [
        node("Resize", "x none none z", "r", mode="linear", coordinate_transformation_mode="half_pixel"),
        node("ArgMax", "r", "y", axis=1, keepdims=keepdims),
    ]
    return model(nodes, {"x": [2, 5, 6, 7]}, ["y"], weights, output_dtype=7, opset=11)


def test_before_opset_13() -> None:
    after, _ = apply(old(), NAME)
    assert ops(after)["Transpose"] == 1
    assert_same(old(), after, FEEDS, reference=False)


def test_before_opset_13_the_axis_is_not_kept() -> None:
    after, report = apply(old(keepdims=1), NAME)
    assert reasons(report, NAME) == ["the axis is kept, which takes an Unsqueeze of opset 13"]
    assert not ops(after)["Transpose"]


def test_sizes_of_unknown_number() -> None:
    nodes = [node("Resize", "x - - z", "r", mode="linear"), node("ArgMax", "r", "y", axis=1, keepdims=0)]
    before = model(nodes, {"x": [2, 5, 6, 7], "z": ["n"]}, {"y": ["a", "b", "c"]}, output_dtype=7)
    before.graph.input[1].type.tensor_type.elem_type = 7
    after, report = apply(before, NAME)
    assert reasons(report, NAME) == ["it is not known that there are scales or sizes for all four axes"]
    assert not ops(after)["Transpose"]
