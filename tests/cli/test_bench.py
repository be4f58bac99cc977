from __future__ import annotations

import json

import numpy as np
import onnx
import pytest


@pytest.fixture
def pair(tmp_path, make_model):
    paths = tmp_path / "a.onnx", tmp_path / "b.onnx"
    for path in paths:
        onnx.save(make_model(), path)
    return paths


def test_two_models(graphopt, pair):
    result = graphopt("bench", *pair, "--seconds", 0.01, "--repeats", 2)
    assert result.code == 0, result.err
    assert all(
        word in result.out for word in ("run", "load", "memory", "nodes executed", "95 %", "turns in 2 processes")
    )


def test_json_on_given_inputs(graphopt, pair, tmp_path):
    np.savez(tmp_path / "feeds.npz", x=np.zeros((3, 3, 8, 8), np.float32))
    result = graphopt("bench", *pair, "-i", tmp_path / "feeds.npz", "--seconds", 0, "--repeats", 1, "--json")
    found = json.loads(result.out)
    assert found["inputs"] == {"x": [3, 3, 8, 8]}
    assert found["verdict"] in ("faster", "slower", "the same")
    assert found["interval"][0] <= found["ratio"] <= found["interval"][1]


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("missing", "does not exist"),
        ("broken", "not an ONNX file"),
        ("inputs", "does not exist"),
        ("shape", "ONNX Runtime does not run"),
    ],
)
def test_what_cannot_be_timed_is_one_line(graphopt, pair, tmp_path, case, words):
    a, b = pair
    more = []
    if case == "missing":
        b = tmp_path / "none.onnx"
    elif case == "broken":
        a.write_bytes(b"nonsense")
    elif case == "inputs":
        more = ["-i", tmp_path / "none.npz"]
    else:
        np.savez(tmp_path / "feeds.npz", x=np.zeros((3, 5), np.float32))
        more = ["-i", tmp_path / "feeds.npz"]
    result = graphopt("bench", a, b, *more, "--seconds", 0, "--repeats", 1)
    assert result.code == 2
    assert result.err.count("\n") == 1
    assert words in result.err, result.err
