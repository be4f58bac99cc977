"""optimize, optimize_file, fuse, explain: arguments, results, and that nothing else changes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

import graphopt
from graphopt import ir
from graphopt.api import explain
from graphopt.errors import GraphoptError, ModelError, OutputError, UnknownPassError, VerificationError
from graphopt.rewrite import P, rule


def conv_bn(weights: int = 8) -> ModelProto:
    random = np.random.default_rng(0)
    arrays = {
        "w": random.normal(size=(weights, 3, 3, 3)),
        **{name: random.uniform(0.5, 1.5, weights) for name in ("s", "t", "m", "v")},
    }
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w"], ["c"], name="conv"),
            helper.make_node("BatchNormalization", ["c", "s", "t", "m", "v"], ["n"], name="bn"),
            helper.make_node("Relu", ["n"], ["y"], name="relu"),
        ],
        "example",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", weights, 6, 6])],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def ops(proto):
    return [node.op_type for node in proto.graph.node]


@rule("wrong-relu", P.Relu("x"))
def wrong_relu(m, new):
    return new.Abs(m.x)


def test_optimize_gives_a_new_verified_model_and_leaves_the_old_one():
    model = conv_bn()
    before = model.SerializeToString()
    small, report = graphopt.optimize(model, with_report=True)
    assert ops(small) == ["Conv", "Relu"]
    assert model.SerializeToString() == before
    assert report.verification.status == "passed"
    assert (report.nodes_before, report.nodes_after) == (3, 2)
    assert {tuple(run.bindings.items()) for run in report.verification.runs} >= {(("N", 1),)}
    onnx.checker.check_model(small, full_check=True)


def test_fuse_is_optimize_with_its_preset():
    assert graphopt.fuse(conv_bn()) == graphopt.optimize(conv_bn(), "fuse")


def test_a_fused_node_knows_where_it_comes_from():
    node = graphopt.fuse(conv_bn(), verify="off").graph.node[0]
    assert node.name == "conv"
    assert {p.key: p.value for p in node.metadata_props} == {
        "graphopt.rule": "fuse-conv-bn",
        "graphopt.sources": "bn,conv",
    }


@pytest.mark.parametrize("kind", ["proto", "path", "model"])
def test_all_kinds_of_models_are_taken(kind, tmp_path):
    proto = conv_bn()
    onnx.save(proto, tmp_path / "m.onnx")
    given = {"proto": proto, "path": tmp_path / "m.onnx", "model": ir.from_proto(proto)}[kind]
    assert ops(graphopt.optimize(given)) == ["Conv", "Relu"]
    if kind == "model":
        assert len(given.graph) == 3


@pytest.mark.parametrize("kind", ["proto", "model"])
def test_inplace_changes_the_model_given(kind):
    given = conv_bn() if kind == "proto" else ir.from_proto(conv_bn())
    result = graphopt.optimize(given, inplace=True)
    assert ops(result) == ["Conv", "Relu"]
    if kind == "proto":
        assert result is given
    else:
        assert [node.op for node in given.graph] == ["Conv", "Relu"]


def test_inplace_leaves_a_model_that_fails_verification(tmp_path):
    given = conv_bn()
    before = given.SerializeToString()
    with pytest.raises(VerificationError):
        graphopt.optimize(given, [wrong_relu], inplace=True)
    assert given.SerializeToString() == before


def test_optimize_file_writes_beside_and_leaves_the_input(tmp_path):
    source, target = tmp_path / "m.onnx", tmp_path / "o.onnx"
    onnx.save(conv_bn(), source)
    data = source.read_bytes()
    report = graphopt.optimize_file(source, target)
    assert source.read_bytes() == data
    assert ops(onnx.load(target)) == ["Conv", "Relu"]
    assert report.model == "m.onnx"
    assert sorted(os.listdir(tmp_path)) == ["m.onnx", "o.onnx"]
    assert onnx.load(target) == graphopt.optimize(conv_bn())


def test_a_wrong_rewrite_is_found_named_and_nothing_is_written(tmp_path):
    source, target = tmp_path / "m.onnx", tmp_path / "o.onnx"
    onnx.save(conv_bn(), source)
    target.write_bytes(b"from an earlier run")
    with pytest.raises(VerificationError, match="wrong-relu") as caught:
        graphopt.optimize_file(source, target, ["fuse-conv-bn", wrong_relu])
    assert caught.value.report.status == "failed"
    assert target.read_bytes() == b"from an earlier run"


def test_given_inputs_are_used():
    feeds = {"x": np.ones((5, 3, 8, 8), np.float32)}
    _, report = graphopt.optimize(conv_bn(), inputs=feeds, with_report=True)
    assert [run.bindings for run in report.verification.runs] == [{"N": 5}]


@pytest.mark.parametrize("level", ["off", "check"])
def test_levels_that_do_not_run_the_model(level):
    _, report = graphopt.optimize(conv_bn(), verify=level, with_report=True)
    assert report.verification is None


@pytest.mark.parametrize(
    ("options", "problem", "kind"),
    [
        ({"target": "tpu"}, "unknown target 'tpu'", GraphoptError),
        ({"verify": "maybe"}, "unknown verify level", GraphoptError),
        ({"passes": "fuze"}, "unknown pass 'fuze'", UnknownPassError),
    ],
)
def test_wrong_arguments(options, problem, kind):
    with pytest.raises(kind, match=problem):
        graphopt.optimize(conv_bn(), **options)


def test_what_is_no_model_is_refused():
    with pytest.raises(GraphoptError, match="cannot optimize a int"):
        graphopt.optimize(42)
    with pytest.raises(ModelError, match="no graph"):
        graphopt.optimize(ModelProto())


def test_outputs_that_cannot_be(tmp_path):
    onnx.save(conv_bn(), tmp_path / "m.onnx")
    for target, problem in (
        (tmp_path / "m.onnx", "is the input itself"),
        (tmp_path, "is a folder"),
        (tmp_path / "no" / "o.onnx", "there is no folder"),
    ):
        with pytest.raises(OutputError, match=problem):
            graphopt.optimize_file(tmp_path / "m.onnx", target)


def test_external_data_stays_in_its_folder_and_travels_to_another(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    onnx.save(conv_bn(64), tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    data = (tmp_path / "m.data").read_bytes()
    for target in (tmp_path / "o.onnx", tmp_path / "elsewhere" / "o.onnx"):
        report = graphopt.optimize_file(tmp_path / "m.onnx", target, "cleanup")
        assert report.verification.status == "passed"
        loaded = onnx.load(target)
        assert {t.name: numpy_helper.to_array(t).tobytes() for t in loaded.graph.initializer} == {
            t.name: numpy_helper.to_array(t).tobytes() for t in conv_bn(64).graph.initializer
        }
    assert (tmp_path / "m.data").read_bytes() == data
    assert sorted(os.listdir(tmp_path / "elsewhere")) == ["o.onnx", "o.onnx.data"]
    assert sorted(os.listdir(tmp_path)) == ["elsewhere", "m.data", "m.onnx", "o.onnx"]


def test_the_same_input_gives_the_same_bytes_across_hash_seeds(tmp_path):
    onnx.save(conv_bn(), tmp_path / "m.onnx")
    results = set()
    for seed in ("0", "1", "2"):
        target = tmp_path / f"o{seed}.onnx"
        code = f"import graphopt; graphopt.optimize_file({str(tmp_path / 'm.onnx')!r}, {str(target)!r}, verify='off')"
        subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONHASHSEED": seed})
        results.add(target.read_bytes())
    assert len(results) == 1


def test_explain_says_what_fired_and_what_was_refused():
    model = conv_bn()
    model.graph.node[1].attribute.append(helper.make_attribute("training_mode", 1))
    del model.graph.node[1].output[1:]
    model.graph.node[1].output.extend(["mean", "var"])
    report = explain(model, "fuse-conv-bn")
    assert not report.rewrites
    assert any("training" in reason for reason in report.refusals["fuse-conv-bn"])


def test_inplace_leaves_an_ir_model_that_fails_verification():
    given = ir.from_proto(conv_bn())
    with pytest.raises(VerificationError):
        graphopt.optimize(given, [wrong_relu], inplace=True)
    assert ir.to_proto(given) == conv_bn()


def test_a_repro_of_a_wrong_rewrite_runs_alone(tmp_path):
    onnx.save(conv_bn(), tmp_path / "m.onnx")
    with pytest.raises(VerificationError, match="Repro: "):
        graphopt.optimize_file(tmp_path / "m.onnx", tmp_path / "o.onnx", ["fuse", wrong_relu])
    folder = tmp_path / "o.onnx.repro"
    assert ops(onnx.load(folder / "before.onnx")) == ["Relu"]
    assert ops(onnx.load(folder / "after.onnx")) == ["Abs"]
    done = subprocess.run(
        [sys.executable, folder / "repro.py"], check=False, capture_output=True, text=True, cwd=tmp_path
    )
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "o.onnx").exists()


def two_products() -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "v"], ["p"]), helper.make_node("MatMul", ["p", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", 1, ["N", 8])],
        [helper.make_tensor_value_info("y", 1, ["N", 2])],
        [
            numpy_helper.from_array(rng.normal(size=(8, 6)).astype(np.float32), "v"),
            numpy_helper.from_array(rng.normal(size=(6, 2)).astype(np.float32), "w"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("verify", ["numeric", "rewrites"])
def test_fast_math_allows_what_infinities_would_tell_apart(verify: str, tmp_path: Path) -> None:
    assert len(graphopt.optimize(two_products(), verify=verify).graph.node) == 2
    after, report = graphopt.optimize(two_products(), verify=verify, fast_math=True, with_report=True)
    assert len(after.graph.node) == 1
    assert report.pipeline.startswith("fast-math,")
    assert not report.reverted
    onnx.save(two_products(), tmp_path / "a.onnx")
    report = graphopt.optimize_file(tmp_path / "a.onnx", tmp_path / "b.onnx", verify=verify, fast_math=True)
    assert report.nodes_after == 1
