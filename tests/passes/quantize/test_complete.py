"""complete-qdq: models with Q/DQ at the inputs of layers alone, made whole for ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from tests.passes.quantize.models import batches, error, ranges_of_model, residual
from tests.passes.simplify.text import parse
from tests.passes.util import apply, assert_same, fired, ops, reasons, run

from graphopt.passes.quantize.complete_qdq import CompleteQdq
from graphopt.passes.quantize.insert_qdq_tensorrt import InsertQdqTensorrt


def partly(made: onnx.ModelProto) -> onnx.ModelProto:
    """As TensorRT wants it, and exports of trained quantization often are."""
    return apply(made, InsertQdqTensorrt(ranges=ranges_of_model(made, batches())), target="tensorrt")[0]


def kernels(made: onnx.ModelProto, tmp_path: Any) -> dict[str, int]:
    """What ONNX Runtime makes of a model."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(tmp_path / "o.onnx"), 4
    ort.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return dict(ops(onnx.load(options.optimized_model_filepath)))


def test_a_residual_network_runs_in_integers(tmp_path: Any) -> None:
    before = residual()
    given = partly(before)
    after, _ = apply(given, "complete-qdq", "qdq-cleanup", "dead-code", target="onnxruntime")
    found, now = kernels(given, tmp_path), kernels(after, tmp_path)
    assert found.get("QLinearConv", 0) == 0
    assert now["QLinearConv"] == 4  # the last has a float result, which is averaged over
    assert now["QLinearAdd"] == 1
    assert error(before, after, batches()) < 2 * error(before, given, batches()) + 1e-4


def test_an_addend_by_its_own_range() -> None:
    before = residual()
    given, ranges = partly(before), ranges_of_model(before, batches())
    after, report = apply(given, CompleteQdq(ranges=ranges), target="onnxruntime")
    assert fired(report)
    assert error(before, after, batches()) < 2 * error(before, given, batches()) + 1e-4


SCALES = (
    "<float s = {0.1}, float t = {0.05}, int8 k = {0}, uint8 z = {0}, int8[2, 3, 1, 1] w = {1, -2, 3, 4, 5, -6}, "
    "int8[3, 2] m = {1, 2, 3, 4, 5, 6}, float[2] b = {0.5, -1}, float[2] big = {1e9, 0}, float[2] pc = {0.1, 0.2}>"
)
IMAGE = "(float[N, 3, 4, 4] x) => (float y) "
READ = "xq = QuantizeLinear(x, s, z) xd = DequantizeLinear(xq, s, z) wd = DequantizeLinear(w, s, k) "


def text(nodes: str, head: str = IMAGE, opset: int = 17) -> onnx.ModelProto:
    return parse(f"{head}{SCALES} {{ {nodes} }}", opset)


def test_biases_become_integers() -> None:
    before = text(READ + "y = Conv(xd, wd, b)")
    after, report = apply(before, "complete-qdq")
    assert fired(report) == ["complete-qdq"]
    codes = [numpy_helper.to_array(t) for t in after.graph.initializer if t.data_type == onnx.TensorProto.INT32]
    np.testing.assert_array_equal(codes[0], np.round(np.array([0.5, -1]) / (np.float32(0.1) * np.float32(0.1))))
    feed = {"x": np.random.default_rng(0).uniform(0, 20, (2, 3, 4, 4)).astype("f")}
    np.testing.assert_allclose(run(after, feed)[0], run(before, feed)[0], atol=0.006)


def test_biases_per_channel_and_of_gemm() -> None:
    nodes = READ.replace("(w, s, k)", "<axis = 0>(w, pc)")
    assert fired(apply(text(nodes + "y = Conv(xd, wd, b)"), "complete-qdq")[1])
    head = "(float[N, 3] x) => (float y) "
    nodes = "xq = QuantizeLinear(x, s, z) xd = DequantizeLinear(xq, s, z) md = DequantizeLinear<axis = 1>(m, pc) "
    before = text(nodes + "y = Gemm(xd, md, b)", head)
    after, report = apply(before, "complete-qdq")
    assert fired(report)
    feed = {"x": np.random.default_rng(0).uniform(0, 20, (2, 3)).astype("f")}
    np.testing.assert_allclose(run(after, feed)[0], run(before, feed)[0], atol=0.012)
    assert not fired(apply(text(nodes + "y = Gemm<beta = 2.0>(xd, md, b)", head), "complete-qdq")[1])


def test_biases_that_do_not_fit_are_left() -> None:
    _, report = apply(text(READ + "y = Conv(xd, wd, big)"), "complete-qdq")
    assert any("too large for int32" in reason for reason in reasons(report, "complete-qdq"))


def test_other_readers_of_what_is_quantized() -> None:
    nodes = READ + "c = Conv(xd, wd) q = QuantizeLinear(c, t, z) d = DequantizeLinear(q, t, z) e = Neg(c) y = Add(d, e)"
    before = text(nodes)
    after, report = apply(before, "complete-qdq")
    assert len(fired(report)) == 1
    feed = {"x": np.random.default_rng(0).uniform(0, 5, (2, 3, 4, 4)).astype("f")}
    np.testing.assert_array_equal(run(after, feed)[0], np.zeros_like(run(after, feed)[0]))


def test_operands_of_a_concat_exactly() -> None:
    head = "(float[N, 3, 4, 4] x) => (uint8 y) "
    nodes = READ + "c = Conv(xd, wd) n = Concat<axis = 1>(c, xd) y = QuantizeLinear(n, t, z)"
    before = text(nodes, head)
    after, report = apply(before, "complete-qdq")
    assert len(fired(report)) == 1
    feed = {"x": np.random.default_rng(0).uniform(0, 5, (2, 3, 4, 4)).astype("f")}
    assert_same(before, after, feed, reference=False)


@pytest.mark.parametrize("cut", ["", "r = Relu(a) ", "r = Clip(a, s) "])
def test_an_addend_is_cut_off_where_the_sum_saturates(cut: str) -> None:
    head = "(float[N, 3, 4, 4] x, uint8[N, 2, 4, 4] u) => (uint8 y) "
    value = "r" if cut else "a"
    nodes = (
        READ + f"ud = DequantizeLinear(u, t, z) c = Conv(xd, wd) a = Add(c, ud) {cut}y = QuantizeLinear({value}, t, z)"
    )
    before = text(nodes, head)
    after, report = apply(before, "complete-qdq")
    assert len(fired(report)) == 1
    random = np.random.default_rng(0)
    feed = {"x": random.uniform(0, 40, (2, 3, 4, 4)).astype("f"), "u": random.integers(0, 256, (2, 2, 4, 4), np.uint8)}
    want, got = (run(m, feed)[0].astype(int) for m in (before, after))
    assert (want == want.min()).sum() > 3
    assert (want == 255).any()
    assert np.abs(want - got).max() <= 1  # half a step of the addend's, which are twice as large
    assert np.abs(want - got)[(want == want.min()) | (want == 255)].mean() < 0.05


def test_addends_that_are_left() -> None:
    head = "(float[N, 3, 4, 4] x, uint8[N, 2, 4, 4] u) => (uint8 y) "
    nodes = READ + "ud = DequantizeLinear(u, t, z) c = Conv(xd, wd) a = Add(c, ud) y = QuantizeLinear(a, t, k)"
    _, report = apply(text(nodes, head.replace("(uint8 y)", "(int8 y)")), "complete-qdq")
    assert any("one scale of the same type" in reason for reason in reasons(report, "complete-qdq"))
    nodes = (
        READ + "ud = DequantizeLinear(u, t, z) c = Conv(xd, wd) a = Add(c, ud) e = Neg(a) y = QuantizeLinear(a, t, z)"
    )
    assert not fired(apply(text(nodes, head), "complete-qdq")[1]) or "e" in nodes


def test_signed_activations() -> None:
    head = "(float[N, 3, 4, 4] x) => (float y) "
    nodes = "q = QuantizeLinear(x, s, k) d = DequantizeLinear(q, s, k) y = Neg(d)"
    before = text(nodes, head)
    after, report = apply(before, "complete-qdq")
    assert len(fired(report)) == 1
    feed = {"x": np.random.default_rng(0).uniform(-20, 20, (2, 3, 4, 4)).astype("f")}
    assert_same(before, after, feed, reference=False)
    for cut in ("Relu(x)", "Sigmoid(x)", "Clip(x, s)"):
        before = text(f"p = {cut} q = QuantizeLinear(p, s, k) d = DequantizeLinear(q, s, k) y = Neg(d)", head)
        after, _ = apply(before, "complete-qdq")
        want, got = run(before, feed)[0], run(after, feed)[0]
        np.testing.assert_allclose(got, want, atol=0.0751)  # both are within half a step of what is rounded
        assert cut == "Sigmoid(x)" or want.min() == pytest.approx(got.min())  # and saturate at the same number


def test_signed_codes_that_others_read_stay() -> None:
    head = "(float[N] x) => (float y, int8 q) "
    nodes = "q = QuantizeLinear(x, s, k) d = DequantizeLinear(q, s, k) y = Neg(d)"
    assert not fired(apply(text(nodes, head), "complete-qdq")[1])


def test_not_for_tensorrt_and_only_what_is_chosen() -> None:
    made = text(READ + "y = Conv(xd, wd, b)")
    assert not fired(apply(made, "complete-qdq", target="tensorrt")[1])
    assert not fired(apply(made, CompleteQdq(keep_float="*"))[1])


def test_what_is_moved_before_it_is_quantized_exactly() -> None:
    head = "(float[N, 3, 4, 4] x) => (uint8 y) "
    nodes = (
        READ
        + "c = Conv(xd, wd) r = Relu(c) p = MaxPool<kernel_shape = [2, 2]>(r) f = Flatten(p) "
        + "y = QuantizeLinear(f, t, z)"
    )
    before = text(nodes, head)
    after, report = apply(before, "complete-qdq")
    assert len(fired(report)) == 2
    again, report = apply(after, "qdq-cleanup")
    assert [n.op_type for n in again.graph.node][-4:] == ["Conv", "QuantizeLinear", "MaxPool", "Flatten"]
    feed = {"x": np.random.default_rng(0).uniform(0, 30, (2, 3, 4, 4)).astype("f")}
    assert_same(before, again, feed, reference=False)
