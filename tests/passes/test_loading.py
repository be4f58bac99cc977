"""Passes and presets from files."""

from __future__ import annotations

from pathlib import Path

import pytest

from graphopt.errors import PassError
from graphopt.passes import registry
from graphopt.passes.loading import load_file

RULE = """
from graphopt import rule
from graphopt.rewrite import P

@rule("{name}", P.Neg(P.Neg("x")))
def loaded(m, new):
    "{doc}"
    return m.x
"""


def test_a_rule(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(RULE.format(name="loaded-one", doc="first"))
    assert load_file(file) == ["loaded-one"]
    assert registry.get("loaded-one").summary == "first"
    file.write_text(RULE.format(name="loaded-one", doc="second"))
    assert load_file(str(file)) == ["loaded-one"]  # the same file again, edited
    assert registry.get("loaded-one").summary == "second"


def test_files_of_one_name_in_two_folders(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "same.py").write_text(RULE.format(name=f"loaded-{folder}", doc=folder))
        load_file(tmp_path / folder / "same.py")
    assert registry.get("loaded-a").summary == "a"
    (tmp_path / "b" / "same.py").write_text(RULE.format(name="loaded-a", doc="theft"))
    with pytest.raises(PassError, match="two passes are named 'loaded-a'"):
        load_file(tmp_path / "b" / "same.py")


def test_presets(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('[preset.loaded-preset]\npasses = "cse,dead-code"\ndoc = "two"\n')
    assert load_file(file) == ["loaded-preset"]
    assert load_file(file) == ["loaded-preset"]
    assert registry.get("loaded-preset").make() == "cse,dead-code"


@pytest.mark.parametrize(
    ("name", "text", "what"),
    [
        ("gone.py", None, "no file"),
        ("x.txt", "hello", "neither Python"),
        ("x.py", "1 / 0", "ZeroDivisionError"),
        ("x.py", "def f(:", "SyntaxError"),
        ("x.py", "x = 1", "defines no rule and no pass"),
        ("x.py", RULE.format(name="dead-code", doc=""), "two passes are named 'dead-code'"),
        ("x.toml", "nonsense", "no preset file"),
        ("x.toml", "[other]\na = 1", "no preset file"),
        ("x.toml", "[preset.p]\ndoc = 'no passes'", "no preset file"),
        ("x.toml", "[preset.default]\npasses = 'cse'", "'default', which is the name of another"),
    ],
)
def test_files_that_are_no_use(name: str, text: str | None, what: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(PassError, match=what) as error:
        load_file(tmp_path / name)
    assert "\n" not in str(error.value)
    assert registry.get("default").module == "graphopt.passes.presets"
