"""quantize-dynamic: what becomes int8, what stays and why, and that ONNX Runtime fuses it."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from graphopt.passes.quantize.quantize_dynamic import LEAST, NAME, QuantizeDynamic

from ..util import apply, fired, model, node, ops, rand, reasons, run

ANY = QuantizeDynamic(least=0)
CHAIN = {"DynamicQuantizeLinear": 1, "MatMulInteger": 1, "Cast": 1, "Mul": 2}
W, B = rand(32, 16, seed=1), rand(16, seed=2)
X = {"x": rand(2, 5, 32, seed=3)}


def product(*more: Any, weights: dict[str, Any] | None = None, shape: Any = ("N", 5, 32), **options: Any) -> Any:
    nodes = [node("MatMul", "x w", "p" if more else "y"), *more]
    return model(nodes, {"x": shape}, ["y"], {"w": W, **(weights or {})}, **options)


def close(before: Any, after: Any, feeds: dict[str, Any], least: float = 35.0) -> None:
    """The results are near each other (SQNR in dB), however ONNX Runtime runs them, and by the reference, too."""
    for want, *got in zip(
        run(before, feeds),
        run(after, feeds),
        run(after, feeds, optimize=True),
        run(after, feeds, reference=True),
        strict=True,
    ):
        for one in got:
            assert one.shape == want.shape and one.dtype == want.dtype
            noise = float(np.square(one.astype(np.float64) - want).sum())
            assert noise == 0 or 10 * np.log10(np.square(want.astype(np.float64)).sum() / noise) > least


def fused(proto: onnx.ModelProto, tmp_path: Any) -> Counter[str]:
    """The operators that are left once ONNX Runtime has optimized a model."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 4
    ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return Counter(n.op_type for n in onnx.load(options.optimized_model_filepath).graph.node)


@pytest.mark.parametrize("opset", [11, 13, 17, 21])
@pytest.mark.parametrize("per_channel", [True, False])
def test_a_product_becomes_integer(opset: int, per_channel: bool, tmp_path: Any) -> None:
    before = product(opset=opset)
    after, report = apply(before, QuantizeDynamic(least=0, per_channel=per_channel))
    assert fired(report) == [NAME] and ops(after) == CHAIN
    stored = {t.name: t for t in after.graph.initializer}
    assert {t.data_type for t in stored.values()} == {TensorProto.INT8, TensorProto.FLOAT} and "w" not in stored
    assert [list(t.dims) for t in stored.values() if t.data_type == TensorProto.FLOAT] == [[16] if per_channel else []]
    close(before, after, X)
    assert fused(after, tmp_path) == {"DynamicQuantizeMatMul": 1}
    assert not fired(apply(after, ANY)[1])


@pytest.mark.parametrize("order", ["p b", "b p"])
@pytest.mark.parametrize("shape", [(16,), (1, 16), (1, 1, 16)])
def test_a_bias_goes_with_it(order: str, shape: tuple[int, ...], tmp_path: Any) -> None:
    before = product(node("Add", order, "y"), weights={"b": B.reshape(shape)})
    after, _ = apply(before, ANY)
    assert ops(after) == {**CHAIN, "Add": 1}
    close(before, after, X)
    assert fused(after, tmp_path) == {"DynamicQuantizeMatMul": 1}


@pytest.mark.parametrize("shape", [(), (1,), (5, 1), (5, 16), (1, 5, 16), (2, 1, 1, 16)])
def test_other_sums_stay_as_they_are(shape: tuple[int, ...]) -> None:
    before = product(node("Add", "c p", "y"), weights={"c": rand(*shape, seed=4)})
    after, _ = apply(before, ANY)
    assert ops(after) == {**CHAIN, "Add": 1}
    assert next(n for n in after.graph.node if n.op_type == "Add").input[0] == "c"
    close(before, after, X)


def test_one_quantization_for_all_readers(tmp_path: Any) -> None:
    nodes = [node("Relu", "x", "a"), *(node("MatMul", f"a w{i}", f"y{i}") for i in range(3))]
    weights = {f"w{i}": rand(32, 16, seed=i) for i in range(3)}
    before = model(nodes, {"x": ("N", 32)}, ["y0", "y1", "y2"], weights)
    after, _ = apply(before, ANY)
    assert ops(after) == {"Relu": 1, "DynamicQuantizeLinear": 1, "MatMulInteger": 3, "Cast": 3, "Mul": 6}
    close(before, after, {"x": rand(4, 32)})
    assert fused(after, tmp_path) == {"Relu": 1, "DynamicQuantizeLinear": 1, "MatMulIntegerToFloat": 3}


def test_shared_weights_are_stored_once() -> None:
    nodes = [node("MatMul", "x w", "a"), node("Relu", "a", "r"), node("MatMul", "r w", "y")]
    before = model(nodes, {"x": ("N", 16)}, ["y"], {"w": rand(16, 16)})
    after, _ = apply(before, ANY)
    assert sum(t.data_type == TensorProto.INT8 for t in after.graph.initializer) == 1
    close(before, after, {"x": rand(4, 16)}, 30.0)


def test_weights_that_something_else_reads_stay_beside() -> None:
    nodes = [node("Gather", "w i", "e"), node("MatMul", "x w", "p"), node("Add", "p e", "y")]
    before = model(nodes, {"x": (3, 16)}, ["y"], {"w": rand(16, 16), "i": np.array([0, 3, 5])})
    after, _ = apply(before, ANY)
    assert "w" in {t.name for t in after.graph.initializer}
    close(before, after, {"x": rand(3, 16)})


def test_a_transposed_embedding_as_the_last_layer() -> None:
    nodes = [node("Transpose", "w", "wt", perm=[1, 0]), node("MatMul", "x wt", "y")]
    before = model(nodes, {"x": ("N", 32)}, ["y"], {"w": rand(40, 32)})
    after, _ = apply(before, ANY)
    assert ops(after) == CHAIN
    close(before, after, {"x": rand(4, 32)})


@pytest.mark.parametrize("turned", [False, True])
def test_a_batch_of_matrices_that_is_repeated(turned: bool, tmp_path: Any) -> None:
    shape, times = ((3, 40, 32), [1, 2, 1]) if turned else ((3, 32, 20), [1, 1, 2])
    nodes = [
        node("Add", "n zero", "t"),
        node("Tile", "w t", "v"),
        *([node("Transpose", "v", "u", perm=[0, 2, 1])] if turned else []),
        node("MatMul", "x u" if turned else "x v", "y"),
    ]
    before = model(nodes, {"x": (6, 5, 32), "n": (3,)}, ["y"], {"w": rand(*shape), "zero": np.zeros(3, np.int64)})
    before.graph.input[1].type.tensor_type.elem_type = TensorProto.INT64
    after, _ = apply(before, ANY)
    assert ops(after) == {**CHAIN, "Add": 1, "Tile": 1, **({"Gather": 1} if turned else {})}
    times = [2, *times[1:]]
    close(before, after, {"x": rand(6, 5, 32), "n": np.array(times)})
    assert fused(after, tmp_path)["DynamicQuantizeMatMul"] == 1


@pytest.mark.parametrize("attrs", [{}, {"alpha": -0.5}, {"beta": 2.0}, {"transB": 1, "alpha": 3.0}, {"beta": 0.0}])
@pytest.mark.parametrize("bias", [None, (), (1,), (16,), (1, 16), (4, 16)])
def test_gemm(attrs: dict[str, Any], bias: tuple[int, ...] | None, tmp_path: Any) -> None:
    weights = {"w": rand(16, 32) if attrs.get("transB") else rand(32, 16)}
    if bias is not None:
        weights["b"] = rand(*bias, seed=5)
    before = model([node("Gemm", "x w b" if bias is not None else "x w", "y", **attrs)], {"x": (4, 32)}, ["y"], weights)
    after, report = apply(before, ANY)
    added = bias is not None and attrs.get("beta") != 0.0
    assert fired(report) == [NAME] and ops(after) == {**CHAIN, **({"Add": 1} if added else {})}
    close(before, after, {"x": rand(4, 32)})
    if bias != (4, 16) or not added:
        assert fused(after, tmp_path) == {"DynamicQuantizeMatMul": 1}


def test_a_bias_of_gemm_from_run_time() -> None:
    before = model([node("Gemm", "x w x2", "y")], {"x": (4, 32), "x2": (4, 16)}, ["y"], {"w": W})
    after, _ = apply(before, ANY)
    assert ops(after) == {**CHAIN, "Add": 1}
    close(before, after, {"x": rand(4, 32), "x2": rand(4, 16)})


def test_a_product_in_a_body_reads_weights_from_outside() -> None:
    then = helper.make_graph([node("MatMul", "x w", "t")], "t", [], [helper.make_tensor_value_info("t", 1, None)])
    other = helper.make_graph([node("Identity", "p", "e")], "e", [], [helper.make_tensor_value_info("e", 1, None)])
    nodes = [node("MatMul", "x w", "p"), node("If", "c", "y", then_branch=then, else_branch=other)]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", 1, ["N", 32]), helper.make_tensor_value_info("c", 9, [])],
        [helper.make_tensor_value_info("y", 1, ["N", 16])],
        [onnx.numpy_helper.from_array(W, "w")],
    )
    before = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    after, report = apply(before, ANY)
    assert len(report.rewrites) == 2
    assert sum(t.data_type == TensorProto.INT8 for t in after.graph.initializer) == 1
    for choice in (True, False):
        close(before, after, {"x": rand(4, 32), "c": np.array(choice)})


def test_constants_of_a_function() -> None:
    body = [node("Constant", "", "w", value=onnx.numpy_helper.from_array(W)), node("MatMul", "a w", "b")]
    made = helper.make_function("local", "F", ["a"], ["b"], body, [helper.make_opsetid("", 17)])
    before = model(
        [node("F", "x", "y", domain="local")], {"x": (4, 32)}, {"y": (4, 16)}, imports={"local": 1}, functions=[made]
    )
    after, report = apply(before, ANY)
    assert fired(report) == [NAME]
    assert Counter(n.op_type for n in after.functions[0].node) == {**CHAIN, "Constant": 2}
    close(before, after, {"x": rand(4, 32)})


# -- what stays --------------------------------------------------------------------------------------------------------


def refused(before: Any, item: Any = ANY, target: str = "onnx") -> list[str]:
    after, report = apply(before, item, target=target)
    assert not fired(report) and ops(after) == ops(before)
    return reasons(report, NAME)


def test_products_of_two_activations_stay() -> None:
    before = model([node("MatMul", "x z", "y")], {"x": (4, 8), "z": (8, 4)}, ["y"])
    assert refused(before) == ["neither operand is constant: int8 pays where weights are packed once"]


@pytest.mark.parametrize(("columns", "shape"), [(16, (1, 1, 1, 16)), (1, (16,))])
def test_sums_that_the_runtime_would_take_for_a_bias_stay(columns: int, shape: tuple[int, ...]) -> None:
    before = product(node("Add", "p c", "y"), weights={"w": W[:, :columns], "c": rand(*shape)})
    found = refused(before)
    assert found == ["what is added is wider than the product, and ONNX Runtime would take it for a bias"]


def test_constants_on_the_left_stay() -> None:
    before = model([node("MatMul", "w x", "y")], {"x": (16, 4)}, ["y"], {"w": W})
    assert refused(before) == ["neither operand is constant: int8 pays where weights are packed once"]


def test_small_products_stay() -> None:
    assert refused(product(), QuantizeDynamic()) == ["it has 512 weights, too few for int8 to pay"]
    assert LEAST > 512


def test_other_dtypes_stay() -> None:
    before = product(dtype=TensorProto.DOUBLE, weights={"w": W.astype(np.float64)})
    assert refused(before) == ["the weights are not float32"]


def test_batches_of_weights_stay() -> None:
    before = product(weights={"w": rand(2, 32, 16)}, shape=(2, 5, 32))
    assert refused(before) == ["the weights are no matrix"]


def test_vectors_stay() -> None:
    assert refused(product(shape=(32,))) == ["the activation is a vector"]


def test_a_transposed_activation_stays() -> None:
    before = model([node("Gemm", "x w", "y", transA=1)], {"x": (32, 4)}, ["y"], {"w": W})
    assert refused(before) == ["the activation is transposed"]


def test_a_scaled_bias_from_run_time_stays() -> None:
    before = model([node("Gemm", "x w b", "y", beta=0.5)], {"x": (4, 32), "b": (4, 16)}, ["y"], {"w": W})
    assert refused(before) == ["the bias is computed at run time and has a factor"]


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_weights_that_are_no_numbers_stay(number: float) -> None:
    spoilt = W.copy()
    spoilt[3, 4] = number
    assert refused(product(weights={"w": spoilt})) == ["the weights hold infinities or NaN"]


def test_old_opsets_stay() -> None:
    assert refused(product(opset=10)) == ["DynamicQuantizeLinear is of opset 11: run raise-opset first"]


def test_tensorrt_has_no_such_operator() -> None:
    assert refused(product(), target="tensorrt") == ["TensorRT has no DynamicQuantizeLinear: use insert-qdq"]


@pytest.mark.parametrize("options", [{"only": "b*"}, {"keep_float": "a,c"}])
def test_nodes_are_chosen_by_name(options: dict[str, str]) -> None:
    nodes = [node("MatMul", f"{i} w", o, name=n) for i, o, n in (("x", "p", "a"), ("p", "q", "b1"), ("q", "y", "c"))]
    before = model(nodes, {"x": ("N", 16)}, ["y"], {"w": rand(16, 16)})
    after, report = apply(before, QuantizeDynamic(least=0, **options))
    assert [r.matched for r in report.rewrites] == [("b1",)]
    assert ops(after) == {**CHAIN, "MatMul": 2}


def test_what_becomes_of_nan_and_infinity() -> None:
    """As the documentation has it: a NaN is taken for a number, an infinity is everywhere."""
    before = product()
    after, _ = apply(before, ANY)
    for number, spoilt in ((np.nan, 0), (np.inf, 160)):
        feed = {"x": X["x"].copy()}
        feed["x"][0, 0, 0] = number
        assert np.isnan(run(before, feed)[0]).sum() <= 16
        for optimize in (False, True):
            assert np.isnan(run(after, feed, optimize=optimize)[0]).sum() == spoilt


def test_quantizations_that_come_with_the_model_are_shared_by_cse() -> None:
    nodes = [node("MatMul", f"x w{i}", f"y{i}") for i in range(2)]
    before = model(nodes, {"x": ("N", 32)}, ["y0", "y1"], {"w0": W, "w1": rand(32, 16, seed=8)})
    apart, _ = apply(apply(before, QuantizeDynamic(least=0, only="y0"))[0], QuantizeDynamic(least=0, only="y1"))
    assert ops(apart)["DynamicQuantizeLinear"] == 2
    assert ops(apply(apart, "cse")[0])["DynamicQuantizeLinear"] == 1


def test_zeros() -> None:
    before = product(weights={"w": np.zeros((32, 16), np.float32)})
    after, _ = apply(before, ANY)
    for feed in (X, {"x": np.zeros((2, 5, 32), np.float32)}):
        np.testing.assert_array_equal(run(after, feed)[0], np.zeros((2, 5, 16), np.float32))


def test_few_inputs_stay() -> None:
    before = product(weights={"w": rand(16, 1024)}, shape=("N", 5, 16))
    assert refused(before, QuantizeDynamic()) == ["it sums up 16 products, too few for int8 to pay"]


# -- LSTM --------------------------------------------------------------------------------------------------------------

PARTS = {"w": (2, 64, 8), "r": (2, 64, 16), "b": (2, 128), "h": (2, 3, 16), "c": (2, 3, 16), "p": (2, 48)}


def recurrent(operands: str = "x w r", outputs: str = "y", directions: int = 2, **attrs: Any) -> Any:
    weights = {k: rand(directions, *PARTS[k][1:], seed=i) for i, k in enumerate(PARTS) if k in operands.split()}
    attrs = {"hidden_size": 16, "direction": "bidirectional" if directions == 2 else "forward", **attrs}
    return model(
        [node("LSTM", operands, outputs, **attrs)], {"x": (6, 3, 8)}, outputs.replace("-", "").split(), weights
    )


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize(
    ("operands", "outputs"), [("x w r", "y"), ("x w r b - h c", "y yh yc"), ("x w r b - - - p", "- yh")]
)
def test_lstm(per_channel: bool, directions: int, operands: str, outputs: str) -> None:
    before = recurrent(operands, outputs, directions)
    after, report = apply(before, QuantizeDynamic(least=0, per_channel=per_channel), target="onnxruntime")
    assert fired(report) == [NAME] and ops(after) == {"DynamicQuantizeLSTM": 1}
    kept = {t.name: t.data_type for t in after.graph.initializer}
    assert not {"w", "r"} & set(kept) and list(kept.values()).count(TensorProto.INT8) == 4
    feeds = {"x": rand(6, 3, 8, seed=9)}
    for want, got in zip(run(before, feeds), run(after, feeds, optimize=True), strict=True):
        assert np.abs(want - got).max() < 0.02 and want.shape == got.shape


def test_lstm_for_other_targets_stays() -> None:
    expected = ["a quantized LSTM is an operator of ONNX Runtime's own: target onnxruntime"]
    assert refused(recurrent()) == expected


@pytest.mark.parametrize(
    ("attrs", "why"),
    [
        ({"layout": 1}, "DynamicQuantizeLSTM takes steps first, not the batch"),
        ({"activations": ["Sigmoid", "Relu", "Tanh"] * 2}, "its activations are not Sigmoid, Tanh, Tanh"),
    ],
)
def test_other_lstms_stay(attrs: dict[str, Any], why: str) -> None:
    assert refused(recurrent(**attrs), target="onnxruntime") == [why]


def test_small_lstms_stay() -> None:
    before = recurrent(directions=1)
    found = refused(before, QuantizeDynamic(), "onnxruntime")
    assert found == ["it has 16 units, too few for int8 to pay"]


def test_lstm_whose_weights_are_no_numbers_stays() -> None:
    before = recurrent()
    before.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(np.full((2, 64, 8), np.nan, np.float32), "w"))
    assert refused(before, target="onnxruntime") == ["the weights hold infinities or NaN"]


def test_lstm_whose_weights_are_computed_stays() -> None:
    nodes = [node("LSTM", "x w r", "y", hidden_size=16)]
    before = model(nodes, {"x": (6, 3, 8), "w": (1, 64, 8)}, ["y"], {"r": rand(1, 64, 16)})
    assert refused(before, target="onnxruntime") == ["the weights are not constant"]
