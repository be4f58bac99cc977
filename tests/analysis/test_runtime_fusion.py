"""What runtimes fuse: by hand, and against the graphs that ONNX Runtime itself saves."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from onnx import TensorProto, numpy_helper, parser

import graphopt.ir as ir
from graphopt.analysis.cost import ORT_CPU, TENSORRT_H200, Sizes, estimate, kernel_costs
from graphopt.analysis.runtime_fusion import kernels, region_with, worth
from graphopt.analysis.shapes import infer
from graphopt.testing.strategies import models

WIDE = 'opset_import: ["": 17, "com.microsoft": 1]'


def proto_of(text: str) -> onnx.ModelProto:
    """The model; what is declared in the second brackets without a value is a constant, random and positive."""
    proto = parser.parse_model(f"<ir_version: 8, {WIDE}> g {text}")
    random = np.random.default_rng(0)
    for info in proto.graph.value_info:
        shape = [dim.dim_value for dim in info.type.tensor_type.shape.dim]
        array = random.uniform(0.5, 1, shape).astype(np.float32)
        proto.graph.initializer.append(numpy_helper.from_array(array, info.name))
    del proto.graph.value_info[:]
    return proto


def model_of(text: str) -> ir.Model:
    model = ir.from_proto(proto_of(text))
    infer(model)
    return model


def names(text: str, runtime: str = "onnxruntime") -> list[str]:
    return sorted(region.kernel for region in kernels(model_of(text).graph, runtime))


IMAGE = "(float[1,32,14,14] x) => (float[1,32,14,14] y)"
W = "float[32,32,3,3] w, float[32,32,3,3] v, float[32] b, float[1,32,1,1] s, float[32] k"
C = "Conv<pads=[1,1,1,1]>"
ROWS = "(float[2,16,64] x) => (float[2,16,64] y)"
M = "float[64,64] w, float[64] b, float[64] g"
# Graphs whose kernels are checked against what the runtime saves.
GRAPHS = {
    "conv, bn, relu": f"{IMAGE} <{W}> {{ c = {C}(x, w)  n = BatchNormalization(c, k, k, k, k)  y = Relu(n) }}",
    "conv, scale, shift": f"{IMAGE} <{W}> {{ c = {C}(x, w)  m = Mul(c, s)  y = Add(m, s) }}",
    "conv, clip": f"{IMAGE} <{W}, float z = {{0.0}}, float e = {{6.0}}> {{ c = {C}(x, w)  y = Clip(c, z, e) }}",
    "conv, elu": f"{IMAGE} <{W}> {{ c = {C}(x, w)  y = Elu(c) }}",
    "residual": f"{IMAGE} <{W}> {{ c = {C}(x, w)  d = {C}(x, v)  e = Add(c, d)  y = Relu(e) }}",
    "residual of x": f"{IMAGE} <{W}> {{ c = {C}(x, w)  e = Add(c, x)  y = Relu(e) }}",
    "silu": f"{IMAGE} <{W}> {{ c = {C}(x, w)  g = Sigmoid(c)  m = Mul(c, g)  y = {C}(m, v) }}",
    "hard-swish": f"{IMAGE} <{W}> {{ c = {C}(x, w, b)  g = HardSigmoid<alpha=0.16666667, beta=0.5>(c)  m = Mul(c, g)"
    f"  y = {C}(m, v) }}",
    "mul by a channel": f"{IMAGE} <{W}> {{ c = {C}(x, w)  r = Relu(c)  m = Mul(r, s)  y = {C}(m, v) }}",
    "prelu": f"{IMAGE} <{W}, float[32,1,1] p> {{ c = {C}(x, w)  y = PRelu(c, p) }}",
    "concat": f"{IMAGE} <{W}, float[32,64,1,1] u> {{ c = {C}(x, w)  d = {C}(x, v)  e = Concat<axis=1>(c, d)"
    "  y = Conv(e, u) }",
    "pool": "(float[1,32,14,14] x) => (float[1,32,7,7] y) { y = MaxPool<kernel_shape=[2,2], strides=[2,2]>(x) }",
    "one-dimensional": "(float[1,32,14] x) => (float[1,32,14] y) <float[32,32,1] w> { c = Conv(x, w)  y = Relu(c) }",
    "matmul, bias": f"(float[4,64] x) => (float[4,64] y) <{M}> {{ c = MatMul(x, w)  y = Add(c, b) }}",
    "gemm, relu": f"(float[4,64] x) => (float[4,64] y) <{M}> {{ c = Gemm(x, w, b)  y = Relu(c) }}",
    "matmul of rank 3, bias": f"{ROWS} <{M}> {{ c = MatMul(x, w)  y = Add(c, b) }}",
    "scores": "(float[2,16,64] x) => (float[2,16,16] y) <float r = {8.0}> { t = Transpose<perm=[0,2,1]>(x)"
    "  m = MatMul(x, t)  d = Div(m, r)  y = Softmax(d) }",
    "gelu": f"{ROWS} <float r = {{1.4142135}}, float o = {{1.0}}, float h = {{0.5}}> {{ d = Div(x, r)  e = Erf(d)"
    "  f = Add(e, o)  m = Mul(x, f)  y = Mul(m, h) }",
    "bias, gelu": f"{ROWS} <{M}> {{ a = Add(x, b)  y = com.microsoft.Gelu(a) }}",
    "layer norm": f"{ROWS} <{M}, float two = {{2.0}}, float e = {{0.00001}}> {{ m = ReduceMean<axes=[-1]>(x)"
    "  d = Sub(x, m)  q = Pow(d, two)  v = ReduceMean<axes=[-1]>(q)  p = Add(v, e)  r = Sqrt(p)  n = Div(d, r)"
    "  t = Mul(n, g)  y = Add(t, b) }",
    "sum, layer norm": f"{ROWS} <{M}> {{ a = Abs(x)  s = Add(x, a)  y = LayerNormalization(s, g, b) }}",
    "slices": "(float[2,16,64] x) => (float[2,16,32] y) <int64[1] a = {0}, int64[1] h = {32}, int64[1] e = {64},"
    " int64[1] ax = {2}> { s = Slice(x, a, h, ax)  t = Slice(x, h, e, ax)  y = Add(s, t) }",
}


def executed(proto: onnx.ModelProto, tmp_path) -> list[str]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "saved.onnx")
    options.log_severity_level = 4
    onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return sorted(node.op_type for node in onnx.load(tmp_path / "saved.onnx").graph.node)


def is_newer(version: str) -> bool:
    import onnxruntime

    have, want = ([int(part) for part in text.split(".")[:2]] for text in (onnxruntime.__version__, version))
    return have >= want


@pytest.mark.skipif(not is_newer("1.31"), reason="ONNX Runtime before 1.31 fuses less")
@pytest.mark.parametrize("name", GRAPHS)
def test_kernels_are_those_that_onnx_runtime_executes(name, tmp_path):
    assert names(GRAPHS[name]) == executed(proto_of(GRAPHS[name]), tmp_path)


TENSORRT = {
    "conv, bn, relu": ["Conv"],
    "residual": ["Conv", "Conv"],
    "residual of x": ["Conv"],
    "conv, scale, shift": ["Conv"],
    "matmul, bias": ["MatMul"],
    "gelu": ["PointWise"],
    "scores": ["MatMul", "Softmax", "Transpose"],
}


@pytest.mark.parametrize("name", TENSORRT)
def test_kernels_of_tensorrt(name):
    assert names(GRAPHS[name], "tensorrt") == TENSORRT[name]


def test_views_and_constants_are_no_kernels():
    text = "(float[2,3] x) => (float[6] y) <int64[1] s = {6}> { c = Constant<value_float=1.0>()  d = Add(c, c)"
    text += "  i = Identity(x)  a = Add(i, d)  y = Reshape(a, s) }"
    assert names(text) == ["Add", "Reshape"]
    assert names(text, "tensorrt") == ["Add"]


def test_what_is_read_elsewhere_is_not_fused():
    text = f"{IMAGE} <{W}> {{ c = {C}(x, w)  r = Relu(c)  y = Add(r, c) }}"
    assert "Relu" in names(text)


TANH = (
    "q = Mul(x, x)  c = Mul(q, x)  k = Mul(c, r)  s = Add(x, k)  i = Mul(s, r)  t = Tanh(i)  o = Add(t, one)  "
    "m = Mul(x, o)  y = Mul(m, half)"
)
# Written out, the node with the constant, and what it is part of.
WRITTEN = [
    ("d = Div(x, r)  e = Erf(d)  f = Add(e, one)  m = Mul(x, f)  y = Mul(m, half)", "y", "Gelu"),
    ("d = Div(x, r)  e = Erf(d)  f = Add(one, e)  m = Mul(half, x)  y = Mul(m, f)", "m", "Gelu"),
    ("d = Div(x, r)  e = Erf(d)  h = Mul(e, half)  f = Add(h, half)  y = Mul(x, f)", "h", "Gelu"),
    (TANH, "k", "FastGelu"),
    ("s = Sigmoid(x)  y = Mul(x, s)", "s", "QuickGelu"),
    ("k = Mul(x, r)  s = Sigmoid(k)  y = Mul(s, x)", "k", "QuickGelu"),
    ("s = Softplus(x)  t = Tanh(s)  y = Mul(x, t)", "t", "Mish"),
    ("a = Add(x, three)  c = Clip(a, zero, six)  m = Mul(x, c)  y = Div(m, six)", "y", "HardSwish"),
    ("a = Add(x, three)  c = Clip(a, zero, six)  d = Div(c, six)  y = Mul(d, x)", "a", "HardSigmoid"),
    ("a = Add(x, three)  c = Relu(a)  d = Min(c, six)  y = Div(d, six)", "a", "HardSigmoid"),
    ("q = Mul(x, x)  v = ReduceMean(q)  s = Sqrt(v)  d = Div(x, s)  y = Mul(d, half)", "y", "LayerNormalization"),
    ("a = Add(x, three)  c = Clip(a, zero, six)  y = Div(c, three)", "a", None),
    ("s = Sigmoid(x)  m = Mul(x, s)  y = Mul(m, half)", "y", None),
    ("d = Div(x, r)  e = Erf(d)  f = Add(e, one)  m = Mul(x, f)  y = Mul(m, three)", "y", None),
    ("m = Mul(x, half)  y = Relu(m)", "m", None),
    ("m = Mul(x, half)  d = Div(m, six)  n = Abs(x)  y = Mul(d, n)", "m", None),
]  # fmt: skip
NUMBERS = "float one = {1.0}, float half = {0.5}, float r = {1.4142135}, float three = {3.0}, float six = {6.0}, "


@pytest.mark.parametrize(("nodes", "output", "kernel"), WRITTEN)
def test_operators_written_out(nodes, output, kernel):
    model = model_of(f"(float[8,64] x) => (float[8,64] y) <{NUMBERS} float zero = {{0.0}}> {{ {nodes} }}")
    node = next(node for node in model.graph if node.output.name == output)
    region = region_with(node)
    assert (None if region is None else region.kernel) == kernel
    if region is not None:
        assert node in region.nodes
        assert worth(region, Sizes(), ORT_CPU) > 0


@settings(max_examples=40)
@given(models(max_nodes=10, features=("symbols", "control-flow", "functions", "zero-size", "names")))
def test_every_kernel_is_made_of_nodes_that_no_other_has(drawn):
    model = ir.from_proto(drawn.model)
    infer(model)
    for machine in (ORT_CPU, TENSORRT_H200):
        for graph in model.scopes():
            inside = [node for region in kernels(graph, machine.runtime) for node in region.nodes]
            assert len(inside) == len(set(inside))
            assert set(inside) <= set(graph)
        costs = list(kernel_costs(model, Sizes({"N": 3}), machine))
        assert all(cost.seconds > 0 and cost.bytes >= 0 for cost in costs)
        assert estimate(model, Sizes({"N": 3}), machine) == sum(cost.seconds for cost in costs)


def test_kernels_of_a_model_by_operator():
    model = model_of(GRAPHS["residual"])
    assert Counter(region.kernel for region in kernels(model.graph)) == {
        "Conv": 2,
        "ReorderInput": 1,
        "ReorderOutput": 1,
    }
    assert model.graph.inputs[0].dtype == TensorProto.FLOAT
