"""collapse-affine-back and collapse-affine-forward: maps moved through other operators into weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from ..util import apply, assert_same, fired, model, node, ops, rand, reasons

BACK, FORWARD = "collapse-affine-back", "collapse-affine-forward"
FEEDS = {"x": rand(2, 3, 8, 8, seed=7)}
CONV = node("Conv", "x w b", "c", pads=[1, 1, 1, 1])
BASE: dict[str, Any] = {"w": rand(4, 3, 3, 3, seed=5), "b": rand(4, seed=6)}
LISTS: dict[str, Any] = {
    "flat": np.array([0, 4, 64]),
    "axis0": np.array([0]),
    "scales": np.array([1, 1, 2, 2], np.float32),
    "slope": rand(4, 1, 1, low=0.1),
    "three": np.float32(3),
    "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
}


def names(item: Any) -> str:
    return "-".join(part.op_type for part in item) if isinstance(item, list) else str(item)


def back(chain: list[onnx.NodeProto], root: onnx.NodeProto, **more: Any) -> onnx.ModelProto:
    """x through a Conv to c, through the chain to `v`, and the root."""
    nodes = [CONV, *chain, root]
    used = {name for item in nodes for name in item.input}
    weights = {k: v for k, v in {**BASE, **LISTS, **more}.items() if k in used}
    return model(nodes, {"x": [2, 3, 8, 8]}, ["y"], weights)


ANY = [
    ([node("Transpose", "c", "v", perm=[0, 2, 3, 1])], (4,)),
    ([node("Transpose", "c", "u", perm=[2, 3, 0, 1]), node("Transpose", "u", "v", perm=[3, 0, 1, 2])], (4, 1, 1, 1)),
    ([node("Reshape", "c flat", "v")], (4, 1)),
    ([node("Unsqueeze", "c axis0", "v")], (1, 1, 4, 1, 1)),
    ([node("AveragePool", "c", "v", kernel_shape=[2, 2])], (4, 1, 1)),
    ([node("AveragePool", "c", "v", kernel_shape=[3, 3], pads=[1, 1, 1, 1])], (4, 1, 1)),
    ([node("GlobalAveragePool", "c", "u"), node("Flatten", "u", "v")], (1, 4)),
    ([node("MaxPool", "c", "v", kernel_shape=[3, 3], pads=[1, 1, 1, 1])], (4, 1, 1)),
    ([node("GlobalMaxPool", "c", "v")], (1, 4, 1, 1)),
    ([node("Resize", "c - scales", "v", mode="linear")], (4, 1, 1)),
    ([node("Resize", "c - scales", "v", mode="nearest")], (4, 1, 1)),
    ([node("Resize", "c - scales", "v", mode="cubic")], (4, 1, 1)),
    ([node("Pad", "c pads", "v")], ()),
    ([node("Pad", "c pads three", "u"), node("MaxPool", "u", "v", kernel_shape=[2, 2])], ()),
    ([node("Pad", "c pads", "v", mode="reflect")], (4, 1, 1)),
    (
        [node("MaxPool", "c", "s", kernel_shape=[2, 2]), node("Resize", "s - scales", "u"), node("Flatten", "u", "v")],
        (),
    ),
]
SCALES = [
    ([node("Relu", "c", "v")], (4, 1, 1)),
    ([node("LeakyRelu", "c", "v", alpha=0.3)], (4, 1, 1)),
    ([node("PRelu", "c slope", "v")], ()),
    ([node("Pad", "c pads", "v")], (4, 1, 1)),
    ([node("Relu", "c", "u"), node("MaxPool", "u", "v", kernel_shape=[2, 2])], (4, 1, 1)),
]


@pytest.mark.parametrize(("chain", "shape"), [*ANY, *SCALES], ids=names)
@pytest.mark.parametrize("step", ["Mul v k", "Div v k"])
def test_back_with_a_scale(chain: list[onnx.NodeProto], shape: tuple[int, ...], step: str) -> None:
    op, inputs = step.split(" ", 1)
    before = back(chain, node(op, inputs, "y"), k=rand(*shape, seed=9, low=0.5, high=2))
    after, report = apply(before, BACK)
    assert fired(report) == [BACK]
    assert op not in ops(after)
    assert_same(before, after, FEEDS, tol=5e-6, reference=False)


@pytest.mark.parametrize(("chain", "shape"), ANY, ids=names)
@pytest.mark.parametrize("step", ["Add v k", "Sub v k"])
def test_back_with_a_shift(chain: list[onnx.NodeProto], shape: tuple[int, ...], step: str) -> None:
    op, inputs = step.split(" ", 1)
    before = back(chain, node(op, inputs, "y"), k=rand(*shape, seed=9))
    after, report = apply(before, BACK)
    assert fired(report) == [BACK]
    assert op not in ops(after)
    assert_same(before, after, FEEDS, tol=5e-6, reference=False)


STATISTICS = {
    "g": rand(4, seed=1, low=0.2),
    "t": rand(4, seed=2),
    "mu": rand(4, seed=3),
    "var": rand(4, seed=4, low=0.1),
}
BN = node("BatchNormalization", "v g t mu var", "y")


@pytest.mark.parametrize("pool", ["AveragePool", "MaxPool"])
def test_back_with_a_batch_normalization(pool: str) -> None:
    before = back([node(pool, "c", "v", kernel_shape=[2, 2])], BN, **{**STATISTICS, "g": rand(4, seed=1, low=0.2)})
    after, _ = apply(before, BACK)
    assert ops(after) == {"Conv": 1, pool: 1}
    assert_same(before, after, FEEDS, tol=5e-6)


def test_back_of_batch_normalization_written_out_behind_views() -> None:
    chain = [node("Transpose", "c", "u", perm=[0, 2, 3, 1]), node("Unsqueeze", "u axis0", "v")]
    nodes = [CONV, *chain, node("Mul", "v s", "z"), node("Add", "z t", "r"), node("Relu", "r", "y")]
    weights = {**BASE, "axis0": LISTS["axis0"], "s": rand(4, seed=1), "t": rand(4, seed=2)}
    before = model(nodes, {"x": [2, 3, "H", "W"]}, ["y"], weights)
    after, report = apply(before, BACK)
    assert fired(report) == [BACK, BACK]
    assert ops(after) == {"Conv": 1, "Transpose": 1, "Unsqueeze": 1, "Relu": 1}
    assert_same(before, after, FEEDS, tol=5e-6)


POSITIVE = np.float32(2)
REFUSED = [
    ([node("Relu", "c", "v")], "Add", POSITIVE, "a shift does not move through Relu"),
    ([node("Relu", "c", "v")], "Mul", -POSITIVE, "a scale that is not positive does not move through Relu"),
    ([node("MaxPool", "c", "v", kernel_shape=[2, 2])], "Mul", rand(4, 1, 1), "a scale that is not positive does not"),
    ([node("MaxPool", "c", "v", kernel_shape=[2, 2], dilations=[2, 2])], "Add", POSITIVE, "a window of the pool may"),
    ([node("MaxPool", "c", "v", kernel_shape=[2, 2], ceil_mode=1)], "Add", POSITIVE, "a window of the pool may"),
    ([node("AveragePool", "c", "v", kernel_shape=[2, 2], ceil_mode=1)], "Add", POSITIVE, "the pool may count what it"),
    (
        [node("AveragePool", "c", "v", kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1)],
        "Add",
        POSITIVE,
        "the pool may count what it pads, which is zero and not the shift",
    ),
    ([node("Pad", "c pads", "v")], "Add", rand(4, 1, 1), "what the Pad puts in is one number, and the map has others"),
    ([node("Pad", "c pads one", "v")], "Mul", rand(4, 1, 1), "what the Pad puts in is one number, and the map has"),
    (
        [node("Pad", "c pads one", "v")],
        "Mul",
        np.float32(1e5),
        "what the Pad puts in would leave the range of its type",
    ),
    ([node("ReduceMax", "c", "m", keepdims=0), node("Pad", "c pads m", "v")], "Mul", POSITIVE, ""),
    ([node("Pad", "c cpads", "v")], "Mul", rand(6, 1, 1, low=1), "a constant of shape [6, 1, 1] is not one number"),
    (
        [node("Resize", "c - scales", "v", mode="cubic", exclude_outside=1)],
        "Mul",
        POSITIVE,
        "the weights of this interpolation are not certain",
    ),
    (
        [node("Resize", "c box scales", "v", mode="linear", coordinate_transformation_mode="tf_crop_and_resize")],
        "Mul",
        POSITIVE,
        "what lies outside has a value of its own",
    ),
    ([node("Reshape", "c mixed", "v")], "Mul", rand(32, low=1), "a constant of shape [32] is not one number"),
    ([node("Flatten", "c", "v")], "Mul", rand(256, low=1), "a constant of shape [256] is not one number"),
    ([node("Transpose", "c", "v")], "Mul", rand(1, 1, 1, 1, 1, low=1), "a constant of shape [1, 1, 1, 1, 1] is not"),
    ([node("PRelu", "c c", "v")], "Mul", POSITIVE, "an operator in between reads the value twice"),
]


@pytest.mark.parametrize(("chain", "op", "k", "reason"), REFUSED)
def test_back_refuses(chain: list[onnx.NodeProto], op: str, k: Any, reason: str) -> None:
    more = {
        "one": np.float32(1),
        "cpads": np.array([0, 1, 0, 0, 0, 1, 0, 0]),
        "box": np.array([0, 0, 0, 0, 1, 1, 1, 1], np.float32),
        "mixed": np.array([2, 8, 32]),
    }
    before = back(chain, node(op, "v k", "y"), k=k, **more)
    after, report = apply(before, BACK)
    assert ops(after)[op] == 1
    assert not reason or reasons(report, BACK)[0].startswith(reason)


def test_back_through_a_pad_of_an_attribute() -> None:
    nodes = [CONV, node("Pad", "c", "v", pads=[0, 0, 1, 1, 0, 0, 1, 1], value=2.0), node("Sub", "k v", "y")]
    before = model(nodes, {"x": [2, 3, 8, 8]}, ["y"], {**BASE, "k": POSITIVE}, opset=10)
    after, _ = apply(before, BACK)
    assert ops(after) == {"Conv": 1, "Pad": 1}
    assert_same(before, after, FEEDS, tol=5e-6, reference=False)


def test_back_refuses_a_batch_normalization_over_another_axis() -> None:
    chain = [node("Transpose", "c", "v", perm=[0, 2, 1, 3])]
    wide = {key: np.resize(value, 8) for key, value in STATISTICS.items()}
    _, report = apply(back(chain, BN, **wide), BACK)
    expected = "the channels of BatchNormalization are not proven to be those of the convolution"
    assert reasons(report, BACK) == [expected]


def test_back_leaves_a_chain_that_is_read_elsewhere() -> None:
    before = back([node("Relu", "c", "v")], node("Mul", "v k", "y"), k=POSITIVE)
    before.graph.output.append(onnx.helper.make_tensor_value_info("c", TensorProto.FLOAT, [2, 4, 8, 8]))
    after, _ = apply(before, BACK)
    assert ops(after)["Mul"] == 1


def test_back_leaves_written_out_activations() -> None:
    """clip(x + 3, 0, 6) / 6 behind a Relu."""
    nodes = [
        CONV,
        node("Relu", "c", "v"),
        node("Add", "v three", "a"),
        node("Clip", "a zero six", "h"),
        node("Div", "h six", "y"),
    ]
    weights = {**BASE, "three": np.float32(3), "zero": np.float32(0), "six": np.float32(6)}
    _, report = apply(model(nodes, {"x": [2, 3, 8, 8]}, ["y"], weights), BACK)
    assert reasons(report, BACK) == [
        "the constant is part of a HardSigmoid written out, which is worth more when recognised as one"
    ]


def forward(first: onnx.NodeProto, chain: list[onnx.NodeProto], last: onnx.NodeProto, **more: Any) -> onnx.ModelProto:
    """x [2, 4, 6, 6] through a map to `a`, through the chain to `v`, and a Conv or Gemm."""
    nodes = [first, *chain, last]
    used = {name for item in nodes for name in item.input}
    weights = {
        "w": rand(3, 4, 3, 3, seed=5),
        "b": rand(3, seed=6),
        "m": rand(4, 3, seed=8),
        "flatter": rand(144, 3, seed=8),
        **LISTS,
        **STATISTICS,
        **more,
    }
    return model(nodes, {"x": [2, 4, 6, 6]}, ["y"], {k: v for k, v in weights.items() if k in used})


POOL, RELU = node("MaxPool", "a", "v", kernel_shape=[2, 2]), node("Relu", "a", "v")
IMAGE = {"x": rand(2, 4, 6, 6, seed=7)}
PER_CHANNEL = rand(4, 1, 1, seed=9, low=0.5, high=2)
BEFORE = node("Conv", "v w b", "y")
FLAT = node("MatMul", "v flatter", "y")
PADDED = node("Conv", "v w b", "y", pads=[1, 1, 1, 1])


@pytest.mark.parametrize("op", ["Mul", "Div", "Add", "Sub"])
@pytest.mark.parametrize(
    "chain",
    [
        [node("MaxPool", "a", "v", kernel_shape=[2, 2])],
        [node("AveragePool", "a", "v", kernel_shape=[2, 2])],
        [node("Resize", "a - scales", "v", mode="linear")],
        [node("Transpose", "a", "u", perm=[0, 2, 1, 3]), node("Transpose", "u", "v", perm=[0, 2, 1, 3])],
        [node("Pad", "a pads", "v", mode="edge")],
    ],
    ids=lambda chain: "-".join(n.op_type for n in chain),
)
def test_forward(op: str, chain: list[onnx.NodeProto]) -> None:
    before = forward(node(op, "x k", "a"), chain, BEFORE, k=PER_CHANNEL)
    after, report = apply(before, FORWARD)
    assert fired(report) == [FORWARD]
    assert op not in ops(after)
    assert_same(before, after, IMAGE, tol=5e-6, reference=False)


@pytest.mark.parametrize("last", [BEFORE, PADDED])
def test_forward_through_an_activation(last: onnx.NodeProto) -> None:
    before = forward(node("Mul", "x k", "a"), [node("Relu", "a", "v")], last, k=PER_CHANNEL)
    after, _ = apply(before, FORWARD)
    assert ops(after) == {"Relu": 1, "Conv": 1}
    assert_same(before, after, IMAGE, tol=5e-6)


@pytest.mark.parametrize("op", ["Mul", "Div", "Add", "Sub"])
def test_forward_through_a_pad_that_is_mapped(op: str) -> None:
    """(x - 0.5) padded with -1 is x padded with -0.5."""
    before = forward(node(op, "x k", "a"), [node("Pad", "a pads minus", "v")], BEFORE, k=POSITIVE, minus=-POSITIVE / 2)
    after, _ = apply(before, FORWARD)
    assert ops(after) == {"Pad": 1, "Conv": 1}
    assert_same(before, after, IMAGE, tol=5e-6)


@pytest.mark.parametrize("op", ["Mul", "Div"])
@pytest.mark.parametrize("shape", [(6, 4), (2, 6, 6, 4)])
def test_forward_into_matmul(op: str, shape: tuple[int, ...]) -> None:
    perm = [0, 2, 3, 1] if len(shape) == 4 else [1, 0]
    x = [shape[0], 4, 6, 6] if len(shape) == 4 else [4, 6]
    nodes = [node(op, "x k", "a"), node("Transpose", "a", "v", perm=perm), node("MatMul", "v m", "y")]
    k = PER_CHANNEL if len(shape) == 4 else PER_CHANNEL.reshape(4, 1)
    before = model(nodes, {"x": x}, ["y"], {"k": k, "m": rand(4, 3)})
    after, _ = apply(before, FORWARD)
    assert ops(after) == {"Transpose": 1, "MatMul": 1}
    assert_same(before, after, {"x": rand(*x)}, tol=5e-6)


def test_forward_into_gemm() -> None:
    chain = [node("GlobalAveragePool", "a", "u"), node("Flatten", "u", "v")]
    for first in (node("Add", "x k", "a"), node("BatchNormalization", "x g t mu var", "a")):
        before = forward(first, chain, node("Gemm", "v m b", "y"), k=PER_CHANNEL)
        after, _ = apply(before, FORWARD)
        assert ops(after) == {"GlobalAveragePool": 1, "Flatten": 1, "Gemm": 1}
        assert_same(before, after, IMAGE, tol=5e-6)


@pytest.mark.parametrize(
    ("first", "chain", "last", "k", "reason"),
    [
        ("Add", [POOL], PADDED, PER_CHANNEL, "what is padded in"),
        ("Add", [RELU], BEFORE, PER_CHANNEL, "a shift does not move through Relu"),
        ("Mul", [RELU], BEFORE, -PER_CHANNEL, "a scale that is not positive"),
        ("Add", [node("Pad", "a pads", "v")], BEFORE, POSITIVE, "zeros that a Pad puts in join the padding"),
        ("Add", [node("Flatten", "a", "u"), node("Relu", "u", "v")], FLAT, POSITIVE, "a shift does not move"),
        ("Add", [node("Flatten", "a", "v")], FLAT, POSITIVE, "a product has no bias that would take the shift"),
        ("Mul", [RELU], BEFORE, rand(6, low=1), "a constant of shape [6] is not one"),
        ("Mul", [node("PRelu", "a a", "v")], BEFORE, PER_CHANNEL, "an operator in between reads"),
        ("Mul", [node("Abs", "a", "u"), node("Relu", "u", "v")], BEFORE, PER_CHANNEL, ""),
    ],
)
def test_forward_refuses(first: str, chain: list[onnx.NodeProto], last: onnx.NodeProto, k: Any, reason: str) -> None:
    after, report = apply(forward(node(first, "x k", "a"), chain, last, k=k), FORWARD)
    assert ops(after)[first] == 1
    assert not reason or reasons(report, FORWARD)[0].startswith(reason)


def test_forward_refuses_a_batch_normalization_over_another_axis() -> None:
    chain = [node("Transpose", "a", "v", perm=[0, 3, 2, 1])]
    before = forward(node("BatchNormalization", "x g t mu var", "a"), chain, BEFORE, w=rand(3, 6, 3, 3))
    _, report = apply(before, FORWARD)
    assert reasons(report, FORWARD) == ["the channels are not followed to their axis"]


def test_forward_refuses_a_constant_that_enlarges() -> None:
    nodes = [node("Mul", "x k", "a"), node("MaxPool", "a", "v", kernel_shape=[2, 2]), BEFORE]
    weights = {"w": rand(3, 4, 3, 3), "b": rand(3), "k": PER_CHANNEL}
    before = model(nodes, {"x": [2, 1, 6, 6]}, ["y"], weights)
    _, report = apply(before, FORWARD)
    assert reasons(report, FORWARD) == ["the constant is not proven to leave the shape of the other operand as it is"]
