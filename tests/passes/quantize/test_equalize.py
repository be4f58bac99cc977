"""Cross-layer equalization: exact with powers of two, even channels, and less error in int8."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from tests.passes.quantize.models import batches, cnn, error, ranges_of_model, uneven
from tests.passes.util import apply, fired, model, node, rand, reasons, run

from graphopt.errors import GraphoptError
from graphopt.passes.quantize._scales import dequantize, quantize, weight_scale
from graphopt.passes.quantize.equalize import Equalize
from graphopt.testing import conformance


def weights(made: onnx.ModelProto) -> dict[str, np.ndarray]:
    """The weights of each node by its name."""
    stored = {t.name: numpy_helper.to_array(t) for t in made.graph.initializer}
    return {n.name: stored[n.input[1]] for n in made.graph.node if len(n.input) > 1}


def in_int8(made: onnx.ModelProto, axis: int | None = None) -> onnx.ModelProto:
    """The model with its weights rounded to int8, one scale each."""
    rounded = onnx.ModelProto()
    rounded.CopyFrom(made)
    for tensor in rounded.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.ndim > 1:
            scale = weight_scale(array, axis)
            tensor.CopyFrom(numpy_helper.from_array(dequantize(quantize(array, scale, 0), scale, 0), tensor.name))
    return rounded


@pytest.mark.parametrize("between", ["Relu", "LeakyRelu", "MaxPool", "AveragePool", "Identity"])
def test_nothing_changes_but_the_sizes(between: str) -> None:
    attrs = {"kernel_shape": [3, 3]} if "Pool" in between else {}
    before = cnn(between, **attrs)
    after, report = apply(before, "equalize")
    assert fired(report) == ["equalize"] * 2
    for feed in batches():
        for want, got in zip(run(before, feed), run(after, feed), strict=True):
            np.testing.assert_array_equal(got, want)


def test_channels_take_the_same_part_of_both_ranges() -> None:
    after, _ = apply(cnn(), "equalize")
    found = weights(after)
    ahead = np.abs(found["second"]).max(axis=(1, 2, 3))
    behind = np.abs(found["third"]).max(axis=(0, 2, 3))
    assert (np.abs(np.log2(ahead / behind)) <= 2.0).all()  # s is off by at most sqrt(2) on either side, for two pairs


def test_less_error_in_int8() -> None:
    before, data = cnn(), batches()
    after, _ = apply(before, "equalize")
    free, _ = apply(before, Equalize(powers_of_two=False))
    lost = [error(before, in_int8(m), data) for m in (before, after, free)]
    assert lost[1] < lost[0] / 10
    assert lost[1] < 3 * lost[2]


def test_any_factor_rounds_once() -> None:
    before = cnn()
    after, report = apply(before, Equalize(powers_of_two=False))
    assert len(fired(report)) == 2
    assert error(before, after, batches()) < 1e-12


def test_a_second_run_finds_them_even() -> None:
    outcome = conformance("equalize", cnn())
    _, report = apply(outcome.model, "equalize")
    assert not fired(report)
    assert "its channels are even already" in reasons(report, "equalize")


def test_tensors_between_get_new_names() -> None:
    before = cnn()
    after, _ = apply(before, "equalize")
    kept = {name for n in after.graph.node for name in n.output}
    assert kept & {"a", "r1", "c", "r2"} == set()
    assert "y" in kept


def test_products_with_their_biases() -> None:
    nodes = [
        node("MatMul", "x w1", "m", name="one"),
        node("Add", "b1 m", "a"),
        node("Relu", "a", "r"),
        node("MatMul", "r w2", "n", name="two"),
        node("Relu", "n", "t"),
        node("Gemm", "t w3 b3", "g", name="three", transB=1),
        node("PRelu", "g slope", "p"),
        node("Gemm", "p w4", "y", name="four"),
    ]
    stored = {
        "w1": uneven(6, 8, axis=1, seed=1),
        "b1": rand(8, seed=2),
        "w2": uneven(8, 8, axis=0, seed=3),
        "w3": uneven(8, 8, axis=0, seed=4),
        "b3": rand(8, seed=5),
        "slope": rand(8, seed=6),
        "w4": uneven(8, 3, axis=0, seed=7),
    }
    before = model(nodes, {"x": [5, 6]}, ["y"], stored)
    after, report = apply(before, "equalize")
    assert len(fired(report)) == 3
    np.testing.assert_array_equal(run(after, {"x": rand(5, 6)})[0], run(before, {"x": rand(5, 6)})[0])


def test_two_readers_and_groups_and_transposed_convolutions() -> None:
    nodes = [
        node("Conv", "x w1 b1", "a", name="one"),
        node("Relu", "a", "r"),
        node("Conv", "r w2", "u", name="grouped", group=2),
        node("ConvTranspose", "r w3", "v", name="wide", group=2),
        node("Relu", "v", "s"),
        node("Conv", "s w4", "t", name="last"),
    ]
    stored = {
        "w1": uneven(8, 3, 1, 1, axis=0, seed=1),
        "b1": rand(8, seed=9),
        "w2": uneven(6, 4, 1, 1, axis=1, seed=2),
        "w3": uneven(8, 3, 1, 1, axis=1, seed=3),
        "w4": uneven(2, 6, 1, 1, axis=1, seed=4),
    }
    before = model(nodes, {"x": ["N", 3, 5, 5]}, ["u", "t"], stored)
    after, report = apply(before, "equalize")
    assert len(fired(report)) == 2
    feed = {"x": rand(2, 3, 5, 5)}
    for want, got in zip(run(before, feed), run(after, feed), strict=True):
        np.testing.assert_array_equal(got, want)


def test_a_shared_weight_stays_for_the_other() -> None:
    before = cnn()
    before.graph.node.append(node("Identity", "w1", "w"))
    before.graph.output.append(onnx.helper.make_tensor_value_info("w", 1, [8, 3, 3, 3]))
    after, report = apply(before, "equalize")
    assert len(fired(report)) == 2
    feed = batches(1)[0]
    np.testing.assert_array_equal(run(after, feed)[1], run(before, feed)[1])


@pytest.mark.parametrize(
    ("between", "attrs", "reason"),
    [("Sigmoid", {}, "behind it comes Sigmoid"), ("Clip", {"min": 0.0, "max": 6.0}, "behind it comes Clip")],
)
def test_what_no_scale_passes_through(between: str, attrs: dict[str, float], reason: str) -> None:
    _, report = apply(cnn(between, opset=10, **attrs), Equalize(only="first"))
    assert not fired(report)
    assert any(reason in text for text in reasons(report, "equalize"))


def changed(**how: object) -> onnx.ModelProto:
    made = cnn()
    if "output" in how:
        made.graph.output.append(onnx.helper.make_tensor_value_info("r1", 1, ["N", 8, 8, 8]))
    if "bias" in how:
        made.graph.input.append(onnx.helper.make_tensor_value_info("b1", 1, [8]))
    if "flat" in how:
        del made.graph.node[2:]
        made.graph.node.append(node("MatMul", "r1 v", "y", name="second"))
        made.graph.initializer.append(numpy_helper.from_array(rand(8, 8), "v"))
    if "tiny" in how:
        made.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.full((8, 3, 3, 3), 1.3e-38, np.float32), "w1"))
        made.graph.initializer[2].CopyFrom(numpy_helper.from_array(np.full((8, 1, 3, 3), 3e-45, np.float32), "w2"))
    return made


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("output", "an output, or read by a body"),
        ("bias", "no constant for each channel"),
        ("flat", "has its channels elsewhere"),
        ("tiny", "leave the range of float32"),
    ],
)
def test_what_is_left_alone(how: str, reason: str) -> None:
    made = changed(**{how: True})
    _, report = apply(made, Equalize(only="first"))
    assert any(reason in text for text in reasons(report, "equalize"))


def test_by_activations() -> None:
    before, data = cnn(), batches()
    ranges = ranges_of_model(before, data)
    after, report = apply(before, Equalize(by="activations", ranges=ranges))
    assert len(fired(report)) >= 1
    assert error(before, after, data) == 0.0
    _, report = apply(after, Equalize(by="activations", ranges=ranges))
    assert "the ranges say nothing of the channels behind it" in reasons(report, "equalize")


def test_options_that_are_wrong() -> None:
    with pytest.raises(GraphoptError, match="not 'luck'"):
        apply(cnn(), Equalize(by="luck"))
    with pytest.raises(GraphoptError, match="no ranges were given"):
        apply(cnn(), Equalize(by="activations"))


def test_only_and_keep_float() -> None:
    _, report = apply(cnn(), Equalize(only="sec*"))
    assert len(fired(report)) == 1
    _, report = apply(cnn(), Equalize(keep_float="*"))
    assert not fired(report)
