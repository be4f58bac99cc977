"""What is different between two models."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper, parser

from graphopt import diff, ir, optimize
from graphopt.demo import demo_model
from graphopt.errors import GraphoptError

HEAD = '<ir_version: 8, opset_import: ["": 17]> g (float[N] x) => (float[N] y) '


def model(body: str, head: str = HEAD) -> ModelProto:
    return parser.parse_model(head + body)


def kinds(a: ModelProto, b: ModelProto) -> list[tuple[str, str]]:
    return [(change.kind, change.op or change.node) for change in diff(a, b).changes]


def test_a_model_and_itself() -> None:
    found = diff(demo_model(), demo_model())
    assert (found.is_same, found.changes, found.operators) == (True, [], {})


def test_names_alone_make_no_difference() -> None:
    a = model("{ a = Neg(x)  b = Exp(a)  y = Relu(b) }")
    b = model("{ p = Neg(x)  q = Exp(p)  y = Relu(q) }")
    assert diff(a, b).is_same


def test_gone_and_new() -> None:
    a, b = model("{ a = Neg(x)  y = Elu(a) }"), model("{ a = Neg(x)  y = Relu(a) }")
    assert kinds(a, b) == [("removed", "Elu"), ("added", "Relu")]
    assert diff(a, b).operators == {"Elu": (1, 0), "Relu": (0, 1)}


def test_attributes_and_wiring() -> None:
    a, b = model("{ a = Neg(x)  y = Elu<alpha = 1.0>(a) }"), model("{ a = Neg(x)  y = Elu<alpha = 0.5>(x) }")
    (change,) = diff(a, b).changes
    assert change.what == "attribute alpha: 1.0 became 0.5; input 0: 'a' became 'x'"


def test_defaults_written_out_are_the_same() -> None:
    assert diff(model("{ y = Elu<alpha = 1.0>(x) }"), model("{ y = Elu(x) }")).is_same


def test_what_rules_made_says_from_what() -> None:
    before = demo_model()
    found = diff(before, optimize(before, verify="off"))
    made = [change for change in found.changes if change.kind == "made"]
    labels = {node.label for graph in ir.from_proto(before).scopes() for node in graph}
    assert made
    assert all(change.rules and set(change.sources) <= labels for change in made)
    assert not [change for change in found.changes if change.kind == "added"]


def test_constants_that_changed() -> None:
    pair = []
    for last in (3.0, 3.5):
        found = model("{ y = Add(x, w) }")
        found.graph.initializer.append(numpy_helper.from_array(np.float32([1, last]), "w"))
        pair.append(found)
    (change,) = diff(*pair).changes
    assert (change.kind, change.node, change.what) == ("constant", "w", "other values, apart by up to 0.5")
    pair[1].graph.initializer[0].CopyFrom(numpy_helper.from_array(np.float64([1]), "w"))
    assert diff(*pair).changes[0].what == "float32[2] became float64[1]"


def test_the_interface() -> None:
    b = model("{ q = Neg(x)  z = Relu(q) }", '<ir_version: 8, opset_import: ["": 18]> g (float[M] x) => (float[M] z) ')
    found = diff(model("{ q = Neg(x)  y = Relu(q) }"), b).interface
    assert found == [
        "input 'x' has another type or shape", "output 'y' is gone", "output 'z' is new",
        "operator set ai.onnx: 17 became 18",
    ]  # fmt: skip


def test_in_bodies() -> None:
    text = (
        "{ go = Constant<value = bool {1}>() y = If(go) <then_branch = t () => (float[N] r) { r = %s(x) },"
        " else_branch = e () => (float[N] q) { q = Relu(x) }> }"
    )
    assert kinds(model(text % "Exp"), model(text % "Abs")) == [("removed", "Exp"), ("added", "Abs")]


def test_where_values_part() -> None:
    a = model("{ a = Neg(x)  b = Mul(a, a)  y = Relu(b) }")
    b = model("{ a = Neg(x)  b = Mul(a, x)  y = Relu(b) }")
    found = diff(a, b, inputs={"x": np.float32([1, 2])}, numeric=True)
    assert found.values is not None
    assert [(row["name"], row["same"]) for row in found.values] == [("a", True), ("b", False), ("y", False)]
    assert found.values[1]["max_abs"] == 8.0
    assert diff(a, a, numeric=True).values == [
        {"name": name, "node": name, "same": True, "max_abs": 0.0, "max_rel": 0.0} for name in "aby"
    ]


@pytest.mark.parametrize("value", [np.zeros((2, 2), np.float32), np.float64([1])])
def test_inputs_that_do_not_run(value: Any) -> None:
    a = model("{ y = Relu(x) }")
    with pytest.raises(GraphoptError, match="cannot be compared"):
        diff(a, a, numeric=True, inputs={"x": value})


def test_json_is_plain() -> None:
    import json

    found = diff(model("{ y = Relu(x) }"), model("{ y = Elu(x) }"))
    assert json.loads(json.dumps(found.to_dict()))["changes"][0] == {"kind": "removed", "node": "y", "op": "Relu"}


def test_a_large_constant_is_not_copied_to_be_compared() -> None:
    found = model("{ y = Add(x, w) }")
    found.graph.initializer.append(helper.make_tensor("w", TensorProto.FLOAT, [2], [1.0, float("nan")]))
    assert diff(found, found).is_same
