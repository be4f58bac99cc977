"""verify="rewrites": wrong rewrites are undone one by one and named, right ones stay."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from tests.verify import wrong_rules as wrong

import graphopt
from graphopt.errors import VerificationError
from graphopt.report import Report, Reverted, Validation
from graphopt.verify import verify

RNG = np.random.default_rng(3)
CHAIN = """g (float[N,4] x) => (float[N,4] y) {
    a = Neg(x)  b = Relu(a)  c = Identity(b)  d = Relu(c)  e = Mul(d, W)  f = Neg(e)  y = Relu(f)
}"""
CHAIN_WEIGHTS = {"W": np.float32([1, -2, 3, -4])}


def optimize(model, passes, **options):
    return graphopt.optimize(model, passes, verify="rewrites", with_report=True, **options)


def ops(model):
    return [node.op_type for node in model.graph.node]


def conv_net(build, blocks=3):
    text, weights, name = "", {}, "x"
    for i in range(blocks):
        text += (
            f"c{i} = Conv({name}, w{i})  b{i} = BatchNormalization(c{i}, s{i}, t{i}, m{i}, v{i})  r{i} = Relu(b{i})\n"
        )
        weights[f"w{i}"] = RNG.standard_normal((4, 4 if i else 3, 3, 3)).astype(np.float32)
        for part in "stm":
            weights[f"{part}{i}"] = RNG.standard_normal(4).astype(np.float32)
        weights[f"v{i}"] = np.abs(RNG.standard_normal(4)).astype(np.float32) + 0.1
        name = f"r{i}"
    return build(f"g (float[N,3,16,16] x) => (float[N,4,K,K] y) {{ {text} y = Identity({name}) }}", **weights)


def test_right_rewrites_are_all_kept(build):
    model = conv_net(build)
    plain = graphopt.optimize(model)
    found, report = optimize(model, "default")
    assert found == plain and report.reverted == [] and report.verification.status == "passed"
    checked = report.validation
    assert checked.sites == len(report.rewrites) == checked.exact + checked.replayed
    assert checked.replayed >= 3 and checked.sampled >= 3 and checked.samples > 3 and not checked.unchecked


def test_a_wrong_rule_is_undone_at_its_sites_alone(build):
    model = build(CHAIN, **CHAIN_WEIGHTS)
    found, report = optimize(model, [wrong.relu_is_abs, "default"])
    assert {item.rule for item in report.reverted} == {"relu-is-abs"}
    assert {"b", "y"} <= {item.site for item in report.reverted}
    assert "Identity" not in ops(found), "the rest is still optimized"
    assert report.verification.status == "passed" and verify(model, found).ok
    assert report.warnings == report.undone() and "relu-is-abs is wrong on" in report.warnings[0]


def test_a_wrong_rule_among_others_of_its_set(build):
    model = conv_net(build)
    found, report = optimize(model, [wrong.drop_bn, "default"])
    assert {item.site for item in report.reverted} == {"b0", "b1", "b2"}
    assert ops(found) == ops(graphopt.optimize(model)), "the right fusion takes its place"
    assert all("on the model's own values" in item.why for item in report.reverted)


@pytest.mark.parametrize("bad", [wrong.minus_itself, wrong.finite_minus_itself], ids=lambda r: r.name)
def test_wrong_only_for_values_that_are_not_finite(build, bad):
    model = build("g (float[N,4] x) => (float[N,4] y) { a = Exp(x)  y = Sub(a, a) }")
    assert graphopt.verify(model, graphopt.optimize(model, bad, verify="off")).ok, "ordinary values do not show it"
    found, report = optimize(model, bad)
    if bad is wrong.minus_itself:  # inf * 0 and inf - inf are NaN alike
        assert report.reverted == []
    else:
        assert [item.site for item in report.reverted] == ["y"] and ops(found) == ["Exp", "Sub"]
        assert "NaN" in report.reverted[0].why


def test_wrong_only_for_a_size_of_one(build):
    model = build("g (float[N,M] x) => (float[N] y) { y = ReduceSumSquare<axes=[1], keepdims=0>(x) }", opset=13)
    _, report = optimize(model, wrong.wrong_for_one, inputs={"x": np.ones((2, 3), np.float32)})
    assert [item.site for item in report.reverted] == ["y"] and "M = 1" in report.reverted[0].why


def test_right_where_it_stands(build):
    """Wrong in general, right after Abs: the window grows until that shows."""
    model = build("g (float[N,4] x) => (float[N,4] y) { a = Abs(x)  y = Relu(a) }")
    found, report = optimize(model, wrong.relu_is_abs)
    assert report.reverted == [] and ops(found) == ["Abs", "Abs"]


@pytest.mark.parametrize("bad", [wrong.does_not_run, wrong.does_not_load, wrong.rank_lost], ids=lambda r: r.name)
def test_new_nodes_that_fail(build, bad):
    model = build("g (float[N,4] x) => (float[N,4] y) { a = Neg(x)  b = Softmax(a)  c = Identity(b)  y = Abs(c) }")
    found, report = optimize(model, [bad, "default"])
    assert [item.rule for item in report.reverted] == [bad.name]
    assert ops(found) == ["Neg", "Softmax", "Abs"]


def test_what_follows_from_a_wrong_rewrite_is_not_blamed(build):
    model = build("g (float[N,4] x) => (float[N,4] y) { a = Tanh(x)  b = Identity(a)  y = Exp(b) }")
    found, report = optimize(model, [wrong.tanh_twice, "default"])
    assert {item.rule for item in report.reverted} == {"tanh-twice"}
    assert ops(found) == ["Tanh", "Exp"]


def test_a_pass_that_makes_no_claims_is_left_out_as_a_whole(build):
    model = build("g (float[N,4] x) => (float[N,4] y) { a = Exp(x)  b = Identity(a)  c = Exp(b)  y = Identity(c) }")
    found, report = optimize(model, [wrong.NoClaims(), "default"])
    assert [(item.rule, item.site) for item in report.reverted] == [("no-claims", "")]
    assert ops(found) == ["Exp", "Exp"] and report.verification.status == "passed"


def test_a_right_pass_without_claims_is_said_to_be_unchecked(build):
    class Quiet(wrong.NoClaims):
        name = "quiet"

        def run(self, model, ctx):
            ctx.record(self.name, [], [], model.graph)

    _, report = optimize(build(CHAIN, **CHAIN_WEIGHTS), [Quiet()])
    assert list(report.validation.unchecked) == ["quiet makes no claims"]


def test_a_wrong_merge(build):
    text = "y0 = Clip(x, l)  z0 = Clip(x, , l)  y = Neg(y0)  z = Neg(z0)"
    model = build(f"g (float[N,4] x) => (float[N,4] y, float[N,4] z) {{ {text} }}", l=np.float32(0.5))
    found, report = optimize(model, [wrong.WrongMerge(), "default"])
    assert [(item.rule, item.site) for item in report.reverted] == [("wrong-merge", "z0")]
    assert sorted(ops(found)) == ["Clip", "Clip", "Neg", "Neg"]


def test_a_wrong_constant(build):
    model = build(CHAIN, **CHAIN_WEIGHTS)
    found, report = optimize(model, [wrong.WrongConstant(), "default"])
    assert [(item.rule, item.site) for item in report.reverted] == [("wrong-constant", "W")]
    assert np.array_equal(numpy_helper.to_array(found.graph.initializer[0]), CHAIN_WEIGHTS["W"])


def test_a_body(build):
    """No run shows what goes on in a body: the whole model does."""
    body = helper.make_graph(
        [helper.make_node("Neg", ["x"], ["n"]), helper.make_node("Relu", ["n"], ["r"])], "b", [],
        [helper.make_tensor_value_info("r", 1, None)],
    )  # fmt: skip
    other = helper.make_graph(
        [helper.make_node("Neg", ["x"], ["o"])], "o", [], [helper.make_tensor_value_info("o", 1, None)]
    )
    model = build("g (float[N,4] x, bool c) => (float[N,4] y) { a = Identity(x)  y = Abs(a) }")
    model.graph.node.insert(0, helper.make_node("If", ["c"], ["k"], then_branch=body, else_branch=other))
    model.graph.node[2].input[0] = "k"
    del model.graph.node[1]
    found, report = optimize(model, [wrong.relu_is_abs, "default"])
    assert [(item.rule, item.site) for item in report.reverted] == [("relu-is-abs", "r")]
    assert verify(model, found).ok


def test_functions_are_inlined_first(build):
    text = "a = local.twice(x)  b = Identity(a)  c = Neg(b)  d = Relu(c)  y = Neg(d)"
    body = "twice (p) => (q) { n = Neg(p)  r = Relu(n)  q = Add(r, r) }"
    model = build(
        f"g (float[N,4] x) => (float[N,4] y) {{ {text} }}",
        functions=f'<domain: "local", opset_import: ["": 18]> {body}',
    )
    found, report = optimize(model, ["inline-functions", wrong.relu_is_abs, "default"])
    assert {item.rule for item in report.reverted} == {"relu-is-abs"}
    assert verify(model, found).ok and "Identity" not in ops(found)


def test_initializers_that_may_be_overridden(build):
    model = build("g (float[N,4] x, float[4] W) => (float[N,4] y) { a = Mul(x, W)  b = Identity(a)  y = Relu(b) }",
                  **CHAIN_WEIGHTS)  # fmt: skip
    found, report = optimize(model, [wrong.relu_is_abs, "default"])
    assert [item.site for item in report.reverted] == ["y"] and ops(found) == ["Mul", "Relu"]


def test_dynamic_shapes(build):
    """A batch size baked in: the second size shows it."""
    model = build("g (float[N,4] x) => (float[N,4] y) { s = Shape(x)  a = Identity(x)  b = Relu(a)  y = Expand(b, s) }")
    found, report = optimize(model, [wrong.baked_batch, "default"])
    assert [(item.rule, item.site) for item in report.reverted] == [("baked-batch", "s")]
    assert ops(found) == ops(graphopt.optimize(model))


def test_rounding_of_single_weights(build):
    """On zeros only a folded bias is left, and one channel's statistics are single numbers: rounding, not error."""
    weights = {"s": [-0.9517673], "t": [-0.62685275], "m": [0.47037268], "v": [0.5], "w": [[0.5], [0.5]]}
    text = "a = Gemm<alpha=0.5, beta=0.5>(x, w)  b = BatchNormalization(a, s, t, m, v)  y = Elu(b)"
    model = build(f"g (float[2,2] x) => (float[2,1] y) {{ {text} }}",
                  **{name: np.float32(values) for name, values in weights.items()})  # fmt: skip
    _, report = optimize(model, "default")
    assert report.reverted == [] and report.validation.sampled == 1


def test_empty_models(build):
    model = build("g (float[0,4] x) => (float[0,4] y) { a = Identity(x)  y = Relu(a) }")
    found, report = optimize(model, "default")
    assert ops(found) == ["Relu"] and report.reverted == []


def test_random_numbers(build):
    model = build(
        "g (float[N,4] x) => (float[N,4] y) { r = RandomNormalLike(x)  a = Identity(r)  b = Relu(a)  y = Add(b, x) }"
    )
    _, report = optimize(model, "default")
    assert report.reverted == []


def test_random_numbers_in_a_function(build):
    body = "noise (p) => (q) { r = RandomNormalLike(p)  q = Add(r, p) }"
    model = build(
        "g (float[N,4] x) => (float[N,4] y) { a = local.noise(x)  b = Identity(a)  y = Relu(b) }",
        functions=f'<domain: "local", opset_import: ["": 18]> {body}',
    )
    found, report = optimize(model, "default")
    assert report.reverted == [] and ops(found) == ["RandomNormalLike", "Add", "Relu"]
    assert report.validation.sites == report.validation.exact + report.validation.replayed


@pytest.mark.parametrize("dtype", [TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.INT64, TensorProto.BFLOAT16])
def test_other_types(build, dtype):
    model = build("g (float[N,4] x) => (float[N,4] y) { a = Identity(x)  b = Neg(a)  c = Neg(b)  y = Abs(c) }")
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = dtype
    _, report = optimize(model, "default")
    assert report.reverted == []


def test_text(build):
    text = "a = Identity(x)  b = Concat<axis=0>(a, k)  c = Concat<axis=0>(b, k)  y = Identity(c)"
    model = build(f"g (string[N] x) => (string[N] y) {{ {text} }}", check=False)
    model.graph.initializer.append(helper.make_tensor("k", TensorProto.STRING, [1], [b"end"]))
    _, report = optimize(model, "default")
    assert report.reverted == [] and report.validation.replayed


def test_a_pass_that_fails_is_rolled_back_and_the_rest_is_checked(build):
    found, report = optimize(build(CHAIN, **CHAIN_WEIGHTS), ["default", wrong.Crashes(), wrong.relu_is_abs])
    assert "crashes failed and was rolled back" in report.warnings[0]
    assert {item.rule for item in report.reverted} == {"relu-is-abs"} and "Abs" not in ops(found)


def test_nothing_is_left_when_the_interface_cannot_be_mended(build):
    class Renames(wrong.NoClaims):
        name = "renames"

        def run(self, model, ctx):
            model.graph.rename(model.graph.inputs[0], "other")

    with pytest.raises(VerificationError):
        optimize(build(CHAIN, **CHAIN_WEIGHTS), [Renames()])


def test_twice_the_same(build):
    model = build(CHAIN, **CHAIN_WEIGHTS)
    first, one = optimize(model, [wrong.relu_is_abs, "default"])
    second, two = optimize(model, [wrong.relu_is_abs, "default"])
    assert first == second and one.reverted == two.reverted
    for report in (one, two):
        report.validation.seconds = 0.0
    assert one.validation == two.validation


def test_the_model_is_not_touched(build):
    model = build(CHAIN, **CHAIN_WEIGHTS)
    before = model.SerializeToString(deterministic=True)
    optimize(model, [wrong.relu_is_abs, "default"])
    assert model.SerializeToString(deterministic=True) == before


def test_without_time_only_forms_are_checked(build):
    _, report = optimize(conv_net(build), "default", verify_budget=0)
    assert report.reverted == [] and report.verification.status == "unchecked"
    assert sum(map(len, report.validation.unchecked.values())) == 3


def test_the_report_goes_to_json_and_back():
    report = Report(
        validation=Validation(3, 1, 1, 1, 5, {"why": ["r at y"]}, {"too dear": ["r at z"]}, 2, 0.5),
        reverted=[Reverted("r", "y", "p", ("n",), "the shape differs", "folder")],
    )
    data = json.loads(report.to_json())
    assert Report.from_dict(data) == report
    for key in ("validation", "reverted"):  # of a version that had none
        data.pop(key)
    assert Report.from_dict(data) == Report()


def test_a_file_with_a_repro(build, tmp_path):
    (tmp_path / "shelf.py").write_text(
        "from graphopt import rule\nfrom graphopt.rewrite import P\n"
        "@rule('shelf-relu', P.Relu('x'))\ndef shelf_relu(m, new):\n    return new.Abs(m.x)\n"
    )
    source, target = tmp_path / "m.onnx", tmp_path / "o.onnx"
    source.write_bytes(build(CHAIN, **CHAIN_WEIGHTS).SerializeToString())
    command = [
        sys.executable, "-m", "graphopt", "optimize", str(source), "-o", str(target), "--verify", "rewrites",
        "-l", str(tmp_path / "shelf.py"), "-p", "shelf-relu,default", "--report", str(tmp_path / "r.json"),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "shelf-relu is wrong on" in done.stderr and "reverted: 2 of shelf-relu" in done.stdout
    report = Report.from_dict(json.loads((tmp_path / "r.json").read_text()))
    assert verify(str(source), str(target)).ok and report.verification.status == "passed"
    folder = report.reverted[0].repro
    assert folder.startswith(f"{target}.repro")
    shown = subprocess.run([sys.executable, f"{folder}/repro.py"], capture_output=True, text=True, check=False)
    assert "largest difference" in shown.stdout + shown.stderr
