from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, parser

from graphopt import ir
from graphopt.analysis.local import tells_more
from graphopt.analysis.shapes import infer

HEAD = '<ir_version: 8, opset_import: ["": 17]> '


def inferred(body: str) -> ir.Model:
    model = ir.from_proto(parser.parse_model(HEAD + body))
    infer(model)
    return model


def node_of(model: ir.Model, op: str) -> ir.Node:
    return next(node for node in model.graph if node.op == op)


def test_nothing_new_where_nothing_changed() -> None:
    model = inferred("g (float[N, 6] x, int64[2] s) => (float[a, b] y) { r = Reshape(x, s)  y = Relu(r) }")
    assert not tells_more(model, list(model.graph))


def test_a_size_that_became_constant_is_news() -> None:
    model = inferred("g (float[4, 6] x, int64[2] s) => (float[a, b] y) { r = Reshape(x, s)  y = Relu(r) }")
    reshape = node_of(model, "Reshape")
    reshape.set_input(1, model.graph.constant(np.array([3, 8], np.int64), "s"))
    assert tells_more(model, [reshape])
    assert not tells_more(model, [node_of(model, "Relu")]), "each is asked by itself"


def test_what_is_known_whole_is_not_asked() -> None:
    model = inferred("g (float[4, 6] x) => (float[4, 6] y) { r = Neg(x)  y = Relu(r) }")
    assert not tells_more(model, list(model.graph))


def test_a_symbol_of_an_input_is_news() -> None:
    model = inferred("g (float[N, 6] x, int64[2] s) => (float[a, b] y) { r = Reshape(x, s)  y = Relu(r) }")
    relu = node_of(model, "Relu")
    relu.set_input(0, model.graph.inputs[0])
    assert tells_more(model, [relu])


def test_bodies_and_functions_always_ask_for_a_whole_inference() -> None:
    branch = (
        "then_branch = t () => (float[a] p) { p = Compress(x, c1) }, else_branch = e () => (float[b] q) { q = Neg(x) }"
    )
    model = inferred(f"g (bool c, bool[3] c1, float[3] x) => (float[d] y) {{ y = If (c) <{branch}> }}")
    assert tells_more(model, list(model.graph))


@pytest.mark.parametrize("dim", [-5, 1 << 40])
def test_absurd_sizes_go_in_as_unknown(dim: int) -> None:
    """onnx's inference ends the process over a Slice of a size below zero."""
    model = inferred("g (float[N, 6] x, int64[2] s) => (float[a, b] y) { r = Reshape(x, s)  y = Relu(r) }")
    relu = node_of(model, "Relu")
    value = node_of(model, "Reshape").output
    value.set_type(helper.make_tensor_type_proto(TensorProto.FLOAT, [None, None]))
    value.set_shape((dim, dim))
    assert not tells_more(model, [relu])
    value.set_shape((dim, 3))
    assert tells_more(model, [relu])
