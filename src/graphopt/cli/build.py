"""``graphopt build``: a TensorRT engine that agrees with the model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphopt.cli._options import (
    DebugOpt,
    InputsOpt,
    JsonOpt,
    ModelArg,
    PassesOpt,
    QuietOpt,
    ReportOpt,
    check_writable,
    load_inputs,
    write_text,
)
from graphopt.cli._progress import ProgressLine
from graphopt.cli._ui import show, show_json, warn
from graphopt.errors import GraphoptError

if TYPE_CHECKING:
    from graphopt.targets.tensorrt import Built

PlanOpt = Annotated[
    Path | None,
    typer.Option(
        "--output", "-o", metavar="FILE.plan", show_default=False, help="Where to write; MODEL.plan by default."
    ),
]
ShapesOpt = Annotated[
    list[str] | None,
    typer.Option(
        "--shapes", "-s", metavar="NAME=MIN:OPT:MAX,...", show_default=False,
        help="An optimization profile: x=1x3x224x224:8x3x224x224:32x3x224x224, or batch=1:8:32. Repeatable.",
    ),
]  # fmt: skip
_NO = {"show_default": False}


def build(
    model: ModelArg,
    output: PlanOpt = None,
    shapes: ShapesOpt = None,
    precision: Annotated[str, typer.Option("--precision", help="float32, float16 or bfloat16.")] = "float32",
    passes: PassesOpt = None,
    verify: Annotated[
        str, typer.Option("--verify", help="numeric: compare with ONNX Runtime at every corner of the profiles; off.")
    ] = "numeric",
    inputs: InputsOpt = None,
    workspace: Annotated[
        int | None, typer.Option("--workspace", metavar="MIB", min=1, help="For a layer.", **_NO)
    ] = None,
    level: Annotated[
        int | None, typer.Option("--level", min=0, max=5, help="Of the builder's search, from TensorRT 8.6.", **_NO)
    ] = None,
    tactic_sources: Annotated[
        str | None, typer.Option("--tactic-sources", metavar="A,B", help="Only these (CUBLAS, CUDNN, ...).", **_NO)
    ] = None,
    tf32: Annotated[bool, typer.Option("--tf32", help="Let float32 layers round to TF32.")] = False,
    sparsity: Annotated[bool, typer.Option("--sparsity", help="Use 2:4 sparse weights where they are.")] = False,
    refit: Annotated[bool, typer.Option("--refit", help="Make weights replaceable in the engine.")] = False,
    aux_streams: Annotated[int | None, typer.Option("--aux-streams", min=0, help="At most so many.", **_NO)] = None,
    version_compatible: Annotated[
        bool, typer.Option("--version-compatible", help="Loadable by later versions of TensorRT.")
    ] = False,
    hardware: Annotated[
        str, typer.Option("--hardware", help="Run on others, too: none, ampere+ or same-compute-capability.")
    ] = "none",
    weight_streaming: Annotated[
        bool, typer.Option("--weight-streaming", help="Weights may stay in host memory.")
    ] = False,
    timing_cache: Annotated[
        Path | None,
        typer.Option("--timing-cache", metavar="FILE", help="Instead of the one in the cache folder.", **_NO),
    ] = None,
    no_timing_cache: Annotated[bool, typer.Option("--no-timing-cache", help="Time everything anew.")] = False,
    engine_cache: Annotated[
        bool, typer.Option("--engine-cache", help="Keep the engine, and take it from there next time.")
    ] = False,
    partial: Annotated[
        bool, typer.Option("--partial", help="Engines for what TensorRT takes, ONNX Runtime for the rest: a folder.")
    ] = False,
    device: Annotated[int, typer.Option("--device", min=0, help="Number of the GPU.")] = 0,
    report: ReportOpt = None,
    quiet: QuietOpt = False,
    json: JsonOpt = False,
    debug: DebugOpt = False,
) -> int:
    """Build a TensorRT engine that agrees with the model.

    The model is optimized for TensorRT and verified, built, and the engine compared with the original in ONNX Runtime
    on the CPU, at the smallest, usual and largest shapes of every profile. Where it differs, the layer that differs
    first is named; in float16 that layer goes back to float32 and the engine is built again. Nothing is written unless
    it agrees. Needs an NVIDIA GPU: graphopt check says without one what will not parse.

    For int8, quantize first: graphopt quantize MODEL --target tensorrt --data ...

    \b
    Examples:
      graphopt build model.onnx                                    (writes model.plan and model.plan.json)
      graphopt build model.onnx -s x=1x3x224x224:8x3x224x224:32x3x224x224 --precision float16
      graphopt build model.onnx -s batch=1:8:32,sequence=16:64:128 -o bert.plan --engine-cache
      graphopt build model.onnx -s batch=1:8:32 --partial          (writes the folder model.parts)
    """
    from graphopt.targets.tensorrt import build as make

    plan = output or model.with_suffix(".plan")
    if not partial:
        check_writable(plan, never=model)
    if report is not None:
        check_writable(report, never=model, what="report")
    options = {
        "workspace": None if workspace is None else workspace << 20,
        "optimization_level": level,
        "tactic_sources": None if tactic_sources is None else tuple(filter(None, tactic_sources.split(","))),
        "tf32": tf32, "sparsity": sparsity, "refit": refit, "aux_streams": aux_streams,
        "version_compatible": version_compatible, "hardware_compatibility": hardware,
        "weight_streaming": weight_streaming,
    }  # fmt: skip
    if timing_cache is not None and no_timing_cache:
        raise GraphoptError("--timing-cache and --no-timing-cache contradict each other; give one of them")
    feeds = load_inputs(inputs)
    cache = timing_cache or not no_timing_cache
    if partial:
        if precision != "float32":
            raise GraphoptError("--partial builds in float32; convert first: graphopt optimize -p convert-precision")
        place = output or model.with_suffix(".parts")
        more = {"verify": verify, "inputs": feeds, "timing_cache": cache, "device": device, "options": options}
        return _build_parts(model, place, shapes, {"passes": passes or "default", **more}, quiet=quiet, json=json)
    with ProgressLine(quiet=quiet or json) as progress:
        built = make(
            str(model), shapes or None, precision=precision, passes=passes or "default", options=options,
            timing_cache=cache, engine_cache=engine_cache, verify=verify, inputs=feeds,
            device=device, progress=progress,
        )  # fmt: skip
    built.save(plan)
    if report is not None:
        from graphopt.report import json_text

        write_text(report, json_text(built.to_dict(), 2) + "\n")
    if json:
        show_json(built.to_dict())
    elif not quiet:
        show(_table(built, plan))
    for text in built.plan.log if not json else ():
        warn(f"TensorRT: {text}")
    return 0


def _build_parts(
    model: Path, folder: Path, shapes: list[str] | None, more: dict[str, Any], *, quiet: bool, json: bool
) -> int:
    """Writes a folder of plans and models, after the whole gave what the original gives."""
    from graphopt.targets.tensorrt import build_partial

    if folder.exists():
        raise GraphoptError(f"{str(folder)!r} is there already; name a new folder with -o")
    progress = ProgressLine(quiet=quiet or json)
    with progress, build_partial(str(model), shapes or None, progress=progress, **more) as made:
        made.save(folder)
    if json:
        show_json({"folder": str(folder), "parts": made.kinds})
    elif not quiet:
        show(f"{folder}: {len(made.kinds)} parts: {', '.join(made.kinds)}")
        if made.verification is not None:
            show(made.verification.summary())
    return 0


def _table(built: Built, plan: Path) -> Any:
    from rich.table import Table

    from graphopt.report import human_bytes

    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_row("engine", f"{plan} ({human_bytes(len(built.plan.content))}{', from the cache' * built.plan.cached})")
    table.add_row("for", f"TensorRT {'.'.join(map(str, built.plan.version))} on {built.plan.device}")
    for profile in built.plan.profiles:
        table.add_row("profile", str(profile) or "fixed sizes")
    flags = f" (builder flags {', '.join(built.plan.flags)})" if built.plan.flags else ""
    table.add_row("precision", f"{built.precision}{flags}")
    for fault in built.faults:
        table.add_row("mended", f"{fault.summary()}: float32 there")
    if built.verification is not None:
        table.add_row("", built.verification.summary())
    table.add_row("took", f"{built.seconds:.1f} s")
    return table
