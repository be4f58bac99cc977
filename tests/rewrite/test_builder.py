"""New nodes: their names, attributes, types, sources; and taking them back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto

from graphopt.analysis.shapes import ensure_types
from graphopt.ir import Model, to_proto
from graphopt.ir.provenance import RULE_KEY, SOURCES_KEY
from graphopt.rewrite import Builder, P, match, rule, sweep

from .util import model, ops, run


def builder(m: Model, name: str = "o") -> Builder:
    ensure_types(m)
    root = m.graph.values[name].producer
    assert root is not None
    found = match(P.op(root.op)(*[f"in{i}" for i in range(len(root.inputs))]), root)
    assert found is not None
    return Builder.at(found, "test")


def named(m: Model) -> Model:
    for node in m.graph:
        node.name = node.proto.name = f"my_{node.op}"
    return m


def test_new_nodes() -> None:
    m = named(model("a = Relu(x) o = LeakyRelu<alpha = 0.25>(a) -> o"))
    new = builder(m)
    out = new.LeakyRelu(m.graph.inputs[0], None, None, like=m.graph.nodes[-1], type_of=m.graph.values["a"])
    node = out.producer
    assert node.attr("alpha") == 0.25
    assert node.inputs == [m.graph.inputs[0]]
    assert out.shape == ("N", 4)
    assert node.prev.op == "Relu"
    assert node.rules == ("test",)
    assert node.sources == ("my_LeakyRelu",)
    assert {p.key: p.value for p in node.proto.metadata_props} == {RULE_KEY: "test", SOURCES_KEY: "my_LeakyRelu"}
    other = new.make("LeakyRelu", m.graph.inputs[0], like=m.graph.nodes[-1], alpha=None).producer
    assert other.attr("alpha") == pytest.approx(0.01)
    changed = new.make("LeakyRelu", m.graph.inputs[0], like=m.graph.nodes[-1], alpha=1).producer
    assert changed.attributes["alpha"].f == 1.0


def test_several_outputs() -> None:
    m = model("o = Relu(x) -> o")
    left, right = builder(m).Split(m.graph.inputs[0], m.graph.constant(np.array([2, 2])), n_out=2, axis=1)
    assert left.producer is right.producer
    assert (left.index, right.index) == (0, 1)
    assert left.name != right.name


def test_constants() -> None:
    m = model("o = Mul(x, k) -> o", k=np.float16(2))
    new = builder(m)
    value = new.constant(np.float64(1 / 3), like=m.graph.values["k"])
    assert value.dtype == TensorProto.FLOAT16
    assert value.numpy() == np.float16(1 / 3)
    assert value.name.startswith("k")
    assert new.constant(3).dtype == TensorProto.INT64
    assert new.constant(np.ones((2, 3))).shape == (2, 3)


def make_nothing(new: Builder) -> None:
    pass


def make_a_node(new: Builder) -> None:
    new.Exp(new.graph.inputs[0])


def make_a_tree(new: Builder) -> None:
    new.Add(new.Exp(new.constant(np.ones(70_000, np.float32))), new.Mul(new.graph.inputs[0], new.constant(2.0)))


def make_bodies(new: Builder) -> None:
    new.make("If", new.graph.inputs[3], like=new.before)


UNDO: list[Callable[[Builder], None]] = [make_nothing, make_a_node, make_a_tree, make_bodies]


@pytest.mark.parametrize("make", UNDO)
def test_undo_leaves_the_bytes_as_they_were(make: Callable[[Builder], None]) -> None:
    m = model(
        "a = Neg(x) o = If(c) < then_branch = t () => (float[M,4] q) { q = Neg(a) }, "
        "else_branch = e () => (float[M,4] q) { q = Exp(x) } > -> o"
    )
    before = to_proto(m).SerializeToString()
    users = {name: dict(value.users) for name, value in m.graph.values.items()}
    new = builder(m)
    make(new)
    m.check()
    new.undo()
    m.check()
    assert {name: value.users for name, value in m.graph.values.items()} == users
    assert to_proto(m).SerializeToString() == before


def test_undo_in_a_function() -> None:
    m = model("o = Relu(x) -> o")
    m.graph.in_function = True
    new = builder(m)
    make_a_tree(new)
    new.undo()
    assert ops(m) == ["Relu"]


def test_bodies_are_copied_with_what_was_edited_in_them() -> None:
    m = model(
        "a = Neg(x) o = If(c) < then_branch = t () => (float[M,4] q) { r = Neg(a) q = Neg(r) }, "
        "else_branch = e () => (float[M,4] q) { q = Exp(x) } > -> o"
    )
    body = m.graph.nodes[-1].subgraphs[0]
    body.outputs[0].producer.set_input(0, m.graph.inputs[1])  # type: ignore[union-attr]
    again = rule("again", P.If("c").as_("old"))(lambda m, new: None if m.old.rule else new.make("If", m.c, like=m.old))
    run(again, m)
    body = m.graph.nodes[-1].subgraphs[0]
    assert body.outputs[0].producer.inputs == [m.graph.inputs[1]]  # type: ignore[union-attr]


def test_new_nodes_take_over_the_names_of_what_they_stand_for() -> None:
    m = named(model("a = Relu(x) o = Exp(a) -> o"))
    first = rule("one", P.Exp(P.Relu("x")).as_("exp"))(lambda m, new: new.Sigmoid(m.x, like=m.exp))
    run(first, m)
    assert [n.name for n in m.graph] == ["my_Exp"]
    assert m.graph.nodes[0].sources == ("my_Exp", "my_Relu")
    second = rule("two", P.Sigmoid("x"))(lambda m, new: new.Neg(new.Abs(m.x)))
    report = run(second, m)
    assert m.graph.nodes[0].sources == ("my_Exp", "my_Relu")
    assert len({n.name for n in m.graph}) == 2
    assert "my_Exp" in {n.name for n in m.graph}
    assert report.rewrites[0].matched == ("my_Exp",)


def test_sweep() -> None:
    m = model(
        "a = Relu(x) b = Exp(a) d = my.Odd(b) e = If(c) < then_branch = t () => (float[M,4] q) { q = Neg(b) }, "
        "else_branch = e () => (float[M,4] q) { q = my.Odd(b) } > f = Log(e) o = Abs(x) r = RandomNormalLike(x) -> o"
    )
    by_output = {n.output.name: n for n in m.graph}
    assert sweep(by_output["d"], by_output["o"], by_output["b"]) == 0
    assert sweep(by_output["f"]) == 1  # an operator that nobody knows is in the body of the If
    assert sweep(by_output["e"]) == 0
    assert sweep(by_output["d"], replaced=[by_output["d"]]) == 1
    assert sweep(by_output["r"]) == 1
    assert ops(m) == ["Relu", "Exp", "If", "Abs"]
    m.check()


def test_sweeping_a_body_frees_what_it_captured() -> None:
    m = model(
        "a = Relu(x) b = Exp(a) o = Abs(x) e = If(c) < "
        "then_branch = t () => (float[M,4] q) { q = If(c) < then_branch = u () => (float[M,4] s) { s = Neg(b) }, "
        "else_branch = v () => (float[M,4] s) { s = Neg(x) } > }, "
        "else_branch = w () => (float[M,4] q) { q = Neg(x) } > -> o"
    )
    assert sweep(m.graph.nodes[-1]) == 3
    assert ops(m) == ["Abs"]
    m.check()


def test_long_chains_are_swept_without_recursion() -> None:
    text = " ".join(f"v{i + 1} = Neg({f'v{i}' if i else 'x'})" for i in range(5000))
    m = model(f"{text} o = Abs(x) -> o")
    dead: Any = m.graph.values["v5000"].producer
    assert sweep(dead) == 5000
    assert ops(m) == ["Abs"]
