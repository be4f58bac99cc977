"""multiply-by-reciprocal."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from ..util import apply, assert_same, fired, model, node, ops, rand, reasons, run

RULE = "multiply-by-reciprocal"
SPECIAL = np.float32([np.inf, -np.inf, np.nan, 0.0, -0.0, 3.4e38, -1e-45, 1.17e-38, 2.0**-140, 3, -7, 0.1])


def divided(c: Any, around: str = "x c", more: tuple[onnx.NodeProto, ...] = (), **kwargs: Any) -> onnx.ModelProto:
    nodes = [node("Div", around, "y" if not more else "d"), *more]
    return model(nodes, {"x": [12]}, ["y"], {"c": c}, **kwargs)


@pytest.mark.parametrize("c", [2.0, -0.25, 2.0**20, 2.0**-100, 2.0**125])
def test_powers_of_two_are_exact(c: float) -> None:
    before = divided(np.float32(c))
    after, report = apply(before, RULE)
    assert fired(report) == [RULE]
    assert ops(after) == {"Mul": 1}
    for fed in (SPECIAL, rand(12, low=-9, high=9)):
        want, got = run(before, {"x": fed})[0], run(after, {"x": fed})[0]
        np.testing.assert_array_equal(want.view(np.int32), got.view(np.int32))


@pytest.mark.parametrize("dtype", [TensorProto.FLOAT16, TensorProto.DOUBLE])
def test_other_types_and_one_number_each(dtype: int) -> None:
    kind = onnx.helper.tensor_dtype_to_np_dtype(dtype)
    before = divided(np.array([2, -4, 0.5] * 4, kind), dtype=dtype)
    after, _ = apply(before, RULE)
    assert ops(after) == {"Mul": 1}
    assert_same(before, after, {"x": rand(12, dtype=kind)}, tol=0)


def test_other_numbers_under_fast_math() -> None:
    before = divided(np.float32(3))
    _, report = apply(before, RULE)
    assert "fast_math=True" in reasons(report, RULE)[0]
    after, _ = apply(before, "fast-math", RULE)
    assert ops(after) == {"Mul": 1}
    assert_same(before, after, {"x": rand(12)})


MATRIX: dict[str, Any] = {"w": rand(12, 12)}


@pytest.mark.parametrize(
    ("c", "reason"),
    [
        (2.0**127, "a reciprocal is zero, infinite, or among the subnormals"),
        (0.0, "a reciprocal is zero, infinite"),
        (np.inf, "a reciprocal is zero, infinite"),
        (np.nan, "a reciprocal is zero, infinite"),
        (2.0**-149, "a reciprocal is zero, infinite"),
        (6.0, "the constant is no power of two"),
    ],
)
def test_refuses_constants(c: float, reason: str) -> None:
    after, report = apply(divided(np.float32(c)), RULE)
    assert ops(after) == {"Div": 1}
    assert reasons(report, RULE)[0].startswith(reason)


def test_refuses_what_the_runtime_fuses() -> None:
    product = "the runtime takes it into the product of matrices next to it as it is"
    activation = "the constant is part of an activation written out, which is worth more when recognised as one"
    weights = {"w": rand(12, 12), "c": np.float32(2), "one": np.float32(1), "zero": np.float32(0), "six": np.float32(6)}
    for nodes, reason in (
        ([node("MatMul", "x w", "p"), node("Div", "p c", "y")], product),
        ([node("Div", "x c", "p"), node("MatMul", "p w", "y")], product),
        ([node("Div", "x c", "p"), node("Erf", "p", "y")], activation),
        ([node("Clip", "x zero six", "p"), node("Div", "p c", "y")], activation),
        (
            [node("Erf", "x", "e"), node("Add", "e one", "f"), node("Mul", "x f", "p"), node("Div", "p c", "y")],
            activation,
        ),
    ):
        used = {name for item in nodes for name in item.input}
        given = model(nodes, {"x": [2, 12]}, ["y"], {k: v for k, v in weights.items() if k in used})
        after, report = apply(given, RULE)
        assert ops(after)["Div"] == 1
        assert reasons(report, RULE) == [reason]


def test_refuses_a_large_constant_that_others_read() -> None:
    big = np.full(20000, 2, np.float32)
    nodes = [node("Div", "x c", "d"), node("Add", "d c", "y")]
    _, report = apply(model(nodes, {"x": [20000]}, ["y"], {"c": big}), RULE)
    assert reasons(report, RULE) == ["others read the constant, too, and a second one would make the file larger"]


def test_leaves_integers_and_divided_constants() -> None:
    for given in (divided(np.int64(2), dtype=TensorProto.INT64), divided(np.float32(2), "c x")):
        after, report = apply(given, RULE)
        assert ops(after) == {"Div": 1}
        assert not report.refusals
