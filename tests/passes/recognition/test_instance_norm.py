"""The rule for InstanceNormalization."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import NodeProto, TensorProto

from ..util import Shape, apply, assert_same, fired, model, node, ops, rand, reasons, run

RULE = "recognize-instance-norm"
ENDS = {
    "div": [node("Sqrt", "v", "r"), node("Div", "d r", "n")],
    "reciprocal": [node("Sqrt", "v", "r"), node("Reciprocal", "r", "i"), node("Mul", "i d", "n")],
    "pow": [node("Pow", "v minus", "i"), node("Mul", "d i", "n")],
}


def mean(source: str, result: str, axes: list[int], opset: int, **attrs: Any) -> NodeProto:
    if opset < 18:
        return node("ReduceMean", source, result, axes=axes, **attrs)
    return node("ReduceMean", f"{source} {'axes' if result == 'u' else 'var_axes'}", result, **attrs)


def written(
    end: str = "div",
    shape: Shape = ("N", 3, "H", "W"),
    axes: list[int] | None = None,
    tail: list[NodeProto] | None = None,
    opset: int = 17,
    dtype: int = TensorProto.FLOAT,
    var_axes: list[int] | None = None,
    more: dict[str, Any] | None = None,
    **attrs: Any,
) -> onnx.ModelProto:
    axes = axes or list(range(2, len(shape)))
    kind = onnx.helper.tensor_dtype_to_np_dtype(dtype)
    nodes = [mean("x", "u", axes, opset), node("Sub", "x u", "d"), node("Mul", "d d", "q")]
    nodes += [mean("q", "w", var_axes or axes, opset, **attrs), node("Add", "w e", "v"), *ENDS[end], *(tail or [])]
    used = {name for each in nodes for name in each.input}
    given: dict[str, Any] = {"e": 1e-5, "minus": -0.5, **(more or {})}
    weights: dict[str, Any] = {name: np.asarray(value, kind) for name, value in given.items() if name in used}
    if opset >= 18:
        weights |= {"axes": np.array(axes, np.int64), "var_axes": np.array(var_axes or axes, np.int64)}
    return model(nodes, {"x": shape}, [nodes[-1].output[0]], weights, dtype=dtype, opset=opset)


@pytest.mark.parametrize("opset", [9, 13, 18])
@pytest.mark.parametrize("shape", [("N", 3, "L"), ("N", 3, "H", "W"), (2, 3, 4, 5, 6), ("N", 3, 4, 5)], ids=str)
@pytest.mark.parametrize("end", ENDS)
def test_instance_norm(end: str, shape: Shape, opset: int) -> None:
    before = written(end, shape, opset=opset)
    after, report = apply(before, RULE)
    assert fired(report) == [RULE]
    assert ops(after) == {"InstanceNormalization": 1}
    x = rand(*(dim if isinstance(dim, int) else 4 for dim in shape), low=-3, high=4)
    assert_same(before, after, {"x": x})
    x[0, 0, 0], x[0, 1, 1], x[0, 2] = np.nan, np.inf, 0
    for want, got in zip(run(before, {"x": x}), run(after, {"x": x}), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-6)
    assert fired(apply(before, RULE, target="tensorrt")[1]) == []


def test_negative_axes() -> None:
    assert fired(apply(written(axes=[-1, -2]), RULE)[1]) == [RULE]


@pytest.mark.parametrize("op", ["Add", "Mul"])
def test_a_number_for_each_place_makes_it_a_layer_norm(op: str) -> None:
    tail = [node(op, "n c", "y")]
    assert fired(apply(written(shape=(2, 3, 8), tail=tail, more={"c": rand(8)}), RULE)[1]) == []
    assert fired(apply(written(shape=(2, 3, 8), tail=tail, more={"c": rand(3, 1)}), RULE)[1]) == [RULE]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"axes": [1, 2, 3]}, "squares"),
        ({"axes": [3]}, "squares"),
        ({"keepdims": 0, "shape": (3, 3, 3)}, "squares"),
        ({"axes": [3], "var_axes": [2, 3]}, "the mean is not"),
        ({"more": {"e": -1.0}}, "epsilon"),
        ({"more": {"e": np.full((1, 3, 1, 1), 1e-5)}}, "epsilon"),
        ({"dtype": TensorProto.DOUBLE}, "float32"),
        ({"shape": ("N", "C", "H", "W")}, "channels"),
    ],
)
def test_refuses(options: dict[str, Any], reason: str) -> None:
    after, report = apply(written(**options), RULE)
    assert reason in " ".join(reasons(report, RULE))
    assert "InstanceNormalization" not in ops(after)


def test_a_matrix_is_left_alone() -> None:
    assert fired(apply(written(shape=("N", 8), axes=[1]), RULE)[1]) == []
