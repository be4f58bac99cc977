"""With verify="rewrites" every mutant is found, named and undone, and the other passes' work stays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import graphopt
from graphopt.report import Report
from graphopt.verify import verify

from .mutant import INNOCENT, Mutant, all_mutants, in_company
from .repros import reproduces

MUTANTS = all_mutants()
each = pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)


def mended(mutant: Mutant, given: bool) -> tuple[onnx.ModelProto, onnx.ModelProto, Report]:
    model, feeds = in_company(mutant.witness)
    passes = [INNOCENT[0], mutant.step, *INNOCENT[1:]]
    inputs = feeds if given else None
    result, report = graphopt.optimize(model, passes, inputs=inputs, verify="rewrites", with_report=True)
    return model, result, report


def holds(mutant: Mutant, model: onnx.ModelProto, result: onnx.ModelProto, report: Report) -> None:
    """The mutant is blamed and nobody else; nothing of it is left; the chain beside the witness is optimized."""
    assert {item.rule for item in report.reverted} == {mutant.name}
    assert mutant.name not in {rewrite.rule for rewrite in report.rewrites}
    assert all(item.why for item in report.reverted)
    [warning] = report.warnings
    assert warning.startswith(f"{mutant.name} is wrong") and "undone" in warning
    assert [rewrite.rule for rewrite in report.rewrites].count("eliminate-repetition") >= 2
    assert {"eliminate-identity", "eliminate-repetition"} <= {rewrite.rule for rewrite in report.rewrites}
    assert not any(node.op_type == "Identity" and "company" in node.output[0] for node in result.graph.node)
    assert verify(model, result, in_company(mutant.witness)[1]).status == "passed"
    assert report.verification is not None and report.verification.status == "passed"
    assert Report.from_dict(report.to_dict()).reverted == report.reverted


@each
def test_it_is_undone_on_the_inputs_that_show_it(mutant: Mutant) -> None:
    holds(mutant, *mended(mutant, given=True))


@each
def test_it_is_undone_without_being_shown(mutant: Mutant) -> None:
    """With inputs that are made: rewrites are also tried on special values, which no run of the model brings up."""
    holds(mutant, *mended(mutant, given=False))


def test_a_rule_that_is_right_elsewhere_stays_there() -> None:
    """The Mul by ones is an identity where the shapes agree."""
    mutant = next(m for m in MUTANTS if m.name == "mul-by-one-that-broadcasts")
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["": 17]> g (float[N] x) => (float[N] y, float[2,N] z)
        <float[1] one = {1}, float[2,1] column = {1, 1}>
        { a = Mul(x, one)  y = Neg(a)  b = Mul(x, column)  z = Neg(b) }"""
    )
    result, report = graphopt.optimize(model, mutant.step, verify="rewrites", with_report=True)
    assert [(item.rule, item.site) for item in report.reverted] == [(mutant.name, "b")]
    assert [rewrite.matched for rewrite in report.rewrites] == [("a",)]
    assert [node.op_type for node in result.graph.node] == ["Neg", "Mul", "Neg"]


def test_several_mutants_at_once() -> None:
    """Each is blamed for its own, whatever the others did before it."""
    chosen = [m for m in MUTANTS if m.name in ("sub-of-sub-with-the-wrong-sign", "exp-of-log", "mins-merged-by-max")]
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["": 17]> g (float[8] x) => (float[8] y)
        <float a = {1}, float b = {2}> { c = Sub(x, a)  d = Sub(c, b)  e = Log(d)  f = Exp(e)  g1 = Min(f, b)
        h = Min(g1, a)  i = Identity(h)  y = Relu(i) }"""
    )
    feeds = {"x": np.linspace(0, 8, 8, dtype=np.float32)}
    passes = [*[mutant.step for mutant in chosen], "eliminate-identity"]
    result, report = graphopt.optimize(model, passes, inputs=feeds, verify="rewrites", with_report=True)
    assert {item.rule for item in report.reverted} == {mutant.name for mutant in chosen}
    assert [rewrite.rule for rewrite in report.rewrites] == ["eliminate-identity"]
    assert [node.op_type for node in result.graph.node] == ["Sub", "Sub", "Log", "Exp", "Min", "Min", "Relu"]


@pytest.mark.parametrize("kind", ["arithmetic", "views", "sharing"])
def test_a_file_gets_a_repro_of_what_was_undone(kind: str, tmp_path: Path) -> None:
    mutant = next(m for m in MUTANTS if m.kind == kind and m.shows == "values")
    model, feeds = in_company(mutant.witness)
    onnx.save(model, tmp_path / "model.onnx")
    passes = [INNOCENT[0], mutant.step, *INNOCENT[1:]]
    source, target = tmp_path / "model.onnx", tmp_path / "out.onnx"
    report = graphopt.optimize_file(source, target, passes, inputs=feeds, verify="rewrites")
    assert target.exists() and {item.rule for item in report.reverted} == {mutant.name}
    [folder] = (tmp_path / "out.onnx.repro").iterdir()
    assert report.reverted[0].repro == str(folder) and mutant.name in folder.name
    assert reproduces(folder)
