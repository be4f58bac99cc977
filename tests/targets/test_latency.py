from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import parser

from graphopt.errors import GraphoptError
from graphopt.targets._feeds import count_nodes, read_feeds, write_feeds
from graphopt.targets.latency import compare_latency

HEAD = '<ir_version: 10, opset_import: ["": 21]> '


def saved(path, text):
    onnx.save(parser.parse_model(HEAD + text), path)
    return path


def test_a_model_that_does_less_is_faster(tmp_path):
    heavy = saved(
        tmp_path / "a.onnx", "g (float[300, 300] x) => (float[300, 300] y) { a = MatMul(x, x)  y = MatMul(a, a) }"
    )
    light = saved(tmp_path / "b.onnx", "g (float[300, 300] x) => (float[300, 300] y) { y = Neg(x) }")
    found = compare_latency(heavy, light, seconds=0.05, repeats=2)
    assert found.verdict == "faster"
    assert found.ratio > 2
    assert (found.a.nodes, found.b.nodes) == (2, 1)
    assert found.inputs == {"x": [300, 300]}
    assert found.turns >= 14
    assert min(found.a.peak_bytes, found.a.load_milliseconds, found.b.milliseconds) > 0
    assert compare_latency(light, heavy, seconds=0.05, repeats=2).verdict == "slower"


@pytest.mark.parametrize(
    ("declared", "value"),
    [
        ("bfloat16[2] x", np.array([1, 2], ml_dtypes.bfloat16)),
        ("string[2] x", np.array(["1", "2"], object)),
        ("int4[3] x", np.array([1, -2, 3], ml_dtypes.int4)),
        ("float16[2] x", np.array([1, 2], np.float16)),
        ("bool x", np.array(True)),
    ],
)
def test_inputs_of_any_type(tmp_path, declared, value):
    dims = "[n]" if value.ndim else ""
    path = saved(tmp_path / "a.onnx", f"g ({declared}) => (float{dims} y) {{ y = Cast <to = 1> (x) }}")
    assert compare_latency(path, path, {"x": value}, seconds=0, repeats=1).turns == 7


def test_sequences(tmp_path):
    text = "g (seq(float[2]) x) => (float[n, 2] y) { y = ConcatFromSequence <axis = 0, new_axis = 1> (x) }"
    path = saved(tmp_path / "a.onnx", text)
    given = {"x": [np.zeros(2, np.float32), np.ones(2, np.float32)]}
    assert compare_latency(path, path, given, seconds=0, repeats=1).inputs == {}


def test_feeds_come_back(tmp_path):
    write_feeds(tmp_path, {"a/b": np.arange(3.0), "words": np.array(["x"], object)})
    back = read_feeds(tmp_path)
    assert back["a/b"].numpy().tolist() == [0, 1, 2]
    assert back["words"].tolist() == ["x"]
    with pytest.raises(GraphoptError, match="'m' is neither"):
        write_feeds(tmp_path, {"m": {1: 2.0}})


def test_nodes_of_bodies_count():
    model = parser.parse_model(
        HEAD + "g (bool c, float[2] x) => (float[2] y) { y = If (c) <"
        "then_branch = t () => (float[2] a) { b = Neg(x)  a = Exp(b) }, "
        "else_branch = e () => (float[2] d) { d = Constant <value_floats = [1.0, 2.0]> () }> }"
    )
    assert count_nodes(model) == 3
