"""Time by original layer."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import parser

from graphopt import ir, optimize, profile
from graphopt.demo import demo_inputs, demo_model
from graphopt.errors import GraphoptError
from graphopt.targets.profile import _self_times


def test_the_layers_of_an_optimized_model_are_those_of_the_original(tmp_path: Path) -> None:
    model = demo_model()
    labels = {node.label for graph in ir.from_proto(model).scopes() for node in graph}
    onnx.save(optimize(model, target="onnxruntime", verify="off"), tmp_path / "m.onnx")
    found = profile(tmp_path / "m.onnx", demo_inputs(1, 0), runs=3)
    assert found.attributed > 0.95
    assert found.milliseconds > 0
    assert {name for layer in found.layers if layer.how != "unknown" for name in layer.names} <= labels
    assert [layer.milliseconds for layer in found.layers] == sorted(
        (x.milliseconds for x in found.layers), reverse=True
    )
    assert json.loads(json.dumps(found.to_dict()))["runs"] == 3
    assert [file.name for file in tmp_path.iterdir()] == ["m.onnx"]


def test_a_fused_kernel_stands_for_all_that_it_computes(tmp_path: Path) -> None:
    text = (
        '<ir_version: 8, opset_import: ["": 17]> g (float[1, 4, 8, 8] x, float[4, 4, 1, 1] w) => (float[1, 4, 8, 8] y)'
        "{ [conv] c = Conv(x, w)  [relu] y = Relu(c) }"
    )
    onnx.save(parser.parse_model(text), tmp_path / "m.onnx")
    (layer,) = profile(tmp_path / "m.onnx", runs=2).layers
    assert set(layer.names) == {"conv", "relu"}


def test_time_inside_bodies_counts_once(tmp_path: Path) -> None:
    events = [
        {"cat": "Session", "name": "model_run", "ts": 0, "dur": 1},
        {"cat": "Node", "name": "loop_kernel_time", "ts": 0, "dur": 90, "args": {"op_name": "Loop"}},
        {"cat": "Session", "name": "model_run", "ts": 100, "dur": 100},
        {"cat": "Node", "name": "loop_kernel_time", "ts": 100, "dur": 90, "args": {"op_name": "Loop"}},
        {"cat": "Node", "name": "a_kernel_time", "ts": 110, "dur": 30, "args": {"op_name": "Add"}},
        {"cat": "Node", "name": "a_kernel_time", "ts": 150, "dur": 20, "args": {"op_name": "Add"}},
    ]
    assert _self_times(events, 1) == {("loop", "Loop"): 0.04, ("a", "Add"): 0.05}


def test_what_does_not_run(tmp_path: Path) -> None:
    onnx.save(demo_model(), tmp_path / "m.onnx")
    with pytest.raises(GraphoptError, match="does not run"):
        profile(tmp_path / "m.onnx", {"nope": np.zeros(1, np.float32)})
