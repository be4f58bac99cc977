"""From a model to a verified engine, on a simulated device."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, numpy_helper, parser

from graphopt.errors import GraphoptError, ModelError, OutputError, VerificationError
from graphopt.targets.tensorrt import BuildError, build, build_partial
from graphopt.targets.tensorrt._bindings import Bindings
from graphopt.targets.tensorrt.engine import Engine
from graphopt.targets.tensorrt.offload import Offloaded
from graphopt.targets.tensorrt.timing import compare_engines, layer_times, throughput, time_engine
from graphopt.testing.simulator import VERSIONS, Simulated


@pytest.fixture(params=VERSIONS)
def trt(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Simulated]:
    monkeypatch.setenv("GRAPHOPT_CACHE", str(tmp_path / "cache"))
    simulated = Simulated(request.param)
    yield simulated
    gc.collect()
    assert simulated.world.held == 0


def model(inner: str = "Tanh(m)") -> ModelProto:
    made = parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (float[N, 8] x) => (float[N, 4] y) '
        f"{{ m = MatMul(x, w)  a = {inner}  b = Sigmoid(a)  c = MatMul(b, v)  y = Relu(c) }}"
    )
    rng = np.random.default_rng(4)
    for name, shape in (("w", (8, 8)), ("v", (8, 4))):
        made.graph.initializer.append(numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name))
    return made


def made(trt: Simulated, given: Any = None, shapes: Any = "N=1:4:8", **options: Any) -> Any:
    return build(given or model(), shapes, bindings=Bindings(trt), cuda=trt.world, **options)


def test_an_engine_is_built_and_verified(trt: Simulated, tmp_path: Path) -> None:
    onnx.save(model(), tmp_path / "m.onnx")
    told: list[str] = []
    built = made(trt, str(tmp_path / "m.onnx"), progress=lambda stage, done, total: told.append(stage))
    assert built.verification.status == "passed"
    assert {run.bindings["N"] for run in built.verification.runs} == {1, 4, 8}
    assert {"parse", "build", "verify engine"} <= set(told)
    built.save(tmp_path / "m.plan")
    said = json.loads((tmp_path / "m.plan.json").read_text())
    assert said["profiles"] == ["x=1x8:4x8:8x8"]
    assert said["verification"]["status"] == "passed"
    with Engine(tmp_path / "m.plan", bindings=Bindings(trt), cuda=trt.world) as engine:
        assert engine.run({"x": np.ones((2, 8), np.float32)})["y"].shape == (2, 4)


def test_a_wrong_engine_is_refused_and_the_layer_named(trt: Simulated) -> None:
    trt.faulty = "Tanh"
    with pytest.raises(VerificationError, match=r"nothing was written\. .*is the first that differs \(tensor 'a'"):
        made(trt)
    assert made(trt, verify="off").verification is None


def test_given_inputs(trt: Simulated) -> None:
    built = made(trt, inputs={"x": np.ones((3, 8), np.float32)})
    assert [run.bindings for run in built.verification.runs] == [{"N": 3}]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"precision": "int8"}, "quantize the model first"),
        ({"precision": "float64"}, "precision is one of"),
        ({"verify": "check"}, "'numeric' or 'off'"),
        ({"shapes": "M=1"}, "no input and no symbol"),
        ({"shapes": None}, "give --shapes x="),
        ({"options": {"speed": 9}}, "no build option"),
    ],
)
def test_what_is_refused_before_the_work(options: dict[str, Any], said: str) -> None:
    with pytest.raises(GraphoptError, match=said):
        build(model(), options.pop("shapes", "N=1"), **options)


def test_without_a_gpu() -> None:
    pytest.importorskip("onnxruntime")
    with pytest.raises(GraphoptError, match=r"TensorRT is not installed|no CUDA device|neither cuda-python"):
        build(model(), "N=1")


def test_what_does_not_parse_and_partial_engines(trt: Simulated, tmp_path: Path) -> None:
    given = parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (float[N, 8] x) => (float[N, 8] y) '
        "{ a = MatMul(x, w) b = Sigmoid(a) d = Add(a, b) q, s, z = DynamicQuantizeLinear(d) "
        "e = DequantizeLinear(q, s, z) "
        "f = MatMul(e, w) h = Tanh(f) i = Mul(f, h) y = Add(i, x) }"
    )
    weights = np.random.default_rng(2).standard_normal((8, 8)).astype(np.float32)
    given.graph.initializer.append(numpy_helper.from_array(weights, "w"))
    with pytest.raises(BuildError, match="TensorRT has no DynamicQuantizeLinear"):
        made(trt, given)
    with build_partial(given, "N=1:4:8", bindings=Bindings(trt), cuda=trt.world) as it:
        assert it.kinds == ["tensorrt", "onnxruntime", "tensorrt"]
        for count in (1, 3, 8):
            x = np.random.default_rng(count).standard_normal((count, 8)).astype(np.float32)
            import onnxruntime as ort

            expected = ort.InferenceSession(given.SerializeToString()).run(None, {"x": x})[0]
            np.testing.assert_allclose(it.run({"x": x})["y"], expected, rtol=1e-4, atol=1e-5)
        with pytest.raises(GraphoptError, match="no value for 'x'"):
            it.run({})
        assert it.verification.status == "passed"
        it.save(tmp_path / "parts")
        again = it.run({"x": x})["y"]
    options = {"bindings": Bindings(trt), "cuda": trt.world}
    with Offloaded.load(tmp_path / "parts", **options) as it:
        assert it.kinds == ["tensorrt", "onnxruntime", "tensorrt"]
        np.testing.assert_array_equal(it.run({"x": x})["y"], again)
    with pytest.raises(OutputError, match="parts"):
        it.save(tmp_path / "parts")
    for damage in ("{", '{"format": "graphopt offload 9"}', '{"format": "graphopt offload 1", "parts": [{}]}'):
        (tmp_path / "parts" / "manifest.json").write_text(damage)
        with pytest.raises(ModelError, match="build"):
            Offloaded.load(tmp_path / "parts", **options)


def test_parts_that_are_wrong_are_refused(trt: Simulated) -> None:
    trt.faulty = "Tanh"
    with pytest.raises(VerificationError, match="nothing was written"):
        build_partial(model(), "N=1:4:8", bindings=Bindings(trt), cuda=trt.world)


def test_weights_that_are_streamed() -> None:
    trt = Simulated("11.4")
    plan = made(trt, verify="off").plan
    with pytest.raises(GraphoptError, match="streams no weights"):
        Engine(plan, bindings=Bindings(trt), cuda=trt.world, weight_budget=1 << 20)
    trt.ICudaEngine.streamable_weights_size = 1 << 20
    with pytest.raises(GraphoptError, match="-1 bytes"):
        Engine(plan, bindings=Bindings(trt), cuda=trt.world, weight_budget=-1)
    with Engine(plan, bindings=Bindings(trt), cuda=trt.world, weight_budget=1 << 10) as it:
        assert it._engine.weight_streaming_budget_v2 == 1 << 10


def test_times(trt: Simulated) -> None:
    built = made(trt)
    x = {"x": np.ones((4, 8), np.float32)}
    for graphs in (False, True):
        options = {"bindings": Bindings(trt), "cuda": trt.world, "graphs": graphs}
        with built.engine(**options) as a, built.engine(lanes=2, **options) as b:
            one = time_engine(a, x, seconds=0.05)
            assert 0 < one.milliseconds <= one.p95
            assert one.runs >= 5
            first, second = compare_engines(a, b, x, seconds=0.05)
            assert 0.05 < first.milliseconds / second.milliseconds < 20
            assert throughput(b, x, seconds=0.05) > 0
            layers = layer_times(a, x, {"m": ["m"], "b": ["sigmoid of the original"]}, runs=2)
            assert {name for layer in layers for name in layer.sources} >= {"sigmoid of the original"}
            assert one.to_dict()["runs"] == one.runs
            assert a.run(x)["y"].shape == (4, 4)


def test_engines_of_large_models_go_through_a_file(trt: Simulated, monkeypatch: pytest.MonkeyPatch) -> None:
    from graphopt.targets.tensorrt import builder

    monkeypatch.setattr(builder, "_LARGE", 16)
    assert made(trt).verification.status == "passed"
