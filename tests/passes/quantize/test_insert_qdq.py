"""Static quantization: what becomes Q/DQ, what stays float and why, and what ONNX Runtime makes of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from tests.passes.quantize.qdq import assert_close, fused, quantize, ranges_of_model
from tests.passes.util import apply, constant, model, node, ops, rand, reasons

from graphopt.analysis.ranges import Ranges, TensorRange
from graphopt.errors import GraphoptError
from graphopt.passes.quantize.insert_qdq import NAME, InsertQdq

X = {"x": [1, 16, 12, 12]}
FEEDS = {"x": rand(1, 16, 12, 12, seed=7)}
W = rand(16, 16, 3, 3, seed=1, low=-0.2, high=0.2)
B = rand(16, seed=2)


def conv_relu_conv(opset: int = 17) -> onnx.ModelProto:
    return model(
        [
            node("Conv", "x w b", "a", pads=[1, 1, 1, 1], name="first"),
            node("Relu", "a", "r"),
            node("Conv", "r w", "y", name="second"),
        ],
        X,
        ["y"],
        {"w": W, "b": B},
        opset=opset,
    )


def test_convolutions_become_integer_kernels(tmp_path: Path) -> None:
    before = conv_relu_conv()
    after, report = quantize(before, FEEDS)
    assert [rewrite.rule for rewrite in report.rewrites] == [NAME, NAME]
    assert "Relu" not in ops(after), "the Q behind the convolution saturates at 0"
    assert ops(after)["QuantizeLinear"] == 3
    kernels = fused(after, tmp_path)
    assert kernels["QLinearConv"] == 2
    assert kernels["Conv"] == kernels["Relu"] == 0
    assert_close(before, after, FEEDS)


def test_a_shared_weight_is_quantized_once() -> None:
    after, _ = quantize(conv_relu_conv(), FEEDS)
    weights = [t for t in after.graph.initializer if list(t.dims) == [16, 16, 3, 3]]
    assert [t.data_type for t in weights] == [onnx.TensorProto.INT8]
    assert "w" not in {t.name for t in after.graph.initializer}


def test_weights_have_a_scale_for_each_channel_and_biases_are_int32() -> None:
    after, _ = quantize(conv_relu_conv(), FEEDS)
    shapes = {t.name: (t.data_type, list(t.dims)) for t in after.graph.initializer}
    assert shapes["w_scale"] == (onnx.TensorProto.FLOAT, [16])
    assert shapes["b_quantized"] == (onnx.TensorProto.INT32, [16])
    np.testing.assert_allclose(constant(after, "b_quantized") * constant(after, "b_scale"), B, atol=1e-4)


def test_one_scale_for_all_of_a_weight() -> None:
    before = conv_relu_conv()
    after, _ = quantize(before, FEEDS, per_channel=False)
    assert constant(after, "w_scale").shape == ()
    assert_close(before, after, FEEDS, 25)


def test_signed_activations() -> None:
    before = conv_relu_conv()
    after, _ = quantize(before, FEEDS, activations="int8")
    assert_close(before, after, FEEDS)


def test_who_stays_float_reads_floats() -> None:
    """x goes to a convolution and to a Sin: one Q/DQ pair, and the Sin reads x itself."""
    before = model([node("Sin", "x", "s"), node("Conv", "s w", "a"), node("Cos", "s", "c")], X, ["a", "c"], {"w": W})
    after, _ = quantize(before, FEEDS)
    cos = next(n for n in after.graph.node if n.op_type == "Cos")
    assert list(cos.input) == ["s"]
    assert_close(before, after, FEEDS)


def test_one_pair_for_all_readers() -> None:
    before = model([node("Conv", "x w", "a"), node("Conv", "x v", "b")], X, ["a", "b"], {"w": W, "v": W + 0.1})
    after, _ = quantize(before, FEEDS)
    assert sum(n.op_type == "QuantizeLinear" and n.input[0] == "x" for n in after.graph.node) == 1
    assert_close(before, after, FEEDS)


def test_a_residual_add(tmp_path: Path) -> None:
    before = model(
        [
            node("Conv", "x w b", "a", pads=[1] * 4),
            node("Conv", "a v", "c", pads=[1] * 4),
            node("Add", "a c", "s"),
            node("Relu", "s", "r"),
            node("Conv", "r w", "y"),
        ],
        X,
        ["y"],
        {"w": W, "b": B, "v": W[::-1].copy()},
    )
    after, _ = quantize(before, FEEDS)
    kernels = fused(after, tmp_path)
    assert (kernels["QLinearConv"], kernels["QLinearAdd"], kernels["DequantizeLinear"]) == (3, 1, 1)
    assert_close(before, after, FEEDS)


def test_what_only_moves_elements_keeps_the_scale(tmp_path: Path) -> None:
    before = model(
        [
            node("Conv", "x w b", "a", pads=[1] * 4),
            node("MaxPool", "a", "p", kernel_shape=[2, 2], strides=[2, 2]),
            node("Split", "p", "l r", axis=1),
            node("Concat", "r l", "c", axis=1),
            node("Conv", "c w", "y"),
        ],
        X,
        ["y"],
        {"w": W, "b": B},
    )
    after, _ = quantize(before, FEEDS)
    kernels = fused(after, tmp_path)
    assert kernels["QLinearConv"] == 2
    assert kernels["Conv"] == kernels["MaxPool"] == 0, kernels
    assert kernels["QuantizeLinear"] == kernels["DequantizeLinear"] == 1
    scales = {n.input[1] for n in after.graph.node if n.op_type == "QuantizeLinear"}
    assert len(scales) == 3, "x; a, p, l, r, c; y"
    assert_close(before, after, FEEDS)


def test_a_product_gives_floats_itself(tmp_path: Path) -> None:
    before = model(
        [node("Gemm", "x w b", "y", transB=1)], {"x": [4, 32]}, ["y"], {"w": rand(8, 32), "b": rand(8, seed=3)}
    )
    feeds = {"x": rand(4, 32, seed=5)}
    after, _ = quantize(before, feeds)
    assert ops(after)["QuantizeLinear"] == 1, "of x; none behind the product"
    assert fused(after, tmp_path)["QGemm"] == 1
    assert_close(before, after, feeds)


def test_matmul_with_a_constant(tmp_path: Path) -> None:
    before = model([node("MatMul", "x w", "y")], {"x": [2, 4, 32]}, ["y"], {"w": rand(32, 8)})
    feeds = {"x": rand(2, 4, 32, seed=5)}
    after, _ = quantize(before, feeds)
    assert fused(after, tmp_path)["MatMulIntegerToFloat"] == 1
    assert_close(before, after, feeds)


def test_a_channel_of_small_weights_and_a_large_bias() -> None:
    """In int32 of scale s_x s_w the bias would overflow: the scale of the weights gives way."""
    weights = W.copy()
    weights[3] *= 1e-12
    before = model([node("Conv", "x w b", "y")], X, ["y"], {"w": weights, "b": B * 10})
    after, _ = quantize(before, FEEDS)
    assert_close(before, after, FEEDS, 35)


def test_islands_stay_float() -> None:
    """A small convolution between operators with no integer kernel: Q and DQ would cost more than it saves."""
    small = {"x": [1, 2, 8, 8]}
    before = model(
        [node("Sin", "x", "s"), node("Conv", "s w", "a", name="c"), node("Sin", "a", "y")],
        small,
        ["y"],
        {"w": rand(2, 2, 1, 1)},
    )
    feeds = {"x": rand(1, 2, 8, 8)}
    after, report = quantize(before, feeds, force=False)
    assert not report.rewrites
    assert "does not pay" in reasons(report, NAME)[0]
    assert report.refusals[NAME][reasons(report, NAME)[0]] == ["c"]
    assert ops(after) == ops(before)


def test_glue_alone_is_left_alone() -> None:
    before = model([node("Add", "x x2", "a"), node("Mul", "a x2", "y")], {**X, "x2": X["x"]}, ["y"])
    after, _ = quantize(before, {**FEEDS, "x2": FEEDS["x"]})
    assert ops(after) == ops(before)


def test_only_and_keep_float() -> None:
    after, report = quantize(conv_relu_conv(), FEEDS, only="first")
    assert [n.name for n in after.graph.node if n.op_type == "Conv"] == ["first", "second"]
    assert report.refusals[NAME] == {"kept float, as asked for": ["second"]}
    after, report = quantize(conv_relu_conv(), FEEDS, keep_float="fir*,nothing")
    assert report.refusals[NAME] == {"kept float, as asked for": ["first"]}


def test_it_refuses_opset_12() -> None:
    after, report = quantize(conv_relu_conv(12), FEEDS)
    assert "raise-opset" in reasons(report, NAME)[0]
    assert ops(after) == ops(conv_relu_conv())


def test_it_refuses_tensors_without_a_range() -> None:
    found = ranges_of_model(conv_relu_conv(), [FEEDS])
    some = Ranges({name: found[name] for name in found if name != "y"})
    _, report = quantize(conv_relu_conv(), FEEDS, ranges=some)
    assert reasons(report, NAME) == ["no range is known of y: calibrate this model"]


def test_it_refuses_weights_that_are_no_constants() -> None:
    before = model([node("Conv", "x w", "y")], {**X, "w": [16, 16, 3, 3]}, ["y"])
    _, report = quantize(before, {**FEEDS, "w": W})
    assert reasons(report, NAME) == ["the weights are not constant float32"]


def test_it_refuses_double() -> None:
    before = model([node("Conv", "x w", "y")], X, ["y"], {"w": W.astype(np.float64)}, dtype=onnx.TensorProto.DOUBLE)
    _, report = quantize(before, FEEDS, ranges=Ranges({"x": TensorRange(-1, 1, -1, 1), "y": TensorRange(-1, 1, -1, 1)}))
    assert reasons(report, NAME) == ["the weights are not constant float32"]


def test_no_ranges_is_an_error() -> None:
    with pytest.raises(GraphoptError, match="graphopt calibrate"):
        apply(conv_relu_conv(), InsertQdq())
    with pytest.raises(GraphoptError, match="the ranges are empty"):
        apply(conv_relu_conv(), InsertQdq(ranges=Ranges({})))
    with pytest.raises(GraphoptError, match="int3"):
        apply(conv_relu_conv(), InsertQdq(ranges=ranges_of_model(conv_relu_conv(), [FEEDS]), activations="int3"))


def test_ranges_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "ranges.json"
    ranges_of_model(conv_relu_conv(), [FEEDS]).save(path)
    after, _ = apply(conv_relu_conv(), InsertQdq(ranges=str(path), force=True))
    same, _ = quantize(conv_relu_conv(), FEEDS, target="onnx")
    assert after.SerializeToString(deterministic=True) == same.SerializeToString(deterministic=True)


def test_what_reads_constants_only_stays() -> None:
    before = model(
        [node("Gather", "t i", "e", axis=0), node("Conv", "x w", "a"), node("Add", "a e", "y")],
        X,
        ["y"],
        {"t": rand(3, 16, 10, 10), "i": np.array([1]), "w": W},
    )
    after, _ = quantize(before, FEEDS)
    assert next(n for n in after.graph.node if n.op_type == "Gather").input[0] == "t"
    assert_close(before, after, FEEDS)


def test_again_changes_nothing() -> None:
    """What has Q/DQ is not wrapped another time."""
    found = ranges_of_model(conv_relu_conv(), [FEEDS])
    once, _ = quantize(conv_relu_conv(), FEEDS, ranges=found)
    twice, report = quantize(once, FEEDS, ranges=found)
    assert not report.rewrites
    assert ops(twice) == ops(once)


def test_in_a_body() -> None:
    before = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["": 17]>
        g (bool c, float[1,16,12,12] x) => (float[1,16,10,10] y) {
            y = If(c) < then_branch = t () => (float[1,16,10,10] p) { v = Neg(x)  p = Conv(v, w) },
                        else_branch = e () => (float[1,16,10,10] q) { q = Conv(x, w) } >
        }""")
    before.graph.initializer.append(numpy_helper.from_array(W, "w"))
    bounds = TensorRange(-1, 1, -1, 1)
    wide = TensorRange(-9, 9, -9, 9)
    after, report = quantize(before, FEEDS, ranges=Ranges({"x": bounds, "v": bounds, "p": wide, "q": wide}))
    assert len(report.rewrites) == 1, "what reads a value of the enclosing scope stays float"
    assert_close(before, after, {**FEEDS, "c": np.array(True)}, 25)
    assert_close(before, after, {**FEEDS, "c": np.array(False)}, 25)


def test_what_a_body_reads_stays_float() -> None:
    """ONNX Runtime's optimizer of Transposes would fall over it."""
    before = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["": 17]>
        g (bool c, float[1,16,12,12] x) => (float[10,1,16,10] y) {
            a = Conv(x, w)
            b = Conv(a, u)
            t = Transpose <perm = [2, 0, 1, 3]> (b)
            y = If(c) < then_branch = t1 () => (float[10,1,16,10] p) { p = Neg(t) },
                        else_branch = e1 () => (float[10,1,16,10] q) { q = Sin(t) } >
        }""")
    before.graph.initializer.extend([numpy_helper.from_array(W, "w"), numpy_helper.from_array(rand(16, 16, 1, 1), "u")])
    bounds = TensorRange(-9, 9, -9, 9)
    found = Ranges(dict.fromkeys("xabt", bounds))
    after, report = quantize(before, FEEDS, ranges=found)
    assert report.refusals[NAME] == {
        "the body of an If, Loop or Scan reads what it makes, which ONNX Runtime does not survive": ["b"]
    }
    assert len(report.rewrites) == 1
    assert_close(before, after, {**FEEDS, "c": np.array(True)}, 20)
