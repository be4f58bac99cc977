"""``graphopt quantize``: int8 where it is faster and near enough, float elsewhere."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphopt.cli._data import BatchedOpt, CacheOpt, ClusterOpt, DataOpt, Method, PreprocessOpt, SamplesOpt
from graphopt.cli._options import DebugOpt, JsonOpt, ModelArg, QuietOpt, ReportOpt, Target
from graphopt.errors import GraphoptError

if TYPE_CHECKING:
    from graphopt.quantization import QuantizationReport


class Rounding(str, Enum):
    """How weights are rounded."""

    rtn = "rtn"
    gptq = "gptq"
    awq = "awq"


class How(str, Enum):
    """How products are computed."""

    auto = "auto"
    static = "static"
    dynamic = "dynamic"
    mixed = "mixed"
    weight_only = "weight-only"


class Check(str, Enum):
    """How the float steps and the output are checked."""

    off = "off"
    check = "check"
    numeric = "numeric"


_LIMIT = (
    "How much may be lost: '0.5%' of --metric (cosine, or of classifiers the share of equal answers), '0.01', '30dB'."
)


def quantize(
    model: ModelArg,
    data: DataOpt = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="Where to write; MODEL.int8.onnx by default.", show_default=False
        ),
    ] = None,
    target: Annotated[Target, typer.Option("--target", "-t", help="Who will run the output.")] = Target.onnxruntime,
    method: Annotated[
        How, typer.Option("--method", "-m", help="auto: whichever is fastest within the limit; see the documentation.")
    ] = How.auto,
    calibration: Annotated[
        Method, typer.Option("--calibration", "-c", help="How ranges are made of what is seen.")
    ] = Method.minmax,
    max_loss: Annotated[
        str | None, typer.Option("--max-loss", metavar="LIMIT", help=_LIMIT, show_default=False)
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(
            "--metric",
            metavar="METRIC",
            show_default=False,
            help="cosine, top1, sqnr, or MODULE:FUNCTION, higher is better: f(predict), or f(outputs, sample).",
        ),
    ] = None,
    keep_float: Annotated[
        str, typer.Option("--keep-float", metavar="PATTERNS", help="Nodes to leave in float.", show_default=False)
    ] = "",
    only: Annotated[
        str, typer.Option("--only", metavar="PATTERNS", help="Quantize these nodes, no others.", show_default=False)
    ] = "",
    ranges: Annotated[
        Path | None, typer.Option("--ranges", metavar="FILE", help="Ranges that were found before.", show_default=False)
    ] = None,
    preprocess: PreprocessOpt = None,
    batched: BatchedOpt = False,
    samples: SamplesOpt = None,
    cluster: ClusterOpt = None,
    cache: CacheOpt = None,
    rounding: Annotated[
        Rounding | None,
        typer.Option(
            "--rounding",
            show_default=False,
            help="Of weights, with --method weight-only: to nearest, or by the data gptq or awq.",
        ),
    ] = None,
    bits: Annotated[
        int | None, typer.Option("--bits", help="Of weights, with --method weight-only.", show_default=False)
    ] = None,
    seconds: Annotated[float, typer.Option("--seconds", min=1.0, help="For trying and timing, about.")] = 120.0,
    threads: Annotated[int, typer.Option("--threads", min=1, help="Of an operator, when timing.")] = 1,
    layers: Annotated[bool, typer.Option("--layers", help="Show which layer loses what.")] = False,
    pareto: Annotated[bool, typer.Option("--pareto", help="Measure the points between fast and accurate.")] = False,
    plot: Annotated[
        Path | None,
        typer.Option("--plot", metavar="FILE.png", help="Draw what was tried, and the layers.", show_default=False),
    ] = None,
    verify: Annotated[Check, typer.Option("--verify", help="numeric: run and compare; check: structure only.")] = (
        Check.numeric
    ),
    report: ReportOpt = None,
    quiet: QuietOpt = False,
    json: JsonOpt = False,
    debug: DebugOpt = False,
) -> int:
    """Make a model int8 where that is faster and near enough.

    The model is optimized in float and calibrated with four fifths of the data; several ways to quantize it are tried,
    judged on the rest of the data, and timed. The fastest within the limit is written; the float model, optimized,
    where none is. Without --max-loss: no more error than quantizing everything makes.

    \b
    Examples:
      graphopt quantize model.onnx --data samples/ --max-loss 0.5%
      graphopt quantize model.onnx --data images/ --preprocess imagenet --metric my_eval:accuracy --max-loss 0.5%
      graphopt quantize model.onnx --data my_data:feeds --max-loss 30dB --layers --plot model.png
      graphopt quantize bert.onnx --method dynamic                (needs no data)
      graphopt quantize llm.onnx --method weight-only --bits 4    (neither does this)
      graphopt quantize llm.onnx --method weight-only --bits 4 --rounding gptq --data prompts/
    """
    options: dict[str, Any] = {"bits": bits} if bits is not None else {}
    options |= {"method": rounding.value} if rounding is not None else {}
    if options and method is not How.weight_only:
        raise GraphoptError("--bits and --rounding are of --method weight-only")
    _check_plot(plot)
    settings: dict[str, Any] = {
        "target": target.value, "method": method.value, "calibration": calibration.value, "max_loss": max_loss,
        "metric": metric, "keep_float": keep_float, "only": only, "samples": samples,
        "ranges": None if ranges is None else str(ranges), "seconds": seconds, "verify": verify.value,
        "cluster": cluster, "cache": cache, "threads": threads, "pareto": pareto, "layers": layers or plot is not None,
        "preprocess": preprocess, "batched": batched, "options": options,
    }  # fmt: skip
    destination = output or model.with_name(model.name.removesuffix(".onnx") + ".int8.onnx")
    found = _run(model, destination, data, settings, quiet=quiet or json, others=[report, plot])
    _record(found, report, plot)
    _tell(found, destination, layers=layers, quiet=quiet, json=json)
    return 0


def _check_plot(plot: Path | None) -> None:
    from importlib.util import find_spec

    if plot is not None and find_spec("matplotlib") is None:
        raise GraphoptError("--plot needs matplotlib: pip install 'graphopt[plot]'")


def _run(
    model: Path,
    output: Path,
    data: list[str] | None,
    settings: dict[str, Any],
    *,
    quiet: bool,
    others: list[Path | None],
) -> QuantizationReport:
    from graphopt.cli._guard import about
    from graphopt.cli._options import check_writable
    from graphopt.cli._progress import ProgressLine
    from graphopt.quantization import quantize_file

    check_writable(output, never=model)
    for other, what in zip(others, ("report", "plot"), strict=True):
        if other is not None:
            check_writable(other, never=model, what=what)
            if other.resolve() == output.resolve():
                raise GraphoptError(f"--{what} and --output are both {str(output)!r}; give them different names")
    if not model.is_file():
        raise GraphoptError(f"model {str(model)!r} does not exist; check the path")
    about(model, [output, *others])
    with ProgressLine(quiet=quiet) as progress:
        return quantize_file(model, output, data or None, progress=progress, **settings)


def _record(found: QuantizationReport, report: Path | None, plot: Path | None) -> None:
    from graphopt.cli._options import write_text

    if report is not None:
        write_text(report, found.to_json() + "\n")
    if plot is not None:
        from graphopt.quantization import plot as draw

        draw(found, plot)


def _tell(found: QuantizationReport, output: Path, *, layers: bool, quiet: bool, json: bool) -> None:
    from graphopt.cli._ui import show, show_json, warn

    if json:
        show_json(found.to_json())
        return
    if not quiet:
        show(found.table(layers=layers))
    for message in found.warnings:
        warn(message)
    if not quiet:
        show(f"wrote {output}")
