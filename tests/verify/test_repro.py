"""Repros: small, complete, and shown by ONNX Runtime alone."""

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
from tests.passes.util import model, node, rand
from tests.verify.chains import chain, rewritten

from graphopt.errors import OutputError
from graphopt.verify import verify, write_repro
from graphopt.verify.repro import Story
from graphopt.verify.source import Source
from graphopt.verify.storage import save_values
from graphopt.verify.window import capture, changed_window


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
    assert done.returncode == 1 and not done.stderr, done.stderr
    return done.stdout


def repro_models(folder: Path):
    return tuple(onnx.load(folder / name) for name in ("before.onnx", "after.onnx"))


def test_a_repro_is_cut_down_and_runs_alone(tmp_path):
    inputs = {"x": np.random.default_rng(0).standard_normal((2, 4)).astype(np.float32)}
    before, after = rewritten(11), rewritten(12, {11})
    folder = write_repro(tmp_path / "deep" / "repro", before, after, inputs)
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "actual.npz",
        "after.onnx",
        "before.onnx",
        "expected.npz",
        "inputs.npz",
        "repro.py",
    ]
    small = repro_models(folder)
    assert [[node.op_type for node in model.graph.node] for model in small] == [["Sin"], ["Tanh"]]
    assert small[0].graph.input[0].name == "v11"
    text = run_script(folder)
    assert "as it is run: v12: largest difference 0." in text and "without ORT's optimizations" in text
    assert "1 nodes: Sin" in (folder / "README.md").read_text()
    again = write_repro(folder, before, after, inputs)  # the older one stays
    assert again.name == "repro-2" and (again / "repro.py").read_text() == (folder / "repro.py").read_text()
    assert write_repro(folder, before, after, inputs, seconds=0).name == "repro-3"


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


BRANCHES = """g (float[N] x, bool c) => (float[N] y) { k = Abs(x) m = Neg(k)
    z = If(c) <then_branch=t()=>(float[N] u){a=Exp(k) u=%s(a)}, else_branch=e()=>(float[N] v){v=Neg(k)}>
    y = Add(z, m) }"""
LOOP = """g (float[2] x, int64 trips) => (float[2] y) { one = Constant<value_float = 1.0>() k = Abs(x)
    keep = Constant<value = bool {1}>()
    y = Loop(trips, keep, k) <body = b(int64 i, bool go, float[2] s) => (bool on, float[2] t) {
        on = Identity(go) d = Mul(s, x) t = %s(d, one) }> }"""
SCAN = """g (float[2] x, float[3,2] rows) => (float[2] y, float[3,2] all) { k = Abs(x)
    y, all = Scan <num_scan_inputs = 1, body = b(float[2] s, float[2] row) => (float[2] t, float[2] out) {
        d = Mul(s, row) t = %s(d, x) out = Neg(t) }> (k, rows) }"""
TWO = np.float32([1, 2])


@pytest.mark.parametrize(
    ("text", "good", "bad", "inputs"),
    [
        (BRANCHES, "Neg", "Sin", {"x": TWO, "c": np.array(True)}),
        (LOOP, "Add", "Sub", {"x": TWO, "trips": np.int64(3)}),
        (SCAN, "Add", "Sub", {"x": TWO, "rows": np.ones((3, 2), np.float32)}),
    ],
    ids=["If", "Loop", "Scan"],
)
def test_a_change_inside_a_body_is_shown_by_the_body(build, tmp_path, text, good, bad, inputs):
    models = build(text % good, check=False), build(text % bad, check=False)
    before, after = repro_models(write_repro(tmp_path / "r", *models, inputs))
    assert [node.op_type for node in before.graph.node] == [good]
    assert [node.op_type for node in after.graph.node] == [bad]
    run_script(tmp_path / "r")


def test_a_body_that_is_wrong_from_its_second_turn_on_stays_in_its_loop(build, tmp_path):
    text = """g (int64 x, int64 trips) => (int64 y) { keep = Constant<value = bool {1}>()
        y = Loop(trips, keep, x) <body = b(int64 i, bool go, int64 s) => (bool on, int64 t) {
            on = Identity(go) t = %s }> }"""
    models = [build(text % last, check=False) for last in ("Add(s, i)", "Sub(s, i)")]
    before, _ = repro_models(write_repro(tmp_path / "r", *models, {"x": np.int64(7), "trips": np.int64(5)}))
    assert [node.op_type for node in before.graph.node] == ["Loop"]
    run_script(tmp_path / "r")


def test_a_change_inside_a_function(build, tmp_path):
    text = "g (float[N] x) => (float[N] y) { a = Abs(x) b = local.outer(a) y = Neg(b) }"
    functions = """
        <opset_import: ["": 18], domain: "local"> inner (x) => (y) { a = Exp(x) y = %s(a) }
        <opset_import: ["": 18, "local": 1], domain: "local"> outer (x) => (y) { a = Sin(x) y = local.inner(a) }"""
    models = [build(text, functions=functions % op) for op in ("Sqrt", "Log")]
    before, after = repro_models(write_repro(tmp_path / "r", *models, {"x": TWO}))
    assert [node.op_type for node in before.graph.node] == ["Sqrt"] and not before.functions
    assert [node.op_type for node in after.graph.node] == ["Log"]
    run_script(tmp_path / "r")


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


# what is stored, and how


def test_nothing_is_pickled(build, tmp_path):
    text = """g (string[N] s, seq(float[M]) q, float[K] file, float[K] "x[0]/:y") => (string[N] t, float[L] y) {
        t = Identity(s) c = ConcatFromSequence<axis=0>(q) d = Concat<axis=0>(c, file, "x[0]/:y") y = %s(d) }"""
    models = [build((text % op).replace('"x[0]/:y"', "odd"), check=False) for op in ("Neg", "Abs")]
    for given in models:
        given.graph.input[3].name = given.graph.node[2].input[2] = "x[0]/:y"
    feeds = {
        "s": np.array(["naïve", "", "b\n"], object),
        "q": [np.float32([1]), np.float32([2, 3])],
        "file": TWO,
        "x[0]/:y": TWO,
    }
    folder = write_repro(tmp_path / "r", *models, feeds, seconds=0)
    assert "allow_pickle=True" not in (folder / "repro.py").read_text()
    for archive in folder.glob("*.npz"):
        with np.load(archive, allow_pickle=False) as data:
            assert all(data[name].dtype.kind in "biufcU" for name in data.files)
    assert "largest difference" in run_script(folder)


def test_values_of_every_kind_are_stored_in_parts(tmp_path):
    values = {
        "t": np.float32([1]),
        "s": np.array(["a", "bc"], object),
        "q": [np.int64([1]), []],
        "m": {"a": 1.5, "b": 2.5},
        "none": None,
        "file": np.array([ml_dtypes.bfloat16(1.0)]),
    }
    save_values(tmp_path / "a.npz", values)
    save_values(tmp_path / "b.npz", values)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    with np.load(tmp_path / "a.npz", allow_pickle=False) as data:
        found = {name: data[name].tolist() for name in data.files}
    assert found == {
        "t": [1.0],
        "s": ["a", "bc"],
        "q[0]": [1],
        "q[1][]": [],
        "m{keys}": ["a", "b"],
        "m{values}": [1.5, 2.5],
        "file": [16256],
    }


def test_strings_sequences_and_maps_go_into_the_script(build, tmp_path):
    text = "g (string[N] s, seq(string[M]) q) => (string[N] t, string[L] u) { t = Identity(s) %s }"
    lines = ("u = ConcatFromSequence<axis=0>(q)", "i = Constant<value = int64 {0}>() u = SequenceAt(q, i)")
    models = [build(text % line, check=False) for line in lines]
    feeds = {"s": np.array(["x"], object), "q": [np.array(["a", "b"], object), np.array(["c"], object)]}
    run_script(write_repro(tmp_path / "r", *models, feeds, seconds=0))
    words = "g (map(string, float) m) => (float[1,3] y) { y = ai.onnx.ml.DictVectorizer<string_vocabulary = [%s]>(m) }"
    models = [build(words % names, check=False) for names in ('"a", "b", "c"', '"b", "a", "c"')]
    text = run_script(write_repro(tmp_path / "m", *models, {"m": {"a": 1.0, "c": 2.0}}))
    assert "y: largest difference 1" in text


def test_a_rewritten_model_that_does_not_load(build, tmp_path):
    good, bad = (build(f"g (float[N] x) => (float[N] y) {{ a = Abs(x) y = {op}(a) }}") for op in ("Neg", "Exp"))
    bad.graph.node[1].op_type = "Nonsense"
    folder = write_repro(tmp_path / "r", good, bad, {"x": TWO})
    assert [node.op_type for node in repro_models(folder)[1].graph.node] == ["Nonsense"]
    assert not (folder / "actual.npz").exists() and "after.onnx fails: " in run_script(folder)


def test_the_readme_tells_who_did_it(tmp_path):
    before, after = rewritten(11), rewritten(12, {11})
    story = Story("my-rule", ["n11", "n12"], "output 'y' is off")
    folder = write_repro(tmp_path, before, after, {"x": np.ones((2, 4), np.float32)}, story=story)
    text = (folder / "README.md").read_text()
    assert "Rewritten by: `my-rule`, on `n11`, `n12`" in text and "In the whole model: output 'y' is off" in text
    assert "onnxruntime 1." in text


def test_models_that_agree_exit_0(tmp_path):
    same = chain(["Sin"])
    folder = write_repro(tmp_path, same, same, {"x": np.ones((2, 4), np.float32)})
    assert subprocess.run([sys.executable, folder / "repro.py"], capture_output=True, check=False).returncode == 0


def test_what_the_runtime_breaks_names_the_way_around_it(tmp_path):
    nodes = [node("Pad", "x pads", "p"), node("MaxPool", "p", "y", kernel_shape=[3, 3])]
    pads = {"pads": np.array([0, 0, 1, 1, 0, 0, 1, 1])}
    wrong = model(nodes, {"x": [2, 3, 6, 6]}, ["y"], pads)
    nodes[1] = node("MaxPool", "p", "y", kernel_shape=[3, 3], auto_pad="VALID")
    right = model(nodes, {"x": [2, 3, 6, 6]}, ["y"], pads)
    feeds = {"x": rand(2, 3, 6, 6, low=-3, high=-1)}
    if verify(right, wrong, feeds).ok:
        pytest.skip("this ONNX Runtime does not make this mistake")
    folder = write_repro(tmp_path, right, wrong, feeds)
    text = run_script(folder)
    assert "without ORT's optimizations: y: largest difference 0 " in text
    assert "without ORT's Pad_Fusion: y: largest difference 0 " in text
    assert "Not the rewrite's fault: ONNX Runtime's Pad_Fusion" in (folder / "README.md").read_text()
