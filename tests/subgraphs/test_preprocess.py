"""Preprocessing in the graph: the same numbers, and folded where that is exact."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper, parser

from graphopt import preprocess
from graphopt.errors import GraphoptError
from graphopt.verify.run import Session
from graphopt.verify.source import Source

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def stem(pads: int) -> ModelProto:
    weight = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32)
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"], pads=[pads] * 4), helper.make_node("Relu", ["c"], ["y"])]
    ends = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, "H", "W"]),
            helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4, None, None])]  # fmt: skip
    graph = helper.make_graph(nodes, "stem", ends[:1], ends[1:], [numpy_helper.from_array(weight, "w")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def run(model: ModelProto, x: np.ndarray) -> np.ndarray:
    return np.asarray(Session(Source.of(model)).run({"x": x})[0])


@pytest.mark.parametrize(("pads", "left"), [(0, ["Transpose", "Cast", "Conv", "Relu"]),
                                            (1, ["Transpose", "Cast", "Sub", "Conv", "Relu"])])  # fmt: skip
def test_normalization_folds_into_the_first_convolution(pads: int, left: list[str]) -> None:
    """The factor always; the shift where there is no padding."""
    model = stem(pads)
    new = preprocess(model, layout="NHWC", dtype="uint8", scale=1 / 255, mean=MEAN, std=STD, channel_swap=True)
    assert [node.op_type for node in new.graph.node] == left
    image = np.random.default_rng(1).integers(0, 256, (2, 9, 7, 3)).astype(np.uint8)
    by_hand = ((image[..., ::-1] / 255 - MEAN) / STD).astype(np.float32).transpose(0, 3, 1, 2)
    assert np.allclose(run(new, image), run(model, np.ascontiguousarray(by_hand)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("how", [
    {}, {"mean": 127.5}, {"std": [2.0, 3.0, 4.0]}, {"layout": "NHWC"}, {"dtype": "float16"}, {"channel_swap": True},
])  # fmt: skip
def test_each_step_alone(how: dict[str, Any]) -> None:
    model = stem(0)
    new = preprocess(model, fold=False, **how)
    x = np.random.default_rng(2).standard_normal((1, 3, 5, 5)).astype(how.get("dtype", "float32"))
    expected = x.astype(np.float32)[:, ::-1] if how.get("channel_swap") else x.astype(np.float32)
    mean, std = (np.reshape(how.get(k, d), (-1, 1, 1)) for k, d in (("mean", 0.0), ("std", 1.0)))
    expected = ((expected - mean) / std).astype(np.float32)
    fed = np.ascontiguousarray(x.transpose(0, 2, 3, 1) if how.get("layout") == "NHWC" else x)
    assert np.allclose(run(new, fed), run(model, np.ascontiguousarray(expected)), rtol=1e-4, atol=1e-4)


def test_the_interface_keeps_its_names_order_and_symbols() -> None:
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (float[N] k, float[N, 3, H, W] x) => (float[N, 3, H, W] y)'
        "{ s = ReduceSum(k)  y = Mul(x, s) }"
    )
    new = preprocess(model, "x", layout="NHWC", dtype="uint8")
    assert [info.name for info in new.graph.input] == ["k", "x"]
    dims = [dim.dim_param or dim.dim_value for dim in new.graph.input[1].type.tensor_type.shape.dim]
    assert dims == ["N", "H", "W", 3]
    assert new.graph.input[1].type.tensor_type.elem_type == TensorProto.UINT8


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"input": "nope"}, "no input 'nope'; there are 'x'"),
        ({"layout": "HWC"}, "unknown layout 'HWC'"),
        ({"dtype": "int64"}, "unknown dtype 'int64'"),
        ({"mean": [1.0, 2.0]}, "mean has 2 numbers for 3 channels"),
        ({"std": [1.0, 0.0, 1.0]}, "std must be finite and not 0"),
        ({"mean": float("nan")}, "mean must be finite"),
        ({"scale": 0.0}, "scale must be finite and not 0"),
    ],
)
def test_what_cannot_be_is_said(how: dict[str, Any], message: str) -> None:
    with pytest.raises(GraphoptError, match=message):
        preprocess(stem(0), **how)


def test_what_is_no_image() -> None:
    for kind in ("float[N, 3]", "int64[N, 3, 4, 4]"):
        model = parser.parse_model(
            f'<ir_version: 8, opset_import: ["": 17]> g ({kind} x) => ({kind} y) {{ y = Identity(x) }}'
        )
        with pytest.raises(GraphoptError, match="'x' is no image"):
            preprocess(model)
    free = parser.parse_model('<ir_version: 8, opset_import: ["": 17]> g (float[N,C,H,W] x) => (float[N,C,H,W] y) '
                              "{ y = Relu(x) }")  # fmt: skip
    with pytest.raises(GraphoptError, match="channels of 'x' are not known"):
        preprocess(free)
