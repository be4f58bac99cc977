"""Running engines: arrays in by name, arrays out by name, on one stream or on several."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any

import numpy as np
from onnx import ModelProto

from graphopt.errors import GraphoptError
from graphopt.targets.tensorrt._bindings import Bindings, load_bindings
from graphopt.targets.tensorrt._cuda import Cuda, find_cuda
from graphopt.targets.tensorrt.arrays import Located, located, named_type
from graphopt.targets.tensorrt.builder import Plan
from graphopt.targets.tensorrt.lane import Lane
from graphopt.targets.tensorrt.profiles import Profile, Triple
from graphopt.targets.tensorrt.refit import refit

__all__ = ["Engine", "Port", "Run"]

_TYPES = {
    "FLOAT": "float32", "HALF": "float16", "BF16": "bfloat16", "FP8": "float8_e4m3fn", "INT8": "int8", "UINT8": "uint8",
    "INT32": "int32", "INT64": "int64", "BOOL": "bool",
}  # fmt: skip


@dataclass(frozen=True)
class Port:
    """An input or output of an engine. shape: -1 where it varies. in_host_memory: TensorRT reads it there."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    is_input: bool
    in_host_memory: bool = False


class Run:
    """A run that was given to the device. `result()` waits for it."""

    def __init__(self, engine: Engine, lane: Lane, finish: Callable[[], dict[str, Any]]) -> None:
        self._engine, self._lane, self._finish = engine, lane, finish
        self._result: dict[str, Any] | None = None

    def result(self) -> dict[str, Any]:
        """Outputs by name; the first call waits. Raises GraphoptError where the device failed."""
        if self._result is None:
            if not self._lane.is_open:
                raise GraphoptError("the engine was closed before the run was over")
            try:
                self._engine._cuda.use()
                self._result = self._finish()
            finally:
                self._engine._free(self._lane)
        return self._result

    def __del__(self) -> None:  # a run that nobody asks for gives its lane back all the same
        if self._result is None and self._lane.is_open:
            self._engine._settle(self._lane)  # it may still read what was staged


class Engine:
    """A plan, ready to run; a context manager.

    plan: a `Plan`, its bytes, or the path of a .plan file. lanes: runs that may be under way at a time, each with a
    stream, a context and memory of its own (before TensorRT 10, and where shapes vary, with weights of its own as
    well). graphs: record the run as a CUDA graph, and launch that from then on, until shapes change; less work for the
    processor. weight_budget: bytes of weights that may lie on the device, of a plan built with weight streaming; the
    others come from host memory as they are needed. host_code: trust the plan to bring code for the processor, as
    version-compatible plans do; None trusts those that were built in this process.

    ports, inputs, outputs: by name. profiles: of the plan, in order. log: what TensorRT said.

    Raises GraphoptError: no GPU, no TensorRT, or a plan of another version or device.
    """

    def __init__(
        self,
        plan: Plan | bytes | str | os.PathLike[str],
        *,
        lanes: int = 1,
        graphs: bool = False,
        weight_budget: int | None = None,
        host_code: bool | None = None,
        device: int = 0,
        bindings: Bindings | None = None,
        cuda: Cuda | None = None,
    ) -> None:
        self.is_open = False
        if lanes < 1:
            raise GraphoptError(f"an engine needs a lane to run on, not {lanes}")
        self._lanes: list[Lane] = []
        content = _content(plan)
        self._bindings = bindings or load_bindings()
        self._cuda = cuda or find_cuda(device)
        self._cuda.use()
        self.log: list[str] = []
        self.graphs = graphs
        self._free_lanes: list[Lane] = []
        self._ready = threading.Condition()
        self._engines: list[Any] = []
        self._logger = self._bindings.logger(self.log)
        self.is_open = True  # from here on there is something to close
        try:
            trusted = host_code is None and isinstance(plan, Plan) and plan.options.version_compatible
            self._runtime = self._new_runtime(bool(host_code) or trusted)
            self._weight_budget = weight_budget
            self._engines.append(self._deserialized(content))
            self.ports = {port.name: port for port in self._ports()}
            self.inputs = {name: port for name, port in self.ports.items() if port.is_input}
            self.outputs = {name: port for name, port in self.ports.items() if not port.is_input}
            self._varies = any(-1 in port.shape or port.in_host_memory for port in self.inputs.values())
            count = self._engines[0].num_optimization_profiles
            self.profiles = [self._profile(number) for number in range(count)]
            for _ in range(lanes):
                self._lanes.append(self._lane(content))
        except BaseException:
            self.close()
            raise
        self._free_lanes += self._lanes

    @property
    def _engine(self) -> Any:
        return self._engines[0]

    def _new_runtime(self, host_code: bool) -> Any:
        try:
            runtime = self._bindings.trt.Runtime(self._logger)
        except TypeError as error:  # so the bindings say that there is none
            raise GraphoptError(f"TensorRT makes no runtime: {'; '.join(self.log[-2:]) or error}") from error
        if host_code and hasattr(runtime, "engine_host_code_allowed"):
            runtime.engine_host_code_allowed = True
        return runtime

    def _deserialized(self, content: bytes) -> Any:
        engine = self._runtime.deserialize_cuda_engine(content)
        if engine is None:
            raise GraphoptError(f"TensorRT does not take the plan: {'; '.join(self.log[-2:]) or 'no reason given'}")
        if self._weight_budget is not None:
            _set_budget(engine, self._weight_budget)
        return engine

    def _lane(self, content: bytes) -> Lane:
        """Before TensorRT 10, two contexts of one engine cannot have one profile: lanes have engines of their own."""
        if self._lanes and self._varies and not self._bindings.shares_profiles:
            self._engines.append(self._deserialized(content))
        made = self._context(self._engines[-1])
        return Lane(made, self._cuda, self.ports, self._bindings.trt.IOutputAllocator)

    def _context(self, engine: Any) -> Any:
        context = engine.create_execution_context()
        if context is None:
            raise GraphoptError(f"no memory for another execution context: {'; '.join(self.log[-2:])}")
        return context

    def _ports(self) -> list[Port]:
        trt, engine = self._bindings.trt, self._engine
        names = [engine.get_tensor_name(place) for place in range(engine.num_io_tensors)]
        host = trt.TensorLocation.HOST
        return [
            Port(
                name,
                self._dtype(name),
                tuple(engine.get_tensor_shape(name)),
                engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT,
                engine.get_tensor_location(name) == host,
            )
            for name in names
        ]

    def _dtype(self, name: str) -> np.dtype[Any]:
        kind = self._engine.get_tensor_dtype(name)
        found = _TYPES.get(kind.name)
        if found is None:
            raise GraphoptError(f"{name!r} is of type {kind.name}, for which there are no arrays; cast it in the model")
        return named_type(found)

    def _profile(self, number: int) -> Profile:
        shapes = {}
        for name, port in self.inputs.items():
            if -1 in port.shape and not port.in_host_memory:
                sides = self._engine.get_tensor_profile_shape(name, number)
                shapes[name] = Triple(*(tuple(side) for side in sides))
            elif not port.in_host_memory:
                shapes[name] = Triple(port.shape, port.shape, port.shape)
        return Profile(shapes)

    # running

    def run(self, feeds: Mapping[str, Any], *, on_device: bool = False) -> dict[str, Any]:
        """The outputs, by name: numpy arrays, or where they are (`DeviceArray`, valid until the lane's next run).

        feeds: arrays by name, in host memory or on the device. Raises GraphoptError before anything is launched for a
        name, type or shape that the engine does not take.
        """
        return self.submit(feeds, on_device=on_device).result()

    def submit(self, feeds: Mapping[str, Any], *, on_device: bool = False) -> Run:
        """Gives a run to the device and returns at once, if a lane is free; else when one is."""
        inputs, profile = self._checked(feeds)
        lane = self._taken()
        try:
            finish = self._start(lane, inputs, profile, on_device)
        except BaseException:
            self._settle(lane)
            raise
        return Run(self, lane, finish)

    def _start(
        self, lane: Lane, inputs: Mapping[str, Located], profile: int, on_device: bool
    ) -> Callable[[], dict[str, Any]]:
        self._prepare(lane, inputs, profile)
        self._go(lane)
        if not on_device and not lane.is_waiting_for_shapes:
            lane.fetch()

        def finish() -> dict[str, Any]:
            self._cuda.synchronize(lane.stream)
            if not on_device and lane.is_waiting_for_shapes:
                lane.fetch()
                self._cuda.synchronize(lane.stream)
            lane.held.clear()
            return lane.device_results() if on_device else lane.results()

        return finish

    def _prepare(self, lane: Lane, inputs: Mapping[str, Located], profile: int) -> None:
        """Everything before the run itself."""
        lane.held = list(inputs.values())
        if self._varies:
            lane.use_profile(profile)
        lane.follow(inputs)
        lane.bind(inputs, own=self.graphs)
        lane.send(inputs, own=self.graphs)

    def _go(self, lane: Lane) -> None:
        if self.graphs:
            lane.launch()
        else:
            lane.execute()

    def _checked(self, feeds: Mapping[str, Any]) -> tuple[dict[str, Located], int]:
        if not self.is_open:
            raise GraphoptError("the engine is closed")
        known = self.inputs
        missing = [name for name in known if name not in feeds]
        extra = [name for name in feeds if name not in known]
        if missing or extra:
            what = f"no value for {missing[0]!r}" if missing else f"no input is named {extra[0]!r}"
            raise GraphoptError(f"{what}; the engine's inputs: {', '.join(known)}")
        inputs = {name: self._fitting(port, located(name, feeds[name])) for name, port in known.items()}
        return inputs, self._profile_for({name: array.shape for name, array in inputs.items()})

    def _fitting(self, port: Port, array: Located) -> Located:
        if len(array.shape) != len(port.shape):
            raise GraphoptError(f"input {port.name!r} has {len(port.shape)} dims, and got {len(array.shape)}")
        if array.dtype == port.dtype:
            return array
        if not array.on_device and array.dtype == np.int64 and port.dtype == np.int32:  # as the parser did
            wide = array.numpy()
            narrow = wide.astype(np.int32)
            if np.array_equal(narrow, wide):
                return located(port.name, narrow)
            raise GraphoptError(f"input {port.name!r}: the engine takes int32, and a value is too large for it")
        raise GraphoptError(
            f"input {port.name!r} is {array.dtype}, and the engine takes {port.dtype}; convert it first"
        )

    def _profile_for(self, shapes: Mapping[str, tuple[int, ...]]) -> int:
        reasons = []
        for number, profile in enumerate(self.profiles):
            reason = profile.why_not(shapes)
            if not reason:
                return number
            reasons.append(reason)
        others = f" (none of the {len(reasons)} profiles fits)" if len(reasons) > 1 else ""
        raise GraphoptError(f"{reasons[0]}{others}; build it with --shapes that hold this one")

    @property
    def device_name(self) -> str:
        """Of the GPU, with the clock that it may reach; what it runs at falls with heat and power."""
        return f"{self._cuda.name}, up to {self._cuda.clock} MHz" if self._cuda.clock else self._cuda.name

    @property
    def lane_count(self) -> int:
        """How many runs may be under way at a time."""
        return len(self._lanes)

    def timed(self, feeds: Mapping[str, Any]) -> float:
        """Seconds that a run takes on the device, by CUDA events around it; copies from and to host memory are left
        out. Arguments and errors are those of `run`."""
        inputs, profile = self._checked(feeds)
        lane = self._taken()
        events: list[int] = []
        try:
            events += [self._cuda.event(), self._cuda.event()]
            self._prepare(lane, inputs, profile)
            if self.graphs:
                lane.record()
            self._cuda.synchronize(lane.stream)
            self._cuda.record(events[0], lane.stream)
            self._go(lane)
            self._cuda.record(events[1], lane.stream)
            return self._cuda.elapsed(*events)
        finally:
            for event in events:
                self._cuda.free_event(event)
            self._settle(lane)

    def profiled(self, feeds: Mapping[str, Any]) -> dict[str, float]:
        """Milliseconds by layer of one run, as TensorRT's profiler tells; the run is slower for it."""
        inputs, profile = self._checked(feeds)
        lane, found = self._taken(), dict[str, float]()
        try:
            self._prepare(lane, inputs, profile)
            lane.context.profiler = _profiler(self._bindings.trt.IProfiler, found)
            lane.execute()
            self._cuda.synchronize(lane.stream)
            return found
        finally:  # a context keeps its profiler for good: another one takes its place
            with suppress(GraphoptError):
                self._cuda.synchronize(lane.stream)
            engine = self._engines[min(self._lanes.index(lane), len(self._engines) - 1)]
            try:
                lane.use_context(partial(self._context, engine))
            finally:
                self._settle(lane)

    def refit(self, model: ModelProto) -> int:
        """Replaces weights by those of `model`: the one that the engine was built from, with other numbers in it.

        Returns how many there were. Raises GraphoptError as `graphopt.targets.tensorrt.refit` says.
        """
        lanes = [self._taken() for _ in self._lanes]  # none is running
        try:
            for lane in lanes:
                lane.drop_graph()
            counts = [refit(engine, model, self._bindings, self._logger, self.log) for engine in self._engines]
            return counts[0]
        finally:
            for lane in lanes:
                self._free(lane)

    # lanes

    def _taken(self) -> Lane:
        with self._ready:
            while not self._free_lanes:
                if not any(lane.is_open for lane in self._lanes):
                    raise GraphoptError("the engine is closed")
                self._ready.wait()
            lane = self._free_lanes.pop(0)
        self._cuda.use()
        return lane

    def _free(self, lane: Lane) -> None:
        with self._ready:
            if lane not in self._free_lanes and lane.is_open:
                self._free_lanes.append(lane)
                self._ready.notify()

    def _settle(self, lane: Lane) -> None:
        """Frees a lane that may be in the middle of something."""
        if lane.is_open:
            with suppress(GraphoptError):
                self._cuda.synchronize(lane.stream)
            lane.held.clear()
        self._free(lane)

    def close(self) -> None:
        """Gives back everything on the device; twice does no harm."""
        if not self.is_open:
            return
        with self._ready:
            self.is_open = False
            self._free_lanes.clear()
            self._ready.notify_all()
        self._cuda.use()
        try:
            with ExitStack() as stack:
                for lane in self._lanes:
                    stack.callback(lane.close)
        finally:
            self._engines.clear()
            self._runtime = None
            self._bindings.unlisten(self.log)

    def __del__(self) -> None:
        if getattr(self, "is_open", False):
            with suppress(Exception):  # at the end of the process CUDA may be gone before this is
                self.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _set_budget(engine: Any, budget: int) -> None:
    """Before contexts are made of it."""
    if not hasattr(engine, "weight_streaming_budget_v2") or not getattr(engine, "streamable_weights_size", 0):
        raise GraphoptError("the plan streams no weights: build it with weight_streaming=True, from TensorRT 10 on")
    if budget < 0:
        raise GraphoptError(f"a budget of {budget} bytes of weights is none")
    engine.weight_streaming_budget_v2 = budget


def _profiler(base: Any, found: dict[str, float]) -> Any:
    class Profiler(base):  # type: ignore[misc]
        def __init__(self) -> None:
            base.__init__(self)

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            found[layer_name] = found.get(layer_name, 0.0) + ms

    return Profiler()


def _content(plan: Plan | bytes | str | os.PathLike[str]) -> bytes:
    if isinstance(plan, Plan):
        return plan.content
    if isinstance(plan, bytes):
        return plan
    try:
        with open(plan, "rb") as stream:
            return stream.read()
    except OSError as error:
        reason = error.strerror or error
        raise GraphoptError(f"cannot read {os.fspath(plan)}: {reason}; give a .plan that was built") from error
