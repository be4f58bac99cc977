"""Engines that run on the device: arrays anywhere, lanes, CUDA graphs, other weights, and nothing left behind."""

from __future__ import annotations

import gc
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import numpy_helper, parser

from graphopt.errors import GraphoptError
from graphopt.targets.tensorrt.arrays import DeviceArray
from graphopt.targets.tensorrt.profiles import Values
from graphopt.targets.tensorrt.refit import check_same_graph
from graphopt.targets.tensorrt.timing import compare_engines, layer_times, throughput, time_engine

pytestmark = pytest.mark.gpu


def agree(found: Any, expected: Any, allowed: float = 1e-2) -> None:
    """To a share of the largest value."""
    assert found.shape == expected.shape
    assert np.abs(found.astype(np.float64) - expected).max() <= allowed * np.abs(expected).max()


def test_any_size_of_the_profile(device: Any, make: Any) -> None:
    given = make.network()
    with device.engine(given) as it:
        for count in (1, 8, 3, 8, 5):
            x = make.images(count, seed=count)
            agree(it.run({"x": x})["y"], make.expected(given, {"x": x})[0])


def test_results_outlive_the_next_run(device: Any, make: Any) -> None:
    with device.engine(make.network(2)) as it:
        first = it.run({"x": make.images(2)})["y"]
        kept = first.copy()
        it.run({"x": make.images(2, seed=5)})
        np.testing.assert_array_equal(first, kept)


def test_profiles_are_switched(device: Any, make: Any) -> None:
    given = make.network(3)
    with device.engine(given, ["N=1:1:2", "N=8:16:16"]) as it:
        for count in (2, 16, 1, 8, 2):
            x = make.images(count, seed=count)
            agree(it.run({"x": x})["y"], make.expected(given, {"x": x})[0])
        with pytest.raises(GraphoptError, match="none of the 2 profiles fits"):
            it.run({"x": make.images(4)})


@pytest.mark.parametrize(
    ("feeds", "said"),
    [
        ({}, "no value for 'x'"),
        ({"x": np.ones((1, 3, 16, 16), np.float32), "z": np.ones(1)}, "no input is named 'z'"),
        ({"x": np.ones((9, 3, 16, 16), np.float32)}, "the engine takes 1x3x16x16 to 8x3x16x16"),
        ({"x": np.ones((1, 3, 16, 17), np.float32)}, "has the shape 1x3x16x17"),
        ({"x": np.ones((3, 16, 16), np.float32)}, "has 4 dims, and got 3"),
        ({"x": np.ones((1, 3, 16, 16))}, "is float64, and the engine takes float32"),
    ],
)
def test_what_is_refused_before_anything_is_launched(device: Any, make: Any, feeds: Any, said: str) -> None:
    with device.engine(make.network(1, 8)) as it:
        with pytest.raises(GraphoptError) as caught:
            it.run(feeds)
        assert said in str(caught.value)
        assert it.run({"x": make.images(1)})["y"].shape == (1, 8, 1, 1)


def test_memory_on_the_device_in_and_out(device: Any, make: Any) -> None:
    given, x = make.network(), make.images(4)
    expected = make.expected(given, {"x": x})[0]
    with device.engine(given) as it:
        for offset in (0, 4, 256):
            there = device.put(x, offset)
            found = it.run({"x": there}, on_device=True)["y"]
            assert isinstance(found, DeviceArray)
            agree(found.numpy(), expected)
            agree(it.run({"x": there})["y"], expected)
            there.free()


def test_an_output_on_the_device_is_an_input_there(device: Any, make: Any) -> None:
    text = (
        '<ir_version: 8, opset_import: ["": 17]> g (float[N, 3, 16, 16] x) => (float[N, 3, 16, 16] y) { y = Relu(x) }'
    )
    given, x = parser.parse_model(text), make.images(2)
    with device.engine(given) as first, device.engine(make.network(2, 8)) as second:
        middle = first.run({"x": x}, on_device=True)["y"]
        found = second.run({"x": middle})["y"]
    agree(found, make.expected(make.network(2, 8), {"x": np.maximum(x, 0)})[0])


def test_an_output_of_unknown_size(device: Any, make: Any) -> None:
    given = parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (float[N, 8] x) => (int64[2, K] y) { b = Relu(x) y = NonZero(b) }'
    )
    with device.engine(given) as it:
        for count in (4, 8, 1):
            x = np.random.default_rng(count).standard_normal((count, 8)).astype(np.float32)
            np.testing.assert_array_equal(it.run({"x": x})["y"], make.expected(given, {"x": x})[0])
        zeros = np.zeros((2, 8), np.float32)
        assert it.run({"x": zeros})["y"].shape == (2, 0)


def test_an_input_that_holds_sizes(device: Any, make: Any) -> None:
    given = parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (float[1] x, int64[1] n) => (float[M] y) '
        "{ e = Expand(x, n) y = Abs(e) }"
    )
    shapes = {"n": (Values((1,)), Values((4,)), Values((8,)))}
    with device.engine(given, shapes) as it:
        assert it.ports["n"].in_host_memory
        for count in (1, 8, 3):
            feeds = {"x": np.array([-2], np.float32), "n": np.array([count], np.int64)}
            assert it.run(feeds)["y"].tolist() == make.expected(given, feeds)[0].tolist()


def test_runs_from_several_threads(device: Any, make: Any) -> None:
    given = make.network(3)
    with device.engine(given, lanes=3) as it:
        inputs = [make.images(1 + number % 8, seed=number) for number in range(24)]
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda x: it.submit({"x": x}).result()["y"], inputs))
        for x, y in zip(inputs, found, strict=True):
            agree(y, make.expected(given, {"x": x})[0])


def test_two_lanes_do_more(device: Any, make: Any, say: Any) -> None:
    plan = device.plan(make.network(8, 32, 32), "N=1")
    there = device.put(make.images(1, 32))
    with device.opened(plan) as one, device.opened(plan, lanes=2) as two:
        alone = max(throughput(one, {"x": there}, seconds=1.0 if device.is_real else 0.05) for _ in range(2))
        both = max(throughput(two, {"x": there}, seconds=1.0 if device.is_real else 0.05) for _ in range(2))
    there.free()
    say(f"one lane {alone:.0f} runs a second, two lanes {both:.0f}, {both / alone:.2f} times")
    if device.is_real:
        assert both >= 1.3 * alone


def test_graphs_compute_the_same_at_changing_sizes(device: Any, make: Any) -> None:
    given = make.network(4)
    with device.engine(given, ["N=1:4:8", "N=16"], graphs=True) as it:
        for count in (2, 2, 4, 2, 16, 8, 2, 8):
            x = make.images(count, seed=count)
            agree(it.run({"x": x})["y"], make.expected(given, {"x": x})[0])
            there = device.put(x)
            agree(it.run({"x": there}, on_device=True)["y"].numpy(), make.expected(given, {"x": x})[0])
            there.free()


def test_graphs_are_faster(device: Any, make: Any, say: Any) -> None:
    plan, x = device.plan(make.network(24, 8, 8), "N=1"), {"x": make.images(1, 8)}
    with device.opened(plan) as plain, device.opened(plan, graphs=True) as graphs:
        first, second = compare_engines(plain, graphs, x, seconds=2.0 if device.is_real else 0.05)
    say(f"launched {first.milliseconds:.4f} ms (wall {first.wall:.4f}), as a graph {second.milliseconds:.4f} ms")
    if device.is_real:
        assert second.milliseconds < first.milliseconds
        assert second.wall < first.wall


def test_refit_equals_rebuilding(device: Any, make: Any, say: Any) -> None:
    """Of what graphopt emits: the parser folds BatchNormalization into weights that have no names."""
    x, options = make.images(4), {"refit": True}
    first = device.built(make.network(4), "N=4", options=options, verify="off")
    other = device.built(make.network(4, seed=8), "N=4", options=options, verify="off")
    check_same_graph(first.model, other.model)
    with device.opened(other.plan) as rebuilt:
        wanted = rebuilt.run({"x": x})["y"]
    with device.opened(first.plan) as it:
        before = it.run({"x": x})["y"]
        start = time.perf_counter()
        assert it.refit(other.model) > 0
        say(f"refit {time.perf_counter() - start:.3f} s, build {other.plan.seconds:.3f} s")
        found = it.run({"x": x})["y"]
    assert np.abs(before - wanted).max() > 1e-2 * np.abs(wanted).max()
    agree(found, wanted, 1e-5)
    agree(found, make.expected(make.network(4, seed=8), {"x": x})[0])
    with device.engine(make.network(1)) as plain, pytest.raises(GraphoptError, match="built without refit"):
        plain.refit(other.model)


def test_layers_are_timed(device: Any, make: Any) -> None:
    given = make.network(3)
    for place, node in enumerate(given.graph.node):
        node.name = f"node_{place}"
    with device.engine(given) as it:
        x = {"x": make.images(4)}
        layers = layer_times(it, x, {node.name: [node.name] for node in given.graph.node}, runs=3)
        assert sum(layer.milliseconds for layer in layers) > 0
        assert any(layer.sources for layer in layers), [layer.name for layer in layers]
        agree(it.run(x)["y"], make.expected(given, x)[0])  # the profiler is gone
        assert time_engine(it, x, seconds=0.05).runs >= 5


def test_a_plan_from_a_file_and_one_that_is_none(device: Any, make: Any, tmp_path: Path) -> None:
    device.plan(make.network(1, 8)).save(tmp_path / "m.plan")
    with device.opened(tmp_path / "m.plan") as it:
        assert it.run({"x": make.images(2)})["y"].shape == (2, 8, 1, 1)
        with pytest.raises(GraphoptError, match="does not take the plan"):
            device.opened(b"nothing" * 100)


def test_a_thousand_cycles_leave_nothing(device: Any, make: Any, say: Any) -> None:
    plan, x = device.plan(make.network(3)), make.images(2)

    def cycles(count: int) -> tuple[int, int]:
        for number in range(count):
            with device.opened(plan, graphs=number % 4 == 0, lanes=1 + number % 2) as it:
                it.run({"x": x})
        gc.collect()
        return device.cuda.memory()[0], resident()

    cycles(20)  # libraries take what they keep
    free, size = cycles(30 if device.is_real else 3)
    left, grown = cycles(1000 if device.is_real else 20)
    say(f"device memory {(free - left) / 1e6:.1f} MB less, process {(grown - size) / 1e6:.1f} MB more")
    if device.is_real:
        assert free - left < 4e6
        assert grown - size < 16e6


def resident() -> int:
    """Bytes of this process in memory."""
    with open("/proc/self/statm") as stream:
        return int(stream.read().split()[1]) * 4096


def test_numbers_of_weights_are_kept(device: Any, make: Any) -> None:
    """What a build must not do: round float32 weights by itself (TF32 is off)."""
    given = make.network(1, 8)
    with device.engine(given, "N=1") as it:
        x = make.images(1)
        agree(it.run({"x": x})["y"], make.expected(given, {"x": x})[0], 1e-3)
    assert numpy_helper.to_array(given.graph.initializer[0]).dtype == np.float32
