"""The first wrong rewrite is found, and cut out as a repro that stands alone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphopt.errors import GraphoptError, OutputError
from graphopt.verify import Budget, bisect, verify, write_repro
from graphopt.verify.source import Source
from graphopt.verify.window import capture, changed_window

STEPS = 24


def chain(ops):
    """x -> ops[0] -> ops[1] ...; every value keeps its name."""
    names = ["x", *(f"v{i}" for i in range(1, len(ops))), "y"]
    nodes = [
        helper.make_node(op, [a], [b], name=f"n{i}")
        for i, (op, a, b) in enumerate(zip(ops, names, names[1:], strict=False))
    ]
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("x", 1, ["N", 4])],
        [helper.make_tensor_value_info("y", 1, ["N", 4])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


ORIGINAL = ["Sin"] * STEPS


def rewritten(count, wrong=(), mended=()):
    """The first `count` nodes rewritten into something equal, those of `wrong` into something else."""
    ops = list(ORIGINAL)
    for i in range(count):
        if i in wrong and not any(i < m < count for m in mended):
            ops[i] = "Tanh"
    return chain(ops)


@pytest.mark.parametrize("wrong", [0, 1, 11, STEPS - 2, STEPS - 1])
def test_the_first_wrong_rewrite(wrong):
    calls = []

    def replay(count):
        calls.append(count)
        return rewritten(count, {wrong, STEPS - 1})

    found = bisect(replay, STEPS, chain(ORIGINAL))
    assert found.index == wrong and found.checks <= 8 and len(calls) <= 9
    assert verify(chain(ORIGINAL), found.before).ok and not verify(chain(ORIGINAL), found.after).ok
    assert found.worst.name == "y" and found.report.status == "failed" and found.feeds["x"].shape[1] == 4
    assert f"rewrite {wrong} is the first" in found.summary()


def test_no_wrong_rewrite():
    found = bisect(rewritten, STEPS, chain(ORIGINAL))
    assert found.index is None and found.before is None and found.checks == 1 and "no rewrite" in found.summary()
    assert bisect(lambda count: chain(ORIGINAL), 0, chain(ORIGINAL)).index is None


def test_wrong_before_any_rewrite():
    found = bisect(lambda count: chain(["Cos"] * STEPS), STEPS, chain(ORIGINAL))
    assert found.index == 0 and found.before is None and found.after is not None
    with pytest.raises(GraphoptError):
        bisect(lambda count: chain(ORIGINAL), -1, chain(ORIGINAL))


def test_a_break_that_is_mended_and_broken_again_is_one_of_the_breaks():
    found = bisect(lambda count: rewritten(count, {3, 15}, mended={9}), STEPS, chain(ORIGINAL))
    assert found.index in (3, 15)


def test_models_that_do_not_load_disagree():
    def replay(count):
        return chain(["Nonsense" if i == 7 and count > 7 else op for i, op in enumerate(ORIGINAL)])

    found = bisect(replay, STEPS, chain(ORIGINAL), budget=Budget(seconds=20))
    assert found.index == 7 and "does not load" in found.report.error


def test_given_inputs_show_what_others_do_not():
    def replay(count):
        return chain(["Abs" if i == 5 and count > 5 else "Relu" for i in range(STEPS)])

    negative = {"x": -np.ones((1, 4), np.float32)}
    assert bisect(replay, STEPS, chain(["Relu"] * STEPS), negative).index is None  # Relu has cut them off before
    first = chain(["Relu"] * STEPS)
    shown = bisect(lambda count: chain(["Abs" if count else "Relu"] + ["Relu"] * (STEPS - 1)), 3, first, negative)
    assert shown.index == 0 and np.array_equal(shown.feeds["x"], negative["x"])


# repros


def run_script(folder: Path) -> str:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    done = subprocess.run(
        [sys.executable, str(folder / "repro.py")],
        capture_output=True,
        text=True,
        timeout=120,
        env=environment,
        cwd="/",
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def repro_models(folder: Path):
    return tuple(onnx.load(folder / name) for name in ("before.onnx", "after.onnx"))


def test_a_repro_is_cut_down_and_runs_alone(tmp_path):
    inputs = {"x": np.random.default_rng(0).standard_normal((2, 4)).astype(np.float32)}
    before, after = rewritten(11), rewritten(12, {11})
    folder = write_repro(tmp_path / "deep" / "repro", before, after, inputs)
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "after.onnx",
        "before.onnx",
        "inputs.npz",
        "repro.py",
    ]
    small = repro_models(folder)
    assert [[node.op_type for node in model.graph.node] for model in small] == [["Sin"], ["Tanh"]]
    assert small[0].graph.input[0].name == "v11"
    text = run_script(folder)
    assert "as it is run: v12: largest difference 0." in text and "without ORT's optimizations" in text
    assert "1 nodes: Sin" in (folder / "README.md").read_text()
    write_repro(folder, before, after, inputs)  # over an older one


def weighted(bias, name="b"):
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("Add", ["c", name], ["a"]),
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["y"]),
    ]
    tensors = [
        numpy_helper.from_array(rng.standard_normal((4, 3, 3, 3)).astype(np.float32), "w"),
        numpy_helper.from_array(np.full((4, 1, 1), bias, np.float32), name),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", 1, ["N", 3, "H", "W"])],
        [helper.make_tensor_value_info("y", 1, ["N", 4, 1, 1])],
        tensors,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


IMAGE = {"x": np.random.default_rng(1).standard_normal((1, 3, 8, 8)).astype(np.float32)}


def test_a_repro_of_changed_weights_alone(tmp_path):
    folder = write_repro(tmp_path / "r", weighted(0.5), weighted(0.6), IMAGE)
    before, after = repro_models(folder)
    assert [node.op_type for node in before.graph.node] == ["Add"] == [node.op_type for node in after.graph.node]
    assert [tensor.name for tensor in before.graph.initializer] == ["b"]
    assert "largest difference 0.1" in run_script(folder)


def test_a_repro_of_fused_nodes(tmp_path):
    fused = weighted(0.5)
    del fused.graph.node[1]
    fused.graph.node[0].input.append("bias")
    fused.graph.node[0].output[0] = "a"
    fused.graph.initializer.append(numpy_helper.from_array(np.full(4, 0.7, np.float32), "bias"))
    before, after = repro_models(write_repro(tmp_path / "r", weighted(0.5), fused, IMAGE))
    assert [node.op_type for node in before.graph.node] == ["Conv", "Add"]
    assert [node.op_type for node in after.graph.node] == ["Conv"] and len(after.graph.node[0].input) == 3


def test_a_change_inside_a_body_takes_the_whole_node(build, tmp_path):
    text = """g (float[N] x, bool c) => (float[N] y) { k = Abs(x) m = Neg(k)
        z = If(c) <then_branch=t()=>(float[N] u){u=%s(k)}, else_branch=e()=>(float[N] v){v=Neg(k)}> y = Add(z, m) }"""
    inputs = {"x": np.float32([1, 2]), "c": np.array(True)}
    folder = write_repro(tmp_path / "r", build(text % "Neg"), build(text % "Exp"), inputs)
    before, _ = repro_models(folder)
    assert [node.op_type for node in before.graph.node] == ["If"]
    assert sorted(value.name for value in before.graph.input) == ["c", "k"]
    run_script(folder)


def test_the_whole_models_where_no_part_shows_it(build, tmp_path):
    a, b = (
        build("g (float[N] x) => (float[N] y) { y = Neg(x) }"),
        build("g (float[M] x) => (float[M] y) { y = Neg(x) }"),
    )
    folder = write_repro(tmp_path / "r", a, b, {"x": np.ones(2, np.float32)})
    assert repro_models(folder)[0] == a and "the whole models" in (folder / "README.md").read_text()


def test_other_kinds_of_values_cross_the_cut(build, tmp_path):
    text = """g (float[N,2] x) => (float[M,2] y) {
        n = Neg(x) s = SequenceConstruct(x, n) y = ConcatFromSequence<axis=%d>(s) }"""
    models = [build(text % axis, check=False) for axis in (0, 1)]
    folder = write_repro(tmp_path / "r", *models, {"x": np.ones((3, 2), np.float32)})
    before, _ = repro_models(folder)
    assert [node.op_type for node in before.graph.node] == ["ConcatFromSequence"]
    assert "became" in run_script(folder)


def test_files_with_external_data(tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    for name, bias in (("a", 0.5), ("b", 0.6)):
        onnx.save_model(
            weighted(bias),
            source / f"{name}.onnx",
            save_as_external_data=True,
            location=f"{name}.bin",
            size_threshold=0,
        )
    folder = write_repro(tmp_path / "r", source / "a.onnx", source / "b.onnx", IMAGE)
    shutil.rmtree(source)
    assert "largest difference" in run_script(folder)


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        write_repro(tmp_path / "file" / "r", weighted(0.5), weighted(0.6), IMAGE)


def test_capture_and_windows():
    model = chain(["Sin", "Neg", "Abs"])
    values = capture(Source.of(model), ["v1", "x"], {"x": np.ones((1, 4), np.float32)})
    assert np.allclose(values["v1"], np.sin(1.0)) and set(values) == {"v1", "x"}
    assert changed_window(model, model) is None
    window = changed_window(model, chain(["Sin", "Cos", "Abs"]), hops=1)
    assert window.ours == (0, 1, 2) and window.inputs == ("x",) and window.outputs == ("y",)


def test_types_that_numpy_lacks_cross_the_cut(tmp_path):
    def model(last):
        nodes = [
            helper.make_node("Cast", ["x"], ["h"], to=TensorProto.BFLOAT16),
            helper.make_node(last, ["h"], ["i"]),
            helper.make_node("Cast", ["i"], ["y"], to=TensorProto.FLOAT),
        ]
        inner = [helper.make_tensor_value_info(name, TensorProto.BFLOAT16, [2, 2]) for name in "hi"]
        graph = helper.make_graph(
            nodes,
            "g",
            [helper.make_tensor_value_info("x", 1, [2, 2])],
            [helper.make_tensor_value_info("y", 1, [2, 2])],
            value_info=inner,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)

    feeds = {"x": np.float32([[1, 2], [3, 4]])}
    assert capture(Source.of(model("Identity")), ["i"], feeds)["i"].dtype == ml_dtypes.bfloat16
    folder = write_repro(tmp_path / "r", model("Identity"), model("Transpose"), feeds)
    before, _ = repro_models(folder)
    assert [node.op_type for node in before.graph.node] == ["Identity"]
    assert before.graph.input[0].type.tensor_type.elem_type == TensorProto.BFLOAT16
    assert "as it is run: i: " in run_script(folder) and "elements differ" in run_script(folder)
