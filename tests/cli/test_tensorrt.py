"""build, check, package, and bench of plans; on a simulated device."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx import parser

from graphopt.targets.tensorrt import core, engine
from graphopt.targets.tensorrt._bindings import Bindings
from graphopt.testing.simulator import Simulated


@pytest.fixture
def trt(monkeypatch, tmp_path):
    monkeypatch.setenv("GRAPHOPT_CACHE", str(tmp_path / "cache"))
    simulated = Simulated("8.5")
    for module in (core, engine):
        monkeypatch.setattr(module, "load_bindings", lambda: Bindings(simulated))
        monkeypatch.setattr(module, "find_cuda", lambda device=0: simulated.world)
    return simulated


@pytest.fixture
def model(tmp_path, make_model):
    onnx.save(make_model(), tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


def mish(tmp_path):
    text = '<ir_version: 8, opset_import: ["": 17]> g (float[N] x) => (uint8[N] q, float s, uint8 z) '
    onnx.save(parser.parse_model(text + "{ q, s, z = DynamicQuantizeLinear(x) }"), tmp_path / "d.onnx")
    return tmp_path / "d.onnx"


def test_build(graphopt, trt, model):
    result = graphopt("build", model, "-s", "x=1x3x8x8:2x3x8x8:4x3x8x8", "--workspace", 64, "--refit")
    assert result.code == 0, result.err
    assert "m.plan" in result.out
    assert "TensorRT 8.5.3.1 on simulated GPU" in result.out
    assert "verified" in result.out
    said = json.loads(model.with_suffix(".plan.json").read_text())
    assert said["options"]["workspace"] == 64 << 20
    assert said["options"]["refit"]


def test_build_json_and_report(graphopt, trt, model, tmp_path):
    arguments = ("-s", "N=1:2:4", "-o", tmp_path / "other.plan", "--json", "--report", tmp_path / "r.json")
    result = graphopt("build", model, *arguments)
    assert json.loads(result.out)["verification"]["status"] == "passed"
    assert json.loads((tmp_path / "r.json").read_text())["device"]


def test_a_wrong_engine_is_not_written(graphopt, trt, model):
    trt.faulty = "Relu"
    result = graphopt("build", model, "-s", "N=1:2:4")
    assert result.code == 1
    assert "nothing was written" in result.err
    assert not model.with_suffix(".plan").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "give --shapes x=1x3x8x8"),
        (("-s", "x=1x3x9x9"), "is 8 in the model"),
        (("-s", "N=1", "--precision", "int8"), "graphopt quantize"),
        (("-s", "N=1", "--level", "3"), "has no builder_optimization_level"),
        (("-s", "N=1", "--timing-cache", "t", "--no-timing-cache"), "contradict"),
        (("-s", "N=1", "-o", "missing/m.plan"), "does not exist"),
    ],
)
def test_build_refuses(graphopt, trt, model, arguments, words):
    result = graphopt("build", model, *arguments)
    assert result.code == 2
    assert words in result.err


def test_build_without_tensorrt(graphopt, model):
    result = graphopt("build", model, "-s", "N=1")
    assert result.code == 2
    assert any(words in result.err for words in ("TensorRT is not installed", "no CUDA device", "neither cuda-python"))


def test_build_in_parts(graphopt, trt, model, tmp_path):
    result = graphopt("build", model, "-s", "N=1:2:4", "--partial", "-o", tmp_path / "parts")
    assert result.code == 0, result.err
    assert "1 parts: onnxruntime" in result.out  # two nodes do not pay for the way to the device
    assert (tmp_path / "parts" / "manifest.json").exists()
    result = graphopt("build", model, "-s", "N=1:2:4", "--partial", "-o", tmp_path / "parts")
    assert result.code == 2
    assert "is there already" in result.err
    assert graphopt("build", model, "-s", "N=1", "--partial", "--precision", "float16").code == 2


def test_check(graphopt, model, tmp_path):
    result = graphopt("check", model)
    assert result.code == 0, result.err
    assert "nothing is known that TensorRT 8.5 would not parse" in result.out
    assert "input x varies in N" in result.out
    result = graphopt("check", mish(tmp_path), "--json")
    assert result.code == 1
    assert json.loads(result.out)["reasons"] == {"TensorRT has no DynamicQuantizeLinear": ["q"]}
    assert "1 of 1 nodes stand in the way" in graphopt("check", mish(tmp_path)).out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--version", "x"), "is like 8.5 or 10"),
        (("--version", "7"), "not supported"),
        (("--target", "onnx"), "knows the target tensorrt"),
    ],
)
def test_check_refuses(graphopt, model, arguments, words):
    result = graphopt("check", model, *arguments)
    assert result.code == 2
    assert words in result.err


def test_package_for_triton(graphopt, model, tmp_path):
    pytest.importorskip("tritonclient.grpc.model_config_pb2", reason="needs the triton extra (tritonclient)")
    result = graphopt("package", model, "--triton", tmp_path / "repo", "--max-batch", 4, "--before", before(tmp_path))
    assert result.code == 0, result.err
    assert "m_ensemble" in result.out
    assert (tmp_path / "repo" / "m" / "1" / "model.onnx").exists()
    found = json.loads(graphopt("package", model, "--triton", tmp_path / "other", "--json").out)
    assert found["triton"] == [str(tmp_path / "other" / "m" / "config.pbtxt")]


def before(tmp_path):
    text = '<ir_version: 8, opset_import: ["": 17]> g (uint8[N, 3, 8, 8] pixels) => (float[N, 3, 8, 8] x) '
    onnx.save(parser.parse_model(text + "{ x = Cast<to=1>(pixels) }"), tmp_path / "before.onnx")
    return tmp_path / "before.onnx"


def test_package_for_openvino(graphopt, model):
    pytest.importorskip("openvino", reason="needs the openvino extra")
    result = graphopt("package", model, "--openvino", "--seconds", 0)
    assert result.code == 0, result.err
    assert "agrees" in result.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "say what for"),
        (("--openvino", "--before", "b.onnx"), "are for --triton"),
        (("--triton", "repo", "--plan", "missing.plan"), "'missing.plan' does not exist"),
    ],
)
def test_package_refuses(graphopt, model, arguments, words):
    result = graphopt("package", model, *arguments)
    assert result.code == 2
    assert words in result.err


def test_bench_of_plans(graphopt, trt, model, tmp_path):
    assert graphopt("build", model, "-s", "N=1:2:4").code == 0
    plan = model.with_suffix(".plan")
    result = graphopt("bench", plan, plan, "--seconds", 0.05, "--lanes", 2, "--layers")
    assert result.code == 0, result.err
    assert all(words in result.out for words in ("on the device", "runs a second, 2 lanes", "conv_0"))
    np.savez(tmp_path / "x.npz", x=np.zeros((4, 3, 8, 8), np.float32))
    found = json.loads(graphopt("bench", plan, plan, "--seconds", 0.05, "-i", tmp_path / "x.npz", "--json").out)
    assert found["inputs"] == {"x": [4, 3, 8, 8]}
    assert graphopt("bench", plan, plan, "--seconds", 0.01, "--graphs", "-q").code == 0
