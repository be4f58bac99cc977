"""benchmarks/tensorrt.py runs end to end on a simulated device, keeps what it has, and goes on from there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper, parser

SCRIPT = Path(__file__).resolve().parents[3] / "benchmarks" / "tensorrt.py"
FEEDS = """import numpy as np
def make_feeds(recipe, seed=0):
    random = np.random.default_rng(seed)
    return {entry["name"]: random.standard_normal(entry["shape"]).astype("float32") for entry in recipe}
"""


def run(folder: Path, *more: str) -> tuple[str, dict]:
    command = [sys.executable, str(SCRIPT), "--models", str(folder), "--recipes", str(folder / "models.json")]
    command += ["--only", "small,odd", "--precisions", "fp32", "--measure", "0.05", "--json", str(folder / "out.json")]
    environment = {**os.environ, "GRAPHOPT_SIMULATE": "8.5"}
    done = subprocess.run([*command, *more], check=False, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout, json.loads((folder / "out.json").read_text())


def test_both_sides_are_built_checked_and_timed(tmp_path: Path) -> None:
    text = (
        '<ir_version: 8, opset_import: ["": 17]> g (float[N, 8] x) => (float[N, 4] y) { a = MatMul(x, w) y = Relu(a) }'
    )
    small = parser.parse_model(text)
    small.graph.initializer.append(numpy_helper.from_array(np.ones((8, 4), np.float32), "w"))
    onnx.save(small, tmp_path / "small.onnx")
    odd = '<ir_version: 8, opset_import: ["": 17]> g (float[1, 8] x) => (float[1, 8] y) { a = Det(x) y = Add(a, x) }'
    onnx.save(parser.parse_model(odd), tmp_path / "odd.onnx")
    recipes = [{"file": f"{name}.onnx", "feeds": [{"name": "x", "shape": [1, 8]}]} for name in ("small", "odd")]
    (tmp_path / "models.json").write_text(json.dumps(recipes))
    (tmp_path / "feeds.py").write_text(FEEDS)
    stdout, found = run(tmp_path, "--batches", "1,3", "--build-times")
    assert "SIMULATED" in stdout
    good = found["results"]["small fp32 3"]
    assert good["ok"]
    assert {side["status"] for side in good["verified"].values()} == {"passed"}
    assert good["ratio"] > 0
    assert good["graph_ratio"] > 0
    assert set(good["build_again"]) == {"cold", "warm"}
    assert "TensorRT has no Det" in found["results"]["odd fp32 1"]["error"]
    assert found["results"]["odd fp32 3"]["skipped"]
    assert found["summary"]["failed"] == 1
    assert found["summary"]["groups"]["fp32 1"]["models"] == 1
    _, again = run(tmp_path, "--batches", "1,3", "--resume", "--seconds", "0")
    assert again["results"]["small fp32 3"] == good
