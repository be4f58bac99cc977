"""What TensorRT's parser is known not to take."""

from __future__ import annotations

import pytest
from onnx import parser

from graphopt import ir
from graphopt.analysis.shapes import infer
from graphopt.targets.tensorrt_parser import why_not_parsed, why_not_taken

HEAD = '<ir_version: 8, opset_import: ["": 18, "com.microsoft": 1]> g '


BRANCH = (
    "(float[N] x, bool b) => (float[N] y) { y = If(b) <then_branch = t () => (float[N] r) { r = Mish(x) },"
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
        ("(float[N] x, int64[1] k) => (float[K] y, int64[K] i) { y, i = TopK(x, k) }", "K of TopK is no constant"),
        ("(float[1,1,4,4] x, float[4] s) => (float[1,1,A,B] y) { y = Resize<mode=\"cubic\">(x, , s) }",
         "Resize in mode cubic, half_pixel"),
        ("(uint8[N] x) => (uint8[N] y) { y = Identity(x) }", "x is uint8, which TensorRT does not take"),
        (BRANCH, "inside it, TensorRT has no Mish before version 10, and 8.5 is asked for"),
    ],
)  # fmt: skip
def test_reasons(body: str, reason: str) -> None:
    model = ir.from_proto(parser.parse_model(HEAD + body))
    infer(model)
    assert why_not_parsed(model.graph.nodes[0]) == reason


def test_later_versions_know_more() -> None:
    model = ir.from_proto(parser.parse_model(HEAD + "(float[N, 4] x) => (float[N, 4] y) { y = Mish(x) }"))
    infer(model)
    assert why_not_parsed(model.graph.nodes[0])
    assert not why_not_parsed(model.graph.nodes[0], (10, 15))
    assert why_not_taken(model, (8, 5)) == "opset 18 is newer than what TensorRT 8.5 knows (17)"
    assert not why_not_taken(model, (11, 4))


def test_zero_points_are_zero() -> None:
    head = "(float[N] x) => (float[N] y) <float s = {0.1}, int8 z = {3}> "
    text = head + "{ q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z) }"
    model = ir.from_proto(parser.parse_model(HEAD + text))
    infer(model)
    assert why_not_parsed(model.graph.nodes[0]) == "the zero point of QuantizeLinear is not 0"
