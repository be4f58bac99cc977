"""spell-softmax-product, transpose-before-softmax."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from ..util import Shape, apply, assert_same, fired, model, node, ops, rand, reasons

PRODUCT, BEFORE = "spell-softmax-product", "transpose-before-softmax"
FORM = {"ReduceMax": 1, "Sub": 1, "Exp": 1, "Mul": 1, "ReduceSum": 2, "Div": 1, "Transpose": 1}


def head(
    shape: Shape = ("N", 4, 16, "A"),
    first: Any = (0, 2, 1, 3),
    axis: int = 1,
    second: Any = None,
    out: int = 1,
    opset: int = 17,
    bias: bool = False,
    dtype: int = 1,
    weight: Any = None,
    **conv: Any,
) -> onnx.ModelProto:
    kind = np.float32 if dtype == 1 else np.float64
    weights = {"w": np.arange(out * 16).reshape(out, 16, 1, 1).astype(kind) if weight is None else weight}
    nodes, last = [], "x"
    if first:
        nodes.append(node("Transpose", "x", "t", perm=first))
        last = "t"
    nodes.append(node("Softmax", last, "p", axis=axis))
    last = "p"
    if second:
        nodes.append(node("Transpose", "p", "u", perm=second))
        last = "u"
    if bias:
        weights["b"] = np.arange(out).astype(kind) + kind(0.5)
    nodes.append(node("Conv", f"{last} w" + " b" * bias, "y", **conv))
    return model(nodes, {"x": shape}, ["y"], weights, opset=opset, dtype=dtype)


def special(shape: tuple[int, ...]) -> Any:
    x = rand(*shape, low=-20, high=20)
    x[..., 0, 0] = np.inf
    x[..., 1, 1] = -np.inf
    x[..., 2] = -np.inf
    x[..., 3, 3] = np.nan
    x[..., 4, 4] = 3e38
    return x


@pytest.mark.parametrize("opset", [13, 17, 18, 21])
@pytest.mark.parametrize("bias", [False, True])
def test_a_distance_read_off_a_distribution(opset: int, bias: bool) -> None:
    before = head(opset=opset, bias=bias)
    after, report = apply(before, PRODUCT)
    assert fired(report) == [PRODUCT]
    assert dict(ops(after)) == {**FORM, **({"Add": 1} if bias else {})}
    for shape in ((1, 4, 16, 50), (2, 4, 16, 7), (0, 4, 16, 7)):
        assert_same(before, after, {"x": rand(*shape, low=-5, high=5)}, reference=None if shape[0] else False)
    assert_same(before, after, {"x": special((1, 4, 16, 50))}, reference=False)


@pytest.mark.parametrize("opset", [9, 12, 13, 21])
def test_softmax_over_the_last_axis(opset: int) -> None:
    before = head(first=(0, 3, 1, 2), axis=3, second=(0, 3, 2, 1), opset=opset)
    after, report = apply(before, PRODUCT)
    assert fired(report) == [PRODUCT] and dict(ops(after)) == FORM
    assert_same(before, after, {"x": rand(2, 4, 16, 30, low=-5, high=5)})
    before = head(("N", "A", 4, 16), first=None, axis=3, second=(0, 3, 2, 1), opset=opset, bias=True)
    after, report = apply(before, PRODUCT)
    assert dict(ops(after)) == {"Softmax": 1, "MatMul": 1, "Add": 1, "Transpose": 1}
    assert_same(before, after, {"x": rand(2, 30, 4, 16, low=-5, high=5)})


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"axis": 2}, "what the Softmax is over"),
        ({"opset": 12}, "what the Softmax is over"),
        ({"first": None, "shape": ("N", 16, 4, "A")}, "neither the last one"),
        ({"out": 2}, "more than one channel"),
        ({"pads": [0, 0, 0, 1]}, "more than to add up"),
        ({"strides": [1, 2]}, "more than to add up"),
        ({"group": 2, "weight": rand(2, 8, 1, 1)}, "more than to add up"),
        ({"weight": rand(1, 16, 1, 3)}, "more than to add up"),
        ({"weight": np.full((1, 16, 1, 1), np.inf, np.float32)}, "not finite"),
        ({"weight": np.full((1, 16, 1, 1), 3e37, np.float32)}, "overflow"),
        ({"dtype": TensorProto.DOUBLE}, "float32"),
        ({"shape": (1, 4, 16, 5)}, "small"),
    ],
)
def test_other_heads_stay(changes: dict[str, Any], reason: str) -> None:
    before = head(**changes)
    after, report = apply(before, PRODUCT)
    assert ops(after) == ops(before)
    assert any(reason in text for text in reasons(report, PRODUCT)), reasons(report, PRODUCT)


def test_a_distribution_that_is_read_stays() -> None:
    before = head()
    before.graph.output.add(name="p").type.CopyFrom(onnx.helper.make_tensor_type_proto(1, ["N", 16, 4, "A"]))
    after, _ = apply(before, PRODUCT)
    assert ops(after) == ops(before)


def test_all_together_take_the_best() -> None:
    for before in (head(), head(first=(0, 3, 1, 2), axis=3, second=(0, 3, 2, 1), shape=(1, 4, 16, 600))):
        after, report = apply(before, "forms")
        assert fired(report) == [PRODUCT] and dict(ops(after)) == FORM


def softmax(shape: Shape, axis: int, opset: int = 17, perm: Any = None, dtype: int = 1) -> onnx.ModelProto:
    nodes = [node("Softmax", "x", "p" if perm else "y", axis=axis)]
    if perm:
        nodes.append(node("Transpose", "p", "y", perm=perm))
    return model(nodes, {"x": shape}, ["y"], opset=opset, dtype=dtype)


@pytest.mark.parametrize("opset", [13, 17, 21])
def test_transpose_first(opset: int) -> None:
    before = softmax(("N", 12, "H", "W"), 1, opset, perm=(0, 2, 3, 1))
    after, report = apply(before, BEFORE)
    assert fired(report) == [BEFORE] and [n.op_type for n in after.graph.node] == ["Transpose", "Softmax"]
    assert_same(before, after, {"x": rand(2, 12, 5, 6, low=-50, high=50)}, tol=2e-7)


@pytest.mark.parametrize(
    "before",
    [
        softmax((1, 12, 8, 8), 3, perm=(0, 2, 1, 3)),
        softmax((1, 12, 8, 8), 1, perm=(0, 3, 1, 2)),
        softmax((1, 12, 8, 8), 1, perm=(0, 2, 3, 1), opset=12),
    ],
)
def test_other_transposes_stay(before: onnx.ModelProto) -> None:
    after, _ = apply(before, BEFORE)
    assert [n.op_type for n in after.graph.node] == ["Softmax", "Transpose"]
