"""``graphopt extract``: a part of a model as a model of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphopt.cli._guard import about
from graphopt.cli._options import DebugOpt, JsonOpt, ModelArg, QuietOpt, check_writable, load_inputs
from graphopt.cli._text import printable
from graphopt.cli._ui import show, show_json
from graphopt.errors import GraphoptError

if TYPE_CHECKING:
    from onnx import ValueInfoProto

    from graphopt.ir import Model
    from graphopt.subgraphs.region import Region

OutOpt = Annotated[
    Path | None,
    typer.Option(
        "--output", "-o", metavar="FILE", show_default=False,
        help="Where to write: MODEL.part.onnx by default, or the folder MODEL.part with --with-data.",
    ),
]  # fmt: skip

DataOpt = Annotated[
    Path | None,
    typer.Option(
        "--data", "-d", metavar="DATA.npz", show_default=False,
        help="With --with-data: run on these inputs, an .npz with one array per input of the model.",
    ),
]  # fmt: skip
BetweenOpt = Annotated[
    tuple[str, str] | None,
    typer.Option(
        "--between", metavar="FIRST LAST", show_default=False,
        help="Two nodes or tensors: all paths from one to the other.",
    ),
]  # fmt: skip


def _names(option: str, help_: str) -> Any:
    return typer.Option(option, metavar="NAMES", show_default=False, help=f"{help_} Commas, or repeat the option.")


def extract(
    model: ModelArg,
    output: OutOpt = None,
    inputs: Annotated[list[str] | None, _names("--inputs", "Tensors at which the part begins.")] = None,
    outputs: Annotated[list[str] | None, _names("--outputs", "Tensors that the part computes.")] = None,
    nodes: Annotated[list[str] | None, _names("--nodes", "Names of nodes, or globs as in '/encoder/*'.")] = None,
    pattern: Annotated[
        str, typer.Option("--pattern", metavar="OPS", help="Operators that follow each other.", show_default=False)
    ] = "",
    match: Annotated[int, typer.Option("--match", min=1, help="Which place with that pattern.")] = 1,
    between: Annotated[
        tuple[str, str] | None,
        typer.Option(
            "--between",
            metavar="FIRST LAST",
            show_default=False,
            help="Two nodes or tensors: all paths from one to the other.",
        ),
    ] = None,
    no_weights: Annotated[
        bool, typer.Option("--no-weights", help="Make inputs of constants of more than a kilobyte.")
    ] = False,
    with_data: Annotated[
        bool,
        typer.Option("--with-data", help="Write what a real run put in and got out, too, and a script to replay it."),
    ] = False,
    data: DataOpt = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the generated inputs.")] = 0,
    quiet: QuietOpt = False,
    json: JsonOpt = False,
    debug: DebugOpt = False,
) -> int:
    """Take a part out of a model.

    The part is a model with the types that its inputs and outputs have in the whole. It is named by its outputs (and
    inputs, else it goes back to those of the model), by nodes, by operators that follow each other, or by two ends; in
    bodies of If and Loop and in functions, too. Weights are copied from file to file, not loaded.

    \b
    Examples:
      graphopt extract model.onnx --inputs a,b --outputs c -o sub.onnx
      graphopt extract model.onnx --nodes '/encoder/layer.0/*'
      graphopt extract model.onnx --pattern 'Conv BatchNormalization Relu' --match 3
      graphopt extract model.onnx --between conv_1 conv_7 --with-data   (writes the folder model.part)
    """
    from graphopt.ir import load, save
    from graphopt.subgraphs.choose import choose
    from graphopt.subgraphs.extract import extract_region, in_order

    stem = model.name.removesuffix(".onnx")
    target = output or model.with_name(f"{stem}.part" if with_data else f"{stem}.part.onnx")
    if no_weights and with_data:
        raise GraphoptError("--with-data needs the weights; leave out --no-weights")
    if (data or seed) and not with_data:
        raise GraphoptError("--data and --seed go with --with-data; add it, or leave them out")
    if not with_data:
        check_writable(target, never=model)
    about(model, [target])
    whole = in_order(load(model))
    known = {value for graph in whole.scopes() for value in graph.values}
    labels = {node.label for graph in whole.scopes() for node in graph}
    region = choose(
        whole, _split(inputs, known), _split(outputs, known), _split(nodes, labels), pattern, match, between
    )
    if with_data:
        from graphopt.subgraphs.capture import write_extract

        feeds = load_inputs([data] if data is not None else None)
        write_extract(region, target, feeds[0] if feeds else None, seed=seed)
        part = extract_region(region)
    else:
        part = extract_region(region, weights=not no_weights)
        save(part, target)
    facts = _facts(part, region, target)
    if json:
        show_json(facts)
    elif not quiet:
        _tell(facts, with_data)
    return 0


def _split(texts: Sequence[str] | None, known: set[str]) -> list[str] | None:
    """Names between commas; a name that has commas itself is taken whole."""
    if texts is None:
        return None
    return [name for text in texts for name in ([text] if text in known else text.split(",")) if name]


def _facts(part: Model, region: Region, target: Path) -> dict[str, Any]:
    proto = part.proto.graph
    return {
        "output": str(target),
        "nodes": [node.label for node in region.nodes],
        "inputs": [_described(info) for info in proto.input],
        "outputs": [_described(info) for info in proto.output],
    }


def _described(info: ValueInfoProto) -> dict[str, str]:
    from graphopt.cli._survey import type_text

    kind, shape = type_text(info.type)
    return {"name": info.name, "type": kind, "shape": shape}


def _tell(facts: dict[str, Any], with_data: bool) -> None:
    count = len(facts["nodes"])
    show(f"{count} node{'' if count == 1 else 's'}")
    for kind in ("inputs", "outputs"):
        for row in facts[kind]:
            show(f"  {kind[:-1]} {printable(row['name'])}: {printable(row['type'])}{printable(row['shape'])}")
    run = f" (run {Path(facts['output']) / 'replay.py'})" if with_data else ""
    show(f"wrote {facts['output']}{run}")
