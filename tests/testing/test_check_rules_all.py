"""Every registered rule and pass, and the shelf, on a few models made for each; on many in the campaign."""

from __future__ import annotations

from pathlib import Path

import pytest

from graphopt.testing.rules.parallel import Plan, check_all, cores, names_of
from graphopt.testing.rules.result import RuleCheck

SHELF = sorted((Path(__file__).parents[2] / "passes" / "experiments").glob("*.py"))
RULES = names_of([])
FEW, MANY = 6, 2000


def complaints(checks: list[RuleCheck], *, unfired: bool) -> str:
    """unfired: whether a rule that never fired is to be complained of."""
    bad = [check for check in checks if check.wrong or check.crash or (unfired and not check.ok)]
    texts = [f"{check.rule}: {check.verdict}\n" + "\n".join(map(str, check.wrong)) for check in bad]
    return "\n\n".join(texts)


@pytest.mark.parametrize("part", range(4))
def test_few_models_of_each(part: int) -> None:
    """Too few for every rule to fire: that is for the campaign, and for `graphopt check-rules`."""
    from graphopt.testing import check_rules

    checks = check_rules(RULES[part::4], instances=FEW, seed=7)
    assert not complaints(checks, unfired=False)
    assert sum(bool(check.equal) for check in checks) > 0.7 * len(checks)


def test_names_are_rules_and_passes() -> None:
    assert set(names_of([])) >= {"eliminate-identity", "cse"} and "default" not in names_of([])
    assert len(names_of(["fusion", "fuse-conv-bn"])) == len(names_of(["fusion"]))
    assert cores() >= 1


@pytest.mark.campaign
@pytest.mark.timeout(7200)
def test_many_models_of_each() -> None:
    from graphopt.passes.loading import load_file

    files = tuple(map(str, SHELF))
    names = [*RULES, *(name for file in files for name in load_file(file))]
    checks = check_all(list(dict.fromkeys(names)), Plan(MANY, seed=1, load=files), cores())
    assert not complaints(checks, unfired=True)
