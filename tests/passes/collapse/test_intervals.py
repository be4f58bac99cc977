"""Intervals: no runtime gives anything outside of them but NaN, whatever is fed."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from graphopt.ir import from_proto
from graphopt.passes.collapse import _bounded
from graphopt.passes.collapse._bounded import interval, is_bounded

from ..util import model, node, rand, run

HUGE = np.array([np.inf, -np.inf, np.nan, 3.4e38, -3.4e38, 1.8e19, -1.7e19, 1e10, -7, -0.0, 1e-40, 2.5], np.float32)


def feeds() -> list[np.ndarray[Any, Any]]:
    """[2, 4, 6, 6]: ordinary numbers, large ones, single infinities and NaN, rows of one number."""
    draw = np.random.default_rng(0)
    made = [rand(2, 4, 6, 6, seed=1, low=-9, high=9)]
    made += [np.full((2, 4, 6, 6), value, np.float32) for value in (3.3e38, 1.2345e19, -2e25, np.inf, np.nan)]
    made += [draw.choice(HUGE, (2, 4, 6, 6)) for _ in range(4)]
    for value in HUGE[:6]:
        one = rand(2, 4, 6, 6, seed=2)
        one[:, 1, 2, 3] = value
        made.append(one)
    return made


CONSTANTS: dict[str, Any] = {
    "low": np.float32(-2),
    "high": np.float32(6),
    "two": np.float32(2),
    "half": np.float32(0.5),
    "k": rand(4, 1, 1, seed=3, low=0.5, high=3),
    "w": rand(5, 4, 3, 3, seed=4),
    "wt": rand(4, 5, 3, 3, seed=4),
    "b": rand(5, seed=5),
    "m": rand(6, 3, seed=6),
    "s": rand(4, seed=7),
    "s6": rand(6, seed=7),
    "t": rand(4, seed=8),
    "var": rand(4, seed=9, low=0.1),
    "axes": np.array([2]),
    "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
    "scales": np.array([1, 1, 2, 1.5], np.float32),
    "flat": np.array([2, 4, 36]),
    "neg": np.float32(-1),
}
CLIP, ABS = node("Clip", "x low high", "c"), node("Abs", "x", "a")


def one(op: str, inputs: str, **attrs: Any) -> list[onnx.NodeProto]:
    return [node(op, inputs, "y", **attrs)]


FROM_ANYTHING = [
    *[one(op, "x") for op in "Sigmoid Tanh Erf Softsign Sin Cos Sign HardSigmoid Softmax".split()],
    one("Clip", "x low high"),
    [node("Relu", "x", "r"), node("Min", "r high", "y")],
    [node("Max", "x low", "r"), node("Min", "high r", "y")],
    [node("Neg", "a", "r"), node("Exp", "r", "y")],
    [node("Abs", "x", "a0"), node("Add", "a0 two", "r"), node("Reciprocal", "r", "y")],
    [node("Min", "x neg", "r"), node("Elu", "r", "y", alpha=0.5)],
    one("LayerNormalization", "x s6", axis=-1),
    one("LayerNormalization", "x s6 s6", axis=-1, epsilon=1e-12),
    one("InstanceNormalization", "x s t"),
    [node("Cast", "x", "i", to=TensorProto.UINT8), node("Cast", "i", "y", to=TensorProto.FLOAT)],
    [node("IsNaN", "x", "i"), node("Where", "i low high", "y")],
    [node("Reshape", "x flat", "r"), node("LSTM", "r wi wr", "y", hidden_size=3)],
    [node("Reshape", "x flat", "r"), node("GRU", "r gi gr", "y", hidden_size=3)],
    [node("Reshape", "x flat", "r"), node("RNN", "r ri rr - - h0", "y", hidden_size=3)],
]
# Numbers for certain, no NaN.
NUMBERS = [node("IsNaN", "x", "i"), node("Cast", "i", "f", to=TensorProto.FLOAT), node("Conv", "f w b", "n")]
FROM_CLIPPED = [
    *[one(op, "c") for op in "Relu Abs Neg Floor Ceil Round Exp Softplus Elu Selu Celu LeakyRelu HardSwish".split()],
    *[one(op, "c") for op in "ThresholdedRelu Identity Transpose GlobalAveragePool".split()],
    *[one(op, "c c") for op in "Add Sub Mul Sum Mean Max Min".split()],
    *[one(op, "c k") for op in "Add Sub Mul Div PRelu Max Min".split()],
    one("Sub", "k c"),
    one("Pow", "c two"),
    [node("Abs", "c", "r"), node("Pow", "r half", "y")],
    [node("Abs", "c", "r"), node("Sqrt", "r", "y")],
    [node("Add", "high c", "r"), node("Log", "r", "y")],
    [node("Add", "high c", "r"), node("Div", "c r", "y")],
    one("Concat", "c k4 c", axis=1),
    one("Reshape", "c flat"),
    [node("Split", "c", "p y", axis=1)],
    one("Pad", "c pads high"),
    one("Pad", "c pads", mode="reflect"),
    *[[*NUMBERS, *one("MaxPool", "n", kernel_shape=[3, 3], pads=[1, 1, 1, 1])]],
    *[
        [*NUMBERS, *one("GlobalMaxPool", "n")],
        *[[*NUMBERS, *one(f"Reduce{op}", "n", axes=[2])] for op in ("Max", "Min")],
    ],
    one("AveragePool", "c", kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1),
    *[one(op, "c", axes=[2]) for op in "ReduceMean ReduceL1 ReduceL2 ReduceSumSquare".split()],
    one("ReduceSum", "c axes"),
    one("Resize", "c - scales", mode="linear"),
    one("Conv", "c w b", pads=[1, 1, 1, 1]),
    one("ConvTranspose", "c wt b", strides=[2, 2]),
    one("MatMul", "c m"),
    one("MatMul", "c c"),
    [node("Conv", "c w b", "r"), node("Relu", "r", "s1"), node("Conv", "s1 w2", "y")],
    one("BatchNormalization", "c s t t var"),
    [node("QuantizeLinear", "c half", "q"), node("DequantizeLinear", "q half", "y")],
    one("CumSum", "c axis0"),
]
MORE = {
    "wi": rand(1, 12, 36),
    "wr": rand(1, 12, 3),
    "gi": rand(1, 9, 36),
    "gr": rand(1, 9, 3),
    "ri": rand(1, 3, 36),
    "rr": rand(1, 3, 3),
    "h0": rand(1, 4, 3, low=-5, high=5),
    "k4": rand(2, 4, 6, 6, low=-9, high=9),
    "w2": rand(2, 5, 1, 1),
    "axis0": np.array(1),
}


def names(item: Any) -> str:
    return "-".join(part.op_type for part in item) if isinstance(item, list) else str(item)


def found_in(made: onnx.ModelProto) -> tuple[float, float]:
    ir = from_proto(made)
    from graphopt.analysis.shapes import ensure_types

    ensure_types(ir)
    return interval(ir.graph.outputs[0])


def build(nodes: list[onnx.NodeProto], opset: int = 17) -> onnx.ModelProto:
    made = {name for item in nodes for name in item.output}
    used = {name for item in nodes for name in item.input}
    before = [item for item in (CLIP, ABS) if item.output[0] in used - made]
    used |= {name for item in before for name in item.input}
    weights = {k: v for k, v in {**CONSTANTS, **MORE}.items() if k in used}
    return model([*before, *nodes], {"x": [2, 4, 6, 6]}, ["y"], weights, opset=opset)


@pytest.mark.parametrize("nodes", [*FROM_ANYTHING, *FROM_CLIPPED], ids=names)
@pytest.mark.parametrize("reference", [False, True])
def test_bounds_hold(nodes: list[onnx.NodeProto], reference: bool) -> None:
    if reference and nodes[-1].op_type in ("LSTM", "GRU", "RNN", "HardSwish", "Celu", "DequantizeLinear"):
        return  # the evaluator lacks some forms of these
    made = build(nodes)
    low, high = found_in(made)
    assert -np.inf < low <= high < np.inf
    for fed in feeds():
        result = np.asarray(run(made, {"x": fed}, reference)[0], np.float64)
        numbers = result[~np.isnan(result)]
        slack = 1e-5 * max(abs(low), abs(high))
        assert numbers.size == 0 or low - slack <= numbers.min()
        assert numbers.size == 0 or numbers.max() <= high + slack


@pytest.mark.parametrize(
    "nodes",
    [
        one("Relu", "x"),
        one("Clip", "x - high"),
        one("Clip", "x low x"),
        one("Div", "c c"),
        one("Reciprocal", "c"),
        one("Log", "c"),
        one("Pow", "c neg"),
        one("Pow", "c c"),
        one("Pad", "c pads z"),
        one("MaxPool", "c", kernel_shape=[2, 2]),  # of NaN alone it gives the lowest number
        [*NUMBERS, node("MaxPool", "n", "y", kernel_shape=[2, 2], dilations=[2, 2])],
        one("GlobalMaxPool", "c"),
        one("ReduceMax", "c", axes=[2]),
        one("ReduceMin", "c", axes=[2]),
        one("MatMul", "c x"),
        one("Conv", "x w b"),
        one("Conv", "c wd b"),
        one("Conv", "c wi4 b"),
        one("BatchNormalization", "c s t t x4"),
        one("LayerNormalization", "x s6", axis=-1, epsilon=0.0),
        one("Resize", "c - scales", mode="cubic"),
        [node("Reshape", "x flat", "r"), node("LSTM", "r wi wr", "y", hidden_size=3, activations=["Relu"] * 3)],
        [node("Reshape", "x flat", "r"), node("LSTM", "r wi wr", "- - y", hidden_size=3)],
        [node("Mul", "c big", "r"), node("Mul", "r big", "y")],
        [node("Max", "c nan", "y")],
        one("Sum", "c x c"),
    ],
    ids=names,
)
def test_unknown_is_unbounded(nodes: list[onnx.NodeProto]) -> None:
    used = {name for item in nodes for name in item.input}
    made = {name for item in nodes for name in item.output}
    before = [CLIP] if "c" in used - made else []
    extra = {"big": np.float32(3e37), "nan": np.float32(np.nan), "wi4": np.full((5, 4, 1, 1), 1e38, np.float32)}
    used |= {"low", "high"} if before else set()
    inputs: dict[str, Any] = {"x": [2, 4, 6, 6], "z": [], "wd": [5, 4, 1, 1], "x4": [4]}
    weights = {k: v for k, v in {**CONSTANTS, **MORE, **extra}.items() if k in used}
    low, high = found_in(model([*before, *nodes], inputs, {"y": None}, weights))
    assert low == -np.inf or high == np.inf


def test_float16_overflows_early() -> None:
    nodes = [node("Sigmoid", "x", "s"), node("Mul", "s k", "y")]
    for k, bounded in ((3e4, True), (6e4, False)):
        made = model(nodes, {"x": [3]}, ["y"], {"k": np.float16(k)}, dtype=TensorProto.FLOAT16)
        low, high = found_in(made)
        assert (np.isfinite(low) and np.isfinite(high)) == bounded


def test_deep_networks_take_one_walk(monkeypatch: pytest.MonkeyPatch) -> None:
    """No recursion, and each value once."""
    nodes = [node("Sigmoid", "x", "v0")]
    nodes += [node("Add", f"v{k} v{k}" if k < 3 else f"v{k} z", f"v{k + 1}") for k in range(3000)]
    ir = from_proto(model(nodes, {"x": [3]}, ["v3000"], {"z": np.float32(0.5)}))
    from graphopt.analysis.shapes import ensure_types

    ensure_types(ir)
    asked: list[Any] = []
    plain = _bounded.interval_of
    monkeypatch.setattr(_bounded, "interval_of", lambda value, each: asked.append(value) or plain(value, each))
    assert is_bounded(ir.graph.outputs[0])
    assert interval(ir.graph.outputs[0]) == (0.5 * 2997, 8 + 0.5 * 2997)
    assert len(asked) == len(set(asked)) == 3001


def test_weights_of_what_is_unbounded_are_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    ir = from_proto(build([node("Conv", "x w b", "p"), node("Conv", "p w2", "q"), node("MatMul", "q q", "y")]))
    read: list[Any] = []
    monkeypatch.setattr("graphopt.passes.collapse._intervals.elements", read.append)
    assert not is_bounded(ir.graph.outputs[0])
    assert not read


def test_a_network_of_bytes_is_bounded_as_far_as_its_weights_allow() -> None:
    nodes = [node("Cast", "x", "v0", to=1), *[node("Conv", f"v{k} w", f"v{k + 1}") for k in range(40)]]
    for size, bounded in ((0.1, True), (10.0, False)):
        weights = {"w": np.full((4, 4, 1, 1), size, np.float32)}
        made = model(
            nodes, {"x": [1, 4, 6, 6]}, {"v40": [1, 4, 6, 6]}, weights, dtype=TensorProto.UINT8, output_dtype=1
        )
        low, high = found_in(made)
        assert (np.isfinite(low) and np.isfinite(high)) == bounded


def test_attributes_of_a_function_are_not_known() -> None:
    """The bounds of a Clip may be those of the call."""
    clip = onnx.helper.make_node("Clip", ["x"], ["y"])
    clip.attribute.add(name="min", ref_attr_name="low", type=onnx.AttributeProto.FLOAT)
    clip.attribute.add(name="max", ref_attr_name="high", type=onnx.AttributeProto.FLOAT)
    opset = [onnx.helper.make_opsetid("", 10)]
    function = onnx.helper.make_function("f", "Bounded", ["x"], ["y"], [clip], opset, attributes=["low", "high"])
    call = node("Bounded", "x", "y", domain="f", low=0.0, high=1e30)
    made = model([call], {"x": [3]}, {"y": [3]}, opset=10, imports={"f": 1}, functions=[function])
    ir = from_proto(made)
    body = next(iter(ir.functions.values()))
    body.outputs[0].set_type(ir.graph.outputs[0].type)
    assert not is_bounded(body.outputs[0])
