"""``graphopt inspect``: what is in a model, what it costs, and what stands in the way of optimizing it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphopt.cli._options import DebugOpt, JsonOpt, ModelArg, Target, load_inputs
from graphopt.cli._text import printable
from graphopt.cli._times import human_seconds
from graphopt.errors import GraphoptError

if TYPE_CHECKING:
    from rich.console import RenderableType

SHOWN = 20  # inputs, and outputs, listed; --json has all
DimOpt = Annotated[
    list[str] | None,
    typer.Option(
        "--dim", "-d", metavar="NAME=SIZE", show_default=False,
        help="Size of a dynamic dimension for FLOPs and times; 1 where none is given. Repeatable.",
    ),
]  # fmt: skip
DataOpt = Annotated[
    Path | None,
    typer.Option("--data", metavar="DATA.npz", show_default=False, help="With --profile: inputs, an array for each."),
]
PlotOpt = Annotated[
    Path | None,
    typer.Option(
        "--memory-plot", metavar="FILE.svg", show_default=False,
        help="Draw the bytes of activations alive over the nodes (.svg, .png, .pdf; needs matplotlib).",
    ),
]  # fmt: skip
RuntimeOpt = Annotated[
    Target, typer.Option("--target", "-t", help="Whose times to estimate; onnx: those of onnxruntime.")
]


def inspect(
    model: ModelArg,
    dim: DimOpt = None,
    target: RuntimeOpt = Target.onnxruntime,
    layers: Annotated[bool, typer.Option("--layers", help="List the layers with FLOPs and bytes.")] = False,
    profile: Annotated[bool, typer.Option("--profile", help="Run it; list time by original layer.")] = False,
    data: DataOpt = None,
    memory_plot: PlotOpt = None,
    json: JsonOpt = False,
    debug: DebugOpt = False,
) -> int:
    """Show operators, FLOPs, times, and what is in the way.

    A multiply and an add count one FLOP each. Dynamic dimensions count as 1 unless --dim says otherwise. Times and
    bytes are those of what the runtime executes once it has fused what it fuses itself, each kernel at the operator
    that does the most in it; see docs/cost.md.

    \b
    Examples:
      graphopt inspect model.onnx
      graphopt inspect model.onnx --dim batch=8 --dim sequence=128
      graphopt inspect model.onnx --layers --memory-plot memory.svg
      graphopt inspect model.opt.onnx --profile   (time by layers of the original)
      graphopt inspect model.onnx --json | jq .flops
    """
    from graphopt.cli import _layers
    from graphopt.cli._survey import survey
    from graphopt.cli._ui import show, show_json

    if data is not None and not profile:
        raise GraphoptError("--data goes with --profile; add it, or leave it out")
    if memory_plot is not None:
        _layers.check_plot(memory_plot)
    bindings = _bindings(dim)
    facts = survey(model, bindings, target.value)
    pages = [_page(facts)]
    if layers or memory_plot is not None:
        bound, sizes, fits = _bound(model, bindings)
        if layers:
            facts["layers"] = _layers.layer_rows(bound, sizes)
            pages.append(_layers.layers_page(facts["layers"]))
        if memory_plot is not None:
            if not fits:
                raise GraphoptError("its operators need other sizes than 1; give some with --dim")
            facts["memory"] = _layers.memory_rows(bound, sizes, memory_plot, model.name)
            pages.append([f"wrote {memory_plot}"])
    if profile:
        from graphopt.targets.profile import profile as measure

        feeds = load_inputs([data]) if data is not None else None
        found = measure(model, feeds[0] if feeds else None)
        facts["profile"] = found.to_dict()
        pages.append(_layers.profile_page(found))
    if json:
        show_json(facts)
    else:
        for place, page in enumerate(pages):
            show(*(["", *page] if place else page))
    return 0


def _bound(path: Path, bindings: dict[str, int]) -> tuple[Any, Any, bool]:
    """The model with its dimensions fixed, what they are, and whether they suit it."""
    from graphopt.cli._bind import bind, sizes_of
    from graphopt.ir import load

    model, fits = bind(load(path), bindings)
    return model, sizes_of(model, bindings), fits


def _bindings(dims: list[str] | None) -> dict[str, int]:
    bindings = {}
    for text in dims or ():
        name, _, size = text.rpartition("=")
        if not name or not size.isdecimal():
            raise GraphoptError(f"--dim {text!r} is not NAME=SIZE, as in --dim batch=8")
        bindings[name] = int(size)
    return bindings


def _page(facts: dict[str, Any]) -> list[RenderableType]:
    from rich.text import Text

    from graphopt.report import human_bytes

    used = {row["domain"] for row in facts["operators"]}
    opsets = [f"{domain or 'ai.onnx'} {version}" for domain, version in facts["opsets"].items() if domain in used]
    idle = len(facts["opsets"]) - len(opsets)
    origin = [f"IR {facts['ir_version']}", *opsets, *([f"{idle} unused imports"] if idle else []), facts["producer"]]
    title = Text(facts["model"], style="bold")
    title.append(f"  {' · '.join(printable(part) for part in origin if part)}", style="not bold")
    bound = ", ".join(f"{printable(name)}={size}" for name, size in facts["dims"].items())
    least = "at least " if facts["uncounted"] else ""
    flops = f"{least}{human(facts['flops'] or 0)} FLOPs" + (f" at {bound}" if bound else "")
    if not facts["flops"] and facts["uncounted"]:
        flops = "FLOPs unknown"
    if not facts["dims_fit"]:
        flops = f"FLOPs unknown: its operators need other sizes than {bound or '1'}; use --dim"
    weights = f"{human(facts['parameters'])} parameters in {human_bytes(facts['initializer_bytes'])}"
    parts: list[RenderableType] = [title, Text(f"{facts['nodes']} nodes · {weights} · {flops}"), Text("")]
    parts += [_interface(facts), Text(""), _operators(facts["operators"], facts["seconds"])]
    if facts["seconds"]:
        parts.append(Text("\n" + _time(facts), style="dim"))
    if facts["uncounted"] and facts["dims_fit"]:
        parts.append(Text("\nnot in the FLOPs: " + _counts(facts["uncounted"]), style="dim"))
    parts.append(Text("\nwhat blocks optimization", style="bold"))
    parts += [_blocker(item) for item in facts["blockers"]] or [Text("  nothing found", style="green")]
    return parts


def _interface(facts: dict[str, Any]) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, show_header=False)
    for _ in range(4):
        table.add_column(overflow="fold")
    for kind in ("inputs", "outputs"):
        label = kind
        values = [value for value in facts[kind] if not value.get("has_default")]
        for value in values[:SHOWN]:
            shape = Text(printable(value["shape"]))
            shape.highlight_words(map(printable, facts["dims"]), style="cyan")
            table.add_row(Text(label, style="bold"), Text(printable(value["name"])), Text(value["type"]), shape)
            label = ""
        if len(values) > SHOWN:
            table.add_row("", f"and {len(values) - SHOWN} more")
        if len(values) < len(facts[kind]):
            table.add_row(Text(label, style="bold"), f"and {len(facts[kind]) - len(values)} with a default")
    return table


def _operators(rows: list[dict[str, Any]], total: float | None) -> RenderableType:
    """total: seconds of the model; None where they are not known."""
    from rich.table import Table

    from graphopt.report import human_bytes

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("operator", overflow="fold")
    for name in ("nodes", "FLOPs", "moved", "time", "share", "parameters"):
        table.add_column(name, justify="right")
    for row in rows:
        name = f"{row['domain']}::{row['op']}" if row["domain"] else row["op"]
        flops = human(row["flops"]) if row["flops"] else ""
        runs = total and row["seconds"]
        moved = human_bytes(row["moved_bytes"]) if runs and row["moved_bytes"] else ""
        times = (human_seconds(row["seconds"]), f"{100 * row['seconds'] / (total or 1):.1f} %") if runs else ("", "")
        weights = human(row["parameters"]) if row["parameters"] else ""
        table.add_row(printable(name), str(row["nodes"]), flops, moved, *times, weights)
    return table


def _time(facts: dict[str, Any]) -> str:
    """The estimate of the whole, and what it goes by."""
    layout = facts["layout_seconds"] / facts["seconds"]
    turned = f", {100 * layout:.0f} % of it to reorder tensors between layouts" if layout >= 0.005 else ""
    machine = facts["machine"]
    return (
        f"estimated: {human_seconds(facts['seconds'])} in {facts['kernels']} kernels{turned}\n"
        f"by {machine['name']} ({machine['source']})"
    )


def _blocker(item: dict[str, Any]) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    line = Text(printable(item["what"]), style="yellow")
    line.append(f" {item['so']}", style="not bold default")
    if item["examples"]:
        line.append(f"\n{', '.join(map(printable, item['examples']))}", style="dim")
    table = Table.grid()
    table.add_row(Text("  - "), line)
    return table


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{printable(op)} x{count}" if count > 1 else printable(op) for op, count in counts.items())


def human(count: int) -> str:
    """A count as people read it, in powers of 1000.

    >>> human(999), human(1_234_567)
    ('999', '1.23 M')
    """
    size = float(count)
    for unit in ("", " K", " M", " G", " T"):
        if size < 999.5 or unit == " T":
            break
        size /= 1000
    return f"{size:.3g}{unit}" if unit else str(count)
