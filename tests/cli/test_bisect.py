from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

WRONG = """
from graphopt import rule
from graphopt.rewrite import P


@rule("NAME", P.Relu("x").as_("relu"))
def wrong_relu(m, new):
    \"\"\"Relu is Abs, it is said.\"\"\"
    return new.Abs(m.x, like=m.relu)
"""


@pytest.fixture
def name(request):
    """Names of passes are taken for good: one for each test."""
    return "wrong-" + request.node.name.replace("_", "-").replace("[", "-").replace("]", "")


@pytest.fixture
def wrong(tmp_path, name):
    path = tmp_path / "wrong.py"
    path.write_text(WRONG.replace("NAME", name))
    return path


def test_nothing_wrong_is_exit_0(graphopt, model, tmp_path):
    result = graphopt("bisect", model)
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith("none of the ") and "the result agrees with the original" in result.out
    assert not (tmp_path / "net.repro").exists()


def test_a_wrong_rewrite_is_exit_1_and_leaves_a_repro(graphopt, model, wrong, name, tmp_path):
    result = graphopt("bisect", model, "--load", wrong)
    assert (result.code, result.err) == (1, "")
    lines = result.out.splitlines()
    assert lines[0].endswith(f"breaks the model: {name} on relu_0")
    assert lines[1].startswith("  verification failed: output 'y'")
    assert lines[2].startswith("wrote ")
    script = tmp_path / "net.repro" / "repro.py"
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (1, "")


def test_folder_passes_and_inputs(graphopt, model, wrong, name, tmp_path, rng):
    np.savez(tmp_path / "x.npz", x=rng.normal(size=(2, 3, 8, 8)).astype(np.float32))
    options = ["--load", wrong, "-p", f"fuse,{name}", "-i", tmp_path / "x.npz", "-o", tmp_path / "there"]
    result = graphopt("bisect", model, *options, "-t", "onnxruntime", "--json")
    data = json.loads(result.out)
    assert result.code == 1 and data["found"] and data["rewrite"]["rule"] == name
    assert data["pipeline"].endswith(name) and data["target"] == "onnxruntime"
    assert data["repro"] == str(tmp_path / "there") and (tmp_path / "there" / "before.onnx").exists()


def test_json_of_nothing(graphopt, model):
    data = json.loads(graphopt("bisect", model, "-p", "dead-code", "--json").out)
    assert data["found"] is False and data["rewrite"] is None and data["verification"]["status"] == "passed"


def test_quiet(graphopt, model, wrong):
    assert graphopt("bisect", model, "-q") == (0, "", "")
    assert graphopt("bisect", model, "-q", "-l", wrong).out.count("\n") == 1


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["-p", "no-such-pass"], "no-such-pass"),
        (["-o", "{model}"], "is a file; name a folder"),
        (["-i", "{tmp}/none.npz"], "does not exist"),
        (["-i", "{tmp}/y.npz"], "the inputs do not fit net.onnx: no value for 'x'"),
        (["-i", "{tmp}/shape.npz"], "does not run on the given inputs"),
    ],
)
def test_bad_input_is_exit_2(graphopt, model, tmp_path, args, message):
    np.savez(tmp_path / "y.npz", y=np.zeros(3))
    np.savez(tmp_path / "shape.npz", x=np.zeros((2, 5), np.float32))
    result = graphopt("bisect", model, *(arg.format(model=model, tmp=tmp_path) for arg in args))
    assert result.code == 2 and result.out == "" and result.err.startswith("error: ") and message in result.err
    assert result.err.count("\n") == 1


def test_a_missing_model(graphopt, tmp_path):
    result = graphopt("bisect", tmp_path / "none.onnx")
    assert result.code == 2 and "none.onnx" in result.err


def test_what_is_unchecked_is_a_warning(graphopt, model):
    result = graphopt("bisect", model, "--verify-budget", "0")
    assert result.code == 0 and "warning: not checked: " in result.err
    assert result.out.startswith("nothing was found: ") and "could not be compared" in result.out
