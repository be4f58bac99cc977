"""``graphopt compose``: models joined end to end."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from graphopt.cli._guard import about
from graphopt.cli._options import DebugOpt, QuietOpt, check_writable
from graphopt.cli._ui import show
from graphopt.errors import GraphoptError

First = Annotated[Path, typer.Argument(metavar="FIRST", help="The model that runs first.", show_default=False)]
Second = Annotated[Path, typer.Argument(metavar="SECOND", help="The model that it feeds.", show_default=False)]
TargetOpt = Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="Where to write.", show_default=False)]


def compose(
    first: First,
    second: Second,
    output: TargetOpt,
    connect: Annotated[
        list[str] | None,
        typer.Option(
            "--connect",
            "-c",
            metavar="OUT=IN",
            show_default=False,
            help="An output of the first and the input of the second that it feeds. Repeatable.",
        ),
    ] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option("--keep", metavar="OUT", show_default=False, help="A connected output to return all the same."),
    ] = None,
    prefix: Annotated[
        str, typer.Option("--prefix", metavar="TEXT", show_default=False, help="For names of the second that clash.")
    ] = "",
    quiet: QuietOpt = False,
    debug: DebugOpt = False,
) -> int:
    """Join two models end to end.

    Without --connect, names that both have are connected, or the only output with the only input. Other inputs and
    outputs stay those of the whole. Inner names get out of each other's way.

    \b
    Examples:
      graphopt compose backbone.onnx head.onnx -o model.onnx
      graphopt compose detector.onnx select.onnx -c boxes=b -c scores=s -o whole.onnx
    """  # fmt: skip
    from graphopt.ir import load, save
    from graphopt.subgraphs.compose import join

    for source in (first, second):
        check_writable(output, never=source)
    about(first, [output])
    pairs = dict(_pair(text) for text in connect) if connect else None
    whole = join(load(first), load(second), pairs, keep or (), prefix)
    save(whole, output)
    if not quiet:
        inputs, outputs = (", ".join(v.name for v in side) for side in (whole.graph.inputs, whole.graph.outputs))
        show(f"{sum(len(graph) for graph in whole.scopes())} nodes, from {inputs} to {outputs}")
        show(f"wrote {output}")
    return 0


def _pair(text: str) -> tuple[str, str]:
    out, mark, name = text.partition("=")
    if not mark or not out or not name:
        raise GraphoptError(f"--connect {text!r} is not OUT=IN, as in --connect boxes=input")
    return out, name
