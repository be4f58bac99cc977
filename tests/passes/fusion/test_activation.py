"""fuse-activation."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from ..util import apply, assert_same, fired, model, node, ops, rand, reasons, run

ACTIVATIONS: dict[str, dict[str, Any]] = {
    "Relu": {}, "LeakyRelu": {"alpha": 0.2}, "Sigmoid": {}, "Tanh": {}, "HardSigmoid": {"alpha": 0.3, "beta": 0.4}
}  # fmt: skip
X = {"x": rand(2, 3, 6, 6, seed=5, low=-4, high=4)}


def conv(activation: onnx.NodeProto, opset: int = 17, **more: Any) -> onnx.ModelProto:
    nodes = [node("Conv", "x w b", "c", name="conv", pads=[1, 1, 1, 1]), activation]
    return model(nodes, {"x": [2, 3, 6, 6]}, ["y"], {"w": rand(4, 3, 3, 3), "b": rand(4), **more}, opset=opset)


@pytest.mark.parametrize("op", ACTIVATIONS)
@pytest.mark.parametrize("given", [True, False])
def test_conv(op: str, given: bool) -> None:
    before = conv(node(op, "c", "y", **(ACTIVATIONS[op] if given else {})))
    after, report = apply(before, "fuse-activation", target="onnxruntime")
    assert ops(after) == {"FusedConv": 1}
    assert fired(report) == ["fuse-activation"]
    assert [(o.domain, o.version) for o in after.opset_import] == [("", 17), ("com.microsoft", 1)]
    assert_same(before, after, X, reference=False)
    np.testing.assert_allclose(run(before, X)[0], run(after, X, optimize=True)[0], atol=1e-5)


@pytest.mark.parametrize("op", ACTIVATIONS)
@pytest.mark.parametrize("given", [True, False])
def test_gemm(op: str, given: bool) -> None:
    nodes = [node("Gemm", "x w b", "c", alpha=0.5, transB=1), node(op, "c", "y", **(ACTIVATIONS[op] if given else {}))]
    before = model(nodes, {"x": ["N", 3]}, ["y"], {"w": rand(4, 3), "b": rand(4)})
    after, _ = apply(before, "fuse-activation", target="onnxruntime")
    assert ops(after) == {"FusedGemm": 1}
    assert_same(before, after, {"x": rand(2, 3, low=-4, high=4)}, reference=False)


@pytest.mark.parametrize("bounds", [{"min": 0.0, "max": 1.0}, {"min": -0.5}, {"max": 0.5}, {}], ids=str)
@pytest.mark.parametrize("opset", [10, 17])
def test_clip(bounds: dict[str, float], opset: int) -> None:
    if opset < 11:
        before = conv(node("Clip", "c", "y", **bounds), opset)
    else:
        names = " ".join(key if key in bounds else "-" for key in ("min", "max"))
        before = conv(node("Clip", f"c {names}", "y"), opset, **{k: np.float32(v) for k, v in bounds.items()})
    after, _ = apply(before, "fuse-activation", target="onnxruntime")
    assert ops(after) == {"FusedConv": 1}
    assert_same(before, after, X, reference=False)


def test_refuses_bounds_computed_at_run_time() -> None:
    nodes = [node("Conv", "x w", "c"), node("Clip", "c low", "y")]
    before = model(nodes, {"x": [2, 3, 6, 6], "low": []}, ["y"], {"w": rand(4, 3, 3, 3)})
    _, report = apply(before, "fuse-activation", target="onnxruntime")
    assert reasons(report, "fuse-activation") == ["the bounds of Clip are computed at run time"]


def test_refuses_other_dtypes() -> None:
    nodes = [node("Conv", "x w", "c"), node("Relu", "c", "y")]
    before = model(nodes, {"x": [2, 3, 6, 6]}, ["y"], {"w": rand(4, 3, 3, 3, dtype=np.float16)}, dtype=10)
    _, report = apply(before, "fuse-activation", target="onnxruntime")
    assert "float32 only" in reasons(report, "fuse-activation")[0]


def test_leaves_a_relu_and_its_clip_to_the_runtime() -> None:
    nodes = [node("Conv", "x w", "c"), node("Relu", "c", "r"), node("Clip", "r - six", "y")]
    before = model(nodes, {"x": [2, 3, 6, 6]}, ["y"], {"w": rand(4, 3, 3, 3), "six": np.float32(6)})
    _, report = apply(before, "fuse-activation", target="onnxruntime")
    assert reasons(report, "fuse-activation") == ["a Clip follows: the runtime makes one operator of Relu and Clip"]


def test_is_in_no_group() -> None:
    after, _ = apply(conv(node("Relu", "c", "y")), "fusion", target="onnxruntime")
    assert ops(after) == {"Conv": 1, "Relu": 1}


@pytest.mark.parametrize("target", ["onnx", "tensorrt"])
def test_only_for_onnx_runtime(target: str) -> None:
    before = conv(node("Relu", "c", "y"))
    after, report = apply(before, "fuse-activation", target=target)
    assert ops(after) == {"Conv": 1, "Relu": 1}
    assert fired(report) == []


def test_refused_or_idle_it_imports_nothing() -> None:
    after, _ = apply(conv(node("Softplus", "c", "y")), "fuse-activation", target="onnxruntime")
    assert [o.domain for o in after.opset_import] == [""]


def test_nan_and_infinity_go_through() -> None:
    before = conv(node("Relu", "c", "y"))
    after, _ = apply(before, "fuse-activation", target="onnxruntime")
    x = rand(2, 3, 6, 6)
    x[0, 0, 0, 0], x[1, 1, 5, 5] = np.nan, np.inf
    assert_same(before, after, {"x": x}, reference=False)
