"""Wrong rewrites must fail, right ones must pass: each pair is a rewrite that somebody has got wrong."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, helper, numpy_helper

from graphopt.verify import verify

RNG = np.random.default_rng(7)


def normal(*shape, scale=1.0):
    return (RNG.standard_normal(shape) * scale).astype(np.float32)


CNN = """g (float[N,3,H,W] x) => (float[N,10] y) {
    a = Conv<kernel_shape=[3,3], pads=[1,1,1,1]>(x, W1, B1)
    b = BatchNormalization<epsilon=0.001>(a, g, t, m, v)
    c = Relu(b)
    d = MaxPool<kernel_shape=[2,2], strides=[2,2]>(c)
    e = Conv<kernel_shape=[3,3], group=2, pads=[1,1,1,1]>(d, W2)
    f = LeakyRelu<alpha=0.1>(e)
    h = GlobalAveragePool(f)
    i = Flatten(h)
    j = Gemm<alpha=0.5, beta=2.0, transB=1>(i, W3, B3)
    y = Softmax<axis=1>(j)
}"""
CNN_WEIGHTS = {
    "W1": normal(8, 3, 3, 3, scale=0.3),
    "B1": normal(8),
    "g": normal(8),
    "t": normal(8),
    "m": normal(8),
    "v": np.abs(normal(8)) + 0.05,
    "W2": normal(8, 4, 3, 3, scale=0.3),
    "W3": normal(10, 8),
    "B3": normal(10),
}


def fold_bn(weights, eps=0.001):
    k = weights["g"].astype(np.float64) / np.sqrt(weights["v"].astype(np.float64) + eps)
    folded = dict(weights)
    folded["W1"] = (weights["W1"] * k[:, None, None, None]).astype(np.float32)
    folded["B1"] = (k * (weights["B1"].astype(np.float64) - weights["m"]) + weights["t"]).astype(np.float32)
    return folded


FOLDED = CNN.replace("    b = BatchNormalization<epsilon=0.001>(a, g, t, m, v)\n    c = Relu(b)", "    c = Relu(a)")


def test_folded_batch_normalization_passes(build):
    report = verify(build(CNN, **CNN_WEIGHTS), build(FOLDED, **fold_bn(CNN_WEIGHTS)))
    assert report.status == "passed" and len(report.runs) == 3 and not report.unchecked, report.summary()
    assert {run.bindings["N"] for run in report.runs} == {1, 2}


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("epsilon dropped", lambda w: fold_bn(w, eps=0.0)),
        ("epsilon of another value", lambda w: fold_bn(w, eps=0.00101)),
        ("mean not subtracted", lambda w: {**fold_bn(w), "B1": fold_bn(w)["B1"] + w["m"]}),
        ("bias dropped", lambda w: {**fold_bn(w), "B1": np.zeros(8, np.float32)}),
        (
            "scale along the wrong axis",
            lambda w: {**fold_bn(w), "W1": w["W1"] * np.resize(w["g"], 3)[None, :, None, None]},
        ),
        (
            "one channel forgotten",
            lambda w: {**fold_bn(w), "B1": fold_bn(w)["B1"] * (np.arange(8) != 3).astype(np.float32)},
        ),
        (
            "computed in half precision",
            lambda w: {**fold_bn(w), "W1": fold_bn(w)["W1"].astype(np.float16).astype(np.float32)},
        ),
    ],
)
def test_folded_wrongly_fails(build, what, change):
    report = verify(build(CNN, **CNN_WEIGHTS), build(FOLDED, **change(CNN_WEIGHTS)))
    assert report.status == "failed", f"{what}: {report.summary()}"
    assert report.worst().why and not report.interface


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("pads=[1,1,1,1]>(x", "pads=[0,0,2,2]>(x"),
        ("pads=[1,1,1,1]>(x", "pads=[1,0,1,2]>(x"),
        ("alpha=0.1", "alpha=0.11"),
        ("alpha=0.5", "alpha=0.5001"),
        ("beta=2.0", "beta=1.0"),
        ("epsilon=0.001", "epsilon=0.00101"),
        ("Relu(b)", "Identity(b)"),
        ("Relu(b)", "Min(b, six)"),
        ("MaxPool<", "AveragePool<"),
        ("strides=[2,2]>(c)", "strides=[2,2], pads=[1,1,1,1]>(c)"),
        ("GlobalAveragePool", "GlobalMaxPool"),
        ("Softmax<axis=1>", "Softmax<axis=0>"),
        ("Gemm<alpha=0.5, beta=2.0, transB=1>(i, W3, B3)", "Gemm<alpha=0.5, transB=1>(i, W3)"),
    ],
)
def test_a_changed_attribute_fails(build, old, new):
    weights = {**CNN_WEIGHTS, "six": np.float32(0.5)}
    report = verify(build(CNN, **weights), build(CNN.replace(old, new), **weights))
    assert report.status == "failed", report.summary()


PAIRS = [
    # (what, right, wrong, inputs and outputs, weights)
    (
        "Clip bounds swapped",
        "y = Clip(x, lo, hi)",
        "y = Clip(x, hi, lo)",
        "float[N,6] x",
        "float[N,6] y",
        {"lo": -0.5, "hi": 0.7},
    ),
    ("Clip's other bound", "y = Min(x, c)", "y = Clip(x, c)", "float[N,6] x", "float[N,6] y", {"c": 0.2}),
    (
        "Concat order",
        "n = Neg(x) y = Concat<axis=1>(x, n)",
        "n = Neg(x) y = Concat<axis=1>(n, x)",
        "float[N,6] x",
        "float[N,12] y",
        {},
    ),
    (
        "Transpose",
        "y = Transpose<perm=[0,2,1]>(x)",
        "s = Constant<value = int64[3] {0,6,6}>() y = Reshape(x, s)",
        "float[N,6,6] x",
        "float[N,6,6] y",
        {},
    ),
    (
        "reduction axis",
        "y = ReduceMean<keepdims=1>(x, one)",
        "y = ReduceMean<keepdims=1>(x, two)",
        "float[4,5,5] x",
        "float[4,?,?] y",
        {"one": np.array([1]), "two": np.array([2])},
    ),
    ("Sub turned round", "y = Sub(x, c)", "y = Sub(c, x)", "float[N,6] x", "float[N,6] y", {"c": 0.0}),
    (
        "Div by a rounded reciprocal",
        "y = Div(x, c)",
        "y = Mul(x, r)",
        "float[N,6] x",
        "float[N,6] y",
        {"c": 3.0, "r": np.float32(0.3333)},
    ),
    ("GELU by tanh", "y = Gelu(x)", 'y = Gelu<approximate = "tanh">(x)', "float[N,6] x", "float[N,6] y", {}),
    (
        "tie broken the other way",
        "r = Relu(x) y = ArgMax<axis=1, keepdims=0>(r)",
        "y = ArgMax<axis=1, keepdims=0>(x)",
        "float[N,3] x",
        "int64[N] y",
        {},
    ),
    (
        "last of ties",
        "r = Clip(x, lo, hi) y = ArgMax<axis=1, keepdims=0>(r)",
        "r = Clip(x, lo, hi) y = ArgMax<axis=1, keepdims=0, select_last_index=1>(r)",
        "float[N,6] x",
        "int64[N] y",
        {"lo": 0.0, "hi": 0.3},
    ),
    (
        "a cast that rounds dropped",
        "h = Cast<to=10>(x) y = Cast<to=1>(h)",
        "y = Identity(x)",
        "float[N,6] x",
        "float[N,6] y",
        {},
    ),
    (
        "a cast that truncates dropped",
        "h = Cast<to=7>(x) y = Cast<to=1>(h)",
        "y = Identity(x)",
        "float[N,6] x",
        "float[N,6] y",
        {},
    ),
    ("Round and Floor", "y = Floor(x)", "y = Round(x)", "float[N,6] x", "float[N,6] y", {}),
    (
        "integer Div and Mod",
        "y = Mod(k, c)",
        "y = Mod<fmod=1>(k, c)",
        "int64[N,8] k",
        "int64[N,8] y",
        {"c": np.array(4)},
    ),
    (
        "integers by way of floats",
        "y = Mul(k, c)",
        "a = Cast<to=1>(k) b = Mul(a, d) y = Cast<to=7>(b)",
        "int64[N,8] k",
        "int64[N,8] y",
        {"c": np.array(2**30 + 1), "d": np.float32(2**30 + 1)},
    ),
    (
        "a little residue dropped",
        "s = Mul(x, c) y = Add(x, s)",
        "y = Identity(x)",
        "float[N,6] x",
        "float[N,6] y",
        {"c": 1e-4},
    ),
    (
        "batch written into a Reshape",
        "y = Reshape(x, z)",
        "y = Reshape(x, o)",
        "float[N,2,3] x",
        "float[N,?] y",
        {"z": np.array([0, -1]), "o": np.array([1, -1])},
    ),
    (
        "If branches swapped",
        "y = If(c) <then_branch=t()=>(float[N] u){u=Neg(x)}, else_branch=e()=>(float[N] w){w=Abs(x)}>",
        "y = If(c) <then_branch=t()=>(float[N] u){u=Neg(x)}, else_branch=e()=>(float[N] w){w=Neg(x)}>",
        "float[N] x, bool c",
        "float[N] y",
        {},
    ),
    (
        "one trip too many",
        "y = Loop(n3, yes, x) <body=b(int64 i,bool c,float[N] v)=>(bool d,float[N] w){d=Identity(c) w=Sin(v)}>",
        "y = Loop(n4, yes, x) <body=b(int64 i,bool c,float[N] v)=>(bool d,float[N] w){d=Identity(c) w=Sin(v)}>",
        "float[N] x",
        "float[N] y",
        {"n3": np.array(3), "n4": np.array(4), "yes": np.array(True)},
    ),
    (
        "a default baked in",
        "y = Mul(x, w)",
        "y = Mul(x, k)",
        "float[N] x, float[1] w",
        "float[N] y",
        {"w": np.float32([2]), "k": np.float32([2])},
    ),
    (
        "index off by one",
        "y = Gather(T, k)",
        "o = Constant<value = int64 {1}>() j = Add(k, o) m = Mod(j, z) y = Gather(T, m)",
        "int64[N] k",
        "float[N,4] y",
        {"T": normal(12, 4), "z": np.array(12)},
    ),
    (
        "nearest by another rule",
        'y = Resize<mode="nearest", nearest_mode="floor", coordinate_transformation_mode="asymmetric">(x, none, s)',
        'y = Resize<mode="nearest", nearest_mode="ceil", coordinate_transformation_mode="asymmetric">(x, none, s)',
        "float[1,1,5,5] x",
        "float[1,1,10,10] y",
        {"s": np.float32([1, 1, 2, 2]), "none": np.zeros(0, np.float32)},
    ),
    (
        "padding value in MaxPool",
        "p = Pad(x, q) y = MaxPool<kernel_shape=[2,2], strides=[2,2]>(p)",
        "y = MaxPool<kernel_shape=[2,2], strides=[2,2], pads=[1,1,1,1]>(x)",
        "float[1,2,6,6] x",
        "float[1,2,4,4] y",
        {"q": np.array([0, 0, 1, 1, 0, 0, 1, 1])},
    ),
    (
        "padding counted",
        "y = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1], count_include_pad=0>(x)",
        "y = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1], count_include_pad=1>(x)",
        "float[1,2,6,6] x",
        "float[1,2,6,6] y",
        {},
    ),
    (
        "constant along the wrong axis",
        "c = Conv(x, W) y = Add(c, p)",
        "c = Conv(x, W) y = Add(c, q)",
        "float[1,2,4,4] x",
        "float[1,4,4,4] y",
        {
            "W": normal(4, 2, 1, 1),
            "p": np.arange(4, dtype=np.float32),
            "q": np.arange(4, dtype=np.float32)[:, None, None],
        },
    ),
    (
        "zero point dropped",
        "q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z)",
        "q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, o)",
        "float[N,6] x",
        "float[N,6] y",
        {"s": np.float32(0.02), "z": np.uint8(128), "o": np.uint8(127)},
    ),
    (
        "layer norm without its epsilon",
        "y = LayerNormalization<epsilon=0.00001>(x, g)",
        "y = LayerNormalization<epsilon=0.0>(x, g)",
        "float[N,16] x",
        "float[N,16] y",
        {"g": normal(16)},
    ),
    (
        "shape promoted no more",
        "y = Add(x, z)",
        "y = Identity(x)",
        "float[N] x",
        "float[?,?] y",
        {"z": np.zeros((1, 1), np.float32)},
    ),
]


@pytest.mark.parametrize(
    ("what", "right", "wrong", "inputs", "outputs", "weights"), PAIRS, ids=[pair[0] for pair in PAIRS]
)
def test_pairs(build, what, right, wrong, inputs, outputs, weights):
    arrays = {name: np.float32(value) if isinstance(value, float) else value for name, value in weights.items()}
    models = [
        build(f"g ({inputs}) => ({outputs}) {{ {body} }}", opset=20, check=False, **arrays)
        for body in (right, right, wrong)
    ]
    passed, failed = verify(models[0], models[1]), verify(models[0], models[2])
    assert passed.status == "passed", passed.summary()
    assert failed.status == "failed", f"{what}: {failed.summary()}"


def test_the_last_digits_of_a_probability_near_zero_mean_nothing(build):
    text = "g (float[N,8] x) => (float[N,8] y) {{ a = Abs(x) n = Sub(a, big) s = Sigmoid(n) y = {} }}"
    weights = {"big": np.float32(14), "dust": np.float32(2e-7), "crumb": np.float32(2e-6)}
    right = build(text.format("Identity(s)"), **weights)
    dusty, crumbly = (build(text.format(f"Add(s, {name})"), **weights) for name in ("dust", "crumb"))
    assert verify(right, dusty).status == "passed" and verify(right, crumbly).status == "failed"
    assert verify(dusty, right).status == "failed"  # of a sum, they do mean something
    moved = "g (float[N,8] x) => (float[N,8] y) { a = Abs(x) n = Sub(a, big) o = Mul(n, l) y = Sigmoid(o) }"
    for factor, status in ((1.000001, "passed"), (0.9, "failed")):
        other = build(moved, l=np.float32(factor), **weights)
        assert verify(right, other, {"x": np.full((2, 8), 0.5, np.float32)}).status == status


def deep(layers: int, fold: bool, wrong: int = -1) -> ModelProto:
    """Residual blocks with batch normalization, written out or folded into the convolutions."""
    rng = np.random.default_rng(3)
    nodes, tensors, x = [], [], "x"
    for i in range(layers):
        w = (rng.standard_normal((16, 16, 3, 3)) * 0.01).astype(np.float32)
        g, t, m, v = (rng.uniform(0.5, 1.5, 16).astype(np.float32) for _ in range(4))
        bias = np.zeros(16, np.float32)
        if fold:
            k = g.astype(np.float64) / np.sqrt(v.astype(np.float64) + 1e-5)
            w = (w * k[:, None, None, None]).astype(np.float32)
            bias = (t - k * m).astype(np.float32) * np.float32(1 if i != wrong else 0.99)
        tensors += [numpy_helper.from_array(a, f"{n}{i}") for a, n in zip((w, bias, g, t, m, v), "wbgtmv", strict=True)]
        nodes.append(helper.make_node("Conv", [x, f"w{i}", f"b{i}"], [f"c{i}"], pads=[1, 1, 1, 1]))
        normed = f"c{i}"
        if not fold:
            nodes.append(helper.make_node("BatchNormalization", [normed, *(f"{n}{i}" for n in "gtmv")], [f"n{i}"]))
            normed = f"n{i}"
        nodes += [helper.make_node("Relu", [normed], [f"r{i}"]), helper.make_node("Add", [x, f"r{i}"], [f"x{i}"])]
        x = f"x{i}"
    nodes.append(helper.make_node("ReduceMax", [x], ["y"], axes=[2, 3], keepdims=0))
    nodes.append(helper.make_node("ArgMax", ["y"], ["k"], axis=1, keepdims=0))
    graph = helper.make_graph(
        nodes,
        "deep",
        [helper.make_tensor_value_info("x", 1, ["N", 16, 8, 8])],
        [helper.make_tensor_value_info("y", 1, ["N", 16]), helper.make_tensor_value_info("k", 7, ["N"])],
        tensors,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_deep_folding_passes_and_one_wrong_layer_fails():
    original = deep(30, fold=False)
    right = verify(original, deep(30, fold=True))
    assert right.status == "passed" and len(right.runs[0].outputs) == 2, right.summary()
    assert verify(original, deep(30, fold=True, wrong=17)).status == "failed"


def test_rewrites_that_only_round_pass(build):
    x = "float[N,24] x"
    pairs = [
        ("m = MatMul(x, W) y = Add(m, b)", "y = Gemm(x, W, b)"),
        ("a = Mul(x, c) y = MatMul(a, W)", "m = MatMul(x, W) y = Mul(m, c)"),
        (
            """m = ReduceMean<axes=[1]>(x) d = Sub(x, m) s = Mul(d, d) v = ReduceMean<axes=[1]>(s)
            e = Add(v, eps) r = Sqrt(e) n = Div(d, r) k = Mul(n, g) y = MatMul(k, W)""",
            "k = LayerNormalization<epsilon=0.00001>(x, g) y = MatMul(k, W)",
        ),
        (
            "s = Sigmoid(x) h = Mul(x, s) y = MatMul(h, W)",
            "n = Neg(x) e = Exp(n) o = Add(e, one) h = Div(x, o) y = MatMul(h, W)",
        ),
    ]
    weights = {
        "W": normal(24, 12),
        "b": normal(12),
        "c": np.float32(0.3),
        "eps": np.float32(1e-5),
        "g": normal(24),
        "one": np.float32(1),
    }
    for before, after in pairs:
        text = f"g ({x}) => (float[N,12] y) {{ %s }}"
        report = verify(build(text % before, opset=17, **weights), build(text % after, opset=17, **weights))
        assert report.status == "passed", f"{after}: {report.summary()}"
