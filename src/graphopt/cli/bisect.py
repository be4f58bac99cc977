"""``graphopt bisect``: which rewrite breaks a model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from graphopt.cli._options import (
    BudgetOpt,
    DebugOpt,
    InputsOpt,
    JsonOpt,
    LoadOpt,
    ModelArg,
    PassesOpt,
    QuietOpt,
    Target,
    TargetOpt,
    load_inputs,
)
from graphopt.cli._progress import ProgressLine
from graphopt.cli._text import printable
from graphopt.cli._ui import show, show_json, warn
from graphopt.errors import OutputError

if TYPE_CHECKING:
    from graphopt.bisection import Blame

FolderOpt = Annotated[
    Path | None,
    typer.Option(
        "--output", "-o", metavar="FOLDER", show_default=False,
        help="Where the repro goes, if something is wrong; MODEL.repro by default.",
    ),
]  # fmt: skip


def bisect(
    model: ModelArg,
    output: FolderOpt = None,
    passes: PassesOpt = None,
    target: TargetOpt = Target.onnx,
    inputs: InputsOpt = None,
    load: LoadOpt = None,
    verify_budget: BudgetOpt = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the generated inputs.")] = 0,
    quiet: QuietOpt = False,
    json: JsonOpt = False,
    debug: DebugOpt = False,
) -> int:
    """Find the first rewrite that breaks a model.

    Runs the preset "default" (or --passes), compares with the original after ever fewer rewrites, and cuts out the
    nodes around the first one that makes a difference. The folder then holds two small models, inputs, and a script
    that shows it with onnxruntime alone.

    \b
    Examples:
      graphopt bisect model.onnx                (writes model.repro)
      graphopt bisect model.onnx -i sample.npz  (compare on your data)
      graphopt bisect model.onnx --load my_rules.py -p my-rule
    """
    from graphopt.bisection import bisect as search
    from graphopt.cli._run import Job

    folder = output or model.with_name(model.name.removesuffix(".onnx") + ".repro")
    _check_folder(folder)
    pipeline = Job("default", model, passes=passes, load=load).pipeline()
    feeds = load_inputs(inputs)
    with ProgressLine(quiet=quiet or json) as progress:
        blame = search(
            str(model), pipeline, target=target.value, inputs=feeds, folder=folder, budget=verify_budget, seed=seed,
            progress=progress,
        )  # fmt: skip
    if json:
        show_json(blame.to_dict())
    else:
        _tell(blame, quiet)
    return 1 if blame.found else 0


def _check_folder(folder: Path) -> None:
    """Finds out before the work that the folder cannot be written."""
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"output {str(folder)!r} is a file; name a folder with -o")


def _tell(blame: Blame, quiet: bool) -> None:
    for message in blame.warnings:
        warn(message)
    verification = blame.verification
    if not quiet or blame.found:
        show(printable(blame.summary()))
    if blame.found and not quiet:
        show(f"  {printable(blame.reason)}")
    for fault in blame.runtime:
        show(f"  {printable(fault.summary())}")
    for reason in verification.unchecked if verification is not None and not blame.found else ():
        warn(f"not checked: {reason}")
    if blame.repro is not None and not quiet:
        show(f"wrote {blame.repro} (run {Path(blame.repro) / 'repro.py'})")
