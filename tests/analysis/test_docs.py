"""The examples of docs/cost.md, and of the docstrings of the model of cost, run and print what they say."""

from __future__ import annotations

import doctest
import pkgutil
from importlib import import_module
from pathlib import Path

import pytest

import graphopt.analysis.cost
import graphopt.analysis.runtime_fusion

DOCS = Path(__file__).parents[2] / "docs"
PACKAGES = (graphopt.analysis.cost, graphopt.analysis.runtime_fusion)
MODULES = [
    "graphopt.analysis.target",
    "graphopt.passes.forms._cost",
    "graphopt.targets.calibrate",
    "graphopt.cli._times",
    *(package.__name__ for package in PACKAGES),
    *(info.name for package in PACKAGES for info in pkgutil.iter_modules(package.__path__, f"{package.__name__}.")),
]


def test_the_page() -> None:
    result = doctest.testfile(str(DOCS / "cost.md"), module_relative=False, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.attempted > 10
    assert not result.failed


@pytest.mark.parametrize("name", MODULES)
def test_docstrings(name: str) -> None:
    assert not doctest.testmod(import_module(name)).failed


def test_all_kinds_are_explained() -> None:
    kinds = import_module("graphopt.analysis.cost.kinds")
    rows = [line for line in (kinds.__doc__ or "").splitlines() if line.startswith("|")]
    explained = {kind.strip() for row in rows for kind in row.split("|")[1].split(",")}
    shipped = {kind for kind in graphopt.analysis.cost.ORT_CPU.seconds if kind[0].islower()}
    assert shipped - {"reorder"} <= explained
