"""What float16 cannot hold stays float32, by name: overflow, underflow, integers, masks."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from ..util import model, node, rand, run
from .halves import F16, F32, Half, halved, ranges, weight

X = {"x": rand(2, 4)}


def net(*nodes: onnx.NodeProto, opset: int = 17, shape: Any = (2, 4), **weights: Any) -> onnx.ModelProto:
    return model(list(nodes), {"x": list(shape)}, ["y"], weights, opset=opset)


def why(half: Half, label: str) -> str:
    """The reason on record for a node."""
    return next((reason for reason, labels in half.reasons().items() if label in labels), "")


# -- constants, exactly


def test_a_weight_that_overflows_is_refused_by_name() -> None:
    half = halved(net(node("Mul", "x w", "m", name="mul"), node("Relu", "m", "y"), w=np.float32([1, 2, 3, 1.2e5])), X)
    assert why(half, "mul") == "w holds 1.2e+05; float16 ends at 65504"
    assert half.types["w"] == F32


def test_infinities_in_constants_are_no_overflow() -> None:
    scores = [node("MatMul", "x w", "h"), node("Where", "b h i", "y", name="where")]
    half = halved(net(*scores, w=rand(4, 4), b=np.array([True, True, False, True]), i=np.float32(-np.inf)), X)
    assert half.types["i"] == F16


@pytest.mark.parametrize("op", ["Add", "Sub", "Max", "Mul"])
def test_a_number_that_would_vanish(op: str) -> None:
    half = halved(net(node(op, "x e", "y", name="eps"), e=np.float32(1e-12)), X)
    assert why(half, "eps") == "e holds 1e-12, which float16 has not"


def test_weights_with_a_few_tiny_numbers_are_fine_and_such_of_nothing_else_are_not() -> None:
    w = rand(4, 4)
    w[0, 0] = 1e-9
    assert halved(net(node("MatMul", "x w", "h"), node("Relu", "h", "y"), w=w), X).types["w"] == F16
    half = halved(net(node("MatMul", "x w", "h", name="mm"), node("Relu", "h", "y"), w=w * 1e-7), X)
    assert "of" not in why(half, "mm") and "in float16" in why(half, "mm")


def test_a_variance_of_a_batch_normalization_that_is_tiny() -> None:
    params = {k: np.float32([1, 1]) for k in "sbm"} | {"v": np.float32([1, 1e-7])}
    bn = node("BatchNormalization", "x s b m v", "y", name="bn")
    half = halved(net(bn, shape=(1, 2, 3), **params), {"x": rand(1, 2, 3)})
    assert why(half, "bn") == "v holds 1e-07, which float16 has not"


@pytest.mark.parametrize("bounds", [(-3.4028235e38, 6.0), (0.0, 3.4028235e38)])
def test_bounds_of_a_clip_may_be_infinite(bounds: tuple[float, float]) -> None:
    low, high = (np.float32(b) for b in bounds)
    half = halved(net(node("MatMul", "x w", "h"), node("Clip", "h l u", "y"), w=rand(4, 4), l=low, u=high), X)
    assert not half.reasons()


# -- what calibration saw


def test_a_tensor_that_leaves_the_range() -> None:
    nodes = [
        node("MatMul", "x w", "a", name="one"),
        node("MatMul", "a v", "b", name="two"),
        node("MatMul", "b w", "y", name="three"),
    ]
    given = net(*nodes, w=rand(4, 4), v=rand(4, 4, seed=2) * 3000)
    half = halved(given, X, ranges=ranges(x=(-1, 1), a=(-10, 10), b=(-4e4, 4e4), y=(-5, 5)))
    assert half.kept() == {"two", "three"}
    assert why(half, "two") == "b reaches 4e+04 in the calibrated runs; float16 ends at 65504"
    assert half.types["a"] == F16 and half.types["b"] == F32
    assert not halved(given, X, ranges=ranges(b=(-4e4, 4e4)), margin=1.5).reasons()


def test_a_tensor_that_stays_below_the_smallest_number() -> None:
    half = halved(
        net(node("MatMul", "x w", "h", name="mm"), node("Relu", "h", "y"), w=rand(4, 4)),
        X,
        ranges=ranges(h=(-1e-6, 1e-6)),
    )
    assert why(half, "mm").startswith("h stays below 1e-06")


@pytest.mark.parametrize(
    ("op", "seen"),
    [
        ("Exp", {"h": (-5, 5), "y": (0, 150)}),
        ("Softmax", {"h": (-5, 5), "y": (0, 1)}),
        ("LogSoftmax", {"h": (-5, 5), "y": (-10, 0)}),
    ],
)
def test_operators_that_are_prone_to_overflow_change_with_ranges_only(op: str, seen: Any) -> None:
    given = net(node("MatMul", "x w", "h"), node(op, "h", "y", name="it"), w=rand(4, 4))
    assert "it" in halved(given, X).kept()
    assert not halved(given, X, ranges=ranges(**seen)).reasons()


@pytest.mark.parametrize(
    "it",
    [
        node("LayerNormalization", "h s", "y", name="it"),
        node("ReduceL2", "h", "y", name="it", axes=[1]),
        node("LpNormalization", "h", "y", name="it"),
    ],
    ids=lambda n: n.op_type,
)
def test_operators_that_square_inside(it: onnx.NodeProto) -> None:
    given = net(node("MatMul", "x w", "h"), it, w=rand(4, 4), s=np.ones(4, np.float32))
    assert why(halved(given, X), "it") == f"inside {it.op_type} float16 may overflow"
    assert "it" in halved(given, X, ranges=ranges(h=(-200, 200), y=(-2, 2))).kept()
    assert not halved(given, X, ranges=ranges(h=(-100, 100), y=(-2, 2))).reasons()


# -- what follows from it


def test_what_may_be_large_stays_float32_until_something_bounds_it() -> None:
    nodes = [
        node("MatMul", "x w", "h"),
        node("Exp", "h", "e", name="exp"),
        node("Mul", "e k", "m", name="mul"),
        node("Tanh", "m", "t", name="tanh"),
        node("MatMul", "t w", "y", name="last"),
    ]
    half = halved(net(*nodes, w=rand(4, 4), k=np.float32(3)), X)
    assert half.kept() == {"exp", "mul", "tanh"}
    assert half.types["m"] == F32 and half.types["y"] == F32


def test_layer_normalization_written_out() -> None:
    """x = 300: its square overflows. e = 1e-12 vanishes. x / 0 would be infinite."""
    nodes = [
        node("ReduceMean", "x", "u", axes=[1], name="mean"),
        node("Sub", "x u", "d", name="sub"),
        node("Pow", "d two", "p", name="pow"),
        node("ReduceMean", "p", "v", axes=[1], name="var"),
        node("Add", "v e", "a", name="add"),
        node("Sqrt", "a", "s", name="sqrt"),
        node("Div", "d s", "n", name="div"),
        node("Mul", "n g", "y", name="mul"),
    ]
    given = net(*nodes, two=np.float32(2), e=np.float32(1e-12), g=np.float32([1, 2, 3, 4]))
    data = rand(2, 4) * 300
    half = halved(given, {"x": data})
    assert half.kept() >= {"pow", "var", "add", "sqrt", "div"}
    assert "mul" not in half.kept()
    same = np.tile(np.float32(7), (2, 4))
    assert np.isfinite(run(half.model, {"x": same})[0]).all()  # a variance of 0


@pytest.mark.parametrize(
    ("it", "weights"),
    [
        (node("Div", "x r", "y", name="it"), {}),
        (node("Reciprocal", "r", "y", name="it"), {}),
        (node("Log", "r", "y", name="it"), {}),
        (node("Pow", "r k", "y", name="it"), {"k": np.float32(-1)}),
    ],
    ids=["Div", "Reciprocal", "Log", "Pow"],
)
def test_denominators_stay_float32_from_where_they_are_made(it: onnx.NodeProto, weights: Any) -> None:
    nodes = [
        node("MatMul", "x w", "h"),
        node("Sigmoid", "h", "g", name="sigmoid"),
        node("Sqrt", "g", "r", name="root"),
        it,
    ]
    half = halved(net(*nodes, w=rand(4, 4), **weights), X)
    assert half.kept() == {"it", "sigmoid", "root"}
    assert "may be too small for float16" in why(half, "root")
    with_ranges = halved(
        net(*nodes, w=rand(4, 4), **weights), X, ranges=ranges(h=(-2, 2), g=(0.1, 0.9), r=(0.3, 0.95), y=(-4, 4))
    )
    assert not with_ranges.reasons()


def test_a_denominator_that_is_bounded_by_itself() -> None:
    """A sigmoid written out: 1 + exp(-x) is at least 1."""
    nodes = [node("Clip", "x l u", "c"), node("Exp", "c", "e"), node("Add", "e one", "a"), node("Div", "one a", "y")]
    given = net(*nodes, l=np.float32(-5), u=np.float32(5), one=np.float32(1))
    assert not halved(given, X).reasons()


def test_the_square_of_something() -> None:
    given = net(
        node("MatMul", "x w", "h"),
        node("Mul", "h h", "m", name="square"),
        node("Sqrt", "m", "y", name="root"),
        w=rand(4, 4),
    )
    assert halved(given, X).kept() == {"square", "root"}


# -- integers


def test_positions_stay_float32() -> None:
    nodes = [
        node("Shape", "x", "s"),
        node("Gather", "s one", "n"),
        node("Range", "zero n delta", "r"),
        node("Cast", "r", "f", to=F32, name="cast"),
        node("Mul", "f w", "a", name="angle"),
        node("Sin", "a", "b", name="sin"),
        node("Add", "x b", "y", name="add"),
    ]
    weights = {"one": np.int64(1), "zero": np.int64(0), "delta": np.int64(1), "w": np.float32(0.7)}
    half = halved(model(nodes, {"x": [2, "n"]}, ["y"], weights), {"x": rand(2, 3000)}, tol=2e-3)
    assert half.kept() == {"cast", "angle", "sin"}


@pytest.mark.parametrize(
    ("kind", "stays"), [(TensorProto.BOOL, False), (TensorProto.UINT8, False), (TensorProto.INT64, True)]
)
def test_integers_as_data(kind: int, stays: bool) -> None:
    given = model(
        [node("Cast", "x", "f", to=F32, name="cast"), node("Relu", "f", "y")],
        {"x": [4]},
        ["y"],
        dtype=kind,
        output_dtype=F32,
    )
    half = halved(given, {"x": np.arange(4).astype(helper.tensor_dtype_to_np_dtype(kind))})
    assert ("cast" in half.kept()) == stays


# -- masks

ATTENTION = [
    node("MatMul", "x w", "s"),
    node("Cast", "m", "f", to=F32, name="cast"),
    node("Sub", "one f", "i", name="invert"),
    node("Mul", "i low", "k", name="scale"),
    node("Add", "s k", "a", name="add"),
    node("Softmax", "a", "p", name="softmax"),
    node("MatMul", "p w", "y"),
]
SEEN = {"x": (-1, 1), "s": (-4, 4), "p": (0, 1), "y": (-1, 1)}


def attention(low: float, kind: int = TensorProto.BOOL) -> onnx.ModelProto:
    weights = {"w": rand(4, 4), "one": np.float32(1), "low": np.float32(low)}
    given = weights | {"k": np.zeros((2, 4), np.float32)}  # instead of the mask, which is put in then
    made = model([ATTENTION[0], *ATTENTION[4:]], {"x": [2, 4]}, ["y"], given)
    del made.graph.node[:]
    made.graph.node.extend(ATTENTION)
    made.graph.input.append(helper.make_tensor_value_info("m", kind, [2, 4]))
    del made.graph.initializer[-1]
    onnx.checker.check_model(made, full_check=True)
    return made


MASKED = {**X, "m": np.array([[1, 1, 0, 0], [1, 0, 1, 1]], bool)}


@pytest.mark.parametrize("low", [-3.4028235e38, -1e9])
def test_a_mask_without_ranges_is_an_island_up_to_the_softmax(low: float) -> None:
    half = halved(attention(low), MASKED)
    assert half.kept() == {"scale", "add", "softmax"}
    half = halved(attention(low, TensorProto.INT64), {**MASKED, "m": MASKED["m"].astype(np.int64)})
    assert half.kept() >= {"cast", "invert", "scale", "add", "softmax"}


@pytest.mark.parametrize("low", [-3.4028235e38, -1e9])
def test_a_mask_with_ranges_is_raised_where_it_only_feeds_a_softmax(low: float) -> None:
    seen = ranges(**SEEN, k=(low, 0), a=(low, 4))
    half = halved(attention(low), MASKED, ranges=seen)
    assert "add" not in half.kept() and "softmax" not in half.kept()
    everything_masked = {**X, "m": np.zeros((2, 4), bool)}
    assert np.isfinite(run(half.model, everything_masked)[0]).all()


def test_a_mask_that_goes_elsewhere_too_is_not_raised() -> None:
    given = attention(-3.4028235e38)
    given.graph.output.append(helper.make_tensor_value_info("a", F32, [2, 4]))
    seen = ranges(**SEEN, k=(-3.4028235e38, 0), a=(-3.4028235e38, 4))
    assert "add" in halved(given, MASKED, ranges=seen).kept()


def test_scores_that_may_be_large_leave_no_room_for_a_mask() -> None:
    seen = ranges(**{**SEEN, "s": (-2e4, 2e4)}, k=(-3.4028235e38, 0), a=(-3.4028235e38, 2e4))
    assert "add" in halved(attention(-3.4028235e38), MASKED, ranges=seen).kept()


def test_where_with_the_lowest_number() -> None:
    nodes = [
        node("MatMul", "x w", "s"),
        node("Where", "b s low", "a", name="where"),
        node("Softmax", "a", "y", name="softmax"),
    ]
    low = np.float32(-3.4028235e38)
    given = net(*nodes, w=rand(4, 4), b=np.array([[True, True, False, True], [False] * 4]), low=low)
    half = halved(given, X, ranges=ranges(s=(-4, 4), a=(float(low), 4), y=(0, 1)))
    assert not half.reasons()
    assert weight(half.model, "low") == np.float16(-65504)
    np.testing.assert_allclose(run(half.model, X)[0][1], 0.25)  # everything is masked: the mean, as before
    assert halved(given, X).kept() == {"where", "softmax"}
