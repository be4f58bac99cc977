"""Every registered pass, rule, rule set and preset, and every file of the shelf, on models of every kind."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from onnx import ModelProto

from graphopt.passes import registry
from graphopt.passes.loading import load_file
from graphopt.testing import conformance

from .models import MODELS

ROOT = Path(__file__).parents[2]
SHELF = sorted([*ROOT.glob("passes/experiments/*.py"), *ROOT.glob("passes/presets/*.toml")])
BUILT_IN = registry.names()
LOADED = {file: load_file(file) for file in SHELF}
NAMES = registry.names()


@pytest.fixture(scope="module")
def models() -> dict[str, ModelProto]:
    made = {name: build() for name, build in MODELS.items()}
    if importlib.util.find_spec("graphopt.demo") is not None:
        from graphopt.demo import demo_model

        made["demo"] = demo_model()
    return made


def traps() -> Iterator[Any]:
    """The corpus of tests/traps, each case with one pass, in turn; a tenth of it in the default run."""
    sys.path.insert(0, str(ROOT / "tests"))
    from traps.case import all_cases

    for index, case in enumerate(all_cases()):
        name = NAMES[index % len(NAMES)]
        yield pytest.param(case, name, id=f"{case.name}-{name}", marks=[pytest.mark.campaign] if index % 10 else [])


@pytest.mark.parametrize("name", NAMES)
def test_pass_keeps_its_contract(name: str, models: dict[str, ModelProto]) -> None:
    for model in models.values():
        conformance(name, model)


@pytest.mark.parametrize("target", ["onnxruntime", "tensorrt"])
def test_presets_keep_their_contract_for_other_targets(target: str, models: dict[str, ModelProto]) -> None:
    for model in models.values():
        conformance("default", model, target=target)


@pytest.mark.parametrize(("case", "name"), list(traps()))
def test_pass_keeps_its_contract_on_traps(case: Any, name: str) -> None:
    conformance(name, case.build(), case.feeds() if case.evaluator != "none" else None)


@pytest.mark.parametrize("file", SHELF, ids=lambda file: file.stem)
def test_the_shelf_does_something(file: Path, models: dict[str, ModelProto]) -> None:
    names = LOADED[file]
    assert names
    assert not set(names) & set(BUILT_IN)
    for name in names:
        assert registry.get(name).summary
        ways = (name, f"fast-math,{name}")
        assert any(conformance(way, model).report.rewrites for way in ways for model in models.values()), name


@pytest.mark.parametrize("file", [file for file in SHELF if file.suffix == ".py"], ids=lambda file: file.stem)
def test_the_shelf_uses_public_names_alone(file: Path) -> None:
    import ast

    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("graphopt"):
            path = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
            assert not [part for part in path if part.startswith("_")], f"{file.name}:{node.lineno}"
        if isinstance(node, ast.Attribute) and node.attr.startswith("_"):
            raise AssertionError(f"{file.name}:{node.lineno}: {node.attr} is private")


def test_all_of_it_is_found() -> None:
    assert len(SHELF) >= 3
    assert {"default", "fuse", "cleanup", "fuse-conv-bn", "dead-code"} <= set(BUILT_IN)
