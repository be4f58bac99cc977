"""The nightly search: thousands of drawn models through the default pipeline, hundreds through each pass.

    python -m pytest tests/properties -m campaign            # all of it
    python -m pytest tests/properties -m campaign -n 2 -v    # on two cores, saying which part is being run

Every part has a seed, which is printed with its figures (`-rP`) and stands in its name: the same part draws the same
models again. GRAPHOPT_SEED chooses others; GRAPHOPT_MODELS_DEFAULT and GRAPHOPT_MODELS_EACH how many there are.
"""

from __future__ import annotations

import os
import sys
import time

import pytest
from hypothesis import strategies as st

from graphopt.testing.draft import Drawn
from graphopt.testing.strategies import FEATURES, ON_DEMAND, models

from .holds import SEED, Tally, search
from .subjects import NAMES, SUBJECTS, models_for

PART = 250
DEFAULT = int(os.environ.get("GRAPHOPT_MODELS_DEFAULT", "20000"))
EACH = int(os.environ.get("GRAPHOPT_MODELS_EACH", "200"))
PARTS = -(-DEFAULT // PART)

pytestmark = [pytest.mark.campaign, pytest.mark.timeout(1800)]


def run(subject: str, drawn: st.SearchStrategy[Drawn], count: int, number: int) -> None:
    tally, began = Tally(), time.perf_counter()
    try:
        search(drawn, lambda model: tally.conforms(SUBJECTS[subject], model), count, number)
    finally:
        sys.stdout.write(f"seed {number}: {subject}: {tally} in {time.perf_counter() - began:.0f} s\n")


@pytest.mark.parametrize("part", range(PARTS), ids=lambda part: f"seed{SEED + part}")
def test_the_default_pipeline(part: int) -> None:
    """One part in eight has its nodes in any order."""
    features = [*FEATURES, *(ON_DEMAND if part % 8 == 7 else ())]
    run("default", models(features=features), min(PART, DEFAULT - part * PART), SEED + part)


@pytest.mark.parametrize("name", NAMES)
def test_each_pass(name: str) -> None:
    run(name, models_for(name), EACH, SEED + NAMES.index(name))
