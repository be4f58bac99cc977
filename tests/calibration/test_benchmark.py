"""The benchmark of calibration, on a small network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "calibration.py"


def test_memory_time_and_ranges_are_compared(
    make_cnn: Callable[[np.random.Generator], ModelProto], rng: np.random.Generator, tmp_path: Path
) -> None:
    onnx.save(make_cnn(rng), tmp_path / "m.onnx")
    command = [sys.executable, str(SCRIPT), "m.onnx", "--samples", "6", "--theirs", "2,4", "--json", "out.json"]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, check=False, env={**os.environ, "COLUMNS": "200"}
    )
    assert done.returncode == 0, done.stderr
    data = json.loads((tmp_path / "out.json").read_text())
    assert [row["method"] for row in data["rows"]] == ["minmax", "percentile", "entropy"]
    for row in data["rows"]:
        found = row["agreement"]
        assert found["tensors"] == found["within_a_bin" if row["method"] != "minmax" else "equal"] == 10
        assert row["cpu"] > 0
        assert row["peak"] > 1 << 20
    assert "times as fast" in done.stdout
