"""``graphopt calibrate``: the ranges of a model's tensors on representative data."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphopt.cli._data import (
    BatchedOpt,
    BinsOpt,
    CacheOpt,
    ClusterOpt,
    DataOpt,
    Method,
    MethodOpt,
    PercentileOpt,
    PerChannelOpt,
    PreprocessOpt,
    SamplesOpt,
    TimeLeft,
    data_of,
)
from graphopt.cli._guard import about
from graphopt.cli._options import DebugOpt, JsonOpt, ModelArg, QuietOpt, check_writable
from graphopt.cli._progress import ProgressLine
from graphopt.cli._ui import show, show_json, warn
from graphopt.errors import GraphoptError, OutputError

if TYPE_CHECKING:
    from graphopt.analysis.ranges import Ranges

WIDEST = 5  # tensors that are shown

OutputOpt = Annotated[
    Path | None,
    typer.Option(
        "--output", "-o", metavar="FILE", help="Where to write; MODEL.ranges.json by default.", show_default=False
    ),
]
TensorsOpt = Annotated[
    list[str] | None,
    typer.Option(
        "--tensors", metavar="PATTERN", help="Only tensors of these names or patterns. Repeatable.", show_default=False
    ),
]
ImportOpt = Annotated[
    Path | None,
    typer.Option(
        "--import-cache", metavar="FILE", show_default=False,
        help="Instead of --data: take the ranges from a calibration cache of TensorRT.",
    ),
]  # fmt: skip
ExportOpt = Annotated[
    Path | None,
    typer.Option(
        "--export-cache", metavar="FILE", show_default=False,
        help="Write the ranges as a calibration cache of TensorRT, too.",
    ),
]  # fmt: skip


def calibrate(
    model: ModelArg,
    data: DataOpt = None,
    preprocess: PreprocessOpt = None,
    batched: BatchedOpt = False,
    samples: SamplesOpt = None,
    method: MethodOpt = Method.minmax,
    percentile: PercentileOpt = None,
    bins: BinsOpt = None,
    per_channel: PerChannelOpt = False,
    tensors: TensorsOpt = None,
    cluster: ClusterOpt = None,
    cache: CacheOpt = None,
    import_cache: ImportOpt = None,
    export_cache: ExportOpt = None,
    threads: Annotated[int, typer.Option("--threads", "-t", min=1, help="Threads of an operator.")] = 1,
    output: OutputOpt = None,
    quiet: QuietOpt = False,
    json: JsonOpt = False,
    debug: DebugOpt = False,
) -> int:
    """Find the ranges of a model's tensors on representative data.

    Quantization makes scales of them. The data is read one sample at a time, and checked; what is seen is reduced to
    statistics at once. Calibrate the model that is to be quantized: tensors are known by name.

    \b
    Examples:
      graphopt calibrate model.onnx --data samples/           (writes model.ranges.json)
      graphopt calibrate model.onnx -d photos/ --preprocess imagenet --samples 512 --method entropy --bins 2048
      graphopt calibrate model.onnx -d my_data:feeds --cache run.cache --cluster local:4
      graphopt calibrate model.onnx --import-cache trt.cache
    """
    if not model.is_file():
        raise GraphoptError(f"model {str(model)!r} does not exist; check the path")
    target = output or model.with_name(model.name.removesuffix(".onnx") + ".ranges.json")
    for path, what in ((target, "output"), (export_cache, "TensorRT cache"), (cache, "calibration cache")):
        if path is not None:
            check_writable(path, never=model, what=what)
    about(model, [target, export_cache, cache])
    if import_cache is not None:
        _check_alone(data, cluster, cache)
        ranges = _imported(model, import_cache)
    else:
        options: dict[str, Any] = {"method": method.value, "per_channel": per_channel, "threads": threads}
        settings = {"percentile": percentile, "bins": bins}
        options.update((name, value) for name, value in settings.items() if value is not None)
        with ProgressLine(quiet=quiet or json) as progress:
            source = data_of(data, model, preprocess=preprocess, batched=batched, samples=samples)
            ranges = _calibrated(model, source, TimeLeft(progress), tensors, cache, cluster, options)
    _write(ranges, target, export_cache)
    for note in getattr(ranges, "notes", ()):
        if not json:
            warn(note)
    if json:
        show_json(_facts(ranges, target))
    elif not quiet:
        show(_head(ranges, target), _table(ranges))
    return 0


def _calibrated(
    model: Path,
    source: Any,
    progress: Any,
    tensors: list[str] | None,
    cache: Path | None,
    cluster: str | None,
    options: dict[str, Any],
) -> Ranges:
    from graphopt.calibration.core import calibrate as run

    return run(model, source, tensors=tensors, cache=cache, cluster=cluster, progress=progress, **options)


def _check_alone(data: Any, cluster: Any, cache: Any) -> None:
    for value, name in ((data, "--data"), (cluster, "--cluster"), (cache, "--cache")):
        if value:
            raise GraphoptError(f"--import-cache takes ranges from a file and runs nothing: leave {name} out")


def _imported(model: Path, cache: Path) -> Ranges:
    from graphopt.analysis.ranges import Ranges
    from graphopt.calibration.tensorrt_cache import read_tensorrt_cache
    from graphopt.ir import load

    graph = load(model).graph
    return Ranges(read_tensorrt_cache(cache, graph.values), model=graph.name)


def _write(ranges: Ranges, target: Path, export: Path | None) -> None:
    from graphopt.calibration.tensorrt_cache import write_tensorrt_cache

    try:
        ranges.save(target)
        if export is not None:
            write_tensorrt_cache(ranges, export)
    except OSError as error:
        reason = error.strerror or error
        raise OutputError(
            f"cannot write {str(target)!r}: {reason}; make room there, or choose another place"
        ) from error


def _facts(ranges: Ranges, target: Path) -> dict[str, Any]:
    return {
        "output": str(target),
        "model": ranges.model,
        "samples": ranges.samples,
        "tensors": len(ranges),
        "methods": dict(Counter(found.method for found in ranges.values())),
        "notes": list(getattr(ranges, "notes", ())),
        "digest": ranges.digest(),
    }


def _head(ranges: Ranges, target: Path) -> str:
    methods = Counter(found.method for found in ranges.values())
    how = ", ".join(name if len(methods) == 1 else f"{count} {name}" for name, count in methods.most_common())
    of = f" from {ranges.samples} sample{'s' * (ranges.samples != 1)}" if ranges.samples else ""
    return f"ranges of {len(ranges)} tensors{of} ({how}), written to {target}"


def _table(ranges: Ranges) -> Any:
    """The widest ranges: what stands out there costs all other values their resolution."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("widest")
    for name in ("low", "high", "minimum", "maximum"):
        table.add_column(name, justify="right")
    for name in sorted(ranges, key=lambda name: -ranges[name].amax)[:WIDEST]:
        found = ranges[name]
        table.add_row(name, *(f"{value:.5g}" for value in (found.low, found.high, found.minimum, found.maximum)))
    return table
