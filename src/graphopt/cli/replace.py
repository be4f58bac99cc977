"""``graphopt replace``: puts a part back that was taken out with ``extract``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from graphopt.cli._guard import about
from graphopt.cli._options import DebugOpt, ModelArg, OutputOpt, QuietOpt, check_writable
from graphopt.cli._ui import show

PartArg = Annotated[
    Path, typer.Argument(metavar="PART", help="What takes its place, an .onnx file.", show_default=False)
]


def replace(
    model: ModelArg, part: PartArg, output: OutputOpt = None, quiet: QuietOpt = False, debug: DebugOpt = False
) -> int:
    """Put a part back in its place, optimized or otherwise changed.

    The part's inputs and outputs are tensors of the model, by name, as `graphopt extract` leaves them. What the model
    computed them with goes away. Nothing is verified here: a part may be meant to compute something else
    (`graphopt verify` compares the two models).

    \b
    Examples:
      graphopt extract model.onnx --nodes '/encoder/*' -o encoder.onnx
      graphopt optimize encoder.onnx -o encoder.opt.onnx
      graphopt replace model.onnx encoder.opt.onnx -o model.new.onnx
    """
    from graphopt.ir import load, save
    from graphopt.subgraphs.replace import replace_in

    target = output or model.with_name(f"{model.name.removesuffix('.onnx')}.new.onnx")
    for source in (model, part):
        check_writable(target, never=source)
    about(model, [target])
    whole, piece = load(model), load(part)
    before = sum(len(graph) for graph in whole.scopes())
    result = replace_in(whole, piece)
    save(result, target)
    if not quiet:
        show(f"{before} nodes became {sum(len(graph) for graph in result.scopes())}")
        show(f"wrote {target}")
    return 0
