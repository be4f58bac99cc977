from __future__ import annotations

import json
import math
import pickle

from rich.console import Console

from graphopt.report import PassReport, Report, Rewrite, human_bytes
from graphopt.verify import VerificationReport


def sample() -> Report:
    report = Report(
        model="net.onnx",
        target="onnxruntime",
        pipeline="fold-constants,fuse-conv-bn{width=8}",
        passes=[PassReport("fold-constants", 0.01, 0, 9, 9), PassReport("fuse-conv-bn", 0.25, 2, 9, 7)],
        rewrites=[Rewrite(0, "fuse-conv-bn", "fuse", ("conv_0", "bn_0"), ("conv_0",), "main")],
        nodes_before=9,
        nodes_after=7,
        bytes_before=4096,
        bytes_after=3072,
        warnings=["the model has 2 custom operators"],
        seconds=1.5,
    )
    report.refuse("fuse-conv-bn", "the result of Conv is used elsewhere", "bn_7")
    return report


def render(report: Report, width: int = 80) -> str:
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(report.table())
    return capture.get()


def test_json_and_back():
    report = sample()
    assert Report.from_dict(json.loads(report.to_json())) == report
    assert Report.from_dict(report.to_dict()) == report
    assert pickle.loads(pickle.dumps(report)) == report


def test_verification_goes_to_json_and_back_with_nan_and_infinity():
    check = {"name": "y", "dtype": "float32", "shape": [1, 4], "max_abs": math.inf, "max_rel": 0.5, "ok": False}
    run = {"bindings": {"N": 1}, "feeds": "abc", "outputs": [check]}
    report = sample()
    data = VerificationReport("failed").to_dict() | {"runs": [run | {"seconds": [0.1, 0.2]}]}
    report.verification = VerificationReport.from_dict(data)
    text = report.to_json()
    again = json.loads(text, parse_constant=lambda name: 1 / 0)  # strict JSON has no NaN
    assert Report.from_dict(again) == report
    assert Report.from_dict(again).verification.runs[0].outputs[0].max_abs == math.inf


def test_same_events_same_text():
    reports = [Report(), Report()]
    for report, order in zip(reports, ([0, 1], [1, 0]), strict=True):
        for index in order:
            report.refuse(f"rule-{index}", "because", "node")
    assert reports[0].to_json() == reports[1].to_json()


def test_refusals_and_warnings_are_said_once():
    report = Report()
    for _ in range(2):
        report.refuse("r", "because", "a")
        report.warn("mind the gap")
    report.refuse("r", "because", "b")
    report.refuse("r", "because", "a")
    assert report.to_dict()["refusals"] == {"r": {"because": ["a", "b"]}}
    assert report.warnings == ["mind the gap"]


def test_table_shows_what_changed_and_sums():
    text = render(sample())
    assert "fuse-conv-bn" in text
    assert "fold-constants" not in text
    assert "total (1 more found nothing)" in text
    assert "nodes 9 → 7, weights 4.0 KiB → 3.0 KiB" in text
    assert max(map(len, text.splitlines())) <= 80


def test_table_adds_up_the_runs_of_a_pass():
    runs = [PassReport("cse", 0.1, 2, 9, 7), PassReport("cse", 0.1, 1, 7, 6), PassReport("cse", 0.1, 0, 6, 6)]
    lines = render(Report(passes=runs, nodes_before=9, nodes_after=6)).splitlines()
    assert lines[1].split() == ["cse", "3", "3", "-3", "0.30", "s"]
    assert lines[2].split() == ["total", "3", "-3", "0.30", "s"]


def test_table_names_the_rules_of_a_pass_that_has_several():
    rewrites = [Rewrite(n, rule, "fuse", ("a",), ("b",)) for n, rule in enumerate(["r-b", "r-a", "r-b"])]
    assert "by rule: r-b 2, r-a 1\n" in render(Report(rewrites=rewrites, passes=[PassReport("fuse", 0.0, 3, 9, 6)]))
    single = [Rewrite(0, "cse", "cse", ("a",), ())]
    assert "by rule" not in render(Report(rewrites=single, passes=[PassReport("cse", 0.0, 1, 9, 8)]))


def test_table_takes_names_literally():
    report = Report(passes=[PassReport("odd{axes=[1]}", 0.0, 1, 2, 1)])
    assert "odd{axes=[1]}" in render(report)


def test_empty_report_has_a_table():
    assert render(Report()) == "nodes 0 → 0, weights 0 B → 0 B\n"


def test_bytes_for_people():
    assert [human_bytes(n) for n in (0, 1023, 1024, 5 << 20, 3 << 30, 5 << 40)] == [
        "0 B", "1023 B", "1.0 KiB", "5.0 MiB", "3.0 GiB", "5120.0 GiB",
    ]  # fmt: skip
