"""A device for the tests of this folder: the real one, or with GRAPHOPT_SIMULATE=1 the simulated ones.

On a GPU machine:   python -m pytest -c tests/gpu/bare.ini tests/gpu
Anywhere else:      GRAPHOPT_SIMULATE=1 python -m pytest -m gpu tests/gpu     (shows that the tests are sound)

Networks are small and of convolutions only, and sources of tactics are restricted, so that builds take seconds and
need neither cuBLAS nor cuDNN.
"""

from __future__ import annotations

import gc
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, numpy_helper, parser

from graphopt import ir
from graphopt.errors import GraphoptError
from graphopt.targets.tensorrt._bindings import Bindings, load_bindings
from graphopt.targets.tensorrt._cuda import Cuda, find_cuda
from graphopt.targets.tensorrt.builder import Plan, build_plan
from graphopt.targets.tensorrt.core import Built, build
from graphopt.targets.tensorrt.engine import Engine
from graphopt.testing.simulator import VERSIONS, Simulated

SOURCES = ("JIT_CONVOLUTIONS", "EDGE_MASK_CONVOLUTIONS")
SHAPES = "N=1:4:8"


@dataclass
class Device:
    """TensorRT and CUDA; is_real: not simulated, so that times mean something."""

    bindings: Bindings
    cuda: Cuda
    is_real: bool

    @property
    def both(self) -> dict[str, Any]:
        """As keyword arguments."""
        return {"bindings": self.bindings, "cuda": self.cuda}

    def options(self, **more: Any) -> dict[str, Any]:
        """Build options, with tactics that need no other library."""
        kind = getattr(self.bindings.trt, "TacticSource", None)
        return {"tactic_sources": tuple(name for name in SOURCES if hasattr(kind, name)), **more}

    def plan(self, model: ModelProto, shapes: Any = SHAPES, *, timing_cache: Any = False, **options: Any) -> Plan:
        """Of the model as it is."""
        return build_plan(
            ir.from_proto(model), shapes, options=self.options(**options), timing_cache=timing_cache, **self.both
        )

    def built(self, model: ModelProto, shapes: Any = SHAPES, **more: Any) -> Built:
        """Optimized, built and verified."""
        options = self.options(**more.pop("options", {}))
        return build(model, shapes, options=options, timing_cache=False, **self.both, **more)

    def engine(self, model: ModelProto, shapes: Any = SHAPES, **options: Any) -> Engine:
        """To run the model as it is."""
        return self.opened(self.plan(model, shapes), **options)

    def opened(self, plan: Plan, **options: Any) -> Engine:
        """To run a plan."""
        return Engine(plan, **self.both, **options)

    def put(self, array: np.ndarray, offset: int = 0) -> OnDevice:
        """An array's copy on the device, so many bytes behind the start of its memory."""
        return OnDevice(self.cuda, array, offset)


class OnDevice:
    """Memory on the device as CuPy, Numba and PyTorch show it."""

    def __init__(self, cuda: Cuda, array: np.ndarray, offset: int) -> None:
        self.cuda, self.start = cuda, cuda.malloc(array.nbytes + offset)
        stream, pinned = cuda.stream(), cuda.malloc_host(array.nbytes)
        import ctypes

        ctypes.memmove(pinned, array.ctypes.data, array.nbytes)
        cuda.copy(self.start + offset, pinned, array.nbytes, stream)
        cuda.synchronize(stream)
        cuda.free_host(pinned)
        cuda.free_stream(stream)
        place = (self.start + offset, False)
        self.__cuda_array_interface__ = {
            "shape": array.shape, "typestr": array.dtype.str, "data": place, "version": 3, "stream": 1,
        }  # fmt: skip

    def free(self) -> None:
        """Gives it back."""
        self.cuda.free(self.start)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One run on the real device, or one for each version that is simulated."""
    if "device" in metafunc.fixturenames:
        asked = os.environ.get("GRAPHOPT_SIMULATE", "")
        versions = [asked] if asked in VERSIONS else list(VERSIONS) if asked else ["real"]
        metafunc.parametrize("device", versions, indirect=True)


@pytest.fixture
def device(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """See `Device`. Skips where there is none. Caches are empty, and what is left on the device is a failure."""
    monkeypatch.setenv("GRAPHOPT_CACHE", str(tmp_path / "cache"))
    if request.param == "real":
        try:
            made = Device(load_bindings(), find_cuda(), True)
        except GraphoptError as error:
            pytest.skip(str(error))
        yield made
        gc.collect()
        return
    simulated = Simulated(request.param)
    yield Device(Bindings(simulated), simulated.world, False)
    gc.collect()
    assert simulated.world.held == 0
    assert not any(simulated.world.alive.values()), simulated.world.alive


@pytest.fixture
def say(record_property: Any) -> Any:
    """Notes what was measured: `-rP` shows it, and so does a JUnit file."""

    def note(text: str) -> None:
        record_property("measured", text)
        sys.stdout.write(text + "\n")

    return note


@pytest.fixture
def make() -> Any:
    """The networks, as `make.network(...)`; fixtures, since files of tests do not import each other."""
    return Networks


class Networks:
    """Small ones."""

    @staticmethod
    def network(
        layers: int = 6, channels: int = 32, size: int = 16, seed: int = 0, *, grows: bool = False
    ) -> ModelProto:
        """Convolutions with BatchNormalization, Relu and sums around them. grows: no two layers are of one shape."""
        rng = np.random.default_rng(seed)
        lines, weights, last, width = [], {}, "x", 3
        for number in range(layers):
            wider = channels + 8 * number if grows else channels
            weights[f"w{number}"] = (rng.standard_normal((wider, width, 3, 3)) * (2 / (9 * width)) ** 0.5,)
            for name, value in (("s", 1.0), ("b", 0.0), ("m", 0.0), ("v", 1.0)):
                weights[f"{name}{number}"] = (value + 0.1 * rng.random(wider),)
            lines.append(
                f"c{number} = Conv<kernel_shape=[3, 3], pads=[1, 1, 1, 1]>({last}, w{number}) "
                f"n{number} = BatchNormalization(c{number}, s{number}, b{number}, m{number}, v{number}) "
                f"r{number} = Relu(n{number})"
            )
            last = f"r{number}"
            if wider == width:
                lines.append(f"a{number} = Add(r{number}, r{number - 1})")
                last = f"a{number}"
            width = wider
        lines.append(f"y = GlobalAveragePool({last})")
        text = f"g (float[N, 3, {size}, {size}] x) => (float[N, {width}, 1, 1] y) {{ {' '.join(lines)} }}"
        made = parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> {text}')
        for name, (value,) in weights.items():
            made.graph.initializer.append(numpy_helper.from_array(value.astype(np.float32), name))
        return made

    @staticmethod
    def quantized(layers: int = 4, channels: int = 32, size: int = 16) -> ModelProto:
        """Convolutions of int8 weights, with activations that are quantized on the way."""
        rng = np.random.default_rng(3)
        lines, tensors, last, width = [], {"zero": np.int8(0), "scale": np.float32(4 / 127)}, "x", 3
        for number in range(layers):
            weight = rng.standard_normal((channels, width, 3, 3)) * (2 / (9 * width)) ** 0.5
            step = np.abs(weight).max() / 127
            tensors[f"w{number}"] = np.clip(np.round(weight / step), -127, 127).astype(np.int8)
            tensors[f"t{number}"] = np.float32(step)
            lines.append(
                f"q{number} = QuantizeLinear({last}, scale, zero) d{number} = DequantizeLinear(q{number}, scale, zero) "
                f"f{number} = DequantizeLinear(w{number}, t{number}, zero) "
                f"c{number} = Conv<kernel_shape=[3, 3], pads=[1, 1, 1, 1]>(d{number}, f{number}) "
                f"r{number} = Relu(c{number})"
            )
            last, width = f"r{number}", channels
        lines.append(f"y = GlobalAveragePool({last})")
        text = f"g (float[N, 3, {size}, {size}] x) => (float[N, {width}, 1, 1] y) {{ {' '.join(lines)} }}"
        made = parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> {text}')
        for name, value in tensors.items():
            made.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
        return made

    @staticmethod
    def images(count: int, size: int = 16, seed: int = 1) -> np.ndarray:
        """Inputs of both."""
        return np.random.default_rng(seed).standard_normal((count, 3, size, size)).astype(np.float32)

    @staticmethod
    def expected(model: ModelProto, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        """By ONNX Runtime, on the CPU."""
        import onnxruntime as ort

        session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        found: list[np.ndarray] = session.run(None, feeds)
        return found
