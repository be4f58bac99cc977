"""Rules at work: chains of rewrites, refusals, termination, limits, what is visited."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from graphopt.errors import GraphoptError, RewriteCycle
from graphopt.ir import Model, Value, from_proto, to_proto
from graphopt.rewrite import Builder, Context, Match, P, RuleSet, const, driver, refuse, rest, rule

from .util import fired, model, ops, run


@rule("double-negation", P.Neg(P.Neg("x")))
def double_negation(m: Match, new: Builder) -> Value:
    """neg(neg(x)) == x"""
    x: Value = m.x
    return x


@rule("merge-adds", P.Add(P.Add("x", const("a")), const("b")))
def merge_adds(m: Match, new: Builder) -> Any:
    return new.Add(m.x, new.constant(m.a.numpy() + m.b.numpy(), like=m.a))


@rule("no-relu-of-exp", P.Relu(P.Exp("x")))
def no_relu_of_exp(m: Match, new: Builder) -> Any:
    return new.Exp(m.x)


@rule("exp-to-relu-exp", P.Exp("x"))
def exp_to_relu_exp(m: Match, new: Builder) -> Any:
    return new.Relu(new.Exp(m.x))


def chain(op: str, length: int, **weights: Any) -> Model:
    second = ", k" if weights else ""
    text = " ".join(f"v{i + 1} = {op}({f'v{i}' if i else 'x'}{second})" for i in range(length))
    return model(f"{text} -> v{length}", **weights)


def test_a_rule_fires_everywhere() -> None:
    m = model("a = Neg(x) b = Neg(a) o = Relu(b) d = Neg(y) e = Neg(d) p = Relu(e) -> o p")
    report = run(double_negation, m)
    assert ops(m) == ["Relu", "Relu"]
    assert fired(report) == ["double-negation"] * 2
    assert [len(r.matched) for r in report.rewrites] == [2, 2]
    assert [i.name for i in m.graph.inputs] == ["x", "y", "z", "c"]


@pytest.mark.parametrize("length", [2, 3, 4, 7, 64, 501])
def test_rewrites_enable_each_other(length: int) -> None:
    m = chain("Neg", length)
    run(double_negation, m)
    assert ops(m) == (["Neg"] if length % 2 else ["Identity"])
    m = chain("Add", length, k=1.0)
    report = run(merge_adds, m)
    assert ops(m) == ["Add"]
    assert fired(report) == ["merge-adds"] * (length - 1)
    assert m.graph.nodes[0].inputs[1].numpy() == length  # type: ignore[union-attr]


def test_a_long_chain_out_of_order_is_no_cycle() -> None:
    m = chain("Add", 1000, k=1.0)
    nodes = list(m.commit().graph.node)[::-1]
    del m.proto.graph.node[:]
    m.proto.graph.node.extend(nodes)
    m = from_proto(m.proto)
    merge_adds.run(m, Context())
    m.graph.toposort()
    m.check()
    assert ops(m) == ["Add"]


def test_a_new_match_far_up_is_found() -> None:
    """The rewrite at the bottom makes the pattern fit whose root is three nodes later."""
    deep = rule("deep", P.Relu(P.Abs(P.Sqrt("x"))))(lambda m, new: new.Sigmoid(m.x))
    both = deep + rule("exp-to-sqrt", P.Exp(P.Log("x")))(lambda m, new: new.Sqrt(m.x))
    m = model("a = Log(x) b = Exp(a) d = Abs(b) o = Relu(d) -> o")
    assert fired(run(both, m)) == ["exp-to-sqrt", "deep"]
    assert ops(m) == ["Sigmoid"]


def test_a_lost_reader_makes_a_match() -> None:
    m = model("a = Neg(x) b = Neg(a) o = Relu(b) d = Exp(a) e = Relu(d) f = Mul(e, zero) -> o", zero=0.0)
    report = run(double_negation, m)
    assert fired(report) == []  # `a` has another reader
    dead = rule("drop", P.Relu(P.Exp("x")))(lambda m, new: m.x)
    m = model("a = Neg(x) b = Neg(a) o = Relu(b) d = Exp(a) e = Relu(d) p = Mul(e, zero) -> o p", zero=0.0)
    zero = rule("times-zero", P.Mul("x", 0))(lambda m, new: new.Sub(m.root.inputs[1], m.root.inputs[1]))
    assert fired(run(double_negation + zero + dead, m))[-1] == "double-negation"


def test_a_rewrite_in_a_body_frees_a_value_outside() -> None:
    text = (
        "a = Neg(x) b = Neg(a) o = Relu(b) p = If(c) < then_branch = t () => (float[M,4] q) { r = Exp(a) q = Log(r) }, "
        "else_branch = e () => (float[M,4] q) { q = Neg(x) } > -> o p"
    )
    exp_log = rule("exp-log", P.Log(P.Exp(P.Neg("x").shared())))(lambda m, new: m.root.graph.parent.inputs[1])
    inside = rule("log-exp", P.Log(P.Exp("x")))(lambda m, new: m.root.graph.parent.inputs[1])
    assert exp_log.name
    m = model(text)
    report = run(double_negation + inside, m)
    assert fired(report) == ["log-exp", "double-negation"]


def test_refusals_are_on_record() -> None:
    @rule("picky", P.Neg("x").as_("neg"))
    def picky(m: Match, new: Builder) -> Any:
        if m.neg.name == "skip":
            return None
        new.Exp(new.constant(np.ones(70_000, np.float32)))
        return refuse("not today")

    m = model("a = Neg(x) b = Neg(y) o = Neg(z) -> a b o")
    for name, node in zip(("first", "second", "skip"), m.graph, strict=True):
        node.name = node.proto.name = name
    before = to_proto(m).SerializeToString()
    report = run(picky, m)
    assert report.refusals == {"picky": {"not today": ["first", "second"]}}
    assert report.rewrites == []
    assert to_proto(m).SerializeToString() == before


def test_a_refusal_that_no_longer_holds_is_taken_back() -> None:
    @rule("patient", P.Relu("x"))
    def patient(m: Match, new: Builder) -> Any:
        return refuse("too early") if m.x.producer is not None and m.x.producer.op == "Neg" else new.Abs(m.x)

    m = model("a = Neg(x) b = Neg(a) o = Relu(b) -> o")
    report = run(patient + double_negation, m)
    assert report.refusals == {}
    assert ops(m) == ["Abs"]


def test_a_rule_that_fails_leaves_no_trace() -> None:
    @rule("broken", P.Relu("x"))
    def broken(m: Match, new: Builder) -> Any:
        new.Exp(new.constant(1.0))
        raise ZeroDivisionError

    m = model("o = Relu(x) -> o")
    before = to_proto(m).SerializeToString()
    with pytest.raises(ZeroDivisionError):
        broken.run(m, Context())
    m.check()
    assert to_proto(m).SerializeToString() == before


@pytest.mark.parametrize("outcome", [3, "x", (None,), ()])
def test_a_rule_must_return_values(outcome: Any) -> None:
    m = model("o = Relu(x) -> o")
    before = to_proto(m).SerializeToString()
    with pytest.raises(GraphoptError, match="'odd' must return"):
        rule("odd", P.Relu("x"))(lambda m, new: new.Exp(m.x) and outcome).run(m, Context())
    assert to_proto(m).SerializeToString() == before


# -- termination ----------------------------------------------------------------------------------------------------


def test_rules_that_undo_each_other() -> None:
    spell = rule("neg-to-mul", P.Neg("x"))(lambda m, new: new.Mul(m.x, new.constant(np.float32(-1))))
    short = rule("mul-to-neg", P.Mul("x", -1))(lambda m, new: new.Neg(m.x))
    with pytest.raises(RewriteCycle, match=r"mul-to-neg and neg-to-mul undo each other: 'o'"):
        (spell + short).run(model("a = Exp(x) o = Neg(a) -> o"), Context())


def test_two_rules_on_constants_that_undo_each_other() -> None:
    there = rule("mul-to-div", P.Mul("x", const("k")))(lambda m, new: new.Div(m.x, new.constant(1 / m.k.numpy())))
    back = rule("div-to-mul", P.Div("x", const("k")))(lambda m, new: new.Mul(m.x, new.constant(1 / m.k.numpy())))
    with pytest.raises(RewriteCycle, match="rules div-to-mul and mul-to-div undo each other"):
        (there + back).run(model("o = Mul(x, k) -> o", k=4.0), Context())


def test_a_rule_that_grows_forever() -> None:
    m = model("o = Exp(x) -> o")
    with pytest.raises(RewriteCycle, match="exp-to-relu-exp"):
        exp_to_relu_exp.run(m, Context())
    grow = rule("grow", P.Neg("x"))(lambda m, new: new.Neg(new.Add(new.Neg(m.x), new.constant(1.0))))
    with pytest.raises(RewriteCycle, match="rule grow does not end"):
        grow.run(model("o = Neg(x) -> o"), Context())


def test_a_constant_that_counts_up_forever() -> None:
    count = rule("count", P.Add("x", const("k")))(lambda m, new: new.Add(m.x, new.constant(m.k.numpy() + 1)))
    with pytest.raises(RewriteCycle, match="rule count does not end"):
        count.run(model("o = Add(x, k) -> o", k=1.0), Context())


def test_many_steps_at_one_node_are_no_cycle() -> None:
    flatten = rule("flatten", P.Sum(P.Sum(rest("inner")), rest("more")))(lambda m, new: new.Sum(*m.more, *m.inner))
    inner = " ".join(f"s{i} = Sum(x, y)" for i in range(100))
    m = model(f"{inner} o = Sum({', '.join(f's{i}' for i in range(100))}) -> o")
    report = run(flatten, m)
    assert len(report.rewrites) == 100
    assert len(m.graph.nodes[-1].inputs) == 200


def test_a_replaced_node_goes_even_if_nobody_knows_its_operator() -> None:
    custom = rule("custom", P.of("my").Odd("x"))(lambda m, new: new.Relu(m.x))
    m = model("a = my.Odd(x) o = Neg(a) -> o")
    assert fired(run(custom, m)) == ["custom"]
    assert ops(m) == ["Relu", "Neg"]


# -- sets, opsets, targets --------------------------------------------------------------------------------------------


def test_rule_sets_add_up() -> None:
    one = double_negation + merge_adds
    assert isinstance(one, RuleSet)
    assert str(one) == "double-negation+merge-adds"
    assert (one + one).rules == one.rules
    assert (one + no_relu_of_exp).rules == (double_negation, merge_adds, no_relu_of_exp)
    assert (no_relu_of_exp + one).rules[0] is no_relu_of_exp
    with pytest.raises(TypeError):
        _ = one + 3  # type: ignore[operator]
    assert RuleSet().depth == 0
    run(RuleSet(), model("o = Relu(x) -> o"))


def test_rules_know_their_opsets_and_targets() -> None:
    new_only = rule("new-only", P.Relu("x"), opset=">=18")(lambda m, new: new.Abs(m.x))
    window = rule("window", P.Relu("x"), opset=">=7,<13")(lambda m, new: new.Abs(m.x))
    ort = rule("ort", P.Relu("x"), targets=["onnxruntime"])(lambda m, new: new.Abs(m.x))
    for opset, item, target, expected in (
        (17, new_only, "onnx", "Relu"),
        (18, new_only, "onnx", "Abs"),
        (12, window, "onnx", "Abs"),
        (13, window, "onnx", "Relu"),
        (17, ort, "onnx", "Relu"),
        (17, ort, "onnxruntime", "Abs"),
    ):
        m = model("o = Relu(x) -> o", opset=opset)
        run(item, m, target=target)
        assert ops(m) == [expected]


def test_rules_reach_bodies_and_functions_but_not_interfaces() -> None:
    body = "b () => (float[M,4] q) { r = Neg(x) s = Neg(r) q = Relu(s) }"
    m = model(f"o = If(c) < then_branch = {body}, else_branch = {body} > p = my.Odd() < inside = {body} > -> o p")
    report = run(double_negation, m)
    assert fired(report) == ["double-negation"] * 2
    assert [len(g) for g in m.scopes()] == [2, 1, 1, 3]


def test_the_doc_is_that_of_the_function() -> None:
    assert double_negation.doc == "neg(neg(x)) == x"
    assert str(double_negation) == "double-negation"


# -- what is seen, when -----------------------------------------------------------------------------------------------


def test_limits_give_prefixes() -> None:
    whole = chain("Add", 12, k=1.0)
    full = run(merge_adds, whole)
    for limit in range(12):
        m = chain("Add", 12, k=1.0)
        report = run(merge_adds, m, limit=limit)
        assert len(m.graph) == 12 - limit
        assert report.rewrites == full.rewrites[:limit]


def test_a_second_run_looks_only_at_what_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def counted(pattern: Any, node: Any) -> Any:
        seen.append(node.label)
        return match(pattern, node)

    match = driver.match
    monkeypatch.setattr(driver, "match", counted)
    m = chain("Neg", 101)
    ctx = Context()
    double_negation.run(m, ctx)
    seen.clear()
    double_negation.run(m, ctx)
    assert seen == []
    m.graph.insert("Neg", [m.graph.outputs[0]])
    double_negation.run(m, ctx)
    assert len(seen) <= 4


@pytest.mark.parametrize("shape", ["chain", "hub"])
def test_visits_are_linear(shape: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def counted(pattern: Any, node: Any) -> Any:
        visits[-1] += 1
        return match(pattern, node)

    match = driver.match
    monkeypatch.setattr(driver, "match", counted)
    visits: list[int] = []
    for size in (200, 800):
        visits.append(0)
        if shape == "chain":
            m = chain("Neg", size)
        else:  # one value that everything reads
            pairs = " ".join(f"a{i} = Neg(h) b{i} = Neg(a{i})" for i in range(size))
            m = model(f"h = Exp(x) {pairs} o = Sum({', '.join(f'b{i}' for i in range(size))}) -> o")
        double_negation.run(m, Context())
    assert visits[1] <= 5 * visits[0]
    assert visits[1] <= 10 * 800


SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
import onnx
from graphopt.ir import load, to_proto
from graphopt.rewrite import Context, P, RuleSet, const, one_of, rule

@rule("merge", P.Add(P.Add("x", const("a")), const("b")))
def merge(m, new):
    return new.Add(m.x, new.constant(m.a.numpy() + m.b.numpy()))

@rule("activation", P.op("Relu", "Tanh", "Sigmoid")(one_of(P.Exp("x"), P.Neg("x"))))
def activation(m, new):
    return new.Abs(new.Sqrt(m.x))

model = load(sys.argv[2])
(merge + activation).run(model, Context())
sys.stdout.buffer.write(to_proto(model).SerializeToString())
"""


def test_the_bytes_do_not_depend_on_the_hash_seed(tmp_path: Path) -> None:
    text = " ".join(
        f"a{i} = Add(x, k) b{i} = Add(a{i}, k) d{i} = Exp(b{i}) e{i} = {op}(d{i})"
        for i, op in enumerate(["Relu", "Tanh", "Sigmoid"] * 4)
    )
    m = model(f"{text} o = Sum({', '.join(f'e{i}' for i in range(12))}) -> o", k=1.0)
    onnx.save(m.proto, tmp_path / "m.onnx")
    source = str(Path(driver.__file__).parents[2])
    command = [sys.executable, "-c", SCRIPT, source, str(tmp_path / "m.onnx")]
    made = {
        subprocess.run(command, check=True, capture_output=True, env={**os.environ, "PYTHONHASHSEED": seed}).stdout
        for seed in ("0", "1", "42")
    }
    assert len(made) == 1
    assert len(next(iter(made))) > 500
