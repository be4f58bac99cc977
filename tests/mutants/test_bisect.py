"""`graphopt.bisection` names every mutant among rewrites that are right, and what it writes shows the difference."""

from __future__ import annotations

from pathlib import Path

import pytest

from graphopt.bisection import Blame, bisect

from .mutant import INNOCENT, Mutant, all_mutants, in_company
from .repros import reproduces_here

MUTANTS = all_mutants()


def blamed(mutant: Mutant, folder: Path | None) -> Blame:
    model, feeds = in_company(mutant.witness)
    return bisect(model, [INNOCENT[0], mutant.step, *INNOCENT[1:]], inputs=feeds, folder=folder)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_it_is_named(mutant: Mutant) -> None:
    blame = blamed(mutant, None)
    assert blame.found and not blame.by_runtime and blame.rewrite is not None
    assert (blame.rewrite.rule, blame.pass_name) == (mutant.name, mutant.name)
    assert blame.rewrite.index >= 2 and blame.total > blame.rewrite.index + 1  # right ones before it and after it
    assert mutant.name in blame.summary() and blame.reason
    assert mutant.shows != "interface" or "interface" in blame.reason


@pytest.mark.campaign
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_its_repro_shows_it(mutant: Mutant, tmp_path: Path) -> None:
    """A few of them are run in a process of their own by test_witnesses.py, in the default run, too."""
    if mutant.shows == "interface":
        pytest.skip("both models compute the same")
    blame = blamed(mutant, tmp_path / "repro")
    assert blame.repro is not None and reproduces_here(Path(blame.repro))
