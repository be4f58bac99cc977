"""`fuse` and `optimize`, end to end: they share their code."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import numpy as np
import onnx
import pytest

import graphopt.api
from graphopt.errors import VerificationError
from graphopt.report import Report
from graphopt.verify import VerificationReport

PASS = '''"""Multiplies one weight by two: wrong on purpose."""
from dataclasses import dataclass

import graphopt


@dataclass(frozen=True)
class Spoil(graphopt.Pass):
    """Spoils the first Conv."""

    name = "spoil"

    def run(self, model, ctx):
        for node in model.graph:
            if node.op == "Conv" and ctx.allow():
                weight = node.graph.constant(node.inputs[1].numpy() * 2, "spoiled")
                node.set_input(1, weight)
                ctx.record("spoil", [node.label], [node.label], node.graph)
                return
'''


def operators(path: Path) -> list[str]:
    return [node.op_type for node in onnx.load(path).graph.node]


@pytest.fixture
def spoil(tmp_path, monkeypatch):
    from graphopt.passes import registry

    registry.names()
    monkeypatch.setattr(registry, "_ENTRIES", dict(registry._ENTRIES))
    path = tmp_path / "spoil.py"
    path.write_text(PASS)
    return path


@pytest.mark.parametrize("command", ["fuse", "optimize"])
def test_writes_beside_the_input_which_stays_as_it_was(graphopt, model, command):
    before = model.read_bytes()
    result = graphopt(command, model)
    assert (result.code, result.err) == (0, "")
    assert model.read_bytes() == before
    assert operators(model.with_name("net.opt.onnx")) == ["Conv", "Relu"]
    assert "nodes 3 → 2" in result.out
    assert "verified: " in result.out
    assert result.out.endswith("net.opt.onnx\n")
    assert sorted(p.name for p in model.parent.iterdir()) == ["net.onnx", "net.opt.onnx"]


def test_an_earlier_output_is_replaced(graphopt, model):
    model.with_name("net.opt.onnx").write_bytes(b"old")
    assert graphopt("fuse", model).code == 0
    assert operators(model.with_name("net.opt.onnx")) == ["Conv", "Relu"]


@pytest.mark.parametrize("link", ["same", "symlink", "hardlink", "dotted"])
def test_never_over_the_input(graphopt, model, link):
    output = model
    if link == "symlink":
        output = model.with_name("link.onnx")
        output.symlink_to(model)
    elif link == "hardlink":
        output = model.with_name("link.onnx")
        output.hardlink_to(model)
    elif link == "dotted":
        output = model.parent / "." / ".." / model.parent.name / model.name
    before = model.read_bytes()
    result = graphopt("fuse", model, "-o", output)
    assert (result.code, result.out) == (2, "")
    assert "is the input itself" in result.err
    assert graphopt("fuse", model, "--report", output).code == 2
    assert model.read_bytes() == before


def test_a_name_without_suffix_keeps_its_dots(graphopt, model):
    plain = model.rename(model.with_name("net.v1"))
    assert graphopt("fuse", plain, "-q").code == 0
    assert plain.with_name("net.v1.opt.onnx").is_file()


def test_output_elsewhere_and_passes_given(graphopt, model, tmp_path):
    out = tmp_path / "out.onnx"
    assert graphopt("optimize", model, "-o", out, "--passes", "dead-code").code == 0
    assert operators(out) == ["Conv", "BatchNormalization", "Relu"]


def test_quiet_prints_nothing(graphopt, model):
    assert graphopt("fuse", model, "--quiet") == (0, "", "")


def test_json_is_the_report_and_nothing_else(graphopt, model, tmp_path):
    path = tmp_path / "report.json"
    result = graphopt("fuse", model, "--json", "--report", path)
    assert (result.code, result.err) == (0, "")
    assert json.loads(result.out) == json.loads(path.read_text())
    report = Report.from_dict(json.loads(result.out))
    assert (report.model, report.nodes_before, report.nodes_after) == ("net.onnx", 3, 2)
    assert [r.rule for r in report.rewrites if "bn_0" in r.matched]
    assert report.verification is not None
    assert report.verification.status == "passed"


@pytest.mark.parametrize("level", ["off", "check"])
def test_less_verification_says_so(graphopt, model, level):
    result = graphopt("fuse", model, "--verify", level)
    assert result.code == 0
    assert "not compared in numbers" in result.out


def test_inputs_from_a_file(graphopt, model, tmp_path, rng):
    files = [tmp_path / f"{n}.npz" for n in (1, 5)]
    for n, file in zip((1, 5), files, strict=True):
        np.savez(file, x=rng.normal(size=(n, 3, 8, 8)).astype(np.float32))
    result = graphopt("fuse", model, "--inputs", files[0], "-i", files[1], "--json")
    runs = json.loads(result.out)["verification"]["runs"]
    assert [run["outputs"][0]["shape"][0] for run in runs] == [1, 5]


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"junk", "npy", "pickle"])
def test_inputs_that_are_no_archive(graphopt, model, tmp_path, content):
    file = tmp_path / "data.npz"
    if content == "npy":
        with open(file, "wb") as stream:
            np.save(stream, np.zeros(3))
    elif content == "pickle":
        np.savez(file, x=np.array([{}], dtype=object))
    else:
        file.write_bytes(content)
    result = graphopt("fuse", model, "--inputs", file)
    assert (result.code, result.out) == (2, "")
    assert "no .npz archive" in result.err
    assert not model.with_name("net.opt.onnx").exists()


def test_loaded_passes_run_after_the_preset(graphopt, model, spoil):
    result = graphopt("fuse", model, "--load", spoil, "--verify", "off", "--json")
    assert json.loads(result.out)["pipeline"].endswith(",spoil")


def test_failed_verification_is_exit_1_and_writes_nothing(graphopt, model, spoil, tmp_path):
    path = tmp_path / "report.json"
    result = graphopt("fuse", model, "--load", spoil, "--passes", "spoil", "--report", path)
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith("error: ")
    assert result.err.count("\n") == 1
    assert not model.with_name("net.opt.onnx").exists()
    report = Report.from_dict(json.loads(path.read_text()))
    assert report.verification is not None
    assert report.verification.status == "failed"
    assert graphopt("fuse", model, "--load", spoil, "--passes", "spoil", "--verify", "off").code == 0


def test_presets_alone_must_be_named(graphopt, model, tmp_path, spoil):
    file = tmp_path / "mine.toml"
    file.write_text('[preset.mine]\npasses = "dead-code"\ndoc = "Mine."\n')
    result = graphopt("fuse", model, "--load", file)
    assert result.code == 2
    assert "choose one with --passes" in result.err
    assert graphopt("fuse", model, "--load", file, "--passes", "mine").code == 0


def test_unchecked_is_said_also_when_quiet(graphopt, model, monkeypatch):
    report = Report(verification=VerificationReport("unchecked", unchecked=["the budget of 0 s is spent"]))
    monkeypatch.setattr(graphopt_api(), "optimize_file", lambda *args, **options: report)
    assert "not checked: the budget of 0 s is spent" in graphopt("fuse", model).out
    assert graphopt("fuse", model, "-q").err == "warning: not verified: the budget of 0 s is spent\n"


def test_warnings_go_to_stderr(graphopt, model, monkeypatch):
    report = Report(warnings=["pass x failed\nand was rolled back"])
    monkeypatch.setattr(graphopt_api(), "optimize_file", lambda *args, **options: report)
    for flags in ([], ["-q"]):
        assert graphopt("fuse", model, *flags).err == "warning: pass x failed and was rolled back\n"
    assert graphopt("fuse", model, "--json").err == ""


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (VerificationError("y differs"), 1),
        (OSError(errno.ENOSPC, "No space left on device"), 2),
        (KeyboardInterrupt(), 130),
    ],
)
def test_exit_codes(graphopt, model, monkeypatch, error, code):
    def fail(*args: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(graphopt_api(), "optimize_file", fail)
    result = graphopt("fuse", model)
    assert (result.code, result.out) == (code, "")
    assert result.err.count("\n") == 1


def test_progress_reaches_the_terminal(graphopt, model, monkeypatch):
    stages: list[str] = []
    monkeypatch.setattr("graphopt.cli._progress.ProgressLine.__call__", lambda self, *args: stages.append(args[0]))
    assert graphopt("fuse", model).code == 0
    assert "verify" in stages


def graphopt_api():
    return graphopt.api


def test_demo(graphopt):
    result = graphopt("fuse", "--demo")
    assert (result.code, result.err) == (0, "")
    for text in ("BatchNormalization", "Loop", "If", "verified: ", "before", "after", "median"):
        assert text in result.out


def test_demo_writes_only_on_demand(graphopt, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert graphopt("fuse", "--demo", "-q") == (0, "", "")
    assert list(tmp_path.iterdir()) == []
    assert graphopt("fuse", "--demo", "-q", "-o", "demo.onnx").code == 0
    onnx.checker.check_model(tmp_path / "demo.onnx", full_check=True)
    report = Report.from_dict(json.loads(graphopt("fuse", "--demo", "--json").out))
    assert report.verification is not None
    assert report.verification.ok
