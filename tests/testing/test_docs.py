"""The code in docs/ir.md and docs/writing-a-pass.md runs, and prints what it says."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import parser

from graphopt.passes.loading import load_file
from graphopt.testing import conformance

DOCS = Path(__file__).parents[2] / "docs"


def blocks(document: str, before: str = "```python") -> list[str]:
    return re.findall(rf"{before}\n(.*?)```", (DOCS / document).read_text(), re.DOTALL)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_the_ir(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reading, looking, changing = blocks("ir.md")
    spaces: dict[str, Any] = {}
    exec(looking, spaces)
    assert capsys.readouterr().out == blocks("ir.md", "prints\n\n```")[0]
    exec(changing, spaces)
    assert "LeakyRelu(%x)" in spaces["model"].text()
    onnx.save(spaces["model"].commit(), here / "model.onnx")
    exec(reading, {})
    assert (here / "copy.onnx").read_bytes() == (here / "model.onnx").read_bytes()


def test_writing_a_pass(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rule, tests, pass_ = blocks("writing-a-pass.md")
    (here / "my_rule.py").write_text(rule)
    (here / "drop_asserts.py").write_text(pass_)
    spaces: dict[str, Any] = {}
    exec(tests, spaces)
    sys.modules.pop("my_rule", None)
    spaces["test_it_fires"]()
    spaces["test_it_refuses"]()
    assert load_file(here / "drop_asserts.py") == ["drop-asserts"]
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17, "debug": 1]> g (float[N] x) => (float[N] y) '
        "{ a = debug.Assert(x)  y = Relu(x)  b = debug.Assert(x)  z = Neg(b) }"
    )
    outcome = conformance("drop-asserts", model)
    assert len(outcome.model.graph.node) == 3
    assert outcome.report.refusals == {"drop-asserts": {"its result is in use": ["b"]}}
    assert not conformance("drop-asserts{domain=other}", model).changed
