"""``graphopt diff A B``: what is different between two models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphopt.cli._guard import about
from graphopt.cli._options import DebugOpt, JsonOpt, load_inputs
from graphopt.cli._text import printable
from graphopt.cli._ui import show, show_json

if TYPE_CHECKING:
    from rich.console import RenderableType

    from graphopt.difference import Diff

First = Annotated[Path, typer.Argument(metavar="A", help="The model to start from.", show_default=False)]
Second = Annotated[Path, typer.Argument(metavar="B", help="The model to compare with it.", show_default=False)]
DataOpt = Annotated[
    Path | None,
    typer.Option(
        "--data", "-d", metavar="DATA.npz", show_default=False, help="With --numeric: inputs, one array for each."
    ),
]  # fmt: skip
SHOWN = 40  # rows of a kind; --all and --json have the rest
WORDS = {
    "changed": "changed", "made": "made by rules", "removed": "gone", "added": "new", "constant": "constants changed"
}  # fmt: skip


def diff(
    a: First,
    b: Second,
    numeric: Annotated[
        bool, typer.Option("--numeric", "-n", help="Run both, and show where their inner values part.")
    ] = False,
    data: DataOpt = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the generated inputs.")] = 0,
    every: Annotated[bool, typer.Option("--all", help="Show every row.")] = False,
    json: JsonOpt = False,
    debug: DebugOpt = False,
) -> int:
    """Show what is different between two models.

    Nodes are matched by where they come from (graphopt notes it in what it makes), by name, by the names of what they
    make, and by what they compute. Exit code 0 when nothing differs in structure, 1 when something does.

    \b
    Examples:
      graphopt diff model.onnx model.opt.onnx
      graphopt diff model.onnx other.onnx --numeric -d sample.npz
      graphopt diff a.onnx b.onnx --json | jq .changes
    """
    from graphopt.difference import diff as compare

    about(a, [])
    feeds = load_inputs([data]) if data is not None else None
    found = compare(a, b, numeric=numeric or data is not None, inputs=feeds[0] if feeds else None, seed=seed)
    if json:
        show_json(found.to_dict())
    else:
        show(*_page(found, None if every else SHOWN))
    return 0 if found.is_same else 1


def _page(found: Diff, limit: int | None) -> list[RenderableType]:
    parts: list[RenderableType] = []
    if found.is_same:
        parts.append(f"the same: {found.same} nodes, interface and constants")
    else:
        counts = [f"{found.same} nodes the same"]
        for kind, word in WORDS.items():
            count = sum(change.kind == kind for change in found.changes)
            counts += [f"{count} {word}"] if count else []
        parts.append(", ".join(counts))
    parts += [f"  {printable(line)}" for line in found.interface]
    if found.operators:
        pairs = (f"{printable(op)} {old}->{new}" for op, (old, new) in found.operators.items())
        parts.append("operators: " + ", ".join(pairs))
    for kind, word in WORDS.items():
        rows = [change for change in found.changes if change.kind == kind]
        if rows:
            parts += ["", *_rows(word, rows, limit)]
    if found.values is not None:
        parts += ["", *_values(found.values, limit)]
    return parts


def _rows(word: str, rows: list[Any], limit: int | None) -> list[RenderableType]:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, show_header=False)
    for _ in range(3):
        table.add_column(overflow="fold")
    for change in rows[:limit]:
        sources = ", ".join(change.sources[:6]) + (", ..." if len(change.sources) > 6 else "")
        made = f"from {sources} by {', '.join(change.rules)}" if change.rules else ""
        table.add_row(Text(f"  {printable(change.op)}"), printable(change.node), Text(printable(change.what or made)))
    more = [f"  and {len(rows) - limit} more (--all)"] if limit is not None and len(rows) > limit else []
    return [Text(word, style="bold"), table, *more]


def _values(rows: list[dict[str, Any]], limit: int | None) -> list[RenderableType]:
    """The first values that part, and the worst."""
    from rich.table import Table
    from rich.text import Text

    apart = [row for row in rows if not row["same"]]
    if not apart:
        return [f"all {len(rows)} inner values that both have are equal to the bit"]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("value", "made by"):
        table.add_column(name, overflow="fold")
    for name in ("max abs", "relative to its largest"):
        table.add_column(name, justify="right")
    for row in apart[:limit]:
        numbers = (f"{row['max_abs']:.3g}", f"{row['max_rel']:.3g}") if "max_abs" in row else (row.get("what", ""), "")
        table.add_row(printable(row["name"]), printable(row["node"]), *map(printable, numbers))
    more = [f"  and {len(apart) - limit} more (--all)"] if limit is not None and len(apart) > limit else []
    title = f"{len(apart)} of {len(rows)} inner values part, in the order of the first model"
    return [Text(title, style="bold"), table, *more]
