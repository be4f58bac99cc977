"""collapse-affine-border: a shift in front of a padded convolution as a constant image behind it."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from ..util import apply, assert_same, fired, model, node, ops, rand, reasons

RULE = "collapse-affine-border"
FEEDS = {"x": rand(2, 8, 10, 12, seed=7)}
BASE: dict[str, Any] = {
    "k": rand(8, 1, 1, seed=1, low=0.5, high=2),
    "w": rand(3, 8, 3, 3, seed=2),
    "b": rand(3, seed=3),
    **{name: rand(8, seed=seed, low=0.2) for seed, name in enumerate(("g", "t", "mu", "var"))},
}
PADS = {"pads": [1, 1, 1, 1]}
MAPS = [node("Add", "x k", "a"), node("Sub", "x k", "a"), node("Sub", "k x", "a"), node("Add", "one x", "a")]
MAPS += [node("BatchNormalization", "x g t mu var", "a")]


def build(first: onnx.NodeProto, x: Any = (2, 8, 10, 12), bias: bool = True, **more: Any) -> onnx.ModelProto:
    attrs = {**PADS, **more.pop("attrs", {})}
    nodes = [first, node("Conv", "a w b" if bias else "a w", "y", **attrs)]
    used = {name for item in nodes for name in item.input}
    weights = {k: v for k, v in {**BASE, "one": np.float32(1.5), **more}.items() if k in used}
    return model(nodes, {"x": x}, ["y"], weights)


@pytest.mark.parametrize("first", MAPS, ids=lambda item: str(item.op_type))
@pytest.mark.parametrize(
    "attrs",
    [{}, {"strides": [2, 2]}, {"pads": [2, 0, 1, 3], "strides": [1, 2]}, {"dilations": [2, 1], "pads": [3, 1, 2, 1]}],
    ids=str,
)
@pytest.mark.parametrize("bias", [True, False])
def test_the_image_is_exact(first: onnx.NodeProto, attrs: dict[str, Any], bias: bool) -> None:
    before = build(first, bias=bias, attrs=attrs)
    after, report = apply(before, RULE)
    assert fired(report) == [RULE]
    assert [item.op_type for item in after.graph.node] == ["Conv", "Add"]
    assert_same(before, after, FEEDS, tol=5e-6)


def test_groups_and_one_dimension() -> None:
    before = build(MAPS[0], w=rand(8, 1, 3, 3), b=rand(8), attrs={"group": 8, "strides": [2, 2]})
    after, _ = apply(before, RULE)
    assert ops(after) == {"Conv": 1, "Add": 1}
    assert_same(before, after, FEEDS, tol=5e-6)
    nodes = [node("Add", "x k", "a"), node("Conv", "a w", "y", pads=[2, 1], strides=[3])]
    before = model(nodes, {"x": [2, 8, 10]}, ["y"], {"k": rand(8, 1), "w": rand(4, 8, 4)})
    after, _ = apply(before, RULE)
    assert ops(after) == {"Conv": 1, "Add": 1}
    assert_same(before, after, {"x": rand(2, 8, 10)}, tol=5e-6)


def test_infinities_are_where_they_were() -> None:
    special = FEEDS["x"].copy()
    special[0, 0, 0, :3] = [np.inf, np.nan, -np.inf]
    before = build(MAPS[0])
    after, _ = apply(before, RULE)
    assert_same(before, after, {"x": special}, tol=5e-6)


@pytest.mark.parametrize(
    ("before", "reason"),
    [
        (build(MAPS[0], ("N", 8, "H", 12)), "the size of the image is not known"),
        (build(MAPS[0], w=rand(6, 8, 3, 3), b=rand(6)), "adding a constant image to the result costs as much"),
        (build(MAPS[0], attrs={"pads": None, "auto_pad": "SAME_UPPER"}), "auto_pad computes pads from the size"),
        (build(MAPS[0], k=np.full((8, 1, 1), 1e5, np.float32)), "the shift is so large that behind the products"),
        (build(MAPS[0], (2, 8, 700, 700)), "the constant image would make the file much larger"),
        (build(MAPS[0], k=rand(10, 1)), "a constant of shape [10, 1] is not one number"),
        (build(MAPS[0], (2, 1, 10, 12)), "the constant is not proven to leave the shape"),
        (
            build(MAPS[0], w=np.full((3, 8, 3, 3), 3e38, np.float32), k=np.full((8, 1, 1), 9, np.float32)),
            "the bias over",
        ),
    ],
)
def test_refuses(before: onnx.ModelProto, reason: str) -> None:
    _, report = apply(before, RULE)
    assert not fired(report)
    assert reasons(report, RULE)[0].startswith(reason)


def test_leaves_what_has_no_shift_or_no_padding() -> None:
    for before in (
        build(MAPS[0], attrs={"pads": [0, 0, 0, 0]}),
        build(MAPS[0], k=np.zeros((8, 1, 1), np.float32)),
        build(node("Mul", "x k", "a")),
    ):
        _, report = apply(before, RULE)
        assert not fired(report)
        assert not report.refusals
