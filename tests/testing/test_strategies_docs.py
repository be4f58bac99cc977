"""The code in docs/testing.md and in the docstrings runs."""

from __future__ import annotations

import doctest
import re
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

DOCUMENT = Path(__file__).parents[2] / "docs" / "testing.md"
MODULES = ("chooser", "draft", "drawing", "strategies", "catalog")


def test_the_document(capsys: pytest.CaptureFixture[str]) -> None:
    test, unaided, building = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    spaces: dict[str, Any] = {}
    exec(test, spaces)
    spaces["test_my_rule"]()
    exec(unaided, {})
    assert capsys.readouterr().out
    exec(building, spaces)
    assert [node.op_type for node in spaces["drawn"].model.graph.node] == ["Conv", "Relu"]


@pytest.mark.parametrize("name", MODULES)
def test_docstrings(name: str) -> None:
    assert doctest.testmod(import_module(f"graphopt.testing.{name}")).failed == 0
