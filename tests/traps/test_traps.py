"""Every case, through the default pipelines and for each target that needs no device: still the same model."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest

from traps.case import Case, all_cases
from traps.judge import checker_error, problems
from traps.run import ort_deviates, truth

CASES = all_cases()
PIPELINES = [(passes, target) for passes in ("default", "fuse") for target in ("onnx", "onnxruntime")]
RUNTIME = tuple(map(int, onnxruntime.__version__.split(".")[:2]))


def param(case: Case) -> Any:
    marks = pytest.mark.skipif(case.ort > RUNTIME, reason=f"needs ONNX Runtime {'.'.join(map(str, case.ort))}")
    return pytest.param(case, marks=marks, id=f"{case.group}/{case.name}")


each_case = pytest.mark.parametrize("case", [param(case) for case in CASES])


def optimize(model: onnx.ModelProto, passes: str = "default", target: str = "onnx") -> onnx.ModelProto:
    import graphopt

    result, report = graphopt.optimize(model, passes, target=target, verify="off", with_report=True)
    assert isinstance(result, onnx.ModelProto)
    assert report.warnings == [], "a pass of ours failed, and rollback hid it"
    return result


@each_case
def test_case_is_sound(case: Case) -> None:
    """The corpus itself: builds the same model twice, valid where it says so, and its evaluator runs it."""
    model = case.build()
    assert model.SerializeToString(deterministic=True) == case.build().SerializeToString(deterministic=True)
    assert not case.valid or checker_error(model) == ""
    outputs = truth(case.name)
    if case.evaluator == "none":
        assert case.checks, "nothing is demanded of this case"
        return
    assert len(outputs) == len(case.feeds()) > 0
    assert all(len(values) == len(model.graph.output) for values in outputs)
    assert case.hazard or problems(replace(case, checks=()), model) == [], "the original fails its own test"


@each_case
@pytest.mark.parametrize(("passes", "target"), PIPELINES, ids=[f"{p}-{t}" for p, t in PIPELINES])
def test_optimized_model_is_right(case: Case, passes: str, target: str) -> None:
    model = case.build()
    before = model.SerializeToString(deterministic=True)
    optimized = optimize(model, passes, target)
    assert model.SerializeToString(deterministic=True) == before, "the caller's model has changed"
    again = optimize(case.build(), passes, target)
    assert optimized.SerializeToString(deterministic=True) == again.SerializeToString(deterministic=True), (
        "two runs, two results"
    )
    assert problems(case, optimized) == [], case.why


@each_case
def test_optimizing_twice_changes_nothing_wrong(case: Case) -> None:
    """What we emit is an input like any other."""
    assert problems(case, optimize(optimize(case.build()))) == [], case.why


def test_corpus_is_large_and_covers_every_heading() -> None:
    """Cases per heading of the list of traps; the hazards really are hazards with this ORT, or guard a fixed one."""
    headings = {case.group.partition("/")[0] for case in CASES}
    assert headings == {"interface", "meaning", "structure", "ort"}
    assert len(CASES) >= 120


def test_some_hazards_bite_this_runtime() -> None:
    """If none does any more, ORT has been mended and the rewrites around its errors can go."""
    assert [case.name for case in CASES if case.hazard and case.ort <= RUNTIME and ort_deviates(case.name)]


def _digest() -> str:
    digest = hashlib.sha256()
    for case in CASES:
        digest.update(optimize(case.build()).SerializeToString(deterministic=True))
    return digest.hexdigest()


def test_the_same_bytes_whatever_the_hash_seed() -> None:
    code = "from traps.test_traps import _digest; print(_digest())"
    seen = set()
    for seed in ("1", "2"):
        env = {**os.environ, "PYTHONHASHSEED": seed}
        run = subprocess.run(
            [sys.executable, "-c", code],
            env=env,
            cwd=Path(__file__).parents[1],
            capture_output=True,
            text=True,
            check=True,
        )
        seen.add(run.stdout)
    assert len(seen) == 1
