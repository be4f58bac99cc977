"""Names out of a model are text: no terminal obeys them, no markup, no line of their own, no code in a script."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from tests.security.util import SIDE, W, build
from tests.security.util import graphopt as supervised

from graphopt.cli import main
from graphopt.cli._text import printable

EVIL = {
    "escape": "a\x1b[2J\x1b]0;title\x07b",
    "csi": "a\x9b31mb",
    "markup": "[red]x[/] [link=http://a]y[/link] :smile:",
    "newline": "a\nerror: all is well\r\nb",
    "bidi": "a\u202egnp.exe\u2066b",
    "lines": "a\u2028b\x85c\x0bd",
    "quotes": '"""+__import__(\'os\').system(\'touch pwned\')+"""',
    "shell": "$(touch pwned); `touch pwned` | x > pwned",
    "html": "<script>alert(1)</script>",
    "braces": "{x} {0} %s %(a)s \\",
    "nul": "a\0b",
    "long": "n" * 20_000,
}
Run = Callable[..., Any]
CONTROL = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


def named(name: str) -> onnx.ModelProto:
    """Everything that has a name has this one, with a letter where it must be unique."""
    nodes = [
        helper.make_node("Conv", ["x4", f"w{name}"], [f"c{name}"], name=f"conv{name}"),
        helper.make_node("BatchNormalization", [f"c{name}", *(f"{p}{name}" for p in "sbmv")], [f"y{name}"], name=name),
        helper.make_node("Shrug", [f"y{name}"], [f"z{name}"], name=f"custom{name}", domain=f"d{name}"),
    ]
    one = np.ones(4, np.float32)
    weights = {f"w{name}": np.ones((4, 3, 1, 1), np.float32), **{f"{p}{name}": one for p in "sbmv"}}
    model = build([], weights)
    graph = model.graph
    graph.node.extend(nodes)
    graph.name = graph.doc_string = model.producer_name = model.doc_string = name
    del graph.input[:], graph.output[:]
    graph.input.append(helper.make_tensor_value_info("x4", 1, [f"N{name}", 3, 4, 4]))
    graph.output.append(helper.make_tensor_value_info(f"z{name}", 1, None))
    model.opset_import.append(helper.make_opsetid(f"d{name}", 1))
    return model


@dataclass
class Done:
    """What a command left."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def graphopt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The command line in this process, in the temporary folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*args: str) -> Done:
        capsys.readouterr()
        code = main(args)
        return Done(code, *capsys.readouterr())

    return run


def clean(text: str) -> None:
    found = CONTROL.search(text)
    assert found is None, f"{found[0]!r} in {text[max(0, found.start() - 40) : found.end() + 40]!r}"


@pytest.mark.parametrize("kind", EVIL)
def test_the_terminal_gets_text(kind: str, tmp_path: Path, graphopt: Run) -> None:
    (tmp_path / "m.onnx").write_bytes(named(EVIL[kind]).SerializeToString())
    for args in (
        ["inspect", "m.onnx"],
        ["explain", "m.onnx", "--pass", "fuse-conv-bn"],
        ["fuse", "m.onnx", "--verify", "check"],
        ["verify", "m.onnx", "m.opt.onnx"],
    ):
        done = graphopt(*args)
        assert done.returncode in (0, 2), done.stderr
        assert "Traceback" not in done.stderr
        clean(done.stdout + done.stderr)
        for line in (done.stdout + done.stderr).splitlines():
            assert not line.startswith("error: all is well")
        assert len([line for line in done.stderr.splitlines() if line.startswith("error")]) <= 1
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("kind", EVIL)
def test_json_stays_json(kind: str, tmp_path: Path, graphopt: Run) -> None:
    """And has the very names of the model."""
    name = EVIL[kind]
    (tmp_path / "m.onnx").write_bytes(named(name).SerializeToString())
    facts = json.loads(graphopt("inspect", "m.onnx", "--json").stdout)
    assert facts["outputs"][0]["name"] == f"z{name}"
    done = graphopt("fuse", "m.onnx", "--verify", "check", "--json", "--report", "r.json")
    assert done.returncode == 0, done.stderr
    for text in (done.stdout, (tmp_path / "r.json").read_text("utf-8")):
        clean(text)
        assert any(name in node for rewrite in json.loads(text)["rewrites"] for node in rewrite["matched"])


@pytest.mark.parametrize("kind", EVIL)
def test_names_come_out_as_they_went_in(kind: str, tmp_path: Path, graphopt: Run) -> None:
    (tmp_path / "m.onnx").write_bytes(named(EVIL[kind]).SerializeToString())
    done = graphopt("fuse", "m.onnx", "--verify", "check", "-o", "o.onnx")
    assert done.returncode == 0, done.stderr
    out = onnx.load(tmp_path / "o.onnx")
    assert out.graph.output[0].name == f"z{EVIL[kind]}"
    assert out.graph.name == EVIL[kind]


@pytest.mark.parametrize("kind", sorted(set(EVIL) - {"long", "nul"}))
def test_a_repro_has_names_but_no_code(kind: str, tmp_path: Path) -> None:
    name = EVIL[kind]
    nodes = [
        helper.make_node("MatMul", ["x", "w"], [f"m{name}"], name=f"mm{name}"),
        helper.make_node("Relu", [f"m{name}"], ["y"], name=name),
    ]
    model = build(nodes, {"w": W})
    model.graph.name = name
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    (tmp_path / "wrong.py").write_text(
        "from graphopt import rule\nfrom graphopt.rewrite import P\n"
        "@rule('wrong', P.Relu('x').as_('n'))\ndef wrong(m, new):\n    return new.Sigmoid(m.x)\n"
    )
    done = supervised(tmp_path, "fuse", "m.onnx", "-o", "o.onnx", "--load", "wrong.py", "--passes", "wrong")
    assert done.returncode == 1, (done.stdout, done.stderr)
    clean(done.stdout + done.stderr)
    scripts = list(tmp_path.glob("o.onnx.repro*/*.py"))
    assert scripts, "no repro was written"
    for script in scripts:
        compile(script.read_text("utf-8"), str(script), "exec")
        ran = subprocess.run(
            [sys.executable, script.name], cwd=script.parent, capture_output=True, text=True, check=False
        )
        assert "Traceback" not in ran.stderr, ran.stderr
    assert not list(tmp_path.rglob("pwned"))


def test_bytes_that_are_no_text(tmp_path: Path, graphopt: Run) -> None:
    model = build([helper.make_node("Relu", ["x"], ["y"], name="NAMENAME")])
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString().replace(b"NAMENAME", b"\xff\xfe\x1b[2J\x9b"))
    done = graphopt("inspect", "m.onnx")
    assert done.returncode == 2
    clean(done.stderr)


def test_strings_that_a_model_computes_with(tmp_path: Path, graphopt: Run) -> None:
    """Escape sequences among the values, which verification may quote."""
    info = helper.make_tensor_value_info
    words = numpy_helper.from_array(np.array([EVIL["escape"], EVIL["newline"]], object), "s")
    graph = helper.make_graph(
        [helper.make_node("Gather", ["s", "i"], ["y"])], "g", [info("i", 7, ["N"])], [info("y", 8, ["N"])], [words]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (tmp_path / "a.onnx").write_bytes(model.SerializeToString())
    model.graph.initializer[0].string_data[0] = b"other\x1b[2J"
    (tmp_path / "b.onnx").write_bytes(model.SerializeToString())
    for args in (["verify", "a.onnx", "b.onnx"], ["fuse", "a.onnx"]):
        done = graphopt(*args)
        assert done.returncode in (0, 1), done.stderr
        clean(done.stdout + done.stderr)


@pytest.mark.parametrize(
    ("text", "shown"),
    [("plain é 漢字 ✓", "plain é 漢字 ✓"), ("a\x1bb", "a\\x1bb"), ("a\tb", "a\\tb"), ("a\nb", "a\\nb"),
     ("\x9b", "\\x9b"), ("\u202e", "\\u202e"), ("\ud800", "\\ud800"), ("a\u2028b", "a\\u2028b"), ("", "")],
)  # fmt: skip
def test_printable(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert printable("a\nb", newlines=False) == "a\nb"
    assert len(printable("x" * SIDE)) == SIDE
