"""What TensorRT's parser is known not to take."""

from __future__ import annotations

import pytest
from onnx import parser

from graphopt import ir
from graphopt.analysis.shapes import infer
from graphopt.targets.tensorrt_parser import why_not_parsed

HEAD = '<ir_version: 8, opset_import: ["": 17, "com.microsoft": 1]> g '


BRANCH = (
    "(float[N] x, bool b) => (float[N] y) { y = If(b) <then_branch = t () => (float[N] r) { r = Shrink(x) },"
    " else_branch = e () => (float[N] q) { q = Relu(x) }> }"
)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("(float[N] x) => (float[N] y) { y = Relu(x) }", ""),
        ("(float[N] x) => (float[N] y) { y = com.microsoft.Gelu(x) }", "com.microsoft::Gelu is no operator of ONNX"),
        ("(string[N] x) => (string[N] y) { y = Identity(x) }", "x is string, which TensorRT does not take"),
        ("(float[1,1,4,4] x) => (float[1,1,2,2] y, int64[1,1,2,2] i) { y, i = MaxPool<kernel_shape=[3,3]>(x) }",
         "MaxPool gives indices"),
        (BRANCH, "inside it, TensorRT has no Shrink"),
    ],
)  # fmt: skip
def test_reasons(body: str, reason: str) -> None:
    model = ir.from_proto(parser.parse_model(HEAD + body))
    infer(model)
    assert why_not_parsed(model.graph.nodes[0]) == reason
