"""The default pipeline, and every pass by itself, on a few drawn models. The campaign (test_campaign.py) draws many."""

from __future__ import annotations

import pytest
from hypothesis import given, settings

from graphopt.testing.draft import Drawn
from graphopt.testing.strategies import FEATURES, ON_DEMAND, models

from .holds import Tally, search
from .subjects import NAMES, SUBJECTS, models_for


@settings(max_examples=100)
@given(models())
def test_the_default_pipeline(drawn: Drawn) -> None:
    Tally().conforms("default", drawn)


@settings(max_examples=25)
@given(models(features=[*FEATURES, *ON_DEMAND]))
def test_nodes_in_any_order(drawn: Drawn) -> None:
    Tally().conforms("default", drawn)


@pytest.mark.parametrize("name", NAMES)
def test_each_pass(name: str) -> None:
    search(models_for(name), lambda drawn: Tally().conforms(SUBJECTS[name], drawn), 5, NAMES.index(name))
