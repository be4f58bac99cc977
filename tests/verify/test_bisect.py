"""The first wrong rewrite is found, and cut out as a repro that stands alone."""

from __future__ import annotations

import numpy as np
import pytest
from tests.verify.chains import ORIGINAL, STEPS, chain, rewritten

from graphopt.errors import GraphoptError
from graphopt.verify import Budget, bisect, verify


@pytest.mark.parametrize("wrong", [0, 1, 11, STEPS - 2, STEPS - 1])
def test_the_first_wrong_rewrite(wrong):
    calls = []

    def replay(count):
        calls.append(count)
        return rewritten(count, {wrong, STEPS - 1})

    found = bisect(replay, STEPS, chain(ORIGINAL))
    assert found.index == wrong and found.checks <= STEPS + 1 and len(calls) <= STEPS + 2
    assert verify(chain(ORIGINAL), found.before).ok and not verify(chain(ORIGINAL), found.after).ok
    assert found.worst.name == "y" and found.report.status == "failed" and found.feeds["x"].shape[1] == 4
    assert f"rewrite {wrong} is the first" in found.summary()


def test_no_wrong_rewrite():
    found = bisect(rewritten, STEPS, chain(ORIGINAL))
    assert found.index is None and found.before is None and found.checks == 1 and "no rewrite" in found.summary()
    assert bisect(lambda count: chain(ORIGINAL), 0, chain(ORIGINAL)).index is None


def test_wrong_before_any_rewrite():
    found = bisect(lambda count: chain(["Cos"] * STEPS), STEPS, chain(ORIGINAL))
    assert found.index == 0 and found.before is None and found.after is not None
    with pytest.raises(GraphoptError):
        bisect(lambda count: chain(ORIGINAL), -1, chain(ORIGINAL))


def test_of_a_break_that_is_mended_and_broken_again_it_is_the_first():
    found = bisect(lambda count: rewritten(count, {3, 15}, mended={9}), STEPS, chain(ORIGINAL))
    assert found.index == 3


def test_models_that_do_not_load_disagree():
    def replay(count):
        return chain(["Nonsense" if i == 7 and count > 7 else op for i, op in enumerate(ORIGINAL)])

    found = bisect(replay, STEPS, chain(ORIGINAL), budget=Budget(seconds=20))
    assert found.index == 7 and "does not load" in found.report.error


def test_given_inputs_show_what_others_do_not():
    def replay(count):
        return chain(["Abs" if i == 5 and count > 5 else "Relu" for i in range(STEPS)])

    negative = {"x": -np.ones((1, 4), np.float32)}
    assert bisect(replay, STEPS, chain(["Relu"] * STEPS), negative).index is None  # Relu has cut them off before
    first = chain(["Relu"] * STEPS)
    shown = bisect(lambda count: chain(["Abs" if count else "Relu"] + ["Relu"] * (STEPS - 1)), 3, first, negative)
    assert shown.index == 0 and np.array_equal(shown.feeds["x"], negative["x"])
