"""graphopt check-rules: the table, JSON, saved counterexamples, exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

RULES = """
from graphopt import rule
from graphopt.rewrite import P

@rule("my-drop-abs", P.Abs("x"))
def my_drop_abs(m, new):
    return m.x

@rule("my-double-neg", P.Neg(P.Neg("x")))
def my_double_neg(m, new):
    return m.x
"""


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    path = tmp_path / "rules_to_check.py"
    path.write_text(RULES)
    return path


@pytest.fixture(autouse=True)
def _forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test loads is not registered for the next."""
    from graphopt.passes import registry

    registry.names()
    monkeypatch.setattr(registry, "_ENTRIES", dict(registry._ENTRIES))


def test_right_rules(graphopt: Callable[..., Any]) -> None:
    result = graphopt("check-rules", "abs-of-neg", "eliminate-identity", "-n", 20, "-j", 1)
    assert result.code == 0 and not result.err
    lines = result.out.splitlines()
    assert lines[0].split()[:4] == ["rule", "tried", "fired", "equal"]
    assert lines[1].startswith("abs-of-neg") and lines[1].endswith("ok")
    assert lines[-1].startswith("2 of 2 right:")


def test_a_wrong_rule_of_a_file(graphopt: Callable[..., Any], rules: Path, tmp_path: Path) -> None:
    folder = tmp_path / "found"
    result = graphopt("check-rules", "--load", rules, "-n", 20, "-j", 1, "--save", folder)
    assert result.code == 1
    errors = [line for line in result.err.splitlines() if not line.startswith("graphopt:")]
    assert len(errors) == 1 and errors[0].startswith("error: my-drop-abs: wrong: output 0 on")
    rows = [line.split()[0] for line in result.out.splitlines() if line.startswith("my-")]
    assert rows == ["my-drop-abs", "my-double-neg"]  # these alone
    saved = folder / "my-drop-abs-0"
    assert {path.name for path in saved.iterdir()} >= {"before.onnx", "after.onnx", "inputs.npz", "rule.py", "repro.py"}
    before = onnx.load(saved / "before.onnx")
    assert "Abs" in {node.op_type for node in before.graph.node}
    with np.load(saved / "inputs.npz") as data:
        assert set(data.files) <= {value.name for value in before.graph.input}
    run = subprocess.run([sys.executable, saved / "rule.py"], capture_output=True, text=True, check=False)
    assert run.returncode != 0 and "VerificationError" in run.stderr


def test_json(graphopt: Callable[..., Any], rules: Path) -> None:
    result = graphopt("check-rules", "my-drop-abs", "--load", rules, "-n", 10, "-j", 1, "--json", "--seed", 5)
    assert result.code == 1
    data = json.loads(result.out)
    assert data["seed"] == 5 and data["instances"] == 10
    [check] = data["rules"]
    assert check["rule"] == "my-drop-abs" and not check["ok"] and check["fired"] and check["wrong"]


def test_a_rule_that_cannot_fire(graphopt: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "never.py"
    path.write_text(RULES.replace("return m.x", "return None"))
    result = graphopt("check-rules", "--load", path, "-n", 2, "-j", 1, "-q")
    assert result.code == 1 and not result.out
    assert result.err.count("cannot be exercised") == 2


def test_several_processes(graphopt: Callable[..., Any], rules: Path) -> None:
    alone, together = (
        graphopt("check-rules", "my-drop-abs", "abs-of-neg", "--load", rules, "-n", 10, "--json", "-j", jobs)
        for jobs in (1, 2)
    )
    first, second = (json.loads(result.out)["rules"] for result in (alone, together))
    for check in (*first, *second):
        del check["seconds"]
    assert first == second and together.code == 1


def test_bad_input(graphopt: Callable[..., Any], tmp_path: Path) -> None:
    assert graphopt("check-rules", "no-such-rule").code == 2
    assert "no-such-rule" in graphopt("check-rules", "no-such-rule").err
    assert graphopt("check-rules", "default").code == 2
    assert graphopt("check-rules", "--load", tmp_path / "missing.py").code == 2
    (tmp_path / "file").write_text("")
    result = graphopt("check-rules", "abs-of-neg", "--save", tmp_path / "file")
    assert result.code == 2 and result.err.count("\n") == 1
    assert graphopt("check-rules", "-n", 0).code == 2
