"""What is put to the test: every registered pass, rule, rule set and preset, and every file of the shelf."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from graphopt.passes import registry
from graphopt.passes.loading import load_file
from graphopt.testing import near
from graphopt.testing.draft import Drawn
from graphopt.testing.rules.ways import variants_of
from graphopt.testing.strategies import models

ROOT = Path(__file__).parents[2]
SHELF = sorted([*ROOT.glob("passes/experiments/*.py"), *ROOT.glob("passes/presets/*.toml")])
for _file in SHELF:
    load_file(_file)
SUBJECTS: dict[str, Any] = {name: name for name in registry.names()}
for _name in registry.names():
    if registry.get(_name).kind in ("rule", "pass"):
        SUBJECTS.update(
            {f"{_name} without guards": it for it in variants_of(registry.get(_name).make())[1:]}
        )  # of cost
NAMES = [*SUBJECTS]


def models_for(name: str) -> st.SearchStrategy[Drawn]:
    """Any models; for a rule, every other one holds its pattern, or nearly, and for a pass what its code speaks of."""
    subject = SUBJECTS[name]
    is_one = not isinstance(subject, str) or registry.get(name).kind in ("rule", "pass")
    return st.one_of(models(), near(subject)) if is_one else models()
