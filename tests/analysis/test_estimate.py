"""Bytes moved, estimated times: by hand, monotone in sizes, the same for symbols as for the numbers they stand for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper, parser

import graphopt.ir as ir
from graphopt.analysis.cost import ORT_CPU, TENSORRT_H200, Sizes, estimate, kernel_costs, traffic, work_of
from graphopt.analysis.shapes import infer

HEAD = '<ir_version: 8, opset_import: ["": 17, "my": 1]> g '


def parsed(text: str) -> ir.Model:
    """The model; what is declared in the second brackets without a value is a constant."""
    proto = parser.parse_model(HEAD + text)
    for info in proto.graph.value_info:
        shape = [dim.dim_value for dim in info.type.tensor_type.shape.dim]
        proto.graph.initializer.append(numpy_helper.from_array(np.full(shape, 0.01, np.float32), info.name))
    model = ir.from_proto(proto)
    infer(model)
    return model


def last(text: str) -> ir.Node:
    return list(parsed(text).graph)[-1]


MOVED = {
    "(float[2,8] x) => (float[2,8] y) { y = Relu(x) }": 128,
    "(float[2,8] x) => (float[8,2] y) { y = Transpose(x) }": 128,
    "(float[2,8] x) => (float[16] y) <int64[1] s = {16}> { y = Reshape(x, s) }": 0,
    "(float[2,8] x) => (int64[2] y) { y = Shape(x) }": 16,
    "(float[100,8] x, int64[3] i) => (float[3,8] y) { y = Gather(x, i) }": 2 * 96 + 24,
    "(float16[2,8] x) => (float[2,8] y) { y = Cast<to=1>(x) }": 32 + 64,
    "(float[2,8] x, float[8,4] w) => (float[2,4] y) { y = MatMul(x, w) }": 64 + 128 + 32,
    "(float[2,8] x) => (float[2,8] y, bool[2,8] m) { y, m = Dropout(x) }": 0,
}


@pytest.mark.parametrize("text", MOVED)
def test_bytes_moved_by_hand(text):
    assert traffic(last(text)) == MOVED[text]


def test_bytes_of_unknown_shapes_are_unknown():
    node = last("(float[2,8] x, int64[K] s) => (float[M] y) { r = Reshape(x, s) y = Relu(r) }")
    assert traffic(node) is None
    assert estimate(node) == ORT_CPU.overhead


KINDS = {
    "(float[1,64,8,8] x) => (float[1,64,8,8] y) <float[64,64,3,3] w> { y = Conv<pads=[1,1,1,1]>(x, w) }": "conv",
    "(float[1,64,8,8] x) => (float[1,64,8,8] y) <float[64,64,1,1] w> { y = Conv(x, w) }": "pointwise",
    "(float[1,3,8,8] x) => (float[1,8,8,8] y) <float[8,3,1,1] w> { y = Conv(x, w) }": "first",
    "(float[1,64,8,8] x) => (float[1,64,8,8] y) <float[64,1,1,1] w> { y = Conv<group=64>(x, w) }": "depthwise",
    "(float[1,64,8] x) => (float[1,64,8] y) <float[64,64,1] w> { y = Conv(x, w) }": "columns",
    "(float[1,64,8,8] x, float[64,64,1,1] w) => (float[1,64,8,8] y) { y = Conv(x, w) }": "columns",
    "(float[2,8] x, float[8,4] w) => (float[2,4] y) { y = MatMul(x, w) }": "gemm",
    "(float[2,8] x) => (float[2,8] y) { y = Elu(x) }": "Elu",
    "(float[2,8] x) => (float[2,8] y) { y = Sinh(x) }": "branch",
    "(float[2,8] x) => (float[2,8] y) { y = my.Thing(x) }": None,
    "(float[2,8] x) => (float[2,8] y) { y = Softmax(x) }": "softmax",
    "(float[2,8] x) => (float[2,8] y) { y = Softmax<axis=0>(x) }": "softmax inner",
    "(float[2,8,9] x) => (float[2,9,8] y) { y = Transpose<perm=[0,2,1]>(x) }": "transpose",
    "(float[2,1,9] x) => (float[2,9,1] y) { y = Transpose<perm=[0,2,1]>(x) }": "copy",
    "(float[2,8,9] x) => (float[9,8,2] y) { y = Transpose<perm=[2,1,0]>(x) }": "transpose slow",
    "(float[2,8,9] x) => (float[8,2,9] y) { y = Transpose<perm=[1,0,2]>(x) }": "copy",
    "(float[2,8] x) => (float[2,1] y) { y = ReduceMean<axes=[1]>(x) }": "reduce",
    "(float[1,9,8] x) => (float[1,1,8] y) { y = ReduceMean<axes=[1]>(x) }": "reduce rows",
    "(float[9,8] x) => (float[1,8] y) { y = ReduceMax<axes=[0]>(x) }": "reduce rows",
    "(float[9,8] x, int64[2] i) => (float[9,2] y) { y = Gather<axis=1>(x, i) }": "gather",
    "(float[9,8] x, int64[2] i) => (float[2,8] y) { y = Gather(x, i) }": "copy",
    "(float[9,8] x) => (float[9,8] y) <float e = {2.0}> { y = Pow(x, e) }": "Mul",
    "(float[9,8] x) => (float[9,8] y) <float e = {2.5}> { y = Pow(x, e) }": "Pow",
    "(float[4,8] x) => (float[2,2,8] y) <int64[3] s = {2,2,8}> { y = Reshape(x, s) }": "view",
    "(float[1,2,8,8] x) => (float[1,2,4,4] y) { y = MaxPool<kernel_shape=[2,2], strides=[2,2]>(x) }": "pool",
}


@pytest.mark.parametrize("text", KINDS)
def test_kernels_of_operators(text):
    found = work_of(last(text), Sizes(), ORT_CPU)
    assert (None if found is None else found.kind) == KINDS[text]


def test_channels_fill_blocks():
    text = "(float[1,64,8,8] x) => (float[1,{0},8,8] y) <float[{0},64,3,3] w> {{ y = Conv<pads=[1,1,1,1]>(x, w) }}"
    seventeen, thirty_two, forty_eight = (estimate(last(text.format(n))) for n in (17, 32, 48))
    assert seventeen == pytest.approx(thirty_two, rel=0.05)
    assert forty_eight > 1.3 * thirty_two


def test_malformed_nodes_cost_their_overhead():
    assert estimate(last("(float[2,8] x) => (float[2,8] y) { y = Conv(x) }")) == ORT_CPU.overhead


def test_what_does_not_fit_into_the_cache_goes_over_memory():
    text = "(float[N,1024] x) => (float[N,1024] y) { y = Relu(x) }"
    small, large = (estimate(last(text), Sizes({"N": n})) for n in (64, 6400))
    assert large > 100 * small


def test_a_graph_costs_what_its_kernels_cost():
    text = """(float[1,32,28,28] x) => (float[1,32,28,28] y) <float[32,32,3,3] w>
              { c = Conv<pads=[1,1,1,1]>(x, w)  y = Relu(c) }"""
    model = parsed(text)
    conv, relu = model.graph
    costs = list(kernel_costs(model))
    assert [cost.region.kernel for cost in costs] == ["Conv", "ReorderInput", "ReorderOutput"]
    assert estimate(model) == sum(cost.seconds for cost in costs) == estimate(model.graph)
    assert estimate(conv) <= costs[0].seconds < estimate(conv) + estimate(relu)
    assert all(cost.known and cost.bytes for cost in costs)


def test_bodies_count_once():
    body = "then_branch = t () => (float[9,8] a) { a = Elu(x) }, else_branch = e () => (float[9,8] b) { b = Elu(x) }"
    model = parsed(f"(bool c, float[9,8] x) => (float[9,8] y) {{ y = If (c) <{body}> }}")
    elu = estimate(last("(float[9,8] x) => (float[9,8] y) { y = Elu(x) }"))
    assert estimate(model) == pytest.approx(2 * elu + ORT_CPU.overhead)


def test_a_gpu_is_limited_by_what_it_starts():
    text = "(float[128,512] x, float[512,512] w) => (float[128,512] y) { y = MatMul(x, w) }"
    gpu, cpu = (estimate(last(text), None, machine) for machine in (TENSORRT_H200, ORT_CPU))
    assert TENSORRT_H200.overhead < gpu < 2 * TENSORRT_H200.overhead < cpu


GROWING = [
    "(float[A,B] x) => (float[A,B] y) { y = Relu(x) }",
    "(float[A,B] x) => (float[A,B] y) { y = Erf(x) }",
    "(float[A,B] x, float[B,C] w) => (float[A,C] y) { y = MatMul(x, w) }",
    "(float[A,B] x, float[B,C] w, float[C] b) => (float[A,C] y) { y = Gemm(x, w, b) }",
    "(float[A,32,B,C] x) => (float[A,32,B,C] y) <float[32,32,1,1] w> { y = Conv(x, w) }",
    "(float[A,3,B,C] x) => (float[A,40,B,C] y) <float[40,3,1,1] w> { y = Conv(x, w) }",
    "(float[A,B] x, float[A,C] z) => (float[A,D] y) { y = Concat<axis=1>(x, z) }",
    "(float[A,B,C] x) => (float[A,B,C] y) { y = Softmax(x) }",
    "(float[A,B,C] x) => (float[A,B] y) { y = ReduceSum<keepdims=0>(x) }",
    "(float[A,B,C] x) => (float[C,A,B] y) { y = Transpose<perm=[2,0,1]>(x) }",
    "(float[A,8] x, int64[B] i) => (float[B,8] y) { y = Gather(x, i) }",
    "(float[A,4,B,C] x) => (float[A,4,1,1] y) { y = GlobalAveragePool(x) }",
]
SIZES = st.fixed_dictionaries({name: st.integers(1, 3000) for name in "ABC"})


@settings(max_examples=60)
@given(st.sampled_from(GROWING), SIZES, st.dictionaries(st.sampled_from("ABC"), st.integers(0, 2000)))
def test_more_takes_longer(text, sizes, more):
    node = last(text)
    larger = {name: size + more.get(name, 0) for name, size in sizes.items()}
    for machine in (ORT_CPU, TENSORRT_H200):
        one, other = (
            estimate(node, Sizes({**given, "D": given["B"] + given["C"]}), machine) for given in (sizes, larger)
        )
        assert 0 < one <= other * (1 + 1e-9)
    assert 0 <= (traffic(node, Sizes(sizes)) or 0) <= (traffic(node, Sizes(larger)) or 0)


# onnx knows no symbol for what a Conv makes of symbols.
NAMED = [text for text in GROWING if "D]" not in text and "Conv" not in text]


@settings(max_examples=60)
@given(st.sampled_from(NAMED), SIZES)
def test_symbols_cost_what_the_numbers_cost(text, sizes):
    head, brace, nodes = text.partition("{")
    for name, size in sizes.items():
        for left, right in (("[", ","), (",", ","), (",", "]"), ("[", "]")):
            head = head.replace(left + name + right, f"{left}{size}{right}")
    for machine in (ORT_CPU, TENSORRT_H200):
        assert estimate(last(text), Sizes(sizes), machine) == estimate(last(head + brace + nodes), Sizes(), machine)
        assert estimate(parsed(text), Sizes(sizes), machine) == pytest.approx(
            estimate(parsed(head + brace + nodes), Sizes(), machine)
        )
