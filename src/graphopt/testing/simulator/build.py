"""The build side of the simulated TensorRT: parser, network, configuration, builder."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, helper

MAGIC = b"SIMULATED PLAN\n"
_DATA_TYPES: dict[int, str] = {
    TensorProto.FLOAT: "FLOAT", TensorProto.FLOAT16: "HALF", TensorProto.BFLOAT16: "BF16", TensorProto.INT8: "INT8",
    TensorProto.UINT8: "UINT8", TensorProto.INT32: "INT32", TensorProto.INT64: "INT64", TensorProto.BOOL: "BOOL",
    TensorProto.INT4: "INT4", TensorProto.FLOAT8E4M3FN: "FP8",
}  # fmt: skip


class ILogger:
    """Subclassed by users."""

    def __init__(self) -> None: ...

    def log(self, severity: Any, msg: str) -> None:
        """What TensorRT says."""


class IProfiler:
    """Subclassed by users."""

    def __init__(self) -> None: ...

    def report_layer_time(self, layer_name: str, ms: float) -> None:
        """Milliseconds of one layer."""


class IProgressMonitor:
    """Subclassed by users."""

    def __init__(self) -> None: ...

    def phase_start(self, phase_name: str, parent_phase: str, num_steps: int) -> None:
        """A phase begins."""

    def step_complete(self, phase_name: str, step: int) -> bool:
        """A step is done; False cancels."""
        return True

    def phase_finish(self, phase_name: str) -> None:
        """A phase ends."""


class IOutputAllocator:
    """Subclassed by users."""

    def __init__(self) -> None: ...

    def reallocate_output(self, tensor_name: str, memory: Any, size: int, alignment: int) -> Any:
        """Memory for an output whose size is known only now."""

    def notify_shape(self, tensor_name: str, shape: Any) -> None:
        """Its shape."""


class IHostMemory:
    """Bytes that TensorRT hands out."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    @property
    def nbytes(self) -> int:
        """How many."""
        return len(self._content)

    def __bytes__(self) -> bytes:
        return self._content

    def __buffer__(self, flags: int) -> memoryview:
        return memoryview(self._content)


class ITensor:
    """A value of the network."""

    def __init__(self, name: str, shape: tuple[int, ...], dtype: Any, is_input: bool) -> None:
        self._name, self._shape, self._dtype, self._input = name, shape, dtype, is_input

    @property
    def name(self) -> str:
        """As in the ONNX file."""
        return self._name

    @property
    def shape(self) -> tuple[int, ...]:
        """-1 where it varies."""
        return self._shape

    @property
    def dtype(self) -> Any:
        """Of the DataType enum."""
        return self._dtype

    @property
    def is_network_input(self) -> bool:
        """Whether callers give it."""
        return self._input


class ILayer:
    """A node of the network."""

    def __init__(self, name: str, outputs: list[ITensor]) -> None:
        self._name, self._outputs = name, outputs

    @property
    def name(self) -> str:
        """Of the node, or its first output."""
        return self._name

    @property
    def num_outputs(self) -> int:
        """How many."""
        return len(self._outputs)

    def get_output(self, index: int) -> ITensor | None:
        """One of them."""
        return self._outputs[index] if index < len(self._outputs) else None


class INetworkDefinition:
    """The model, as the parser left it."""

    def __init__(self, module: Any, flags: int) -> None:
        self._module, self._flags = module, flags
        self._model = ModelProto()
        self._inputs: list[ITensor] = []
        self._outputs: list[ITensor] = []
        self._layers: list[ILayer] = []
        self._refittable: set[str] = set()

    @property
    def num_inputs(self) -> int:
        """How many."""
        return len(self._inputs)

    @property
    def num_outputs(self) -> int:
        """How many."""
        return len(self._outputs)

    @property
    def num_layers(self) -> int:
        """How many."""
        return len(self._layers)

    def get_input(self, index: int) -> ITensor:
        """One of them."""
        return self._inputs[index]

    def get_output(self, index: int) -> ITensor:
        """One of them."""
        return self._outputs[index]

    def get_layer(self, index: int) -> ILayer:
        """One of them."""
        return self._layers[index]

    def mark_output(self, tensor: ITensor) -> None:
        """Makes a value an output."""
        self._outputs.append(tensor)

    def unmark_output(self, tensor: ITensor) -> None:
        """No longer."""
        self._outputs = [output for output in self._outputs if output.name != tensor.name]

    def mark_weights_refittable(self, name: str) -> bool:
        """Lets a refitter change these weights."""
        self._refittable.add(name)
        return True


class IOptimizationProfile:
    """Shapes between which the engine works."""

    def __init__(self) -> None:
        self._shapes: dict[str, list[tuple[int, ...]]] = {}
        self._values: dict[str, list[tuple[int, ...]]] = {}

    def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:
        """Of an input."""
        self._shapes[input] = [tuple(min), tuple(opt), tuple(max)]

    def set_shape_input(self, input: str, min: Any, opt: Any, max: Any) -> None:
        """Values of an input that holds sizes."""
        self._values[input] = [tuple(min), tuple(opt), tuple(max)]

    def get_shape(self, input: str) -> list[Any]:
        """What was set."""
        return list(self._shapes[input])

    def __bool__(self) -> bool:
        return bool(self._shapes or self._values)


class ITimingCache:
    """What was timed."""

    def __init__(self, content: bytes) -> None:
        self._known: set[str] = set(json.loads(content or b"[]"))

    def serialize(self) -> Any:
        """To keep it."""
        return IHostMemory(json.dumps(sorted(self._known)).encode())

    def combine(self, input_cache: Any, ignore_mismatch: bool) -> bool:
        """Takes in another."""
        self._known |= input_cache._known
        return True


class IBuilderConfig:
    """How to build."""

    def __init__(self, module: Any) -> None:
        self._module = module
        self._flags = 0
        self._profiles: list[IOptimizationProfile] = []
        self._cache: ITimingCache | None = None
        self._pools: dict[int, int] = {}
        self._sources: int | None = None

    def set_flag(self, flag: Any) -> None:
        """Of BuilderFlag."""
        self._flags |= 1 << int(flag)

    def clear_flag(self, flag: Any) -> None:
        """Of BuilderFlag."""
        self._flags &= ~(1 << int(flag))

    def get_flag(self, flag: Any) -> bool:
        """Of BuilderFlag."""
        return bool(self._flags >> int(flag) & 1)

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        """Its number, or -1."""
        self._profiles.append(profile)
        return len(self._profiles) - 1

    def create_timing_cache(self, serialized_timing_cache: Any) -> ITimingCache:
        """From bytes kept."""
        return ITimingCache(bytes(serialized_timing_cache))

    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
        """To be used, and added to."""
        self._cache = cache
        return True

    def get_timing_cache(self) -> ITimingCache | None:
        """The one that is used."""
        return self._cache

    def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
        """In bytes."""
        self._pools[int(pool)] = pool_size

    def get_memory_pool_limit(self, pool: Any) -> int:
        """In bytes."""
        return self._pools.get(int(pool), 1 << 30)

    def set_tactic_sources(self, tactic_sources: int) -> bool:
        """A mask of TacticSource."""
        self._sources = tactic_sources
        return True

    def get_tactic_sources(self) -> int:
        """A mask of TacticSource."""
        return (1 << len(self._module.TacticSource)) - 1 if self._sources is None else self._sources

    def set_preview_feature(self, feature: Any, enable: bool) -> None:
        """Of PreviewFeature."""


class ParserError:
    """Why the parser did not take a model."""

    def __init__(self, text: str, node: int, name: str, operator: str) -> None:
        self._text, self._node, self._name, self._operator = text, node, name, operator

    def desc(self) -> str:
        """In words."""
        return self._text

    def code(self) -> str:
        """As an enum's name."""
        return "ErrorCode.UNSUPPORTED_NODE"

    def node(self) -> int:
        """Its number in the file."""
        return self._node

    def node_name(self) -> str:
        """Its name."""
        return self._name

    def node_operator(self) -> str:
        """Its operator."""
        return self._operator

    def __str__(self) -> str:
        return f"In node {self._node} with name: {self._name} and operator: {self._operator}: {self._text}"


class OnnxParser:
    """Reads a model into a network, as far as graphopt knows what TensorRT's parser takes."""

    def __init__(self, network: INetworkDefinition, logger: Any) -> None:
        self._network, self._logger = network, logger
        self._errors: list[ParserError] = []

    def parse(self, model: Any, path: str | None = None) -> bool:
        """From bytes."""
        proto = ModelProto()
        proto.ParseFromString(bytes(model))
        return self._read(proto)

    def parse_from_file(self, model: str) -> bool:
        """From a file, with the external data beside it."""
        import onnx

        return self._read(onnx.load(model))

    def _read(self, proto: ModelProto) -> bool:
        from graphopt import ir
        from graphopt.targets.tensorrt_parser import why_not_parsed

        network, module = self._network, self._network._module
        model = ir.from_proto(proto)
        graph = model.graph
        for place, node in enumerate(graph):
            reason = why_not_parsed(node, tuple(int(part) for part in module.__version__.split(".")))
            if reason:
                self._errors.append(ParserError(reason, place, node.name, node.op))
        if self._errors:
            return False
        network._model = proto
        network._inputs = [module.tensor(value, True) for value in graph.inputs]
        made = {value.name: module.tensor(value, False) for node in graph for value in node.outputs}
        made.update({tensor.name: tensor for tensor in network._inputs})
        network._layers = [
            module.ILayer(node.label, [made[value.name] for value in node.outputs if value.name]) for node in graph
        ]
        network._outputs = [made[value.name] for value in graph.outputs]
        return True

    @property
    def num_errors(self) -> int:
        """How many."""
        return len(self._errors)

    def get_error(self, index: int) -> ParserError:
        """One of them."""
        return self._errors[index]

    def clear_errors(self) -> None:
        """Forgets them."""
        self._errors.clear()

    def set_flag(self, flag: Any) -> None:
        """Of OnnxParserFlag."""


class Builder:
    """Makes plans: the model itself, with all that was asked for."""

    def __init__(self, module: Any, logger: Any) -> None:
        self._module, self._logger = module, module.logger_of(self, logger)

    def create_network(self, flags: int = 0) -> Any:
        """With flags of NetworkDefinitionCreationFlag."""
        explicit = getattr(self._module.NetworkDefinitionCreationFlag, "EXPLICIT_BATCH", None)
        if explicit is not None and not flags >> int(explicit) & 1:
            self._say("networks with an implicit batch dimension are not simulated")
            return None
        return self._module.INetworkDefinition(self._module, flags)

    def create_builder_config(self) -> Any:
        """With the defaults."""
        return self._module.IBuilderConfig(self._module)

    def create_optimization_profile(self) -> Any:
        """An empty one."""
        return self._module.IOptimizationProfile()

    def _say(self, text: str) -> None:
        self._logger.log(self._module.ILogger.Severity.ERROR, text)

    def _why_not(self, network: Any, config: Any) -> str:
        flags = {flag.name for flag in self._module.BuilderFlag if config.get_flag(flag)}
        types = {info.type.tensor_type.elem_type for info in network._model.graph.input}
        types |= {tensor.data_type for tensor in network._model.graph.initializer}
        operators = {node.op_type for node in network._model.graph.node}
        typed = not hasattr(self._module.BuilderFlag, "FP16")
        if TensorProto.FLOAT16 in types and "FP16" not in flags and not typed:
            return "FLOAT16 tensors, and the builder's FP16 flag is not set"
        if "QuantizeLinear" in operators and "INT8" not in flags and not typed:
            return "the network has Q/DQ layers, and the builder's INT8 flag is not set"
        for tensor in network._inputs:
            for profile in config._profiles or [IOptimizationProfile()]:
                sides = profile._shapes.get(tensor.name)
                if -1 in tensor.shape and sides is None:
                    return f"input {tensor.name} has dynamic dimensions but no optimization profile was given for it"
                if sides and any(len(side) != len(tensor.shape) for side in sides):
                    return f"profile of {tensor.name} has another rank than {tensor.shape}"
        return ""

    def build_serialized_network(self, network: Any, config: Any) -> Any:
        """The plan, or None."""
        reason = self._why_not(network, config)
        if reason:
            self._say(f"IBuilder::buildSerializedNetwork: {reason}")
            return None
        layers = [network.get_layer(place).name for place in range(network.num_layers)]
        monitor = getattr(config, "progress_monitor", None)
        if monitor is not None and not self._tell(monitor, layers):
            self._say("the build was cancelled")
            return None
        if config._cache is not None:
            new = [f"{node.op_type}" for node in network._model.graph.node]
            self._module.timed += len(set(new) - config._cache._known)
            config._cache._known.update(new)
        names = [network.get_output(place).name for place in range(network.num_outputs)]
        head = {
            "version": self._module.__version__,
            "profiles": [profile._shapes for profile in config._profiles] or [{}],
            "values": [profile._values for profile in config._profiles] or [{}],
            "layers": layers,
            "outputs": names,
            "refit": config.get_flag(self._module.BuilderFlag.REFIT),
            "flags": [flag.name for flag in self._module.BuilderFlag if config.get_flag(flag)],
        }
        model = network._model.SerializeToString()
        return self._module.IHostMemory(MAGIC + json.dumps(head).encode() + b"\n" + model)

    @staticmethod
    def _tell(monitor: Any, layers: list[str]) -> bool:
        monitor.phase_start("Building", None, len(layers))
        going = all(monitor.step_complete("Building", place) for place in range(len(layers)))
        monitor.phase_finish("Building")
        return going


def data_type(module: Any, elem_type: int | None) -> Any:
    """Of the DataType enum; INT32 for INT64 where there is no such type, as the parser narrows it."""
    name = _DATA_TYPES.get(elem_type or 0, "FLOAT")
    found = getattr(module.DataType, name, None)
    return module.DataType.INT32 if found is None and name == "INT64" else found


def numpy_type(module: Any, dtype: Any) -> np.dtype[Any]:
    """The inverse, as numpy's."""
    found = next(elem for elem, name in _DATA_TYPES.items() if getattr(module.DataType, name, None) == dtype)
    return np.dtype(helper.tensor_dtype_to_np_dtype(found))
