"""What patterns match, and what they do not."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from onnx import TensorProto

from graphopt.analysis.shapes import ensure_types
from graphopt.ir import Model
from graphopt.rewrite import Match, P, const, match, maybe, one_of, rest, rule
from graphopt.rewrite.pattern import Op, depth, equals

from .util import model


def at(pattern: Op, m: Model, name: str = "o") -> Match | None:
    ensure_types(m)
    root = m.graph.values[name].producer
    assert root is not None
    return match(pattern, root)


def names(found: Match | None, *keys: str) -> list[Any]:
    assert found is not None
    items = [found.get(key) for key in keys]
    return [getattr(item, "name", None) or getattr(item, "op", None) for item in items]


def test_a_tree() -> None:
    m = model("a = MatMul(x, w) b = Add(a, k) o = Relu(b) -> o", w=np.eye(4, dtype=np.float32), k=1.0)
    pattern = P.Relu(P.Add(P.MatMul("x", const("W")).as_("mm"), const("b")).as_("add")).as_("relu")
    found = at(pattern, m)
    assert names(found, "x", "W", "b", "mm", "add", "relu") == ["x", "w", "k", "MatMul", "Add", "Relu"]
    assert found is not None
    assert found.root.op == "Relu"
    assert found.W is m.graph.values["w"]
    assert [n.op for n in found.interior] == ["Relu", "Add", "MatMul"]
    with pytest.raises(AttributeError, match="binds no 'nothing'"):
        _ = found.nothing
    assert found.get("nothing") is None
    assert depth(pattern) == 3


CAPTURED = """a = MatMul(x, w) b = Add(a, k) o = Relu(b) p = If(c) <
    then_branch = t () => (float[M,4] q) { q = Neg(a) },
    else_branch = e () => (float[M,4] q) { q = Neg(x) }
> -> o p"""


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a = MatMul(x, y) b = Add(a, k) o = Relu(b) -> o", "no constant"),
        ("a = MatMul(x, w) b = Sub(a, k) o = Relu(b) -> o", "another operator"),
        ("a = MatMul(x, w) b = Add(a, k) o = Relu(b) p = Neg(b) -> o p", "an inner value has another reader"),
        ("a = MatMul(x, w) b = Add(a, k) o = Relu(b) -> o b", "an inner value is an output"),
        (CAPTURED, "an inner value is captured"),
        ("a = my.MatMul(x, w) b = Add(a, k) o = Relu(b) -> o", "another domain"),
    ],
    ids=lambda text: text if " = " not in text else "",
)
def test_what_is_no_match(text: str, why: str) -> None:
    m = model(text, w=np.eye(4, dtype=np.float32), k=1.0)
    assert at(P.Relu(P.Add(P.MatMul("x", const("W")), const("b"))), m) is None, why


def test_shared_nodes_may_have_other_readers() -> None:
    m = model("a = Exp(x) o = Relu(a) p = Neg(a) -> o p")
    assert at(P.Relu(P.Exp("x")), m) is None
    found = at(P.Relu(P.Exp("x").shared()), m)
    assert found is not None
    assert [n.op for n in found.interior] == ["Relu"]


def test_commutative_operands() -> None:
    for text in ("a = Exp(x) o = Mul(a, k) -> o", "a = Exp(x) o = Mul(k, a) -> o"):
        m = model(text, k=2.0)
        assert names(at(P.Mul(P.Exp("x"), const("k")), m), "x", "k") == ["x", "k"]
    m = model("a = Exp(x) o = Sub(k, a) -> o", k=2.0)
    assert at(P.Sub(P.Exp("x"), const("k")), m) is None
    m = model("a = Exp(x) o = Mul(k, a) -> o", k=2.0)
    assert at(P.Mul(P.Exp("x"), const("k")).ordered(), m) is None
    m = model("o = Sum(x, k, y) -> o", k=2.0)
    assert at(P.Sum("x", "y", const("k")), m) is None  # only two operands commute
    assert at(P.Sum("x", const("k"), "y"), m) is not None


def test_backtracking_over_nested_orders() -> None:
    """Only one of the four ways to order the operands fits the repeated name."""
    m = model("a = Mul(x, y) b = Mul(z, x) o = Add(a, b) -> o")
    found = at(P.Add(P.Mul("p", "q"), P.Mul("p", "r")), m)
    assert names(found, "p", "q", "r") == ["x", "y", "z"]
    m = model("a = Mul(x, y) b = Mul(z, z) o = Add(a, b) -> o")
    assert at(P.Add(P.Mul("p", "q"), P.Mul("p", "r")), m) is None


def test_backtracking_over_who_reads_an_inner_value() -> None:
    """The first alternative matches but for a reader outside; the second does not look inside."""
    m = model("a = Exp(x) o = Relu(a) p = Neg(a) -> o p")
    found = at(P.Relu(one_of(P.Exp("inside"), "outside")), m)
    assert names(found, "inside", "outside") == [None, "a"]


def test_repeated_names_are_one_value() -> None:
    pattern = P.Mul("x", P.Sigmoid("x"))
    assert at(pattern, model("s = Sigmoid(x) o = Mul(x, s) -> o")) is not None
    assert at(pattern, model("s = Sigmoid(x) o = Mul(s, x) -> o")) is not None
    assert at(pattern, model("s = Sigmoid(y) o = Mul(x, s) -> o")) is None


def test_repeated_nodes_are_one_node() -> None:
    centred = P.Sub("x", P.ReduceMean("x", rest("axes")))
    m = model("mu = ReduceMean<axes = [1]>(x) d = Sub(x, mu) o = Mul(d, d) -> o")
    found = at(P.Mul(centred, centred), m)
    assert found is not None
    assert [n.op for n in found.interior] == ["Mul", "Sub", "ReduceMean"]
    assert at(P.Mul(P.Sub("x", "mu"), P.Sub("x", "mu")), m) is None  # two nodes in the pattern, one in the graph


@pytest.mark.parametrize(
    ("constant", "number", "expected"),
    [
        (np.float32(0.5), 0.5, True),
        (np.full((1, 1), 0.5, np.float16), 0.5, True),
        (np.float32(0.1), 0.1, True),  # 0.1 rounded to float32
        (np.float16(0.1), 0.1, True),
        (np.float64(np.float32(0.1)), 0.1, False),
        (np.array([0.5, 0.5], np.float32), 0.5, False),
        (np.zeros(0, np.float32), 0.5, False),
        (np.int64(2), 2, True),
        (np.int64(0), 0.5, False),
        (np.uint8(255), -1, False),
        (np.bool_(True), 1, False),
        (np.float32(np.nan), float("nan"), False),
        (np.float32(-0.0), 0, True),
        (np.float32(np.inf), float("inf"), True),
        (np.int32(1), float("inf"), False),
    ],
    ids=str,
)
def test_numbers(constant: Any, number: float, expected: bool) -> None:
    m = model("o = Relu(x) -> o", k=np.asarray(constant))
    assert equals(m.graph.values["k"], number) is expected


def test_numbers_of_types_that_numpy_has_not() -> None:
    m = model("o = Relu(x) -> o")
    assert equals(m.graph.constant(np.array(0.1, ml_dtypes.bfloat16)), 0.1)
    assert equals(m.graph.constant(np.array(-1, ml_dtypes.int4)), -1)
    assert not equals(m.graph.constant(np.array(["1"])), 1)


def test_numbers_in_patterns() -> None:
    m = model("a = Add(e, one) o = Mul(a, half) -> o", e=np.ones(4, np.float32), one=1.0, half=0.5)
    assert at(P.Mul(P.Add("e", 1), 0.5), m) is not None
    assert at(P.Mul(P.Add("e", 1), 0.25), m) is None
    m = model("k = Constant<value_float = 0.5>() o = Mul(x, k) -> o")
    assert at(P.Mul("x", 0.5), m) is not None
    m = model("o = Mul(x, x) -> o")
    assert at(P.Mul("x", 0.5), m) is None


def test_optional_inputs() -> None:
    pattern = P.Clip("x", maybe(const("low")), maybe(const("high")))
    for text, expected in {
        "o = Clip(x) -> o": [None, None],
        "o = Clip(x, k) -> o": ["k", None],
        "o = Clip(x, , k) -> o": [None, "k"],
        "o = Clip(x, k, k2) -> o": ["k", "k2"],
    }.items():
        assert names(at(pattern, model(text, k=1.0, k2=2.0)), "low", "high") == expected
    assert at(pattern, model("k = ReduceMax<keepdims = 0>(x) o = Clip(x, k) -> o")) is None
    assert at(P.Clip("x", None, "high"), model("o = Clip(x, , k) -> o", k=1.0)) is not None
    assert at(P.Clip("x", None, "high"), model("o = Clip(x, k, k) -> o", k=1.0)) is None
    assert at(P.Clip("x"), model("o = Clip(x, k) -> o", k=1.0)) is None  # what is there must be in the pattern
    assert at(P.Clip("x"), model("o = Clip(x, , ) -> o")) is not None


def test_maybe_an_operator() -> None:
    pattern = P.Clip("x", maybe(P.Constant().as_("low")))
    found = at(pattern, model("k = Constant<value_float = 0.5>() o = Clip(x, k) -> o"))
    assert names(found, "low") == ["Constant"]
    assert names(at(pattern, model("o = Clip(x) -> o")), "low") == [None]


def test_alternatives() -> None:
    pattern = P.Relu(one_of(P.Mul("x", const("k")).as_("by"), P.Div("x", const("k")).as_("by"), P.Exp("x")))
    for op, expected in (("Mul", "Mul"), ("Div", "Div")):
        assert names(at(pattern, model(f"a = {op}(x, k) o = Relu(a) -> o", k=2.0)), "by") == [expected]
    assert names(at(pattern, model("a = Exp(x) o = Relu(a) -> o")), "x", "by") == ["x", None]
    assert at(pattern, model("a = Log(x) o = Relu(a) -> o")) is None
    several = P.op("Relu", "Tanh")(P.op("Mul", "Div")("x", const()))
    assert at(several, model("a = Div(x, k) o = Tanh(a) -> o", k=2.0)) is not None


def test_any_number_of_inputs() -> None:
    m = model("o = Sum(x, y, z) -> o")
    found = at(P.Sum("first", rest("more")), m)
    assert found is not None
    assert [v.name for v in found.more] == ["y", "z"]
    found = at(P.Sum(rest("all")), m)
    assert found is not None
    assert len(found.all) == 3
    assert at(P.Sum("a", "b", "c", rest("none")), m) is not None
    assert at(P.Sum("a", "b", "c", "d", rest("none")), m) is None
    pair = at(P.Sum("first", rest("more")), model("o = Sum(x, y) -> o"))
    assert pair is not None
    assert [v.name for v in pair.more] == ["y"]


def test_several_outputs() -> None:
    split = P.Split("x", rest("sizes"))
    m = model("o, p = Split<axis = 1>(x, s) a = Relu(p) -> o a", s=np.array([2, 2]))
    assert at(split, m) is None  # the second output is in use
    found = at(split.binding("left", "right"), m)
    assert names(found, "left", "right") == ["o", "p"]
    assert at(P.Relu(split.out(1)), m, "a") is None  # the first output is in use
    m = model("o, p = Split<axis = 1>(x, s) a = Relu(p) -> a", s=np.array([2, 2]))
    assert at(P.Relu(split.out(1)), m, "a") is not None
    assert at(P.Relu(split), m, "a") is None


def test_nodes_of_an_enclosing_scope_are_no_inner_nodes() -> None:
    m = model(
        "a = Exp(x) o = If(c) < then_branch = t () => (float[M,4] q) { q = Neg(a) }, "
        "else_branch = e () => (float[M,4] q) { q = Neg(x) } > -> o"
    )
    inner = next(n for g in m.scopes() for n in g if g.name == "t")
    assert match(P.Neg(P.Exp("x")), inner) is None
    assert match(P.Neg("x"), inner) is not None


def test_nodes_whose_attributes_depend_on_the_call() -> None:
    m = model("o = Relu(x) -> o")
    m.graph.insert("LeakyRelu", [m.graph.inputs[0]], alpha=0.5)
    node = m.graph.nodes[-1]
    assert match(P.LeakyRelu("x"), node) is not None
    node.proto.attribute[0].ref_attr_name = "slope"
    m.graph.in_function = True
    node._attributes = None
    assert match(P.LeakyRelu("x"), node) is None


def test_other_domains() -> None:
    m = model("o = my.Relu(x) -> o")
    assert at(P.of("my").Relu("x"), m) is not None
    assert at(P.Relu("x"), m) is None


def test_what_is_no_pattern() -> None:
    with pytest.raises(TypeError, match="no pattern"):
        P.Relu([1, 2])
    with pytest.raises(TypeError, match="must be an operator"):
        rule("bad", const("x"))
    with pytest.raises(ValueError, match="opset condition"):
        rule("bad", P.Relu("x"), opset="9")(lambda m, new: None)


def test_patterns_are_values() -> None:
    assert P.Relu("x") == P.Relu("x")
    assert P.Relu("x") != P.Relu("y")
    assert hash(P.Mul("x", 2)) == hash(P.Mul("x", 2.0))
    base = P.Relu("x")
    base.as_("a").shared()
    assert base == P.Relu("x")


def test_constants_of_every_type_are_constants() -> None:
    m = model("o = Relu(x) -> o")
    for kind in (TensorProto.INT4, TensorProto.FLOAT8E4M3FN, TensorProto.BOOL):
        value = m.graph.constant(np.zeros(3), "k", kind)
        node = m.graph.insert("Cast", [value], to=1)
        assert match(P.Cast(const("k")), node) is not None
