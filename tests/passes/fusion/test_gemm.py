"""fuse-gemm-bn, fuse-gemm-affine, fuse-transpose-gemm."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from ..util import Array, apply, assert_same, fired, model, node, ops, rand, reasons

FORMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "alpha, beta": {"alpha": 0.5, "beta": 2.0},
    "trans b": {"transB": 1, "alpha": -1.5},
    "trans a": {"transA": 1, "beta": 0.25},
    "beta zero": {"transA": 1, "transB": 1, "beta": 0.0},
}
BIASES: dict[str, tuple[int, ...] | None] = {
    "none": None, "scalar": (), "one": (1,), "n": (4,), "row": (1, 4), "column": (2, 1), "full": (2, 4)
}  # fmt: skip
STATISTICS = {"g": rand(4, seed=1), "t": rand(4, seed=2), "mu": rand(4, seed=3), "var": rand(4, seed=4, low=0.1)}


def gemm(
    attrs: dict[str, Any], bias: tuple[int, ...] | None, after: onnx.NodeProto, k: Any = None, **more: Any
) -> onnx.ModelProto:
    weights: dict[str, Any] = {"w": rand(4, 3) if attrs.get("transB") else rand(3, 4), **more.pop("weights", {})}
    if bias is not None:
        weights["b"] = rand(*bias, seed=7)
    if k is not None:
        weights["k"] = k
    x = [3, 2] if attrs.get("transA") else [2, 3]
    nodes = [node("Gemm", "x w" if bias is None else "x w b", "c", name="gemm", **attrs), after]
    return model(nodes, {"x": x}, ["y"], weights, **more)


def feeds(attrs: dict[str, Any]) -> dict[str, Array]:
    return {"x": rand(3, 2, seed=5) if attrs.get("transA") else rand(2, 3, seed=5)}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("bias", BIASES)
def test_batch_normalization(form: str, bias: str) -> None:
    bn = node("BatchNormalization", "c g t mu var", "y")
    before = gemm(FORMS[form], BIASES[bias], bn, weights=STATISTICS)
    after, report = apply(before, "fuse-gemm-bn")
    assert ops(after) == {"Gemm": 1}
    assert fired(report) == ["fuse-gemm-bn"]
    assert_same(before, after, feeds(FORMS[form]))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("bias", BIASES)
@pytest.mark.parametrize("step", ["Mul c k", "Mul k c", "Div c k", "Add c k", "Add k c", "Sub c k", "Sub k c"])
@pytest.mark.parametrize("shape", [(), (4,), (1, 4)])
def test_affine(form: str, bias: str, step: str, shape: tuple[int, ...]) -> None:
    op, inputs = step.split(" ", 1)
    before = gemm(FORMS[form], BIASES[bias], node(op, inputs, "y"), rand(*shape, seed=9, low=0.5, high=2))
    after, report = apply(before, "fuse-gemm-affine")
    assert ops(after) == {"Gemm": 1}
    assert fired(report) == ["fuse-gemm-affine"]
    assert_same(before, after, feeds(FORMS[form]))


@pytest.mark.parametrize("shape", [(2, 1), (2, 4), (1, 1)])
@pytest.mark.parametrize("op", ["Add", "Sub"])
def test_a_bias_per_row_is_added_where_the_shape_is_proven(shape: tuple[int, ...], op: str) -> None:
    before = gemm({"beta": 0.5}, (4,), node(op, "c k", "y"), rand(*shape, seed=9))
    after, _ = apply(before, "fuse-gemm-affine")
    assert ops(after) == {"Gemm": 1}
    assert_same(before, after, feeds({}))


def test_a_bias_alone_becomes_c_as_it_is() -> None:
    after, _ = apply(gemm({}, None, node("Add", "k c", "y"), rand(4)), "fuse-gemm-affine")
    assert list(after.graph.node[0].input) == ["x", "w", "k"]


def test_weights_may_be_computed_where_only_a_bias_is_added() -> None:
    nodes = [node("Gemm", "x v", "c"), node("Add", "c k", "y")]
    before = model(nodes, {"x": [2, 3], "v": [3, 4]}, ["y"], {"k": rand(4)})
    after, _ = apply(before, "fuse-gemm-affine")
    assert ops(after) == {"Gemm": 1}
    assert_same(before, after, {"x": rand(2, 3), "v": rand(3, 4, seed=3)})
    nodes = [node("Gemm", "x v", "c"), node("Mul", "c k", "y")]
    _, report = apply(model(nodes, {"x": [2, 3], "v": [3, 4]}, ["y"], {"k": rand(4)}), "fuse-gemm-affine")
    assert reasons(report, "fuse-gemm-affine") == ["the weights are computed at run time"]


@pytest.mark.parametrize(
    ("step", "shape", "reason"),
    [
        ("Mul c k", (2, 1), "a constant of shape [2, 1] is not one number, or one number per channel"),
        ("Mul c k", (1, 1, 4), "a constant of shape [1, 1, 4] is not one number, or one number per channel"),
        ("Add c k", (3, 1, 1), "a constant of shape [3, 1, 1] is not proven to leave the product's shape as it is"),
    ],
)
def test_refuses_shapes(step: str, shape: tuple[int, ...], reason: str) -> None:
    op, inputs = step.split(" ", 1)
    _, report = apply(gemm({}, (4,), node(op, inputs, "y"), rand(*shape)), "fuse-gemm-affine")
    assert reasons(report, "fuse-gemm-affine") == [reason]


def test_refuses_rows_that_are_not_proven() -> None:
    nodes = [node("Gemm", "x w", "c"), node("Add", "c k", "y")]
    before = model(nodes, {"x": ["N", 3]}, ["y"], {"w": rand(3, 4), "k": rand(3, 4)})
    _, report = apply(before, "fuse-gemm-affine")
    assert "not proven" in reasons(report, "fuse-gemm-affine")[0]


def test_refuses_a_bias_computed_at_run_time() -> None:
    nodes = [node("Gemm", "x w b", "c"), node("Mul", "c k", "y")]
    before = model(nodes, {"x": [2, 3], "b": [4]}, ["y"], {"w": rand(3, 4), "k": rand(4)})
    _, report = apply(before, "fuse-gemm-affine")
    assert reasons(report, "fuse-gemm-affine") == ["the bias is computed at run time"]


def test_refuses_integers() -> None:
    ints = {"w": np.ones((3, 4), np.int32), "k": np.full(4, 2, np.int32)}
    nodes = [node("Gemm", "x w", "c"), node("Mul", "c k", "y")]
    before = model(nodes, {"x": [2, 3]}, ["y"], ints, dtype=onnx.TensorProto.INT32)
    _, report = apply(before, "fuse-gemm-affine")
    assert reasons(report, "fuse-gemm-affine") == ["the weights are not floating-point numbers"]


def test_opset_7_where_c_is_required() -> None:
    before = gemm({}, (4,), node("Mul", "c k", "y"), rand(4), opset=7)
    after, _ = apply(before, "fuse-gemm-affine")
    assert ops(after) == {"Gemm": 1}
    assert_same(before, after, feeds({}))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("side", [0, 1])
def test_transpose(form: str, side: int) -> None:
    attrs = FORMS[form]
    shapes = {"x": [3, 2] if attrs.get("transA") else [2, 3], "v": [4, 3] if attrs.get("transB") else [3, 4]}
    name = "xv"[side]
    shapes[name].reverse()
    nodes = [node("Transpose", name, "r", perm=[1, 0]), node("Gemm", "r v b" if side == 0 else "x r b", "y", **attrs)]
    before = model(nodes, shapes, ["y"], {"b": rand(4)})
    after, report = apply(before, "fuse-transpose-gemm")
    assert ops(after) == {"Gemm": 1}
    assert fired(report) == ["fuse-transpose-gemm"]
    assert_same(before, after, {"x": rand(*shapes["x"]), "v": rand(*shapes["v"], seed=3)})


def test_transposes_that_are_none_or_two() -> None:
    nodes = [node("Transpose", "x", "r", perm=[0, 1]), node("Transpose", "v", "s"), node("Gemm", "r s", "y")]
    before = model(nodes, {"x": [2, 3], "v": [4, 3]}, ["y"])
    after, _ = apply(before, "fuse-transpose-gemm")
    assert ops(after) == {"Gemm": 1}
    assert {a.name: a.i for a in after.graph.node[0].attribute} == {"transB": 1}
    assert_same(before, after, {"x": rand(2, 3), "v": rand(4, 3, seed=3)})
