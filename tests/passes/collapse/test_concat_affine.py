"""collapse-concat-affine-forward and collapse-concat-affine-back: maps of the parts of a Concat."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from ..util import apply, assert_same, fired, model, node, ops, rand, reasons

FORWARD, BACK = "collapse-concat-affine-forward", "collapse-concat-affine-back"
FEEDS = {"x": rand(2, 4, 6, 6, seed=7), "z": rand(2, 3, 6, 6, seed=8)}
BASE: dict[str, Any] = {
    "k": rand(4, 1, 1, seed=1, low=0.5, high=2),
    "one": np.float32(1.5),
    "w": rand(5, 10, 3, 3, seed=2),
    "b": rand(5, seed=3),
    "v": rand(10, 2, 2, 2, seed=4),
    **{name: rand(3, seed=seed, low=0.2) for seed, name in enumerate(("g", "t", "mu", "var"))},
}
CONCAT = node("Concat", "z1 a z", "c", axis=1)
CONV = node("Conv", "c w b", "y")


def forward(
    first: str, last: onnx.NodeProto = CONV, concat: onnx.NodeProto = CONCAT, x: Any = (2, 4, 6, 6), **more: Any
) -> onnx.ModelProto:
    """A map of x beside z, and Relu of it, into a convolution."""
    op, operands = first.split(" ", 1)
    nodes = [node("Relu", "z", "z1"), node(op, operands, "a"), concat, last]
    used = {name for item in nodes for name in item.input}
    weights = {k: v for k, v in {**BASE, **more}.items() if k in used}
    return model(nodes, {"x": x, "z": [2, 3, 6, 6]}, ["y"], weights)


@pytest.mark.parametrize("first", ["Mul x k", "Div x k", "Add x k", "Sub x one", "Sub k x"])
def test_a_part_gives_up_its_map(first: str) -> None:
    before = forward(first)
    after, report = apply(before, FORWARD)
    assert fired(report) == [FORWARD]
    assert ops(after) == {"Relu": 1, "Concat": 1, "Conv": 1}
    assert_same(before, after, FEEDS, tol=5e-6)


def test_every_part_gives_up_its_map() -> None:
    nodes = [
        node("BatchNormalization", "z g t mu var", "n"),
        node("Mul", "x k", "a"),
        node("Concat", "n a z", "c", axis=1),
        CONV,
    ]
    weights = {name: BASE[name] for name in ("g", "t", "mu", "var", "k", "w", "b")}
    before = model(nodes, {"x": [2, 4, 6, 6], "z": [2, 3, 6, 6]}, ["y"], weights)
    after, report = apply(before, FORWARD)
    assert fired(report) == [FORWARD, FORWARD]
    assert ops(after) == {"Concat": 1, "Conv": 1}
    assert_same(before, after, FEEDS, tol=5e-6)


def test_scales_go_through_padding_and_into_other_weights() -> None:
    for last in (node("Conv", "c w b", "y", pads=[1] * 4), node("ConvTranspose", "c v", "y", strides=[2, 2])):
        before = forward("Mul x k", last)
        after, _ = apply(before, FORWARD)
        assert ops(after)["Mul"] == 0
        assert_same(before, after, FEEDS, tol=5e-6, reference=False)
    nodes = [node("Add", "x k", "a"), node("Concat", "z a", "c", axis=1), node("Gemm", "c m", "y")]
    weights = {"k": rand(4), "m": rand(7, 5)}
    before = model(nodes, {"x": [2, 4], "z": [2, 3]}, ["y"], weights)
    after, _ = apply(before, FORWARD)
    assert ops(after) == {"Concat": 1, "Gemm": 1}
    assert_same(before, after, {"x": rand(2, 4), "z": rand(2, 3)}, tol=5e-6)


@pytest.mark.parametrize(
    ("before", "reason"),
    [
        (forward("Add x k", node("Conv", "c w b", "y", pads=[1] * 4)), "what is padded in is zero, not the shift"),
        (forward("Mul x one", x=(2, "C", 6, 6)), "the parts' channels are not proven to be those of the weights"),
        (forward("Mul x k", k=rand(6)), "a constant of shape [6] is not one number, or one number per channel"),
        (forward("Mul x k", x=(2, 1, 6, 6), w=rand(5, 10, 3, 3)), "the constant is not proven to leave the shape"),
        (forward("Mul x k", w=np.full((5, 10, 3, 3), 3e38, np.float32)), "the scaled weights overflow"),
        (forward("Div one x"), "the map is none of a value and a constant"),
    ],
)
def test_forward_refuses(before: onnx.ModelProto, reason: str) -> None:
    _, report = apply(before, FORWARD)
    assert not fired(report)
    assert reasons(report, FORWARD)[0].startswith(reason)


def test_forward_leaves_what_is_read_elsewhere() -> None:
    twice = forward("Mul x k", concat=node("Concat", "a z1 z", "c", axis=1))
    twice.graph.output.append(onnx.helper.make_tensor_value_info("a", 1, [2, 4, 6, 6]))
    assert not fired(apply(twice, FORWARD)[1])


def test_forward_leaves_a_normalization_whose_scale_is_computed() -> None:
    nodes = [
        node("BatchNormalization", "f s t mu var", "n"),
        node("Concat", "n x", "c", axis=1),
        node("Conv", "c m", "y"),
    ]
    weights = {"f": rand(2, 3, 6, 6), "m": rand(2, 7, 1, 1), **{name: BASE[name] for name in ("t", "mu", "var")}}
    before = model(nodes, {"x": [2, 4, 6, 6], "s": [3]}, ["y"], weights)
    assert not fired(apply(before, FORWARD)[1])


CONVS = [node("Conv", "x p", "c1"), node("ConvTranspose", "x q r", "c2")]
PARTS: dict[str, Any] = {
    "p": rand(3, 4, 1, 1, seed=1),
    "q": rand(4, 5, 1, 1, seed=2),
    "r": rand(5, seed=3),
    "one": np.float32(1.5),
    "k": rand(8, 1, 1, seed=4, low=0.5, high=2),
    **{name: rand(8, seed=seed, low=0.2) for seed, name in enumerate(("g", "t", "mu", "var"))},
}
JOIN = node("Concat", "c1 c2", "c", axis=1)


def back(root: onnx.NodeProto, join: onnx.NodeProto = JOIN, x: Any = (2, 4, 6, 6), **more: Any) -> onnx.ModelProto:
    nodes = [*CONVS, join, root]
    used = {name for item in nodes for name in item.input}
    return model(nodes, {"x": x}, ["y"], {k: v for k, v in {**PARTS, **more}.items() if k in used})


ROOTS = [node(op, "c k", "y") for op in ("Mul", "Div", "Add", "Sub")]
ROOTS += [node("Sub", "k c", "y"), node("Mul", "c one", "y"), node("BatchNormalization", "c g t mu var", "y")]


@pytest.mark.parametrize("root", ROOTS, ids=lambda item: str(item.op_type))
@pytest.mark.parametrize("axis", [1, -3])
def test_each_part_takes_its_piece(root: onnx.NodeProto, axis: int) -> None:
    before = back(root, node("Concat", "c1 c2", "c", axis=axis))
    after, report = apply(before, BACK)
    assert fired(report) == [BACK]
    assert ops(after) == {"Conv": 1, "ConvTranspose": 1, "Concat": 1}
    assert_same(before, after, {"x": FEEDS["x"]}, tol=5e-6, reference=False)


def test_along_another_axis_each_part_takes_all() -> None:
    more = {"p": rand(5, 4, 1, 1, seed=1), "k": rand(5, 1, 1, seed=4, low=0.5)}
    before = back(ROOTS[0], node("Concat", "c1 c2", "c", axis=2), **more)
    after, _ = apply(before, BACK)
    assert ops(after) == {"Conv": 1, "ConvTranspose": 1, "Concat": 1}
    assert_same(before, after, {"x": FEEDS["x"]}, tol=5e-6, reference=False)


@pytest.mark.parametrize(
    ("before", "reason"),
    [
        (back(ROOTS[0], node("Concat", "c1 c2 x", "c", axis=1), k=np.float32(2)), "a part is no convolution with"),
        (back(ROOTS[0], node("Concat", "c1 c1", "c", axis=1), k=np.float32(2)), "a part is no convolution with"),
        (back(ROOTS[0], k=rand(6)), "a constant of shape [6] is not one number"),
        (back(ROOTS[1], k=np.float32(0)), "the constant divisor is zero"),
        (back(ROOTS[0], p=np.full((3, 4, 1, 1), 3e38, np.float32)), "the scaled weights overflow"),
    ],
)
def test_back_refuses(before: onnx.ModelProto, reason: str) -> None:
    _, report = apply(before, BACK)
    assert not fired(report)
    assert reasons(report, BACK)[0].startswith(reason)


def test_back_leaves_written_out_activations() -> None:
    nodes = [*CONVS, JOIN, node("Add", "c three", "a"), node("Clip", "a zero six", "h"), node("Div", "h six", "y")]
    more = {"three": np.float32(3), "zero": np.float32(0), "six": np.float32(6)}
    used = {name for item in nodes for name in item.input}
    weights = {k: v for k, v in {**PARTS, **more}.items() if k in used}
    _, report = apply(model(nodes, {"x": [2, 4, 6, 6]}, ["y"], weights), BACK)
    assert reasons(report, BACK)[0].startswith("the constant is part of a HardSigmoid written out")
