"""reduce-rows-in-blocks, spell-squares-of-pairs."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from ..util import Shape, apply, assert_same, fired, model, node, ops, rand, reasons, run

ROWS, PAIRS = "reduce-rows-in-blocks", "spell-squares-of-pairs"


def reduction(op: str, shape: Shape, axes: list[int], opset: int = 17, dtype: int = 1, **attrs: int) -> onnx.ModelProto:
    if opset >= (13 if op == "ReduceSum" else 18):
        nodes, weights = [node(op, "x axes", "y", **attrs)], {"axes": np.array(axes, np.int64)}
        return model(nodes, {"x": shape}, ["y"], weights, opset=opset, dtype=dtype)
    return model([node(op, "x", "y", axes=axes, **attrs)], {"x": shape}, ["y"], opset=opset, dtype=dtype)


def becomes(rule: str, before: onnx.ModelProto, left: dict[str, int], *shapes: tuple[int, ...]) -> None:
    after, report = apply(before, rule)
    assert fired(report) == [rule]
    assert dict(ops(after)) == left
    for shape in shapes:
        assert_same(before, after, {"x": rand(*shape, low=-2, high=3)})


def stays(rule: str, before: onnx.ModelProto, reason: str) -> None:
    after, report = apply(before, rule)
    assert ops(after) == ops(before)
    assert any(reason in text for text in reasons(report, rule)), reasons(report, rule)


@pytest.mark.parametrize("op", ["ReduceMean", "ReduceSum"])
@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("opset", [9, 17, 21])
def test_rows_of_a_matrix(op: str, keepdims: int, opset: int) -> None:
    left, sizes = {"Reshape": 2, op: 2}, [(1, 252, 64), (3, 252, 64), (0, 252, 64)]
    becomes(ROWS, reduction(op, ("N", 252, 64), [1], opset, keepdims=keepdims), left, *sizes)
    if opset >= 11:
        becomes(ROWS, reduction(op, ("N", 252, 64), [-2], opset, keepdims=keepdims), left, (2, 252, 64))
    becomes(ROWS, reduction(op, (386, 64), [0], opset, keepdims=keepdims), left, (386, 64))
    left = {"Reshape": 3, op: 2}
    becomes(ROWS, reduction(op, (1, 1, 256, 64), [2], opset, keepdims=keepdims), left, (1, 1, 256, 64))


@pytest.mark.parametrize("op", ["ReduceSum", "ReduceMean"])
@pytest.mark.parametrize("keepdims", [0, 1])
def test_several_axes_of_rows(op: str, keepdims: int) -> None:
    before, left = reduction(op, ("N", 16, 16, 64), [1, 2], keepdims=keepdims), {"Reshape": 3, op: 2}
    becomes(ROWS, before, left, (1, 16, 16, 64), (2, 16, 16, 64), (0, 16, 16, 64))
    becomes(ROWS, reduction(op, (256, 8, 16), [0], keepdims=keepdims), left, (256, 8, 16))
    becomes(ROWS, reduction(op, ("N", 1, 256, 8, 16), [2], keepdims=keepdims), left, (2, 1, 256, 8, 16))


@pytest.mark.parametrize("op", ["ReduceMean", "ReduceSum"])
def test_sums_of_special_numbers(op: str) -> None:
    before = reduction(op, (1, 256, 64), [1])
    after, _ = apply(before, ROWS)
    x = rand(1, 256, 64)
    x[0, 3, :4] = [np.nan, np.inf, -np.inf, -0.0]
    x[0, 4, 2] = np.inf
    for want, got in zip(run(before, {"x": x}), run(after, {"x": x}), strict=True):
        np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "axes", "reason"),
    [
        ((1, 256, 64), [2], "not proven"),
        ((1, 256, 64), [0, 1, 2], "not proven"),
        ((2, 256, 64), [1], "not proven"),
        ((1, "H", 64), [1], "not proven"),
        ((1, 256, "W"), [1], "not proven"),
        ((1, 0, 64), [1], "not proven"),
        (("N", 16, 16, 64), [1, 3], "not proven"),
        (("N", "M", 256, 64), [2], "not proven"),
        ((1, 100, 64), [1], "small"),
        ((1, 12_000, 4), [1], "small"),
        ((1, 257, 64), [1], "divisor"),
    ],
)
def test_other_reductions_stay(shape: Shape, axes: list[int], reason: str) -> None:
    stays(ROWS, reduction("ReduceSum", shape, axes), reason)


@pytest.mark.parametrize("between", [(), ("Relu", "Exp")])
def test_a_transposed_image_stays(between: tuple[str, ...]) -> None:
    nodes, last = [node("Transpose", "x", "t", perm=[0, 2, 3, 1])], "t"
    for op in between:
        nodes.append(node(op, last, op.lower()))
        last = op.lower()
    nodes.append(node("ReduceMean", last, "y", axes=[1, 2]))
    stays(ROWS, model(nodes, {"x": ("N", 64, 16, 16)}, ["y"]), "Transpose")


@pytest.mark.parametrize("op", ["ReduceMax", "ReduceMin"])
def test_maxima_stay(op: str) -> None:
    """ONNX Runtime's maximum of several matrices loses what stands behind a NaN."""
    before = reduction(op, (1, 256, 64), [1])
    assert ops(apply(before, ROWS)[0]) == ops(before)


def test_other_types_stay() -> None:
    stays(ROWS, reduction("ReduceSum", (1, 256, 64), [1], dtype=TensorProto.DOUBLE), "float32")
    stays(PAIRS, reduction("ReduceSumSquare", (1, 2, 100, 64), [1], dtype=TensorProto.DOUBLE), "float32")


def test_no_axes_reduce_nothing() -> None:
    noop = model([node("ReduceSum", "x", "y", noop_with_empty_axes=1)], {"x": (1, 256, 64)}, ["y"])
    stays(ROWS, noop, "not proven")


@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("opset", [9, 17, 21])
def test_squares_of_pairs(keepdims: int, opset: int) -> None:
    before = reduction("ReduceSumSquare", ("N", 2, 129, "T"), [1], opset, keepdims=keepdims)
    left = {"Mul": 1, "Split": 1, "Add": 1} | ({} if keepdims else {"Squeeze": 1})
    becomes(PAIRS, before, left, (1, 2, 129, 40), (2, 2, 129, 3), (1, 2, 129, 0))


@pytest.mark.parametrize(
    ("shape", "axes", "reason"),
    [
        (("N", 2, 129, "T"), [2], "two squares"),
        (("N", 3, 129, "T"), [1], "two squares"),
        (("N", "C", 129, "T"), [1], "two squares"),
        (("N", 2, 129, "T"), [1, 2], "two squares"),
        ((1, 300, 257, 2), [3], "last axis"),
        ((1, 2, 30, 30), [1], "small"),
    ],
)
def test_other_squares_stay(shape: Shape, axes: list[int], reason: str) -> None:
    stays(PAIRS, reduction("ReduceSumSquare", shape, axes), reason)
