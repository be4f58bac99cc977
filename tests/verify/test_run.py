"""Sessions: every kind of value goes in and comes out; errors have types; nothing is left behind."""

from __future__ import annotations

import gc
import os
import tempfile
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphopt.errors import ModelError
from graphopt.verify import source as source_module
from graphopt.verify.run import LoadError, RunError, RunTimeout, Session, one_line
from graphopt.verify.source import Source


def run(model, feeds, **options):
    return Session(Source.of(model), **options).run(feeds)


def typed(kind_in, kind_out, nodes, opset=21, extra=()):
    graph = helper.make_graph(
        nodes, "g", [helper.make_value_info("x", kind_in), *extra], [helper.make_value_info("y", kind_out)]
    )
    imports = [
        helper.make_opsetid("", opset),
        helper.make_opsetid("ai.onnx.ml", 3),
        helper.make_opsetid("com.microsoft", 1),
    ]
    return helper.make_model(graph, opset_imports=imports, ir_version=10)


def tensor(name, dims=("N",)):
    return helper.make_tensor_type_proto(getattr(TensorProto, name), dims)


@pytest.mark.parametrize(
    "name",
    [
        "FLOAT",
        "FLOAT16",
        "BFLOAT16",
        "DOUBLE",
        "FLOAT8E4M3FN",
        "FLOAT8E5M2",
        "FLOAT8E4M3FNUZ",
        "INT8",
        "UINT8",
        "INT64",
        "BOOL",
        "UINT16",
    ],
)
def test_types_pass_through(name):
    dtype = helper.tensor_dtype_to_np_dtype(getattr(TensorProto, name))
    x = np.array([0, 1, 2, 3, 1]).astype(dtype)
    model = typed(tensor(name), tensor(name), [helper.make_node("Identity", ["x"], ["y"])], opset=19)
    (y,) = run(model, {"x": x})
    assert y.dtype == dtype and y.tobytes() == x.tobytes()


@pytest.mark.parametrize("name", ["INT4", "UINT4"])
@pytest.mark.parametrize("count", [1, 4, 5])
def test_four_bit_types_go_in_and_out(name, count):
    dtype = helper.tensor_dtype_to_np_dtype(getattr(TensorProto, name))
    low = -8 if name == "INT4" else 0
    x = np.array([low, 7, 1, low + 1, 3][:count]).astype(dtype)
    nodes = [
        helper.make_node("DequantizeLinear", ["x", "s"], ["f"]),
        helper.make_node("QuantizeLinear", ["f", "s", "zp"], ["y"]),
    ]
    model = typed(tensor(name), tensor(name), nodes)
    model.graph.initializer.append(numpy_helper.from_array(np.float32(0.5), "s"))
    model.graph.initializer.append(helper.make_tensor("zp", getattr(TensorProto, name), [], [0]))
    (y,) = run(model, {"x": x})
    assert y.dtype == dtype and y.astype(np.int8).tolist() == x.astype(np.int8).tolist()


def test_strings():
    model = typed(tensor("STRING"), tensor("STRING"), [helper.make_node("Identity", ["x"], ["y"])])
    assert run(model, {"x": np.array(["a", "ü"], object)})[0].tolist() == ["a", "ü"]


def test_sequences_optionals_and_maps():
    sequence = helper.make_sequence_type_proto(tensor("FLOAT"))
    same = [helper.make_node("Identity", ["x"], ["y"])]
    (y,) = run(typed(sequence, sequence, same), {"x": [np.ones(2, np.float32), np.ones(3, np.float32)]})
    assert [item.shape for item in y] == [(2,), (3,)]
    optional = helper.make_optional_type_proto(tensor("FLOAT"))
    assert run(typed(optional, optional, same), {"x": None}) == [None]
    assert run(typed(optional, optional, same), {"x": np.ones(2, np.float32)})[0].shape == (2,)
    words = helper.make_map_type_proto(TensorProto.STRING, tensor("FLOAT", ()))
    vectorize = helper.make_node("DictVectorizer", ["x"], ["y"], domain="ai.onnx.ml", string_vocabulary=["a", "b", "c"])
    assert run(typed(words, tensor("FLOAT", None), [vectorize]), {"x": {"a": 1.0, "c": 2.0}})[0].tolist() == [[1, 0, 2]]


def test_a_sequence_beside_a_type_that_numpy_lacks():
    model = typed(
        tensor("FLOAT"),
        tensor("BFLOAT16"),
        [
            helper.make_node("Cast", ["x"], ["y"], to=TensorProto.BFLOAT16),
            helper.make_node("SequenceConstruct", ["x"], ["s"]),
        ],
    )
    model.graph.output.append(helper.make_value_info("s", helper.make_sequence_type_proto(tensor("FLOAT"))))
    y, s = run(model, {"x": np.array([1.5], np.float32)})
    assert y.dtype == ml_dtypes.bfloat16 and float(y[0]) == 1.5 and s[0].tolist() == [1.5]


def test_the_same_value_as_two_outputs(build):
    model = build("g (float[N] x) => (float[N] y) { y = Neg(x) }")
    model.graph.output.append(model.graph.output[0])
    try:
        found = run(model, {"x": np.ones(2, np.float32)})
    except LoadError:
        pytest.skip("this version of ONNX Runtime refuses it")
    assert len(found) == 2 and found[0].tolist() == found[1].tolist()


def test_scalars_and_numpy_scalars(build):
    model = build("g (float x) => (float y) { y = Neg(x) }")
    assert float(run(model, {"x": np.float32(2)})[0]) == -2.0


def test_falls_back_to_the_reference_evaluator(build):
    newest = onnx.defs.onnx_opset_version()
    model = build("g (float[N] x) => (float[N] y) { y = Relu(x) }", check=False)
    model.opset_import[0].version = newest
    model.ir_version = onnx.IR_VERSION
    session = Session(Source.of(model))
    assert session.run({"x": np.array([-1, 2], np.float32)})[0].tolist() == [0, 2]
    forced = Session(Source.of(model), reference=True)
    assert forced.reference and forced.run({"x": np.array([-1, 2], np.float32)})[0].tolist() == [0, 2]
    if session.reference:
        assert "reference evaluator" in session.note


def test_the_reference_evaluator_can_be_stopped(build):
    body = " ".join(f"t{i} = Neg(t{i - 1})" for i in range(1, 400))
    model = build("g (float[N] x) => (float[N] y) { t0 = Neg(x) " + body + " y = Neg(t399) }")
    session = Session(Source.of(model), reference=True)
    with pytest.raises(RunTimeout):
        session.run({"x": np.ones(10, np.float32)}, timeout=0.0)
    session.run({"x": np.ones(10, np.float32)}, timeout=60.0)


def test_a_run_can_be_stopped(build):
    text = """g (int64 n, float[1] x) => (float[1] y) {
        true = Constant<value = bool {1}>()
        y = Loop(n, true, x) <body = b (int64 i, bool c, float[1] v) => (bool d, float[1] w) {
            d = Identity(c) w = Sin(v)}>
    }"""
    session = Session(Source.of(build(text)))
    feeds = {"n": np.int64(2**40), "x": np.ones(1, np.float32)}
    with pytest.raises(RunTimeout, match="stopped after"):
        session.run(feeds, timeout=0.2)
    assert session.run({**feeds, "n": np.int64(3)}, timeout=30)[0].shape == (1,)


def test_errors_have_types_and_one_line(build):
    unknown = build("g (float[N] x) => (float[N] y) { y = local.Nothing(x) }", check=False)
    with pytest.raises(LoadError) as caught:
        Session(Source.of(unknown))
    assert "\n" not in str(caught.value) and "[ONNXRuntimeError]" not in str(caught.value)
    model = build("g (float[N] x) => (float[M] y) { y = Add(x, w) }", w=np.ones(3, np.float32))
    with pytest.raises(RunError, match="Add"):
        run(model, {"x": np.ones(2, np.float32)})
    with pytest.raises(RunError):
        run(model, {})


def test_one_line_keeps_what_matters():
    text = """[ONNXRuntimeError] : 1 : FAIL : Non-zero status code returned while running Conv node. Name:'c1'
    Status Message:
    /onnxruntime_src/onnxruntime/core/x.h:87 Invalid input shape: {1,2}"""
    assert one_line(text) == "Conv 'c1': Invalid input shape: {1,2}"
    assert len(one_line("x" * 1000)) == 400


def test_files_that_are_no_models(tmp_path: Path):
    with pytest.raises(ModelError, match="cannot be read"):
        Source.of(tmp_path / "missing.onnx")
    (tmp_path / "text.onnx").write_text("this is not a model, and long enough to tell" * 9)
    with pytest.raises(ModelError, match="not an ONNX file"):
        Source.of(tmp_path / "text.onnx")
    (tmp_path / "empty.onnx").write_bytes(b"")
    with pytest.raises(ModelError, match="holds no graph"):
        Source.of(tmp_path / "empty.onnx")


def test_large_protos_go_through_a_temporary_file_and_leave_nothing(build, monkeypatch, tmp_path):
    monkeypatch.setattr(source_module, "PROTO_LIMIT", 1000)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    weights = np.arange(5000, dtype=np.float32)
    model = build("g (float[5000] x) => (float[5000] y) { y = Mul(x, w) }", w=weights)
    before = model.SerializeToString(deterministic=True)
    source = Source.of(model)
    session = Session(source)
    assert np.array_equal(session.run({"x": np.ones(5000, np.float32)})[0], weights)
    assert len(os.listdir(tmp_path)) == 1
    source.close()
    assert os.listdir(tmp_path) == []
    assert model.SerializeToString(deterministic=True) == before
    forgotten = Source.of(model)
    Session(forgotten)
    del forgotten
    gc.collect()
    assert os.listdir(tmp_path) == []


def test_external_data_of_a_file(build, tmp_path):
    model = build("g (float[500] x) => (float[500] y) { y = Mul(x, w) }", w=np.full(500, 3, np.float32))
    onnx.save_model(model, tmp_path / "m.onnx", save_as_external_data=True, location="m.bin", size_threshold=0)
    source = Source.of(tmp_path / "m.onnx")
    assert source.weight_bytes == 2000
    assert run(tmp_path / "m.onnx", {"x": np.ones(500, np.float32)})[0].tolist() == [3.0] * 500
