"""The rule set qdq-cleanup: each rule fires, refuses for each of its reasons, and changes no bit."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper
from tests.passes.simplify import text as texts
from tests.passes.simplify.text import fires, parse, refuses, same
from tests.passes.util import apply, fired, reasons

from graphopt.testing import conformance

S = "<float s = {0.05}, float t = {0.1}, uint8 z = {7}, uint8 zero = {0}, int8 k = {-3}, float[2] two = {0.1, 0.2}"
TWO = ", uint8[2] zz = {1, 2}"
IMAGE = "(uint8[N, 4, 6, 6] q) => (uint8 y) "
FLOAT = "(float[N, 4, 6, 6] x) => (uint8 y) "
REAL = "(uint8[N, 4, 6, 6] q) => (float y) "


def body(head: str, nodes: str, more: str = "") -> str:
    return f"{head}{S}{TWO}{more}> {{ {nodes} }}"


# -- Q(DQ(q)) ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["uint8", "int8", "uint16", "int16"])
def test_requantizing_every_code_gives_it_back(kind: str) -> None:
    low, high = np.iinfo(kind).min, np.iinfo(kind).max
    text = (
        f"({kind}[C] q) => ({kind} y) <float s = {{0.0173}}, {kind} z = {{5}}> "
        f"{{ d = DequantizeLinear(q, s, z) y = QuantizeLinear(d, s, z) }}"
    )
    codes = np.arange(low, high + 1).astype(kind)
    made = fires("eliminate-requantize", text, "Identity", opset=21, feeds={"q": codes})
    assert made.graph.node[0].input[0] == "q"


@pytest.mark.parametrize("scale", [1.2e-38, 1e-30, 0.1, 1 / 3, 2e33])
def test_requantizing_with_extreme_scales(scale: float) -> None:
    text = (
        "(uint8[256] q) => (uint8 y) <float s = {1}, uint8 z = {128}> { d = DequantizeLinear(q, s, z) y = "
        "QuantizeLinear(d, s, z) }"
    )
    before = parse(text)
    before.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.float32(scale), "s"))
    after, report = apply(before, "eliminate-requantize")
    assert fired(report) == ["eliminate-requantize"]
    same(before, after, {"q": np.arange(256).astype(np.uint8)})


def test_requantizing_per_channel() -> None:
    nodes = "d = DequantizeLinear<axis = 1>(q, two, zz) y = QuantizeLinear<axis = -1>(d, two, zz)"
    fires("eliminate-requantize", body("(uint8[N, 2] q) => (uint8 y) ", nodes), "Identity")


@pytest.mark.parametrize(
    ("nodes", "reason"),
    [
        ("d = DequantizeLinear(q, s, z) y = QuantizeLinear(d, t, z)", "different scales"),
        ("d = DequantizeLinear(q, s, z) y = QuantizeLinear(d, s, zero)", "different scales"),
        ("d = DequantizeLinear(q, s) y = QuantizeLinear(d, s, z)", "different scales"),
        ("d = DequantizeLinear<axis = 1>(q, two, zz) y = QuantizeLinear<axis = 0>(d, two, zz)", "different scales"),
    ],
)
def test_requantizing_on_another_grid_is_left(nodes: str, reason: str) -> None:
    refuses("eliminate-requantize", body("(uint8[2, 2] q) => (uint8 y) ", nodes), reason)


def test_requantizing_with_a_scale_that_is_computed_is_left() -> None:
    text = "(uint8[4] q, float s) => (uint8 y) { d = DequantizeLinear(q, s) y = QuantizeLinear(d, s) }"
    refuses("eliminate-requantize", text, "not constants")


SUBNORMAL = pytest.mark.skipif(onnx.defs.onnx_opset_version() < 26, reason="onnx 1.19 cannot parse such numbers")


@pytest.mark.parametrize("scale", ["0", "-0.5", pytest.param("1e-42", marks=SUBNORMAL), "3e38"])
def test_requantizing_with_a_scale_that_rounds_codes_away_is_left(scale: str) -> None:
    text = (
        f"(uint8[4] q) => (uint8 y) <float s = {{{scale}}}> {{ d = DequantizeLinear(q, s) y = QuantizeLinear(d, s) }}"
    )
    refuses("eliminate-requantize", text, "not constants")


# -- data that is only moved -------------------------------------------------------------------------------------------

MOVES = {
    "Transpose": "m = Transpose<perm = [0, 2, 3, 1]>(d)",
    "Reshape": "m = Reshape(d, shape)",
    "Flatten": "m = Flatten(d)",
    "Unsqueeze": "m = Unsqueeze(d, one)",
    "Slice": "m = Slice(d, one, three, one)",
    "Gather": "m = Gather<axis = 1>(d, one)",
    "MaxPool": "m = MaxPool<kernel_shape = [3, 3], pads = [1, 1, 1, 1], strides = [2, 2]>(d)",
}
MORE = {
    "Tile": "m = Tile(d, ones)",
    "Expand": "m = Expand(d, grown)",
    "Resize": 'm = Resize<mode = "nearest">(d, , twice)',
}
SIZES = (
    ", int64[3] shape = {0, 4, 36}, int64[1] one = {1}, int64[1] three = {3}, int64[4] ones = {1, 1, 2, 1}, "
    "int64[4] grown = {1, 4, 6, 6}, float[4] twice = {1, 1, 2, 2}"
)


@pytest.mark.parametrize("op", [*MOVES, *MORE])
@pytest.mark.parametrize("head", [IMAGE, IMAGE.replace("uint8", "int8")])
def test_moved_between_dequantize_and_quantize(op: str, head: str) -> None:
    z = "z" if "uint8" in head else "k"
    nodes = f"d = DequantizeLinear(q, s, {z}) {(MOVES | MORE)[op]} y = QuantizeLinear(m, s, {z})"
    fires("requantize-moved", body(head, nodes, SIZES), op)


@pytest.mark.parametrize("op", MOVES)
def test_dequantized_after_the_move(op: str) -> None:
    nodes = f"d = DequantizeLinear(q, s, z) y{MOVES[op][1:]}"
    fires("dequantize-later", body(REAL, nodes, SIZES), f"{op} DequantizeLinear")


@pytest.mark.parametrize("op", ["Squeeze"])
@pytest.mark.parametrize("opset", [11, 17])
def test_squeeze_at_both_forms(op: str, opset: int) -> None:
    move = "m = Squeeze<axes = [1]>(d)" if opset < 13 else "m = Squeeze(d, one)"
    text = "(uint8[N, 1, 3] q) => (float y) "
    nodes = f"d = DequantizeLinear(q, s, z) {move.replace('m =', 'y =')}"
    fires("dequantize-later", body(text, nodes, ", int64[1] one = {1}"), "Squeeze DequantizeLinear", opset=opset)


@pytest.mark.parametrize("op", MOVES)
@pytest.mark.parametrize("cut", ["", "c = Relu(a) ", "c = Clip(a, t, s) "])
def test_quantized_before_the_move(op: str, cut: str) -> None:
    value = "c" if cut else "a"
    nodes = (
        f"b = DequantizeLinear(q, s, z) a = Sigmoid(b) {cut}{MOVES[op].replace('(d', f'({value}')} y = "
        f"QuantizeLinear(m, t, zero)"
    )
    left = f"DequantizeLinear Sigmoid {'Relu ' if 'Relu' in cut else 'Clip ' if cut else ''}QuantizeLinear {op}"
    fires("quantize-earlier", body(IMAGE, nodes, SIZES), left)


@pytest.mark.parametrize(
    ("move", "reason"),
    [
        ("m = MaxPool<kernel_shape = [2, 2], ceil_mode = 1, strides = [2, 2]>(d)", "may lie in the padding"),
        ('m = MaxPool<kernel_shape = [2, 2], auto_pad = "SAME_UPPER">(d)', "may lie in the padding"),
        ("m = MaxPool<kernel_shape = [2, 2], dilations = [2, 2], pads = [1, 1, 1, 1]>(d)", "may lie in the padding"),
        ("m, i = MaxPool<kernel_shape = [2, 2]>(d)", "indices"),
        ('m = Resize<mode = "linear">(d, , twice)', "interpolates"),
        (
            'm = Resize<mode = "nearest", coordinate_transformation_mode = "tf_crop_and_resize">(d, roi, twice)',
            "extrapolates",
        ),
    ],
)
def test_moves_that_do_not_commute_are_left(move: str, reason: str) -> None:
    outputs = "(uint8 y, int64 i)" if "i =" in move else "(uint8 y)"
    head = IMAGE.replace("(uint8 y)", outputs)
    nodes = f"d = DequantizeLinear(q, s, z) {move} y = QuantizeLinear(m, s, z)"
    refuses(
        "requantize-moved",
        body(head, nodes, SIZES + ", float[8] roi = {0, 0, 0, 0, 1, 1, 2, 2}"),
        "" if "i =" in move else reason,
    )


def test_max_pool_before_opset_12_is_left() -> None:
    nodes = f"d = DequantizeLinear(q, s, z) {MOVES['MaxPool']} y = QuantizeLinear(m, s, z)"
    refuses("requantize-moved", body(IMAGE, nodes), "opset 12", opset=11)


@pytest.mark.parametrize("rule", ["requantize-moved", "dequantize-later"])
def test_scales_per_channel_stay_where_they_are(rule: str) -> None:
    out, end = ("uint8", "y = QuantizeLinear(m, two, zz)") if rule == "requantize-moved" else ("float", "y = Neg(m)")
    nodes = f"d = DequantizeLinear(q, two, zz) m = Transpose(d) {end}"
    refuses(rule, body(f"(uint8[2, 2] q) => ({out} y) ", nodes), "per channel")


def test_16_bits_are_left() -> None:
    text = (
        "(uint16[2, 2] q) => (uint16 y) <float s = {0.1}, uint16 z = {5}> { d = DequantizeLinear(q, s, z) m "
        "= Transpose(d) y = QuantizeLinear(m, s, z) }"
    )
    refuses("requantize-moved", text, "8 bits", opset=21)


def test_another_grid_after_the_move_is_left() -> None:
    nodes = "d = DequantizeLinear(q, s, z) m = Flatten(d) y = QuantizeLinear(m, t, z)"
    refuses("requantize-moved", body(IMAGE, nodes), "another scale")
    refuses("dequantize-later", body(IMAGE, nodes))  # a Reshape may stand there to keep ORT from merging the two


def test_what_others_read_is_not_moved() -> None:
    nodes = "d = DequantizeLinear(q, s, z) y = Flatten(d) w = Neg(d)"
    refuses("dequantize-later", body("(uint8[N, 4, 6, 6] q) => (float y, float w) ", nodes))
    nodes = "b = DequantizeLinear(q, s, z) a = Sigmoid(b) m = Flatten(a) w = Neg(a) y = QuantizeLinear(m, s, z)"
    refuses("quantize-earlier", body("(uint8[N, 4, 6, 6] q) => (uint8 y, float w) ", nodes))
    refuses("quantize-earlier", body(FLOAT, "a = Sigmoid(x) m = Flatten(a) y = QuantizeLinear(m, s, z)"))


def test_tensorrt_keeps_float_operators() -> None:
    before = parse(body(REAL, "d = DequantizeLinear(q, s, z) y = Flatten(d)"))
    assert texts.nodes(apply(before, "qdq-cleanup", target="tensorrt")[0]) == "DequantizeLinear Flatten"


# -- Concat and Split --------------------------------------------------------------------------------------------------

PAIR = "(uint8[N, 2] q, uint8[N, 3] r) => (float y) "


def test_concat_of_one_grid() -> None:
    nodes = "a = DequantizeLinear(q, s, z) b = DequantizeLinear(r, s, z) y = Concat<axis = 1>(a, b)"
    fires("concat-dequantized", body(PAIR, nodes), "Concat DequantizeLinear")


def test_concat_where_one_operand_has_another_reader() -> None:
    nodes = "a = DequantizeLinear(q, s, z) b = DequantizeLinear(r, s, z) y = Concat<axis = 1>(a, b) w = Neg(a)"
    head = PAIR.replace("(float y)", "(float y, float w)")
    fires("concat-dequantized", body(head, nodes), "DequantizeLinear Concat DequantizeLinear Neg")


@pytest.mark.parametrize(
    ("nodes", "reason"),
    [
        ("a = DequantizeLinear(q, s, z) b = DequantizeLinear(r, t, z)", "different scales"),
        ("a = DequantizeLinear(q, s, z) b = DequantizeLinear(r, s, zero)", "different scales"),
        ("a = DequantizeLinear<axis = 0>(q, two, zz) b = DequantizeLinear<axis = 0>(r, two, zz)", "per channel"),
    ],
)
def test_concat_that_is_left(nodes: str, reason: str) -> None:
    refuses("concat-dequantized", body(PAIR.replace("[N", "[2"), f"{nodes} y = Concat<axis = 1>(a, b)"), reason)


def test_concat_of_operands_that_stay_is_left() -> None:
    nodes = (
        "a = DequantizeLinear(q, s, z) b = DequantizeLinear(r, s, z) y = Concat<axis = 1>(a, b) w = Neg(a) v = Neg(b)"
    )
    head = PAIR.replace("(float y)", "(float y, float w, float v)")
    refuses("concat-dequantized", body(head, nodes), "other readers")


def test_concat_of_16_bits_is_left() -> None:
    text = (
        "(uint16[2] q) => (float y) <float s = {1}> { a = DequantizeLinear(q, s) b = DequantizeLinear(q, s) "
        "y = Concat<axis = 0>(a, b) }"
    )
    refuses("concat-dequantized", text, "8 bits", opset=21)


def test_split() -> None:
    nodes = "a = DequantizeLinear(q, s, z) y, w = Split<axis = 1>(a)"
    head = "(uint8[N, 4] q) => (float y, float w) "
    fires("split-dequantized", body(head, nodes), "Split DequantizeLinear DequantizeLinear")
    nodes = "a = DequantizeLinear<axis = 0>(q, two, zz) y, w = Split<axis = 1>(a)"
    refuses("split-dequantized", body(head.replace("N", "2"), nodes), "per channel")
    text = (
        "(uint16[4] q) => (float y, float w) <float s = {1}> { a = DequantizeLinear(q, s) y, w = "
        "Split<num_outputs = 2>(a) }"
    )
    refuses("split-dequantized", text, "8 bits", opset=21)


# -- Relu and Clip -----------------------------------------------------------------------------------------------------

CUTS = ", float none = {0}, float six = {6}, float five = {5}, float most = {25.5}, float below = {-1}"
ORDINARY = {"x": np.linspace(-40, 40, 2 * 4 * 36, dtype=np.float32).reshape(2, 4, 6, 6)}


@pytest.mark.parametrize(
    "cut", ["Relu(x)", "Clip(x, none, most)", "Clip(x, none)", "Clip(x)", "Clip(x, , most)", "Clip(x, below, most)"]
)
def test_a_cut_that_saturation_makes_up_for(cut: str) -> None:
    nodes = f"c = {cut} y = QuantizeLinear(c, t, zero)"
    fires("eliminate-clip-quantize", body(FLOAT, nodes, CUTS), "QuantizeLinear", feeds=ORDINARY)


def test_a_cut_with_attributes() -> None:
    nodes = "c = Clip<min = 0.0, max = 6.0>(x) y = QuantizeLinear(c, sixth, zero)"
    text = body(FLOAT, nodes, ", float sixth = {0.023529412}")
    fires("eliminate-clip-quantize", text, "QuantizeLinear", opset=10, feeds=ORDINARY)


@pytest.mark.parametrize(
    ("cut", "zero", "reason"),
    [
        ("Relu(x)", "z", "go on beyond"),
        ("Clip(x, none, six)", "zero", "go on beyond"),
        ("Clip(x, five, most)", "zero", "go on beyond"),
        ("Clip(x, six, five)", "zero", "not constants in order"),
    ],
)
def test_a_cut_that_matters_is_left(cut: str, zero: str, reason: str) -> None:
    refuses("eliminate-clip-quantize", body(FLOAT, f"c = {cut} y = QuantizeLinear(c, t, {zero})", CUTS), reason)


def test_cuts_that_are_not_known_are_left() -> None:
    head = "(float[4] x, float b) => (uint8 y) "
    refuses("eliminate-clip-quantize", body(head, "c = Clip(x, b) y = QuantizeLinear(c, t, zero)"), "not constants")
    head = "(float[2] x) => (uint8 y) "
    nodes = "c = Relu(x) y = QuantizeLinear<axis = 0>(c, two, zz)"
    refuses("eliminate-clip-quantize", body(head, nodes), "no single")


@pytest.mark.parametrize("cut", ["Relu(d)", "Clip(d, none, most)", "Clip(d, below)"])
def test_a_cut_of_what_lies_inside(cut: str) -> None:
    nodes = f"d = DequantizeLinear(q, s, zero) y = {cut}"
    fires("eliminate-clip-dequantized", body(REAL, nodes, CUTS), "DequantizeLinear")


@pytest.mark.parametrize(
    ("nodes", "reason"),
    [
        ("d = DequantizeLinear(q, s, z) y = Relu(d)", "cuts something off"),
        ("d = DequantizeLinear(q, s, zero) y = Clip(d, none, five)", "cuts something off"),
        ("d = DequantizeLinear<axis = 0>(q, two, zz) y = Relu(d)", "no single"),
    ],
)
def test_a_cut_of_what_lies_outside_is_left(nodes: str, reason: str) -> None:
    refuses("eliminate-clip-dequantized", body(REAL.replace("N", "2"), nodes, CUTS), reason)


# -- constants ---------------------------------------------------------------------------------------------------------


def test_a_constant_is_stored_as_integers() -> None:
    text = body(
        "(float[2] x) => (float y) ",
        "q = QuantizeLinear<axis = 0>(c, two, zz) d = DequantizeLinear<axis = 0>(q, two, zz) y = Add(x, d)",
        ", float[2] c = {0.25, -90}",
    )
    made = fires("quantize-constant", text, "DequantizeLinear Add")
    [codes] = [t for t in made.graph.initializer if t.name == made.graph.node[0].input[0]]
    assert (codes.data_type, numpy_helper.to_array(codes).tolist()) == (TensorProto.UINT8, [3, 0])


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_a_constant_that_is_not_finite_is_left(value: str) -> None:
    before = parse(body("(float[2] x) => (uint8 y) ", "y = QuantizeLinear(c, t, z)", ", float[2] c = {1, 2}"))
    before.graph.initializer[-1].CopyFrom(numpy_helper.from_array(np.array([1, float(value)], np.float32), "c"))
    assert reasons(apply(before, "quantize-constant")[1], "quantize-constant") == ["the constant is not finite"]


def test_constants_whose_scale_is_unknown_are_left() -> None:
    text = "(float[2] x, float s) => (uint8 y) <float[2] c = {1, 2}> { y = QuantizeLinear(c, s) }"
    refuses("quantize-constant", text, "no constant scale")


def test_the_set_keeps_the_contract() -> None:
    nodes = (
        f"b = DequantizeLinear(q, s, z) a = LeakyRelu(b) {MOVES['MaxPool'].replace('(d', '(a')} y = "
        f"QuantizeLinear(m, t, zero)"
    )
    conformance("qdq-cleanup", parse(body(IMAGE, nodes, SIZES)))
