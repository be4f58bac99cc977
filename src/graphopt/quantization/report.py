"""What a quantization did: which method where, what it cost, what it gained, and what was tried.

>>> report = QuantizationReport(model="net.onnx", chosen="static", speed=2.5, interval=(2.4, 2.6))
>>> report.verdict
'faster'
>>> QuantizationReport.from_dict(report.to_dict()) == report
True
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

from graphopt.report import human_bytes, json_text

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["FORMAT", "LayerLoss", "Point", "QuantizationReport", "RegionReport"]

FORMAT = 1
_MOST = 12  # rows of a table before it is cut short


@dataclass(frozen=True)
class Point:
    """One model that was tried.

    name: what it is. milliseconds: of a run, median; None where it was not timed. speed: fp32 time over its time, turns
    side by side. sqnr_db, cosine, top1, metric: on the samples held out. kept_float: regions in float. front: whether
    none is both faster and nearer to fp32. allowed: whether it keeps the limit. why: why it could not be had.
    """

    name: str
    milliseconds: float | None = None
    speed: float | None = None
    sqnr_db: float | None = None
    cosine: float | None = None
    top1: float | None = None
    metric: float | None = None
    kept_float: int = 0
    front: bool = False
    allowed: bool = False
    why: str = ""


@dataclass(frozen=True)
class RegionReport:
    """One region: its products, its time in float and in int8 in ms, and the SQNR in dB of the outputs when it alone
    is quantized (None where that was not measured)."""

    name: str
    anchors: tuple[str, ...]
    float_ms: float | None = None
    int8_ms: float | None = None
    sqnr_db: float | None = None
    kept_float: bool = False


@dataclass(frozen=True)
class LayerLoss:
    """One layer of the quantized model against fp32: SQNR in dB of its output, with all the error of what comes before
    it, and what it lost itself: the SQNR that this adds to that of its inputs."""

    name: str
    op: str
    method: str
    sqnr_db: float
    cosine: float
    added_db: float | None = None


@dataclass
class QuantizationReport:
    """The record of one quantization.

    chosen: name of the point that was emitted. methods: how each product is computed: "static", "dynamic",
    "weight-only" or "float", by its name. reasons: why those in float are. speed: of the user's fp32 model's time over
    that of what was emitted; interval: of it, 95 %; speed_of: "processes" where fresh processes timed it, "turns" where
    one did. calibration: the observer; samples, held_out: how many were seen, and how many judged with. limit: what was
    allowed to be lost. fp32, lost: of the metric. agrees: the runtime's own optimizations, see `runtime_agrees`.
    """

    model: str = ""
    target: str = "onnxruntime"
    method: str = "auto"
    chosen: str = ""
    limit: str = ""
    calibration: str = ""
    samples: int = 0
    held_out: int = 0
    speed: float | None = None
    interval: tuple[float, float] | None = None
    speed_of: str = ""
    threads: int = 1
    sqnr_db: float | None = None
    cosine: float | None = None
    top1: float | None = None
    metric: float | None = None
    metric_fp32: float | None = None
    methods: dict[str, str] = field(default_factory=dict)
    reasons: dict[str, list[str]] = field(default_factory=dict)
    points: list[Point] = field(default_factory=list)
    regions: list[RegionReport] = field(default_factory=list)
    layers: list[LayerLoss] = field(default_factory=list)
    agrees: dict[str, Any] | None = None
    bytes_before: int = 0
    bytes_after: int = 0
    nodes_before: int = 0
    nodes_after: int = 0
    warnings: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def verdict(self) -> str:
        """ "faster", "slower", "the same" (as far as chance goes), or "not measured"."""
        if self.speed is None:
            return "not measured"
        low, high = self.interval or (self.speed, self.speed)
        return "faster" if low > 1 else "slower" if high < 1 else "the same"

    @property
    def counts(self) -> dict[str, int]:
        """Products by method."""
        found: dict[str, int] = {}
        for method in self.methods.values():
            found[method] = found.get(method, 0) + 1
        return dict(sorted(found.items()))

    def warn(self, message: str) -> None:
        """Add a warning, once."""
        if message not in self.warnings:
            self.warnings.append(message)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready dict."""
        data = {"format": FORMAT, **asdict(self), "verdict": self.verdict, "counts": self.counts}
        data["interval"] = None if self.interval is None else list(self.interval)
        for region in data["regions"]:
            region["anchors"] = list(region["anchors"])
        return data

    def to_json(self, indent: int | None = 2) -> str:
        """`to_dict` as strict JSON text: NaN and infinity, which JSON has not, become strings."""
        return json_text(self.to_dict(), indent)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> QuantizationReport:
        """The report that `to_dict` (or parsed `to_json`) came from. Raises TypeError on other data."""
        known = {f.name for f in fields(cls)}
        given = {key: value for key, value in data.items() if key in known}
        given["interval"] = tuple(given["interval"]) if given.get("interval") else None
        given["points"] = [Point(**_numbers(p)) for p in given.get("points", ())]
        given["regions"] = [
            RegionReport(**{**_numbers(r), "anchors": tuple(r["anchors"])}) for r in given.get("regions", ())
        ]
        given["layers"] = [LayerLoss(**_numbers(layer)) for layer in given.get("layers", ())]
        return cls(**_numbers(given))

    def summary(self) -> str:
        """One line: what was chosen, how fast it is, how near to fp32, how large."""
        parts = [self.chosen or "nothing"]
        if self.speed is not None:
            low, high = self.interval or (self.speed, self.speed)
            parts.append(f"{self.speed:.2f} times as fast as fp32 (95 %: {low:.2f} to {high:.2f})")
        if self.sqnr_db is not None:
            parts.append("outputs equal" if self.sqnr_db == float("inf") else f"SQNR {self.sqnr_db:.1f} dB")
        if self.metric is not None and self.metric_fp32 is not None:
            parts.append(f"metric {self.metric:.4g} (fp32: {self.metric_fp32:.4g})")
        parts.append(f"weights {human_bytes(self.bytes_before)} → {human_bytes(self.bytes_after)}")
        return ", ".join(parts)

    def table(self, *, points: bool = True, layers: bool = False) -> RenderableType:
        """A rich renderable: the models that were tried, what stayed float and why, `summary`. Needs `rich`.

        points: the table of models. layers: that of layers, and of regions, the worst first."""
        from rich.console import Group
        from rich.text import Text

        from graphopt.quantization.tables import layers_table, points_table, regions_table

        lines: list[Any] = []
        if points and self.points:
            lines.append(points_table(self.points, self.chosen))
        if layers and self.layers:
            lines.append(layers_table(self.layers))
        if layers and any(region.sqnr_db is not None for region in self.regions):
            lines.append(regions_table(self.regions))
        counts = ", ".join(f"{count} {method}" for method, count in self.counts.items())
        if counts:
            lines.append(Text(f"products: {counts}", style="dim"))
        for why, names in list(self.reasons.items())[:_MOST]:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            lines.append(Text(f"float: {', '.join(names[:3])}{more}: {why}", style="dim"))
        return Group(*lines, Text(self.summary()))


def _numbers(data: Mapping[str, Any]) -> dict[str, Any]:
    """Undoes what JSON does to infinities, in fields that are numbers."""
    return {
        key: float(value) if isinstance(value, str) and value in ("inf", "-inf", "nan") else value
        for key, value in data.items()
    }
