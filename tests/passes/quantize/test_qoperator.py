"""to-qoperator and from-qoperator: the same within one integer, and there and back the same file of integers."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper
from tests.passes.simplify.text import nodes as listed
from tests.passes.simplify.text import parse
from tests.passes.util import apply, fired, reasons, run

from graphopt.passes.quantize.from_qoperator import FromQoperator
from graphopt.passes.quantize.to_qoperator import ToQoperator

SCALES = (
    "<float s = {0.1}, float t = {0.05}, float o = {0.2}, uint8 z = {9}, uint8 v = {100}, int8 k = {0}, "
    "int8[2, 3, 1, 1] w = {1, -2, 3, 4, 5, -6}, float[2] pc = {0.1, 0.2}, int8[2] kk = {0, 0}, "
    "int8[4, 2] m = {1, 2, 3, 4, 5, 6, 7, 8}, float[2] b = {0.5, -1}, "
    "int32[2] c = {30, -40}, float[2] cs = {0.01, 0.02}>"
)
HEAD = "(uint8[N, 3, 4, 4] q, uint8[N, 3, 4, 4] r) => (uint8 y) "
BOTH = "d = DequantizeLinear(q, s, z) e = DequantizeLinear(r, t, v) "
END = " y = QuantizeLinear(a, o, v)"
OWN = {
    "a = Add(d, e)": "QLinearAdd",
    "a = Mul(d, e)": "QLinearMul",
    "a = Sigmoid(d)": "QLinearSigmoid",
    "a = LeakyRelu<alpha = 0.2>(d)": "QLinearLeakyRelu",
    "a = GlobalAveragePool(d)": "QLinearGlobalAveragePool",
    "a = AveragePool<kernel_shape = [2, 2], strides = [2, 2], pads = [1, 1, 0, 0]>(d)": "QLinearAveragePool",
    "a = Concat<axis = 1>(d, e, d)": "QLinearConcat",
}
CONVS = [
    "wd = DequantizeLinear(w, t, k) a = Conv(d, wd)",
    "wd = DequantizeLinear<axis = 0>(w, pc, kk) a = Conv(d, wd, b)",
    (
        "wd = DequantizeLinear<axis = 0>(w, pc, kk) cd = DequantizeLinear<axis = 0>(c, cs) "
        "a = Conv<pads = [1, 1, 1, 1]>(d, wd, cd)"
    ),
    "wd = DequantizeLinear(w, t) a = Conv<strides = [2, 2]>(d, wd, b)",
]
PRODUCTS = [
    "md = DequantizeLinear<axis = 1>(m, pc, kk) a = MatMul(d, md)",
    "md = DequantizeLinear(m, t) a = MatMul(d, md)",
]


def text(body: str, head: str = HEAD, opset: int = 17) -> onnx.ModelProto:
    return parse(f"{head}{SCALES} {{ {body} }}", opset)


def feeds(made: onnx.ModelProto) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    sizes = {i.name: [d.dim_value or 2 for d in i.type.tensor_type.shape.dim] for i in made.graph.input}
    return {name: random.integers(0, 256, shape, np.uint8) for name, shape in sizes.items()}


def there_and_back(before: onnx.ModelProto, operator: str) -> onnx.ModelProto:
    after, report = apply(before, "to-qoperator", "dead-code", target="onnxruntime")
    assert fired(report)[0] == "to-qoperator"
    assert listed(after) == operator
    feed = feeds(before)
    want, got = run(before, feed)[0].astype(int), run(after, feed)[0].astype(int)
    assert np.abs(want - got).max() <= 1
    assert len(np.unique(want)) > 2
    back, report = apply(after, "from-qoperator")
    assert fired(report) == ["from-qoperator"]
    assert np.abs(run(back, feed)[0].astype(int) - want).max() <= 1
    again, _ = apply(back, "to-qoperator", "dead-code", target="onnxruntime")
    assert listed(again) == operator
    np.testing.assert_array_equal(run(again, feed)[0], run(after, feed)[0])
    return after


@pytest.mark.parametrize("body", CONVS)
@pytest.mark.parametrize("opset", [13, 17])
def test_conv(body: str, opset: int) -> None:
    there_and_back(text(BOTH + body + END, opset=opset), "QLinearConv")


@pytest.mark.parametrize("body", PRODUCTS)
def test_matmul(body: str) -> None:
    there_and_back(text(BOTH + body + END), "QLinearMatMul")


@pytest.mark.parametrize("body", OWN)
def test_operators_of_the_runtime(body: str) -> None:
    before = text(BOTH + body + END)
    there_and_back(before, OWN[body])
    assert not fired(apply(before, "to-qoperator")[1])  # not in standard ONNX


@pytest.mark.parametrize("bias", ["", ", b"])
@pytest.mark.parametrize("transposed", [False, True])
def test_gemm(bias: str, transposed: bool) -> None:
    head = "(uint8[N, 4] q) => (uint8 y) "
    axis, flip = (0, "<transB = 1>") if transposed else (1, "")
    data = SCALES.replace("int8[4, 2] m", "int8[2, 4] m") if transposed else SCALES
    body = (
        f"d = DequantizeLinear(q, s, z) md = DequantizeLinear<axis = {axis}>(m, pc, kk) a = Gemm{flip}(d, "
        f"md{bias}){END}"
    )
    there_and_back(parse(f"{head}{data} {{ {body} }}"), "QGemm")


def test_names_of_both_sides_are_kept() -> None:
    before = text(BOTH + CONVS[1] + END)
    before.graph.node[3].name = "the conv"
    after, _ = apply(before, "to-qoperator", "dead-code")
    assert [n.name for n in after.graph.node] == ["the conv"]
    assert after.graph.output[0].name == "y"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("f = Neg(d) a = Add(d, f)", "not dequantized from 8 bits"),
        ("wd = DequantizeLinear<axis = 1>(w, threes) a = Conv(d, wd)", "another axis"),
        ("wd = DequantizeLinear<axis = 0>(w, pc, odd) a = Conv(d, wd)", "different zero points"),
        ("wd = DequantizeLinear(w, t) a = Conv(d, wd, huge)", "too large for int32"),
        ("wd = DequantizeLinear(w, t) n = Neg(b) a = Conv(d, wd, n)", "no constant for each channel"),
        ("f = DequantizeLinear(i, t) a = Add(d, f)", "different types"),
        ("f = DequantizeLinear(i, t) a = Sigmoid(f)", "another type than the data"),
        ("f = DequantizeLinear<axis = 1>(q, threes) a = Sigmoid(f)", "scale for each channel"),
        ("a = AveragePool<kernel_shape = [2, 2], dilations = [2, 2]>(d)", "dilations"),
    ],
)
def test_what_stays_as_it_is(body: str, reason: str) -> None:
    more = ", float[3] threes = {1, 2, 3}, int8[2] odd = {0, 1}, float[2] huge = {1e9, 0}, int8[1] i = {3}>"
    made = parse(f"{HEAD}{SCALES[:-1]}{more} {{ {BOTH}{body}{END} }}", 19)
    _, report = apply(made, "to-qoperator", target="onnxruntime")
    assert any(reason in text for text in reasons(report, "to-qoperator")), reasons(report, "to-qoperator")


def test_more_that_stays() -> None:
    def said(body: str, head: str = HEAD) -> list[str]:
        return reasons(apply(text(BOTH + body, head), "to-qoperator", target="onnxruntime")[1], "to-qoperator")

    assert any(
        "8 bits with one" in r
        for r in said("a = Sigmoid(d) y = QuantizeLinear<axis = 0>(a, pc)", HEAD.replace("N", "2"))
    )
    assert not said("a = Sigmoid(d) y = Neg(a)", HEAD.replace("(uint8 y)", "(float y)"))
    assert not fired(apply(text(BOTH + CONVS[0] + END), ToQoperator(keep_float="*"))[1])
    signed = "(int8[N, 3, 4, 4] q) => (int8 y) <float s = {1}, int8 k = {0}, uint8[2, 3, 1, 1] u = {1, 2, 3, 4, 5, 6}>"
    made = parse(
        f"{signed} {{ d = DequantizeLinear(q, s) f = DequantizeLinear(u, s) a = Conv(d, f) "
        "y = QuantizeLinear(a, s, k) }"
    )
    assert reasons(apply(made, "to-qoperator")[1], "to-qoperator") == ["int8 data with uint8 weights has no kernel"]
    gemm = "(uint8[N, 4] q) => (uint8 y) "
    body = (
        "d = DequantizeLinear(q, s, z) f = DequantizeLinear(m, t) a = Gemm<alpha = 2.0>(d, f) y = "
        "QuantizeLinear(a, o, v)"
    )
    assert "alpha, beta" in reasons(apply(text(body, gemm), "to-qoperator", target="onnxruntime")[1], "to-qoperator")[0]


def operator(op: str, inputs: str, domain: str = "com.microsoft", **attrs: object) -> onnx.ModelProto:
    made = text("y = Identity(q)")
    del made.graph.node[:]
    made.graph.node.append(helper.make_node(op, inputs.split(), ["y"], domain=domain, **attrs))
    made.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return made


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (operator("QLinearGlobalAveragePool", "q s z o v", channels_last=1), "channels_last=1"),
        (operator("QLinearSigmoid", "q pc z o v"), "other than weights"),
        (operator("QLinearMatMul", "q s z r pc kk o v", domain=""), "a matrix"),
    ],
)
def test_operators_that_stay(made: onnx.ModelProto, reason: str) -> None:
    _, report = apply(made, "from-qoperator")
    assert any(reason in said for said in reasons(report, "from-qoperator")), reasons(report, "from-qoperator")


def test_scales_at_run_time_and_old_opsets() -> None:
    head = "(uint8[N, 3, 4, 4] q, float f) => (uint8 y) "
    made = text("y = QLinearConv(q, f, z, w, t, k, o, v)", head)
    assert reasons(apply(made, "from-qoperator")[1], "from-qoperator") == ["a scale is computed at run time"]
    made = text("y = QLinearConv(q, s, z, w, pc, kk, o, v)", opset=11)
    assert "opset 13" in reasons(apply(made, "from-qoperator")[1], "from-qoperator")[0]
    made = text("y = QLinearConv(q, s, z, w, t, k, o, v)", opset=11)
    assert fired(apply(made, "from-qoperator")[1]) == ["from-qoperator"]
    assert not fired(apply(made, FromQoperator(only="nothing"))[1])
