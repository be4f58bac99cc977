"""The examples of docs/cost.md run and print what they say."""

from __future__ import annotations

import doctest
from importlib import import_module
from pathlib import Path

from graphopt.analysis.cost import ORT_CPU

DOCS = Path(__file__).parents[2] / "docs"


def test_the_page() -> None:
    result = doctest.testfile(str(DOCS / "cost.md"), module_relative=False, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.attempted > 10
    assert not result.failed


def test_all_kinds_are_explained() -> None:
    kinds = import_module("graphopt.analysis.cost.kinds")
    rows = [line for line in (kinds.__doc__ or "").splitlines() if line.startswith("|")]
    explained = {kind.strip() for row in rows for kind in row.split("|")[1].split(",")}
    shipped = {kind for kind in ORT_CPU.seconds if kind[0].islower()}
    assert shipped - {"reorder"} <= explained
