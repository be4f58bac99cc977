"""smooth-quant: the same function, with activations that are easier to quantize."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from graphopt.analysis.ranges import Ranges, TensorRange
from graphopt.errors import GraphoptError
from graphopt.passes.quantize.quantize_dynamic import QuantizeDynamic
from graphopt.passes.quantize.smooth_quant import NAME, SmoothQuant, expected_error, smooth_scale

from ..util import apply, fired, model, node, ops, rand, reasons, run

K, N = 32, 24
LOUD = np.where(np.arange(K) % 8 == 3, 60.0, 1.0).astype(np.float32)  # what some channels are larger by
FEEDS = {"x": rand(6, 5, K, seed=3)}


def outliers(name: str, proto: onnx.ModelProto, feeds: dict[str, Any] = FEEDS, axis: int = -1) -> Ranges:
    """The ranges of one tensor, as calibration per channel finds them."""
    probe = onnx.ModelProto.FromString(proto.SerializeToString())
    if name not in feeds:
        probe.graph.output.append(onnx.ValueInfoProto(name=name))
    found = feeds[name] if name in feeds else run(probe, feeds)[-1]
    flat = found.reshape(-1, found.shape[-1]).astype(np.float64)
    low, high = flat.min(0), flat.max(0)
    top = TensorRange(
        low.min(), high.max(), low.min(), high.max(), channel_axis=axis, channel_low=low, channel_high=high
    )
    return Ranges({name: top}, samples=1)


def norm() -> onnx.NodeProto:
    return node("LayerNormalization", "x g b", "a")


NORM = {"g": LOUD, "b": rand(K, seed=1)}
W = {"w": rand(K, N, seed=2)}


def built(front: list[Any], weights: dict[str, Any], *more: Any, x: Any = ("N", 5, K), opset: int = 17) -> Any:
    nodes = [*front, node("MatMul", "a w", "y"), *more]
    return model(nodes, {"x": x}, ["y", *(n.output[0] for n in more)], {**W, **weights}, opset=opset)


def sqnr(want: Any, got: Any) -> float:
    return float(10 * np.log10(np.square(want).sum() / np.square(want - got).sum()))


def smooths(before: Any, name: str = "a", feeds: dict[str, Any] = FEEDS, **options: Any) -> Any:
    """It fires, computes the same, and int8 is nearer to the original by 3 dB at least."""
    ranges = outliers(name, before, feeds)
    after, report = apply(before, SmoothQuant(ranges, **options))
    assert set(fired(report)) == {NAME}
    for want, got in zip(run(before, feeds), run(after, feeds), strict=True):
        np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5 * np.abs(want).max())
    plain, smooth = (apply(m, QuantizeDynamic(least=0))[0] for m in (before, after))
    want = run(before, feeds)[0]
    assert sqnr(want, run(smooth, feeds)[0]) > sqnr(want, run(plain, feeds)[0]) + 3
    assert not fired(apply(after, SmoothQuant(ranges, **options))[1])  # of the new tensor nothing is known
    return after


@pytest.mark.parametrize("alpha", [-1.0, 0.5, 0.7])
def test_into_a_normalization(alpha: float) -> None:
    before = built([norm()], NORM)
    after = smooths(before, alpha=alpha)
    assert ops(after) == ops(before) and len(after.graph.initializer) == len(before.graph.initializer)


def test_into_a_normalization_written_out() -> None:
    front = [
        node("ReduceMean", "x", "m", axes=[-1]),
        node("Sub", "x m", "d"),
        node("Mul", "d d", "s"),
        node("ReduceMean", "s", "v", axes=[-1]),
        node("Sqrt", "v", "r"),
        node("Div", "d r", "n"),
        node("Mul", "n g", "t"),
        node("Add", "t b", "a"),
    ]
    before = built(front, NORM)
    assert ops(smooths(before)) == ops(before)


def test_one_scale_for_all_readers() -> None:
    before = built([norm()], {**NORM, "w2": rand(K, N, seed=4)}, node("MatMul", "a w2", "z"))
    assert ops(smooths(before)) == ops(before)


V, C = rand(K, K, seed=5) * LOUD, rand(K, seed=6) * LOUD


@pytest.mark.parametrize(
    "front",
    [
        [node("MatMul", "x v", "a")],
        [node("MatMul", "x v", "p"), node("Add", "c p", "a")],
        [node("MatMul", "x v", "p"), node("Add", "p c", "q"), node("Relu", "q", "a")],
        [node("MatMul", "x v", "p"), node("Sub", "p c", "a")],
        [node("Div", "x d", "a")],
        [node("Mul", "x g", "a")],
        [node("MatMul", "x u", "i"), node("Sigmoid", "i", "s"), node("MatMul", "x v", "p"), node("Mul", "p s", "a")],
    ],
)
def test_into_what_the_activation_is_made_of(front: list[Any]) -> None:
    known = {"v": V, "c": C, "d": 1 / LOUD, "g": LOUD, "u": rand(K, K, seed=7)}
    used = {name for n in front for name in n.input}
    before = built(front, {k: v for k, v in known.items() if k in used})
    assert ops(smooths(before)) == ops(before)


@pytest.mark.parametrize("turned", [0, 1])
def test_gemm(turned: int) -> None:
    feeds = {"x": rand(30, K, seed=3)}
    nodes = [node("Gemm", "x v c", "a", transB=turned, alpha=0.5), node("Gemm", "a w", "y", transB=turned)]
    weights = {"v": V.T.copy() if turned else V, "c": C, "w": W["w"].T.copy() if turned else W["w"]}
    smooths(model(nodes, {"x": ("N", K)}, ["y"], weights), feeds=feeds)


def test_through_the_heads_of_an_attention() -> None:
    split = np.array([0, 0, 4, 8])
    nodes = [
        node("MatMul", "x v", "p"),
        node("Reshape", "p split", "q"),
        node("Transpose", "q", "t", perm=[0, 2, 1, 3]),
        node("Softmax", "s", "e"),
        node("MatMul", "e t", "m"),
        node("Transpose", "m", "o", perm=[0, 2, 1, 3]),
        node("Reshape", "o merge", "a"),
        node("MatMul", "a w", "y"),
    ]
    weights = {**W, "v": V, "split": split, "merge": np.array([0, 0, K])}
    before = model(nodes, {"x": (6, 5, K), "s": (6, 4, 5, 5)}, ["y"], weights)
    smooths(before, feeds={**FEEDS, "s": rand(6, 4, 5, 5, seed=8)})


# -- what stays --------------------------------------------------------------------------------------------------------


UNKNOWN = "no range is known of the activation: calibrate this model"


def refused(before: Any, ranges: Any = None, **options: Any) -> list[str]:
    after, report = apply(before, SmoothQuant(ranges or outliers("a", before), **options))
    assert not fired(report) and ops(after) == ops(before)
    found = reasons(report, NAME)  # of other products, nothing is known
    return [reason for reason in found if reason != UNKNOWN] or found


def residual() -> Any:
    return built([norm()], NORM, node("Neg", "a", "z"))


def test_a_residual_needs_a_mul_of_its_own() -> None:
    assert refused(residual()) == ["others read the activation, too, as it is"]
    after = smooths(residual(), explicit=True)
    assert ops(after) == {**ops(residual()), "Mul": 1}


def test_an_input_needs_a_mul_of_its_own() -> None:
    before = model([node("MatMul", "x w", "y")], {"x": ("N", 5, K)}, ["y"], W)
    feeds = {"x": FEEDS["x"] * LOUD}
    assert refused(before, outliers("x", before, feeds)) == ["the activation is an input"]
    smooths(before, "x", feeds, explicit=True)


def test_behind_what_mixes_or_bends() -> None:
    before = built([node("MatMul", "x v", "p"), node("Sigmoid", "p", "s"), node("Mul", "s s", "a")], {"v": V})
    found = outliers("a", before)
    wide = found["a"]
    loud = TensorRange(0.0, 60.0, 0.0, 60.0, channel_axis=-1, channel_low=wide.channel_low, channel_high=LOUD * 1.0)
    assert refused(before, Ranges({"a": loud})) == ["no constant before Mul can take the scales"]


def test_what_is_read_on_the_way() -> None:
    before = built([node("MatMul", "x v", "p"), node("Relu", "p", "a")], {"v": V}, node("Neg", "p", "z"))
    assert refused(before) == ["what the activation is made of is read elsewhere"]


def test_nothing_to_gain() -> None:
    before = built([norm()], {"g": np.ones(K, np.float32), "b": np.zeros(K, np.float32)})
    assert refused(before) == ["no scales would make the error of int8 much smaller"]


def test_weights_that_others_read() -> None:
    before = built([norm()], NORM, node("MatMul", "x w", "z"))
    assert refused(before) == ["others read the weights, too"]


def test_ranges_are_needed_of_each_channel() -> None:
    before = built([norm()], NORM)
    assert refused(before, Ranges({"other": TensorRange(0, 1, 0, 1)})) == [UNKNOWN]
    expected = ["no range is known of each channel of the activation's last axis: calibrate per channel"]
    assert refused(before, Ranges({"a": TensorRange(-1, 1, -1, 1)})) == expected
    assert refused(before, outliers("a", before, axis=1)) == expected
    with pytest.raises(GraphoptError, match="no ranges were given"):
        apply(before, SmoothQuant())


@pytest.mark.parametrize("options", [{"only": "none"}, {"keep_float": "*"}])
def test_nodes_are_chosen_by_name(options: dict[str, str]) -> None:
    assert refused(built([norm()], NORM), **options) == []


def test_channels_without_weights_or_values_keep_their_scale() -> None:
    scale = smooth_scale(np.array([0.0, 4.0, 1.0]), np.array([1.0, 1.0, 0.0]), 0.5)
    assert scale.tolist() == [1.0, 1.0, 1.0]
    assert expected_error(np.zeros(3), np.zeros(3), np.ones(3), [np.zeros((3, 2), np.float32)]) == 0


def test_another_readers_constant_stays() -> None:
    front = [norm(), node("Mul", "x g", "z")]
    before = model([*front, node("MatMul", "a w", "y")], {"x": ("N", 5, K)}, ["y", "z"], {**W, **NORM}, opset=17)
    after = smooths(before)
    np.testing.assert_array_equal(run(after, FEEDS)[1], run(before, FEEDS)[1])
