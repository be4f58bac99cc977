"""convert-precision{to=bfloat16}: valid by onnx's inference, and close as an emulation in float32 computes it."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from graphopt.passes.precision.convert_precision import ConvertPrecision
from graphopt.testing import backend_cases

from ..util import apply, model, node, rand, run
from .emulation import emulated
from .halves import BF16, NAME, types

X = {"x": rand(2, 8)}
MIX = [
    node("MatMul", "x w", "a"),
    node("Softmax", "a", "b", name="softmax"),
    node("LayerNormalization", "b s", "c", name="norm"),
    node("Exp", "c", "d", name="exp"),
    node("ReduceSum", "d axes", "e", name="sum"),
    node("Div", "d e", "f", name="div"),
    node("MatMul", "f v", "y"),
]
WEIGHTS = {"w": rand(8, 8), "v": rand(8, 3, seed=2), "s": np.ones(8, np.float32), "axes": np.int64([-1])}


def test_what_float16_must_not_bfloat16_may() -> None:
    given = model(MIX, {"x": [2, 8]}, ["y"], WEIGHTS, opset=18)
    made, report = apply(given, ConvertPrecision(to="bfloat16"))
    onnx.checker.check_model(made, full_check=True)
    assert not report.refusals
    found = types(made)
    assert {found[name] for name in "abcdefwvs"} == {BF16}
    again, _ = apply(made, ConvertPrecision(to="bfloat16"))
    assert again == made
    got, want = run(emulated(made), X)[0], run(given, X)[0]
    np.testing.assert_allclose(got, want, atol=0.03 * np.abs(want).max())
    assert not np.array_equal(got, want)


def test_the_emulation_rounds_as_ml_dtypes() -> None:
    import ml_dtypes

    given = model([node("Mul", "x k", "h"), node("Mul", "h k", "y")], {"x": [2, 8]}, ["y"], {"k": np.float32(1.2345)})
    made, _ = apply(given, ConvertPrecision(to="bfloat16"))
    half = ml_dtypes.bfloat16
    k = np.float32(np.float32(1.2345).astype(half))
    h = (X["x"].astype(half).astype(np.float32) * k).astype(half).astype(np.float32)
    np.testing.assert_array_equal(run(emulated(made), X)[0], (h * k).astype(half).astype(np.float32))


def test_below_opset_13_there_is_none() -> None:
    given = model(
        [node("MatMul", "x w", "h"), node("Relu", "h", "y")], {"x": [2, 8]}, ["y"], {"w": rand(8, 8)}, opset=12
    )
    made, report = apply(given, ConvertPrecision(to="bfloat16"))
    assert made == given
    assert list(report.refusals[NAME]) == ["there is no bfloat16 below opset 13; raise-opset raises it"]
    for name in ("test_loop11", "test_scan9_sum", "test_sequence_map_add_1_sequence_1_tensor"):
        case = next(case for case in backend_cases() if case.name == name)
        made, _ = apply(case.model, ConvertPrecision(to="bfloat16"))
        onnx.checker.check_model(made, full_check=True)


def test_the_lowest_float_does_not_fit() -> None:
    given = model(
        [node("Add", "x k", "y", name="add")], {"x": [2, 8]}, ["y"], {"k": np.float32(-3.4028235e38)}, opset=17
    )
    _, report = apply(given, ConvertPrecision(to="bfloat16"))
    assert report.refusals[NAME] == {"k holds 3.4e+38; bfloat16 ends at 3.3895e+38": ["add"]}


@pytest.mark.parametrize("number", [1e-12, 1e30])
def test_small_and_large_numbers_are_fine(number: float) -> None:
    given = model([node("Add", "x k", "h"), node("Mul", "h h", "y")], {"x": [2, 8]}, ["y"], {"k": np.float32(number)})
    _, report = apply(given, ConvertPrecision(to="bfloat16"))
    assert not report.refusals


def test_integers_above_256() -> None:
    nodes = [
        node("Shape", "x", "s"),
        node("Cast", "s", "f", to=1, name="cast"),
        node("Mul", "x two", "h"),
        node("Gather", "f one", "g", name="g"),
        node("Div", "h g", "y"),
    ]
    given = model(nodes, {"x": [2, "n"]}, ["y"], {"two": np.float32(2), "one": np.int64(1)})
    _, report = apply(given, ConvertPrecision(to="bfloat16"))
    assert report.refusals[NAME] == {
        "it is an integer, which bfloat16 holds up to 256 only": ["cast"],
        "it is computed from integers or counters, which bfloat16 holds up to 256 only": ["g"],
    }
