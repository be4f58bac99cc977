"""collapse-conv-branches and collapse-focus-conv: convolutions that are one convolution."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from ..util import assert_same, fired, model, node, ops, rand, reasons
from .fast import apply

BRANCHES, FOCUS = "collapse-conv-branches", "collapse-focus-conv"
IMAGE = {"x": rand(2, 4, 8, 8, seed=7)}
STATISTICS = {"g": rand(4, seed=1), "t": rand(4, seed=2), "mu": rand(4, seed=3), "var": rand(4, seed=4, low=0.1)}


def branches(v: Any, w: Any, first: Any = None, second: Any = None, biases: str = "ab") -> onnx.ModelProto:
    names = [("a" if "a" in biases else ""), ("b" if "b" in biases else "")]
    nodes = [
        node("Conv", f"x v {names[0]}", "p", **(first or {})),
        node("Conv", f"x w {names[1]}", "q", **(second or {})),
        node("Add", "p q", "y"),
    ]
    constants = {"v": v, "w": w, "a": rand(v.shape[0], seed=3), "b": rand(w.shape[0], seed=4)}
    used = {name for item in nodes for name in item.input}
    weights = {k: value for k, value in constants.items() if k in used}
    return model(nodes, {"x": [2, 4, 8, 8]}, {"y": [2, v.shape[0], None, None]}, weights)


PAD = {"pads": [1, 1, 1, 1]}


@pytest.mark.parametrize("biases", ["", "a", "b", "ab"])
@pytest.mark.parametrize(
    ("v", "w", "first", "second"),
    [
        ((4, 4, 3, 3), (4, 4, 1, 1), PAD, {}),
        ((6, 4, 1, 1), (6, 4, 3, 3), {"strides": [2, 2]}, {**PAD, "strides": [2, 2]}),
        ((6, 4, 1, 1), (6, 4, 1, 1), {"auto_pad": "VALID"}, {}),
        ((4, 1, 5, 5), (4, 1, 3, 3), {"pads": [2] * 4, "group": 4}, {**PAD, "group": 4}),
        ((4, 4, 3, 3), (4, 4, 1, 3), PAD, {"pads": [0, 1, 0, 1]}),
        ((4, 4, 3, 3), (4, 4, 1, 1), {"pads": [2] * 4, "dilations": [2, 2]}, {"dilations": [2, 2]}),
        ((4, 4, 3, 3), (4, 4, 2, 2), {"pads": [1, 1, 1, 1]}, {"pads": [0, 0, 1, 1]}),
    ],
)
def test_two_convolutions(v: Any, w: Any, first: Any, second: Any, biases: str) -> None:
    before = branches(rand(*v, seed=1), rand(*w, seed=2), first, second, biases)
    after, report = apply(before, BRANCHES)
    assert ops(after) == {"Conv": 1}
    assert fired(report) == [BRANCHES]
    assert_same(before, after, IMAGE, tol=5e-6, reference=False)


@pytest.mark.parametrize("group", [1, 2, 4])
@pytest.mark.parametrize("norm", [False, True])
def test_identity(group: int, norm: bool) -> None:
    nodes = [node("Conv", "x w b", "c", group=group, **PAD)]
    if norm:
        nodes.append(node("BatchNormalization", "x g t mu var", "n"))
    nodes.append(node("Add", "n c" if norm else "c x", "y"))
    weights = {"w": rand(4, 4 // group, 3, 3, seed=5), "b": rand(4, seed=6), **(STATISTICS if norm else {})}
    before = model(nodes, {"x": ["N", 4, "H", "W"]}, ["y"], weights)
    after, _ = apply(before, BRANCHES)
    assert ops(after) == {"Conv": 1}
    assert_same(before, after, IMAGE, tol=5e-6)


def test_a_block_of_repvgg() -> None:
    nodes = [
        node("Conv", "x v", "p", **PAD),
        node("BatchNormalization", "p g t mu var", "pn"),
        node("Conv", "x w", "q"),
        node("BatchNormalization", "q g t mu var", "qn"),
        node("BatchNormalization", "x g t mu var", "n"),
        node("Add", "pn qn", "s"),
        node("Add", "s n", "r"),
        node("Relu", "r", "y"),
    ]
    weights = {"v": rand(4, 4, 3, 3, seed=5), "w": rand(4, 4, 1, 1, seed=6), **STATISTICS}
    before = model(nodes, {"x": ["N", 4, "H", "W"]}, ["y"], weights)
    after, _ = apply(before, "fuse-conv-bn", BRANCHES)
    assert ops(after) == {"Conv": 1, "Relu": 1}
    assert_same(before, after, IMAGE, tol=5e-6)


SQUARE = (4, 4, 3, 3)
HUGE = np.full(SQUARE, 3e38, np.float32)


@pytest.mark.parametrize(
    ("before", "reason"),
    [
        (branches(rand(*SQUARE), rand(4, 4, 1, 1), PAD, {"strides": [8, 8]}), "the branches differ in type, strides"),
        (branches(rand(*SQUARE), rand(4, 2, 1, 1), PAD, {"group": 2}), "the branches differ in type, strides"),
        (branches(rand(*SQUARE), rand(1, 4, 1, 1), PAD, {}), "the branches do not have the same channels"),
        (branches(rand(*SQUARE), rand(4, 4, 8, 8), PAD, {}), "the branches' results do not have the same size"),
        (
            branches(rand(4, 4, 3, 1), rand(4, 4, 1, 3), {"pads": [1, 0, 1, 0]}, {"pads": [0, 1, 0, 1]}),
            "neither kernel",
        ),
        (branches(rand(*SQUARE), rand(4, 4, 1, 1), {"auto_pad": "SAME_UPPER"}, {}), "auto_pad computes pads from the"),
        (branches(np.full(SQUARE, np.nan, np.float32), rand(4, 4, 1, 1), PAD, {}), "weights or biases are not finite"),
        (
            branches(np.full(SQUARE, 3e38, np.float32), np.full((4, 4, 1, 1), 3e38, np.float32), PAD, {}),
            "the bias overflows",
        ),
    ],
)
def test_refuses_branches(before: onnx.ModelProto, reason: str) -> None:
    after, report = apply(before, BRANCHES)
    assert ops(after)["Conv"] == 2
    assert reasons(report, BRANCHES)[0].startswith(reason)


def test_refuses_an_identity_of_another_size() -> None:
    for attrs, weight in (({"strides": [8, 8]}, (4, 4, 1, 1)), (PAD, (1, 4, 3, 3))):
        nodes = [node("Conv", "x w", "c", **attrs), node("Add", "c x", "y")]
        before = model(nodes, {"x": [2, 4, 8, 8]}, ["y"], {"w": rand(*weight)})
        _, report = apply(before, BRANCHES)
        assert reasons(report, BRANCHES) == ["the convolution does not have its operand's size and channels"]
    nodes = [node("Conv", "x w", "c"), node("Add", "c x", "y")]
    _, report = apply(model(nodes, {"x": [2, 4, 1, 1]}, ["y"], {"w": rand(4, 4, 1, 1)}), BRANCHES)
    assert not report.refusals


def test_refuses_weights_that_are_read_elsewhere() -> None:
    before = branches(rand(*SQUARE), rand(4, 4, 1, 1), PAD, {})
    before.graph.node.append(node("Neg", "w", "z"))
    before.graph.output.append(onnx.helper.make_tensor_value_info("z", TensorProto.FLOAT, [4, 4, 1, 1]))
    _, report = apply(before, BRANCHES)
    assert reasons(report, BRANCHES) == ["others read the weights, too"]


def test_leaves_branches_that_are_read_elsewhere() -> None:
    before = branches(rand(*SQUARE), rand(4, 4, 1, 1), PAD, {})
    before.graph.output.append(onnx.helper.make_tensor_value_info("p", TensorProto.FLOAT, [2, 4, 8, 8]))
    after, _ = apply(before, BRANCHES)
    assert ops(after)["Conv"] == 2


END = 2**31 - 1


def focus(starts: list[tuple[int, int]], nested: bool = False, **conv: Any) -> onnx.ModelProto:
    """Slices of x from these starts with step 2, joined in front of a Conv."""
    nodes, weights = [], {"two": np.array([2, 2]), "end": np.array([END, END]), "axes": np.array([2, 3])}
    for k, (i, j) in enumerate(starts):
        if nested:
            weights |= {"e1": np.array([END]), "a2": np.array([2]), "a3": np.array([-1]), "s2": np.array([2])}
            weights |= {f"i{k}": np.array([i]), f"j{k}": np.array([j])}
            nodes += [node("Slice", f"x i{k} e1 a2 s2", f"r{k}"), node("Slice", f"r{k} j{k} e1 a3 s2", f"p{k}")]
        else:
            weights[f"b{k}"] = np.array([i, j])
            nodes.append(node("Slice", f"x b{k} end axes two", f"p{k}"))
    channels = 3 * len(starts)
    nodes += [
        node("Concat", " ".join(f"p{k}" for k in range(len(starts))), "c", axis=1),
        node("Conv", "c w b", "y", **conv),
    ]
    kernel = conv.get("kernel_shape", [3, 3])
    weights |= {"w": rand(5, channels // conv.get("group", 1), *kernel, seed=5), "b": rand(5, seed=6)}
    used = {name for item in nodes for name in item.input}
    return model(nodes, {"x": ["N", 3, "H", "W"]}, ["y"], {k: v for k, v in weights.items() if k in used})


ALL = [(0, 0), (1, 0), (0, 1), (1, 1)]
WINDOWS = [PAD, {"strides": [2, 1]}, {"pads": [1, 0, 0, 2]}, {"kernel_shape": [1, 2]}]
PHOTO = {"x": rand(2, 3, 10, 12, seed=7)}


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("starts", [ALL, ALL[::-1]], ids=["forward", "backward"])
@pytest.mark.parametrize("conv", WINDOWS, ids=str)
def test_focus(starts: list[tuple[int, int]], nested: bool, conv: dict[str, Any]) -> None:
    before = focus(starts, nested, **conv)
    after, report = apply(before, FOCUS)
    assert ops(after) == {"Conv": 1}
    assert fired(report) == [FOCUS]
    assert_same(before, after, PHOTO, tol=5e-6, reference=False)


@pytest.mark.parametrize("size", [2, 3])
def test_space_to_depth(size: int) -> None:
    nodes = [node("SpaceToDepth", "x", "s", blocksize=size), node("Conv", "s w", "y", auto_pad="VALID")]
    before = model(nodes, {"x": ["N", 3, 12, 18]}, ["y"], {"w": rand(5, 3 * size * size, 3, 2)})
    after, _ = apply(before, FOCUS)
    assert ops(after) == {"Conv": 1}
    assert_same(before, after, {"x": rand(2, 3, 12, 18, seed=7)}, tol=5e-6)


def unshuffled(perm: list[int], size: int = 2, x: Any = ("N", 3, 12, 18), **more: Any) -> onnx.ModelProto:
    """Reshape, Transpose, Reshape in front of a Conv: blocks of size x size."""
    nodes = [
        node("Reshape", "x split", "r"),
        node("Transpose", "r", "t", perm=perm),
        node("Reshape", "t join", "s"),
        node("Conv", "s w", "y", **PAD),
    ]
    weights = {
        "split": np.array([-1, 3, 12 // size, size, 18 // size, size]),
        "join": np.array([-1, 3 * size * size, 12 // size, 18 // size]),
        "w": rand(5, 3 * size * size, 3, 3),
        **more,
    }
    return model(nodes, {"x": x}, {"y": [None] * 4}, weights)


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("order", [[3, 5, 1], [1, 3, 5], [5, 3, 1], [5, 1, 3]], ids=str)
def test_blocks_made_by_views(size: int, order: list[int]) -> None:
    before = unshuffled([0, *order, 2, 4], size)
    after, report = apply(before, FOCUS)
    assert fired(report) == [FOCUS]
    assert ops(after) == {"Conv": 1}
    assert_same(before, after, {"x": rand(2, 3, 12, 18, seed=7)}, tol=5e-6)


@pytest.mark.parametrize(
    "before",
    [
        unshuffled([0, 1, 2, 3, 4, 5]),
        unshuffled([0, 3, 5, 1, 4, 2], join=np.array([-1, 12, 9, 6])),
        unshuffled([0, 1, 3, 5, 2, 4], join=np.array([-1, 12, 3, 18])),
        unshuffled(
            [0, 1, 3, 5, 2, 4], split=np.array([-1, 3, 6, 2, 6, 3]), join=np.array([-1, 18, 6, 6]), w=rand(5, 18, 3, 3)
        ),
        unshuffled([0, 1, 3, 5, 2, 4], x=("N", 3, "H", 18)),
        unshuffled([0, 1, 3, 5, 2, 4], x=("N", 6, 6, 18)),
    ],
)
def test_leaves_other_views(before: onnx.ModelProto) -> None:
    after, _ = apply(before, FOCUS)
    assert ops(after)["Transpose"] == 1


@pytest.mark.parametrize(
    "starts", [[(0, 0), (1, 0), (0, 1), (0, 1)], [(0, 0), (1, 0)], [(0, 0), (1, 0), (0, 1), (2, 1)]], ids=str
)
def test_leaves_other_slices(starts: list[tuple[int, int]]) -> None:
    after, report = apply(focus(starts), FOCUS)
    assert ops(after)["Slice"] == len(starts)
    assert not report.refusals


@pytest.mark.parametrize(
    ("before", "reason"),
    [
        (focus(ALL, auto_pad="SAME_UPPER"), "auto_pad computes pads from the blocks"),
        (focus(ALL, dilations=[2, 2]), "the kernel is dilated"),
    ],
)
def test_refuses_focus(before: onnx.ModelProto, reason: str) -> None:
    _, report = apply(before, FOCUS)
    assert reasons(report, FOCUS) == [reason]


def test_refuses_many_channels_and_groups() -> None:
    for channels, group, reason in (
        (80, 1, "with so many channels it was not measured"),
        (4, 4, "this is no image, or the convolution has groups"),
        ("C", 1, "the channels of the image are not proven to be those of the weights"),
    ):
        size = channels if isinstance(channels, int) else 4
        nodes = [node("SpaceToDepth", "x", "s", blocksize=2), node("Conv", "s w", "y", group=group)]
        weights = {"w": rand(4, 4 * size // group, 1, 1)}
        _, report = apply(model(nodes, {"x": [1, channels, 4, 4]}, ["y"], weights), FOCUS)
        assert reasons(report, FOCUS) == [reason]
