"""docs/security.md names tests that are there, and limits that are those of the program."""

from __future__ import annotations

import re
from pathlib import Path

from graphopt.analysis.sizes import poly
from graphopt.ir import calls, node
from graphopt.ir.external import SHARED
from graphopt.passes.cleanup.fold_constants import FoldConstants
from graphopt.pipeline import Pipeline

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "security.md").read_text("utf-8")


def test_every_promise_names_its_tests() -> None:
    named = set(re.findall(r"`(test_\w+\.py)`", TEXT))
    assert named == {path.name for path in Path(__file__).parent.glob("test_*.py")} - {Path(__file__).name}


def test_the_limits_are_those() -> None:
    for option in FoldConstants.options():
        assert f"`{option}`" in TEXT, option
    limits = FoldConstants()
    assert (limits.size, limits.growth, limits.ratio, limits.memory) == (1 << 20, 64 << 20, 0.5, 2 << 30)
    assert (round(limits.flops / 1e9, 1), round(limits.work / 1e9), limits.seconds) == (8.6, 69, 60)
    assert f"{calls.NODES:,} nodes or {calls.BYTES >> 20} MiB, or {calls.TIMES} times" in TEXT
    assert f"{node.SPARSE >> 20} Mi elements" in TEXT
    assert f"{poly.TERMS} terms, or of degree over {poly.DEGREE}" in TEXT
    assert f"claim {SHARED} times" in TEXT


def test_the_command_in_it_parses() -> None:
    (passes,) = re.findall(r"--passes '([^']+)'", TEXT)
    step = Pipeline.parse(passes).steps[0]
    assert isinstance(step, FoldConstants)
    assert step.flops == 1e12
