"""The commands that take models apart and compare them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from graphopt.cli import main
from graphopt.demo import demo_model


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "demo.onnx"
    onnx.save(demo_model(), path)
    return path


def test_extract_replace_and_compare(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    part, new = tmp_path / "part.onnx", tmp_path / "new.onnx"
    assert main(["extract", str(model), "--pattern", "Conv BatchNormalization", "-o", str(part)]) == 0
    assert "2 nodes" in capsys.readouterr().out
    assert main(["optimize", str(part), "-q", "-o", str(tmp_path / "small.onnx")]) == 0
    assert main(["replace", str(model), str(tmp_path / "small.onnx"), "-o", str(new)]) == 0
    capsys.readouterr()
    assert main(["verify", str(model), str(new)]) == 0
    capsys.readouterr()
    assert main(["diff", str(model), str(new), "--json"]) == 1
    changes = json.loads(capsys.readouterr().out)["changes"]
    assert {change["kind"] for change in changes} == {"made"}


def test_extract_with_data(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = model.name.removesuffix(".onnx")
    assert main(["extract", str(model), "--pattern", "Conv BatchNormalization", "--with-data"]) == 0
    folder = tmp_path / f"{name}.part"
    assert str(folder / "replay.py") in "".join(capsys.readouterr().out.split())  # wherever a line is wrapped
    assert (folder / "expected.npz").exists()


def test_extract_says_what_is_wrong(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["extract", str(model), "--nodes", "nope"]) == 2
    assert "there is no node 'nope'" in capsys.readouterr().err
    assert main(["extract", str(model)]) == 2
    assert main(["extract", str(model), "--nodes", "nope", "--no-weights", "--with-data"]) == 2
    assert main(["extract", str(model), "--nodes", "nope", "--seed", "3"]) == 2
    assert not list(model.parent.glob("*.part*"))


def test_names_between_commas(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = [node.name for node in demo_model().graph.node if node.op_type == "Conv"][:2]
    assert main(["extract", str(model), "--nodes", ",".join(labels), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["nodes"] == labels


def test_partition_and_compose(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "parts"
    assert main(["partition", str(model), "--parts", "2", "-o", str(folder)]) == 0
    assert "part 0" in capsys.readouterr().out
    whole = tmp_path / "whole.onnx"
    parts = [str(folder / f"part_{number}.onnx") for number in (0, 1)]
    assert main(["compose", *parts, "-o", str(whole)]) == 0
    assert main(["verify", str(model), str(whole)]) == 0
    assert main(["partition", str(model), "--parts", "2", "-o", str(folder)]) == 2
    assert main(["partition", str(model)]) == 2
    assert main(["compose", *parts, "-o", str(whole), "--connect", "nonsense"]) == 2
    assert "is not OUT=IN" in capsys.readouterr().err


def test_diff_in_words(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diff", str(model), str(model)]) == 0
    assert "the same" in capsys.readouterr().out
    new = tmp_path / "new.onnx"
    main(["optimize", str(model), "-q", "-o", str(new)])
    capsys.readouterr()
    assert main(["diff", str(model), str(new), "--numeric"]) == 1
    text = capsys.readouterr().out
    assert "made by rules" in text
    assert "inner values" in text


def test_an_output_is_never_an_input(model: Path, tmp_path: Path) -> None:
    before = model.read_bytes()
    for command in (["extract", str(model), "--nodes", "x"], ["replace", str(model), str(model)],
                    ["compose", str(model), str(model)]):  # fmt: skip
        assert main([*command, "-o", str(model)]) == 2
    assert model.read_bytes() == before


def test_data_goes_with_what_runs_the_model(model: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=np.zeros(1))
    assert main(["extract", str(model), "--nodes", "x", "--data", str(tmp_path / "d.npz")]) == 2
