"""What is put to the test: every registered pass, rule, rule set and preset, and every file of the shelf."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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
    """Any models; for a rule, every other one holds its pattern, or nearly."""
    item: Any = registry.get(name)
    return st.one_of(models(), near(name)) if item.kind == "rule" else models()
