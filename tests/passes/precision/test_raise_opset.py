from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

import graphopt
from graphopt.errors import GraphoptError
from graphopt.passes.precision import _opset_steps
from graphopt.passes.precision.raise_opset import RaiseOpset
from graphopt.testing import conformance

VERSIONS = (13, 14, 18, 21)


def model(text, opset, constants=(), ir_version=8):
    made = parser.parse_model(f'<ir_version: {ir_version}, opset_import: ["": {opset}]> {text}')
    made.graph.initializer.extend(numpy_helper.from_array(np.asarray(array), name) for name, array in constants)
    return made


def raised(made, version=13, **options):
    outcome = conformance(RaiseOpset(version=version), made, **options)
    assert {entry.domain: entry.version for entry in outcome.model.opset_import}[""] == version
    return outcome.model.graph


def ops(graph):
    return [node.op_type for node in graph.node]


STEPS = {
    "Squeeze": (11, "g (float[N, 1, 3] x) => (float[N, 3] y) { y = Squeeze <axes = [1]> (x) }"),
    "Squeeze-all": (11, "g (float[1, 1, 3] x) => (float[3] y) { y = Squeeze (x) }"),
    "Unsqueeze": (11, "g (float[N, 3] x) => (float[N, 1, 3, 1] y) { y = Unsqueeze <axes = [1, -1]> (x) }"),
    "ReduceSum": (11, "g (float[N, 3] x) => (float[N] y) { y = ReduceSum <axes = [1], keepdims = 0> (x) }"),
    "ReduceSum-all": (11, "g (float[N, 3] x) => (float[1, 1] y) { y = ReduceSum (x) }"),
    "ReduceMean": (11, "g (float[N, 3] x) => (float[N, 1] y) { y = ReduceMean <axes = [-1]> (x) }"),
    "Split": (11, "g (float[N, 5] x) => (float[N, 2] a, float[N, 3] b) { a, b = Split <axis = 1, split = [2, 3]>(x) }"),
    "Split-even": (11, "g (float[N, 6] x) => (float[N, 3] y, float[N, 3] z) { y, z = Split <axis = 1> (x) }"),
    "Slice": (9, "g (float[N, 6] x) => (float[N, D] y) { y = Slice <starts = [1], ends = [99], axes = [1]> (x) }"),
    "Slice-axes": (9, "g (float[N, 6] x) => (float[M, 3] y) { y = Slice <starts = [0, 1], ends = [99, 4]> (x) }"),
    "TopK": (9, "g (float[N, 6] x) => (float[N, 2] y, int64[N, 2] i) { y, i = TopK <k = 2> (x) }"),
    "Clip": (10, "g (float[N] x) => (float[N] y) { y = Clip <min = 0.0, max = 6.0> (x) }"),
    "Clip-one-side": (10, "g (float[N] x) => (float[N] y) { y = Clip <min = 0.5> (x) }"),
    "Clip-double": (10, "g (double[N] x) => (double[N] y) { y = Clip <min = 0.5> (x) }"),
    "Pad": (9, "g (float[N, 3] x) => (float[N, 6] y) { y = Pad <pads = [0, 1, 0, 2], value = 1.5> (x) }"),
    "Pad-zero": (9, "g (float[N, 3] x) => (float[N, 6] y) { y = Pad <pads = [0, 1, 0, 2]> (x) }"),
    "Pad-edge": (9, 'g (float[N, 3] x) => (float[N, 4] y) { y = Pad <mode = "edge", pads = [0, 1, 0, 0]> (x) }'),
    "Dropout-odd": (9, "g (float[N, 3] x) => (float[N, 3] y) { y = Dropout <ratio = 10.0> (x) }"),
    "Unsqueeze-none": (11, "g (float[N, 3] x) => (float[N, 3] y) { y = Unsqueeze <axes: ints = []> (x) }"),
    "Dropout": (9, "g (float[N, 3] x) => (float[N, 3] y) { y = Dropout <ratio = 0.25> (x) }"),
    "Softmax-last": (9, "g (float[N, 3] x) => (float[N, 3] y) { y = Softmax (x) }"),
    "Softmax-ones": (9, "g (float[N, 3, 1, 1] x) => (float[N, 3, 1, 1] y) { y = Softmax (x) }"),
    "Softmax-static": (9, "g (float[2, 3, 4] x) => (float[2, 3, 4] y) { y = Softmax <axis = 0> (x) }"),
    "Softmax-flat": (9, "g (float[N, 3, 4] x) => (float[N, 3, 4] y) { y = LogSoftmax <axis = 1> (x) }"),
    "Hardmax": (11, "g (float[N, 3, 4] x) => (float[N, 3, 4] y) { y = Hardmax <axis = -2> (x) }"),
    "Resize": (10, "g (float[N, 3, 4, 4] x) => (float[N, 3, 8, 8] y) { y = Resize (x, up) }"),
    "Resize-down": (10, "g (float[N, 3, 8, 8] x) => (float[N, 3, 4, 4] y) { y = Resize (x, down) }"),
    "Resize-linear": (10, 'g (float[1, 3, 4, 4] x) => (float[1, 3, 8, 8] y) { y = Resize <mode = "linear"> (x, up) }'),
    "Resize-sizes": (
        11,
        (
            "g (float[1, 3, 4, 4] x) => (float[1, 3, 8, 8] y) { e = Constant <value = float[0] {}> () "
            "s = Constant <value = int64[4] {1, 3, 8, 8}> () y = Resize (x, e, e, s) }"
        ),
    ),
    "Upsample": (9, "g (float[N, 3, 4, 4] x) => (float[N, 3, 8, 8] y) { y = Upsample (x, up) }"),
    "Upsample-7": (8, ("g (float[1, 3, 4, 4] x) => (float[1, 3, 8, 8] y) { "
                      'y = Upsample <mode = "linear", scales = [1.0, 1.0, 2.0, 2.0]> (x) }')),
    "Scatter": (9, ("g (float[5] x, float[2] u) => (float[5] y) { i = Constant <value = int64[2] {1, 3}> () "
                   "y = Scatter (x, i, u) }")),
    "BatchNormalization": (8, ("g (float[N, 2, 4] x) => (float[N, 2, 4] y) { "
                              "y = BatchNormalization <spatial = 1, epsilon = 0.001> (x, pair, pair, pair, pair) }")),
    "DFT": (17, "g (float[1, 8, 1] x) => (float[1, 8, 2] y) { y = DFT <axis = 1> (x) }"),
    "GridSample": (16, ("g (float[1, 1, 4, 4] x, float[1, 2, 2, 2] i) => (float[1, 1, 2, 2] y) { "
                       'y = GridSample <mode = "bicubic"> (x, i) }')),
    "RoiAlign": (10, ("g (float[1, 1, 8, 8] x) => (float[1, 1, 2, 2] y) { b = Constant <value = int64[1] {0}> () "
                     "y = RoiAlign <output_height = 2, output_width = 2> (x, rois, b) }")),
    "Gemm": (9, "g (float[N, 2] x) => (float[N, 2] y) { y = Gemm (x, square, pair) }"),
    "MaxPool": (7, "g (float[N, 2, 6] x) => (float[N, 2, 3] y) { y = MaxPool <kernel_shape = [2], strides = [2]>(x) }"),
    "unchanged": (7, "g (float[N, 2] x) => (float[N, 2] y) { a = Relu (x)  b = Add (a, pair)  y = Tanh (b) }"),
}  # fmt: skip
CONSTANTS = [
    ("up", np.float32([1, 1, 2, 2])),
    ("down", np.float32([1, 1, 0.5, 0.5])),
    ("pair", np.float32([0.5, 2])),
    ("square", np.float32([[1, 2], [3, 4]])),
    ("rois", np.float32([[1, 1, 5, 5]])),
]


def built(name):
    opset, text = STEPS[name]
    return model(text, opset, [(n, array) for n, array in CONSTANTS if n in text])


@pytest.mark.parametrize("name", list(STEPS))
def test_each_step_computes_the_same(name):
    made = built(name)
    for version in VERSIONS:
        if made.opset_import[0].version < version:
            raised(made, version)


def test_how_they_are_written():
    assert ops(raised(built("Upsample-7"))) == ["Resize"]
    assert ops(raised(built("Scatter")))[-1] == "ScatterElements"
    assert ops(raised(built("Softmax-ones"))) == ["Softmax"]
    assert ops(raised(built("Softmax-flat"))) == ["Flatten", "LogSoftmax", "Shape", "Reshape"]
    assert ops(raised(built("Softmax-static"))) == ["Flatten", "Softmax", "Reshape"]
    clip = raised(built("Clip-one-side")).node[0]
    assert len(clip.input) == 2
    assert not clip.attribute


def test_nodes_that_do_not_change_keep_their_bytes():
    made = built("unchanged")
    made.graph.node[0].doc_string = "kept"
    graph = raised(made)
    assert [n.SerializeToString() for n in graph.node] == [n.SerializeToString() for n in made.graph.node]


def test_a_model_that_is_new_enough_is_left_alone():
    made = model("g (float[N] x) => (float[N] y) { y = Relu (x) }", 17)
    assert not conformance(RaiseOpset(version=13), made).changed
    assert not conformance("raise-opset", made).changed


def test_bodies_functions_and_other_domains():
    text = """<ir_version: 8, opset_import: ["": 11, "local": 1, "com.microsoft": 1]>
    g (bool b, float[2, 1, 3] x) => (float[2, 3] y) {
      s = local.f (x)
      y = If (b) <
        then_branch = t () => (float[2, 3] a) { a = Squeeze <axes = [1]> (s) },
        else_branch = e () => (float[2, 3] c) { q = Squeeze <axes = [1]> (s)  c = com.microsoft.Gelu (q) }
      >
    }
    <domain: "local", opset_import: ["": 11]> f (v) => (w) {
      u = Unsqueeze <axes = [0]> (v)  w = Squeeze <axes = [0]> (u)
    }
    """
    made = parser.parse_model(text)
    outcome = conformance(RaiseOpset(), made)
    assert {entry.domain: entry.version for entry in outcome.model.opset_import} == {
        "": 13, "local": 1, "com.microsoft": 1,
    }  # fmt: skip
    assert [entry.version for entry in outcome.model.functions[0].opset_import] == [13]
    assert len(outcome.report.rewrites[0].matched) == 4


def test_initializers_are_inputs_before_ir_version_4():
    made = model("g (float[N, 1, 3] x) => (float[N, 3] y) { y = Squeeze <axes = [1]> (x) }", 8, ir_version=3)
    graph = raised(made)
    assert graph.input[0].name == "x"
    assert graph.input[1].name == graph.node[0].input[1]


def test_equal_constants_are_one():
    text = """g (float[N, 1, 3] x) => (float[N, 3] y) {
      a = Squeeze <axes = [1]> (x)  b = Unsqueeze <axes = [1]> (a)  y = Squeeze <axes = [1]> (b)
    }"""
    assert len(raised(model(text, 11)).initializer) == 1


def test_large_and_external_weights_stay_where_they_are(tmp_path):
    import onnx

    made = model(
        "g (float[N, 1, 300] x) => (float[N, 300] y) { a = Squeeze <axes = [1]> (x)  y = MatMul (a, w) }",
        11,
        [("w", np.ones((300, 300), np.float32))],
    )
    onnx.save(made, tmp_path / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    report = graphopt.optimize_file(tmp_path / "m.onnx", tmp_path / "o.onnx", [RaiseOpset()])
    assert report.verification.status == "passed"
    found = onnx.load(tmp_path / "o.onnx", load_external_data=False)
    assert found.opset_import[0].version == 13
    assert {t.name: t.data_location for t in found.graph.initializer}["w"] == TensorProto.EXTERNAL


REFUSED = {
    "the rank of its input is not known": (
        11, 13, "g (float[N, 3] x, int64[R] s) => (float y) { a = Reshape (x, s)  y = Softmax <axis = 0> (a) }"),
    "sizes that may be 0": (11, 13, "g (float[N, 3, T] x) => (float[N, 3, T] y) { y = Softmax <axis = 1> (x) }"),
    "which pixel is the nearest depends": (
        10, 13, "g (float[1, 1, 4, 4] x, float[4] s) => (float[1, 1, H, W] y) { y = Resize (x, s) }"),
    "which pixel is the nearest differs": (
        10, 13, "g (float[1, 1, 4, 4] x) => (float[1, 1, 8, 2] y) { y = Resize (x, both) }"),
    "it is given scales and sizes": (
        11,
        13,
        (
            "g (float[1, 1, 4, 4] x, int64[4] s) => (float[1, 1, H, W] y) { e = Constant <value = float[0] {}> () "
            "y = Resize (x, e, up, s) }"
        ),
    ),
    "tf_half_pixel_for_nn is gone": (
        11,
        13,
        (
            "g (float[1, 1, 4, 4] x) => (float[1, 1, 8, 8] y) { e = Constant <value = float[0] {}> () "
            'y = Resize <coordinate_transformation_mode = "tf_half_pixel_for_nn"> (x, e, up) }'
        ),
    ),
    "an axis is none of its input's": (17, 18, "g (float x) => (float y) { y = ReduceMax <axes = [0]> (x) }"),
    "an axis is not of size 1": (11, 13, "g (float[2, N] x) => (float[N] y) { y = Squeeze <axes = [0]> (x) }"),
    "further outputs are others": (9, 13, "g (float[N] x) => (float[N] y, float[N] m) { y, m = Dropout (x) }"),
    "spatial=0": (8, 13, ("g (float[N, 2] x) => (float[N, 2] y) { "
                         "y = BatchNormalization <spatial = 0> (x, pair, pair, pair, pair) }")),
    "split in another way": (9, 13, ("g (float[N, 2, 4] x) => (float[N, 1, 8] y) { "
                                    'y = ConvTranspose <auto_pad = "SAME_UPPER", strides = [2]> (x, kernel) }')),
    "channels, not groups": (18, 21, ("g (float[N, 2, 4] x) => (float[N, 2, 4] y) { "
                                     "y = GroupNormalization <num_groups = 2> (x, pair, pair) }")),
    "is too old": (6, 13, "g (float[N] x) => (float[N] y) { y = Relu (x) }"),
    "enclosing function's": (
        11, 13, 'g (float[N, 1] x) => (float[N] y) { y = local.f <a = [1]> (x) }'),
}  # fmt: skip


@pytest.mark.parametrize("words", list(REFUSED))
def test_what_cannot_follow_is_refused_by_name(words):
    opset, version, text = REFUSED[words]
    constants = [("both", np.float32([1, 1, 2, 0.5])), ("kernel", np.ones((2, 1, 3), np.float32)), *CONSTANTS]
    if "local.f" in text:
        function = '<domain: "local", opset_import: ["": 11]> f <a> (v) => (w) { w = Squeeze <axes: ints = @a> (v) }'
        made = parser.parse_model(f'<ir_version: 8, opset_import: ["": {opset}, "local": 1]> {text} {function}')
    else:
        made = model(text, opset, [(n, array) for n, array in constants if n in text])
    out, report = graphopt.optimize(made, RaiseOpset(version=version), verify="off", with_report=True)
    (reason,) = report.refusals["raise-opset"]
    assert words in reason
    assert out == made


def test_one_hot_keeps_what_runtimes_make_of_negative_indices():
    text = "g (int64[N] x, float[2] v) => (float[N, 3] y) { d = Constant <value = int64 {3}> () y = OneHot (x, d, v) }"
    made = model(text, 9)
    feeds = {"x": np.array([0, -1, 5, -7]), "v": np.float32([0, 1])}
    out, report = graphopt.optimize(made, RaiseOpset(), inputs=feeds, with_report=True)
    assert out.opset_import[0].version == 13
    assert report.verification.status == "passed"


def test_all_or_nothing():
    text = "g (float[N, 1] x) => (float[N] y, float[N] m) { a = Squeeze <axes = [1]> (x)  y, m = Dropout (a) }"
    made = model(text, 11)
    assert graphopt.optimize(made, RaiseOpset(), verify="off") == made


@pytest.mark.parametrize("version", [0, 10, 26, 99])
def test_versions_that_are_not_known(version):
    made = model("g (float[N] x) => (float[N] y) { y = Relu (x) }", 11)
    with pytest.raises(GraphoptError, match=f"version={version} is none of 11 to"):
        graphopt.optimize(made, RaiseOpset(version=version), verify="off")


def test_steps_are_found_by_their_names():
    """What is written out is of operators that have such a change."""
    from onnx import defs

    known = {(schema.name, schema.since_version) for schema in defs.get_all_schemas_with_history() if not schema.domain}
    assert {*_opset_steps._STEPS, *_opset_steps._GUARDS} <= known


def test_a_sequence_of_raises_is_one():
    made = built("Resize-down")
    once = graphopt.optimize(made, RaiseOpset(version=18), verify="off")
    twice = graphopt.optimize(graphopt.optimize(made, RaiseOpset(), verify="off"), RaiseOpset(version=18), verify="off")
    drop = helper.make_opsetid("", 18)
    assert once.opset_import[0] == drop == twice.opset_import[0]
    assert ops(once.graph) == ops(twice.graph)


def test_real_models_are_raised(real_model):
    """All of them: a rank that is not known hinders only opset 13."""
    report = graphopt.optimize(real_model, RaiseOpset(version=21), verify="check", with_report=True)[1]
    assert not report.refusals


def test_it_is_not_blamed_for_what_passes_before_it_round():
    """With verify="rewrites", a model taken over late is compared with the original as whole models are."""
    rng = np.random.default_rng(0)
    lines, last, constants = [], "x", []
    for number in range(40):
        lines.append(f"c{number} = Conv({last}, w{number}) b{number} = BatchNormalization(c{number}, g, t, m, v)")
        last = f"b{number}"
        constants.append((f"w{number}", (rng.normal(size=(8, 8, 1, 1)) / 3).astype(np.float32)))
    constants += [(name, rng.uniform(0.5, 2, 8).astype(np.float32)) for name in "gtmv"]
    text = f"g (float[N, 8, 4, 4] x) => (float[N, 8, 4, 4] y) {{ {' '.join(lines)} y = Relu({last}) }}"
    made = model(text, 11, constants)
    out, report = graphopt.optimize(made, ["fuse", RaiseOpset()], verify="rewrites", with_report=True)
    assert not report.reverted
    assert out.opset_import[0].version == 13
