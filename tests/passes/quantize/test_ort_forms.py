"""Operators that ONNX Runtime has no fast integer kernel for, in other forms: each runs in integers, and is right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from tests.passes.quantize.qdq import assert_close, fused, quantize
from tests.passes.util import model, node, ops, rand, reasons

from graphopt.passes.quantize.insert_qdq import NAME

FEEDS = {"x": rand(1, 16, 12, 12, seed=7, low=-4, high=4)}
W1 = rand(16, 16, 1, 1, seed=1)


def between(*nodes: onnx.NodeProto, weights: dict[str, Any] | None = None, channels: int = 16) -> onnx.ModelProto:
    """Operators from `a` to `z` between two convolutions of one tap, so that they are worth integers."""
    wide = {"w": W1, "v": rand(16, channels, 1, 1, seed=2), **(weights or {})}
    return model([node("Conv", "x w", "a"), *nodes, node("Conv", "z v", "y")], {"x": [1, 16, 12, 12]}, ["y"], wide)


def check(before: onnx.ModelProto, folder: Path, least: float = 28.0, **expected: int) -> onnx.ModelProto:
    """Quantized: close, and ORT's kernels are these; nothing is dequantized but the result."""
    after, _ = quantize(before, FEEDS)
    kernels = fused(after, folder)
    found = {op: kernels[op] for op in (*expected, "DequantizeLinear", "QuantizeLinear")}
    assert found == {**expected, "DequantizeLinear": 1, "QuantizeLinear": 1}, kernels
    assert_close(before, after, FEEDS, least)
    return after


def test_hard_swish(tmp_path: Path) -> None:
    check(between(node("HardSwish", "a", "z")), tmp_path, QLinearConv=2, QLinearAdd=1, QLinearMul=1)


def test_hard_swish_written_out(tmp_path: Path) -> None:
    nodes = node("HardSigmoid", "a", "h", alpha=1 / 6, beta=0.5), node("Mul", "h a", "z")
    check(between(*nodes), tmp_path, QLinearConv=2, QLinearAdd=1, QLinearMul=1, HardSigmoid=0)


def test_hard_sigmoid(tmp_path: Path) -> None:
    check(between(node("HardSigmoid", "a", "z", alpha=0.3)), tmp_path, 25, QLinearConv=2, QLinearAdd=1, HardSigmoid=0)


def test_an_unusual_hard_sigmoid_stays_float() -> None:
    before = between(node("HardSigmoid", "a", "z", alpha=0.2, beta=1.5))
    after, _ = quantize(before, FEEDS)
    assert ops(after)["HardSigmoid"] == 1


SILU = [node("Conv", "x w", "a"), node("Sigmoid", "a", "s"), node("Mul", "s a", "z"), node("Conv", "z w", "y")]
LARGE = {"x": rand(1, 16, 64, 64, seed=3, low=-3, high=3)}


def test_silu_in_floats_with_ort_operators(tmp_path: Path) -> None:
    """DQ, QuickGelu, Q: two thirds of the time of QLinearSigmoid and QLinearMul, and exact."""
    before = model(SILU, {"x": [1, 16, 64, 64]}, ["y"], {"w": W1})
    after, _ = quantize(before, LARGE)
    assert ops(after)["QuickGelu"] == 1
    assert fused(after, tmp_path)["QLinearConv"] == 2
    assert_close(before, after, LARGE)


def test_silu_in_integers_with_standard_operators() -> None:
    before = model(SILU, {"x": [1, 16, 64, 64]}, ["y"], {"w": W1})
    after, _ = quantize(before, LARGE, target="onnx")
    assert not ops(after)["QuickGelu"]
    assert_close(before, after, LARGE)


@pytest.mark.parametrize(
    ("times", "rule"), [(2, "asymmetric"), (3, "asymmetric"), (2, "half_pixel"), (4, "half_pixel")]
)
def test_resize_by_a_whole_number(times: int, rule: str, tmp_path: Path) -> None:
    nearest = "floor" if rule == "asymmetric" else "round_prefer_floor"
    resize = node("Resize", "a - s", "z", mode="nearest", coordinate_transformation_mode=rule, nearest_mode=nearest)
    before = between(resize, weights={"s": np.float32([1, 1, times, times])})
    check(before, tmp_path, QLinearConv=2, Resize=0, Concat=2)


def test_resize_that_is_none_of_that_stays_float() -> None:
    for scales, mode in (([1, 1, 2, 2], "linear"), ([1, 1, 1.5, 1.5], "nearest")):
        before = between(node("Resize", "a - s", "z", mode=mode), weights={"s": np.float32(scales)})
        after, _ = quantize(before, FEEDS)
        assert ops(after)["Resize"] == 1
        assert_close(before, after, FEEDS)


@pytest.mark.parametrize("bias", [False, True])
def test_transposed_convolution_whose_blocks_do_not_overlap(bias: bool, tmp_path: Path) -> None:
    inputs = "a t b" if bias else "a t"
    weights = {"t": rand(16, 8, 2, 3, seed=4), **({"b": rand(8, seed=5)} if bias else {})}
    before = between(node("ConvTranspose", inputs, "z", strides=[2, 3]), weights=weights, channels=8)
    check(before, tmp_path, QLinearConv=3, ConvTranspose=0)


def test_transposed_convolution_whose_blocks_overlap() -> None:
    before = between(node("ConvTranspose", "a t", "z", strides=[2, 2]), weights={"t": rand(16, 16, 3, 3)})
    _, report = quantize(before, FEEDS)
    assert reasons(report, NAME) == ["no integer kernel for a ConvTranspose whose blocks overlap"]


@pytest.mark.parametrize("attrs", [{}, {"pads": [1, 1, 1, 1], "count_include_pad": 1}, {"strides": [2, 2]}])
def test_average_pool_as_convolution(attrs: dict[str, Any], tmp_path: Path) -> None:
    before = between(node("AveragePool", "a", "z", kernel_shape=[3, 3], **attrs))
    check(before, tmp_path, QLinearConv=3, AveragePool=0, QLinearAveragePool=0)


def test_average_pool_with_another_border_stays_float() -> None:
    before = between(node("AveragePool", "a", "z", kernel_shape=[3, 3], pads=[1, 1, 1, 1]))
    after, _ = quantize(before, FEEDS)
    assert ops(after)["AveragePool"] == 1
    assert_close(before, after, FEEDS)


def test_batch_normalization_as_convolution(tmp_path: Path) -> None:
    weights = {"g": rand(16), "s": rand(16, seed=2), "m": rand(16, seed=3), "q": rand(16, seed=4, low=0.5, high=2)}
    nodes = node("Relu", "a", "r"), node("BatchNormalization", "r g s m q", "n"), node("Relu", "n", "z")
    check(between(*nodes, weights=weights), tmp_path, QLinearConv=3, BatchNormalization=0, Relu=0)


def test_relu_of_what_others_read_too(tmp_path: Path) -> None:
    """The integers of the sum are clamped: no way through floats."""
    before = model(
        [
            node("Conv", "x w", "a"),
            node("Relu", "a", "r"),
            node("Conv", "r w", "b"),
            node("Add", "a b", "s"),
            node("Conv", "s w", "y"),
        ],
        {"x": [1, 16, 12, 12]},
        ["y"],
        {"w": W1 / 4},
    )
    check(before, tmp_path, QLinearConv=3, QLinearAdd=1, Clip=1)


def test_relu6_is_left_to_saturation(tmp_path: Path) -> None:
    before = between(node("Clip", "a lo hi", "z"), weights={"lo": np.float32(0), "hi": np.float32(6)})
    check(before, tmp_path, QLinearConv=2, Clip=0)


def test_padding(tmp_path: Path) -> None:
    pads = np.array([0, 0, 1, 2, 0, 0, 1, 0], np.int64)
    for mode in ("constant", "reflect", "edge"):
        before = between(node("Pad", "a p", "z", mode=mode), weights={"p": pads})
        check(before, tmp_path, QLinearConv=2, Pad=1)


def test_padding_with_another_number_stays_float() -> None:
    pads = np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64)
    before = between(node("Pad", "a p c", "z"), weights={"p": pads, "c": np.float32(0.5)})
    after, _ = quantize(before, FEEDS)
    assert_close(before, after, FEEDS)
    assert next(n for n in after.graph.node if n.op_type == "Pad").input[2] == "c"


@pytest.mark.parametrize("channels", [3, 21])
def test_channels_that_the_kernel_is_slow_with(channels: int, tmp_path: Path) -> None:
    weights = {"t": rand(channels, 16, 5, 5, seed=4, low=-0.2, high=0.2), "b": rand(channels, seed=5)}
    before = between(node("Conv", "a t b", "z"), weights=weights, channels=channels)
    after = check(before, tmp_path, QLinearConv=3)
    assert ops(after)["Slice"] == 1


def test_groups_of_few_channels_are_merged(tmp_path: Path) -> None:
    before = between(node("Conv", "a t", "z", group=4), weights={"t": rand(16, 4, 3, 3, seed=4)})
    after = check(before, tmp_path, QLinearConv=3)
    groups = [next((a.i for a in n.attribute if a.name == "group"), 1) for n in after.graph.node if n.op_type == "Conv"]
    assert groups == [1, 1, 1]


def test_depthwise_stays_depthwise(tmp_path: Path) -> None:
    before = between(node("Conv", "a t", "z", group=16), weights={"t": rand(16, 1, 3, 3, seed=4)})
    after = check(before, tmp_path, QLinearConv=3)
    groups = [next((a.i for a in n.attribute if a.name == "group"), 1) for n in after.graph.node if n.op_type == "Conv"]
    assert groups == [1, 16, 1]


def test_squeeze_and_excitation(tmp_path: Path) -> None:
    before = between(
        node("GlobalAveragePool", "a", "g"),
        node("Conv", "g r", "e"),
        node("Relu", "e", "f"),
        node("Conv", "f u", "h"),
        node("Sigmoid", "h", "s"),
        node("Mul", "a s", "z"),
        weights={"r": rand(8, 16, 1, 1), "u": rand(16, 8, 1, 1)},
    )
    kernels = {"QLinearGlobalAveragePool": 1, "QLinearSigmoid": 1, "QLinearMul": 1}
    check(before, tmp_path, QLinearConv=4, **kernels)
