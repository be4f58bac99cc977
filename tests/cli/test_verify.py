from __future__ import annotations

import json

import numpy as np
import onnx
import pytest

from graphopt.cli._verification import details, verdict
from graphopt.verify import OutputCheck, Run, VerificationReport


@pytest.fixture
def pair(tmp_path, make_model):
    def save(scale: float):
        paths = tmp_path / "a.onnx", tmp_path / "b.onnx"
        onnx.save(make_model(), paths[0])
        onnx.save(make_model(scale), paths[1])
        return paths

    return save


def test_equal_models(graphopt, pair):
    result = graphopt("verify", *pair(1.5))
    assert (result.code, result.err) == (0, "")
    assert "verified: " in result.out
    assert " ok\n" in result.out
    assert "N=" in result.out


def test_different_models_are_exit_1(graphopt, pair):
    result = graphopt("verify", *pair(1.6))
    assert result.code == 1
    assert "WRONG" in result.out
    assert "verification failed" in result.out
    assert graphopt("verify", *pair(1.6), "--quiet") == (1, "", "")


def test_json(graphopt, pair):
    result = graphopt("verify", *pair(1.6), "--json")
    assert (result.code, result.err) == (1, "")
    assert json.loads(result.out)["status"] == "failed"


def test_given_inputs(graphopt, pair, tmp_path, rng):
    np.savez(tmp_path / "x.npz", x=rng.normal(size=(7, 3, 8, 8)).astype(np.float32))
    result = graphopt("verify", *pair(1.5), "--inputs", tmp_path / "x.npz", "--json")
    runs = json.loads(result.out)["runs"]
    assert [run["outputs"][0]["shape"] for run in runs] == [[7, 4, 8, 8]]


def test_nothing_checked_is_said_and_fails_only_when_strict(graphopt, pair):
    paths = pair(1.5)
    result = graphopt("verify", *paths, "--verify-budget", "0")
    assert result.code == 0
    assert "not verified" in result.out
    assert graphopt("verify", *paths, "--verify-budget", "0", "--strict").code == 1
    quiet = graphopt("verify", *paths, "--verify-budget", "0", "--quiet")
    assert quiet.out == ""
    assert quiet.err.startswith("warning: not verified: ")


def render(part) -> str:
    from rich.console import Console

    console = Console(width=100, color_system=None, markup=False)
    with console.capture() as capture:
        console.print(part)
    return capture.get()


def test_failures_come_first_and_the_rest_is_counted():
    checks = [
        OutputCheck(f"y{n}", "float32", (1, 4), ok=n != 29, why="" if n != 29 else "too far [1]") for n in range(30)
    ]
    report = VerificationReport(
        "failed", runs=[Run({"N": 1, "M": 2}, outputs=checks)], interface=["output 'q' is gone"]
    )
    lines = render(details(report)).splitlines()
    assert lines[0] == "interface: output 'q' is gone"
    assert lines[2].startswith("1 M=2 N=1")
    assert "y29" in lines[2]
    assert "WRONG: too far [1]" in lines[2]
    assert "... and 10 more" in lines[22]
    assert lines[-1].startswith("verification failed: ")


def test_verdict_says_what_is_not_checked():
    report = VerificationReport("passed", runs=[Run(outputs=[OutputCheck("y")])], unchecked=["N > 1"], notes=["a note"])
    text = render(verdict(report))
    assert text.startswith("verified: all outputs agree over 1 run (max abs error 0, 0.0 s)")
    assert "not checked: N > 1" in text
    assert "note: a note" in text
    assert render(verdict(None, "off")) == "not compared in numbers (--verify off)\n"
    assert render(verdict(VerificationReport("passed"))) == "verified: structure and interface only\n"
    assert render(verdict(VerificationReport())) == "not verified\n"


def test_a_lossy_model_is_measured_and_not_judged(graphopt, tmp_path, make_model):
    paths = tmp_path / "a.onnx", tmp_path / "b.onnx"
    for path, scale in zip(paths, (1.5, 1.51), strict=True):
        onnx.save(make_model(scale), path)
    assert graphopt("verify", *paths).code == 1
    result = graphopt("verify", *paths, "--lossy")
    assert result.code == 0, result.err
    assert "runs as written" in result.out
    assert "dB" in result.out
