"""check-rules on rules of known quality: right ones, wrong ones, one that cannot fire."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import parser

from graphopt.errors import GraphoptError, UnknownPassError
from graphopt.ir import Model
from graphopt.passes.base import Pass
from graphopt.rewrite import Context, P, RuleSet, const, one_of, refuse, rest, rule
from graphopt.testing import Counterexample, RuleCheck, check_rules
from graphopt.testing.rules import trace
from graphopt.testing.rules.compare import contradicts


@rule("right-double-negation", one_of(P.Neg(P.Neg("x")), P.Not(P.Not("x"))))
def right(m: Any, new: Any) -> Any:
    return m.x


@rule("wrong-drop-abs", P.Abs("x"))
def drop_abs(m: Any, new: Any) -> Any:
    return m.x


@rule("wrong-add-zero", P.Add("x", 0))
def add_zero(m: Any, new: Any) -> Any:
    return m.x if m.x.rank else refuse("a scalar could be widened by the constant")


@rule("wrong-sign-of-zero", P.Add("x", const("c")), opset=">=7")
def loses_sign(m: Any, new: Any) -> Any:
    same = m.c.rank == 0 and m.c.numpy().dtype.kind == "f" and m.c.numpy() == 0 and not np.signbit(m.c.numpy())
    return m.x if same else None


@rule("wrong-scale", P.Mul(P.Mul("x", const("a")), const("b")), opset=">=7")
def nearly(m: Any, new: Any) -> Any:
    """Off by a millionth: float32 hides it, double precision does not."""
    if m.a.numpy().dtype != np.float32 and m.a.numpy().dtype != np.float64:
        return refuse("no plain floats")
    data = m.a.numpy().astype(np.float64) * m.b.numpy() * (1 + 1e-7)
    return new.Mul(m.x, new.constant(data, like=m.a))


@rule("wrong-concat-order", P.Concat(rest("parts")).as_("node"))
def backwards(m: Any, new: Any) -> Any:
    if len(m.parts) < 2 or m.node.rule:
        return None
    return new.Concat(*m.parts[::-1], like=m.node)


@rule("raises", P.Relu("x"))
def raises(m: Any, new: Any) -> Any:
    raise RuntimeError("not today")


@rule("never", P.Relu(P.Sin("x")))
def never(m: Any, new: Any) -> Any:
    return refuse("never does it fire")


@rule("training-dropout", P.Dropout("x", rest("more")).binding("y", "mask"), opset=">=12")
def training_dropout(m: Any, new: Any) -> Any:
    return (m.x, m.mask) if m.get("mask") is not None else m.x


class Twice(Pass):
    """Leaves everything alone."""

    name = "does-nothing"

    def run(self, model: Model, ctx: Context) -> None:
        pass


def one(item: Any, **options: Any) -> RuleCheck:
    [check] = check_rules([item], **{"instances": 60, **options})
    return check


def test_a_right_rule_passes() -> None:
    check = one(right)
    assert check.ok and not check.verdict
    assert check.kind == "rule" and check.exact and check.worst_abs == 0
    assert check.tried >= 60 and check.fired == check.equal + check.unchecked and check.equal > 20
    assert check.doubles > 5 and check.symbolic > 0
    assert len(check.opsets) > 2 and "float" in check.dtypes and len(check.dtypes) > 2


def test_a_wrong_rule_is_caught_with_a_small_model() -> None:
    check = one(drop_abs)
    assert not check.ok and check.verdict.startswith("wrong:")
    found = check.wrong[0]
    assert isinstance(found, Counterexample)
    assert [node.op_type for node in found.model.graph.node] == ["Abs"]
    assert found.rewritten is not None and sum(array.size for array in found.feeds.values()) < 50
    assert "Abs" in str(found) and "becomes" in str(found)
    onnx.checker.check_model(found.model)


@pytest.mark.parametrize("item", [loses_sign, nearly, backwards, training_dropout], ids=str)
def test_subtle_faults_are_caught(item: Any) -> None:
    check = one(item, instances=150)
    assert check.wrong, check


def test_an_identity_that_broadcasts_is_caught() -> None:
    check = one(add_zero, instances=150)
    assert check.wrong and check.refused.get("a scalar could be widened by the constant", 0) > 0


def test_an_exception_is_a_counterexample() -> None:
    check = one(raises)
    assert "it raises RuntimeError: not today" in check.verdict
    assert check.wrong[0].rewritten is None


def test_a_rule_that_never_fires_fails() -> None:
    check = one(never, instances=15)
    assert not check.ok and not check.wrong
    assert check.verdict.startswith("cannot be exercised: it never fired")
    assert check.refused["never does it fire"] > 0 and not check.unseen


def test_a_pass_that_never_changes_anything_fails() -> None:
    check = one(Twice(), instances=3)
    assert check.kind == "pass" and "cannot be exercised" in check.verdict


class Endless(Pass):
    """Comes to no end where there is a Relu, and catches what would stop it."""

    name = "endless"

    def run(self, model: Model, ctx: Context) -> None:
        while any(node.op == "Relu" for node in model.graph):
            with contextlib.suppress(Exception):
                ctx.allow(self.name, "x")


@rule("endless-rule", P.Relu("x"))
def endless(m: Any, new: Any) -> Any:
    while m.x.shape is not None:
        pass
    return refuse("the shape is not known")


@pytest.mark.parametrize("item", [Endless(), endless], ids=str)
def test_what_does_not_end_is_stopped_and_said(item: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace, "SECONDS", 0.2)
    check = one(item, instances=10)
    assert not check.ok and len(check.wrong) == 1 and check.wrong[0].rewritten is None
    assert check.verdict.startswith("wrong: it does not come to an end: stopped after")


def test_sizes_of_which_the_runtime_makes_anything_are_no_fault() -> None:
    """ONNX Runtime's Concat leaves empty operands out whatever their other sizes, and returns what was in memory."""
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (float[N,2] x) => (float[A,B] y) '
        "<float[3,1] c = {1, 2, 3}> { y = Concat<axis=1>(c, x) }"
    )
    full, empty = ({"x": np.ones((size, 2), np.float32)} for size in (3, 0))
    assert contradicts(model, empty) and not contradicts(model, full)
    fine = parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (float[N,2] x) => (float[A,B] y) { y = Concat<axis=1>(x, x) }'
    )
    assert not contradicts(fine, empty)


def test_the_same_seed_gives_the_same_models() -> None:
    first, second, other = (one(right, seed=seed, instances=25).to_dict() for seed in (3, 3, 4))
    for figures in (first, second, other):
        del figures["seconds"]
    assert first == second
    assert first != other


def test_what_can_be_named() -> None:
    checks = check_rules(["eliminate-identity", RuleSet((right, drop_abs), "pair"), "dead-code"], instances=12)
    assert [(c.rule, c.kind) for c in checks] == [
        ("eliminate-identity", "rule"),
        ("right-double-negation", "rule"),
        ("wrong-drop-abs", "rule"),
        ("dead-code", "pass"),
    ]
    with pytest.raises(UnknownPassError, match="eliminate-identity"):
        check_rules(["eliminate-identiti"])
    with pytest.raises(GraphoptError, match="preset"):
        check_rules(["default"])
    with pytest.raises(GraphoptError, match="no rule"):
        check_rules([42])


def test_results_are_plain_data() -> None:
    check = one(drop_abs, instances=10)
    data = json.loads(json.dumps(check.to_dict()))
    assert data["rule"] == "wrong-drop-abs" and not data["ok"] and isinstance(data["wrong"][0], str)


def test_progress_is_told() -> None:
    told: list[tuple[str, int, int]] = []
    check_rules([right, drop_abs], instances=3, progress=lambda *step: told.append(step))
    assert told == [("right-double-negation", 0, 2), ("wrong-drop-abs", 1, 2)]


def test_the_callers_targets_are_kept() -> None:
    @rule("only-here", P.Relu("x").as_("node"), targets=["tensorrt"])
    def only_here(m: Any, new: Any) -> Any:
        return new.Max(m.x, new.constant(np.zeros((), m.x.dtype and np.float32)), like=None)

    assert one(only_here, instances=10).fired  # for its own target, although "onnx" is the default
    assert one(only_here, instances=10, targets=["onnx"]).fired


def test_a_counterexample_can_be_run() -> None:
    from onnx.reference import ReferenceEvaluator

    found = one(drop_abs, instances=30).wrong[0]
    before, after = (ReferenceEvaluator(model).run(None, found.feeds) for model in (found.model, found.rewritten))
    assert any(
        a.shape != b.shape or not np.array_equal(a, b, equal_nan=True) for a, b in zip(before, after, strict=True)
    )


def test_a_pattern_with_a_domain_of_its_own() -> None:
    """Nothing of onnx infers its types, so that it cannot be drawn; that is said, not raised."""

    @rule("contrib", P.of("com.microsoft").QuickGelu("x"))
    def contrib(m: Any, new: Any) -> Any:
        return m.x

    assert "cannot be exercised" in one(contrib, instances=2).verdict


def test_models_with_text() -> None:
    model = parser.parse_model('<ir_version: 8, opset_import: ["": 17]> g (float[2] x) => (float[2] y) { y = Abs(x) }')
    assert "Abs" in str(Counterexample(model, {"x": np.float32([1, 2])}, "why"))
