"""The benchmarks run: their generated models are what they claim, and both scripts work end to end on a small one."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


def load_script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"benchmarks_{name}", BENCHMARKS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_script(name: str, *arguments: str, home: Path) -> str:
    command = [sys.executable, str(BENCHMARKS / f"{name}.py"), *arguments]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=home, timeout=250)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize(("asked", "made"), [(1, 108), (540, 540), (1000, 972)])
def test_transformer_has_the_nodes_asked_for(asked: int, made: int) -> None:
    model = load_script("synthetic").transformer(asked)
    onnx.checker.check_model(model, full_check=True)
    assert len(model.graph.node) == made


def test_transformer_runs_and_its_layers_matter(rng: np.random.Generator) -> None:
    import onnxruntime as ort

    synthetic = load_script("synthetic")
    feeds = {"x": rng.standard_normal((2, 5, 32), np.float32), "mask": np.zeros((2, 1, 1, 5), np.float32)}
    one, two = (
        ort.InferenceSession(synthetic.transformer(nodes).SerializeToString()).run(None, feeds)[0]
        for nodes in (108, 216)
    )
    assert one.shape == two.shape == (2, 5, 32)
    assert np.isfinite(two).all()
    assert np.abs(one - two).max() > 0.1


def test_big_weight_is_one_valid_file_with_the_weight_inside(tmp_path: Path) -> None:
    path = tmp_path / "big.onnx"
    load_script("synthetic").write_big_weight(path, 0.003)
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    (weight,) = model.graph.initializer
    assert len(weight.raw_data) == 4 * weight.dims[0] * weight.dims[1]
    assert 2_900_000 < len(weight.raw_data) < 3_100_000
    assert [p.name for p in tmp_path.iterdir()] == ["big.onnx"]


def test_nodes_of_bodies_are_counted(tmp_path: Path) -> None:
    body = onnx.parser.parse_graph("body () => (float[1] r) {c = Constant <value = float[1] {1.0}> () r = Neg(c)}")
    model = onnx.parser.parse_model('<ir_version: 8, opset_import: ["": 17]> g (bool b) => (float[1] y) {y = If(b)}')
    node = model.graph.node[0]
    node.attribute.append(onnx.helper.make_attribute("then_branch", body))
    node.attribute.append(onnx.helper.make_attribute("else_branch", body))
    onnx.save(model, tmp_path / "m.onnx")
    assert load_script("common").count_nodes(tmp_path / "m.onnx") == {"top": 1, "all": 5, "compute": 3}


def test_compile_measures_graphopt(tmp_path: Path) -> None:
    arguments = [
        "--models",
        "none",
        "--synthetic",
        "108",
        "--weight-gb",
        "0.001",
        "--tools",
        "graphopt",
        "--rounds",
        "1",
    ]
    shown = run_script("compile", *arguments, "--check", "--json", "out.json", home=tmp_path)
    data = json.loads((tmp_path / "out.json").read_text())
    assert set(data["results"]) == {"transformer-108", "weight-0.001gb"}
    for name, row in data["results"].items():
        assert row["graphopt"]["ok"], row
        assert row["graphopt"]["load_error"] == ""
        assert row["graphopt"]["nodes"]["all"] < data["originals"][name]["all"]
        assert row["graphopt"]["cpu"] > 0
    assert "graphopt" in shown


def test_latency_compares_original_and_emitted(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    onnx.save(load_script("synthetic").transformer(108), tmp_path / "models" / "small.onnx")
    arguments = ["--models", "models", "--seconds", "0.05", "--repeats", "2"]
    run_script("latency", *arguments, "--json", "out.json", home=tmp_path)
    data = json.loads((tmp_path / "out.json").read_text())
    run = data["results"]["small"]
    assert run["ok"], run
    assert len(run["repeats"]) == 2
    assert 0.05 < run["ratio"] < 20
    assert 0 < run["b"]["nodes"] <= run["a"]["nodes"]
