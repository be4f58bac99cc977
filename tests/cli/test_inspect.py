from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

from graphopt.cli._survey import survey, type_text
from graphopt.cli.inspect import human

IMPORTS = '"": 18, "com.example": 1, "com.microsoft": 1'


@pytest.fixture
def write(tmp_path):
    def save(text: str, ir_version: int = 8, functions: str = ""):
        model = parser.parse_model(f"<ir_version: {ir_version}, opset_import: [{IMPORTS}]> g {text} {functions}")
        path = tmp_path / "m.onnx"
        onnx.save(model, path)
        return path

    return save


def blockers(path) -> dict[str, int]:
    return {item["kind"]: item["count"] for item in survey(path, {})["blockers"]}


def test_facts_of_a_network(graphopt, model):
    facts = json.loads(graphopt("inspect", model, "--json").out)
    assert facts["model"] == "net.onnx"
    assert facts["producer"] == "tests"
    assert facts["opsets"] == {"": 17}
    assert facts["inputs"] == [{"name": "x", "type": "float32", "shape": "[N, 3, 8, 8]", "has_default": False}]
    assert facts["outputs"] == [{"name": "y", "type": "float32", "shape": "[N, 4, 8, 8]"}]
    assert facts["dims"] == {"N": 1}
    assert facts["parameters"] == 4 * 27 + 4 * 4
    assert facts["initializer_bytes"] == 4 * facts["parameters"]
    assert facts["flops"] == 256 * (2 * 27 + 2 + 1)
    assert facts["uncounted"] == {}
    assert facts["blockers"] == []
    assert [row["op"] for row in facts["operators"]] == ["BatchNormalization", "Conv", "Relu"]


def test_dimensions_can_be_given(graphopt, model):
    facts = json.loads(graphopt("inspect", model, "--dim", "N=8", "--json").out)
    assert facts["dims"] == {"N": 8}
    assert facts["flops"] == 8 * 256 * (2 * 27 + 2 + 1)


@pytest.fixture
def small_images(write):
    """A Conv for which an image of one pixel is too small, then a Slice: onnx's inference aborts on that."""
    return write(
        """(float[N,3,H,W] x, float[4,3,5,5] w) => (float[N,4,P,Q] y)
           <int64[1] zero = {0}, int64[1] two = {2}, int64[1] axis = {2}>
           { c = Conv(x, w)  y = Slice(c, zero, two, axis) }"""
    )


def test_sizes_that_do_not_suit_the_operators_are_said(graphopt, small_images):
    facts = json.loads(graphopt("inspect", small_images, "--json").out)
    assert (facts["dims_fit"], facts["flops"]) == (False, None)
    assert "need other sizes than N=1, H=1, W=1; use --dim" in graphopt("inspect", small_images).out
    facts = json.loads(graphopt("inspect", small_images, "--json", "-d", "H=8", "-d", "W=8").out)
    assert (facts["dims_fit"], facts["flops"]) == (True, 2 * 64 * 75)


def test_a_dimension_that_is_not_there_is_an_error(graphopt, model):
    result = graphopt("inspect", model, "--dim", "M=3")
    assert (result.code, result.out) == (2, "")
    assert "no dimension named 'M': it has N" in result.err


def test_page_fits_80_columns(graphopt, model, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    result = graphopt("inspect", model)
    assert (result.code, result.err) == (0, "")
    assert max(map(len, result.out.splitlines())) <= 80
    assert "3 nodes · 124 parameters in 496 B · 14.6 K FLOPs at N=1" in result.out
    assert "nothing found" in result.out
    assert all(line == line.rstrip() for line in result.out.splitlines())


def test_the_input_file_is_untouched(graphopt, model):
    before = model.read_bytes()
    graphopt("inspect", model)
    assert model.read_bytes() == before


def test_custom_and_contributed_operators_block(write):
    path = write("(float[2] x) => (float[2] y) { a = com.example.Magic(x) y = com.microsoft.Unheard(a) }")
    assert blockers(path) == {"custom": 2, "shapes": 2}  # what the file declares is not believed


def test_random_and_training_operators_block(write):
    text = """(float[1,2,4] x, float[2] s) => (float[1,2,4] y) {
        r = RandomNormalLike(x)  a = Add(x, r)
        y, m, v = BatchNormalization<training_mode=1>(a, s, s, s, s)
    }"""
    assert blockers(write(text)) == {"random": 1, "training": 1}


def test_control_flow_blocks_unless_its_condition_is_constant(write):
    body = "then_branch = t () => (float[2] a) { a = Neg(x) }, else_branch = e () => (float[2] b) { b = Abs(x) }"
    text = f"(bool c, float[2] x) => (float[2] y) {{ y = If (c) <{body}> }}"
    assert blockers(write(text)) == {"control flow": 1}
    text = f"(float[2] x) => (float[2] y) <bool c = {{1}}> {{ y = If (c) <{body}> }}"
    assert blockers(write(text)) == {}


def test_overridable_initializers_block_from_ir_version_4_on(write):
    text = "(float[2] x, float[2] w) => (float[2] y) <float[2] w = {1, 2}> { y = Mul(x, w) }"
    assert blockers(write(text)) == {"overridable": 1}
    inputs = survey(write(text), {})["inputs"]
    assert [(value["name"], value["has_default"]) for value in inputs] == [("x", False), ("w", True)]
    assert blockers(write(text, ir_version=3)) == {}
    assert [value["name"] for value in survey(write(text, ir_version=3), {})["inputs"]] == ["x"]


def test_quantized_operators_and_data_dependent_shapes_block(write):
    text = """(float[4] x, float s, uint8 z) => (float[4] y, int64[1, K] n) {
        q = QuantizeLinear(x, s, z)  y = DequantizeLinear(q, s, z)  n = NonZero(x)
    }"""
    assert blockers(write(text)) == {"quantized": 2, "shapes": 1}


def test_function_calls_block(write):
    function = '<domain: "com.example", opset_import: ["": 18]> Twice (a) => (b) { b = Add(a, a) }'
    path = write("(float[2] x) => (float[2] y) { y = com.example.Twice(x) }", functions=function)
    facts = survey(path, {})
    assert (facts["functions"], facts["nodes"]) == (1, 2)
    assert facts["blockers"][0]["kind"] == "function call"


def test_bodies_are_counted(write):
    body = "then_branch = t () => (float[2] a) { a = Neg(x) }, else_branch = e () => (float[2] b) { b = Abs(x) }"
    facts = survey(write(f"(bool c, float[2] x) => (float[2] y) {{ y = If (c) <{body}> }}"), {})
    assert (facts["nodes"], facts["scopes"], facts["flops"]) == (3, 3, 4)


def test_external_data_is_not_read(graphopt, tmp_path):
    weight = numpy_helper.from_array(np.zeros((4, 4), np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])],
        [weight],
    )
    path = tmp_path / "m.onnx"
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path, save_as_external_data=True, location="w.bin", size_threshold=0)
    facts = json.loads(graphopt("inspect", path, "--json").out)
    assert (facts["parameters"], facts["initializer_bytes"], facts["flops"]) == (16, 64, 32)


@pytest.mark.parametrize("damage", [b"", b"not a model", None])
def test_files_that_are_no_models(graphopt, model, damage):
    model.write_bytes(model.read_bytes()[:200] if damage is None else damage)
    result = graphopt("inspect", model)
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("error: ")
    assert "internal" not in result.err


@pytest.mark.parametrize(
    ("proto", "text"),
    [
        (helper.make_tensor_type_proto(TensorProto.BFLOAT16, ["N", None, 3]), ("bfloat16", "[N, ?, 3]")),
        (helper.make_tensor_type_proto(TensorProto.DOUBLE, []), ("float64", "[]")),
        (helper.make_tensor_type_proto(TensorProto.INT64, None), ("int64", "?")),
        (
            helper.make_sequence_type_proto(helper.make_tensor_type_proto(TensorProto.FLOAT, None)),
            ("sequence float32", "?"),
        ),
        (
            helper.make_optional_type_proto(helper.make_tensor_type_proto(TensorProto.FLOAT, [2])),
            ("optional float32", "[2]"),
        ),
        (
            helper.make_sequence_type_proto(
                helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, None))
            ),
            ("sequence map int64 float32", "?"),
        ),
        (helper.make_sparse_tensor_type_proto(TensorProto.FLOAT, [3]), ("sparse float32", "[3]")),
        (onnx.TypeProto(), ("?", "?")),
    ],
)
def test_types_in_words(proto, text):
    assert type_text(proto) == text


def test_counts_for_people():
    assert [human(n) for n in (0, 999, 1000, 999_499, 999_600, 38_800_000_000)] == [
        "0", "999", "1 K", "999 K", "1 M", "38.8 G",
    ]  # fmt: skip


def test_layers_with_their_cost(graphopt, model):
    shown = graphopt("inspect", model, "--layers")
    assert (shown.code, shown.err) == (0, "")
    assert "bytes moved" in shown.out
    facts = json.loads(graphopt("inspect", model, "--layers", "--json").out)
    assert sum(row["flops"] or 0 for row in facts["layers"]) == facts["flops"]


def test_time_by_original_layer(graphopt, model, tmp_path):
    labels = {node.name or node.output[0] for node in onnx.load(model).graph.node}
    small = tmp_path / "small.onnx"
    assert graphopt("optimize", model, "-q", "-o", small).code == 0
    assert "of the time is attributed to original layers" in graphopt("inspect", small, "--profile").out
    found = json.loads(graphopt("inspect", small, "--profile", "--json").out)["profile"]
    assert found["attributed"] > 0.95
    assert {name for layer in found["layers"] for name in layer["names"]} <= labels


def test_memory_over_time(graphopt, model, tmp_path):
    pytest.importorskip("matplotlib", reason="plots need the plot extra")
    for name in ("memory.svg", "memory.png"):
        found = json.loads(graphopt("inspect", model, "--memory-plot", tmp_path / name, "--json").out)["memory"]
        assert (tmp_path / name).stat().st_size > 1000
        assert found["peak_bytes"] == max(row["bytes"] for row in found["nodes"])
    drawn = (tmp_path / "memory.svg").read_bytes()
    graphopt("inspect", model, "--memory-plot", tmp_path / "memory.svg")
    assert len((tmp_path / "memory.svg").read_bytes()) == len(drawn)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data", "d.npz"], "--data goes with --profile"),
        (["--memory-plot", "m.txt"], "name a file that ends in .svg"),
        (["--memory-plot", "no/such/m.svg"], "does not exist"),
    ],
)
def test_what_inspect_cannot_do(graphopt, model, options, message):
    result = graphopt("inspect", model, *options)
    assert result.code == 2
    assert message in " ".join(result.err.split())
