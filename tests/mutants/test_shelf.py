"""A wrong rule loaded from a file: found, undone at its sites alone, named, with a repro; the rest is optimized."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

import graphopt
from graphopt import VerificationError
from graphopt.passes import registry
from graphopt.passes.loading import load_file
from graphopt.verify import verify

from .repros import reproduces

FILE = Path(__file__).parent / "shelf" / "reduce_before_transpose.py"
RULE = "reduce-before-transpose"
# r1 and r3 may be rewritten, as their permutations are their own inverses; r2 and r4 may not. Sizes are equal, so that
# r2 is wrong in its values alone; one more site, a right one, stands in a body.
TEXT = """<ir_version: 8, opset_import: ["": 17]>
g (float[3,3,3] x, bool flag) => (float[A,B,C] y1, float[A,B,C] y2, float[A,B,C] y3, float[A,B,C] y4, float[A,B,C] y5,
                                  float[N] rest) {
    i = Identity(x)
    t1 = Transpose<perm=[0,2,1]>(i)  r1 = ReduceSum(t1, first)  y1 = Relu(r1)
    t2 = Transpose<perm=[1,2,0]>(i)  s2 = ReduceSum(t2, first)  r2 = Add(s2, x)  y2 = Relu(r2)
    t3 = Transpose<perm=[2,1,0]>(i)  r3 = ReduceSum(t3, last)   y3 = Abs(r3)
    t4 = Transpose<perm=[2,0,1]>(i)  r4 = ReduceSum(t4, last)   y4 = Abs(r4)
    y5 = If(flag) <
        then_branch = a () => (float[A,B,C] p) {
            t5 = Transpose<perm=[1,0,2]>(i)  r5 = ReduceSum(t5, last)  p = Abs(r5)
        },
        else_branch = b () => (float[A,B,C] q) { q = Neg(i) }
    >
    c = Ceil(x)  d = Ceil(c)  rest = Flatten<axis=0>(d)
}"""
RIGHT, WRONG = {"r1", "r3", "r5"}, {"s2", "r4"}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    model = parser.parse_model(TEXT)
    for name, axis in (("first", 0), ("last", -1)):
        model.graph.initializer.append(numpy_helper.from_array(np.array([axis]), name))
    onnx.save(model, tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> str:
    """The file loaded into this process, and forgotten again."""
    registry.names()
    monkeypatch.setattr(registry, "_ENTRIES", dict(registry._ENTRIES))
    assert load_file(FILE) == [RULE]
    return RULE


def check(source: Path, target: Path) -> None:
    """The wrong sites are as they were, the right ones rewritten, the rest optimized, all of it right."""
    model = onnx.load(target)
    assert verify(source, target).status == "passed"
    makers = {name: node.op_type for node in model.graph.node for name in node.output}
    assert {name: makers[name] for name in ("r1", "r3", "s2", "r4")} == {
        "r1": "Transpose", "r3": "Transpose", "s2": "ReduceSum", "r4": "ReduceSum",
    }  # fmt: skip
    assert makers["t2"] == makers["t4"] == "Transpose"
    count = Counter(node.op_type for node in model.graph.node)
    assert count["Identity"] == 0 and count["Ceil"] == 1


def graphopt_cli(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "graphopt", *map(str, arguments)]
    return subprocess.run(command, check=False, capture_output=True, text=True)


def test_by_the_command_line(file: Path) -> None:
    target, report = file.with_name("out.onnx"), file.with_name("report.json")
    done = graphopt_cli(
        "optimize", file, "-o", target, "--load", FILE, "--verify", "rewrites", "--report", report
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    check(file, target)
    said = json.loads(report.read_text())
    assert {item["site"] for item in said["reverted"]} == WRONG and {item["rule"] for item in said["reverted"]} == {
        RULE
    }
    assert said["verification"]["status"] == "passed"
    words = " ".join(done.stderr.split())
    assert f"warning: {RULE} is wrong on " in words and "undone there, the rest is kept" in words
    assert RULE in done.stdout and "reverted" in done.stdout and "verified: all outputs agree" in done.stdout
    for item in said["reverted"]:
        assert item["repro"] in words and Path(item["repro"]).is_relative_to(f"{target}.repro")
        assert reproduces(Path(item["repro"]))


def test_by_the_api(file: Path, loaded: str) -> None:
    target = file.with_name("out.onnx")
    report = graphopt.optimize_file(file, target, f"default,{loaded}", verify="rewrites")
    check(file, target)
    assert {item.site for item in report.reverted} == WRONG
    assert sum(rewrite.rule == RULE for rewrite in report.rewrites) == len(RIGHT)
    assert report.validation is not None and report.validation.rounds >= 2


def test_without_it_the_rule_is_named_and_nothing_is_written(file: Path, loaded: str) -> None:
    target = file.with_name("out.onnx")
    with pytest.raises(VerificationError, match=f"did it: {RULE} on"):
        graphopt.optimize_file(file, target, f"default,{loaded}")
    assert not target.exists() and reproduces(file.with_name("out.onnx.repro"))
    done = graphopt_cli("optimize", file, "-o", target, "--load", FILE)
    assert done.returncode == 1 and RULE in " ".join(done.stderr.split()) and not target.exists()
    done = graphopt_cli("bisect", file, "--load", FILE)
    assert done.returncode == 1 and RULE in done.stdout + done.stderr


def test_a_file_that_is_right_has_nothing_undone(file: Path) -> None:
    target = file.with_name("out.onnx")
    shelf = Path(__file__).parents[2] / "passes" / "experiments"
    done = graphopt_cli(
        "optimize", file, "-o", target, "--load", shelf / "merge_matmul_weights.py", "--verify", "rewrites"
    )  # fmt: skip
    assert done.returncode == 0 and "undone" not in done.stderr + done.stdout
