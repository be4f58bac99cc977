from __future__ import annotations

import json
from dataclasses import replace

import pytest

from graphopt.analysis.cost import ORT_CPU, machine_for
from graphopt.targets import measure as module


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The folder of what is measured; measuring takes no time and gives another overhead."""
    monkeypatch.setenv("GRAPHOPT_CACHE", str(tmp_path / "cache"))
    measured = replace(ORT_CPU, name="onnxruntime on a test", source="measured", overhead=1e-6)
    monkeypatch.setattr(module, "measure", lambda **options: measured)
    machine_for.cache_clear()
    yield tmp_path / "cache"
    machine_for.cache_clear()


def test_measure_show_and_forget(graphopt, cache, model):
    assert "shipped: " in graphopt("machine", "--show").out
    result = graphopt("machine")
    assert (result.code, result.err) == (0, "")
    (path,) = cache.iterdir()
    assert "1000 ns to start a node" in result.out
    assert str(path) in result.out
    assert "onnxruntime on a test (measured)" in graphopt("machine", "--show").out
    assert json.loads(graphopt("inspect", model, "--json").out)["machine"]["source"] == "measured"
    assert str(path) in graphopt("machine", "--forget").out
    assert not list(cache.iterdir())
    assert "nothing was measured" in graphopt("machine", "--forget").out
    assert "shipped: " in graphopt("machine", "--show").out


def test_json_and_quiet(graphopt, cache):
    assert json.loads(graphopt("machine", "--show", "--json").out)["name"] == ORT_CPU.name
    assert json.loads(graphopt("machine", "--json").out)["overhead"] == 1e-6
    assert graphopt("machine", "--quiet").out == ""
    assert json.loads(graphopt("machine", "--forget", "--json").out)["removed"].endswith(".json")
    assert json.loads(graphopt("machine", "--forget", "--json").out) == {"removed": None}


def test_errors_are_one_line(graphopt, cache):
    result = graphopt("machine", "--show", "--forget")
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("error: --show and --forget")
    cache.write_text("in the way")
    result = graphopt("machine")
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
    assert "set GRAPHOPT_CACHE to another folder" in result.err


def test_a_file_that_is_broken_is_a_warning(graphopt, cache, model):
    graphopt("machine", "--quiet")
    (path,) = cache.iterdir()
    path.write_text("{")
    with pytest.warns(UserWarning, match="is ignored"):
        result = graphopt("inspect", model)
    assert result.code == 0
    assert "shipped: " in result.out
