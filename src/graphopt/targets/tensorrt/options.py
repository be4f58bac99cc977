"""How an engine is built: what users may ask of TensorRT's builder, and which versions are able to do it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from onnx import TensorProto

from graphopt.analysis.shapes import ensure_types
from graphopt.errors import GraphoptError
from graphopt.ir import Model, Node
from graphopt.targets.tensorrt._bindings import Bindings

__all__ = ["BuildOptions", "apply_options", "builder_flags", "network_flags"]

_HARDWARE = {"none": "NONE", "ampere+": "AMPERE_PLUS", "same-compute-capability": "SAME_COMPUTE_CAPABILITY"}
_VERBOSITY = {"names": "LAYER_NAMES_ONLY", "detailed": "DETAILED", "none": "NONE"}


@dataclass(frozen=True)
class BuildOptions:
    """Options of TensorRT's builder; what is None stays as TensorRT has it.

    workspace: bytes that a layer may take while it runs. optimization_level: 0 (fast build) to 5 (long search), from
    TensorRT 8.6. tactic_sources: names of TacticSource ("CUBLAS", "CUDNN", ...); an empty tuple for none. tf32: let
    float32 layers round to TF32; off here, as results are compared with float32. sparsity: use 2:4 sparse weights.
    refit: weights can be replaced in the engine. aux_streams: how many streams an inference may use besides its own.
    version_compatible, hardware_compatibility ("none", "ampere+", "same-compute-capability"): run the plan with later
    versions, on other GPUs. weight_streaming: weights may stay in host memory. profiling: "names", "detailed" or "none"
    of the layers in the plan. timing_iterations: runs averaged for each tactic.

    >>> BuildOptions(optimization_level=3).workspace is None
    True
    """

    workspace: int | None = None
    optimization_level: int | None = None
    tactic_sources: tuple[str, ...] | None = None
    tf32: bool = False
    sparsity: bool = False
    refit: bool = False
    aux_streams: int | None = None
    version_compatible: bool = False
    hardware_compatibility: str = "none"
    weight_streaming: bool = False
    profiling: str = "detailed"
    timing_iterations: int | None = None

    def __post_init__(self) -> None:
        if self.workspace is not None and self.workspace <= 0:
            raise GraphoptError(f"a workspace of {self.workspace} bytes is none; leave it out for TensorRT's own limit")
        if self.optimization_level is not None and not 0 <= self.optimization_level <= 5:
            raise GraphoptError(f"builder optimization levels go from 0 to 5, not {self.optimization_level}")
        for name, choices in (("hardware_compatibility", _HARDWARE), ("profiling", _VERBOSITY)):
            if getattr(self, name) not in choices:
                raise GraphoptError(f"{name} is one of {', '.join(choices)}, not {getattr(self, name)!r}")

    def to_dict(self) -> dict[str, Any]:
        """Plain values by name, for cache keys and reports."""
        return {entry.name: getattr(self, entry.name) for entry in fields(self)}

    @classmethod
    def of(cls, options: BuildOptions | Mapping[str, Any] | None) -> BuildOptions:
        """Options from a dict. Raises GraphoptError for a name that is none."""
        if options is None or isinstance(options, BuildOptions):
            return options or cls()
        known = [entry.name for entry in fields(cls)]
        unknown = [name for name in options if name not in known]
        if unknown:
            raise GraphoptError(f"no build option is named {unknown[0]!r}; there are: {', '.join(known)}")
        return cls(**options)


def network_flags(bindings: Bindings) -> int:
    """Flags for `create_network`: an explicit batch where that is a choice, strong types where there are."""
    typed = bindings.flag("NetworkDefinitionCreationFlag", "STRONGLY_TYPED") if bindings.is_strongly_typed else 0
    return bindings.flag("NetworkDefinitionCreationFlag", "EXPLICIT_BATCH") | typed


def builder_flags(model: Model, bindings: Bindings) -> list[str]:
    """The precision flags that a graph calls for, before TensorRT 11: FP16, BF16, FP8, INT8, INT4 where its values are.

    From 11 on there are none: types are what the graph says.
    """
    if bindings.is_strongly_typed:
        return []
    ensure_types(model)
    types = {value.dtype for graph in model.scopes() for node in graph for value in _values(node) if value is not None}
    operators = {node.op for graph in model.scopes() for node in graph}
    wanted = {
        "FP16": TensorProto.FLOAT16 in types,
        "BF16": TensorProto.BFLOAT16 in types,
        "FP8": TensorProto.FLOAT8E4M3FN in types,
        "INT8": bool(operators & {"QuantizeLinear", "DequantizeLinear"}) and TensorProto.FLOAT8E4M3FN not in types,
        "INT4": TensorProto.INT4 in types,
    }
    found = [name for name, needed in wanted.items() if needed]
    for name in found:
        if not bindings.has("BuilderFlag", name):
            version = ".".join(map(str, bindings.version))
            raise GraphoptError(f"the model has {name} values, and TensorRT {version} has no such type")
    return found


def _values(node: Node) -> list[Any]:
    return [*node.inputs, *node.outputs]


def apply_options(config: Any, options: BuildOptions, flags: list[str], bindings: Bindings) -> None:
    """Puts options and flags into an IBuilderConfig. Raises GraphoptError for what this version is not able to do."""
    trt = bindings.trt
    wanted = {"SPARSE_WEIGHTS": options.sparsity, "REFIT": options.refit, "WEIGHT_STREAMING": options.weight_streaming}
    wanted["VERSION_COMPATIBLE"] = options.version_compatible
    for name in [*flags, *(name for name, asked in wanted.items() if asked)]:
        config.set_flag(getattr(trt.BuilderFlag, _needed(bindings, "BuilderFlag", name)))
    if not options.tf32:
        config.clear_flag(trt.BuilderFlag.TF32)
    if options.workspace is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace)
    if options.tactic_sources is not None:
        config.set_tactic_sources(_sources(options.tactic_sources, bindings))
    config.profiling_verbosity = getattr(trt.ProfilingVerbosity, _VERBOSITY[options.profiling])
    if options.hardware_compatibility != "none":
        name = _needed(bindings, "HardwareCompatibilityLevel", _HARDWARE[options.hardware_compatibility])
        config.hardware_compatibility_level = getattr(trt.HardwareCompatibilityLevel, name)
    properties = {
        "builder_optimization_level": options.optimization_level,
        "max_aux_streams": options.aux_streams,
        "avg_timing_iterations": options.timing_iterations,
    }
    for name, value in properties.items():
        if value is not None:
            if not hasattr(config, name):
                raise GraphoptError(_unable(bindings, name))
            setattr(config, name, value)


def _sources(names: tuple[str, ...], bindings: Bindings) -> int:
    known = [source.name for source in _members(bindings.trt.TacticSource)]
    for name in names:
        if name not in known:
            raise GraphoptError(f"no tactic source is named {name!r} in this TensorRT; there are: {', '.join(known)}")
    return sum(bindings.flag("TacticSource", name) for name in names)


def _members(kind: Any) -> list[Any]:
    return list(getattr(kind, "__members__", {}).values())


def _needed(bindings: Bindings, kind: str, name: str) -> str:
    if not bindings.has(kind, name):
        raise GraphoptError(_unable(bindings, name))
    return name


def _unable(bindings: Bindings, what: str) -> str:
    return f"TensorRT {'.'.join(map(str, bindings.version))} has no {what.lower()}; leave the option out"
