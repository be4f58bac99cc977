from __future__ import annotations

import json

import pytest

PASS = '''"""Sigmoid twice is nothing that anybody needs.

sigmoid(sigmoid(x)) stays as it is: this file is for the tests.
"""
from dataclasses import dataclass

import graphopt


@dataclass(frozen=True)
class Count(graphopt.Pass):
    """Counts [nodes] and changes none."""

    name = "count-nodes"
    limit: int = 4
    label: str = "all"

    def run(self, model, ctx):
        pass
'''


@pytest.fixture
def loaded(tmp_path, monkeypatch):
    from graphopt.passes import registry

    registry.names()
    monkeypatch.setattr(registry, "_ENTRIES", dict(registry._ENTRIES))
    path = tmp_path / "count.py"
    path.write_text(PASS)
    return path


def test_list_has_every_name_and_its_first_line(graphopt, loaded):
    from graphopt.passes import registry

    result = graphopt("passes", "--load", loaded)
    assert (result.code, result.err) == (0, "")
    lines = result.out.splitlines()
    for name in registry.names():
        assert any(line.split()[:1] == [name] for line in lines), name
    assert "  count-nodes" in result.out
    assert "Counts [nodes] and changes none" in result.out


def test_every_pass_has_a_summary_and_documentation(graphopt):
    for entry in json.loads(graphopt("passes", "--json").out):
        assert entry["summary"], entry["name"]
        assert entry["kind"] in ("pass", "rule", "rule set", "preset")
        assert len(graphopt("passes", entry["name"]).out) > len(entry["summary"])


def test_one_in_full(graphopt, loaded):
    result = graphopt("passes", "--load", loaded, "count-nodes")
    assert result.code == 0
    assert result.out.startswith("count-nodes  pass\n\nCounts [nodes] and changes none.\n\nSigmoid twice")
    assert "  label = 'all'\n  limit = 4\n" in result.out
    assert "--passes 'count-nodes{label=all}'" in result.out


def test_one_as_json(graphopt, loaded):
    entry = json.loads(graphopt("passes", "--load", loaded, "count-nodes", "--json").out)
    assert entry["name"] == "count-nodes"
    assert entry["options"] == {"label": "all", "limit": 4}
    assert "this file is for the tests" in entry["doc"]


@pytest.mark.parametrize("text", ["import nothing_of_this_name", "x = 1", "def f(:"])
def test_files_that_do_not_load(graphopt, loaded, text):
    loaded.write_text(text)
    result = graphopt("passes", "--load", loaded)
    assert (result.code, result.out) == (2, "")
    assert "count.py" in result.err
    assert result.err.count("\n") == 1
