"""Changing graphs: names stay public, readers follow, bytes that nothing touched stay."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import AttributeProto, ModelProto, TensorProto, helper, parser

from graphopt.ir import Graph, Model, from_proto

from .util import BRANCH, CHAIN, committed, model, ops, proto, raw, value


def ops_of(graph: Graph) -> list[str]:
    return [node.op for node in graph]


def nodes(m: ModelProto) -> dict[str, bytes]:
    return {node.output[0]: node.SerializeToString() for node in m.graph.node}


# -- insert ---------------------------------------------------------------------------------------------------------


def test_insert_makes_what_make_node_would() -> None:
    m = model(CHAIN)
    node = m.graph.insert("LeakyRelu", [value(m, "x")], before=m.graph.nodes[0], alpha=0.5)
    assert ops(m) == ["LeakyRelu", "Relu", "Neg", "Abs"]
    assert node.output.producer is node
    expected = helper.make_node("LeakyRelu", ["x"], [node.output.name], node.name, alpha=0.5)
    assert raw(committed(m)) != b""
    assert node.proto == expected


def test_names_are_new() -> None:
    m = model(BRANCH)
    taken = {name for g in m.scopes() for name in g.values}
    made = [m.graph.insert("Neg", [value(m, "x")], out="u", name="n") for _ in range(3)]
    assert len({n.output.name for n in made} - taken) == 3
    assert len({n.name for n in made}) == 3
    committed(m)


def test_names_that_the_file_only_mentions_are_not_taken_up() -> None:
    p = proto(CHAIN)
    p.graph.value_info.append(helper.make_tensor_value_info("Exp", TensorProto.INT8, [77]))
    m = from_proto(p)
    node = m.graph.insert("Exp", [value(m, "x")])
    assert node.output.name != "Exp"
    m.graph.outputs[0].replace_with(node.output)
    assert [info.name for info in committed(m).graph.value_info] == []


def test_attributes_get_the_type_that_the_schema_wants() -> None:
    m = model(CHAIN)
    gemm = m.graph.insert("Gemm", [value(m, "x"), value(m, "x")], alpha=2, transA=True)
    assert gemm.attributes["alpha"].type == AttributeProto.FLOAT
    assert gemm.attr("alpha") == 2.0
    transpose = m.graph.insert("Transpose", [value(m, "x")], perm=[])
    assert transpose.attributes["perm"].type == AttributeProto.INTS
    custom = m.graph.insert("Odd", [], domain="my", scale=2)
    assert custom.attributes["scale"].type == AttributeProto.INT
    gemm.set_attr("beta", 1)
    assert gemm.attributes["beta"].type == AttributeProto.FLOAT
    with pytest.raises(TypeError):
        m.graph.insert("Softmax", [value(m, "x")], axis="last")


def test_set_attr() -> None:
    m = model("g (float[N] x) => (float[N] y) { y = LeakyRelu<alpha = 0.5>(x) }")
    node = m.graph.nodes[0]
    node.set_attr("alpha", 0.25)
    assert node.attr("alpha") == 0.25
    node.set_attr("alpha", None)
    assert node.attr("alpha") == pytest.approx(0.01)
    assert not committed(m).graph.node[0].attribute


def test_inserted_bodies_are_linked() -> None:
    m = model(CHAIN)
    body = parser.parse_graph("b () => (float[N] o) { p = Neg(a)  o = Add(p, x) }")
    flag = m.graph.constant(np.array(True), "flag")
    node = m.graph.insert("If", [flag], then_branch=body, else_branch=body, before=m.graph.nodes[-1])
    assert len(node.subgraphs) == 2
    assert sum(value(m, "a").users.values()) == 3
    m.graph.rename(value(m, "a"), "renamed")
    m.graph.outputs[0].producer.set_input(0, node.output)  # type: ignore[union-attr]
    committed(m)
    with pytest.raises(TypeError, match="bodies"):
        node.set_attr("then_branch", body)
    with pytest.raises(ValueError, match="in use"):
        m.graph.erase(node)


# -- erase ----------------------------------------------------------------------------------------------------------


def test_erase() -> None:
    m = model("g (float[N] x) => (float[N] y) { a = Neg(x)  b = Exp(a)  y = Relu(x) }")
    with pytest.raises(ValueError, match="in use"):
        m.graph.erase(m.graph.nodes[0])
    with pytest.raises(ValueError, match="in use"):
        m.graph.erase(m.graph.nodes[2])
    for node in reversed(m.graph.nodes[:2]):
        m.graph.erase(node)
        assert not node.alive
    assert ops(m) == ["Relu"]
    assert len(m.graph) == 1
    assert [n.op for n in value(m, "x").users] == ["Relu"]
    assert "a" not in m.graph.values
    assert len(committed(m).graph.node) == 1


def test_erasing_lets_go_of_captures_at_any_depth() -> None:
    m = model(BRANCH)
    a, x = value(m, "a"), value(m, "x")
    m.graph.outputs[0].replace_with(m.graph.insert("Neg", [x]).output)
    m.graph.erase(next(n for n in m.graph if n.op == "If"))
    assert a.users == {}
    assert {n.op for n in x.users} == {"Relu", "Neg"}
    assert [g.name for g in m.scopes()] == ["g"]
    committed(m)


def test_erasing_while_walking() -> None:
    text = "g (float[N] x) => (float[N] y) { y = Relu(x) " + " ".join(f"d{i} = Neg(x)" for i in range(9)) + " }"
    m = model(text)
    seen = []
    for node in m.graph:
        seen.append(node.output.name)
        for dead in [n for n in m.graph if n.op == "Neg"][:2]:
            m.graph.erase(dead)
    assert ops(m) == ["Relu"]
    assert seen == ["y", "d2", "d4", "d6", "d8"]
    m.check()


def test_erase_initializer() -> None:
    m = model("g (float[N] x) => (float[N] y) { y = Mul(x, w) }", {"w": np.ones(1, np.float32), "v": np.ones(1)})
    with pytest.raises(ValueError, match="in use"):
        m.graph.erase_initializer(value(m, "w"))
    m.graph.erase_initializer(value(m, "v"))
    assert [t.name for t in committed(m).graph.initializer] == ["w"]


# -- replace --------------------------------------------------------------------------------------------------------


def test_replacing_an_inner_value_leaves_its_readers_as_they_are() -> None:
    m = model(CHAIN)
    before = nodes(m.proto)
    a = value(m, "a")
    new = m.graph.insert("Tanh", [value(m, "x")], before=a.producer).output
    a.replace_with(new)
    assert new.name == "a"
    m.graph.erase(a.producer)  # type: ignore[arg-type]
    after = nodes(committed(m))
    assert after["b"] == before["b"]
    assert after["y"] == before["y"]
    assert after["a"] != before["a"]


def test_replacing_an_output_keeps_its_name() -> None:
    m = model(CHAIN)
    y = m.graph.outputs[0]
    y.replace_with(m.graph.insert("Tanh", [value(m, "b")]).output)
    assert y.name != "y"
    assert [v.name for v in m.graph.outputs] == ["y"]
    m.graph.erase(y.producer)  # type: ignore[arg-type]
    made = committed(m)
    assert [n.op_type for n in made.graph.node] == ["Relu", "Neg", "Tanh"]
    assert made.graph.output == proto(CHAIN).graph.output


def test_replacing_an_output_by_an_input_leaves_an_identity() -> None:
    m = model(CHAIN)
    m.graph.outputs[0].replace_with(value(m, "x"))
    assert ops(m)[-1] == "Identity"
    assert m.graph.outputs[0].name == "y"
    assert committed(m).graph.node[-1].input[0] == "x"


def test_replacing_an_output_by_another_output() -> None:
    m = model("g (float[N] x) => (float[N] y, float[N] z, float[N] w) { y = Neg(x)  z = Neg(x)  w = Exp(z) }")
    z = value(m, "z")
    z.replace_with(value(m, "y"))
    m.graph.erase(next(n for n in m.graph if z in n.outputs))
    made = committed(m)
    assert [o.name for o in made.graph.output] == ["y", "z", "w"]
    assert sorted(n.op_type for n in made.graph.node) == ["Exp", "Identity", "Neg"]


def test_replacing_what_is_output_twice() -> None:
    p = proto("g (float[N] x) => (float[N] y) { y = Neg(x) }")
    p.graph.output.append(p.graph.output[0])
    m = from_proto(p)
    assert m.graph.outputs[0] is m.graph.outputs[1]
    m.graph.outputs[0].replace_with(m.graph.insert("Exp", [value(m, "x")]).output)
    m.graph.erase(m.graph.nodes[0])
    m.check()
    assert [o.name for o in m.commit().graph.output] == ["y", "y"]


def test_an_output_that_is_an_input_stays() -> None:
    m = model("g (float[N] x) => (float[N] x, float[N] y) { y = Neg(x) }")
    m.graph.inputs[0].replace_with(m.graph.insert("Exp", [m.graph.inputs[0]], before=m.graph.nodes[0]).output)
    assert [v.name for v in m.graph.outputs] == ["x", "y"]
    assert ops(m) == ["Exp", "Neg"]
    assert committed(m).graph.node[1].input[0] != "x"


def test_new_may_be_a_function_of_old() -> None:
    m = model(CHAIN)
    for name in ("a", "y"):
        old = value(m, name)
        assert old.producer is not None
        old.replace_with(m.graph.insert("Cast", [old], before=old.producer.next, to=1).output)
    made = committed(m)
    assert [n.op_type for n in made.graph.node] == ["Relu", "Cast", "Neg", "Abs", "Cast"]
    assert [o.name for o in made.graph.output] == ["y"]


def test_readers_in_bodies_follow() -> None:
    m = model(BRANCH)
    a = value(m, "a")
    a.replace_with(m.graph.insert("Tanh", [value(m, "x")], before=m.graph.nodes[0]).output)
    m.graph.erase(a.producer)  # type: ignore[arg-type]
    committed(m)
    m.graph.values["a"].replace_with(value(m, "x"))
    committed(m)
    assert value(m, "a").users == {}
    assert {n.op for n in value(m, "x").users} == {"Tanh", "Add", "Mul", "Exp", "Neg"}


SHADOW = """g (float[N] x, bool c) => (float[N] y, float[N] t) {
    t = Relu(x)
    s = Neg(x)
    y = If(c) <
        then_branch = yes () => (float[N] o) { t = Exp(x)  u = Abs(t)  o = Add(u, s) },
        else_branch = no () => (float[N] o) { o = Exp(s) }
    >
}"""


def test_inner_values_give_way_to_outer_names() -> None:
    m = model(SHADOW)
    value(m, "s").replace_with(value(m, "t"))  # in `yes` the name t means something else, which is no valid ONNX
    m.check()
    yes = next(a.g for a in m.commit().graph.node[-1].attribute if a.name == "then_branch")
    inner = {n.op_type: n for n in yes.node}
    assert inner["Add"].input[1] == "t"
    assert inner["Abs"].input[0] == inner["Exp"].output[0] != "t"


def test_set_input_and_rename_give_way_too() -> None:
    m = model(SHADOW)
    body = next(g for g in m.scopes() if g.name == "yes")
    add = body.outputs[0].producer
    assert add is not None
    add.set_input(0, value(m, "t"))
    committed(m)
    m = model(SHADOW)
    m.graph.rename(value(m, "t"), "other")
    m.graph.rename(value(m, "s"), "t")
    committed(m)


# -- names ----------------------------------------------------------------------------------------------------------


def test_rename() -> None:
    m = model("g (float[N] x) => (float[N] y) { a = Mul(x, w)  y = Neg(a) }", {"w": np.ones(1, np.float32)})
    for old, new in (("x", "in"), ("a", "mid"), ("y", "out"), ("w", "weight")):
        m.graph.rename(value(m, old), new)
        assert old not in m.graph.values
    made = committed(m)
    assert [i.name for i in made.graph.input] == ["in"]
    assert [o.name for o in made.graph.output] == ["out"]
    assert [t.name for t in made.graph.initializer] == ["weight"]
    assert [(list(n.input), list(n.output)) for n in made.graph.node] == [
        (["in", "weight"], ["mid"]),
        (["mid"], ["out"]),
    ]


def test_value_info_follows() -> None:
    p = proto(CHAIN)
    for name in "ab":
        p.graph.value_info.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N"]))
    m = from_proto(p)
    value(m, "b").replace_with(value(m, "x"))
    m.graph.erase(m.graph.nodes[1])
    assert [i.name for i in committed(m).graph.value_info] == ["a"]


def test_freeze_and_adopt() -> None:
    m = model(CHAIN)
    tensor = helper.make_tensor("t", TensorProto.FLOAT, [1], [3.0])
    adopted = m.graph.adopt(tensor, "a")
    assert adopted.name != "a"
    a = value(m, "a")
    producer = a.producer
    assert producer is not None
    m.graph.freeze(a, tensor)
    assert a.is_const
    assert a.numpy().tolist() == [3.0]
    m.graph.erase(producer)
    assert [t.name for t in committed(m).graph.initializer] == [adopted.name, "a"]


# -- the journal ----------------------------------------------------------------------------------------------------


def test_every_change_is_on_record() -> None:
    m = model(BRANCH)
    a, x = value(m, "a"), value(m, "x")
    changes: list[Callable[[], object]] = [
        lambda: m.graph.insert("Neg", [x]),
        lambda: m.graph.nodes[-1].set_attr("k", 1),
        lambda: m.graph.nodes[-1].set_input(0, a),
        lambda: m.graph.erase(m.graph.nodes[-1]),
        lambda: m.graph.rename(a, "z"),
        lambda: a.replace_with(x),
        lambda: m.graph.erase(a.producer),  # type: ignore[arg-type]
        m.graph.toposort,
        lambda: m.require_opset("com.microsoft", 1),
    ]
    assert not m.is_changed
    for change in changes:
        m.commit()
        version = m.version
        change()
        assert m.version > version
        assert m.is_changed
        assert m.graph.version == m.version
    committed(m)


def test_edits_since() -> None:
    m = model(CHAIN)
    version = m.version
    assert list(m.graph.edits_since(version)) == []
    new = m.graph.insert("Neg", [value(m, "x")])
    value(m, "b").replace_with(new.output)
    assert {n.op for n in m.graph.edits_since(version)} >= {"Neg", "Abs"}
    gone = m.graph.nodes[1]
    m.graph.erase(gone)
    m.graph.toposort()
    edits = list(m.graph.edits_since(version))
    assert gone not in edits
    assert all(n in m.graph.nodes for n in edits)
    assert len(edits) == len(set(edits))


def test_untouched_nodes_keep_their_bytes() -> None:
    p = proto(BRANCH)
    for node in p.graph.node:
        node.doc_string = "mine"
        node.metadata_props.add(key="k", value="v")
    p.graph.metadata_props.add(key="k", value="v")
    p.graph.quantization_annotation.add(tensor_name="a")
    m = from_proto(p)
    x = value(m, "x")
    m.graph.insert("Exp", [x], before=m.graph.nodes[0])
    made = committed(m)
    assert list(made.graph.node[1:]) == list(p.graph.node)
    m.graph.erase(m.graph.nodes[0])
    assert raw(committed(m)) == raw(p)


# -- at random ------------------------------------------------------------------------------------------------------


def mutate(m: Model, draw: Callable[[st.SearchStrategy[int]], int]) -> None:
    graphs = list(m.scopes())
    graph = graphs[draw(st.integers(0, len(graphs) - 1))]
    found = graph.nodes
    node = found[draw(st.integers(0, len(found) - 1))] if found else None
    kind = draw(st.integers(0, 5))
    outer = [v for v in m.graph.values.values() if v.producer is None and v.dtype == TensorProto.FLOAT]
    x = outer[draw(st.integers(0, len(outer) - 1))]
    if kind == 0:
        graph.insert("Neg", [x], before=node)
    elif node is None:
        return
    elif kind == 1 and not any(v.users or v.outs for v in node.outputs):
        graph.erase(node)
    elif kind == 2:
        node.output.replace_with(graph.insert("Exp", [x], before=node).output)
    elif kind == 3 and node.op != "If":
        node.set_input(0, x)
    elif kind == 4 and not node.output.outs:
        graph.rename(node.output, m.fresh("renamed"))
    elif kind == 5:
        node.output.replace_with(x)


@given(st.data())
def test_any_edits_leave_a_valid_model(data: st.DataObject) -> None:
    p = proto(BRANCH)
    m = from_proto(p)
    for _ in range(data.draw(st.integers(1, 8))):
        mutate(m, data.draw)
        m.check()
    made = committed(m)
    assert made.graph.input == p.graph.input
    assert made.graph.output == p.graph.output
    again = from_proto(made)
    again.check()
    assert [ops_of(g) for g in again.scopes()] == [ops_of(g) for g in m.scopes()]
    assert raw(again.commit()) == raw(made)
