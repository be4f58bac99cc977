"""Models joined end to end."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, parser

from graphopt import compose
from graphopt.errors import GraphoptError
from graphopt.verify.run import Session
from graphopt.verify.source import Source

HEAD = '<ir_version: 8, opset_import: ["": 17]> g '
NEG = parser.parse_model(HEAD + "(float[N] x) => (float[N] y, float[N] t) { t = Neg(x)  y = Abs(t) }")
EXP = parser.parse_model(HEAD + "(float[N] y, float[N] k) => (float[N] z) { t = Mul(y, k)  z = Exp(t) }")


def interface(model: ModelProto) -> tuple[list[str], list[str]]:
    return [i.name for i in model.graph.input], [o.name for o in model.graph.output]


def run(model: ModelProto, **feeds: Any) -> dict[str, Any]:
    return dict(zip(interface(model)[1], Session(Source.of(model)).run(feeds), strict=True))


def test_names_that_both_have_are_connected_and_inner_ones_get_out_of_the_way() -> None:
    whole = compose(NEG, EXP)
    assert interface(whole) == (["x", "k"], ["t", "z"])
    found = run(whole, x=np.float32([1, -2]), k=np.float32([1, 0]))
    assert found["t"].tolist() == [-1, 2]
    assert found["z"].tolist() == pytest.approx([np.e, 1])


def test_by_hand_and_kept() -> None:
    whole = compose(NEG, EXP, {"t": "k", "y": "y"}, keep=["y"])
    assert interface(whole) == (["x"], ["y", "z"])
    assert run(whole, x=np.float32([1]))["z"].tolist() == pytest.approx([np.exp(-1)])


def test_one_output_and_one_input_need_no_names() -> None:
    one = parser.parse_model(HEAD + "(float[N] a) => (float[N] b) { b = Neg(a) }")
    assert interface(compose(one, one, prefix="second_")) == (["a"], ["b"])


def test_an_interface_name_that_clashes() -> None:
    one = parser.parse_model(HEAD + "(float[N] a, float[N] k) => (float[N] y) { y = Add(a, k) }")
    with pytest.raises(GraphoptError, match="both models have an input 'k'; give a prefix"):
        compose(one, EXP)
    assert interface(compose(one, EXP, prefix="second_")) == (["a", "k", "second_k"], ["z"])


def test_an_output_that_is_an_input_of_the_second() -> None:
    passes = parser.parse_model(HEAD + "(float[N] y) => (float[N] y, float[N] w) { w = Relu(y) }")
    whole = compose(NEG, passes, {"y": "y"})
    assert run(whole, x=np.float32([-3]))["y"].tolist() == [3]


def test_an_older_operator_set_is_converted() -> None:
    old = parser.parse_model(
        '<ir_version: 7, opset_import: ["": 12]> g (float[2, 3] x) => (float[2, 1] y) { y = ReduceSum<axes=[1]>(x) }'
    )
    new = parser.parse_model(
        '<ir_version: 9, opset_import: ["": 18]> g (float[2, 1] y) => (float[2, 1] z) { z = Mish(y) }'
    )
    whole = compose(old, new)
    assert whole.opset_import[0].version == 18
    assert run(whole, x=np.zeros((2, 3), np.float32))["z"].tolist() == [[0], [0]]


@pytest.mark.parametrize(
    ("connect", "message"),
    [
        ({"q": "y"}, "first model has no output 'q'"),
        ({"y": "q"}, "second model has no input 'q'"),
        ({"y": "y", "t": "y"}, "two outputs are connected to one input"),
    ],
)
def test_names_that_are_not_there(connect: dict[str, str], message: str) -> None:
    with pytest.raises(GraphoptError, match=message):
        compose(NEG, EXP, connect)


def test_types_and_shapes_that_do_not_fit() -> None:
    for kind, message in (("double[N]", "different types"), ("float[2, 2]", r"shape \[\?\], 'y' takes \[2, 2\]")):
        second = parser.parse_model(HEAD + f"({kind} y) => ({kind} z) {{ z = Neg(y) }}")
        with pytest.raises(GraphoptError, match=message):
            compose(NEG, second, {"y": "y"})


def test_nothing_to_connect() -> None:
    with pytest.raises(GraphoptError, match="which output goes where"):
        compose(EXP, EXP)
    with pytest.raises(GraphoptError, match="no output 'q' to keep"):
        compose(NEG, EXP, keep=["q"])
