"""fuse-constant-chain."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto

from ..util import apply, assert_same, constant, fired, model, node, ops, rand, reasons

ADDITIVE = ["Add x k", "Add k x", "Sub x k", "Sub k x"]
MULTIPLICATIVE = ["Mul x k", "Mul k x", "Div x k"]
NAME = "fuse-constant-chain"


def chain(first: str, second: str, a: Any, b: Any, **options: Any) -> Any:
    steps = []
    for step, (x, k, y) in ((first, ("x", "a", "z")), (second, ("z", "b", "y"))):
        op, *operands = step.split()
        steps.append(node(op, " ".join({"x": x, "k": k}[name] for name in operands), y))
    return model(steps, {"x": [2, 3]}, ["y"], {"a": a, "b": b}, **options)


@pytest.mark.parametrize(("first", "second"), [*product(ADDITIVE, ADDITIVE), *product(MULTIPLICATIVE, MULTIPLICATIVE)])
@pytest.mark.parametrize(("a", "b"), [((), ()), ((3,), (3,)), ((), (3,)), ((1, 1, 1), ())])
def test_merges_or_says_why_not(first: str, second: str, a: tuple[int, ...], b: tuple[int, ...]) -> None:
    before = chain(first, second, rand(*a, low=1, high=2), rand(*b, seed=1, low=1, high=2))
    after, report = apply(before, NAME)
    if first[0] in "MD":
        merges, reason = first[0] == second[0], "one constant undoes some of the other"
    else:  # what is added to x, or to -x, first and then
        ours = -1 if first == "Sub x k" else 1
        merges = ours * (-1 if second == "Sub k x" else 1) == (-1 if second == "Sub x k" else 1)
        reason = "the constants cancel"
    assert fired(report) == ([NAME] if merges else [])
    if merges:
        assert sum(ops(after).values()) == 1
        assert_same(before, after, {"x": rand(2, 3, seed=2)}, tol=5e-7)
    else:
        assert reasons(report, NAME)[0].startswith(reason)


@pytest.mark.parametrize(
    ("first", "second"), [*product(ADDITIVE, ADDITIVE), *product(MULTIPLICATIVE[:2], MULTIPLICATIVE[:2])]
)
@pytest.mark.parametrize("dtype", [np.int32, np.uint8, np.int64])
def test_integers_wrap_around(first: str, second: str, dtype: Any) -> None:
    top = np.iinfo(dtype).max
    kind = {np.int32: TensorProto.INT32, np.uint8: TensorProto.UINT8, np.int64: TensorProto.INT64}[dtype]
    before = chain(first, second, np.array([top - 3, 2, 5], dtype), np.array([9, top, 7], dtype), dtype=kind, opset=14)
    after, report = apply(before, NAME)
    assert fired(report) == [NAME]
    assert_same(before, after, {"x": np.array([[0, 1, 2], [top, 3, 4]], dtype)}, reference=dtype == np.uint8)


def test_integer_division_stays() -> None:
    before = chain("Div x k", "Mul x k", np.int32(2), np.int32(2), dtype=TensorProto.INT32)
    _, report = apply(before, NAME)
    assert reasons(report, NAME) == ["integer division rounds"]


def test_rounding_by_a_large_number_stays() -> None:
    """x + 1.5 * 2^23 - 1.5 * 2^23 is round(x)."""
    before = chain("Add x k", "Sub x k", np.float32(12582912), np.float32(12582912))
    after, _ = apply(before, NAME)
    assert ops(after) == {"Add": 1, "Sub": 1}


@pytest.mark.parametrize(
    ("a", "b", "reason"),
    [
        (np.float32(1e8), np.float32(1e-8), "one constant undoes some of the other"),
        (np.float32(0.25), np.float32(2), "one constant undoes some of the other"),
        (np.float32(np.inf), np.float32(1), "one constant undoes some of the other"),
        (np.float32(1e20), np.float32(1e20), "the merged constant overflows its dtype"),
        (np.float32(1e-30), np.float32(1e-30), "the merged constant is too small for its dtype"),
        (rand(3), rand(2, 1), "the merged constant would be larger than both"),
    ],
)
def test_refuses(a: Any, b: Any, reason: str) -> None:
    after, report = apply(chain("Mul x k", "Mul x k", a, b), NAME)
    assert ops(after) == {"Mul": 2}
    assert reasons(report, NAME)[0].startswith(reason)


def test_refuses_sums_that_overflow() -> None:
    _, report = apply(chain("Add x k", "Add x k", np.float32(3e38), np.float32(3e38)), NAME)
    assert reasons(report, NAME) == ["the merged constant overflows its dtype"]


def test_the_half_of_a_gelu_stays() -> None:
    nodes = [node("Erf", "x", "e"), node("Add", "e one", "f"), node("Mul", "x f", "g")]
    nodes += [node("Mul", "g half", "h"), node("Mul", "h k", "y")]
    before = model(nodes, {"x": [2, 3]}, ["y"], {"one": np.float32(1), "half": np.float32(0.5), "k": rand(3)})
    after, report = apply(before, NAME)
    assert ops(after)["Mul"] == 3
    assert "an activation written out" in reasons(report, NAME)[0]


def test_products_keep_zero_and_nan() -> None:
    before = chain("Mul x k", "Mul x k", np.array([0, 1, 2], np.float32), np.array([1, 0, 2], np.float32))
    after, _ = apply(before, NAME)
    assert ops(after) == {"Mul": 1}
    x = np.array([[np.inf, np.nan, 1], [-np.inf, 0, -2]], np.float32)
    assert_same(before, after, {"x": x})
    assert constant(after, after.graph.node[0].input[1]).tolist() == [0, 0, 4]
