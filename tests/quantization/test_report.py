from __future__ import annotations

import json
import math

import pytest
from rich.console import Console

from graphopt.errors import GraphoptError
from graphopt.quantization import QuantizationReport, plot
from graphopt.quantization.report import LayerLoss, Point, RegionReport
from graphopt.quantization.tables import regions_table


def whole():
    return QuantizationReport(
        model="net.onnx", chosen="static", speed=2.5, interval=(2.4, 2.6), speed_of="processes", sqnr_db=24.0,
        cosine=0.99, top1=0.97, metric=0.8, metric_fp32=0.81, methods={"a": "static", "b": "float", "c": "static"},
        reasons={"keep_float": ["b"]}, bytes_before=4 << 20, bytes_after=1 << 20,
        points=[
            Point("fp32", 5.0, 1.0, math.inf, 1.0, 1.0, 0.81, 0, True, True),
            Point("static", 2.0, 2.5, 24.0, 0.99, 0.97, 0.8, 0, True, True),
            Point("dynamic", why="nothing could be quantized in this way"),
        ],
        regions=[RegionReport("a", ("a",), 1.0, 0.4, 30.0), RegionReport("b", ("b",), 1.0, 0.9, -math.inf, True)],
        layers=[LayerLoss("a", "Conv", "static", 30.0, 0.999, 31.0), LayerLoss("b", "Conv", "float", math.inf, 1.0)],
    )  # fmt: skip


def shown(renderable):
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    with console.file:
        console.print(renderable)
    return console.export_text()


def test_it_survives_json():
    report = whole()
    text = report.to_json()
    assert QuantizationReport.from_dict(json.loads(text)) == report
    data = json.loads(text)
    assert (data["verdict"], data["counts"], data["format"]) == ("faster", {"float": 1, "static": 2}, 1)


def test_an_empty_one_survives_too():
    assert QuantizationReport.from_dict(json.loads(QuantizationReport().to_json())) == QuantizationReport()


@pytest.mark.parametrize(
    ("speed", "interval", "verdict"),
    [(None, None, "not measured"), (2.0, None, "faster"), (1.0, (0.9, 1.1), "the same"), (0.5, (0.4, 0.6), "slower")],
)
def test_verdicts(speed, interval, verdict):
    assert QuantizationReport(speed=speed, interval=interval).verdict == verdict


def test_the_table_says_what_matters():
    text = shown(whole().table(layers=True))
    for words in ("-> ", "static", "nothing could be quantized", "2 static", "float: b: keep_float", "2.50 times",
                  "SQNR 24.0 dB", "4.0 MiB → 1.0 MiB", "metric 0.8", "equal"):  # fmt: skip
        assert words in text, words
    assert "Conv" in text
    assert "none" in shown(regions_table(whole().regions))


def test_warnings_are_said_once():
    report = QuantizationReport()
    report.warn("a")
    report.warn("a")
    assert report.warnings == ["a"]


def test_plots(tmp_path):
    pytest.importorskip("matplotlib")
    for name in ("all.png", "all.svg"):
        plot(whole(), tmp_path / name)
        assert (tmp_path / name).stat().st_size > 2000
    plot(QuantizationReport(), tmp_path / "empty.png")
    with pytest.raises(GraphoptError, match="cannot be written"):
        plot(whole(), tmp_path / "no" / "such.png")
