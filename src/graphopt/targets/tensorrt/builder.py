"""From a model to a plan: TensorRT's parser and builder, with profiles, options and caches.

The steps are those of the TensorRT developer guide ("Importing a Model Using the ONNX Parser", "Building an Engine"),
in the calls that TensorRT 8.5 and 11 have in common.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onnx import ModelProto

from graphopt import ir
from graphopt.errors import GraphoptError, OutputError
from graphopt.ir import Model
from graphopt.targets.tensorrt._bindings import Bindings, load_bindings
from graphopt.targets.tensorrt._cuda import Cuda, find_cuda
from graphopt.targets.tensorrt.caches import cache_folder, engine_key, read_cached, timing_cache_file, write_cached
from graphopt.targets.tensorrt.options import BuildOptions, apply_options, builder_flags, network_flags
from graphopt.targets.tensorrt.profiles import Profile, profiles_of

__all__ = ["BuildError", "Plan", "build_plan"]

Progress = Callable[[str, int, int], None]
_LARGE = 1 << 30  # bytes of weights from which on the parser reads a file


class BuildError(GraphoptError):
    """TensorRT did not take the model. log: what it said."""

    def __init__(self, message: str, log: list[str]) -> None:
        super().__init__(message)
        self.log = log


@dataclass
class Plan:
    """A built engine, serialized, and where it came from.

    content: the plan, for `Runtime.deserialize_cuda_engine`. model: what was parsed, without weights where these are
    large. profiles, options, flags: what it was built with. version, device: of TensorRT, and `Cuda.key` of the GPU.
    log: warnings of TensorRT. seconds: it took; `cached`: it was there already.
    """

    content: bytes
    model: ModelProto
    profiles: list[Profile]
    options: BuildOptions
    flags: list[str]
    version: tuple[int, ...]
    device: str
    log: list[str] = field(default_factory=list)
    seconds: float = 0.0
    cached: bool = False

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the plan, beside and renamed. Raises OutputError."""
        from graphopt.ir.files import replacing

        try:
            with replacing(os.fspath(path)) as stream:
                stream.write(self.content)
        except OSError as error:
            reason = error.strerror or error
            raise OutputError(f"cannot write {path}: {reason}; make room there, or choose another place") from error


def build_plan(
    model: Model,
    shapes: str | Mapping[str, Any] | Iterable[str | Mapping[str, Any]] | None = None,
    *,
    options: BuildOptions | Mapping[str, Any] | None = None,
    timing_cache: bool | str | os.PathLike[str] = True,
    engine_cache: bool = False,
    flags: Sequence[str] = (),
    progress: Progress | None = None,
    bindings: Bindings | None = None,
    cuda: Cuda | None = None,
) -> Plan:
    """Builds a model as it is; `graphopt.targets.tensorrt.build` optimizes it for TensorRT first.

    shapes: see `profiles_of`. options: see `BuildOptions`. timing_cache: keep timings of kernels for later builds (in
    the cache folder, or in this file). engine_cache: keep the whole plan, and take it from there. flags: precisions
    ("FP16", "INT8", ...) that TensorRT may use besides those that the graph calls for; from version 11 on, where types
    are what the graph says, they are left out. progress: called with (stage, done, total); before TensorRT 8.6 it hears
    of stages only. bindings, cuda: those of this machine.

    Raises BuildError with TensorRT's own words; GraphoptError for shapes and options that cannot be, and without
    TensorRT or a GPU.
    """
    began = time.perf_counter()
    chosen = BuildOptions.of(options)
    profiles = profiles_of(model, shapes)
    bindings = bindings or load_bindings()
    cuda = cuda or find_cuda()
    named = builder_flags(model, bindings)
    named += [] if bindings.is_strongly_typed else [flag for flag in flags if flag not in named]
    large = _weights(model) > _LARGE
    proto = model.commit() if large else ir.to_proto(model, whole=True)
    content = b"" if large else proto.SerializeToString(deterministic=True)
    wanted = {**chosen.to_dict(), "flags": sorted(named)}
    file = cache_folder() / f"{engine_key(content, profiles, wanted, bindings.version, cuda.key)}.plan"
    plan = Plan(b"", proto, profiles, chosen, named, bindings.version, cuda.key)
    known = read_cached(file) if engine_cache and not large else None
    if known is not None:
        plan.content, plan.cached = known, True
    else:
        cache = _timing_file(timing_cache, bindings, cuda)
        plan.content = _Build(bindings, plan, cache, progress).run(model, content)
        if engine_cache and not large:
            write_cached(file, plan.content)
    plan.seconds = time.perf_counter() - began
    return plan


def _weights(model: Model) -> int:
    return sum(v.tensor.nbytes for g in model.scopes() for v in g.initializers.values() if v.tensor is not None)


def _timing_file(wanted: bool | str | os.PathLike[str], bindings: Bindings, cuda: Cuda) -> Path | None:
    if wanted is True:
        return timing_cache_file(bindings.version, cuda.key)
    return None if wanted is False else Path(wanted)


class _Build:
    """One build. Parser and scratch files are held until the end: weights that the network refers to are theirs."""

    def __init__(self, bindings: Bindings, plan: Plan, cache: Path | None, progress: Progress | None) -> None:
        self.bindings, self.plan, self.cache = bindings, plan, cache
        self.tell = progress or (lambda stage, done, total: None)
        self.stopped: list[BaseException] = []  # what `tell` raised while TensorRT was building

    def run(self, model: Model, content: bytes) -> bytes:
        self.logger = self.bindings.logger(self.plan.log)
        try:
            with tempfile.TemporaryDirectory(prefix="graphopt-build-") as scratch:
                return self._run(model, content, scratch)
        finally:
            self.bindings.unlisten(self.plan.log)

    def _run(self, model: Model, content: bytes, scratch: str) -> bytes:
        try:
            self.builder = self.bindings.trt.Builder(self.logger)
        except TypeError as error:  # so the bindings say that there is none
            raise BuildError(f"TensorRT makes no builder: {self._said()}", self.plan.log) from error
        self.tell("parse", 0, 0)
        network = self.builder.create_network(network_flags(self.bindings))
        parser = self._parse(network, model, content, scratch)
        config = self.builder.create_builder_config()
        apply_options(config, self.plan.options, self.plan.flags, self.bindings)
        for profile in self.plan.profiles:
            self._add(profile, config)
        self._load_timings(config)
        self._watch(config)
        self.tell("build", 0, 0)
        made = self.builder.build_serialized_network(network, config)
        del parser
        if self.stopped:
            raise self.stopped[0]
        if made is None:
            raise BuildError(f"TensorRT did not build {self._name()}: {self._said()}", self.plan.log)
        self._keep_timings(config)
        return bytes(made)

    def _name(self) -> str:
        return repr(self.plan.model.graph.name or "the model")

    def _said(self) -> str:
        return "; ".join(self.plan.log[-3:]) or "it gave no reason"

    def _parse(self, network: Any, model: Model, content: bytes, scratch: str) -> Any:
        parser = self.bindings.trt.OnnxParser(network, self.logger)
        if content:
            taken = parser.parse(content)
        else:
            file = os.path.join(scratch, "model.onnx")
            ir.save(model, file)
            taken = parser.parse_from_file(file)
        if not taken:
            reasons = [self._reason(parser.get_error(place)) for place in range(parser.num_errors)]
            text = "; ".join(dict.fromkeys(reasons)) or self._said()
            hint = "`graphopt check MODEL --target tensorrt` lists what will not parse"
            raise BuildError(f"TensorRT's parser did not take {self._name()}: {text}. {hint}", self.plan.log)
        return parser

    def _reason(self, parsed: Any) -> str:
        place = parsed.node()
        nodes = self.plan.model.graph.node
        where = f"{nodes[place].op_type} {nodes[place].name!r}: " if 0 <= place < len(nodes) else ""
        return f"{where}{parsed.desc()}"

    def _add(self, profile: Profile, config: Any) -> None:
        made = self.builder.create_optimization_profile()
        try:
            for name, triple in profile.shapes.items():
                made.set_shape(name, triple.min, triple.opt, triple.max)
            for name, triple in profile.values.items():
                made.set_shape_input(name, triple.min, triple.opt, triple.max)
        except RuntimeError as error:
            raise BuildError(f"TensorRT did not take the profile {profile}: {error}", self.plan.log) from error
        if (profile.shapes or profile.values) and config.add_optimization_profile(made) < 0:
            raise BuildError(f"TensorRT did not take the profile {profile}: {self._said()}", self.plan.log)

    def _load_timings(self, config: Any) -> None:
        """Timings kept before; none where they are damaged, or of another device or version after all."""
        if self.cache is None:
            return
        cache = config.create_timing_cache(read_cached(self.cache) or b"")
        if cache is None or not config.set_timing_cache(cache, False):
            config.set_timing_cache(config.create_timing_cache(b""), False)

    def _keep_timings(self, config: Any) -> None:
        cache = config.get_timing_cache() if self.cache is not None else None
        if cache is None or self.cache is None:
            return
        known = config.create_timing_cache(read_cached(self.cache) or b"")  # what builds beside this one have added
        if known is not None:
            cache.combine(known, False)
        write_cached(self.cache, bytes(cache.serialize()))

    def _watch(self, config: Any) -> None:
        """Hears of the builder's phases, where the version tells (from 8.6 on)."""
        base = getattr(self.bindings.trt, "IProgressMonitor", None)
        if base is not None and hasattr(config, "progress_monitor"):
            self.monitor = _monitor(base, self.tell, self.stopped)
            config.progress_monitor = self.monitor


def _monitor(base: Any, tell: Progress, stopped: list[BaseException]) -> Any:
    """TensorRT's phases nest; what is told is every step, of the phase that it is in. Nothing may be raised into
    TensorRT: what `tell` raises, an interrupt by the user among it, goes to `stopped` and ends the build."""
    totals: dict[str, int] = {}

    class Monitor(base):  # type: ignore[misc]
        def __init__(self) -> None:
            base.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            totals[phase_name] = num_steps

        def step_complete(self, phase_name: str, step: int) -> bool:
            try:
                tell("build", step, totals.get(phase_name, 0))
            except BaseException as error:  # noqa: BLE001 - raised again when TensorRT has returned
                stopped.append(error)
            return not stopped

        def phase_finish(self, phase_name: str) -> None:
            totals.pop(phase_name, None)

    return Monitor()
