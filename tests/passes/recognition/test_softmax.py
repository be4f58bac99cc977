"""recognize-softmax."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import NodeProto, TensorProto

from ..util import apply, assert_same, fired, model, node, ops, rand, reasons, run

RULE = "recognize-softmax"
ENDS = {
    "div": [node("Div", "p s", "y")],
    "reciprocal": [node("Reciprocal", "s", "i"), node("Mul", "i p", "y")],
    "one over": [node("Div", "one s", "i"), node("Mul", "p i", "y")],
}


def written(end: list[NodeProto], axis: int = -1, opset: int = 13, **options: Any) -> onnx.ModelProto:
    largest = node("ReduceMax", "x axes" if opset >= 18 else "x", "t", **({} if opset >= 18 else {"axes": [axis]}))
    total = node("ReduceSum", "p axes" if opset >= 13 else "p", "s", **({} if opset >= 13 else {"axes": [axis]}))
    nodes = [largest, node("Sub", "x t", "d"), node("Exp", "d", "p"), total, *end]
    kind = onnx.helper.tensor_dtype_to_np_dtype(options.get("dtype", TensorProto.FLOAT))
    weights: dict[str, Any] = {"axes": np.array([axis])} if opset >= 13 else {}
    if any("one" in each.input for each in end):
        weights["one"] = np.ones((), kind)
    return model(nodes, {"x": ["N", 4, 5]}, ["y"], weights, opset=opset, **options)


@pytest.mark.parametrize("opset", [7, 12, 13, 18])
@pytest.mark.parametrize("end", ENDS)
def test_the_last_axis(end: str, opset: int) -> None:
    before = written(ENDS[end], opset=opset)
    after, _ = apply(before, RULE)
    assert ops(after) == {"Softmax": 1}
    assert_same(before, after, {"x": rand(3, 4, 5, low=-90, high=90)})
    x = rand(3, 4, 5)
    x[0, 0, 0], x[0, 1, 2], x[0, 2, 3], x[1, 1], x[2, 0, :2] = np.nan, np.inf, -np.inf, -np.inf, 3e38
    for want, got in zip(run(before, {"x": x}), run(after, {"x": x}), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-6)


@pytest.mark.parametrize("axis", [0, 1, -2])
def test_another_axis(axis: int) -> None:
    before = written(ENDS["div"], axis)
    after, _ = apply(before, RULE)
    assert ops(after) == {"Softmax": 1}
    assert_same(before, after, {"x": rand(3, 4, 5, low=-9, high=9)})
    _, report = apply(written(ENDS["div"], axis, 12), RULE)
    assert "flattens" in reasons(report, RULE)[0]


def test_refuses_other_types() -> None:
    _, report = apply(written(ENDS["div"], dtype=TensorProto.DOUBLE), RULE)
    assert "float32" in reasons(report, RULE)[0]


@pytest.mark.parametrize(
    ("top", "total"), [([1], [2]), ([1, 2], [1, 2]), (None, [2])], ids=["different", "two", "all and one"]
)
def test_refuses_other_axes(top: list[int] | None, total: list[int]) -> None:
    nodes = [
        node("ReduceMax", "x", "t", **({} if top is None else {"axes": top})),
        node("Sub", "x t", "d"),
        node("Exp", "d", "p"),
        node("ReduceSum", "p", "s", axes=total),
        *ENDS["div"],
    ]
    _, report = apply(model(nodes, {"x": [3, 4, 5]}, ["y"], opset=12), RULE)
    assert "single axis" in reasons(report, RULE)[0]


def test_refuses_a_constant_that_adds_an_axis() -> None:
    before = written(ENDS["one over"])
    one = next(t for t in before.graph.initializer if t.name == "one")
    one.dims.extend([1, 1, 1, 1])
    before.graph.output[0].type.tensor_type.ClearField("shape")
    before.graph.output[0].type.tensor_type.shape.SetInParent()
    for size in (1, None, 4, 5):
        before.graph.output[0].type.tensor_type.shape.dim.add(**({} if size is None else {"dim_value": size}))
    _, report = apply(before, RULE)
    assert "leave the shape" in reasons(report, RULE)[0]


def test_without_the_maximum_it_is_left_alone() -> None:
    nodes = [node("Exp", "x", "p"), node("ReduceSum", "p", "s", axes=[2]), *ENDS["div"]]
    assert fired(apply(model(nodes, {"x": [3, 4, 5]}, ["y"], opset=12), RULE)[1]) == []


def test_a_sum_read_elsewhere_is_left_alone() -> None:
    nodes = [node("ReduceMax", "x", "t", axes=[2]), node("Sub", "x t", "d"), node("Exp", "d", "p")]
    nodes += [node("ReduceSum", "p", "s", axes=[2]), *ENDS["div"], node("Log", "s", "z")]
    assert fired(apply(model(nodes, {"x": [3, 4, 5]}, ["y", "z"], opset=12), RULE)[1]) == []
