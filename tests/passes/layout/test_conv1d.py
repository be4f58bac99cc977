"""conv1d-as-image."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto

from graphopt.passes.layout.conv1d import NAME, Conv1dAsImage
from graphopt.testing import conformance

from ..util import apply, assert_same, fired, model, node, ops, rand, reasons, run

ANY = Conv1dAsImage(work=0)
CLIP = {"low": np.float32(-0.5), "high": np.float32(0.5)}


def built(nodes: list[Any], weights: dict[str, Any], shape: Any = ("N", 4, "L"), opset: int = 17, **more: Any) -> Any:
    return model(nodes, {"x": shape}, [nodes[-1].output[0]], weights, opset=opset, **more)


def widens(before: Any, feeds: dict[str, Any], item: Any = ANY, target: str = "onnx", tol: float = 2e-6) -> Any:
    """It fires, no Conv over one axis is left, and the results are the same, with the runtime's own help, too."""
    after, report = apply(before, item, target=target)
    assert set(fired(report)) == {NAME}
    kernels = {t.name: len(t.dims) for t in after.graph.initializer}
    assert all(kernels[n.input[1]] == 4 for n in after.graph.node if n.op_type == "Conv")
    assert_same(before, after, feeds, tol, reference=False)
    for want, got in zip(run(before, feeds, optimize=True), run(after, feeds, optimize=True), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    return after


def two(*between: Any, **more: Any) -> list[Any]:
    """Two convolutions with something between."""
    last = between[-1].output[0] if between else "c"
    return [node("Conv", "x w b", "c", pads=[1, 1], **more), *between, node("Conv", f"{last} v", "y", pads=[0, 2])]


WEIGHTS = {"w": rand(4, 4, 3), "b": rand(4, seed=1), "v": rand(5, 4, 3, seed=2)}


@pytest.mark.parametrize(
    "attrs",
    [
        {},
        {"pads": [2, 1]},
        {"strides": [2], "dilations": [2], "kernel_shape": [3]},
        {"auto_pad": "SAME_UPPER"},
        {"auto_pad": "SAME_LOWER", "strides": [2]},
        {"auto_pad": "VALID"},
    ],
)
@pytest.mark.parametrize("opset", [9, 11, 13, 22])
def test_attributes(attrs: dict[str, Any], opset: int) -> None:
    before = built([node("Conv", "x w b", "y", **attrs)], {k: WEIGHTS[k] for k in "wb"}, opset=opset)
    after = widens(before, {"x": rand(2, 4, 9)})
    assert ops(after) == {"Unsqueeze": 1, "Conv": 1, "Squeeze": 1}


@pytest.mark.parametrize("groups", [2, 4])
def test_groups(groups: int) -> None:
    before = built([node("Conv", "x w", "y", group=groups)], {"w": rand(8, 4 // groups, 3)})
    widens(before, {"x": rand(2, 4, 9)})


@pytest.mark.parametrize(
    ("between", "weights"),
    [
        (node("Relu", "c", "r"), {}),
        (node("Clip", "c low high", "r"), CLIP),
        (node("Mul", "c s", "r"), {"s": rand(4, 1)}),
        (node("Add", "s c", "r"), {"s": rand(1, 4, 9)}),
        (node("Sub", "c s", "r"), {"s": rand(9)}),
        (node("PRelu", "c s", "r"), {"s": rand(4, 1)}),
        (node("Add", "c x", "r"), {}),
        (node("Max", "c x s", "r"), {"s": np.float32(0.1)}),
        (node("Concat", "c x", "d", axis=-1), {}),
        (node("Concat", "c c", "d", axis=2), {}),
        (node("AveragePool", "c", "r", kernel_shape=[3], pads=[1, 1], count_include_pad=1), {}),
        (node("BatchNormalization", "c s t m v0", "r"), {k: rand(4, low=0.5) for k in ("s", "t", "m", "v0")}),
        (node("InstanceNormalization", "c s t", "r"), {"s": rand(4), "t": rand(4)}),
        (node("Slice", "c one eight last", "r"), {"one": [1], "eight": [8], "last": [-1]}),
        (node("Slice", "c nil big", "r"), {"nil": [0, 0], "big": [9, 9]}),
        (node("Pad", "c pads", "r"), {"pads": [0, 0, 2, 0, 0, 1]}),
    ],
    ids=lambda item: item.op_type if hasattr(item, "op_type") else "",
)
def test_what_lies_between(between: Any, weights: dict[str, Any]) -> None:
    before = built(two(between), {**WEIGHTS, **weights}, shape=("N", 4, 9))
    after = widens(before, {"x": rand(2, 4, 9)})
    assert ops(after)["Unsqueeze"] == 1 and ops(after)["Squeeze"] == 1


@pytest.mark.parametrize("opset", [13, 18])
def test_reductions_that_keep_the_axis(opset: int) -> None:
    axes: dict[str, Any] = {"axes": [-1]} if opset < 18 else {}
    mean = node("ReduceMean", "c" if opset < 18 else "c last", "m", keepdims=1, **axes)
    between = [mean, node("Mul", "c m", "r")]
    weights = WEIGHTS if opset < 18 else {**WEIGHTS, "last": [2]}
    after = widens(built(two(*between), weights, opset=opset), {"x": rand(2, 4, 9)})
    assert ops(after)["Unsqueeze"] == 1 and ops(after)["Squeeze"] == 1


def test_what_is_read_in_between() -> None:
    """An inner value that is returned, and read by something that has no other form, is squeezed for them."""
    nodes = [*two(node("Relu", "c", "r")), node("Transpose", "r", "t", perm=[0, 2, 1])]
    before = model(nodes, {"x": ("N", 4, "L")}, ["y", "c", "t"], WEIGHTS)
    after = widens(before, {"x": rand(2, 4, 9)})
    assert ops(after)["Squeeze"] == 3 and [o.name for o in after.graph.output] == ["y", "c", "t"]


def test_what_follows_goes_along() -> None:
    """The runtime merges an activation with a Conv only where they are neighbours."""
    before = built([node("Conv", "x w b", "c"), node("Relu", "c", "y")], {k: WEIGHTS[k] for k in "wb"})
    after = widens(before, {"x": rand(2, 4, 9)})
    assert [n.op_type for n in after.graph.node] == ["Unsqueeze", "Conv", "Relu", "Squeeze"]


def test_ranks_that_only_weights_tell() -> None:
    nodes = [node("Squeeze", "i", "x"), *two(node("AveragePool", "c", "r", kernel_shape=[2]))]
    before = model(nodes, {"i": ("N", 1, 4, 9)}, {"y": ("N", 5, "L")}, WEIGHTS)
    after = widens(before, {"i": rand(2, 1, 4, 9)})
    assert ops(after) == {"Squeeze": 2, "Unsqueeze": 1, "Conv": 2, "AveragePool": 1}


def test_nothing_at_all() -> None:
    after, _ = apply(built(two(), WEIGHTS), ANY)
    assert run(after, {"x": rand(0, 4, 9)}, optimize=True)[0].shape == (0, 5, 9)


def large(outs: int, ins: int, kernel: int, groups: int = 1) -> Any:
    return built([node("Conv", "x w", "y", group=groups)], {"w": rand(outs, ins // groups, kernel)}, ("N", ins, "L"))


@pytest.mark.parametrize(
    "sizes", [(64, 64, 3), (16, 16, 13), (32, 32, 3), (128, 80, 5), (64, 64, 3, 64), (64, 64, 9, 2)]
)
def test_where_it_pays(sizes: tuple[int, ...]) -> None:
    before = large(*sizes)
    widens(before, {"x": rand(2, sizes[1], 40)}, Conv1dAsImage(), "onnxruntime", 1e-5)


@pytest.mark.parametrize(
    ("sizes", "reason"),
    [
        ((64, 64, 1), "a kernel of 1"),
        ((64, 3, 5), "few channels"),
        ((64, 66, 3), "numbers of channels"),
        ((1, 64, 9), "numbers of channels"),
        ((40, 40, 5), "in part"),
        ((16, 16, 3), "too little"),
        ((10, 10, 3, 10), "groups are small"),
        ((64, 64, 3, 8), "groups are small"),
    ],
)
def test_where_it_does_not_pay(sizes: tuple[int, ...], reason: str) -> None:
    after, report = apply(large(*sizes), Conv1dAsImage())
    assert not fired(report) and ops(after) == {"Conv": 1}
    assert any(reason in text for text in reasons(report, NAME))


def test_small_ones_join_large_ones() -> None:
    nodes = [node("Conv", "x w", "c"), node("Conv", "c v", "y")]
    after, _ = apply(built(nodes, {"w": rand(64, 64, 3), "v": rand(32, 64, 1)}, ("N", 64, "L")), Conv1dAsImage())
    assert ops(after) == {"Unsqueeze": 1, "Conv": 2, "Squeeze": 1}


def test_refuses_weights_of_run_time() -> None:
    nodes = [node("Conv", "x w", "y")]
    before = model(nodes, {"x": ("N", 64, "L"), "w": (64, 64, 3)}, ["y"])
    _, report = apply(before, ANY)
    assert not fired(report) and reasons(report, NAME) == ["the weights are not constant"]


def test_refuses_other_types() -> None:
    before = built([node("Conv", "x w", "y")], {"w": rand(4, 4, 3, dtype=np.float64)}, dtype=TensorProto.DOUBLE)
    _, report = apply(before, ANY)
    assert not fired(report) and "float32" in reasons(report, NAME)[0]


def test_refuses_empty_weights() -> None:
    _, report = apply(built([node("Conv", "x w", "y")], {"w": rand(0, 4, 3)}), ANY)
    assert not fired(report) and reasons(report, NAME) == ["a size is zero"]


def test_images_and_other_targets_stay() -> None:
    image = model([node("Conv", "x w", "y")], {"x": ("N", 4, 9, 9)}, ["y"], {"w": rand(4, 4, 3, 3)})
    assert not fired(apply(image, ANY)[1])
    assert not fired(apply(built(two(), WEIGHTS), ANY, target="tensorrt")[1])
    assert not fired(apply(built([node("Conv", "x w", "y")], {"w": rand(4, 4, 3)}, opset=8), ANY)[1])


def test_maxima_stay() -> None:
    """ONNX Runtime's kernels for them see NaN in different ways."""
    after = widens(built(two(node("MaxPool", "c", "r", kernel_shape=[2])), WEIGHTS), {"x": rand(2, 4, 9)})
    assert ops(after)["Squeeze"] == 2


def test_a_matrix_of_run_time_stays_outside() -> None:
    """[C, L] next to [N, C, L] would have to be reshaped."""
    nodes = two(node("Add", "c s", "r"))
    before = model(nodes, {"x": ("N", 4, 9), "s": (4, 9)}, ["y"], WEIGHTS)
    after = widens(before, {"x": rand(2, 4, 9), "s": rand(4, 9)})
    assert ops(after)["Squeeze"] == 2


@pytest.mark.parametrize("item", [ANY, Conv1dAsImage()], ids=str)
def test_conformance(item: Any) -> None:
    conformance(item, built(two(node("Relu", "c", "r")), WEIGHTS), [{"x": rand(2, 4, 9)}])
