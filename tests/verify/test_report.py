"""Reports are plain data."""

from __future__ import annotations

import json

from graphopt.verify import Budget, OutputCheck, Run, VerificationReport


def test_round_trip_through_json():
    checks = [OutputCheck("y", "float32", (2, 3), 0.5, 0.1, 0.99, 40.0, 1, False, "wrong"), OutputCheck("z", "int64")]
    report = VerificationReport(
        "failed", [Run({"N": 2}, "abc", "base", checks, (0.1, 0.2))], ["this"], ["that"], ["note"], "", 1.5
    )
    assert VerificationReport.from_dict(json.loads(json.dumps(report.to_dict()))) == report
    assert not report.ok and report.worst() is checks[0] and not report.runs[0].ok


def test_summaries():
    run = Run({}, "", "base", [OutputCheck("y", max_abs=0.25)])
    assert VerificationReport("passed", [run]).summary() == "verified: 1 outputs over 1 runs agree (max abs error 0.25)"
    partly = VerificationReport("passed", [run], ["other sizes"])
    assert partly.summary().endswith("; not checked: other sizes")
    assert VerificationReport("unchecked", [], ["no time"]).summary() == "not verified: no time"
    run.outputs[0].ok, run.outputs[0].why = False, "far off"
    assert VerificationReport("failed", [run]).summary() == "verification failed: output 'y': far off"
    assert VerificationReport("failed", error="it does not load").summary() == "verification failed: it does not load"


def test_budget_defaults():
    assert (Budget().seconds, Budget().bytes, Budget().threads) == (60.0, 2 << 30, 1)
