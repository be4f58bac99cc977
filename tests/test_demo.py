"""The demo network: real enough to show something, small enough to run anywhere."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from graphopt.demo import demo_inputs, demo_model


def run(model: onnx.ModelProto, batch: int, level: ort.GraphOptimizationLevel) -> np.ndarray:
    options = ort.SessionOptions()
    options.graph_optimization_level = level
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    (result,) = session.run(None, demo_inputs(batch))
    return np.asarray(result)


def test_the_same_bytes_every_time() -> None:
    assert demo_model().SerializeToString(deterministic=True) == demo_model().SerializeToString(deterministic=True)


def test_valid_and_small() -> None:
    model = demo_model()
    onnx.checker.check_model(model, full_check=True)
    assert model.ByteSize() < 2 << 20
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"


def test_shows_what_the_passes_are_for() -> None:
    model = demo_model()
    ops = Counter(node.op_type for node in model.graph.node)
    assert 60 <= sum(ops.values()) <= 90
    assert ops["Conv"] >= 8
    assert ops["BatchNormalization"] >= 7
    assert {"If", "Loop", "Pad", "Dropout", "Identity", "Shape", "Gather", "Concat", "Reshape", "Gemm"} <= set(ops)
    groups = {
        onnx.helper.get_node_attr_value(n, "group")
        for n in model.graph.node
        if n.op_type == "Conv" and len(n.attribute) > 2
    }
    assert len(groups) > 1, "a depthwise Conv among the others"


@pytest.mark.parametrize("batch", [1, 3])
def test_runs_in_onnxruntime(batch: int) -> None:
    plain = run(demo_model(), batch, ort.GraphOptimizationLevel.ORT_DISABLE_ALL)
    assert plain.shape == (batch, 10)
    assert plain.dtype == np.float32
    np.testing.assert_allclose(plain.sum(axis=1), 1, rtol=1e-5)
    assert 0.001 < plain.max(axis=1).min() < 0.999, "saturated: a wrong rewrite would not show"
    fast = run(demo_model(), batch, ort.GraphOptimizationLevel.ORT_ENABLE_ALL)
    np.testing.assert_allclose(fast, plain, rtol=1e-3, atol=1e-6)


def test_images_differ_by_seed_and_stay_in_range() -> None:
    one, other = demo_inputs(2, 0)["image"], demo_inputs(2, 1)["image"]
    assert one.dtype == np.float32
    assert one.shape == (2, 3, 64, 64)
    assert 0 <= one.min() < one.max() <= 255
    assert not np.array_equal(one, other)
    assert np.array_equal(one, demo_inputs(2, 0)["image"])


def test_outputs_depend_on_the_image() -> None:
    """No block has died: other images give other probabilities."""
    model = demo_model()
    result = run(model, 4, ort.GraphOptimizationLevel.ORT_DISABLE_ALL)
    assert np.abs(result - result[:1]).max() > 1e-3


def test_optimized_demo_is_smaller_and_right() -> None:
    import graphopt

    before = demo_model()
    after = graphopt.optimize(before, "fuse", inputs=[demo_inputs(1), demo_inputs(3, 1)])
    assert len(after.graph.node) <= len(before.graph.node) - 20
    assert "BatchNormalization" not in {node.op_type for node in after.graph.node}
    want = run(before, 2, ort.GraphOptimizationLevel.ORT_DISABLE_ALL)
    np.testing.assert_allclose(run(after, 2, ort.GraphOptimizationLevel.ORT_ENABLE_ALL), want, rtol=1e-3, atol=1e-6)
