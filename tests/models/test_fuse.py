"""The command line on real models: valid, verified, the interface kept, the input untouched.

Run with `-m models`; see `real_model` in tests/conftest.py for where the models come from.
"""

from __future__ import annotations

import json
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import onnx
import pytest
from onnx import ModelProto

from graphopt.ir import from_proto
from graphopt.verify.run import LoadError, Session
from graphopt.verify.source import Source


def graphopt(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "graphopt", *map(str, arguments)]
    return subprocess.run(command, check=False, capture_output=True, text=True)


def interface(model: ModelProto) -> list[bytes]:
    """Inputs that are no initializers, and outputs: names, order, types, symbolic dims."""
    stored = {t.name for t in model.graph.initializer} if model.ir_version < 4 else set()
    inputs = [info for info in model.graph.input if info.name not in stored]
    return [info.SerializeToString(deterministic=True) for info in (*inputs, *model.graph.output)]


def valid(model: ModelProto) -> bool:
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError:
        return False
    return True


@pytest.mark.parametrize(("command", "target"), [("fuse", "onnx"), ("optimize", "onnxruntime")])
def test_every_model_comes_out_right(real_model: Path, tmp_path: Path, command: str, target: str) -> None:
    before = sha256(real_model.read_bytes()).digest()
    output, report = tmp_path / "out.onnx", tmp_path / "report.json"
    done = graphopt(command, real_model, "-o", output, "--target", target, "--report", report, "--quiet")
    assert sha256(real_model.read_bytes()).digest() == before
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    original, emitted = onnx.load(real_model), onnx.load(output)
    assert interface(emitted) == interface(original)
    assert valid(emitted) or not valid(original)
    from_proto(emitted).check()
    found = json.loads(report.read_text())
    assert not found["warnings"]
    assert found["nodes_after"] <= found["nodes_before"]
    try:
        Session(Source.of(real_model))
    except LoadError:
        assert found["verification"]["status"] == "unchecked"
        assert graphopt(command, real_model, "-o", output, "--target", target, "--verify", "check").returncode == 0
    else:
        assert found["verification"]["status"] == "passed", found["verification"]


def test_the_same_bytes_twice(real_model: Path, tmp_path: Path) -> None:
    for name in ("a.onnx", "b.onnx"):
        done = graphopt("optimize", real_model, "-o", tmp_path / name, "--verify", "off", "--quiet")
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
