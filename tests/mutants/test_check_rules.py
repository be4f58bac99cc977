"""check-rules catches every mutant without its witness, from its pattern and code alone.

The default run takes one mutant of each kind; the campaign takes all, and says how many models each needed:

    python -m pytest tests/mutants -m campaign -rP -k check_rules
"""

from __future__ import annotations

import sys

import onnx
import pytest

from graphopt import ir
from graphopt.rewrite import Context
from graphopt.testing import RuleCheck, check_rules
from graphopt.testing.rules import check
from graphopt.verify import verify

from .mutant import Mutant, all_mutants

MUTANTS = all_mutants()
SAMPLE = [
    [m for m in MUTANTS if m.kind == kind and m.shows != "interface"][-1] for kind in sorted({m.kind for m in MUTANTS})
]
INSTANCES = 2500  # of the campaign


@pytest.fixture(autouse=True)
def one_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "COUNTEREXAMPLES", 1)


def caught(mutant: Mutant, instances: int) -> RuleCheck:
    [found] = check_rules([mutant.step], instances=instances)
    how = "caught" if found.wrong else "not caught"
    sys.stdout.write(f"{mutant.name}: {how} after {found.tried} models ({found.fired} rewritten): {found.verdict}\n")
    assert not found.ok and found.wrong, f"{mutant.name} was not caught: {mutant.wrong}"
    assert found.verdict.startswith("wrong: ") and found.rule == mutant.name
    return found


def shows(mutant: Mutant, found: RuleCheck) -> None:
    """The counterexample is one: the mutant is wrong there, too."""
    example = found.wrong[0]
    work, ctx = ir.from_proto(example.model), Context(example.target)
    mutant.step.run(work, ctx)
    assert ctx.report.rewrites
    beyond = ("double", "inferred", "sign of a zero")  # what verification does not look at
    if example.rewritten is not None and example.feeds and not any(word in example.why for word in beyond):
        verdict = verify(example.model, ir.to_proto(work), example.feeds)
        assert not verdict.ok or verdict.unchecked


@pytest.mark.parametrize("mutant", SAMPLE, ids=lambda mutant: mutant.name)
def test_one_of_each_kind_is_caught(mutant: Mutant) -> None:
    shows(mutant, caught(mutant, 200))


@pytest.mark.campaign
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_it_is_caught(mutant: Mutant) -> None:
    shows(mutant, caught(mutant, INSTANCES))


def test_the_unbroken_counterparts_are_right() -> None:
    """Rules of the package that do right what mutants do wrong, by the same check and at the same effort."""
    names = ["compose-clips", "compose-transposes", "squeeze-of-reduce", "eliminate-neutral"]
    for found in check_rules(names, instances=40):
        assert found.ok, found.verdict


def test_counterexamples_are_small() -> None:
    mutant = next(m for m in MUTANTS if m.name == "transposes-in-the-wrong-order")
    example = caught(mutant, 200).wrong[0]
    assert len(example.model.graph.node) <= 4
    assert all(value.size <= 256 for value in example.feeds.values())
    onnx.checker.check_model(example.model)
