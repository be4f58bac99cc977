"""``graphopt verify A B``: do two models compute the same?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from graphopt.cli._options import BudgetOpt, DebugOpt, InputsOpt, JsonOpt, QuietOpt, load_inputs
from graphopt.cli._progress import ProgressLine
from graphopt.cli._ui import show, show_json, warn
from graphopt.cli._verification import details

Reference = Annotated[Path, typer.Argument(metavar="A", help="The reference model.", show_default=False)]
Candidate = Annotated[Path, typer.Argument(metavar="B", help="The model to compare with it.", show_default=False)]


def verify(
    a: Reference,
    b: Candidate,
    inputs: InputsOpt = None,
    verify_budget: BudgetOpt = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the generated inputs.")] = 0,
    lossy: Annotated[
        bool, typer.Option("--lossy", help="B may be less accurate (int8, fp16): report the distance, do not judge it.")
    ] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit 1 also when something stayed unchecked.")] = False,
    quiet: QuietOpt = False,
    json: JsonOpt = False,
    debug: DebugOpt = False,
) -> int:
    """Check that two models compute the same.

    Both must have the same interface and give the same outputs. Inputs are generated to suit the model (indices in
    range, masks, images) with at least two sizes for every dynamic dimension, or taken from --inputs. Tolerances
    follow the output types; NaN and inf must agree.

    \b
    Examples:
      graphopt verify model.onnx model.opt.onnx
      graphopt verify model.onnx model.opt.onnx -i sample.npz --json
      graphopt verify model.onnx model.int8.onnx --lossy
    """
    from graphopt.verify import Budget
    from graphopt.verify import verify as compare

    feeds = load_inputs(inputs)
    budget = None if verify_budget is None else Budget(seconds=verify_budget)
    with ProgressLine(quiet=quiet or json) as progress:
        progress("verify", 0, 0)
        report = compare(str(a), str(b), feeds, budget=budget, seed=seed, lossy=lossy)
    if json:
        show_json(report.to_dict())
    elif not quiet:
        show(details(report))
    else:
        for reason in report.unchecked:
            warn(f"not verified: {reason}")
    return 1 if not report.ok or (strict and report.status != "passed") else 0
