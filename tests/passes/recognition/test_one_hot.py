"""gather-of-one-hot, gather-of-equal, gather-of-affine."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

from ..util import Shape, apply, fired, node, ops, rand, reasons, run

W = rand(5, 3)
ONE_HOT = [node("OneHot", "i depth values", "h"), node("MatMul", "h w", "y")]
FLAT = [node("OneHot", "i depth values", "h"), node("Reshape", "h shape", "r"), node("MatMul", "r w", "y")]
EQUAL = [node("Unsqueeze", "i axes", "u"), node("Equal", "u range", "e"), node("Cast", "e", "h", to=1), ONE_HOT[1]]
KINDS = {"int64": TensorProto.INT64, "int32": TensorProto.INT32, "float32": TensorProto.FLOAT}


def written(nodes: list[NodeProto], kind: str = "int64", dims: Shape = ("N", 4), **more: Any) -> onnx.ModelProto:
    weights = {
        "depth": np.array([5], kind), "values": np.array([0, 1], np.float32), "w": W, "shape": np.array([-1, 5]),
        "axes": np.array([-1]), "range": np.arange(5).astype(kind), **more
    }  # fmt: skip
    used = {name for each in nodes for name in each.input}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("i", KINDS[kind], dims)],
        [helper.make_tensor_value_info("y", 1, None)],
        [numpy_helper.from_array(value, key) for key, value in weights.items() if key in used],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    made.graph.output[0].CopyFrom(onnx.shape_inference.infer_shapes(made).graph.output[0])
    onnx.checker.check_model(made)
    return made


def same(before: onnx.ModelProto, after: onnx.ModelProto, kind: str) -> None:
    indices = np.array([[0, 1, 4, 3], [-1, -5, 2, 5], [-6, 6, 100, -100]]).astype(kind)
    if kind == "float32":
        indices += np.array([0.0, 0.5, -0.25, 0], np.float32)
        indices[2, 2:] = np.nan, -np.inf
    if kind == "int64":  # ONNX Runtime 1.31 does not clip these
        indices[2] = 2**31, 2**32 - 1, -(2**32), 5 * 10**9
    want, got = run(before, {"i": indices})[0], run(after, {"i": indices})[0]
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("nodes", [ONE_HOT, FLAT], ids=["one-hot", "flat"])
def test_one_hot(nodes: list[NodeProto], kind: str) -> None:
    before = written(nodes, kind)
    after, _ = apply(before, "gather-of-one-hot")
    assert ops(after)["Gather"] == 1 and ops(after)["MatMul"] == 0
    same(before, after, kind)


def test_the_axis_may_be_counted_from_the_front() -> None:
    before = written([node("OneHot", "i depth values", "h", axis=2), ONE_HOT[1]])
    after, _ = apply(before, "gather-of-one-hot")
    assert ops(after)["Gather"] == 1
    same(before, after, "int64")


@pytest.mark.parametrize(
    ("nodes", "more", "reason"),
    [
        (ONE_HOT, {"values": np.array([0, 2], np.float32)}, "values are not 0 and 1"),
        (FLAT, {"shape": np.array([5, -1])}, "does not keep the one-hot axis last"),
        (ONE_HOT, {"w": np.full((5, 3), np.inf, np.float32)}, "not finite"),
        (ONE_HOT, {"w": rand(2, 5, 3)}, "not a matrix"),
        (ONE_HOT, {"depth": np.array([60000]), "w": np.ones((60000, 5), np.float32)}, "much larger"),
    ],
)
def test_one_hot_refuses(nodes: list[NodeProto], more: dict[str, Any], reason: str) -> None:
    _, report = apply(written(nodes, dims=(2, 4) if "w" in more else (1, 5), **more), "gather-of-one-hot")
    assert reason in reasons(report, "gather-of-one-hot")[0]


def test_one_hot_refuses_another_axis() -> None:
    nodes = [node("OneHot", "i depth values", "h", axis=1), node("MatMul", "h w", "y")]
    _, report = apply(written(nodes, dims=(2, 5)), "gather-of-one-hot")
    assert "the last" in reasons(report, "gather-of-one-hot")[0]


@pytest.mark.parametrize("kind", ["int64", "int32"])
def test_equal(kind: str) -> None:
    before = written(EQUAL, kind)
    after, _ = apply(before, "gather-of-equal")
    assert ops(after) == {"Unsqueeze": 1, "Squeeze": 1, "Greater": 1, "Less": 1, "Where": 2, "Gather": 1}
    same(before, after, kind)


@pytest.mark.parametrize(
    ("kind", "axis", "counted", "reason"),
    [
        ("float32", -1, np.arange(5), "whole numbers"),
        ("int64", 0, np.arange(5), "whole numbers"),
        ("int64", -1, np.arange(5)[::-1].copy(), "0, 1, 2"),
        ("int64", -1, np.arange(5).reshape(1, 1, 1, 5), "whole numbers"),
    ],
)
def test_equal_refuses(kind: str, axis: int, counted: Any, reason: str) -> None:
    more = {"axes": np.array([axis]), "range": counted.astype(kind)}
    _, report = apply(written(EQUAL, kind, (5, 5), **more), "gather-of-equal")
    assert reason in reasons(report, "gather-of-equal")[0]


@pytest.mark.parametrize("c", [rand(3), rand(1, 3), np.float32(0.5), np.array([2], np.float32)], ids=str)
@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div"])
def test_affine(op: str, c: Any) -> None:
    before = written([node("Gather", "w i", "h"), node(op, "h c", "y")], c=c)
    after, _ = apply(before, "gather-of-affine")
    assert ops(after) == {"Gather": 1}
    indices = np.array([[0, -1, 4, 3]])
    np.testing.assert_array_equal(run(after, {"i": indices})[0], run(before, {"i": indices})[0])


@pytest.mark.parametrize("c", [rand(4, 1), rand(4, 3), rand(1, 1, 1, 3)], ids=str)
def test_affine_refuses_what_varies_along_the_indices(c: Any) -> None:
    _, report = apply(written([node("Gather", "w i", "h"), node("Add", "h c", "y")], c=c), "gather-of-affine")
    assert "varies along the indices" in reasons(report, "gather-of-affine")[0]


def test_affine_refuses_copies_of_a_large_table() -> None:
    nodes = [node("Gather", "w i", "h"), node("Add", "h c", "a"), node("Gather", "w i", "k"), node("Mul", "a k", "y")]
    _, report = apply(written(nodes, w=rand(5000, 3), c=rand(3)), "gather-of-affine")
    assert "others read the table" in reasons(report, "gather-of-affine")[0]


@pytest.mark.parametrize(
    "nodes",
    [
        [node("Gather", "w i", "h", axis=1), node("Add", "h c", "y")],
        [node("Gather", "w i", "h"), node("Sub", "c h", "y")],
        [node("Gather", "w i", "h"), node("Div", "c h", "y")],
    ],
)
def test_affine_leaves_alone(nodes: list[NodeProto]) -> None:
    assert fired(apply(written(nodes, c=np.float32(2)), "gather-of-affine")[1]) == []
