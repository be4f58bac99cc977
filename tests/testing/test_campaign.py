"""Campaigns: every kind of fault gets its verdict, what takes the process down does not end the run, and one command
does it all."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest

from graphopt.errors import GraphoptError, UnknownPassError
from graphopt.passes import registry
from graphopt.testing import CampaignReport, run_campaign
from graphopt.testing.campaign import FAULTS, VERDICTS, pass_files, subjects_of

BAD = '''
"""Passes that break what passes must keep."""
import os, time
from dataclasses import dataclass
from graphopt import Pass

def relus(model):
    return [node for node in model.graph if node.op == "Relu"]

class Bad(Pass):
    def run(self, model, ctx):
        for node in relus(model):
            if ctx.allow():
                self.act(model, node)
                ctx.record(self.name, [node.label], [node.label], model.graph)

def bad(kind):
    def wrap(function):
        name = f"bad-{kind}"
        return dataclass(frozen=True)(type(kind, (Bad,), {
            "name": name, "__doc__": kind, "act": lambda self, model, node: function(model, node),
            "__module__": __name__, "__annotations__": {}}))
    return wrap

@bad("raises")
def raises(model, node):
    raise KeyError("nothing")

@bad("aborts")
def aborts(model, node):
    os.abort()

@bad("hangs")
def hangs(model, node):
    time.sleep(1000)

@bad("invalid")
def invalid(model, node):
    node.set_attr("nonsense", 1)

@bad("interface")
def interface(model, node):
    model.proto.graph.output[0].type.tensor_type.shape.dim[0].dim_param = "N"

@bad("wrong")
def wrong(model, node):
    new = model.graph.insert("LeakyRelu", [node.inputs[0]], before=node, alpha=0.5)
    node.output.replace_with(new.output)
    model.graph.erase(node)

@bad("grows")
def grows(model, node):
    new = model.graph.insert("Relu", [node.inputs[0]], before=node)
    node.set_input(0, new.output)

@bad("versions")
def versions(model, node):
    node.set_attr("nothing", None) if node.attr("nothing", None) else None
    model.proto.opset_import[0].version += 1
    model.graph.touch(node)
'''
KIND = ["pytorch-converted"]  # small models in files: nothing has to be generated
VERDICT = {
    "bad-raises": ("crash", "KeyError"),
    "bad-aborts": ("crash", "signal 6"),
    "bad-hangs": ("crash", "takes more than 4 s"),
    "bad-invalid": ("invalid", "nonsense"),
    "bad-interface": ("interface", "type of output"),
    "bad-wrong": ("wrong", "error of"),
    "bad-grows": ("contract", "not idempotent"),
    "bad-versions": ("contract", "went up"),
    "dead-code": ("ok", ""),
}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> CampaignReport:
    file = tmp_path_factory.mktemp("passes") / "bad.py"
    file.write_text(BAD)
    return run_campaign(list(VERDICT), kinds=KIND, match="^test_ReLU$", load=[file], jobs=2, timeout=4.0)


@pytest.mark.parametrize("name", list(VERDICT))
def test_every_fault_gets_its_verdict(report: CampaignReport, name: str) -> None:
    verdict, why = VERDICT[name]
    assert report.cases == 2
    assert report.total(verdict, subject=name) == 2, [f for f in report.findings if f.subject == name]
    found = [finding for finding in report.findings if finding.subject == name]
    assert all(why in finding.why for finding in found)
    assert len(found) == (0 if verdict == "ok" else 2)


def test_every_verdict_is_counted_once(report: CampaignReport) -> None:
    assert sum(report.total(verdict) for verdict in VERDICTS) == 2 * len(VERDICT)
    assert not report.ok
    assert {finding.verdict for finding in report.faults} == set(FAULTS)


def test_the_report_in_all_forms(report: CampaignReport) -> None:
    from rich.console import Console

    console = Console(width=160, record=True, file=io.StringIO())
    console.print(report.table())
    shown = console.export_text()
    assert "bad-aborts" in shown and "pytorch-converted, constant" in shown and report.summary() in shown
    data = json.loads(json.dumps(report.to_dict()))
    assert data["totals"]["crash"] == 6 and data["cases"] == 2
    assert {row["verdict"] for row in data["counts"]} == {"ok", *FAULTS}
    assert data["machine"]["onnx"] == onnx.__version__


def test_what_the_runtime_lacks_is_compared_in_the_reference_evaluator() -> None:
    newest = max(version for version in range(20, 40) if version <= onnx.defs.onnx_opset_version())
    report = run_campaign(["default"], match="_attention_3d_expanded$|^test_bitcast|^test_swish", jobs=0)
    assert report.ok and report.total("ok") >= report.cases - report.total("skipped"), newest


def test_models_of_a_folder(tmp_path: Path) -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (float[N,2] x) => (float[N,2] y) { a = Identity(x)  y = Relu(a) }'
    )
    onnx.save(model, tmp_path / "small.onnx")
    (tmp_path / "broken.onnx").write_bytes(b"nothing")
    report = run_campaign(["default", "dead-code"], models=tmp_path, jobs=0)
    assert report.cases == 2 and report.ok
    assert report.total("ok") == report.total("skipped") == 2
    assert report.changed == {"default": 1}


def test_each_is_every_registered_name(tmp_path: Path) -> None:
    assert subjects_of(["dead-code", "each"])[0] == "dead-code"
    assert sorted(subjects_of(["each"])) == registry.names()
    (tmp_path / "deep").mkdir()
    for name in ("a.py", "deep/b.toml", "deep/c.txt"):
        (tmp_path / name).touch()
    assert [Path(file).name for file in pass_files([tmp_path])] == ["a.py", "b.toml"]


def test_mistakes_of_the_caller() -> None:
    with pytest.raises(UnknownPassError):
        run_campaign(["no-such-pass"], kinds=KIND, jobs=0)
    with pytest.raises(GraphoptError, match="no case is left"):
        run_campaign(["default"], kinds=KIND, match="^no such case$", jobs=0)


SMALL = ["--kinds", *KIND, "--match", "^test_ReLU$"]


def command(*arguments: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "graphopt.testing.campaign", *map(str, arguments)],
        check=False,
        capture_output=True,
        text=True,
    )


def test_the_command(tmp_path: Path) -> None:
    done = command(*SMALL, "--passes", "default,simplify", "--jobs", 1, "--json", tmp_path / "a.json")
    assert done.returncode == 0, done.stderr
    assert "2 models, 2 passes: 4 ok, 0 crash" in done.stdout
    assert json.loads((tmp_path / "a.json").read_text())["totals"]["ok"] == 4
    (tmp_path / "bad.py").write_text(BAD)
    done = command(*SMALL, "--passes", "bad-wrong", "--load", tmp_path / "bad.py", "--jobs", 0)
    assert done.returncode == 1
    assert "wrong: bad-wrong on pytorch-converted/test_ReLU" in done.stdout
    done = command("--passes", "no-such-pass")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and "no-such-pass" in done.stderr
