"""The verdict as a whole: what passes, what fails, what is left unchecked, and how each is said."""

from __future__ import annotations

import time

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import graphopt
from graphopt.errors import GraphoptError, ModelError
from graphopt.verify import Budget, Reference, verify
from graphopt.verify import judge as judge_module
from graphopt.verify.run import LoadError, RunError, Session

NEG = "g (float[N] x) => (float[N] y) { y = Neg(x) }"


def test_the_package_is_callable_and_exports(build):
    assert graphopt.verify(build(NEG), build(NEG)).status == "passed"
    assert graphopt.VerificationReport is not None


def test_models_are_not_changed(build):
    a, b = build(NEG), build(NEG)
    before = a.SerializeToString(deterministic=True)
    verify(a, b)
    assert a.SerializeToString(deterministic=True) == before == b.SerializeToString(deterministic=True)


def test_files_and_protos_mix(build, tmp_path):
    onnx.save(build(NEG), tmp_path / "a.onnx")
    assert verify(tmp_path / "a.onnx", build(NEG)).status == "passed"
    assert verify(str(tmp_path / "a.onnx"), tmp_path / "a.onnx").status == "passed"
    (tmp_path / "b.onnx").write_bytes((tmp_path / "a.onnx").read_bytes()[:-7])
    with pytest.raises(ModelError):
        verify(tmp_path / "a.onnx", tmp_path / "b.onnx")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.onnx", "b.onnx"]


def test_a_report_is_deterministic(build):
    reports = [verify(build(NEG), build(NEG.replace("Neg", "Abs"))).to_dict() for _ in range(2)]
    for report in reports:
        report["seconds"] = 0
        for run in report["runs"]:
            run["seconds"] = 0
    assert reports[0] == reports[1]
    assert reports[0]["runs"][0]["bindings"] == {"N": 64} and len(reports[0]["runs"][0]["feeds"]) == 12


def test_two_sizes_of_every_symbol(build):
    report = verify(
        *[build("g (float[N,T] x, float[N] z) => (float[N,T] y, float[N] w) { y = Neg(x) w = Abs(z) }")] * 2
    )
    for symbol in ("N", "T"):
        assert len({run.bindings[symbol] for run in report.runs}) >= 2


# given inputs


def test_given_inputs(build):
    a, b = build(NEG), build("g (float[N] x) => (float[N] y) { z = Abs(x) y = Neg(z) }")
    assert verify(a, b, {"x": np.float32([1, 2])}).status == "passed"
    report = verify(a, b, [{"x": np.float32([1, 2])}, {"x": np.float32([1, -2])}])
    assert report.status == "failed" and [run.ok for run in report.runs] == [True, False]
    assert [run.data for run in report.runs] == ["given", "given"] and report.runs[0].bindings == {"N": 2}


@pytest.mark.parametrize(
    ("feeds", "said"),
    [
        ({}, "no value for 'x'"),
        ({"x": np.ones(2, np.float32), "q": 1}, "no input is named 'q'"),
        ({"x": np.ones(2, np.float64)}, "does not run on the given inputs"),
        ({"x": np.ones((2, 2), np.float32)}, "does not run on the given inputs"),
    ],
)
def test_given_inputs_that_do_not_fit(build, feeds, said):
    with pytest.raises(GraphoptError, match=said):
        verify(build(NEG), build(NEG), feeds)


# interface and loading


def test_an_interface_difference_fails_though_outputs_agree(build):
    report = verify(build(NEG), build(NEG.replace("float[N] x", "float[M] x")))
    assert report.status == "failed" and report.interface and all(run.ok for run in report.runs) and report.runs


def test_a_missing_output_fails(build):
    a = build("g (float[N] x) => (float[N] y, float[N] z) { y = Neg(x) z = Abs(x) }")
    report = verify(a, build(NEG))
    assert report.status == "failed" and report.interface == ["output 'z' is missing"]


def test_a_model_that_does_not_load_fails(build):
    report = verify(build(NEG), build(NEG.replace("Neg", "local.Unknown"), check=False))
    assert report.status == "failed" and report.error.startswith("it does not load")


def test_a_model_that_does_not_run_fails(build):
    broken = build("g (float[N] x) => (float[N] y) { y = Reshape(x, s) }", check=False, s=np.array([16]))
    report = verify(build(NEG), broken)
    assert report.status == "failed" and "it fails where the original runs" in report.error


def test_an_original_that_does_not_load_leaves_all_unchecked(build):
    odd = build(NEG.replace("Neg", "local.Unknown"), check=False)
    report = verify(odd, odd)
    assert report.status == "unchecked" and report.ok and "does not load" in report.unchecked[0]
    assert "\n" not in report.unchecked[0] and report.summary().startswith("not verified: ")
    assert verify(odd, build(NEG.replace("[N] x", "[M] x"))).status == "failed"  # the interface is still compared


def test_an_original_that_does_not_run_leaves_all_unchecked(build):
    odd = build("g (float[3] x) => (float[7] y) { y = Reshape(x, s) }", check=False, s=np.array([7]))
    report = verify(odd, odd)
    assert report.status == "unchecked" and "no inputs were found" in report.unchecked[0]


def test_newer_opsets_are_run_in_the_reference_evaluator(build):
    models = [build(NEG.replace("Neg", op), check=False) for op in ("Neg", "Neg", "Abs")]
    for model in models:
        model.opset_import[0].version = onnx.defs.onnx_opset_version()
        model.ir_version = onnx.IR_VERSION
    with Reference(models[0]) as reference:
        reports = [reference.check(model) for model in models[1:]]
        if reference.on_evaluator:
            assert any("reference evaluator" in note for note in reports[0].notes)
    assert [report.status for report in reports] == ["passed", "failed"]


# budget


def test_a_budget_of_bytes(build):
    model = build("g (float[N] x) => (float[N] y) { y = Mul(x, w) }", w=np.ones(1, np.float32))
    big = build("g (float[N,300] x) => (float[N,300] y) { y = Mul(x, w) }", w=np.ones(300, np.float32))
    assert verify(model, model, budget=Budget(bytes=1000)).status == "passed"
    report = verify(big, big, budget=Budget(bytes=1000))
    assert report.status == "unchecked" and "over the budget" in report.unchecked[0] and report.runs == []
    wrong = build("g (float[M,300] x) => (float[M,300] y) { y = Mul(x, w) }", w=np.ones(300, np.float32))
    assert verify(big, wrong, budget=Budget(bytes=1000)).status == "failed"


def loop_of(trips):
    body = (
        "<body=b(int64 i, bool c, float[40,40] v) => (bool d, float[40,40] w) {d=Identity(c) a=MatMul(v,v) w=Tanh(a)}>"
    )
    return f"g (float[40,40] x) => (float[40,40] y) {{ y = Loop(n, yes, x) {body} }}", {
        "n": np.array(trips),
        "yes": np.array(True),
    }


def test_a_budget_of_seconds(build):
    text, weights = loop_of(2**40)  # hours
    slow = build(text, **weights)
    start = time.monotonic()
    report = verify(slow, slow, budget=Budget(seconds=1.0))
    assert report.status == "unchecked" and "stopped after" in report.unchecked[0]
    assert time.monotonic() - start < 10.0
    assert verify(slow, slow, budget=Budget(seconds=0.0)).unchecked == ["the outputs: the budget leaves no time"]


def test_an_emitted_model_that_takes_too_long_is_left_unchecked(build):
    quick, weights = loop_of(2)
    text, forever = loop_of(2**40)
    report = verify(build(quick, **weights), build(text, **forever), budget=Budget(seconds=1.0))
    assert report.status == "unchecked" and all("stopped after" in why or "no time" in why for why in report.unchecked)


# kinds of outputs


def test_sequence_outputs(build):
    text = "g (float[N,2] x) => (seq(float[?,2]) y) { n = %s(x) y = SequenceConstruct(x, n) }"
    assert verify(build(text % "Neg"), build(text % "Neg")).status == "passed"
    report = verify(build(text % "Neg"), build(text % "Abs"))
    assert report.status == "failed" and report.worst().dtype == "sequence"
    fewer = build("g (float[N,2] x) => (seq(float[?,2]) y) { n = Neg(x) y = SequenceConstruct(n) }")
    assert "sequence of 2 became a sequence of 1" in verify(build(text % "Neg"), fewer).summary()


def typed(elem_type, nodes, opset=21):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 8])],
        [helper.make_tensor_value_info("y", elem_type, ["N", 8])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


@pytest.mark.parametrize(
    "name", ["FLOAT16", "BFLOAT16", "FLOAT8E4M3FN", "FLOAT8E5M2", "DOUBLE", "INT8", "UINT8", "BOOL"]
)
def test_types_of_outputs(name):
    elem_type = getattr(TensorProto, name)
    to = helper.make_node("Cast", ["a"], ["y"], to=elem_type)
    right = typed(elem_type, [helper.make_node("Abs", ["x"], ["a"]), to])
    wrong = typed(elem_type, [helper.make_node("Floor", ["x"], ["a"]), to])
    assert verify(right, right).status == "passed"
    assert verify(right, wrong).status == "failed"


def test_classifier_outputs_with_maps():
    classes = [f"c{i}" for i in range(3)]
    nodes = [
        helper.make_node(
            "LinearClassifier",
            ["x"],
            ["label", "p"],
            domain="ai.onnx.ml",
            coefficients=[0.1 * i for i in range(12)],
            intercepts=[0.0, 0.1, 0.2],
            classlabels_strings=classes,
            post_transform="SOFTMAX",
        ),
        helper.make_node("ZipMap", ["p"], ["z"], domain="ai.onnx.ml", classlabels_strings=classes),
    ]
    mapped = helper.make_map_type_proto(TensorProto.STRING, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", 1, ["N", 4])],
        [
            helper.make_tensor_value_info("label", TensorProto.STRING, ["N"]),
            helper.make_value_info("z", helper.make_sequence_type_proto(mapped)),
        ],
    )
    right = helper.make_model(graph, opset_imports=[helper.make_opsetid("ai.onnx.ml", 3)], ir_version=8)
    wrong = onnx.ModelProto()
    wrong.CopyFrom(right)
    intercepts = next(a for a in wrong.graph.node[0].attribute if a.name == "intercepts")
    intercepts.floats[0] += 0.001
    assert verify(right, right).status == "passed"
    assert verify(right, wrong).status == "failed"


def test_empty_outputs_agree(build):
    text = "g (float[N] x) => (int64[1,?] y) { z = Mul(x, o) y = NonZero(z) }"
    model = build(text, o=np.float32(0))
    assert verify(model, model).status == "passed"


# random numbers


NOISY = """g (float[N,4] x) => (float[N,4] y, float[N,4] z) {
    r = RandomNormalLike(x) q = RandomUniformLike(x) s = Add(r, q) y = Add(x, s) z = %s(x) }"""


def test_random_numbers_are_pinned_and_compared(build):
    model = build(NOISY % "Neg")
    report = verify(model, model)
    assert report.status == "passed" and not report.unchecked and len(report.runs[0].outputs) == 2
    assert report.notes == ["random operators were given the same seeds in both models"]
    assert not any(a.name == "seed" for node in model.graph.node for a in node.attribute)


def test_what_does_not_depend_on_random_numbers_still_fails(build):
    assert verify(build(NOISY % "Neg"), build(NOISY % "Abs")).status == "failed"


@pytest.mark.parametrize(
    "body",
    [
        "r = RandomNormalLike(x) s = Add(r, r) y = Add(x, s) z = Neg(x)",  # two draws made one
        "s = Mul(x, k) y = Add(x, s) z = Neg(x)",  # draws folded into a constant
    ],
)
def test_random_numbers_that_were_merged_or_folded_fail(build, body):
    wrong = build(f"g (float[N,4] x) => (float[N,4] y, float[N,4] z) {{ {body} }}", k=np.float32(0.1))
    assert verify(build(NOISY % "Neg"), wrong).status == "failed"


def test_renamed_random_numbers_pass_or_are_said_to_be_unchecked(build):
    renamed = NOISY.replace("r =", "t =").replace("(r,", "(t,") % "Neg"
    report = verify(build(NOISY % "Neg"), build(renamed))
    assert report.status == "passed" and not report.unchecked
    unlike = """g (float[N,4] x) => (float[N,4] y, float[N,4] z) {
        t = RandomUniformLike<low=5.0, high=6.0>(x) y = Add(x, t) z = Neg(x) }"""
    report = verify(build(NOISY % "Neg"), build(unlike))
    assert report.status == "passed" and report.unchecked == ["output 'y': it depends on random numbers"]
    assert [check.name for check in report.runs[0].outputs] == ["z"]


def test_dropout_draws_only_in_training(build):
    text = """g (float[N,64] x) => (float[N,64] y) {
        t = Constant<value = bool {%d}>() h = Constant<value = float {0.5}>() y = Dropout(x, h, t) }"""
    asleep, awake = build(text % 0), build(text % 1)
    assert not verify(asleep, asleep).notes
    report = verify(awake, awake)
    assert report.notes and report.ok
    assert verify(asleep, build("g (float[N,64] x) => (float[N,64] y) { y = Identity(x) }")).status == "passed"
    assert verify(awake, build("g (float[N,64] x) => (float[N,64] y) { y = Identity(x) }")).status == "failed"


# noise, and the runtime's own mistakes


def test_an_unstable_original_is_not_judged(build):
    # The logistic map doubles a difference with every step: after 60 the last bit has become everything.
    text = """g (float[N] x) => (float[N] y, float[N] z) { s = Sigmoid(x) z = Neg(x)
        y = Loop(n, yes, s) <body=b(int64 i, bool c, float[N] v) => (bool d, float[N] w) {%s}> }"""
    weights = {"n": np.array(80), "yes": np.array(True), "four": np.float32(3.99), "one": np.float32(1)}
    before = "d = Identity(c) f = Mul(four, v) m = Sub(one, v) w = Mul(f, m)"
    after = "d = Identity(c) m = Sub(one, v) p = Mul(v, m) w = Mul(p, four)"
    report = verify(build(text % before, **weights), build(text % after, **weights))
    assert report.status == "passed"
    assert (
        all(why.startswith("output 'y'") and "cannot be judged" in why for why in report.unchecked) and report.unchecked
    )
    assert all(check.name == "z" for run in report.runs for check in run.outputs)


def quantized(scale):
    text = """g (float[N,32] x) => (float[N,16] y) { q, s, z = DynamicQuantizeLinear(x)
        i = MatMulInteger(q, W, z) f = Cast<to=1>(i) k = Mul(s, c) y = Mul(f, k) }"""
    rng = np.random.default_rng(1)
    return text, {"W": rng.integers(-128, 128, (32, 16)).astype(np.int8), "c": np.float32(scale)}


def test_quantized_models(build):
    text, weights = quantized(0.01)
    model = build(text, **weights)
    assert verify(model, model).status == "passed"
    _, other = quantized(0.0101)
    assert verify(model, build(text, **other)).status == "failed"
    shifted = {**weights, "W": weights["W"] + (np.arange(16) == 3).astype(np.int8) * (weights["W"] < 127)}
    assert verify(model, build(text, **shifted)).status == "failed"


class FakeSession(Session):
    """A runtime whose optimizations spoil the models that hold a node of type `spoils`."""

    spoils = "Neg"
    how = staticmethod(lambda value: value * np.float32(1.01))

    def run(self, feeds, timeout=None):
        outputs = super().run(feeds, timeout)
        if self.optimize and any(node.op_type == self.spoils for node in self.source.proto.graph.node):
            outputs = [self.how(value) for value in outputs]
        return outputs


def test_a_mistake_of_the_runtime_in_both_is_a_note(build, monkeypatch):
    monkeypatch.setattr(judge_module, "Session", FakeSession)
    report = verify(build(NEG), build("g (float[N] x) => (float[N] y) { z = Identity(x) y = Neg(z) }"))
    assert report.status == "passed"
    assert report.notes == ["output 'y': ONNX Runtime's own optimizations change the original in the same way"]
    assert "0.01 of the output's scale" in report.runs[0].outputs[0].why


def test_a_mistake_of_the_runtime_in_the_emitted_model_alone_fails(build, monkeypatch):
    monkeypatch.setattr(judge_module, "Session", FakeSession)
    report = verify(
        build("g (float[N] x) => (float[N] y) { z = Constant<value = float {0}>() y = Sub(z, x) }"), build(NEG)
    )
    assert report.status == "failed"
    assert "ONNX Runtime's optimizations break it, though not the original" in report.summary()


def test_the_runtimes_mistake_does_not_excuse_another(build, monkeypatch):
    monkeypatch.setattr(judge_module, "Session", FakeSession)
    wrong = build("g (float[N] x) => (float[N] y) { k = Constant<value = float {1.03}>() z = Mul(x, k) y = Neg(z) }")
    assert verify(build(NEG), wrong).status == "failed"


def test_optimizations_that_cannot_load_or_run_either_model(build, monkeypatch):
    class Refusing(Session):
        def __init__(self, source, *, optimize=False, **options):
            if optimize:
                raise LoadError("the optimizer crashed")
            super().__init__(source, optimize=optimize, **options)

    monkeypatch.setattr(judge_module, "Session", Refusing)
    report = verify(build(NEG), build(NEG))
    assert report.status == "passed" and "break the original too" in report.notes[0]

    class Failing(Session):
        def run(self, feeds, timeout=None):
            if self.optimize:
                raise RunError("the fused kernel failed")
            return super().run(feeds, timeout)

    monkeypatch.setattr(judge_module, "Session", Failing)
    report = verify(build(NEG), build(NEG))
    assert report.status == "passed" and "break both models, compared as written" in report.notes[0]
    assert verify(build(NEG), build(NEG.replace("Neg", "Abs"))).status == "failed"


def test_one_reference_checks_many(build):
    with Reference(build(NEG)) as reference:
        statuses = [reference.check(build(NEG.replace("Neg", op))).status for op in ("Neg", "Abs", "Neg")]
    assert statuses == ["passed", "failed", "passed"]


def test_weights_of_every_kind_are_counted(build):
    model = build(
        """g (float[N] x) => (float[N] y) {
            k = Constant<value = float[3] {1, 2, 3}>() s = ReduceSum<keepdims=0>(k) y = Mul(x, s) }"""
    )
    model.graph.initializer.append(numpy_helper.from_array(np.ones(100, np.float32), "unused"))
    report = verify(model, model, budget=Budget(bytes=400))
    assert report.status == "unchecked"


@pytest.mark.parametrize("text", ["y = Abs(x)", "z = Concat <axis = 0> (x, x)  y = Abs(z)", "z = Sqrt(x)  y = Neg(z)"])
def test_out_of_time_is_no_error(build, monkeypatch, text):
    """However large the difference is: nobody has looked how far the original is from itself."""
    monkeypatch.setattr(judge_module.Judge, "_late", lambda self, case, extra=1.0: True)
    a, b = (build(f"g (float[8] x) => (float[n] y) {{ {body} }}") for body in ("y = Neg(x)", text))
    report = verify(a, b)
    assert report.status == "unchecked" and not any(run.outputs for run in report.runs)
    assert all("no time was left to tell rounding from error (" in why for why in report.unchecked)
