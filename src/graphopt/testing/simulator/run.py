"""The run side of the simulated TensorRT: engines that ONNX Runtime executes, on the processor."""

from __future__ import annotations

import ctypes
import json
import time
import weakref
from typing import Any

import ml_dtypes
import numpy as np
from onnx import ModelProto, numpy_helper

from graphopt.errors import GraphoptError
from graphopt.testing.simulator.build import MAGIC, data_type, numpy_type

_BY_ADDRESS = {"BF16": ml_dtypes.bfloat16, "FP8": ml_dtypes.float8_e4m3fn}
_NUMPY = {"tensor(int64)": np.int64}  # what the parser of TensorRT 8.5 narrows


class Runtime:
    """Reads plans."""

    def __init__(self, module: Any, logger: Any) -> None:
        self._module, self._logger = module, module.logger_of(self, logger)

    def deserialize_cuda_engine(self, serialized_engine: Any) -> Any:
        """The engine, or None for what is no plan of this version."""
        content = bytes(serialized_engine)
        severity = self._module.ILogger.Severity.ERROR
        if not content.startswith(MAGIC):
            self._logger.log(severity, "Magic tag does not match")
            return None
        head, _, model = content[len(MAGIC) :].partition(b"\n")
        plan = json.loads(head)
        if plan["version"] != self._module.__version__ and "VERSION_COMPATIBLE" not in plan["flags"]:
            text = f"plan of version {plan['version']}, library of {self._module.__version__}"
            self._logger.log(severity, text)
            return None
        if "VERSION_COMPATIBLE" in plan["flags"] and not getattr(self, "engine_host_code_allowed", None):
            self._logger.log(severity, "the plan has code for the host, and engine_host_code_allowed is not set")
            return None
        return self._module.ICudaEngine(self._module, plan, ModelProto.FromString(model), content)


class ICudaEngine:
    """A plan, ready to be run."""

    def __init__(self, module: Any, plan: dict[str, Any], model: ModelProto, content: bytes) -> None:
        from graphopt import ir
        from graphopt.analysis.shapes import ensure_types

        self._module, self._plan, self._content = module, plan, content
        self._contexts: weakref.WeakSet[Any] = weakref.WeakSet()
        infos = {info.name: info for info in (*model.graph.value_info, *model.graph.output)}
        del model.graph.output[:]
        for name in plan["outputs"]:
            model.graph.output.add().name = name
            if name in infos:
                model.graph.output[-1].CopyFrom(infos[name])
        for node in model.graph.node:
            if node.op_type == module.faulty:
                node.op_type = "Identity"
                del node.attribute[:], node.input[1:]
        self._model = model
        self._session: Any = None
        loaded = ir.from_proto(ModelProto.FromString(model.SerializeToString()))
        ensure_types(loaded)
        graph = loaded.graph
        given = {value.name: value for value in graph.inputs}
        self._inputs = {name: module.tensor(value, True) for name, value in given.items()}
        self._known_types = {value.name: value.dtype for node in graph for value in node.outputs}
        self._ranks = {value.name: value.rank for node in graph for value in node.outputs}
        module.world.born("engine")
        weakref.finalize(self, module.world.gone, "engine")

    def _is_free(self, profile: int, context: Any) -> bool:
        """Before TensorRT 10, contexts of an engine of varying shapes do not share a profile."""
        varies = any(-1 in tensor.shape for tensor in self._inputs.values())
        shared = int(self._module.__version__.split(".")[0]) >= 10 or not varies
        return shared or all(other is context or other._profile != profile for other in self._contexts)

    def _run(self, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        import onnxruntime as ort

        if self._session is None:
            options = ort.SessionOptions()
            options.intra_op_num_threads, options.log_severity_level = 1, 4
            self._session = ort.InferenceSession(
                self._model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        given = {entry.name: _NUMPY.get(entry.type) for entry in self._session.get_inputs()}
        feeds = {name: array.astype(given[name] or array.dtype) for name, array in feeds.items()}
        outputs = self._session.run(self._plan["outputs"], feeds)
        return [
            array.astype(numpy_type(self._module, self.get_tensor_dtype(name)))
            for name, array in zip(self._plan["outputs"], outputs, strict=True)
        ]

    @property
    def num_io_tensors(self) -> int:
        """Inputs and outputs."""
        return len(self._inputs) + len(self._plan["outputs"])

    @property
    def num_layers(self) -> int:
        """How many."""
        return len(self._plan["layers"])

    @property
    def num_optimization_profiles(self) -> int:
        """At least one."""
        return len(self._plan["profiles"])

    @property
    def refittable(self) -> bool:
        """Whether it was built with REFIT."""
        return bool(self._plan["refit"])

    def get_tensor_name(self, index: int) -> str:
        """Inputs first."""
        names: list[str] = [*self._inputs, *self._plan["outputs"]]
        return names[index]

    def get_tensor_mode(self, name: str) -> Any:
        """Input or output."""
        mode = self._module.TensorIOMode
        return mode.INPUT if name in self._inputs else mode.OUTPUT

    def get_tensor_dtype(self, name: str) -> Any:
        """Of the DataType enum."""
        tensor = self._inputs.get(name)
        return data_type(self._module, self._known_types[name]) if tensor is None else tensor.dtype

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        """-1 where it varies."""
        tensor = self._inputs.get(name)
        return (-1,) * (self._ranks[name] or 0) if tensor is None else tensor.shape

    def get_tensor_location(self, name: str) -> Any:
        """On the device, but for sizes."""
        location = self._module.TensorLocation
        held = any(name in values for values in self._plan["values"])
        return location.HOST if held else location.DEVICE

    def is_shape_inference_io(self, name: str) -> bool:
        """Whether it holds sizes."""
        return any(name in values for values in self._plan["values"])

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[tuple[int, ...]]:
        """Smallest, usual, largest."""
        found = self._plan["profiles"][profile_index].get(name)
        return [tuple(side) for side in found] if found else [self._inputs[name].shape] * 3

    def create_execution_context(self) -> Any:
        """To run it in."""
        return self._module.IExecutionContext(self._module, self)

    def create_engine_inspector(self) -> Any:
        """To look into it."""
        return self._module.EngineInspector(self)

    def serialize(self) -> Any:
        """The plan again."""
        return self._module.IHostMemory(self._content)


class EngineInspector:
    """Looks into an engine."""

    def __init__(self, engine: ICudaEngine) -> None:
        self._engine = engine

    def get_engine_information(self, format: Any) -> str:
        """Its layers, as JSON."""
        return json.dumps({"Layers": [{"Name": name} for name in self._engine._plan["layers"]]})


class IExecutionContext:
    """Shapes, addresses, and the run."""

    def __init__(self, module: Any, engine: ICudaEngine) -> None:
        self._module, self._engine = module, engine
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._allocators: dict[str, Any] = {}
        self._profile = 0 if engine._is_free(0, self) else -1
        engine._contexts.add(self)
        self._changes = 0  # what a recorded graph depends on
        self._ran = -1  # with how many changes it ran last
        self.profiler: Any = None
        self.enqueue_emits_profile = True
        module.world.born("context")
        weakref.finalize(self, module.world.gone, "context")

    @property
    def active_optimization_profile(self) -> int:
        """Its number."""
        return self._profile

    @property
    def engine(self) -> ICudaEngine:
        """What it runs."""
        return self._engine

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        """Chooses a profile; input shapes are to be set again."""
        inside = 0 <= profile_index < self._engine.num_optimization_profiles
        if not inside or not self._engine._is_free(profile_index, self):
            raise RuntimeError("Error in set optimization profile async.")
        self._profile = profile_index
        self._shapes.clear()
        self._changes += 1
        return True

    def set_input_shape(self, name: str, shape: Any) -> bool:
        """False outside of the profile."""
        if self._profile < 0:
            return False
        low, _, high = self._engine.get_tensor_profile_shape(name, self._profile)
        sizes = tuple(shape)
        if len(sizes) != len(low):
            return False
        if not all(a <= size <= b for a, size, b in zip(low, sizes, high, strict=True)):
            return False
        self._changes += self._shapes.get(name) != sizes
        self._shapes[name] = sizes
        return True

    def set_tensor_address(self, name: str, memory: int) -> bool:
        """Of an input or output."""
        if memory % 256:
            return False
        self._changes += self._addresses.get(name) != memory
        self._addresses[name] = memory
        return True

    def set_output_allocator(self, name: str, output_allocator: Any) -> bool:
        """For outputs whose size is known only when it ran."""
        self._allocators[name] = output_allocator
        return True

    def infer_shapes(self) -> list[str]:
        """Inputs that still need a shape."""
        host = [name for name in self._engine._inputs if self._engine.is_shape_inference_io(name)]
        unknown = [name for name in host if not self._addresses.get(name)]
        return unknown + [name for name in self._engine._inputs if -1 in self._input_shape(name)]

    def _input_shape(self, name: str) -> tuple[int, ...]:
        declared: tuple[int, ...] = self._engine._inputs[name].shape
        return self._shapes.get(name, declared)

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        """As far as the inputs' shapes say."""
        if name in self._engine._inputs:
            return self._input_shape(name)
        if self.infer_shapes() or name in self._allocators:
            return self._engine.get_tensor_shape(name)
        place: int = self._engine._plan["outputs"].index(name)
        fills = [{each: self._example(each, fill) for each in self._engine._inputs} for fill in (0, 1)]
        shapes = [self._engine._run(feeds)[place].shape for feeds in fills]  # where these differ, the data decide
        pairs = zip(*shapes, strict=True)
        return tuple(int(size) if size == other else -1 for size, other in pairs)

    def _example(self, name: str, fill: int) -> np.ndarray:
        """All alike; of an input that holds sizes, what it holds."""
        dtype, shape = numpy_type(self._module, self._engine._inputs[name].dtype), self._input_shape(name)
        if not self._engine.is_shape_inference_io(name):
            return np.full(shape, fill, dtype)
        held = ctypes.string_at(self._addresses[name], int(np.prod(shape)) * dtype.itemsize)
        return np.frombuffer(held, dtype).reshape(shape)

    def get_max_output_size(self, name: str) -> int:
        """In bytes, for the shapes that are set."""
        shape = self.get_tensor_shape(name)
        item = numpy_type(self._module, self._engine.get_tensor_dtype(name)).itemsize
        return int(np.prod(shape)) * item if -1 not in shape else -1

    def execute_async_v3(self, stream_handle: int) -> bool:
        """Gives the stream the run."""
        names = [*self._engine._inputs, *self._engine._plan["outputs"]]
        missing = [name for name in names if not self._addresses.get(name) and name not in self._allocators]
        if self.infer_shapes() or missing:
            return False
        world = self._module.world
        if world.is_capturing and self._ran != self._changes:
            return False  # TensorRT sets itself up, which cannot be recorded
        self._ran = self._changes
        shapes, addresses, changes = dict(self._shapes), dict(self._addresses), self._changes
        return bool(world.do(stream_handle, "execute", lambda: self._execute(shapes, addresses, changes)))

    def _execute(self, shapes: dict[str, tuple[int, ...]], addresses: dict[str, int], changes: int) -> bool:
        if changes != self._changes:
            raise GraphoptError("CUDA: a graph was launched, and the context that it was recorded of has changed")
        feeds = {}
        for name, tensor in self._engine._inputs.items():
            dtype = numpy_type(self._module, tensor.dtype)
            shape = shapes.get(name, tensor.shape)
            size = int(np.prod(shape)) * dtype.itemsize
            feeds[name] = np.frombuffer(ctypes.string_at(addresses[name], size), dtype).reshape(shape)
        start = time.perf_counter()
        outputs = self._engine._run(feeds)
        for name, array in zip(self._engine._plan["outputs"], outputs, strict=True):
            ready = np.ascontiguousarray(array)
            if name in self._allocators and not self._allocate(name, ready, addresses):
                return False
            ctypes.memmove(addresses[name], ready.ctypes.data, ready.nbytes)
        if self.profiler is not None:
            layers = self._engine._plan["layers"]
            share = 1e3 * (time.perf_counter() - start) / max(1, len(layers))
            for layer in layers:
                self.profiler.report_layer_time(layer, share)
        return True

    def _allocate(self, name: str, array: np.ndarray, addresses: dict[str, int]) -> bool:
        """As the bindings of either version ask for memory."""
        allocator = self._allocators[name]
        if int(self._module.__version__.split(".")[0]) < 10:
            addresses[name] = allocator.reallocate_output(name, 0, array.nbytes, 256)
        else:
            addresses[name] = allocator.reallocate_output_async(name, 0, array.nbytes, 256, 1)
        allocator.notify_shape(name, array.shape)
        return bool(addresses[name])


class Refitter:
    """Puts other weights into an engine."""

    def __init__(self, module: Any, engine: ICudaEngine, logger: Any) -> None:
        self._module, self._engine, self._logger = module, engine, module.logger_of(self, logger)
        self._new: dict[str, np.ndarray] = {}

    def get_all_weights(self) -> list[str]:
        """Names that can be set."""
        known = [tensor.name for tensor in self._engine._model.graph.initializer]
        return known if self._engine.refittable else []

    def get_missing_weights(self) -> list[str]:
        """None depends on another here."""
        return []

    def set_named_weights(self, name: str, weights: Any) -> bool:
        """False for an unknown name or another size."""
        known = {tensor.name: tensor for tensor in self._engine._model.graph.initializer}
        array = np.asarray(getattr(weights, "_array", weights))
        if name not in self.get_all_weights() or array.size != int(np.prod(known[name].dims)):
            return False
        self._new[name] = array.reshape(tuple(known[name].dims)).copy()
        return True

    def refit_cuda_engine(self) -> bool:
        """Takes the new weights."""
        for tensor in self._engine._model.graph.initializer:
            if tensor.name in self._new:
                tensor.CopyFrom(numpy_helper.from_array(self._new[tensor.name], tensor.name))
        self._engine._session = None
        return True


class Weights:
    """Numbers that stay where they are: an array, or (from TensorRT 10 on) a type, an address and how many."""

    def __init__(self, a: Any, ptr: int | None = None, count: int = 0) -> None:
        if ptr is not None:
            dtype = np.dtype(_BY_ADDRESS[a.name])
            a = np.frombuffer(ctypes.string_at(ptr, count * dtype.itemsize), dtype)
        self._array = a
