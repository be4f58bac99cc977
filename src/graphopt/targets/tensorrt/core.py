"""From a model to a verified engine: optimize for TensorRT, build, compare with ONNX Runtime, and mend what differs."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from onnx import ModelProto

from graphopt import ir
from graphopt.errors import GraphoptError, OutputError, VerificationError
from graphopt.ir import Model
from graphopt.targets.tensorrt._bindings import Bindings, load_bindings
from graphopt.targets.tensorrt._cuda import Cuda, find_cuda
from graphopt.targets.tensorrt.blame import Fault, first_fault
from graphopt.targets.tensorrt.builder import Plan, build_plan
from graphopt.targets.tensorrt.engine import Engine
from graphopt.targets.tensorrt.offload import Offloaded, offload
from graphopt.targets.tensorrt.options import BuildOptions
from graphopt.targets.tensorrt.profiles import Profile, Triple, profiles_of
from graphopt.targets.tensorrt.verification import allowance_for, at_shapes, verify_engine

if TYPE_CHECKING:
    from graphopt.report import Report
    from graphopt.verify import VerificationReport

__all__ = ["PRECISIONS", "Built", "build", "build_partial"]

PRECISIONS = ("float32", "float16", "bfloat16")
Progress = Callable[[str, int, int], None]
Shapes = str | Mapping[str, Any] | Iterable[str | Mapping[str, Any]] | None


@dataclass
class Built:
    """An engine that was built. plan: itself. model: what TensorRT parsed. report: of the optimization. verification:
    of the engine, or None. islands: nodes that stay float32 because the engine was wrong with them in `precision`.
    faults: what was wrong before. seconds: of everything."""

    plan: Plan
    model: ModelProto
    report: Report
    precision: str = "float32"
    verification: VerificationReport | None = None
    islands: list[str] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    seconds: float = 0.0

    def engine(self, **options: Any) -> Engine:
        """To run it; options of `Engine`."""
        return Engine(self.plan, **options)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: what the engine is, where it runs, and how it was checked."""
        return {
            "version": list(self.plan.version),
            "device": self.plan.device,
            "precision": self.precision,
            "profiles": [str(profile) for profile in self.plan.profiles],
            "options": self.plan.options.to_dict(),
            "flags": self.plan.flags,
            "inputs": [info.name for info in self.model.graph.input],
            "outputs": [info.name for info in self.model.graph.output],
            "layers": _sources(self.model),
            "islands": self.islands,
            "faults": [fault.summary() for fault in self.faults],
            "verification": None if self.verification is None else self.verification.to_dict(),
            "optimization": self.report.to_dict(),
            "log": self.plan.log,
            "bytes": len(self.plan.content),
            "cached": self.plan.cached,
            "seconds": self.seconds,
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the plan, and beside it `<path>.json`, which says what it is. Raises OutputError."""
        from graphopt.ir.files import replacing

        self.plan.save(path)
        try:
            with replacing(f"{os.fspath(path)}.json") as stream:
                stream.write((json.dumps(self.to_dict(), indent=1, default=str) + "\n").encode())
        except OSError as error:
            raise OutputError(f"cannot write {os.fspath(path)}.json: {error.strerror or error}") from error


def _sources(model: ModelProto) -> dict[str, list[str]]:
    """Node of the model that was built -> nodes of the original; TensorRT names layers by the former."""
    from graphopt.ir.provenance import origin_of

    return {node.label: list(origin_of(node).sources) for node in ir.from_proto(model).graph}


def build(
    model: Any,
    shapes: Shapes = None,
    *,
    precision: str = "float32",
    passes: Any = "default",
    options: BuildOptions | Mapping[str, Any] | None = None,
    timing_cache: bool | str | os.PathLike[str] = True,
    engine_cache: bool = False,
    verify: str = "numeric",
    inputs: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
    islands: int = 4,
    seconds: float = 120.0,
    progress: Progress | None = None,
    device: int = 0,
    bindings: Bindings | None = None,
    cuda: Cuda | None = None,
) -> Built:
    """Builds a verified TensorRT engine from a model: a ModelProto, a path, an IR Model.

    shapes: of the optimization profiles, as in "x=1x3x224x224:8x3x224x224:32x3x224x224"; several texts make several
    profiles; None where all inputs are of fixed size. precision: "float32", "float16" or "bfloat16"; int8 is what a
    model with Q/DQ has (`graphopt.quantize(..., target="tensorrt")`). passes: as in `graphopt.optimize`. options: see
    `BuildOptions`. timing_cache, engine_cache: see `build_plan`. verify: "numeric" compares the optimized model with
    the original and the engine with the original, in ONNX Runtime on the CPU, at every corner of every profile; "off"
    compares nothing. inputs: to compare on. islands: where an engine of lower precision is wrong, the layer that is
    wrong first goes back to float32 and the engine is built again, so often. seconds: for comparing.

    Raises BuildError with TensorRT's words; VerificationError where the engine is wrong, naming the first layer that
    differs; GraphoptError for shapes and options that cannot be, and without TensorRT or a GPU.

    >>> from graphopt.targets.tensorrt import build
    >>> built = build("model.onnx", "x=1x3x224x224:8x3x224x224:32x3x224x224", precision="float16")  # doctest: +SKIP
    >>> built.save("model.plan")                                                                   # doctest: +SKIP
    >>> built.engine().run({"x": images})["y"]                                                     # doctest: +SKIP
    """
    began = time.perf_counter()
    _check_choices(precision, verify)
    source = _source(model)
    profiles_of(source, shapes)  # what is wrong with the shapes is said before anything is loaded
    chosen = BuildOptions.of(options)
    work = _Work(
        bindings or load_bindings(),
        cuda or find_cuda(device),
        chosen,
        timing_cache,
        engine_cache,
        progress or (lambda stage, done, total: None),
    )
    original = ir.to_proto(source, whole=True)
    kept: list[str] = []
    faults: list[Fault] = []
    while True:
        made, report = _optimized(original, passes, precision, kept, verify, inputs)
        plan = work.plan(ir.from_proto(made), shapes)
        built = Built(plan, made, report, precision, None, kept, faults)
        if verify == "off":
            break
        failing: list[Mapping[str, Any]] = []
        work.tell("verify engine", 0, 0)
        with work.engine(plan) as engine:
            allowed = allowance_for(made)
            built.verification = verify_engine(
                engine, original, inputs, allowance=allowed, seconds=seconds, failing=failing
            )
        if built.verification.ok:
            break
        fault = _blame(made, failing, work, allowed)
        if fault is not None:
            faults.append(fault)
        again = fault is not None and fault.tensor is not None and precision != "float32" and len(kept) < islands
        if not again or fault is None or fault.node in kept:
            raise VerificationError(_story(built, fault), built.verification)
        kept.append(fault.node)
    built.seconds = time.perf_counter() - began
    return built


def _check_choices(precision: str, verify: str) -> None:
    if precision not in PRECISIONS:
        hint = "; for int8 quantize the model first: graphopt quantize --target tensorrt" if precision == "int8" else ""
        raise GraphoptError(f"precision is one of {', '.join(PRECISIONS)}, not {precision!r}{hint}")
    if verify not in ("numeric", "off"):
        raise GraphoptError(f"an engine is verified by 'numeric' or 'off', not {verify!r}")


def _source(model: Any) -> Model:
    if isinstance(model, Model):
        return model.clone()
    return ir.from_proto(model) if isinstance(model, ModelProto) else ir.load(model)


def _optimized(
    original: ModelProto, passes: Any, precision: str, kept: Sequence[str], verify: str, inputs: Any
) -> tuple[ModelProto, Report]:
    from graphopt.api import optimize
    from graphopt.passes import registry

    steps: list[Any] = [passes]
    if precision != "float32":
        options = {"to": precision, "keep_float": ",".join(kept)}
        steps.append(registry.make("convert-precision", options))
    made, report = optimize(original, steps, target="tensorrt", verify=verify, inputs=inputs, with_report=True)
    return made, report


@dataclass
class _Work:
    """What all builds of one call share."""

    bindings: Bindings
    cuda: Cuda
    options: BuildOptions
    timing_cache: bool | str | os.PathLike[str]
    engine_cache: bool
    tell: Progress

    def plan(self, model: Model, shapes: Shapes) -> Plan:
        return build_plan(
            model, shapes, options=self.options, timing_cache=self.timing_cache, engine_cache=self.engine_cache,
            progress=self.tell, bindings=self.bindings, cuda=self.cuda,
        )  # fmt: skip

    def engine(self, plan: Plan) -> Engine:
        return Engine(plan, bindings=self.bindings, cuda=self.cuda)


def _blame(model: ModelProto, failing: Sequence[Mapping[str, Any]], work: _Work, allowed: Any) -> Fault | None:
    """The first layer that is wrong, with engines built for the shapes of one failing input."""
    if not failing:
        return None
    feeds = failing[0]
    shapes = {name: tuple(int(size) for size in value.shape) for name, value in feeds.items()}

    def marked_engine(marked: ModelProto) -> Engine:
        fixed = ir.from_proto(at_shapes(marked, shapes))
        return work.engine(work.plan(fixed, None))

    work.tell("find the layer that differs", 0, 0)
    return first_fault(model, feeds, marked_engine, allowed)


def _story(built: Built, fault: Fault | None) -> str:
    assert built.verification is not None
    text = f"{built.verification.summary()}; nothing was written"
    if fault is not None:
        text += f". {fault.summary()}"
    if built.islands:
        text += f". Float32 for {', '.join(built.islands)} was not enough"
    elif fault is not None and fault.tensor is not None and built.precision != "float32":
        text += f". Keep it float32: convert-precision{{keep_float='{fault.node}'}}"
    return text


def build_partial(
    model: Any,
    shapes: Shapes = None,
    *,
    passes: Any = "default",
    options: BuildOptions | Mapping[str, Any] | None = None,
    timing_cache: bool | str | os.PathLike[str] = True,
    verify: str = "numeric",
    inputs: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
    seconds: float = 120.0,
    progress: Progress | None = None,
    device: int = 0,
    bindings: Bindings | None = None,
    cuda: Cuda | None = None,
) -> Offloaded:
    """Engines for the regions that TensorRT takes, ONNX Runtime for the rest, in one object to `run`.

    The arguments and errors are those of `build`. Profiles of the tensors in between are what they are when the model
    runs on the CPU at the corners of the profiles given.
    """
    from graphopt.api import optimize

    _check_choices("float32", verify)
    source = _source(model)
    profiles = profiles_of(source, shapes)
    work = _Work(
        bindings or load_bindings(), cuda or find_cuda(device), BuildOptions.of(options), timing_cache, False,
        progress or (lambda stage, done, total: None),
    )  # fmt: skip
    original = ir.to_proto(source, whole=True)
    made = optimize(original, passes, target="tensorrt", verify=verify, inputs=inputs)
    sizes = _sizes_between(made, profiles)

    def engine_of(part: Model) -> tuple[Plan, Engine]:
        wanted = [
            {value.name: sizes[number][value.name] for value in part.graph.inputs} for number in range(len(sizes))
        ]
        plan = work.plan(part, wanted)
        return plan, work.engine(plan)

    whole = offload(ir.from_proto(made), engine_of, work.bindings.version)
    whole.profiles = profiles
    if verify != "off":
        work.tell("verify engine", 0, 0)
        try:
            whole.verification = verify_engine(whole, original, inputs, allowance=allowance_for(made), seconds=seconds)
            if not whole.verification.ok:
                raise VerificationError(f"{whole.verification.summary()}; nothing was written", whole.verification)
        except BaseException:
            whole.close()
            raise
    return whole


def _sizes_between(model: ModelProto, profiles: Sequence[Profile]) -> list[dict[str, tuple[Any, Any, Any]]]:
    """For each profile, tensor -> its (min, opt, max) shapes, as they come out at the corners of the inputs'."""
    from graphopt.verify import Reference
    from graphopt.verify.source import Source
    from graphopt.verify.window import capture

    names = [name for node in model.graph.node for name in node.output if name]
    found = []
    for profile in profiles:
        seen: dict[str, list[tuple[int, ...]]] = {}
        for side in ("min", "opt", "max"):
            fixed = at_shapes(model, {name: getattr(triple, side) for name, triple in profile.shapes.items()})
            with Reference(fixed) as reference:
                if not reference.found.cases:
                    raise GraphoptError("the model does not run on the CPU at these shapes; partial engines need that")
                feeds = reference.found.cases[0].feeds
            values = {**feeds, **capture(Source.of(fixed), names, feeds)}
            for name, value in values.items():
                seen.setdefault(name, []).append(tuple(getattr(value, "shape", ())))
        found.append({name: _ordered(shapes) for name, shapes in seen.items()})
    return found


def _ordered(shapes: Sequence[tuple[int, ...]]) -> tuple[Any, Any, Any]:
    """min, opt, max, each dim by itself: a size may fall while the inputs' grow."""
    columns = list(zip(*shapes, strict=True))
    least, most = (tuple(map(pick, columns)) for pick in (min, max))
    usual = tuple(sorted(column)[len(column) // 2] for column in columns)
    triple = Triple(least, usual, most)
    return triple.min, triple.opt, triple.max
