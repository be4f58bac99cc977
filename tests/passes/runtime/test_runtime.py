"""Forms that ONNX Runtime's optimizations would break: rewritten, equal, and right with its optimizations on."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto
from tests.passes.util import apply, assert_same, fired, model, node, ops, rand, reasons, run

ORT = tuple(map(int, onnxruntime.__version__.split(".")[:2]))
RING = np.array([0, 0, 1, 1, 0, 0, 1, 1])
IMAGE = {"x": rand(2, 3, 6, 6, low=-3, high=-1)}


def right_when_optimized(before, after, feeds, tol=1e-5):
    """What the original says with optimizations off, the result says with them on."""
    assert_same(before, after, feeds, reference=False)
    for want, got in zip(run(before, feeds), run(after, feeds, optimize=True), strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=tol * np.abs(want).max())


def pooled(op="MaxPool", around=RING, value=None, source=None, opset=17, pad_attrs=None, **attrs):
    nodes = [node("Pad", f"{'r' if source else 'x'} pads{' v' if value is not None else ''}", "p", **(pad_attrs or {}))]
    nodes += [node(op, "p", "y", **{"kernel_shape": [3, 3], **attrs})]
    if source:
        nodes.insert(0, node(source, "x", "r"))
    weights = {"pads": around, **({"v": np.float32(value)} if value is not None else {})}
    return model(nodes, {"x": ["N", 3, 6, 6]}, ["y"], weights, opset=opset)


@pytest.mark.parametrize("opset", [11, 13, 18, 21])
@pytest.mark.parametrize("value", [None, 0.0])
def test_pad_before_max_pool_becomes_auto_pad_valid(opset, value):
    m = pooled(value=value, opset=opset)
    out, _ = apply(m, "avoid-pad-pool")
    assert ops(out) == {"Pad": 1, "MaxPool": 1}
    assert [a.s for a in out.graph.node[1].attribute if a.name == "auto_pad"] == [b"VALID"]
    right_when_optimized(m, out, IMAGE)
    assert not fired(apply(out, "avoid-pad-pool")[1])


@pytest.mark.parametrize("attrs", [{"pads": [1, 1, 1, 1]}, {"ceil_mode": 1, "strides": [2, 2]}])
@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
def test_a_pool_with_pads_or_ceil_mode_gets_a_reshape_in_between(op, attrs):
    m = pooled(op, **attrs)
    out, _ = apply(m, "avoid-pad-pool")
    assert ops(out) == {"Pad": 1, "Reshape": 1, op: 1}
    right_when_optimized(m, out, IMAGE)


def test_pad_as_attribute():
    nodes = [node("Pad", "x", "p", pads=RING.tolist()), node("MaxPool", "p", "y", kernel_shape=[3, 3])]
    m = model(nodes, {"x": ["N", 3, 6, 6]}, ["y"], opset=10)
    out, report = apply(m, "avoid-pad-pool")
    assert fired(report) == ["avoid-pad-pool"]
    right_when_optimized(m, out, IMAGE)


def test_a_window_inside_the_padding():
    m = pooled(around=np.array([0, 0, 3, 3, 0, 0, 3, 3]), source="Relu")
    out, report = apply(m, "avoid-pad-pool")
    assert fired(report) == ["avoid-pad-pool"]
    right_when_optimized(m, out, {"x": -IMAGE["x"]})


@pytest.mark.parametrize(
    "m",
    [
        pooled(value=1.0),
        pooled(around=np.array([0, 1, 1, 1, 0, 0, 1, 1])),
        pooled(around=np.array([1, 0, 1, 1, 0, 0, 1, 1])),
        pooled(around=np.array([0, 0, -1, 1, 0, 0, 1, 1])),
        pooled(pad_attrs={"mode": "edge"}),
        pooled(source="Relu"),
        pooled("AveragePool"),
        pooled(auto_pad="VALID"),
    ],
    ids=["value", "channels", "batch", "negative", "mode", "not-negative", "average", "valid"],
)
def test_pads_that_are_left_alone(m):
    out, report = apply(m, "avoid-pad-pool")
    assert not fired(report)
    right_when_optimized(m, out, IMAGE)


def test_a_pad_with_another_reader_stays():
    m = model(
        [node("Pad", "x pads", "p"), node("MaxPool", "p", "y", kernel_shape=[3, 3])],
        {"x": [2, 3, 6, 6]},
        ["y", "p"],
        {"pads": RING},
    )
    assert not fired(apply(m, "avoid-pad-pool")[1])


def test_an_unknown_rank_is_refused():
    m = model(
        [
            node("Cast", "s", "i", to=TensorProto.INT64),
            node("Reshape", "x i", "r"),
            node("Pad", "r pads", "p"),
            node("MaxPool", "p", "y", kernel_shape=[3, 3], ceil_mode=1),
        ],
        {"x": ["N"], "s": ["R"]},
        {"y": [None, None, None, None]},
        {"pads": RING},
    )
    _, report = apply(m, "avoid-pad-pool")
    assert reasons(report, "avoid-pad-pool") == [
        "the rank of what is padded is not known, so the same dims cannot be spelled"
    ]


# -- DequantizeLinear before MatMul ------------------------------------------------------------------------------------

K, N = 64, 32


def dequantized(kind=np.int8, scale=(), *, op="MatMul", opset=21, zero=None, x="x", shape=(K, N), **attrs):
    info = ml_dtypes.iinfo(kind)
    weight = np.random.default_rng(1).integers(int(info.min), int(info.max) + 1, shape).astype(kind)
    weights = {"q": weight, "s": rand(*scale, low=0.01, high=0.03)}
    if zero is not None:
        weights["z"] = np.full(scale, zero).astype(kind)
    nodes = [node("DequantizeLinear", "q s z" if zero is not None else "q s", "w", **attrs), node(op, f"{x} w", "y")]
    return nodes, weights, {"opset": opset, "ir_version": 10}


def matmul(*args, **kwargs):
    nodes, weights, options = dequantized(*args, **kwargs)
    return model(nodes, {"x": ["M", K]}, ["y"], weights, **options)


ROWS = {"x": rand(4, K, low=-2, high=2)}


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"zero": 3},
        {"opset": 10},
        {"op": "Gemm"},
        {"scale": (N,), "axis": 1},
        {"scale": (N,), "axis": 1, "kind": np.uint8, "zero": 128},
        {"scale": (K // 16, N), "axis": 0, "block_size": 16},
        {"scale": (K // 32, N), "axis": 0, "block_size": 32, "kind": ml_dtypes.int4},
        {"scale": (K // 16, N), "axis": 0, "block_size": 16, "kind": ml_dtypes.uint4, "zero": 8},
    ],
    ids=str,
)
def test_activations_are_not_quantized(spec):
    m = matmul(**spec)
    out, report = apply(m, "avoid-dequantize-matmul")
    assert fired(report) == ["avoid-dequantize-matmul"]
    right_when_optimized(m, out, ROWS)
    assert not fired(apply(out, "avoid-dequantize-matmul")[1])


@pytest.mark.parametrize("scale", [(), (N,)])
def test_a_transposed_weight(scale):
    nodes, weights, options = dequantized(shape=(N, K), scale=scale, **({"axis": 0} if scale else {}))
    nodes = [nodes[0], node("Transpose", "w", "t", perm=[1, 0]), node("MatMul", "x t", "y")]
    m = model(nodes, {"x": ["M", K]}, ["y"], weights, **options)
    transposed, _ = apply(m, "transpose-dequantize")
    out, report = apply(transposed, "avoid-dequantize-matmul")
    assert fired(report) == ["avoid-dequantize-matmul"]
    assert ops(out) == {"DequantizeLinear": 1, "MatMul": 1}
    right_when_optimized(m, out, ROWS)


@pytest.mark.parametrize(
    "spec", [{"scale": (N,), "axis": -1}, {"scale": (1,)}, {"op": "Add", "shape": (1, K)}], ids=str
)
def test_weights_that_are_left_alone(spec):
    assert not fired(apply(matmul(**spec), "avoid-dequantize-matmul")[1])


def test_a_quantized_matmul_stays_one():
    nodes, weights, options = dequantized(x="a")
    nodes = [node("QuantizeLinear", "x s zx", "qx"), node("DequantizeLinear", "qx s zx", "a"), *nodes]
    m = model(nodes, {"x": ["M", K]}, ["y"], {**weights, "zx": np.int8(0)}, **options)
    assert not fired(apply(m, "avoid-dequantize-matmul")[1])


def test_a_weight_of_another_rank_stays():
    nodes, weights, options = dequantized(shape=(2, K, N))
    m = model(nodes, {"x": [2, 4, K]}, ["y"], weights, **options)
    assert not fired(apply(m, "avoid-dequantize-matmul", "transpose-dequantize")[1])


@pytest.mark.parametrize("perm", [[0, 1], None])
def test_only_a_swap_of_the_axes_is_taken_into_the_weight(perm):
    nodes, weights, options = dequantized()
    nodes = [nodes[0], node("Transpose", "w", "t", **({"perm": perm} if perm else {})), node("Add", "x t", "y")]
    m = model(nodes, {"x": [N, K] if perm is None else [K, N]}, ["y"], weights, **options)
    assert bool(fired(apply(m, "transpose-dequantize")[1])) == (perm is None)


def test_a_weight_with_another_reader_is_not_transposed():
    nodes, weights, options = dequantized()
    nodes = [nodes[0], node("Transpose", "w", "t"), node("Add", "x t", "u"), node("Neg", "w", "v")]
    m = model(nodes, {"x": [N, K]}, ["u", "v"], weights, **options)
    assert not fired(apply(m, "transpose-dequantize")[1])


# -- scales of normalizations ------------------------------------------------------------------------------------------

TOKENS = {"x": rand(2, 5, 32), "s": rand(2, 5, 32, seed=1)}


@pytest.mark.skipif(ORT < (1, 24), reason="this ONNX Runtime does not run a scale of one element at all")
@pytest.mark.parametrize("bias", [True, False])
def test_a_scale_of_one_element_is_repeated(bias):
    nodes = [node("Add", "x s", "t"), node("LayerNormalization", "t g b" if bias else "t g", "y")]
    m = model(nodes, {"x": [2, 5, 32], "s": [2, 5, 32]}, ["y"], {"g": [1.5], **({"b": rand(32)} if bias else {})})
    out, report = apply(m, "avoid-layer-norm-scale")
    assert fired(report) == ["avoid-layer-norm-scale"]
    right_when_optimized(m, out, TOKENS)
    assert not fired(apply(out, "avoid-layer-norm-scale")[1])


def test_an_unknown_size_of_the_normalized_axis_is_refused():
    m = model([node("LayerNormalization", "x g", "y")], {"x": [2, "W"]}, ["y"], {"g": [1.5]})
    assert reasons(apply(m, "avoid-layer-norm-scale")[1], "avoid-layer-norm-scale") == [
        "the size of the normalized axes is not known"
    ]


@pytest.mark.parametrize(("shape", "scale"), [([2, 32], (32,)), ([2, 1], (1,))])
def test_scales_that_fit_stay(shape, scale):
    m = model([node("LayerNormalization", "x g", "y")], {"x": shape}, ["y"], {"g": rand(*scale)})
    assert not fired(apply(m, "avoid-layer-norm-scale")[1])


def rms(shape, scale):
    nodes = [
        node("Pow", "x two", "p"),
        node("ReduceMean", "p", "v", axes=[-1]),
        node("Add", "v eps", "ve"),
        node("Sqrt", "ve", "sd"),
        node("Div", "x sd", "q"),
        node("Mul", "q g", "y"),
    ]
    return model(nodes, {"x": shape}, ["y"], {"two": 2.0, "eps": 1e-5, "g": rand(*scale)})


def test_a_scale_that_spreads_becomes_a_matrix():
    m = rms([2, 5, 1], (32,))
    out, report = apply(m, "avoid-spreading-norm-scale")
    assert fired(report) == ["avoid-spreading-norm-scale"]
    right_when_optimized(m, out, {"x": rand(2, 5, 1)})
    assert not fired(apply(out, "avoid-spreading-norm-scale")[1])


@pytest.mark.parametrize(
    ("shape", "scale"), [([2, 5, 32], (32,)), ([2, 5, 1], (1, 32)), ([2, 5, 1], (1,)), ([2, 5, "W"], (32,))]
)
def test_scales_that_do_not_spread_stay(shape, scale):
    assert not fired(apply(rms(shape, scale), "avoid-spreading-norm-scale")[1])


# -- two pairs of Q/DQ -------------------------------------------------------------------------------------------------


def pairs(first, second, shape=("M", 64), dtypes=(np.uint8, np.uint8)):
    nodes = [
        node("QuantizeLinear", "x s1 z1", "q"),
        node("DequantizeLinear", "q s1 z1", "d"),
        node("QuantizeLinear", "d s2 z2", "r"),
        node("DequantizeLinear", "r s2 z2", "y"),
    ]
    weights = {
        "s1": np.float32(first[0]),
        "z1": dtypes[0](first[1]),
        "s2": np.float32(second[0]),
        "z2": dtypes[1](second[1]),
    }
    return model(nodes, {"x": list(shape)}, {"y": list(shape)}, weights)


@pytest.mark.parametrize(("first", "second"), [((0.05, 128), (0.01, 128)), ((0.02, 128), (0.02, 100))])
def test_unlike_pairs_are_kept_apart(first, second):
    m = pairs(first, second)
    out, report = apply(m, "avoid-qdq-merge")
    assert fired(report) == ["avoid-qdq-merge"]
    right_when_optimized(m, out, ROWS)
    assert not fired(apply(out, "avoid-qdq-merge")[1])


def test_an_unknown_rank_takes_a_shape():
    m = pairs((0.05, 128), (0.01, 128))
    m.graph.node.insert(0, node("Reshape", "w dims", "x"))
    m.graph.input[0].name = "w"
    m.graph.input.add().CopyFrom(
        model([node("Neg", "dims", "t")], {"dims": ["R"]}, ["t"], dtype=TensorProto.INT64).graph.input[0]
    )
    out, _ = apply(m, "avoid-qdq-merge")
    assert ops(out)["Shape"] == 1
    right_when_optimized(m, out, {"w": ROWS["x"], "dims": np.array([4, K])})


def test_equal_pairs_stay():
    assert not fired(apply(pairs((0.05, 128), (0.05, 128)), "avoid-qdq-merge")[1])


@pytest.mark.skipif(ORT < (1, 24), reason="this ONNX Runtime does not run a bias of one element at all")
def test_a_bias_of_one_element_is_repeated():
    nodes = [node("Add", "x s", "t"), node("LayerNormalization", "t g b", "y")]
    m = model(nodes, {"x": [2, 5, 32], "s": [2, 5, 32]}, ["y"], {"g": rand(32), "b": [0.5]})
    out, report = apply(m, "avoid-layer-norm-scale")
    assert fired(report) == ["avoid-layer-norm-scale"]
    right_when_optimized(m, out, TOKENS)
    assert not fired(apply(out, "avoid-layer-norm-scale")[1])
