"""Every mutant is wrong on its witness, and the real pipeline is right there; optimizing with it fails and names it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import graphopt
from graphopt import PassError, VerificationError, ir
from graphopt.rewrite import Context
from graphopt.verify import verify

from .mutant import INNOCENT, Mutant, all_mutants, in_company
from .repros import reproduces

MUTANTS = all_mutants()
# Broken in form: refused before anything is compared. (What does not load in the runtime may be valid ONNX.)
FORM = [mutant for mutant in MUTANTS if mutant.shows == "interface" or mutant.name == "cse-across-branches"]
WRONG = [mutant for mutant in MUTANTS if mutant not in FORM]


def each(mutants: list[Mutant]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("mutant", mutants, ids=lambda mutant: mutant.name)


def test_there_are_enough_of_every_kind() -> None:
    assert len(MUTANTS) >= 80 and len({mutant.kind for mutant in MUTANTS}) == 9
    assert all(mutant.wrong and not mutant.wrong.endswith(".") for mutant in MUTANTS)


@each(MUTANTS)
def test_the_mutant_is_wrong_on_its_witness(mutant: Mutant) -> None:
    """And only there: the model comes out of it as a file that the mutant, not the test, has spoiled."""
    work, ctx = ir.from_proto(mutant.witness.model), Context()
    mutant.step.run(work, ctx)
    assert {rewrite.rule for rewrite in ctx.close().rewrites} == {mutant.name}
    found = verify(mutant.witness.model, ir.to_proto(work), mutant.witness.arrays())
    assert found.status == "failed"
    if mutant.shows == "interface":
        assert found.interface
    elif mutant.shows == "invalid":
        assert found.error and not found.interface
    else:
        assert not found.interface and (found.worst() is not None or "fails where the original runs" in found.error)


@each(MUTANTS)
def test_the_real_pipeline_is_right_on_the_witness(mutant: Mutant) -> None:
    _, report = graphopt.optimize(mutant.witness.model, inputs=mutant.witness.arrays(), with_report=True)
    assert report.verification is not None and report.verification.ok and report.verification.runs
    assert not report.warnings


@each(WRONG)
def test_optimizing_with_it_fails_and_names_it(mutant: Mutant) -> None:
    model, feeds = in_company(mutant.witness)
    with pytest.raises(VerificationError) as caught:
        graphopt.optimize(model, [INNOCENT[0], mutant.step, *INNOCENT[1:]], inputs=feeds)
    assert f"did it: {mutant.name} on" in str(caught.value)
    assert caught.value.report is not None and caught.value.report.status == "failed"


@each(FORM)
@pytest.mark.parametrize("level", ["check", "numeric"])
def test_what_is_broken_in_form_is_refused_by_name(mutant: Mutant, level: str) -> None:
    model, feeds = in_company(mutant.witness)
    with pytest.raises(PassError) as caught:
        graphopt.optimize(model, [INNOCENT[0], mutant.step, *INNOCENT[1:]], inputs=feeds, verify=level)
    assert f"did it: {mutant.name} on" in str(caught.value)
    assert ("interface" in str(caught.value)) == (mutant.shows == "interface")


def test_right_passes_in_the_same_company_do_several_rewrites() -> None:
    model, feeds = in_company(MUTANTS[0].witness)
    _, report = graphopt.optimize(model, list(INNOCENT), inputs=feeds, with_report=True)
    assert len(report.rewrites) >= 4


# One of each kind, and some that do not load.
REPRODUCED = [next(m for m in WRONG if m.kind == kind) for kind in sorted({m.kind for m in WRONG})]
REPRODUCED += [mutant for mutant in WRONG if mutant.shows == "invalid"][:2]
# Infinity that becomes minus infinity; random numbers, which the script must draw the same each time.
REPRODUCED += [m for m in WRONG if m.name in ("duplicates-of-another-sign", "cse-of-random-numbers")]


@each(REPRODUCED)
def test_the_repro_of_a_file_needs_the_runtime_alone(mutant: Mutant, tmp_path: Path) -> None:
    model, feeds = in_company(mutant.witness)
    onnx.save(model, tmp_path / "model.onnx")
    steps = [INNOCENT[0], mutant.step, *INNOCENT[1:]]
    with pytest.raises(VerificationError, match=mutant.name):
        graphopt.optimize_file(tmp_path / "model.onnx", tmp_path / "out.onnx", steps, inputs=feeds)
    assert not (tmp_path / "out.onnx").exists()
    assert reproduces(tmp_path / "out.onnx.repro")


def test_witnesses_are_what_they_say() -> None:
    for mutant in MUTANTS:
        feeds = mutant.witness.arrays()
        assert {value.name for value in mutant.witness.model.graph.input} == set(feeds)
        assert all(isinstance(value, np.ndarray) for value in feeds.values())
        onnx.checker.check_model(mutant.witness.model)
