"""What ``inspect`` shows of single layers: cost, time by original layer, memory over time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphopt.cli._text import printable
from graphopt.errors import GraphoptError, OutputError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from graphopt.analysis.memory import Moment
    from graphopt.ir import Model
    from graphopt.targets.profile import Profile

SHOWN = 40  # rows; --json has all
FORMATS = (".svg", ".png", ".pdf")


def layer_rows(model: Model, sizes: Any) -> list[dict[str, Any]]:
    """Each node of all scopes with its cost, in order: name, op, flops, parameter bytes, bytes moved."""
    from graphopt.analysis.cost import node_cost, traffic

    rows = []
    for graph in model.scopes():
        for node in graph:
            if node.op != "Constant" or node.domain:
                cost, moved = node_cost(node, sizes), traffic(node, sizes)
                row = {"name": node.label, "op": node.op, "flops": cost.flops, "bytes": moved}
                rows.append({**row, "parameter_bytes": cost.parameter_bytes})
    return rows


def layers_page(rows: Sequence[dict[str, Any]]) -> list[RenderableType]:
    """The layers with the most FLOPs first, those without in their order behind."""
    from rich.table import Table
    from rich.text import Text

    from graphopt.cli.inspect import human
    from graphopt.report import human_bytes

    total = sum(row["flops"] or 0 for row in rows)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("layer", overflow="fold")
    table.add_column("operator")
    for name in ("FLOPs", "share", "bytes moved", "weights"):
        table.add_column(name, justify="right")
    ordered = sorted(rows, key=lambda row: -(row["flops"] or 0))
    for row in ordered[:SHOWN]:
        share = f"{100 * row['flops'] / total:.1f} %" if total and row["flops"] else ""
        flops = human(row["flops"]) if row["flops"] else ""
        bytes_ = human_bytes(row["bytes"]) if row["bytes"] is not None else "?"
        weights = human_bytes(row["parameter_bytes"]) if row["parameter_bytes"] else ""
        table.add_row(printable(row["name"]), printable(row["op"]), flops, share, bytes_, weights)
    more = [f"and {len(rows) - SHOWN} more (--json)"] if len(rows) > SHOWN else []
    return [Text("layers", style="bold"), table, *more]


def profile_page(found: Profile) -> list[RenderableType]:
    """Time by original layer."""
    from rich.table import Table
    from rich.text import Text

    shapes = ", ".join(f"{printable(name)} {shape}" for name, shape in found.inputs.items())
    title = Text(f"{found.milliseconds:.3f} ms in kernels", style="bold")
    title.append(f"  {found.runs} runs, 1 thread, on {shapes or 'no input'}", style="not bold")
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("original layer", overflow="fold")
    table.add_column("kernels", overflow="fold")
    table.add_column("ms", justify="right")
    table.add_column("share", justify="right")
    for layer in found.layers[:SHOWN]:
        names = ", ".join(layer.names[:4]) + (f" and {len(layer.names) - 4} more" if len(layer.names) > 4 else "")
        share = f"{100 * layer.milliseconds / found.milliseconds:.1f} %" if found.milliseconds else ""
        table.add_row(printable(names), printable(", ".join(layer.ops)), f"{layer.milliseconds:.4f}", share)
    more = [f"and {len(found.layers) - SHOWN} more (--json)"] if len(found.layers) > SHOWN else []
    share = f"{100 * found.attributed:.1f} % of the time is attributed to original layers"
    return [title, table, *more, share]


def check_plot(file: Path) -> None:
    """Finds out before the work that a plot cannot be made. Raises GraphoptError, OutputError."""
    from importlib.util import find_spec

    from graphopt.cli._options import check_writable

    if file.suffix not in FORMATS:
        raise OutputError(f"cannot plot to {str(file)!r}: name a file that ends in {', '.join(FORMATS)}")
    if find_spec("matplotlib") is None:
        raise GraphoptError("plots need matplotlib; install it with: pip install 'graphopt[plot]'")
    check_writable(file)


def memory_rows(model: Model, sizes: Any, file: Path, title: str) -> dict[str, Any]:
    """Draws activation memory over time; returns the peak, and the bytes alive at each node."""
    from graphopt.analysis.memory import activation_memory

    moments = activation_memory(model.graph, sizes)
    plot_memory(moments, file, title)
    peak = max(moments, key=lambda moment: moment.bytes, default=None)
    rows = [{"name": m.node.label, "bytes": m.bytes, "unknown": m.unknown} for m in moments]
    return {"peak_bytes": peak.bytes if peak else 0, "peak_at": peak.node.label if peak else "", "nodes": rows}


def plot_memory(moments: Sequence[Moment], file: Path, title: str) -> None:
    """Draws the bytes alive over the nodes, the peak marked, into a file. Raises OutputError."""
    from io import BytesIO

    from matplotlib.figure import Figure

    from graphopt.ir.files import replacing

    sizes = [moment.bytes / 2**20 for moment in moments]
    figure = Figure(figsize=(10, 4), layout="constrained")  # no pyplot: nothing global, no window
    axes = figure.subplots()
    axes.fill_between(range(len(sizes)), sizes, step="post", alpha=0.3)
    axes.step(range(len(sizes)), sizes, where="post", linewidth=1)
    if sizes:
        peak = max(range(len(sizes)), key=sizes.__getitem__)
        axes.axvline(peak, linestyle=":", linewidth=1, color="tab:red")
        note = f"{sizes[peak]:.1f} MiB at {printable(moments[peak].node.label)[:60]}"
        side = "right" if peak > len(sizes) / 2 else "left"
        axes.annotate(
            note, (peak, sizes[peak]), (6 if side == "left" else -6, -4), textcoords="offset points", ha=side, va="top"
        )
    axes.set(xlabel="node, in the order of the file", ylabel="activations alive, MiB", title=title, ylim=(0, None))
    axes.margins(x=0)
    drawn = BytesIO()
    dated = {"Date": None} if file.suffix == ".svg" else {}
    figure.savefig(drawn, format=file.suffix[1:], metadata=dated, dpi=150)
    try:
        with replacing(str(file)) as stream:
            stream.write(drawn.getvalue())
    except OSError as error:
        raise OutputError(f"cannot write {str(file)!r}: {error.strerror or error}; choose another place") from error
