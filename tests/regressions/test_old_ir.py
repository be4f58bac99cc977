"""Before IR version 4 initializers are listed as inputs, and inference does not see one that is not: a new constant."""

from __future__ import annotations

from onnx import parser

from graphopt.testing import conformance


def test_lifted_constants_are_folded_at_once() -> None:
    model = parser.parse_model(
        '<ir_version: 3, opset_import: ["": 8]> g (float[2] x, float[3,2] c) => (float[3,2] y) '
        "<float[3,2] c = {1, 2, 3, 4, 5, 6}> { d = Constant<value = float[2] {3, 4}>()  s = Add(c, d)  y = Mul(x, s) }"
    )
    outcome = conformance("default", model)
    assert [node.op_type for node in outcome.model.graph.node] == ["Mul"]
