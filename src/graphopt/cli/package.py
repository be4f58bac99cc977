"""``graphopt package``: a model where it is served, and in another runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from graphopt.cli._options import DebugOpt, InputsOpt, JsonOpt, ModelArg, QuietOpt, load_inputs
from graphopt.cli._progress import ProgressLine
from graphopt.cli._ui import show, show_json
from graphopt.errors import GraphoptError


def package(
    model: ModelArg,
    triton: Annotated[
        Path | None,
        typer.Option("--triton", metavar="DIR", show_default=False, help="A Triton model repository to put it into."),
    ] = None,
    openvino: Annotated[bool, typer.Option("--openvino", help="Check and time it in OpenVINO on the CPU.")] = False,
    plan: Annotated[
        Path | None,
        typer.Option("--plan", metavar="FILE", show_default=False, help="Serve this engine, built from MODEL."),
    ] = None,
    name: Annotated[
        str, typer.Option("--name", show_default=False, help="In the repository; MODEL's by default.")
    ] = "",
    before: Annotated[
        Path | None,
        typer.Option("--before", metavar="FILE", show_default=False, help="A model that prepares the inputs."),
    ] = None,
    after: Annotated[
        Path | None,
        typer.Option("--after", metavar="FILE", show_default=False, help="A model that works up the outputs."),
    ] = None,
    max_batch: Annotated[int, typer.Option("--max-batch", min=0, help="Of the server's batches; 0: none.")] = 8,
    delay: Annotated[int, typer.Option("--delay", min=0, metavar="US", help="A request may wait for others.")] = 0,
    prefer: Annotated[
        list[int] | None, typer.Option("--prefer", metavar="N", show_default=False, help="A batch size. Repeatable.")
    ] = None,
    instances: Annotated[int, typer.Option("--instances", min=1, help="Of the model, on each device.")] = 1,
    gpu: Annotated[bool, typer.Option("--gpu", help="ONNX Runtime on GPUs.")] = False,
    threads: Annotated[int, typer.Option("--threads", min=0, help="Of an operator; 0: the runtime's choice.")] = 0,
    version: Annotated[int, typer.Option("--version", min=0, help="0: the next that is free.")] = 0,
    keep: Annotated[int, typer.Option("--keep", min=1, help="Latest versions that are served.")] = 1,
    no_warmup: Annotated[bool, typer.Option("--no-warmup", help="No run before the first request.")] = False,
    inputs: InputsOpt = None,
    seconds: Annotated[float, typer.Option("--seconds", min=0.0, help="Of measuring, with --openvino.")] = 2.0,
    quiet: QuietOpt = False,
    json: JsonOpt = False,
    debug: DebugOpt = False,
) -> int:
    """Put a model into a Triton repository, or try it in OpenVINO.

    --triton writes DIR/NAME/config.pbtxt, made of Triton's own messages, and DIR/NAME/1/model.onnx (or model.plan);
    versions that are there stay. With --before or --after an ensemble NAME_ensemble runs them one after the other. Any
    number of servers can serve one repository. --openvino loads the file in OpenVINO, compares every output with ONNX
    Runtime's and times both; exit 1 where it differs.

    \b
    Examples:
      graphopt package model.opt.onnx --triton repository --max-batch 32 --delay 100
      graphopt package model.opt.onnx --triton repository --plan model.plan --before resize.onnx
      graphopt package model.opt.onnx --openvino
    """
    if triton is None and not openvino:
        raise GraphoptError("say what for: --triton DIR, --openvino, or both")
    if triton is None and (before or after or plan):
        raise GraphoptError("--before, --after and --plan are for --triton DIR")
    for path in (model, plan, before, after):
        if path is not None and not path.is_file():
            raise GraphoptError(f"{str(path)!r} does not exist; check the path")
    told: dict[str, Any] = {}
    ok = True
    with ProgressLine(quiet=quiet or json) as progress:
        if openvino:
            progress("openvino", 0, 0)
            ok = _try_openvino(model, inputs, seconds, told)
        if triton is not None:
            from graphopt.targets.triton import Served, package_triton

            progress("package", 0, 0)
            common: dict[str, Any] = {
                "max_batch": max_batch, "delay": delay, "preferred": tuple(prefer or ()), "instances": instances,
                "gpu": gpu, "warmup": not no_warmup, "version": version, "keep": keep, "threads": threads,
            }  # fmt: skip
            main = Served(model, name, plan, **common)
            steps = [Served(path, **common) for path in (before,) if path is not None] + [main]
            steps += [Served(path, **common) for path in (after,) if path is not None]
            whole = f"{main.title}_ensemble" if len(steps) > 1 else ""
            told["triton"] = [str(path) for path in package_triton(triton, steps, ensemble=whole)]
    if json:
        show_json(told)
    elif not quiet:
        for path in told.get("triton", ()):
            show(f"written: {path}")
        if openvino:
            show(told["openvino"]["summary"])
    return 0 if ok else 1


def _try_openvino(model: Path, inputs: list[Path] | None, seconds: float, told: dict[str, Any]) -> bool:
    from graphopt.targets.openvino import check_openvino

    feeds = load_inputs(inputs)
    found = check_openvino(model, feeds[0] if feeds else None, seconds=seconds)
    told["openvino"] = {**found.to_dict(), "summary": found.summary()}
    return found.ok
