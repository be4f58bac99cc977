"""drop-zero-state: initial states of zeros."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from ..util import apply, fired, node, reasons
from .text import nodes, same

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def recurrent(
    op: str, states: list[onnx.NodeProto], inputs: str, outputs: str = "y", **weights: np.ndarray
) -> onnx.ModelProto:
    random = np.random.default_rng(0)
    rows, dims = GATES[op] * 2, {"y": ["T", 1, "N", 2], "h": [1, "N", 2], "c": [1, "N", 2]}
    given = {
        "w": random.normal(size=(1, rows, 3)).astype(np.float32),
        "r": random.normal(size=(1, rows, 2)).astype(np.float32),
        "b": random.normal(size=(1, 2 * rows)).astype(np.float32),
        "i1": np.array(1),
        "v0": np.array([0]),
        "v1": np.array([1]),
        "two": np.array([2]),
        **weights,
    }
    graph = helper.make_graph(
        [*states, node(op, inputs, outputs, hidden_size=2)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["T", "N", 3])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, dims[name]) for name in outputs.split() if name != "-"],
        [numpy_helper.from_array(value, name) for name, value in given.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


ZEROS = [
    node("Shape", "x", "s"),
    node("Gather", "s i1", "n"),
    node("Unsqueeze", "n v0", "u"),
    node("Concat", "v1 u two", "t", axis=0),
    node("ConstantOfShape", "t", "z"),
]


@pytest.mark.parametrize("op", ["GRU", "LSTM", "RNN"])
def test_zeros_made_of_the_batch_size(op: str) -> None:
    model = recurrent(op, ZEROS, "x w r b - z z" if op == "LSTM" else "x w r b - z", "y h")
    after, report = apply(model, "drop-zero-state", "dead-code")
    assert nodes(after) == op and fired(report)[0] == "drop-zero-state"
    assert list(after.graph.node[0].input) == ["x", "w", "r", "b"]
    same(model, after)


def test_zeros_that_were_moved_about() -> None:
    moves = [
        node("Concat", "z z", "zz", axis=0),
        node("Slice", "zz v0 v1", "cut"),
        node("Transpose", "cut", "turned", perm=[0, 1, 2]),
        node("Identity", "turned", "h0"),
    ]
    model = recurrent("LSTM", [*ZEROS, *moves], "x w r b - h0 z", "- h c")
    after, report = apply(model, "drop-zero-state", "dead-code")
    assert nodes(after) == "LSTM" and fired(report)[0] == "drop-zero-state"
    assert list(after.graph.node[0].output) == ["", "h", "c"]
    same(model, after)


def test_one_state_of_two() -> None:
    model = recurrent("LSTM", ZEROS, "x w r b - z c0", c0=np.ones((1, 2, 2), np.float32))
    after, _ = apply(model, "drop-zero-state", "dead-code")
    assert list(after.graph.node[0].input) == ["x", "w", "r", "b", "", "", "c0"]
    same(model, after, {"x": np.ones((3, 2, 3), np.float32)})


def test_peepholes_stay() -> None:
    model = recurrent("LSTM", ZEROS, "x w r b - z z p", p=np.ones((1, 6), np.float32))
    after, _ = apply(model, "drop-zero-state", "dead-code")
    assert list(after.graph.node[0].input) == ["x", "w", "r", "b", "", "", "", "p"]
    same(model, after)


@pytest.mark.parametrize("value", [1.0, -0.0, float("nan")])
def test_other_states_stay(value: float) -> None:
    model = recurrent("GRU", [], "x w r b - h0", h0=np.full((1, 2, 2), value, np.float32))
    after, report = apply(model, "drop-zero-state")
    assert not fired(report) and not reasons(report, "drop-zero-state")
    assert len(after.graph.node[0].input) == 6


def test_states_that_are_given_or_computed_stay() -> None:
    filled = node("ConstantOfShape", "t", "z", value=numpy_helper.from_array(np.float32([0.5])))
    for states in ([*ZEROS[:-1], filled], [*ZEROS[:-1], node("ConstantOfShape", "t", "a"), node("Exp", "a", "z")]):
        _, report = apply(recurrent("GRU", states, "x w r b - z"), "drop-zero-state")
        assert not fired(report)
