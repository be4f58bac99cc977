"""Models whose weights are where they should not be, and what is left on the disk."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

SIDE = 64
NBYTES = 4 * SIDE * SIDE
W = np.random.default_rng(0).normal(size=(SIDE, SIDE)).astype(np.float32)
SECRET = np.full((SIDE, SIDE), 7.25, np.float32).tobytes()


def build(nodes: list[NodeProto], weights: dict[str, np.ndarray] | None = None, *, opset: int = 17) -> ModelProto:
    """A graph from x to y, both float[N, 64]."""
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", SIDE]) for name in ("x", "y")]
    inits = [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], inits)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def net() -> ModelProto:
    """MatMul by `w`, an Identity to remove, Relu."""
    return build(
        [
            helper.make_node("MatMul", ["x", "w"], ["m"], name="mm"),
            helper.make_node("Identity", ["m"], ["i"]),
            helper.make_node("Relu", ["i"], ["y"], name="relu"),
        ],
        {"w": W},
    )


def refer(tensor: TensorProto, location: str, *entries: tuple[str, object]) -> None:
    """Makes the tensor external; entries are written as they are given, wrong or twice."""
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    del tensor.external_data[:]
    for key, value in (("location", location), *entries):
        tensor.external_data.add(key=key, value=str(value))


def external(folder: Path, location: str, *entries: tuple[str, object], name: str = "model.onnx") -> Path:
    """`net` with its weight outside; by default all of the 16 KiB at the start of the file."""
    model = net()
    refer(model.graph.initializer[0], location, *(entries or (("offset", 0), ("length", NBYTES))))
    path = folder / name
    path.write_bytes(model.SerializeToString())
    return path


def snapshot(folder: Path) -> dict[str, str]:
    """Everything below a folder: kind, content, where links lead."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            what = f"link to {os.readlink(path)}"
        elif path.is_file():
            what = hashlib.sha256(path.read_bytes()).hexdigest()
        else:
            what = "other"
        found[str(path.relative_to(folder))] = what
    return found


def graphopt(folder: Path, *args: str | Path, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    """`python -m graphopt` in a folder."""
    command = [sys.executable, "-m", "graphopt", *map(str, args)]
    environment = {**os.environ, "COLUMNS": "200", "PYTHONWARNINGS": "ignore"}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=timeout, check=False
    )


def assert_refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """Exit code 2, and one line that has all the words."""
    assert done.returncode == 2, (done.returncode, done.stdout, done.stderr)
    lines = [line for line in done.stderr.splitlines() if line.strip() and not line.startswith("graphopt: ")]
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    assert len(lines[0]) < 2000
    for word in words:
        assert word in lines[0], lines[0]


def run(model: Path | ModelProto, rows: int = 2) -> np.ndarray:
    """What ONNX Runtime computes for a fixed input."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    given = str(model) if isinstance(model, Path) else model.SerializeToString()
    session = ort.InferenceSession(given, options, providers=["CPUExecutionProvider"])
    (result,) = session.run(None, {"x": np.random.default_rng(1).normal(size=(rows, SIDE)).astype(np.float32)})
    return np.asarray(result)


def whole(path: Path) -> ModelProto:
    """A model with its external data, read by onnx."""
    return onnx.load(path)
