"""Engines that are built on the device: precisions, profiles, caches, refusals, and who is to blame."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import numpy_helper, parser

from graphopt.errors import GraphoptError, VerificationError
from graphopt.targets.tensorrt import BuildError, build_partial
from graphopt.targets.tensorrt.blame import first_fault
from graphopt.targets.tensorrt.verification import allowance_for

pytestmark = pytest.mark.gpu


def test_float32_at_every_corner(device: Any, make: Any) -> None:
    built = device.built(make.network())
    assert built.verification.status == "passed", built.verification.summary()
    assert {run.bindings["N"] for run in built.verification.runs} == {1, 4, 8}


def test_float16_at_every_corner(device: Any, make: Any) -> None:
    built = device.built(make.network(), precision="float16")
    assert built.verification.status == "passed", built.verification.summary()
    assert built.plan.flags == ([] if device.bindings.is_strongly_typed else ["FP16"])
    assert not built.islands


def test_int8_at_every_corner(device: Any, make: Any) -> None:
    built = device.built(make.quantized())
    assert built.verification.status == "passed", built.verification.summary()
    assert "INT8" in built.plan.flags or device.bindings.is_strongly_typed


def test_int8_with_float16_around_it(device: Any, make: Any) -> None:
    assert device.built(make.quantized(), precision="float16").verification.status == "passed"


def test_several_profiles(device: Any, make: Any) -> None:
    built = device.built(make.network(3), ["N=1:1:2", "N=8:16:16"])
    assert built.verification.status == "passed", built.verification.summary()
    assert {run.bindings["N"] for run in built.verification.runs} == {1, 2, 8, 16}


def test_what_is_verified_against_is_the_original(device: Any, make: Any) -> None:
    given = make.network(3)
    wrong = make.network(3, seed=9)
    plan = device.plan(wrong)
    from graphopt.targets.tensorrt.verification import verify_engine

    with device.opened(plan) as engine:
        report = verify_engine(engine, given)
    assert report.status == "failed"
    assert "output 'y'" in report.summary()


def test_a_second_build_with_the_timing_cache(device: Any, make: Any, say: Any, tmp_path: Path) -> None:
    device.plan(make.network(1), timing_cache=False)  # libraries load once
    given, seconds = make.network(16, grows=True, size=64), []
    for _ in range(2):
        start = time.perf_counter()
        device.plan(given, "N=8", timing_cache=tmp_path / "timing.cache")
        seconds.append(time.perf_counter() - start)
    say(f"first build {seconds[0]:.2f} s, second {seconds[1]:.2f} s, {seconds[0] / seconds[1]:.1f} times as fast")
    assert (tmp_path / "timing.cache").stat().st_size > 0
    if device.is_real:
        assert seconds[0] >= 5 * seconds[1]


def test_a_second_build_with_the_engine_cache(device: Any, make: Any, say: Any) -> None:
    given, plans = make.network(8), []
    for _ in range(2):
        plans.append(device.built(given, verify="off", engine_cache=True).plan)
    assert [plan.cached for plan in plans] == [False, True]
    assert plans[0].content == plans[1].content
    say(f"first build {plans[0].seconds:.2f} s, second {plans[1].seconds:.3f} s")
    if device.is_real:
        assert plans[0].seconds >= 5 * plans[1].seconds


def test_options_that_every_version_has(device: Any, make: Any) -> None:
    options = {"workspace": 1 << 28, "tf32": True, "sparsity": True, "profiling": "names", "timing_iterations": 2}
    assert device.built(make.network(2), options=options).verification.status == "passed"


def test_newer_options(device: Any, make: Any) -> None:
    options = {"optimization_level": 1, "aux_streams": 1, "version_compatible": True}
    if hasattr(getattr(device.bindings.trt, "BuilderFlag", None), "VERSION_COMPATIBLE"):
        assert device.built(make.network(2), options=options).verification.status == "passed"
    else:
        with pytest.raises(GraphoptError, match="leave the option out"):
            device.built(make.network(2), options=options)


def test_what_the_parser_does_not_take(device: Any, make: Any) -> None:
    given = parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (float[4] x) => (float[4] y) '
        '{ a = Cast<to=12>(x) b = BitShift<direction="LEFT">(a, a) y = Cast<to=1>(b) }'
    )
    with pytest.raises(BuildError, match="parser did not take"):
        device.plan(given, None)


def test_what_tensorrt_does_not_take_runs_in_onnxruntime(device: Any, make: Any) -> None:
    conv = "Conv<kernel_shape=[3, 3], pads=[1, 1, 1, 1]>"
    given = parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (float[N, 4, 8, 8] x) => (float[N, 4, 8, 8] y) '
        f"{{ a = {conv}(x, w) b = Relu(a) c = {conv}(b, w) d = Relu(c) q, s, z = DynamicQuantizeLinear(d) "
        f"e = DequantizeLinear(q, s, z) f = {conv}(e, w) h = Relu(f) i = {conv}(h, w) y = Add(i, x) }}"
    )
    weights = np.random.default_rng(2).standard_normal((4, 4, 3, 3)).astype(np.float32) * 0.2
    given.graph.initializer.append(numpy_helper.from_array(weights, "w"))
    with build_partial(given, "N=1:4:8", options=device.options(), timing_cache=False, **device.both) as it:
        assert it.kinds == ["tensorrt", "onnxruntime", "tensorrt"]
        for count in (1, 3, 8):
            x = np.random.default_rng(count).standard_normal((count, 4, 8, 8)).astype(np.float32)
            found, expected = it.run({"x": x})["y"], make.expected(given, {"x": x})[0]
            assert np.abs(found - expected).max() < 2e-2 * np.abs(expected).max()


def test_the_layer_that_differs_is_found(device: Any, make: Any) -> None:
    given = make.network(8, 8)

    def tampered(marked: Any) -> Any:
        for tensor in marked.graph.initializer:
            if tensor.name == "w5":
                tensor.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(tensor), tensor.name))
        return device.engine(marked, "N=2")

    feeds = {"x": make.images(2)}
    found = first_fault(given, feeds, tampered, allowance_for(given))
    assert (found.tensor, found.agrees) == ("c5", "a4")
    assert found.builds <= 3
    nothing = first_fault(given, feeds, lambda marked: device.engine(marked, "N=2"), allowance_for(given))
    assert nothing.tensor is None


def test_a_wrong_engine_is_refused(device: Any, make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from graphopt.targets.tensorrt import engine

    kept = engine.Engine.run
    monkeypatch.setattr(
        engine.Engine, "run", lambda self, *args, **more: {n: -a for n, a in kept(self, *args, **more).items()}
    )
    with pytest.raises(VerificationError, match="nothing was written"):
        device.built(make.network(2, 8))
