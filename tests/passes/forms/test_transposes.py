"""transpose-ones, transpose-in-steps; and every rule here, checked at any size."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from graphopt.passes import registry
from graphopt.passes.forms._cost import at_any_size
from graphopt.passes.forms.transpose_ones import is_fast
from graphopt.testing import check_rules

from ..util import Shape, apply, fired, model, node, ops, rand, reasons, run

ONES, STEPS = "transpose-ones", "transpose-in-steps"


def transpose(shape: Shape, perm: Any, opset: int = 17, dtype: int = 1) -> onnx.ModelProto:
    attrs = {} if perm is None else {"perm": perm}
    return model([node("Transpose", "x", "y", **attrs)], {"x": shape}, ["y"], opset=opset, dtype=dtype)


def exactly(before: onnx.ModelProto, after: onnx.ModelProto, *shapes: tuple[int, ...]) -> None:
    for shape in shapes:
        x = rand(*shape)
        want, got = run(before, {"x": x})[0], run(after, {"x": x})[0]
        np.testing.assert_array_equal(got, want)
        assert got.shape == want.shape


def stays(rule: str, before: onnx.ModelProto, reason: str) -> None:
    after, report = apply(before, rule)
    assert ops(after) == ops(before)
    said = reasons(report, rule)
    assert any(reason in text for text in said) if reason else not said, said


def test_fast_orders() -> None:
    slow = [perm for perm in itertools.permutations(range(3)) if not is_fast(perm)]
    assert slow == [(2, 1, 0)]
    assert is_fast(()) and is_fast((0, 2, 3, 1)) and is_fast((2, 1, 0, 3)) and not is_fast((1, 0, 3, 2))


@pytest.mark.parametrize("opset", [9, 17])
@pytest.mark.parametrize(
    ("shape", "perm", "sizes"),
    [
        (("N", 1, "H", 64), (0, 3, 2, 1), [(1, 1, 9, 64), (2, 1, 5, 64), (0, 1, 5, 64)]),
        ((1, 128, "H", 1), (0, 3, 2, 1), [(1, 128, 7, 1)]),
        ((64, 1, 64), None, [(64, 1, 64)]),
    ],
)
def test_axes_of_size_1(shape: Shape, perm: Any, sizes: list[tuple[int, ...]], opset: int) -> None:
    before = transpose(shape, perm, opset)
    after, report = apply(before, ONES)
    assert fired(report) == [ONES] and dict(ops(after)) == {"Squeeze": 1, "Transpose": 1, "Unsqueeze": 1}
    exactly(before, after, *sizes)


@pytest.mark.parametrize(
    ("before", "reason"),
    [
        (transpose((8, 1, 9, 64), (0, 2, 1, 3)), ""),
        (transpose((8, 4, 9, 64), (0, 3, 2, 1)), "as slow"),
        (transpose((8, 9, 1, 64), (3, 1, 2, 0)), "as slow"),
        (transpose((1, 1, 9, 4), (0, 3, 2, 1)), "small"),
        (transpose((1, 1, 90, 40), (0, 3, 2, 1), dtype=TensorProto.DOUBLE), "float32"),
    ],
)
def test_orders_without_use_of_ones_stay(before: onnx.ModelProto, reason: str) -> None:
    stays(ONES, before, reason)


@pytest.mark.parametrize("perm", [p for p in itertools.permutations(range(4)) if not is_fast(p)])
def test_two_steps(perm: Any) -> None:
    before = transpose((8, 9, 10, 12), perm)
    after, report = apply(before, STEPS)
    if not fired(report):
        assert "two moves" in reasons(report, STEPS)[0]
        return
    assert fired(report) == [STEPS] and dict(ops(after)) == {"Reshape": 3, "Transpose": 2}
    exactly(before, after, (8, 9, 10, 12))


def test_one_dim_may_be_unknown() -> None:
    before = transpose(("N", 32, 16, 20), (0, 3, 2, 1))
    after, report = apply(before, STEPS)
    assert fired(report) == [STEPS]
    exactly(before, after, (1, 32, 16, 20), (3, 32, 16, 20), (0, 32, 16, 20))


@pytest.mark.parametrize(
    ("before", "reason"),
    [
        (transpose((8, 9, 10, 12), (0, 1, 3, 2)), ""),
        (transpose((80, 1, 120), None), ""),
        (transpose(("N", "M", 10, 120), (0, 3, 2, 1)), "not known"),
        (transpose((8, 0, 10, 12), (0, 3, 2, 1)), "one is 0"),
        (transpose((8, 9, 10, 2), (0, 3, 2, 1)), "small"),
        (transpose((8, 9, 10, 12), (0, 3, 2, 1), dtype=TensorProto.DOUBLE), "float32"),
        (transpose((6, 5, 6, 5, 6, 5), (5, 4, 3, 2, 1, 0)), "two moves"),
    ],
)
def test_other_transposes_stay(before: onnx.ModelProto, reason: str) -> None:
    stays(STEPS, before, reason)


@pytest.mark.parametrize("rule", [rule.name for rule in registry.get("forms").make().rules])
def test_what_the_rules_compute_at_any_size(rule: str) -> None:
    """The sizes from which on they pay are larger than those of the models that rules are checked on."""
    with at_any_size():
        [check] = check_rules([rule], instances=40, seed=3)
    assert not check.wrong and not check.crash, "\n".join(map(str, check.wrong))
