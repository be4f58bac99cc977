"""The first wrong rewrite is found, and cut out as a repro that stands alone."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from graphopt.errors import GraphoptError
from graphopt.verify import Budget, bisect, verify

STEPS = 24


def chain(ops):
    """x -> ops[0] -> ops[1] ...; every value keeps its name."""
    names = ["x", *(f"v{i}" for i in range(1, len(ops))), "y"]
    nodes = [
        helper.make_node(op, [a], [b], name=f"n{i}")
        for i, (op, a, b) in enumerate(zip(ops, names, names[1:], strict=False))
    ]
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("x", 1, ["N", 4])],
        [helper.make_tensor_value_info("y", 1, ["N", 4])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


ORIGINAL = ["Sin"] * STEPS


def rewritten(count, wrong=(), mended=()):
    """The first `count` nodes rewritten into something equal, those of `wrong` into something else."""
    ops = list(ORIGINAL)
    for i in range(count):
        if i in wrong and not any(i < m < count for m in mended):
            ops[i] = "Tanh"
    return chain(ops)


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
