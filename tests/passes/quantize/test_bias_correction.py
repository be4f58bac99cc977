"""Bias correction: the mean error of rounded weights is gone, exactly, on the data it was measured on."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from tests.passes.quantize.models import batches, cnn, error, ranges_of_model
from tests.passes.util import Array, apply, fired, model, node, rand, reasons, run

from graphopt.analysis.ranges import Ranges, TensorRange
from graphopt.errors import GraphoptError
from graphopt.passes.quantize._scales import dequantize, quantize, weight_scale
from graphopt.passes.quantize.bias_correction import BiasCorrection


def rounded(made: onnx.ModelProto, axis: int | None = 0) -> onnx.ModelProto:
    """The model with its weights as int8 gives them back."""
    copy = onnx.ModelProto()
    copy.CopyFrom(made)
    for tensor in copy.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.ndim > 1:
            scale = weight_scale(array, axis)
            codes = quantize(array, scale, axis or 0)
            tensor.CopyFrom(numpy_helper.from_array(dequantize(codes, scale, axis or 0), tensor.name))
    return copy


def layer(kernel: int = 3, pads: int = 0, group: int = 1, bias: bool = True, **attrs: object) -> onnx.ModelProto:
    stored = {"w": rand(6, 6 // group, kernel, kernel, seed=3) * np.linspace(0.01, 1, 6 // group)[None, :, None, None]}
    stored = {"w": stored["w"].astype("f")} | ({"b": rand(6)} if bias else {})
    inputs = "x w b" if bias else "x w"
    nodes = [node("Conv", inputs, "y", name="conv", pads=[pads] * 4, group=group, **attrs)]
    return model(nodes, {"x": ["N", 6, 9, 9]}, ["y"], stored)


def mean_error(a: onnx.ModelProto, b: onnx.ModelProto, feeds: list[dict[str, Array]]) -> float:
    off = np.concatenate([(run(a, f)[0].astype(np.float64) - run(b, f)[0]) for f in feeds])
    axes = tuple(i for i in range(off.ndim) if i != (1 if off.ndim == 4 else off.ndim - 1))
    return float(np.abs(off.mean(axis=axes)).max())


def feeds(*shape: int) -> list[dict[str, Array]]:
    return [
        {"x": rand(*shape, seed=50 + i) + np.linspace(0, 2, shape[1], dtype="f")[None, :, None, None]} for i in (1, 2)
    ]


@pytest.mark.parametrize("case", [{}, {"group": 2}, {"group": 6}, {"bias": False}, {"kernel": 1, "strides": [2, 2]}])
@pytest.mark.parametrize("per_channel", [True, False])
def test_the_mean_error_of_a_layer_is_gone(case: dict[str, int], per_channel: bool) -> None:
    made, data = layer(**case), feeds(4, 6, 9, 9)
    if case.get("kernel") != 1:  # without padding the mean under each tap is not quite that of the whole
        data = [{"x": np.broadcast_to(f["x"].mean(axis=(2, 3), keepdims=True), f["x"].shape).copy()} for f in data]
    elif "strides" in case:
        data = [{"x": np.repeat(np.repeat(f["x"][:, :, :5, :5], 2, 2), 2, 3)[:, :, :9, :9].copy()} for f in data]
        data = [{"x": np.broadcast_to(f["x"].mean(axis=(2, 3), keepdims=True), f["x"].shape).copy()} for f in data]
    axis = 0 if per_channel else None
    after, report = apply(made, BiasCorrection(ranges=ranges_of_model(made, data), per_channel=per_channel))
    assert fired(report) == ["bias-correction"]
    before_error = mean_error(made, rounded(made, axis), data)
    assert mean_error(made, rounded(after, axis), data) < max(before_error / 50, 1e-6)


def test_the_border_counts_for_what_it_reads() -> None:
    made, data = layer(pads=1), feeds(4, 6, 9, 9)
    data = [{"x": np.broadcast_to(f["x"].mean(axis=(2, 3), keepdims=True), f["x"].shape).copy()} for f in data]
    after, _ = apply(made, BiasCorrection(ranges=ranges_of_model(made, data)))
    assert mean_error(made, rounded(after), data) < mean_error(made, rounded(made), data) / 50


def test_a_network_loses_less() -> None:
    made, data = cnn(), batches(offset=1.0)
    after, report = apply(made, BiasCorrection(ranges=ranges_of_model(made, data), per_channel=False))
    assert len(fired(report)) == 3
    assert error(made, rounded(after, None), data) < error(made, rounded(made, None), data)


@pytest.mark.parametrize("op", ["Gemm", "MatMul"])
def test_products(op: str) -> None:
    stored = {"w": rand(7, 5, seed=1), "b": rand(5)}
    nodes = [node("Gemm", "x w b", "y", name="product", alpha=0.5)]
    if op == "MatMul":
        nodes = [node("MatMul", "x w", "m", name="product"), node("Add", "m b", "y")]
    made = model(nodes, {"x": ["N", 7]}, ["y"], stored)
    data = [{"x": rand(40, 7, seed=i) + np.float32(1)} for i in range(3)]
    after, report = apply(made, BiasCorrection(ranges=ranges_of_model(made, data, axis=-1)))
    assert len(fired(report)) == 1
    off = [mean_error(made, rounded(m, 1), data) for m in (made, after)]
    assert off[1] < off[0] / 50


def test_weights_behind_quantize_and_dequantize() -> None:
    stored = {"w": rand(6, 6, 1, 1, seed=1), "s": np.linspace(0.01, 0.03, 6, dtype="f"), "z": np.zeros(6, np.int8)}
    stored |= {"t": np.float32(0.02), "u": np.uint8(10)}
    nodes = [
        node("QuantizeLinear", "x t u", "q"),
        node("DequantizeLinear", "q t u", "d"),
        node("QuantizeLinear", "w s z", "wq", axis=0),
        node("DequantizeLinear", "wq s z", "wd", axis=0),
        node("Conv", "d wd", "y", name="conv"),
    ]
    made = model(nodes, {"x": ["N", 6, 4, 4]}, ["y"], stored)
    ranges = Ranges({"x": TensorRange(0, 5, 0, 5, channel_axis=1, channel_mean=np.ones(6))})
    after, report = apply(made, BiasCorrection(ranges=ranges))
    assert fired(report) == ["bias-correction"]
    codes = np.clip(np.round(stored["w"] / stored["s"].reshape(-1, 1, 1, 1)), -128, 127)
    lost = stored["w"] - codes * stored["s"].reshape(-1, 1, 1, 1)
    [bias] = [numpy_helper.to_array(t) for t in after.graph.initializer if t.name == after.graph.node[-1].input[2]]
    np.testing.assert_allclose(bias, lost.sum(axis=(1, 2, 3)), atol=1e-6)


def test_a_second_run_leaves_it() -> None:
    made, data = layer(), feeds(2, 6, 9, 9)
    ranges = ranges_of_model(made, data)
    after, _ = apply(made, BiasCorrection(ranges=ranges))
    assert not fired(apply(after, BiasCorrection(ranges=ranges))[1])


@pytest.mark.parametrize(
    ("known", "reason"),
    [
        (TensorRange(0, 1, 0, 1), "no means of channels"),
        (TensorRange(0, 1, 0, 1, channel_axis=2, channel_mean=np.ones(6)), "by another axis"),
        (TensorRange(0, 1, 0, 1, channel_axis=1, channel_mean=np.ones(5)), "another number of channels"),
        (TensorRange(0, 1, 0, 1, channel_axis=1, channel_mean=np.zeros(6)), "lose nothing on average"),
    ],
)
def test_means_that_are_not_there(known: TensorRange, reason: str) -> None:
    _, report = apply(layer(), BiasCorrection(ranges=Ranges({"x": known})))
    assert any(reason in text for text in reasons(report, "bias-correction"))


def test_layers_that_are_left() -> None:
    _, report = apply(layer(), BiasCorrection(ranges=Ranges({"other": TensorRange(0, 1, 0, 1)})))
    assert reasons(report, "bias-correction") == ["there is no range of what it reads"]
    made = model([node("MatMul", "x w", "y")], {"x": ["N", 7]}, ["y"], {"w": rand(7, 5)})
    ranges = Ranges({"x": TensorRange(0, 1, 0, 1, channel_axis=1, channel_mean=np.ones(7))})
    assert reasons(apply(made, BiasCorrection(ranges=ranges))[1], "bias-correction") == ["a MatMul without a bias"]
    made = model([node("Gemm", "x w b", "y", beta=2.0)], {"x": ["N", 7]}, ["y"], {"w": rand(7, 5), "b": rand(5)})
    said = reasons(apply(made, BiasCorrection(ranges=ranges))[1], "bias-correction")
    assert said == ["its bias is no constant for each channel"]
    assert not fired(apply(layer(), BiasCorrection(ranges=ranges, keep_float="conv"))[1])


def test_ranges_are_needed() -> None:
    with pytest.raises(GraphoptError, match="no ranges were given"):
        apply(layer(), "bias-correction")
