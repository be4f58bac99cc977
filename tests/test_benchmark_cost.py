"""benchmarks/cost.py runs end to end on a small model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import onnx

from graphopt.demo import demo_model

SCRIPT = Path(__file__).resolve().parent.parent / "benchmarks" / "cost.py"


def test_both_parts(tmp_path: Path) -> None:
    onnx.save(demo_model(), tmp_path / "demo.onnx")
    answer = tmp_path / "cost.json"
    command = [sys.executable, str(SCRIPT), "--models", str(tmp_path), "--json", str(answer)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=250)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(answer.read_text())["results"]["demo"]
    assert found["fusion"]["agreement"] > 0.7
    assert found["time"]["matched"] > 3
    assert found["time"]["total"] > 0
    assert "rank correlation" in done.stdout
