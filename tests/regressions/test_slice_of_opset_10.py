"""onnx infers that a Slice of opset 10 leaves symbolic dims as they are, so that it looked like one that takes all."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import parser

import graphopt
from graphopt.testing import conformance

BODY = "z = Slice(x, start, end, axis)  y = Relu(z)  s = Shape(y)  v = Reshape(z, s)  w = Neg(v)"


def check(text: str) -> onnx.ModelProto:
    model = parser.parse_model(text)
    feeds = {"x": np.arange(15, dtype=np.float32).reshape(3, 5) - 7}
    conformance("default", model, feeds)
    return graphopt.optimize(model, inputs=feeds)


def test_symbolic_dims_are_sliced() -> None:
    result = check(
        '<ir_version: 5, opset_import: ["": 10]> g (float[N,5] x) => (float[P,5] y, float[P,5] w) '
        f"<int64[1] start = {{0}}, int64[1] end = {{-1}}, int64[1] axis = {{0}}> {{ {BODY} }}"
    )
    assert [node.op_type for node in result.graph.node] == ["Slice", "Relu", "Neg"]


def test_in_a_function() -> None:
    check(
        '<ir_version: 8, opset_import: ["": 10, "local": 1]> g (float[N,5] x) => (float[P,5] y) '
        "{ z = local.cut(x)  s = Shape(z)  y = Reshape(z, s) } "
        '<domain: "local", opset_import: ["": 10]> cut (x) => (z) { start = Constant<value_ints = [1]>() '
        "end = Constant<value_ints = [9]>()  z = Slice(x, start, end) }".replace(
            "Constant<value_ints = [1]>", "Constant<value = int64[1] {1}>"
        ).replace("Constant<value_ints = [9]>", "Constant<value = int64[1] {9}>")
    )


def test_in_a_body() -> None:
    model = parser.parse_model(
        '<ir_version: 5, opset_import: ["": 10]> g (float[N,5] x, bool c) => (float[P,Q] y) '
        "<int64[1] start = {0}, int64[1] end = {-1}, int64[1] axis = {0}> "
        "{ y = If(c) <then_branch = t () => (float[A,B] p) { p = Slice(x, start, end, axis) }, "
        "else_branch = e () => (float[A,B] q) { z = Slice(x, start, end, axis)  q = Neg(z) }> }"
    )
    for value in (True, False):
        feeds = {"x": np.arange(10, dtype=np.float32).reshape(2, 5), "c": np.array(value)}
        conformance("default", model, feeds)
