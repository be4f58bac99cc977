"""quantize-weights: both forms, what stays float and why, and what a session of ONNX Runtime really runs."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

import graphopt
from graphopt.calibration.gram import Statistics, weight_statistics
from graphopt.errors import GraphoptError
from graphopt.ir import from_proto, to_proto
from graphopt.passes.quantize.quantize_weights import LEAST, NAME, QuantizeWeights
from graphopt.rewrite import Context

from ..util import apply, fired, model, node, ops, rand, run

RUNTIME = tuple(map(int, onnxruntime.__version__.split(".")[:2]))
K, N = 96, 40
W, B = rand(K, N, seed=1), rand(N, seed=2)
X = {"x": rand(2, 5, K, seed=3)}
FLAT = {"x": rand(7, K, seed=3)}


def reasons(report: Any) -> set[str]:
    """Why something was left alone, by whichever rule."""
    return {why for found in report.refusals.values() for why in found}


def product(*more: Any, weights: dict[str, Any] | None = None, shape: Any = ("M", 5, K), **options: Any) -> Any:
    nodes = [node("MatMul", "x w", "p" if more else "y", name="product"), *more]
    return model(nodes, {"x": shape}, ["y"], {"w": W, **(weights or {})}, **{"opset": 21, "ir_version": 10, **options})


def gemm(weights: dict[str, Any], opset: int = 21, **attrs: Any) -> Any:
    inputs = "x w b" if "b" in weights else "x w"
    shape = (K, "M") if attrs.get("transA") else ("M", K)
    return model([node("Gemm", inputs, "y", **attrs)], {"x": shape}, ["y"], weights, opset=opset, ir_version=10)


def quantize(before: Any, **options: Any) -> tuple[Any, Any]:
    nbits = options.get("format") == "matmulnbits"
    return apply(before, QuantizeWeights(**{"least": 0, **options}), target="onnxruntime" if nbits else "onnx")


def sqnr(want: Any, got: Any) -> float:
    assert want.shape == got.shape and want.dtype == got.dtype
    noise = float(np.square(got.astype(np.float64) - want).sum())
    return float(10 * np.log10(float(np.square(want.astype(np.float64)).sum()) / max(noise, 1e-30)))


def session_runs(proto: onnx.ModelProto, tmp_path: Any) -> list[onnx.NodeProto]:
    """The nodes that are left once ONNX Runtime has optimized a model."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 4
    ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(onnx.load(options.optimized_model_filepath).graph.node)


FORMS = [
    ({"bits": 8, "block_size": 0, "symmetric": True}, TensorProto.INT8, 13, 38),
    ({"bits": 8, "block_size": 0}, TensorProto.UINT8, 13, 38),
    ({"bits": 8, "block_size": 32}, TensorProto.UINT8, 21, 40),
    ({"bits": 4, "block_size": 32}, TensorProto.UINT4, 21, 18),
    ({"bits": 4, "block_size": 16, "symmetric": True}, TensorProto.INT4, 21, 16),
    ({"bits": 4, "block_size": 0}, TensorProto.UINT4, 21, 15),
    ({"bits": 4, "block_size": 64}, TensorProto.UINT4, 21, 17),  # 96 is one block and a half
]


@pytest.mark.parametrize(("options", "kind", "opset", "least"), FORMS)
def test_dequantize_runs_as_it_is_written(options: Any, kind: int, opset: int, least: float, tmp_path: Any) -> None:
    """ONNX Runtime keeps activations in float: it does not see a MatMulNBits in this."""
    before = product(opset=opset, ir_version=8)
    after, report = quantize(before, **options)
    assert fired(report) == [NAME] and ops(after) == {"DequantizeLinear": 1, "MatMul": 1}
    assert kind in {t.data_type for t in after.graph.initializer} and "w" not in {
        t.name for t in after.graph.initializer
    }
    want, plain, best = run(before, X)[0], run(after, X)[0], run(after, X, optimize=True)[0]
    assert sqnr(want, plain) > least and sqnr(plain, best) > 110
    if opset >= 19:  # before, onnx's reference has none
        assert sqnr(run(after, X, reference=True)[0], plain) > 110
    assert Counter(n.op_type for n in session_runs(after, tmp_path)) == {"DequantizeLinear": 1, "MatMul": 1}
    assert not fired(quantize(after, **options)[1])


@pytest.mark.skipif(RUNTIME < (1, 24), reason="ONNX Runtime 1.23 does not fuse these")
def test_the_runtime_would_have_used_int8_activations(tmp_path: Any) -> None:
    """Why the axis counts from the end: counted from the front, the same file is another computation."""
    after, _ = quantize(product(), bits=8, block_size=0)
    (dequantize,) = [n for n in after.graph.node if n.op_type == "DequantizeLinear"]
    assert [a.i for a in dequantize.attribute if a.name == "axis"] == [-1]
    for attribute in dequantize.attribute:
        attribute.i = 1 if attribute.name == "axis" else attribute.i
    (fused,) = session_runs(after, tmp_path)
    assert fused.op_type == "MatMulNBits" and sqnr(run(after, X)[0], run(after, X, optimize=True)[0]) < 60


@pytest.mark.parametrize("size", [16, 32, 64, 128])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("level", [0, 1, 4])
def test_matmul_nbits(bits: int, size: int, symmetric: bool, level: int, tmp_path: Any) -> None:
    before = product(opset=17)
    options = {"bits": bits, "block_size": size, "symmetric": symmetric}
    after, report = quantize(before, format="matmulnbits", accuracy_level=level, **options)
    (made,) = after.graph.node
    assert made.op_type == "MatMulNBits" and made.domain == "com.microsoft" and made.output[0] == "y"
    given = {a.name: a.i for a in made.attribute}
    assert given == {"K": K, "N": N, "bits": bits, "block_size": size, "accuracy_level": level}
    want, got = run(before, X)[0], run(after, X, optimize=True)[0]
    assert sqnr(want, got) > (15 if bits == 4 else 35)
    same, _ = quantize(product(), symmetric=symmetric, bits=bits, block_size=size)
    if not symmetric:  # where the dequantized weights are the same ones
        assert sqnr(run(same, X)[0], got) > (100 if level != 4 else 35)
    (ran,) = session_runs(after, tmp_path)
    assert [a.i for a in ran.attribute if a.name == "accuracy_level"] == [level]
    assert [f"accuracy_level {level}" in text for text in report.warnings] == [True]
    assert ("int8" in report.warnings[0]) is (level == 4)


@pytest.mark.parametrize("rows", [33, 50, 97])
@pytest.mark.parametrize("level", [0, 4])
def test_rows_that_fill_no_whole_block(rows: int, level: int) -> None:
    before = model(
        [node("MatMul", "x w", "y")], {"x": ("M", rows)}, ["y"], {"w": rand(rows, 12)}, opset=21, ir_version=10
    )
    feeds = {"x": rand(3, rows, seed=4)}
    want = run(before, feeds)[0]
    for bits, least in ((4, 15), (8, 35)):
        after, _ = quantize(before, bits=bits, format="matmulnbits", accuracy_level=level)
        assert sqnr(want, run(after, feeds)[0]) > least
        written, _ = quantize(before, bits=bits)
        assert sqnr(want, run(written, feeds)[0]) > least
        assert sqnr(run(written, feeds)[0], run(after, feeds)[0]) > (100 if level == 0 else 35)


@pytest.mark.parametrize("shape", [(K,), (0, K), (2, 0, K), (2, 3, 4, K)])
@pytest.mark.parametrize("form", ["dequantize", "matmulnbits"])
def test_ranks_and_nothing_at_all(shape: tuple[int, ...], form: str) -> None:
    before, feeds = product(shape=[f"d{i}" for i in shape[:-1]] + [K]), {"x": rand(*shape)}
    after, _ = quantize(before, bits=8, format=form)
    want, got = run(before, feeds)[0], run(after, feeds)[0]
    assert want.shape == got.shape and (not want.size or sqnr(want, got) > 35)


BIASES = [None, (N,), (1, N), (1, 1), (), (7, N), (7, 1)]


@pytest.mark.parametrize("bias", BIASES)
@pytest.mark.parametrize("attrs", [{}, {"transB": 1}, {"alpha": 0.5, "beta": 2.0}, {"beta": 0.0}])
@pytest.mark.parametrize("form", ["dequantize", "matmulnbits"])
def test_gemm(bias: Any, attrs: dict[str, Any], form: str) -> None:
    weights = {"w": np.ascontiguousarray(W.T) if attrs.get("transB") else W}
    if bias is not None:
        weights["b"] = np.asarray(rand(*bias, seed=5), np.float32)
    before = gemm(weights, **attrs)
    after, report = quantize(before, bits=8, format=form, accuracy_level=0)
    assert fired(report) == [NAME]
    assert sqnr(run(before, FLAT)[0], run(after, FLAT)[0]) > 38
    assert sqnr(run(after, FLAT)[0], run(after, FLAT, optimize=True)[0]) > 100
    if form == "matmulnbits" and bias in (None, (N,), (1, N), ()):
        assert ops(after) == {"MatMulNBits": 1}


def test_a_bias_that_is_computed() -> None:
    nodes = [node("Abs", "x", "a"), node("ReduceSum", "a one", "c"), node("Gemm", "x w c", "y", name="product")]
    weights = {"w": W, "one": np.array([1])}
    before = model(nodes, {"x": ("M", K)}, ["y"], weights, opset=21, ir_version=10)
    after, _ = quantize(before, bits=8, format="matmulnbits", accuracy_level=0)
    assert ops(after)["Add"] == 1 and sqnr(run(before, FLAT)[0], run(after, FLAT)[0]) > 38
    nodes[-1] = node("Gemm", "x w c", "y", beta=2.0)
    scaled = model(nodes, {"x": ("M", K)}, ["y"], weights, opset=21, ir_version=10)
    _, report = quantize(scaled, format="matmulnbits")
    assert reasons(report) == {"the bias is computed at run time and has a factor"}


@pytest.mark.parametrize("form", ["dequantize", "matmulnbits"])
def test_float16(form: str) -> None:
    before = product(weights={"w": W.astype(np.float16)}, dtype=TensorProto.FLOAT16)
    after, _ = quantize(before, bits=8, format=form, accuracy_level=0)
    feeds = {"x": X["x"].astype(np.float16)}
    assert sqnr(run(before, feeds)[0], run(after, feeds)[0]) > 35
    assert {t.data_type for t in after.graph.initializer} <= {TensorProto.FLOAT16, TensorProto.UINT8}


def test_one_weight_read_twice_is_stored_once() -> None:
    nodes = [node("MatMul", "x w", "p"), node("Abs", "x", "a"), node("MatMul", "a w", "q"), node("Add", "p q", "y")]
    before = model(nodes, {"x": ("M", 5, K)}, ["y"], {"w": W}, opset=21, ir_version=10)
    for form in ("dequantize", "matmulnbits"):
        after, report = quantize(before, bits=8, format=form, accuracy_level=0)
        assert len(fired(report)) == 2 and len(after.graph.initializer) == 3
        assert sqnr(run(before, X)[0], run(after, X)[0]) > 38


def test_an_embedding_that_is_the_last_layer_too() -> None:
    nodes = [node("Gather", "w i", "e"), node("Transpose", "w", "t", perm=[1, 0]), node("MatMul", "e t", "y")]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("i", TensorProto.INT64, ["M"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["M", 200])],
        [numpy_helper.from_array(rand(200, 64), "w")],
    )
    before = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    feeds = {"i": np.array([3, 199, 0, 3])}
    for form in ("dequantize", "matmulnbits"):
        after, _ = quantize(before, bits=8, format=form, accuracy_level=0)
        assert ops(after)["Transpose"] == 0 and "w" in {t.name for t in after.graph.initializer}
        assert sqnr(run(before, feeds)[0], run(after, feeds)[0]) > 38
        both, report = quantize(before, bits=8, format=form, accuracy_level=0, embeddings=True)
        assert "w" not in {t.name for t in both.graph.initializer} and "quantize-tables" in fired(report)
        assert sqnr(run(before, feeds)[0], run(both, feeds)[0]) > 35
        assert sqnr(run(both, feeds)[0], run(both, feeds, optimize=True)[0]) > 100


@pytest.mark.parametrize("options", [{"bits": 4}, {"bits": 4, "symmetric": True}, {"bits": 8, "block_size": 128}])
def test_tables(options: dict[str, Any]) -> None:
    nodes = [node("Cast", "x", "i", to=TensorProto.INT64), node("Gather", "w i", "y")]
    before = model(nodes, {"x": ("M", 3)}, ["y"], {"w": rand(120, 100)}, opset=17)
    feeds = {"x": np.array([[0, 5, 119], [7, 7, 1]], np.float32)}
    after, report = quantize(before, format="matmulnbits", embeddings=True, **options)
    assert ops(after) == {"Cast": 1, "GatherBlockQuantized": 1} and fired(report) == ["quantize-tables"]
    assert sqnr(run(before, feeds)[0], run(after, feeds)[0]) > (38 if options["bits"] == 8 else 15)
    written, _ = quantize(before, embeddings=True, **options)
    assert ops(written) == {"Cast": 2, "Gather": 2, "Mul": 1}
    assert sqnr(run(before, feeds)[0], run(written, feeds)[0]) > 38
    assert not fired(quantize(written, embeddings=True, **options)[1])


def test_tables_refused() -> None:
    def looked_up(weight: Any, **attrs: Any) -> Any:
        nodes = [node("Cast", "x", "i", to=TensorProto.INT64), node("Gather", "w i", "y", **attrs)]
        return model(nodes, {"x": ("M",)}, ["y"], {"w": weight}, opset=17)

    table = rand(120, 65)
    nbits: Any = {"format": "matmulnbits", "embeddings": True}
    assert reasons(quantize(looked_up(table, axis=1), embeddings=True)[1]) == {"it is looked up along its columns"}
    assert reasons(quantize(looked_up(rand(120, 15)), embeddings=True)[1]) == {
        "its rows have 15 numbers, too few for a scale"
    }
    assert reasons(quantize(looked_up(rand(120, 96)), bits=4, **nbits)[1]) == {
        "an odd number of zero points in a row, which ONNX Runtime 1.23 reads wrong: symmetric=True has none"
    }
    assert reasons(quantize(looked_up(table), **nbits)[1]) == {"its rows are no whole number of bytes"}
    assert reasons(quantize(looked_up(table), embeddings=True, least=10**6)[1]) == {
        "the table has 7800 numbers, too few to pay"
    }
    assert reasons(quantize(looked_up(np.full((120, 64), np.inf, np.float32)), **nbits)[1]) == {
        "the table holds infinities or NaN"
    }
    options = QuantizeWeights(least=0, **nbits)
    assert reasons(apply(looked_up(rand(120, 66)), options, target="onnx")[1]) == {
        "GatherBlockQuantized is ONNX Runtime's own operator: target onnxruntime, or format=dequantize"
    }


REASONS: dict[str, tuple[Any, dict[str, Any]]] = {
    f"it has {K * N} weights, too few to pay": (product, {"least": LEAST}),
    "the weights hold infinities or NaN": (lambda: product(weights={"w": np.where(W > 0.99, np.nan, W)}), {}),
    "the weights are no matrix": (lambda: product(weights={"w": rand(2, K, N)}, shape=(2, 5, K)), {}),
    "the weights are neither float32 nor float16": (
        lambda: product(weights={"w": W.astype(np.float64)}, dtype=TensorProto.DOUBLE),
        {},
    ),
    "the activation is transposed": (lambda: gemm({"w": W}, transA=1), {}),
    "weights of 4 bits or in blocks are of opset 21: run raise-opset first": (lambda: product(opset=20), {}),
    "scales per channel are of opset 13: run raise-opset first": (
        lambda: product(opset=11),
        {"bits": 8, "block_size": 0},
    ),
    "scales in float16 are of opset 19: run raise-opset first": (
        lambda: product(opset=17, weights={"w": W.astype(np.float16)}, dtype=TensorProto.FLOAT16),
        {"bits": 8, "block_size": 0},
    ),
    "the weight is the left operand": (
        lambda: model([node("MatMul", "w x", "y")], {"x": (N, "M")}, ["y"], {"w": W}, opset=21, ir_version=10),
        {},
    ),
}


@pytest.mark.parametrize("why", REASONS)
def test_refused(why: str) -> None:
    make, options = REASONS[why]
    _, report = quantize(make(), **options)
    assert reasons(report) == {why} and not fired(report)


@pytest.mark.parametrize("target", ["onnx", "tensorrt"])
def test_matmul_nbits_is_for_one_runtime(target: str) -> None:
    _, report = apply(product(), QuantizeWeights(least=0, format="matmulnbits"), target=target)
    assert reasons(report) == {"MatMulNBits is ONNX Runtime's own operator: target onnxruntime, or format=dequantize"}


def test_tensorrt() -> None:
    """No zero points, positive scales, and the axis as it is usually counted."""
    _, report = apply(product(), QuantizeWeights(least=0), target="tensorrt")
    assert reasons(report) == {"TensorRT has no zero points: symmetric=true"}
    after, _ = apply(product(), QuantizeWeights(least=0, symmetric=True), target="tensorrt")
    (dequantize,) = [n for n in after.graph.node if n.op_type == "DequantizeLinear"]
    assert {a.name: a.i for a in dequantize.attribute} == {"axis": 0, "block_size": 32} and len(dequantize.input) == 2
    stored = {t.name: numpy_helper.to_array(t) for t in after.graph.initializer}
    assert (stored[dequantize.input[1]] > 0).all()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"bits": 3}, "bits is"),
        ({"method": "magic"}, "method is"),
        ({"format": "qoperator"}, "format is"),
        ({"accuracy_level": 5}, "accuracy_level"),
        ({"block_size": 24}, "power of two"),
        ({"block_size": 8}, "power of two"),
        ({"format": "matmulnbits", "block_size": 0}, "MatMulNBits has blocks"),
        ({"damping": 0.0}, "damping"),
        ({"method": "gptq"}, "gptq goes by statistics of the activations and got none"),
        ({"method": "awq"}, "awq goes by statistics"),
        ({"method": "gptq", "statistics": "nowhere.npz"}, "there is no statistics file nowhere.npz"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any], text: str) -> None:
    with pytest.raises(GraphoptError, match=text):
        quantize(product(), **options)


def test_selection() -> None:
    nodes = [node("MatMul", "x w", "p", name="a/first"), node("MatMul", "p v", "y", name="a/second")]
    before = model(nodes, {"x": ("M", 5, K)}, ["y"], {"w": W, "v": rand(N, K)}, opset=21, ir_version=10)
    for options in ({"only": "*first"}, {"keep_float": "a/sec*"}):
        _, report = quantize(before, **options)
        assert [list(rewrite.matched) for rewrite in report.rewrites] == [["a/first"]]


BODY = """<ir_version: 10, opset_import: ["": 21]>
g (float[M, 96] x, bool c) => (float[M, 40] y)
{
  y = If (c) <
    then_branch = t () => (float[M, 40] a) { a = MatMul(x, w) },
    else_branch = e () => (float[M, 40] b) { n = Neg(x)  b = MatMul(n, w) }
  >
}"""


@pytest.mark.parametrize("form", ["dequantize", "matmulnbits"])
@pytest.mark.parametrize("level", [0, 4])
def test_weights_of_an_outer_scope(form: str, level: int) -> None:
    """They are quantized where they are, once, and read from the bodies."""
    before = parser.parse_model(BODY)
    before.graph.initializer.append(numpy_helper.from_array(W, "w"))
    symmetric = level == 4
    after, report = quantize(before, bits=8, format=form, accuracy_level=level, symmetric=symmetric)
    count = 2 if symmetric else 3
    assert (
        len(fired(report)) == 2 and len(after.graph.initializer) == count and "w" not in str(after.graph.node[0].input)
    )
    for condition in (True, False):
        feeds = {**FLAT, "c": np.array(condition)}
        want, got = run(before, feeds)[0], run(after, feeds, optimize=True)[0]
        assert sqnr(want, got) > 35


def test_zero_points_of_an_outer_scope_are_lost_in_old_runtimes() -> None:
    before = parser.parse_model(BODY)
    before.graph.initializer.append(numpy_helper.from_array(W, "w"))
    _, report = quantize(before, bits=8, format="matmulnbits", accuracy_level=4)
    assert not fired(report) and reasons(report) == {
        "ONNX Runtime 1.23 loses zero points of an outer scope at accuracy_level 4: symmetric=true has none"
    }


def test_weights_of_a_body() -> None:
    before = parser.parse_model(BODY)
    for attribute, name in zip(before.graph.node[0].attribute, ("u", "v"), strict=True):
        attribute.g.initializer.append(numpy_helper.from_array(rand(K, N, seed=len(name)), name))
        attribute.g.node[-1].input[1] = name
    onnx.checker.check_model(before)
    for form in ("dequantize", "matmulnbits"):
        after, report = quantize(before, bits=8, format=form, accuracy_level=0)
        assert len(fired(report)) == 2 and not after.graph.initializer
        for condition in (True, False):
            feeds = {**FLAT, "c": np.array(condition)}
            assert sqnr(run(before, feeds)[0], run(after, feeds)[0]) > 38


def test_weights_of_a_function() -> None:
    text = """<ir_version: 10, opset_import: ["": 21, "f": 1]>
    g (float[M, 4] x) => (float[M, 2] y) { y = f.layer(x) }
    <domain: "f", opset_import: ["": 21]>
    layer (x) => (y)
    {
      w = Constant<value = float[4, 2] {1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.5}>()
      y = MatMul(x, w)
    }"""
    before = parser.parse_model(text)
    after, report = quantize(before, bits=8, block_size=0)
    assert fired(report) == [NAME]
    feeds = {"x": rand(3, 4)}
    assert sqnr(run(before, feeds)[0], run(after, feeds)[0]) > 35
    assert "a function" in str(reasons(quantize(before, format="matmulnbits")[1]))


def test_gptq_and_a_shared_weight() -> None:
    """The statistics of all that read a weight are added up; what was not observed stays float."""
    nodes = [node("MatMul", "x w", "p"), node("Abs", "x", "a"), node("MatMul", "a w", "q"), node("Add", "p q", "y")]
    before = model(nodes, {"x": ("M", 5, K)}, ["y"], {"w": W}, opset=21, ir_version=10)
    data = [{"x": rand(2, 5, K, seed=s)} for s in range(30)]
    found = weight_statistics(before, data)
    assert sorted(found) == ["a", "x"] and found["x"].count == 300
    after, report = quantize(before, method="gptq", statistics=found)
    assert len(fired(report)) == 2 and sqnr(run(before, X)[0], run(after, X)[0]) > 18
    part = Statistics({"x": found["x"]})
    missing = {f"there are no statistics of its input {name}" for name in ("x", "a")}
    assert reasons(quantize(before, method="gptq", statistics=part)[1]) == missing
    small = model([node("MatMul", "x w", "y")], {"x": ("M", 20)}, ["y"], {"w": rand(20, 8)}, opset=21, ir_version=10)
    with pytest.raises(GraphoptError, match="another model"):
        quantize(small, method="gptq", statistics=found)


@pytest.mark.parametrize("method", ["rtn", "gptq", "awq"])
@pytest.mark.parametrize("form", ["dequantize", "matmulnbits"])
def test_products_of_products(method: str, form: str) -> None:
    """The second one reads what now makes the first one's result, and has the statistics of its old name."""
    nodes = [node("MatMul", "x w", "p"), node("Gemm", "p v b", "q"), node("MatMul", "q u", "y")]
    weights = {"w": W, "v": rand(N, 64), "b": rand(64), "u": rand(64, 32)}
    before = model(nodes, {"x": ("M", K)}, ["y"], weights, opset=21, ir_version=10)
    found = weight_statistics(before, [{"x": rand(20, K, seed=s)} for s in range(20)])
    after, report = quantize(before, bits=8, method=method, statistics=found, format=form, accuracy_level=0)
    assert fired(report).count(NAME) == 3 and "no statistics" not in str(report.refusals)
    assert sqnr(run(before, FLAT)[0], run(after, FLAT)[0]) > 34


def test_what_does_not_change_is_not_copied() -> None:
    """A large weight that stays is the same payload; the codes of one that goes take an eighth."""
    nodes = [node("MatMul", "x w", "p"), node("MatMul", "p v", "y", name="second")]
    weights = {"w": rand(512, 512), "v": rand(512, 512)}
    ir = from_proto(model(nodes, {"x": ("M", 512)}, ["y"], weights, opset=21, ir_version=10))
    kept = ir.graph.initializers["v"].tensor
    assert kept is not None
    payload = kept.raw()
    QuantizeWeights(keep_float="second").run(ir, Context("onnx"))
    assert ir.graph.initializers["v"].tensor is kept and kept.raw() is payload
    sizes = {name: value.tensor.nbytes for name, value in ir.graph.initializers.items() if value.tensor is not None}
    assert sizes["w_codes"] == 512 * 256 and sum(sizes.values()) < 512 * 512 * 5
    assert to_proto(ir).ByteSize() < 512 * 512 * 5


def test_by_name_and_text(tmp_path: Any) -> None:
    path = str(tmp_path / "moments.npz")
    before = product(weights={"w": rand(K, 64)})
    weight_statistics(before, [X], path=path)
    text = f"quantize-weights{{method=gptq,least=0,statistics='{path}'}}"
    result, report = graphopt.optimize(before, text, verify="off", with_report=True)
    assert [n.op_type for n in result.graph.node] == ["DequantizeLinear", "MatMul"] and path in report.pipeline
