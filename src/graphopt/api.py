"""The functions that most users need: optimize, optimize_file, fuse, explain."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, overload

from onnx import ModelProto

from graphopt import ir
from graphopt.analysis.cost import machine_for
from graphopt.analysis.record import Recorder
from graphopt.errors import GraphoptError, OutputError
from graphopt.finish import Task, check, confirm, examine, settle
from graphopt.ir import Model, Tensor
from graphopt.ir.collector import paused
from graphopt.pipeline import Pipeline
from graphopt.report import Report
from graphopt.rewrite import Context

if TYPE_CHECKING:
    from graphopt.interop import Adapter
    from graphopt.verify import Budget

Path = str | os.PathLike[str]
Progress = Callable[[str, int, int], None]
TARGETS = ("onnx", "onnxruntime", "tensorrt")
VERIFY = ("off", "check", "numeric", "rewrites")


@overload
def optimize(
    model: ModelProto | Path | Model,
    passes: Any = ...,
    *,
    target: str = ...,
    verify: str = ...,
    inputs: Any = ...,
    inplace: bool = ...,
    with_report: Literal[False] = ...,
    verify_budget: float | Budget | None = ...,
    fast_math: bool = ...,
    progress: Progress | None = ...,
) -> ModelProto: ...
@overload
def optimize(
    model: ModelProto | Path | Model,
    passes: Any = ...,
    *,
    target: str = ...,
    verify: str = ...,
    inputs: Any = ...,
    inplace: bool = ...,
    with_report: Literal[True],
    verify_budget: float | Budget | None = ...,
    fast_math: bool = ...,
    progress: Progress | None = ...,
) -> tuple[ModelProto, Report]: ...
@overload
def optimize(  # other libraries' models, as the same kind; what is exported, as a ModelProto
    model: Any,
    passes: Any = ...,
    *,
    target: str = ...,
    verify: str = ...,
    inputs: Any = ...,
    inplace: bool = ...,
    with_report: bool = ...,
    verify_budget: float | Budget | None = ...,
    fast_math: bool = ...,
    progress: Progress | None = ...,
    example_inputs: Any = ...,
    dynamic_shapes: Any = ...,
) -> Any: ...
def optimize(
    model: Any,
    passes: Any = "default",
    *,
    target: str = "onnx",
    verify: str = "numeric",
    inputs: Any = None,
    inplace: bool = False,
    with_report: bool = False,
    verify_budget: float | Budget | None = None,
    fast_math: bool = False,
    progress: Progress | None = None,
    example_inputs: Any = None,
    dynamic_shapes: Any = None,
) -> Any:
    """Optimizes a model in memory.

    model: a ModelProto (not changed), a path, an IR Model; or a model of another library, see below. passes: names,
    passes, rules, pipelines, presets, or a list of them ("default", "fuse", "cleanup"; `graphopt passes` lists all).
    target: "onnx" (any runtime), "onnxruntime" (may use com.microsoft operators) or "tensorrt". verify: "numeric"
    compares with the original in ONNX Runtime, "rewrites" also checks each rewrite and undoes what is wrong
    (`report.reverted`), "check" looks at validity and interface only, "off" at nothing. inputs: a feed dict or a list
    of them to verify with, instead of made ones. inplace: change the given ModelProto or Model itself. verify_budget:
    seconds, or a `graphopt.verify.Budget`; what does not fit is in `report.verification.unchecked`. fast_math: allow
    rewrites that are equal only while every value is finite (the pass "fast-math" first). progress: called with (stage,
    done, total).

    An `onnx_graphsurgeon.Graph` or `onnx_ir.Model` comes back as a new one of its kind. A `torch.nn.Module` is exported
    with its `example_inputs` (a tensor, a tuple, or a dict of keyword arguments) and `dynamic_shapes` (as for
    `torch.export.export`), an `ExportedProgram` as it is, a Keras model or `tf.function` by tf2onnx; what is exported
    must give, in ONNX Runtime, what the library itself gives on the example inputs, and the optimized model what the
    exported one gives. `graphopt.interop` has these steps alone, with the exporters' own options.

    Returns the optimized ModelProto; with `with_report`, a pair of it and the `Report`. Raises a GraphoptError:
    ModelError (not valid ONNX), UnknownPassError, PipelineSyntaxError, RewriteCycle, OutputError (2 GiB or more: use
    `optimize_file`), or VerificationError, when the result differs from the original (naming the rewrite that did it).

    >>> from onnx import parser
    >>> m = parser.parse_model('<ir_version: 8, opset_import: ["": 17]> g (float[N] x) => (float[N] y) '
    ...                        '{ a = Identity(x)  y = Relu(a) }')
    >>> [node.op_type for node in optimize(m).graph.node]
    ['Relu']
    """
    began = time.perf_counter()
    pipeline = _prepare(passes, target, verify, fast_math)
    adapter: Adapter | None = None
    said: list[str] = []
    if not _is_own(model) or example_inputs is not None or dynamic_shapes is not None:
        adapter, model, said = _taken(model, example_inputs, dynamic_shapes, verify, inplace)
    result, made, report = _optimize(model, pipeline, target, verify, inputs, verify_budget, progress, adapter is None)
    output: Any = made
    if adapter is not None:
        output, lost = adapter.from_model(result)
        said += lost
    elif inplace and isinstance(model, ModelProto):
        model.CopyFrom(output)
        output = model
    elif inplace and isinstance(model, Model):
        model.reload(result.commit(), result.store)
    report.warnings += said
    report.seconds = time.perf_counter() - began
    return (output, report) if with_report else output


def _optimize(
    model: ModelProto | Path | Model,
    pipeline: Pipeline,
    target: str,
    verify: str,
    inputs: Any,
    budget: float | Budget | None,
    progress: Progress | None,
    to_proto: bool,
) -> tuple[Model, ModelProto | None, Report]:
    """The optimized model, verified, and as a proto if that is wanted."""
    source, plain = _source(model), isinstance(model, ModelProto)
    made: ModelProto | None = None

    def original() -> ModelProto | Path:
        return ir.to_proto(source(), whole=True) if isinstance(model, Model) else model

    if verify == "rewrites":
        write = (lambda found: ir.to_proto(found, whole=not plain)) if to_proto else None
        task = _task(source, pipeline, target, progress, write)
        result, made, report = settle(task, original(), inputs, budget, "", progress)
    else:
        result, ctx = _run(source, pipeline, target, progress)
        report = ctx.close()
        if verify != "off":
            confirm(source, result, report, _prefix(source, pipeline, target))
    if to_proto and made is None:
        made = ir.to_proto(result, whole=not plain)
    if verify == "numeric":
        replay = _replayer(source, pipeline, target)
        examine(original(), result if made is None else made, report, replay, inputs, budget, "", progress)
    return result, made, report


def optimize_file(
    src: Path,
    dst: Path,
    passes: Any = "default",
    *,
    target: str = "onnx",
    verify: str = "numeric",
    inputs: Any = None,
    verify_budget: float | Budget | None = None,
    fast_math: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Optimizes a file of any size into another; weights stream from disk to disk.

    src stays as it is. dst appears whole when everything is done and verified, or not at all; `<dst>.data` beside it
    holds weights when the model has 2 GiB or more, or external data and another folder than src. When verification
    fails, `<dst>.repro` gets the smallest pair of models that shows it, with inputs and a script. The other arguments
    and errors are those of `optimize`; OutputError also when dst is src or cannot be written.

    >>> optimize_file("model.onnx", "model.opt.onnx")   # doctest: +SKIP
    """
    began = time.perf_counter()
    pipeline = _prepare(passes, target, verify, fast_math)
    _refuse_overwriting(src, dst)
    source, repro = (lambda: ir.load(src)), f"{os.fspath(dst)}.repro"
    if verify == "rewrites":
        task = _task(source, pipeline, target, progress, None)
        result, _, report = settle(task, src, inputs, verify_budget, repro, progress)
    else:
        with paused():
            result, ctx = _run(source, pipeline, target, progress)
            if verify == "off":
                ir.save(result, dst)
        report = ctx.close()
        if verify != "off":
            confirm(source, result, report, _prefix(source, pipeline, target))
    if verify == "numeric":
        replay = _replayer(source, pipeline, target)
        examine(src, result, report, replay, inputs, verify_budget, repro, progress)
    report.model = os.path.basename(os.fspath(src))
    if verify != "off":
        ir.save(result, dst)
    report.seconds = time.perf_counter() - began
    return report


@overload
def fuse(model: ModelProto | Path | Model, **options: Any) -> ModelProto | tuple[ModelProto, Report]: ...
@overload
def fuse(model: Any, **options: Any) -> Any: ...
def fuse(model: Any, **options: Any) -> Any:
    """`optimize` with the preset "fuse": vertical fusion and the clean-up that it needs. Same options and errors."""
    return optimize(model, "fuse", **options)


def explain(model: Any, passes: Any, *, target: str = "onnx") -> Report:
    """Runs passes on a copy and returns what they did (`rewrites`) and what they refused, why (`refusals`)."""
    pipeline = _prepare(passes, target, "off")
    return _run(_source(model), pipeline, target, None)[1].close()


def _prepare(passes: Any, target: str, verify: str, fast_math: bool = False) -> Pipeline:
    if target not in TARGETS:
        raise GraphoptError(f"unknown target {target!r}; choose one of {', '.join(TARGETS)}")
    if verify not in VERIFY:
        raise GraphoptError(f"unknown verify level {verify!r}; choose one of {', '.join(VERIFY)}")
    pipeline = Pipeline.of(["fast-math", passes] if fast_math else passes)
    if verify == "rewrites" and pipeline.lossy:
        raise GraphoptError("verify='rewrites' compares each rewrite, and a pass here trades accuracy; use 'numeric'")
    return pipeline


def _is_own(model: Any) -> bool:
    return isinstance(model, (ModelProto, Model, str, os.PathLike))


def _taken(
    model: Any, example_inputs: Any, dynamic_shapes: Any, verify: str, inplace: bool
) -> tuple[Adapter, Model, list[str]]:
    """A model of another library: its adapter, the model itself, and what is to be said of it."""
    from graphopt.interop import Request, accepted, adapter_of

    adapter = adapter_of(model)
    if adapter is None and _is_own(model):
        raise GraphoptError("example_inputs and dynamic_shapes are for models to be exported (torch, TensorFlow)")
    if adapter is None:
        raise GraphoptError(f"cannot optimize a {type(model).__name__}: give {accepted()}")
    if inplace:
        raise GraphoptError("inplace is for a ModelProto or a graphopt Model; take the model that is returned")
    request = Request(example_inputs, dynamic_shapes, check=verify in ("numeric", "rewrites"))
    return adapter, adapter.to_model(model, request), request.said


def _source(model: Any) -> Callable[[], Model]:
    """A function that gives the original as a fresh IR model."""
    if isinstance(model, ModelProto):
        return lambda: ir.from_proto(model)
    if isinstance(model, Model):
        return model.clone().clone
    if _is_own(model):
        return lambda: ir.load(model)
    from graphopt.interop import model_of

    return model_of(model, "optimize").clone


@paused()
def _run(
    source: Callable[[], Model],
    pipeline: Pipeline,
    target: str,
    progress: Progress | None,
    vetoes: frozenset[tuple[str, str]] = frozenset(),
    record: bool = False,
) -> tuple[Model, Context]:
    model = source()
    report = Report(model=model.graph.name, target=target, pipeline=str(pipeline))
    report.machine = machine_for(target).source
    ctx = Context(target, report, progress=progress, vetoes=vetoes, recorder=Recorder(model) if record else None)
    report.nodes_before, report.bytes_before = _size(model)
    result = pipeline.run(model, ctx, source)
    for graph in result.scopes():
        graph.ensure_sorted()
    report.nodes_after, report.bytes_after = _size(result)
    return result, ctx


def _size(model: Model) -> tuple[int, int]:
    """Nodes, and bytes of constants (initializers and Constant nodes)."""
    nodes = weights = 0
    for graph in model.scopes():
        nodes += len(graph)
        weights += sum(v.tensor.nbytes for v in graph.initializers.values() if v.tensor is not None)
        for node in graph:
            if node.op == "Constant" and "value" in node.attributes:
                weights += Tensor(node.attributes["value"].t, model.store).nbytes
    return nodes, weights


def _prefix(source: Callable[[], Model], pipeline: Pipeline, target: str) -> Callable[[int], Model]:
    """The model after the first so many rewrites: the run is deterministic, so a limit gives a prefix of it."""

    def prefix(limit: int) -> Model:
        model = pipeline.run(source(), Context(target, limit=limit))
        for graph in model.scopes():
            graph.ensure_sorted()
        return model

    return prefix


def _replayer(source: Callable[[], Model], pipeline: Pipeline, target: str) -> Callable[[int], ModelProto]:
    """The same as a proto."""

    def replay(limit: int) -> ModelProto:
        return ir.to_proto(pipeline.run(source(), Context(target, limit=limit)), whole=True)

    return replay


def _task(
    source: Callable[[], Model],
    pipeline: Pipeline,
    target: str,
    progress: Progress | None,
    proto: Callable[[Model], ModelProto] | None,
) -> Task:
    """The run, to be repeated without what turns out to be wrong."""

    def prefix(vetoes: frozenset[tuple[str, str]], limit: int) -> ModelProto:
        return ir.to_proto(pipeline.run(source(), Context(target, limit=limit, vetoes=vetoes)), whole=True)

    def run(vetoes: frozenset[tuple[str, str]]) -> tuple[Model, Context]:
        return _run(source, pipeline, target, progress, vetoes, record=True)

    return Task(run, prefix, lambda model: check(source(), model), proto)


def _refuse_overwriting(src: Path, dst: Path) -> None:
    source, target = os.path.realpath(os.fspath(src)), os.path.realpath(os.fspath(dst))
    if source == target or (os.path.exists(source) and os.path.exists(target) and os.path.samefile(source, target)):
        raise OutputError(f"{os.fspath(dst)} is the input itself; choose another output file")
    if os.path.isdir(target):
        raise OutputError(f"{os.fspath(dst)} is a folder; name a file in it")
    folder = os.path.dirname(target)
    if not os.path.isdir(folder):
        raise OutputError(f"there is no folder {folder} to write {os.path.basename(target)} in; make it first")
