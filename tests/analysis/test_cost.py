"""FLOPs against figures worked out by hand."""

from __future__ import annotations

import pytest
from onnx import parser

import graphopt.ir as ir
from graphopt.analysis.cost import Sizes, evaluate, node_cost, workspace
from graphopt.analysis.shapes import infer


def flops(text: str, bindings: dict[str, int] | None = None, imports: str = '"": 18') -> int | None:
    """FLOPs of the last node of a graph in ONNX text."""
    model = ir.from_proto(parser.parse_model(f"<ir_version: 8, opset_import: [{imports}]> g {text}"))
    infer(model)
    return node_cost(list(model.graph)[-1], Sizes(bindings or {})).flops


BY_HAND = {
    # outputs 2*4*6*6, weights of a filter 3*3*3
    "(float[2,3,8,8] x, float[4,3,3,3] w) => (float[2,4,6,6] y) { y = Conv(x, w) }": 2 * 288 * 27,
    "(float[2,3,8,8] x, float[4,3,3,3] w, float[4] b) => (float[2,4,6,6] y) { y = Conv(x, w, b) }": 2 * 288 * 27 + 288,
    # depthwise: one input channel a filter
    "(float[1,4,8,8] x, float[4,1,3,3] w) => (float[1,4,6,6] y) { y = Conv<group=4>(x, w) }": 2 * 144 * 9,
    # inputs 4*5*5, each meets 2*2*2 weights
    "(float[1,4,5,5] x, float[4,2,2,2] w) => (float[1,2,6,6] y) { y = ConvTranspose(x, w) }": 2 * 100 * 8,
    "(float[5,2,3] x, float[3,7] w) => (float[5,2,7] y) { y = MatMul(x, w) }": 2 * 70 * 3,
    "(float[3,5] x, float[3,7] w, float[7] b) => (float[5,7] y) { y = Gemm<transA=1>(x, w, b) }": 2 * 35 * 3 + 35,
    # 6 steps of 2 samples, 16*3 + 16*4 weights
    "(float[6,2,3] x, float[1,16,3] w, float[1,16,4] r) => (y) { y = LSTM<hidden_size=4>(x, w, r) }": 2 * 12 * 112,
    '(float[2,3,4] a, float[2,4,5] b) => (float[2,3,5] y) { y = Einsum<equation="bij,bjk->bik">(a, b) }': 2 * 120,
    "(float[1,2,8,8] x) => (float[1,2,4,4] y) { y = MaxPool<kernel_shape=[2,2],strides=[2,2]>(x) }": 32 * 4,
    "(float[1,2,8,8] x) => (float[1,2,1,1] y) { y = GlobalAveragePool(x) }": 128,
    "(float[2,8] x, float[8] b) => (float[2,8] y) { y = Add(x, b) }": 16,
    "(float[2,8] x) => (float[2,8] y) { y = Softmax(x) }": 80,
    "(float[2,8] x) => (float[8,2] y) { y = Transpose(x) }": 0,
    "(float[2,8] x, float[2,8] z, float[2,8] u) => (float[2,8] y) { y = Sum(x, z, u) }": 32,
}


@pytest.mark.parametrize("text", BY_HAND)
def test_flops_by_hand(text):
    assert flops(text) == BY_HAND[text]


def test_dynamic_dimensions_count_as_one_unless_bound():
    text = "(float[N,8] x, float[8,4] w) => (float[N,4] y) { y = MatMul(x, w) }"
    assert flops(text) == 64
    assert flops(text, {"N": 10}) == 640


def test_unknown_operators_and_shapes_have_no_figure():
    assert flops("(float[2] x) => (float[2] y) { y = my.Thing(x) }", imports='"": 18, "my": 1') is None
    text = "(float[2,8] x, int64[K] s, float[4,4] w) => (float[M,4] y) { r = Reshape(x, s) y = MatMul(r, w) }"
    assert flops(text) is None


def test_a_malformed_node_has_no_figure():
    assert flops("(float[2,8] x) => (float[2,8] y) { y = Conv(x) }") is None


def test_parameters_count_constants_as_stored():
    text = "(float[2,4] x) => (float[2,3] y) <float[4,3] w = {1,1,1,1,1,1,1,1,1,1,1,1}> { y = MatMul(x, w) }"
    model = ir.from_proto(parser.parse_model(f'<ir_version: 8, opset_import: ["": 18]> g {text}'))
    cost = node_cost(next(iter(model.graph)))
    assert (cost.parameters, cost.parameter_bytes) == (12, 48)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *[("N", 7), ("M", 1), ("2*N + 1", 15), ("floor(N/2)", 3), ("-N", 0), ("Max(N, 3)", 7), ("N // 0", 1)],
        *[
            ("a b", 1),
            ("().__class__", 1),
            ("N.real", 1),
            ("f(N)", 1),
            ("2**9999999", 1),
            ("", 1),
            ("N if N else 2", 1),
        ],
    ],
)
def test_expressions_of_dimensions(text, value):
    assert evaluate(text, {"N": 7}, 1) == value


EINSUM = '{ y = Einsum<equation="...ij,...jk->...ik">(x, z) }'
ROIS = "(float[1,2,8,8] x, float[3,4] r, int64[3] i) => (float[3,2,4,4] y)"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"(float[2,3,4] x, float[2,4,5] z) => (float[2,3,5] y) {EINSUM}", 240),
        (f"(float[3,4] x, float[2,4,5] z) => (float[2,3,5] y) {EINSUM}", 240),
        ("(float[2,6,6] x) => (float[2] y) { y = Det(x) }", 2 * (144 + 6)),
        (f"{ROIS} {{ y = RoiAlign<output_height=4, output_width=4, sampling_ratio=2>(x, r, i) }}", 8 * 4 * 96),
        (f"{ROIS} {{ y = RoiAlign<output_height=4, output_width=4>(x, r, i) }}", None),
    ],
)
def test_operators_whose_cost_is_in_their_attributes(text, expected):
    assert flops(text) == expected


def test_work_space():
    def space(text):
        model = ir.from_proto(parser.parse_model(f'<ir_version: 8, opset_import: ["": 18]> g {text}'))
        infer(model)
        return workspace(next(iter(model.graph)))

    assert space("(float[1,3,8,8] x, float[5,3,3,3] w) => (float[1,5,6,6] y) { y = Conv(x, w) }") == 27 * 36
    assert space('(float[4] x, float[5] z) => (float[4,5] y) { y = Einsum<equation="i,j->ij">(x, z) }') == 0
    assert space('(float[4] x, float[5] z, float[4] u) => (float y) { y = Einsum<equation="i,j,i->">(x, z, u) }') == 20
    assert space("(float[4] x) => (float[4] y) { y = Relu(x) }") == 0
