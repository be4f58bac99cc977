"""The report's tables on the terminal, and its plots."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from graphopt.errors import GraphoptError
from graphopt.quantization.report import LayerLoss, Point, QuantizationReport, RegionReport

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["layers_table", "plot", "points_table", "regions_table"]


def points_table(points: Sequence[Point], chosen: str) -> RenderableType:
    """The models that were tried: fastest first, the front marked with *, the chosen one with ->."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("", "model", "ms", "speed", "SQNR dB", "cosine", "top-1", "metric", "float", "limit"):
        table.add_column(name, justify="left" if name in ("", "model", "limit") else "right", overflow="fold")
    for point in sorted(points, key=lambda p: -(p.speed or 0.0)):
        mark = "->" if point.name == chosen else " *" if point.front else ""
        shown = point.why or ("kept" if point.allowed else "broken")
        if point.speed is None and shown.endswith("less accurate"):
            continue
        table.add_row(
            mark, Text(point.name), _number(point.milliseconds, "{:.2f}"), _number(point.speed, "{:.2f}"),
            _number(point.sqnr_db, "{:.1f}"), _number(point.cosine, "{:.4f}"), _number(point.top1, "{:.3f}"),
            _number(point.metric, "{:.4g}"), str(point.kept_float or ""), Text(shown),
            style="bold" if point.name == chosen else "" if point.allowed else "dim",
        )  # fmt: skip
    return table


def layers_table(layers: Sequence[LayerLoss], most: int = 40) -> RenderableType:
    """Layers, those that lose most first."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("layer", "operator", "method", "SQNR dB", "its own dB", "cosine"):
        table.add_column(name, justify="left" if name in ("layer", "operator", "method") else "right", overflow="fold")
    for layer in sorted(layers, key=lambda each: each.sqnr_db)[:most]:
        own = _number(layer.added_db, "{:.1f}")
        figures = (_number(layer.sqnr_db, "{:.1f}"), own, _number(layer.cosine, "{:.4f}"))
        table.add_row(Text(layer.name), layer.op, layer.method, *figures)
    if len(layers) > most:
        table.add_row(f"... and {len(layers) - most} more")
    return table


def regions_table(regions: Sequence[RegionReport], most: int = 40) -> RenderableType:
    """Regions, those first that cost most accuracy for the time that they save."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("region", "float ms", "int8 ms", "SQNR dB alone", ""):
        table.add_column(name, justify="left" if name in ("region", "") else "right", overflow="fold")
    for region in sorted(regions, key=lambda each: math.inf if each.sqnr_db is None else each.sqnr_db)[:most]:
        figures = (_number(region.float_ms, "{:.3f}"), _number(region.int8_ms, "{:.3f}"))
        kept = "float" if region.kept_float else ""
        table.add_row(Text(region.name), *figures, _number(region.sqnr_db, "{:.1f}"), kept)
    if len(regions) > most:
        table.add_row(f"... and {len(regions) - most} more")
    return table


def plot(report: QuantizationReport, path: str | os.PathLike[str]) -> None:
    """Draws what there is to draw into a file (.png, .svg, .pdf): the models tried, by speed and SQNR, with the Pareto
    front; the SQNR of the layers. Raises GraphoptError where matplotlib is missing or the file cannot be written."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise GraphoptError("plots need matplotlib: pip install 'graphopt[plot]'") from None
    shown: list[Any] = [draw for draw, there in ((_draw_front, report.points), (_draw_layers, report.layers)) if there]
    figure = Figure(figsize=(9, 4.5 * max(1, len(shown))), layout="constrained")
    axes = figure.subplots(max(1, len(shown)), 1, squeeze=False)[:, 0]
    for draw, axis in zip(shown, axes, strict=False):
        draw(report, axis)
    try:
        figure.savefig(os.fspath(path))
    except (OSError, ValueError) as error:
        raise GraphoptError(f"the plot cannot be written to {os.fspath(path)!r}: {error}") from error


def _draw_front(report: QuantizationReport, axis: Any) -> None:
    known = [p for p in report.points if p.speed is not None and p.sqnr_db is not None and p.sqnr_db > -math.inf]
    finite = [p.sqnr_db for p in known if p.sqnr_db is not None and math.isfinite(p.sqnr_db)]
    top = max(finite, default=50.0) + 10
    drawn = [(p, p.speed or 0.0, min(p.sqnr_db or 0.0, top)) for p in known]
    front = sorted((speed, sqnr) for p, speed, sqnr in drawn if p.front)
    axis.plot([s for s, _ in front], [q for _, q in front], "-", color="tab:blue", lw=1, label="Pareto front")
    for point, speed, sqnr in drawn:
        chosen = point.name == report.chosen
        color = "tab:red" if chosen else "tab:blue" if point.front else "tab:gray"
        axis.plot([speed], [sqnr], "o", color=color, ms=9 if chosen else 5)
        if chosen or point.front:
            axis.annotate(point.name, (speed, sqnr), textcoords="offset points", xytext=(5, 4), fontsize=7)
    axis.axvline(1.0, color="tab:gray", lw=0.5)
    axis.set_xlabel("speed: fp32 time over its time")
    axis.set_ylabel("output SQNR, dB (at the top: equal)")
    axis.set_title(report.model or "models tried")
    axis.legend(loc="lower left", fontsize=7)


def _draw_layers(report: QuantizationReport, axis: Any) -> None:
    places = range(len(report.layers))
    values = [min(layer.sqnr_db, 100.0) for layer in report.layers]
    axis.plot(places, values, ".-", lw=1, label="SQNR of its output")
    own = [(i, min(x.added_db, 100.0)) for i, x in enumerate(report.layers) if x.added_db is not None]
    axis.plot([i for i, _ in own], [v for _, v in own], "x", color="tab:orange", label="what it adds itself")
    worst = sorted(places, key=values.__getitem__)[:3]
    for place in worst:
        label = report.layers[place].name
        axis.annotate(label, (place, values[place]), textcoords="offset points", xytext=(4, -8), fontsize=7)
    axis.set_xlabel("layer, in the order of execution")
    axis.set_ylabel("dB")
    axis.legend(loc="best", fontsize=7)


def _number(value: float | None, form: str) -> str:
    if value is None:
        return "-"
    return ("equal" if value > 0 else "none") if math.isinf(value) else form.format(value)
