"""What is put to the test: every registered pass, rule, rule set and preset, and every file of the shelf."""

from __future__ import annotations

from pathlib import Path

from hypothesis import strategies as st

from graphopt.passes import registry
from graphopt.passes.loading import load_file
from graphopt.testing import near
from graphopt.testing.draft import Drawn
from graphopt.testing.strategies import models

ROOT = Path(__file__).parents[2]
SHELF = sorted([*ROOT.glob("passes/experiments/*.py"), *ROOT.glob("passes/presets/*.toml")])
for _file in SHELF:
    load_file(_file)
NAMES = registry.names()


def models_for(name: str) -> st.SearchStrategy[Drawn]:
    """Any models; for a rule, every other one holds its pattern, or nearly, and for a pass what its code speaks of."""
    return st.one_of(models(), near(name)) if registry.get(name).kind in ("rule", "pass") else models()
