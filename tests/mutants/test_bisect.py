"""`graphopt.bisection` names every mutant among rewrites that are right, and what it writes shows the difference."""

from __future__ import annotations

from pathlib import Path

import pytest

from graphopt.bisection import bisect

from .mutant import INNOCENT, Mutant, all_mutants, in_company
from .repros import reproduces_here

MUTANTS = all_mutants()
INTERFACE = ("unused-input-dropped", "output-renamed", "symbol-frozen")


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_it_is_named(mutant: Mutant, tmp_path: Path) -> None:
    model, feeds = in_company(mutant.witness)
    blame = bisect(model, [INNOCENT[0], mutant.step, *INNOCENT[1:]], inputs=feeds, folder=tmp_path / "repro")
    assert blame.found and not blame.by_runtime and blame.rewrite is not None
    assert (blame.rewrite.rule, blame.pass_name) == (mutant.name, mutant.name)
    assert blame.rewrite.index >= 2 and blame.total > blame.rewrite.index + 1  # right ones before it and after it
    assert mutant.name in blame.summary() and blame.reason
    if mutant.shows == "interface":
        assert "interface" in blame.reason
    else:
        assert blame.repro is not None and reproduces_here(Path(blame.repro))
