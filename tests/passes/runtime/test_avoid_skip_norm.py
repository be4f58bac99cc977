"""avoid-skip-layer-norm: ONNX Runtime's slow SkipLayerNormalization is not made."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from graphopt.testing import conformance

from ..util import apply, fired, model, node, ops, rand

NAME = "avoid-skip-layer-norm"
WEIGHTS = {"g": rand(16, seed=1), "b": rand(16, seed=2)}
NORM = node("LayerNormalization", "a g b", "y")
SHAPES = {"x": (2, 3, 16), "s": (2, 3, 16)}


def built(
    *nodes: onnx.NodeProto, shapes: Any = SHAPES, outputs: Any = ("y",), weights: Any = WEIGHTS, **more: Any
) -> Any:
    return model([node("Add", "x s", "a"), *nodes], shapes, outputs, weights, **more)


def by_runtime(proto: onnx.ModelProto, tmp_path: Any) -> Counter[str]:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 4
    ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return Counter(n.op_type for n in onnx.load(options.optimized_model_filepath).graph.node)


def written_out(opset: int) -> list[onnx.NodeProto]:
    return [
        node("ReduceMean", "a", "m", axes=[-1]),
        node("Sub", "a m", "d"),
        node("Pow", "d two", "q"),
        node("ReduceMean", "q", "v", axes=[-1]),
        node("Add", "v eps", "w"),
        node("Sqrt", "w", "r"),
        node("Div", "d r", "n"),
        node("Mul", "n g", "t"),
        node("Add", "t b", "y"),
    ]


@pytest.mark.parametrize("opset", [11, 17])
def test_both_spellings(opset: int, tmp_path: Any) -> None:
    nodes = [NORM] if opset == 17 else written_out(opset)
    more = {} if opset == 17 else {"two": np.float32(2), "eps": np.float32(1e-5)}
    before = built(*nodes, weights={**WEIGHTS, **more}, opset=opset)
    assert by_runtime(before, tmp_path)["SkipLayerNormalization"] == 1
    after = conformance(NAME, before).model
    assert ops(after)["Sum"] == 1 and ops(after).get("Add", 0) == ops(before)["Add"] - 1
    assert by_runtime(after, tmp_path)["SkipLayerNormalization"] == 0
    assert by_runtime(after, tmp_path)["LayerNormalization"] == 1


@pytest.mark.parametrize(
    "before",
    [
        built(NORM, node("Neg", "a", "z"), outputs=("y", "z")),
        built(NORM, outputs=("y", "a")),
        built(node("Relu", "a", "y"), weights={}),
        built(NORM, shapes={"x": (2, 16), "s": (2, 16)}),
        built(NORM, shapes={"x": (2, 3, 16)}, weights={**WEIGHTS, "s": rand(16)}),
        built(NORM, weights={k: v.astype(np.float64) for k, v in WEIGHTS.items()}, dtype=TensorProto.DOUBLE),
    ],
)
def test_what_is_not_fused_stays(before: Any) -> None:
    assert not fired(apply(before, NAME)[1])


def test_tensorrt_is_left_alone() -> None:
    assert not fired(apply(built(NORM), NAME, target="tensorrt")[1])
