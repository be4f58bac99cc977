from __future__ import annotations

import json
import sys
import types

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from graphopt.errors import GraphoptError


def net(width=128):
    rng = np.random.default_rng(0)
    weights = [numpy_helper.from_array(rng.normal(size=(width, width)).astype("float32"), f"w{i}") for i in range(2)]
    nodes = [
        helper.make_node("MatMul", ["x", "w0"], ["a"], "first"),
        helper.make_node("MatMul", ["a", "w1"], ["y"], "second"),
    ]
    ends = [helper.make_tensor_value_info(name, 1, ["N", width]) for name in "xy"]
    graph = helper.make_graph(nodes, "net", ends[:1], ends[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture
def source(tmp_path):
    onnx.save(net(), tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    for number in range(6):
        x = np.random.default_rng(number).normal(size=(16, 128)).astype("float32")
        np.savez(folder / f"{number}.npz", x=x)
    return folder


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Nothing is timed in fresh processes: whatever is tried is twice as fast."""
    from graphopt.quantization import trials

    def run_race(self, base, others, seconds):
        for trial in others:
            trial.milliseconds, trial.speed = 1.0, 1.0 if trial.recipe is None else 2.0

    def compare(a, b, *rest, **options):
        return types.SimpleNamespace(ratio=2.0, interval=(1.9, 2.1), verdict="faster")

    monkeypatch.setattr(trials.Lab, "_race", run_race)
    monkeypatch.setattr("graphopt.targets.latency.compare_latency", compare)
    monkeypatch.setattr("graphopt.quantization.search.costs_of", lambda *args: None)


def test_a_folder_of_samples(graphopt, source, data, tmp_path):
    result = graphopt("quantize", source, "--data", data, "--verify", "check", "--max-loss", "20dB")
    assert result.code == 0, result.err
    assert "2.00 times as fast" in result.out
    assert f"wrote {tmp_path / 'net.int8.onnx'}" in result.out
    onnx.checker.check_model(str(tmp_path / "net.int8.onnx"))


def test_everything_at_once(graphopt, source, data, tmp_path, monkeypatch):
    module = types.ModuleType("own_eval")
    module.score = lambda outputs, sample: float(np.abs(outputs["y"]).mean())
    monkeypatch.setitem(sys.modules, "own_eval", module)
    result = graphopt(
        "quantize", source, "--data", data, "-o", tmp_path / "out.onnx", "--metric", "own_eval:score", "--max-loss",
        "10%", "--method", "dynamic", "--keep-float", "second", "--layers", "--plot", tmp_path / "p.png", "--report",
        tmp_path / "r.json", "--seconds", 20, "--samples", 5, "--verify", "check",
    )  # fmt: skip
    assert result.code == 0, result.err
    assert "keep_float" in result.out
    assert "its own dB" in result.out
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["methods"] == {"first": "dynamic", "second": "float"}
    assert report["held_out"] == 1
    assert report["limit"] == "at most 10 % lost of the metric"
    assert (tmp_path / "p.png").stat().st_size > 1000
    assert (tmp_path / "out.onnx").exists()


def test_json(graphopt, source, data):
    result = graphopt("quantize", source, "--data", data, "--method", "dynamic", "--json", "--verify", "check")
    assert json.loads(result.out)["chosen"] == "dynamic"


def test_quiet(graphopt, source, data):
    result = graphopt("quantize", source, "--data", data, "--method", "dynamic", "-q", "--verify", "check")
    assert (result.code, result.out) == (0, "")


def test_without_data(graphopt, source, tmp_path):
    result = graphopt("quantize", source)
    assert result.code == 2
    assert all(word in result.err for word in ("needs data", "'dynamic'", "'weight-only'"))
    assert result.err.count("\n") == 1
    assert not (tmp_path / "net.int8.onnx").exists()
    result = graphopt("quantize", source, "--method", "dynamic", "--verify", "check", "--max-loss", "10dB")
    assert result.code == 0, result.err
    assert "made-up inputs" in result.err


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--max-loss", "much"], "max_loss"),
        (["--metric", "no_such_module:f", "--max-loss", "1%"], "there is no module"),
        (["--keep-float", "nothing*"], "matches no node"),
        (["--bits", 4], "--method weight-only"),
        (["--rounding", "gptq"], "--method weight-only"),
        (["--method", "weight-only", "--rounding", "best"], "best"),
        (["--data", "no/such/folder"], "no/such/folder"),
        (["-o", "no/such/folder/x.onnx"], "does not exist"),
        (["--ranges", "none.json"], "none.json"),
        (["--method", "magic"], "magic"),
    ],
)
def test_mistakes_are_one_line(graphopt, source, data, tmp_path, more, words):
    result = graphopt("quantize", source, "--data", data, "--verify", "off", *more)
    assert result.code == 2
    assert result.err.count("\n") == 1
    assert words in result.err, result.err
    assert not (tmp_path / "net.int8.onnx").exists()


def test_one_file_is_not_two(graphopt, source, data, tmp_path):
    result = graphopt("quantize", source, "--data", data, "-o", tmp_path / "x", "--report", tmp_path / "x")
    assert result.code == 2
    assert "different names" in result.err
    result = graphopt("quantize", source, "--data", data, "-o", source)
    assert result.code == 2
    assert "the input itself" in result.err


def test_a_missing_model(graphopt, tmp_path, data):
    result = graphopt("quantize", tmp_path / "none.onnx", "--data", data)
    assert result.code == 2
    assert "none.onnx" in result.err


def test_what_fails_leaves_nothing(graphopt, source, data, tmp_path, monkeypatch):
    def fail(*args, **options):
        raise GraphoptError("no more")

    monkeypatch.setattr("graphopt.quantization.core._Run._search", fail)
    result = graphopt("quantize", source, "--data", data, "--verify", "off")
    assert (result.code, result.err) == (2, "error: no more\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "net.onnx"]
