"""ONNX Runtime takes a sparse constant that is a graph output for a sparse output, and fails or crashes."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, helper, numpy_helper, parser

from graphopt.testing import conformance


def with_sparse(model: ModelProto) -> ModelProto:
    data = numpy_helper.from_array(np.array([1.5, -2.0], np.float32), "data")
    value = helper.make_sparse_tensor(data, numpy_helper.from_array(np.array([0, 3], np.int64), "at"), [5])
    nodes = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    for node in nodes:
        if node.op_type == "Constant":
            del node.attribute[:]
            node.attribute.append(helper.make_attribute("sparse_value", value))
    return model


@pytest.mark.parametrize("idle", ["Identity(c)", "Tile(c, one)", "Sum(c)"])
def test_idle_operators_on_sparse_constants(idle: str) -> None:
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["": 13]> g () => (float[5] y, float[5] z) <int64[1] one = {1}> '
        f"{{ c = Constant<value_float = 1.0>()  y = Neg(c)  z = {idle} }}"
    )
    conformance("default", with_sparse(model))


def test_functions_that_return_sparse_constants() -> None:
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["": 13, "local": 1]> g (float[5] x) => (float[5] y, float[5] z) '
        '{ y, n = local.f(x)  z = Add(x, n) } <domain: "local", opset_import: ["": 13]> '
        "f (x) => (c, n) { c = Constant<value_float = 1.0>()  n = Neg(c) }"
    )
    conformance("default", with_sparse(model), {"x": np.ones(5, np.float32)})
