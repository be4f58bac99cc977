"""``graphopt partition``: a model cut into parts that run one after the other."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from graphopt.cli._guard import about
from graphopt.cli._options import DebugOpt, JsonOpt, ModelArg, QuietOpt
from graphopt.cli._text import printable
from graphopt.cli._ui import show, show_json
from graphopt.errors import GraphoptError

FolderOpt = Annotated[
    Path | None,
    typer.Option(
        "--output", "-o", metavar="FOLDER", show_default=False, help="A new folder; MODEL.parts by default."
    ),
]  # fmt: skip


def partition(
    model: ModelArg,
    output: FolderOpt = None,
    cuts: Annotated[
        str, typer.Option("--cuts", metavar="TENSORS", show_default=False, help="Cut at these, between commas.")
    ] = "",
    parts: Annotated[
        int | None, typer.Option("--parts", min=1, show_default=False, help="So many, of about the same FLOPs.")
    ] = None,
    supported: Annotated[
        str,
        typer.Option(
            "--supported",
            metavar="OPS",
            show_default=False,
            help="Operators that one runtime takes, between commas, or 'tensorrt': parts of these, and of the rest.",
        ),
    ] = "",
    quiet: QuietOpt = False,
    json: JsonOpt = False,
    debug: DebugOpt = False,
) -> int:
    """Cut a model into parts that run one after the other.

    Writes each part as a model, and manifest.json, which says what is fed to which. In Python,
    `graphopt.Chain.load(FOLDER).run(feeds)` runs them all and gives what the whole gives.

    \b
    Examples:
      graphopt partition model.onnx --parts 2
      graphopt partition model.onnx --cuts /layer2/Relu_output_0,/layer3/Relu_output_0
      graphopt partition model.onnx --supported Conv,Relu,MaxPool,Add,Gemm -o parts
    """  # fmt: skip
    from graphopt.ir import load
    from graphopt.subgraphs.chain import save_partition
    from graphopt.subgraphs.partition import partition as split

    folder = output or model.with_name(f"{model.name.removesuffix('.onnx')}.parts")
    ways: dict[str, Any] = {
        "cuts": cuts.split(",") if cuts else None,
        "parts": parts,
        "supported": supported if supported == "tensorrt" else supported.split(",") if supported else None,
    }
    if sum(way is not None for way in ways.values()) != 1:
        raise GraphoptError("give one of --cuts, --parts and --supported")
    about(model, [])
    found = split(load(model), **ways)
    save_partition(found, folder)
    rows: list[dict[str, Any]] = [
        {"kind": p.kind, "nodes": len(p.model.graph), "inputs": p.inputs, "outputs": p.outputs} for p in found.parts
    ]
    if json:
        show_json({"output": str(folder), "parts": rows})
    elif not quiet:
        for number, row in enumerate(rows):
            ends = " -> ".join(", ".join(map(printable, row[side][:4])) or "-" for side in ("inputs", "outputs"))
            show(f"part {number}{' ' + row['kind'] if row['kind'] else ''}: {row['nodes']} nodes, {ends}")
        show(f"wrote {folder}")
    return 0
