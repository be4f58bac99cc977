"""Running engines on a simulated device: what goes in and comes out, what is refused, what is given back."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, numpy_helper, parser

from graphopt import ir
from graphopt.errors import GraphoptError
from graphopt.targets.tensorrt._bindings import Bindings
from graphopt.targets.tensorrt.arrays import DeviceArray
from graphopt.targets.tensorrt.builder import build_plan
from graphopt.targets.tensorrt.engine import Engine
from graphopt.targets.tensorrt.profiles import Values
from graphopt.targets.tensorrt.refit import _weights as refit_weights
from graphopt.targets.tensorrt.refit import check_same_graph
from graphopt.testing.simulator import VERSIONS, Simulated

RANDOM = np.random.default_rng(7)


@pytest.fixture(params=VERSIONS)
def trt(request: pytest.FixtureRequest) -> Iterator[Simulated]:
    simulated = Simulated(request.param)
    yield simulated
    gc.collect()
    assert simulated.world.held == 0
    assert not any(simulated.world.alive.values()), simulated.world.alive


def model(
    text: str = "a = MatMul(x, w)  y = Relu(a)", types: str = "float[N, 8] x", out: str = "float[N, 4] y"
) -> ModelProto:
    made = parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> g ({types}) => ({out}) {{ {text} }}')
    made.graph.initializer.append(numpy_helper.from_array(RANDOM.standard_normal((8, 4)).astype(np.float32), "w"))
    return made


def engine(trt: Simulated, given: ModelProto | None = None, shapes: Any = "N=1:4:8", **options: Any) -> Engine:
    bindings = Bindings(trt)
    plan = build_plan(ir.from_proto(given or model()), shapes, bindings=bindings, cuda=trt.world, timing_cache=False)
    return Engine(plan, bindings=bindings, cuda=trt.world, **options)


def expected(given: ModelProto, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    from graphopt.verify.run import Session
    from graphopt.verify.source import Source

    return Session(Source.of(given)).run(feeds)


def rows(count: int) -> np.ndarray:
    return RANDOM.standard_normal((count, 8)).astype(np.float32)


def test_numpy_in_and_out_at_any_size_of_the_profile(trt: Simulated) -> None:
    given = model()
    with engine(trt, given) as it:
        for count in (1, 8, 3, 8):
            x = rows(count)
            np.testing.assert_allclose(it.run({"x": x})["y"], expected(given, {"x": x})[0], rtol=1e-5)


def test_results_outlive_the_next_run(trt: Simulated) -> None:
    with engine(trt) as it:
        first = it.run({"x": rows(2)})["y"]
        kept = first.copy()
        it.run({"x": rows(2)})
        np.testing.assert_array_equal(first, kept)


def test_arrays_that_are_not_in_c_order(trt: Simulated) -> None:
    given = model()
    with engine(trt, given) as it:
        x = np.asfortranarray(rows(4))
        np.testing.assert_allclose(it.run({"x": x})["y"], expected(given, {"x": np.ascontiguousarray(x)})[0], rtol=1e-5)


class OnDevice:
    """What CuPy, Numba and PyTorch show of their arrays."""

    def __init__(self, world: Any, array: np.ndarray, strides: Any = None) -> None:
        self.world, self.address = world, world.malloc(array.nbytes)
        stream = world.stream()
        world.copy(self.address, array.ctypes.data, array.nbytes, stream)
        world.free_stream(stream)
        self.__cuda_array_interface__ = {
            "shape": array.shape,
            "typestr": array.dtype.str,
            "data": (self.address, False),
            "version": 3,
            "strides": strides,
        }


def test_memory_on_the_device_is_not_copied(trt: Simulated) -> None:
    given = model()
    with engine(trt, given) as it:
        x = rows(4)
        there = OnDevice(trt.world, x)
        trt.world.log.clear()
        found = it.run({"x": there}, on_device=True)["y"]
        assert trt.world.log == ["execute"]
        assert isinstance(found, DeviceArray)
        assert found.__cuda_array_interface__["shape"] == (4, 4)
        np.testing.assert_allclose(found.numpy(), expected(given, {"x": x})[0], rtol=1e-5)
        again = it.run({"x": there})["y"]
        np.testing.assert_allclose(again, expected(given, {"x": x})[0], rtol=1e-5)
        trt.world.free(there.address)


def test_device_memory_in_another_order_is_refused(trt: Simulated) -> None:
    with engine(trt) as it:
        there = OnDevice(trt.world, rows(4), strides=(4, 16))
        with pytest.raises(GraphoptError, match="not in C order on the device"):
            it.run({"x": there})
        trt.world.free(there.address)


def test_dlpack(trt: Simulated) -> None:
    class Wrapped:
        def __init__(self, array: np.ndarray) -> None:
            self.array = array

        def __dlpack__(self) -> Any:
            return self.array.__dlpack__()

    given = model()
    with engine(trt, given) as it:
        x = rows(4)
        np.testing.assert_allclose(it.run({"x": Wrapped(x)})["y"], expected(given, {"x": x})[0], rtol=1e-5)


@pytest.mark.parametrize(
    ("feeds", "said"),
    [
        ({}, "no value for 'x'; the engine's inputs: x"),
        ({"x": rows(1), "z": rows(1)}, "no input is named 'z'"),
        ({"x": rows(9)}, "input 'x' has the shape 9x8, and the engine takes 1x8 to 8x8; build it with --shapes"),
        ({"x": rows(1)[0]}, "has 2 dims, and got 1"),
        ({"x": rows(1).astype(np.float64)}, "is float64, and the engine takes float32"),
        ({"x": "text"}, "is a str; give a numpy array"),
    ],
)
def test_what_is_refused_before_anything_is_launched(trt: Simulated, feeds: dict[str, Any], said: str) -> None:
    with engine(trt) as it:
        trt.world.log.clear()
        with pytest.raises(GraphoptError) as caught:
            it.run(feeds)
        assert said in str(caught.value)
        assert not trt.world.log
        it.run({"x": rows(2)})  # and nothing is lost


def test_several_profiles(trt: Simulated) -> None:
    with engine(trt, shapes=["N=1:1:2", "N=4:8:16"]) as it:
        for count in (2, 16, 1):
            assert it.run({"x": rows(count)})["y"].shape == (count, 4)
        with pytest.raises(GraphoptError, match="none of the 2 profiles fits"):
            it.run({"x": rows(3)})


def test_futures_and_lanes(trt: Simulated) -> None:
    given = model()
    with engine(trt, given, lanes=3) as it:
        inputs = [rows(1 + number % 8) for number in range(12)]
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda x: it.submit({"x": x}).result()["y"], inputs))
        for x, y in zip(inputs, found, strict=True):
            np.testing.assert_allclose(y, expected(given, {"x": x})[0], rtol=1e-5)
        runs = [it.submit({"x": x}) for x in inputs[:3]]
        assert [run.result()["y"].shape[0] for run in runs] == [1, 2, 3]
        assert runs[0].result() is runs[0].result()


def test_a_run_that_nobody_waits_for(trt: Simulated) -> None:
    with engine(trt) as it:
        for _ in range(3):
            it.submit({"x": rows(2)})
            gc.collect()
        assert it.run({"x": rows(2)})["y"].shape == (2, 4)


def test_cuda_graphs(trt: Simulated) -> None:
    given = model()
    with engine(trt, given, graphs=True) as it:
        for count in (2, 2, 4, 2, 8, 2, 8):
            x = rows(count)
            np.testing.assert_allclose(it.run({"x": x})["y"], expected(given, {"x": x})[0], rtol=1e-5)
        trt.world.log.clear()
        it.run({"x": rows(8)})
        assert trt.world.log == ["copy", "launch", "copy"]


def test_outputs_whose_size_depends_on_the_data(trt: Simulated) -> None:
    given = model("a = MatMul(x, w)  b = Relu(a)  y = NonZero(b)", out="int64[2, K] y")
    with engine(trt, given) as it:
        trt.IExecutionContext.get_tensor_shape, kept = _unknown(trt), trt.IExecutionContext.get_tensor_shape
        try:
            for count in (4, 8, 2):
                feeds = {"x": rows(count)}
                np.testing.assert_array_equal(it.run(feeds)["y"], expected(given, feeds)[0])
        finally:
            trt.IExecutionContext.get_tensor_shape = kept


def _unknown(trt: Simulated) -> Any:
    """The real one says -1 for such an output."""
    return lambda context, name: context._input_shape(name) if name in context._engine._inputs else (-1, -1)


def test_int64_inputs_that_the_parser_made_int32(trt: Simulated) -> None:
    given = model("y = Gather(w, i)", "int32[N] i", "float[N, 4] y")
    with engine(trt, given) as it:
        assert it.run({"i": np.array([1, 2], np.int64)})["y"].shape == (2, 4)
        with pytest.raises(GraphoptError, match="too large"):
            it.run({"i": np.array([1 << 40], np.int64)})


def test_a_plan_that_is_none(trt: Simulated, tmp_path: Any) -> None:
    for content in (b"nothing", b""):
        with pytest.raises(GraphoptError, match="does not take the plan: Magic tag"):
            Engine(content, bindings=Bindings(trt), cuda=trt.world)
    with pytest.raises(GraphoptError, match="cannot read"):
        Engine(tmp_path / "missing.plan", bindings=Bindings(trt), cuda=trt.world)


def test_a_plan_of_another_version() -> None:
    old, new = Simulated("8.5"), Simulated("11.4")
    plan = build_plan(ir.from_proto(model()), "N=1", bindings=Bindings(old), cuda=old.world, timing_cache=False)
    with pytest.raises(GraphoptError, match=r"plan of version 8\.5\.3\.1"):
        Engine(plan, bindings=Bindings(new), cuda=new.world)


def test_closed_is_closed(trt: Simulated) -> None:
    it = engine(trt, lanes=2)
    it.close()
    it.close()
    with pytest.raises(GraphoptError, match="closed"):
        it.run({"x": rows(1)})


def test_no_memory_for_a_lane(trt: Simulated, monkeypatch: pytest.MonkeyPatch) -> None:
    made = trt.ICudaEngine.create_execution_context
    count = iter(range(10))
    monkeypatch.setattr(
        trt.ICudaEngine, "create_execution_context", lambda self: made(self) if next(count) < 2 else None
    )
    with pytest.raises(GraphoptError, match="no memory for another execution context"):
        engine(trt, lanes=3)


def test_a_failure_on_the_device_gives_the_lane_back(trt: Simulated, monkeypatch: pytest.MonkeyPatch) -> None:
    with engine(trt) as it:
        with monkeypatch.context() as patch:
            patch.setattr(trt.IExecutionContext, "execute_async_v3", lambda self, stream: False)
            with pytest.raises(GraphoptError, match="does not run"):
                it.run({"x": rows(1)})
        assert it.run({"x": rows(1)})["y"].shape == (1, 4)


def test_a_thousand_cycles_leave_nothing(trt: Simulated) -> None:
    bindings = Bindings(trt)
    plan = build_plan(ir.from_proto(model()), "N=1:4:8", bindings=bindings, cuda=trt.world, timing_cache=False)
    x = rows(2)
    for _ in range(100):  # a thousand on a real device: tests/gpu
        with Engine(plan, bindings=bindings, cuda=trt.world) as it:
            it.run({"x": x})


def test_refit_equals_rebuilding(trt: Simulated) -> None:
    given, other = model(), model()
    bindings = Bindings(trt)
    plan = build_plan(
        ir.from_proto(given), "N=4", bindings=bindings, cuda=trt.world, options={"refit": True}, timing_cache=False
    )
    x = rows(4)
    with Engine(plan, bindings=bindings, cuda=trt.world) as it:
        check_same_graph(given, other)
        assert it.refit(other) == 1
        np.testing.assert_allclose(it.run({"x": x})["y"], expected(other, {"x": x})[0], rtol=1e-5)


def test_what_cannot_be_refitted(trt: Simulated) -> None:
    given = model()
    with engine(trt, given) as it, pytest.raises(GraphoptError, match="built without refit"):
        it.refit(given)
    with pytest.raises(GraphoptError, match="nodes, not"):
        check_same_graph(given, model("y = MatMul(x, w)"))
    with pytest.raises(GraphoptError, match="differs from the engine's model"):
        check_same_graph(given, model("a = MatMul(x, w)  y = Abs(a)"))
    wider = model()
    wider.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.zeros((8, 5), np.float32), "w"))
    with pytest.raises(GraphoptError, match="another type or shape"):
        check_same_graph(given, wider)


def test_device_memory_that_is_not_aligned_is_copied(trt: Simulated) -> None:
    given = model()
    with engine(trt, given) as it:
        x = rows(4)
        whole = OnDevice(trt.world, np.concatenate([rows(1), x]))
        part = OnDevice(trt.world, x)
        trt.world.free(part.address)
        part.__cuda_array_interface__["data"] = (whole.address + 32, False)
        trt.world.log.clear()
        np.testing.assert_allclose(it.run({"x": part})["y"], expected(given, {"x": x})[0], rtol=1e-5)
        assert trt.world.log == ["copy", "execute", "copy"]
        trt.world.free(whole.address)


def test_what_is_bound_already_is_not_bound_again(trt: Simulated, monkeypatch: pytest.MonkeyPatch) -> None:
    with engine(trt) as it:
        it.run({"x": rows(2)})
        with monkeypatch.context() as patch:
            patch.setattr(trt.IExecutionContext, "set_input_shape", lambda *args: pytest.fail("told again"))
            it.run({"x": rows(2)})


def test_streams_of_others_are_waited_for(trt: Simulated, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    monkeypatch.setattr(trt.world, "follow", lambda stream, other: seen.append(other))
    with engine(trt) as it:
        there = OnDevice(trt.world, rows(4))
        for interface, others in (({"stream": 7}, [7]), ({"stream": None}, []), ({"version": 2}, [1])):
            there.__cuda_array_interface__.update(interface)
            it.run({"x": there})
            assert seen == others
            seen.clear()
        trt.world.free(there.address)


def test_inputs_that_hold_sizes(trt: Simulated) -> None:
    given = parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (float[8] x, int32[1] n) => (float[M] y) '
        "{ m = Cast<to=7>(n)  y = Expand(x, m) }"
    )
    given.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    bindings = Bindings(trt)
    shapes = {"n": (Values((1,)), Values((4,)), Values((8,)))}
    plan = build_plan(ir.from_proto(given), shapes, bindings=bindings, cuda=trt.world, timing_cache=False)
    with Engine(plan, bindings=bindings, cuda=trt.world) as it:
        assert it.ports["n"].in_host_memory
        assert it.run({"x": np.ones(1, np.float32), "n": np.array([3], np.int32)})["y"].size
        there = OnDevice(trt.world, np.array([5], np.int32))
        assert it.run({"x": np.ones(1, np.float32), "n": there})["y"].size
        trt.world.free(there.address)


def test_lanes_of_varying_shapes_on_versions_that_share_no_profiles() -> None:
    for version, engines in (("8.5", 3), ("11.4", 1)):
        trt = Simulated(version)
        with engine(trt, lanes=3, shapes=["N=1:1:2", "N=4:8:16"]) as it:
            assert trt.world.alive["engine"] == engines
            for count in (2, 16, 1, 8):
                runs = [it.submit({"x": rows(count)}) for _ in range(3)]
                assert [run.result()["y"].shape[0] for run in runs] == [count] * 3
            assert it.profiled({"x": rows(2)})
            assert it.run({"x": rows(16)})["y"].shape == (16, 4)


def test_every_engine_hears_what_tensorrt_says(trt: Simulated) -> None:
    bindings = Bindings(trt)
    with engine(trt), pytest.raises(GraphoptError, match="does not take the plan: Magic tag"):
        Engine(b"nothing", bindings=bindings, cuda=trt.world)
    shared = bindings.logger([])
    assert len(shared.listeners) == 1  # those of what was closed are gone
    bindings.unlisten(shared.listeners[0])


def test_no_memory_for_an_output_of_unknown_size(trt: Simulated, monkeypatch: pytest.MonkeyPatch) -> None:
    given = model("a = MatMul(x, w)  b = Relu(a)  y = NonZero(b)", out="int64[2, K] y")
    with engine(trt, given) as it:
        monkeypatch.setattr(trt.IExecutionContext, "get_tensor_shape", _unknown(trt))
        it.run({"x": rows(1)})
        monkeypatch.setattr(trt.world, "_limit", trt.world.held + 300)
        with pytest.raises(GraphoptError, match="out of memory"):
            it.run({"x": np.ones((8, 8), np.float32)})


def test_a_run_of_an_engine_that_was_closed(trt: Simulated) -> None:
    it = engine(trt)
    run = it.submit({"x": rows(1)})
    it.close()
    with pytest.raises(GraphoptError, match="closed before the run was over"):
        run.result()


def test_plans_with_code_for_the_host() -> None:
    trt = Simulated("11.4")
    bindings = Bindings(trt)
    options = {"version_compatible": True}
    plan = build_plan(
        ir.from_proto(model()), "N=1", bindings=bindings, cuda=trt.world, options=options, timing_cache=False
    )
    Engine(plan, bindings=bindings, cuda=trt.world).close()
    with pytest.raises(GraphoptError, match="code for the host"):
        Engine(plan.content, bindings=bindings, cuda=trt.world)
    Engine(plan.content, host_code=True, bindings=bindings, cuda=trt.world).close()


def test_weights_of_types_that_the_parser_narrows_or_numpy_lacks(trt: Simulated) -> None:
    import ml_dtypes

    bindings = Bindings(trt)
    for kind, narrow in (
        (np.float64, np.float32),
        (np.int64, np.int64 if bindings.has("DataType", "INT64") else np.int32),
    ):
        array, weights = refit_weights(numpy_helper.from_array(np.ones(3, kind), "w"), bindings)
        assert array.dtype == narrow
        assert weights._array is array
    half = numpy_helper.from_array(np.arange(3).astype(ml_dtypes.bfloat16), "w")
    if bindings.has("DataType", "BF16"):
        assert refit_weights(half, bindings)[1]._array.tolist() == [0, 1, 2]
    else:
        with pytest.raises(GraphoptError, match="which this TensorRT does not have"):
            refit_weights(half, bindings)
