"""The property suite catches every mutant: models drawn near it, and the property that every pass is held to.

The default run looks at a few models for each, which is enough for most; the campaign looks until it is caught:

    python -m pytest tests/mutants -m campaign -rP -k search
"""

from __future__ import annotations

import re
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings

from graphopt.testing import ConformanceError, conformance, near
from graphopt.testing.draft import Drawn

from .mutant import Mutant, all_mutants

MUTANTS = all_mutants()
FEW, MOST = 12, 1500
# What a mutant may be, too, as its author did not care: that alone does not count.
BESIDE = ("not idempotent", "not deterministic", "node ")


def search(mutant: Mutant, most: int) -> tuple[int, str]:
    """How many models were drawn until one showed that the mutant is wrong, and what was wrong; "" if none did."""
    drawn, why = [0], [""]

    @seed(0)
    @settings(
        max_examples=most,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(near(mutant.step))
    def examine(model: Drawn) -> None:
        drawn[0] += 1
        try:
            with np.errstate(all="ignore"):  # a mutant is to be caught by what it computes, not by numpy's warnings
                conformance(mutant.step, model.model, model.feeds)  # as tests/properties does
        except ConformanceError as error:
            why[0] = next((fault for fault in error.faults if not fault.startswith(BESIDE) and _is_gross(fault)), "")
            assert not why[0]

    try:
        examine()
    except AssertionError:
        assert why[0]
    return drawn[0], why[0]


def _is_gross(fault: str) -> bool:
    """Not a matter of rounding, which the rule that a mutant was made from has, too."""
    error = re.search(r"error of (\S+) of", fault)
    return error is None or float(error.group(1)) > 1e-6


def test_many_are_caught_at_once() -> None:
    found = {mutant.name: search(mutant, FEW)[1] for mutant in MUTANTS[::3]}
    missed = [name for name, why in found.items() if not why]
    assert len(missed) < 2 * len(found) / 3, missed


@pytest.mark.campaign
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_it_is_caught(mutant: Mutant) -> None:
    count, why = search(mutant, MOST)
    sys.stdout.write(f"{mutant.name}: {'caught' if why else 'not caught'} after {count} models: {why}\n")
    assert why, f"{mutant.name} was not caught: {mutant.wrong}"
