"""Engines against their models: every corner of every profile, and who is to blame for a difference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, numpy_helper, parser

from graphopt import ir
from graphopt.targets.tensorrt._bindings import Bindings
from graphopt.targets.tensorrt.blame import first_fault
from graphopt.targets.tensorrt.builder import BuildError, Plan, build_plan
from graphopt.targets.tensorrt.engine import Engine
from graphopt.targets.tensorrt.offload import offload
from graphopt.targets.tensorrt.verification import allowance_for, at_shapes, verify_engine
from graphopt.testing.simulator import VERSIONS, Simulated


@pytest.fixture(params=VERSIONS)
def trt(request: pytest.FixtureRequest) -> Simulated:
    return Simulated(request.param)


def model(layers: int = 12, inner: str = "Tanh") -> ModelProto:
    """Layers of MatMul, an activation and a sum."""
    lines, last = [], "x"
    for number in range(layers):
        kind = inner if number == layers // 2 else "Sigmoid"
        lines.append(f"m{number} = MatMul({last}, w) a{number} = {kind}(m{number}) s{number} = Add(a{number}, {last})")
        last = f"s{number}"
    head = '<ir_version: 8, opset_import: ["": 17]> g (float[N, 8] x) => (float[N, 8] y)'
    made = parser.parse_model(f"{head} {{ {' '.join(lines)} y = Relu({last}) }}")
    weights = np.random.default_rng(2).standard_normal((8, 8)).astype(np.float32)
    made.graph.initializer.append(numpy_helper.from_array(weights, "w"))
    return made


def engine(trt: Simulated, given: ModelProto, shapes: Any = "N=1:4:8") -> Engine:
    bindings = Bindings(trt)
    plan = build_plan(ir.from_proto(given), shapes, bindings=bindings, cuda=trt.world, timing_cache=False)
    return Engine(plan, bindings=bindings, cuda=trt.world)


def test_every_corner_of_every_profile_is_compared(trt: Simulated) -> None:
    given = model()
    with engine(trt, given, ["N=1:4:8", "N=16:32:32"]) as it:
        report = verify_engine(it, given)
    assert report.status == "passed"
    assert {run.bindings["N"] for run in report.runs} == {1, 4, 8, 16, 32}


def test_given_inputs(trt: Simulated) -> None:
    given = model()
    with engine(trt, given) as it:
        report = verify_engine(it, given, {"x": np.ones((3, 8), np.float32)})
        assert report.status == "passed"
        assert [run.bindings for run in report.runs] == [{"N": 3}]
        assert verify_engine(it, given, seconds=0.0).status == "unchecked"


def test_a_wrong_engine_fails_and_the_layer_is_found(trt: Simulated) -> None:
    given = model()
    trt.faulty = "Tanh"
    with engine(trt, given) as it:
        report = verify_engine(it, given)
    assert report.status == "failed"
    assert "output 'y'" in report.summary()
    feeds = {"x": np.random.default_rng(3).standard_normal((4, 8)).astype(np.float32)}
    found = first_fault(given, feeds, lambda marked: engine(trt, marked), allowance_for(given))
    assert (found.tensor, found.agrees) == ("a6", "m6")
    assert found.builds <= 3
    assert "is the first that differs" in found.summary()


def test_nothing_to_blame(trt: Simulated) -> None:
    given = model()
    feeds = {"x": np.ones((4, 8), np.float32)}
    found = first_fault(given, feeds, lambda marked: engine(trt, marked), allowance_for(given))
    assert found.tensor is None
    assert "fusion" in found.summary()


def test_an_engine_that_fails_where_the_model_runs(trt: Simulated) -> None:
    given = model()
    with engine(trt, given, "N=1:2:4") as it:
        report = verify_engine(it, given, {"x": np.ones((9, 8), np.float32)})
    assert report.status == "failed"
    assert "fails where the model runs" in report.summary()


def test_allowances_go_by_the_lowest_precision() -> None:
    plain = model(1)
    half = parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (float[4] x) => (float[4] y) '
        "{ a = Cast<to=10>(x) y = Cast<to=1>(a) }"
    )
    int8 = parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (float[4] x, float s) => (float[4] y) '
        "{ a = QuantizeLinear(x, s) y = DequantizeLinear(a, s) }"
    )
    found = [allowance_for(each).rms for each in (plain, half, int8)]
    assert found == sorted(found)
    assert len(set(found)) == 3


def test_sizes_are_put_wherever_the_symbol_stands() -> None:
    fixed = at_shapes(model(1), {"x": (5, 8)})
    assert fixed.graph.output[0].type.tensor_type.shape.dim[0].dim_value == 5


def test_what_tensorrt_does_not_take_runs_in_onnxruntime(trt: Simulated) -> None:
    given = model(4, inner="Mish")  # no operator of TensorRT's parser
    given.opset_import[0].version = 18
    built: list[int] = []

    def build(part: ir.Model) -> tuple[Plan, Engine]:
        built.append(len(part.graph))
        shapes = ",".join(f"{value.name}=1x8:4x8:8x8" for value in part.graph.inputs)
        bindings = Bindings(trt)
        plan = build_plan(part, shapes, bindings=bindings, cuda=trt.world, timing_cache=False)
        return plan, Engine(plan, bindings=bindings, cuda=trt.world)

    with offload(ir.from_proto(given), build) as it:
        assert it.kinds == ["tensorrt", "onnxruntime", "tensorrt"]
        x = np.random.default_rng(3).standard_normal((4, 8)).astype(np.float32)
        from graphopt.verify.run import Session
        from graphopt.verify.source import Source

        expected = Session(Source.of(given)).run({"x": x})[0]
        np.testing.assert_allclose(it.run({"x": x})["y"], expected, rtol=1e-4, atol=1e-5)
    assert len(built) == 2
    assert trt.world.held == 0


def test_regions_that_are_not_built_after_all(trt: Simulated) -> None:
    given = model(4, inner="Mish")
    given.opset_import[0].version = 18

    def build(part: ir.Model) -> tuple[Plan, Engine]:
        raise BuildError("no", [])

    with offload(ir.from_proto(given), build) as it:
        assert set(it.kinds) == {"onnxruntime"}
        assert it.run({"x": np.ones((2, 8), np.float32)})["y"].shape == (2, 8)
