"""Who defines and who reads what: across scopes, in unsorted files, in old and odd models."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphopt.errors import ModelError
from graphopt.ir import Model, captures, from_proto, to_proto

from .util import BRANCH, CHAIN, committed, model, ops, proto, raw, value


def readers(m: Model, name: str) -> dict[str, int]:
    return {node.op: count for node, count in value(m, name).users.items()}


def test_definitions_and_uses() -> None:
    m = model("g (float[N] x) => (float[N] y, float[N] a) { a = Relu(x)  b = Add(a, a)  y = Sum(a, b, a) }")
    a, x, y = (value(m, name) for name in "axy")
    assert a.producer is not None
    assert (a.producer.op, a.index, a.is_output, a.is_input, a.outs) == ("Relu", 0, True, False, 1)
    assert readers(m, "a") == {"Add": 2, "Sum": 2}
    assert x.producer is None
    assert x.is_input
    assert not x.is_const
    assert y.users == {}
    assert m.graph.inputs == [x]
    assert m.graph.outputs == [y, a]
    assert (x.shape, x.rank, x.dtype) == (("N",), 1, TensorProto.FLOAT)
    assert (a.shape, a.rank) == (None, None)  # nothing was inferred


def test_bodies_read_outer_values() -> None:
    m = model(BRANCH)
    node = value(m, "y").producer
    assert node is not None
    assert readers(m, "a") == {"Neg": 1, "Add": 1, "Mul": 1, "Exp": 1}
    assert [n.op for n in value(m, "c").users] == ["If", "If"]  # the outer one and the nested one
    assert sorted(v.name for v in captures(node)) == ["a", "c", "x"]
    scopes = list(m.scopes())
    assert [g.name for g in scopes] == ["g", "yes", "no", "deep", "deeper"]
    assert [g.parent.name if g.parent else None for g in scopes] == [None, "g", "g", "no", "no"]
    assert scopes[1].owner is node
    assert all(v.graph is scopes[0] for v in captures(node))


def test_inner_names_hide_outer_ones() -> None:
    m = model("""g (float[N] x, bool c) => (float[N] y) {
        t = Relu(x)
        y = If(c) <
            then_branch = yes () => (float[N] o) { t = Neg(x)  o = Abs(t) },
            else_branch = no () => (float[N] o) { o = Exp(t) }
        >
    }""")
    inner = next(g for g in m.scopes() if g.name == "yes").values["t"]
    assert inner is not value(m, "t")
    assert [n.op for n in inner.users] == ["Abs"]
    assert readers(m, "t") == {"Exp": 1}
    m.check()


def test_optional_inputs_and_outputs() -> None:
    m = model("""g (float[N] x, float top) => (float[N] y, int64[M] i) {
        y = Clip(x, , top)
        _v, i = TopK(x, k)
        , m = Dropout(x)
    }""", {"k": np.array([1])})  # fmt: skip
    m.graph.nodes[1].proto.output[0] = ""
    m = from_proto(m.proto)
    clip, topk, dropout = m.graph.nodes
    assert [v and v.name for v in clip.inputs] == ["x", None, "top"]
    assert clip.input(1) is None
    assert clip.input(7) is None
    assert [v.name for v in topk.outputs] == ["", "i"]
    assert dropout.outputs[0].users == {}
    before = raw(m.proto)
    for node in m.graph:
        m.graph.touch(node)
    m.check()
    assert raw(m.commit()) == before


def test_unsorted_files() -> None:
    m = model("g (float[N] x) => (float[N] y) { y = Abs(b)  b = Neg(a)  a = Relu(x) }")
    assert readers(m, "a") == {"Neg": 1}
    with pytest.raises(ModelError, match="topological"):
        m.check()
    m.graph.toposort()
    assert ops(m) == ["Relu", "Neg", "Abs"]
    assert [n.op_type for n in committed(m).graph.node] == ["Relu", "Neg", "Abs"]


def test_initializers() -> None:
    m = model("g (float[2] x) => (float[2] y, float[2] w) { y = Mul(x, w) }", {"w": np.array([1, 2], np.float32)})
    w = value(m, "w")
    assert w.is_const
    assert w.is_output
    assert w.tensor is not None
    assert (w.shape, w.dtype, w.numpy().tolist()) == ((2,), TensorProto.FLOAT, [1, 2])
    assert m.graph.initializers == {"w": w}


def test_defaults_are_not_constant() -> None:
    m = model("g (float[2] x, float[2] w) => (float[2] y) { y = Mul(x, w) }", {"w": np.array([1, 2], np.float32)})
    w = value(m, "w")
    assert not w.is_const
    assert w.is_input
    assert w in m.graph.inputs
    assert w.shape == (2,)
    with pytest.raises(ValueError, match="not constant"):
        w.numpy()


def test_ir_3_lists_initializers_as_inputs() -> None:
    m = model("g (float[2] x, float[2] w) => (float[2] y) { y = Mul(x, w) }", {"w": np.ones(2, np.float32)}, 9, 3)
    assert value(m, "w").is_const
    assert [v.name for v in m.graph.inputs] == ["x"]
    scalar = m.graph.constant(np.float32(3), "three")
    row = m.graph.constant(np.ones((1, 2), np.float32), "row")
    node = value(m, "y").producer
    assert node is not None
    node.set_input(1, scalar)
    m.graph.insert("Add", [row, value(m, "x")], before=node)
    m.graph.erase_initializer(value(m, "w"))
    made = committed(m)
    assert [i.name for i in made.graph.input] == ["x", "three", "row"]
    assert [len(i.type.tensor_type.shape.dim) for i in made.graph.input] == [1, 0, 2]


def test_bodies_of_ir_3_hold_constants_as_nodes() -> None:
    m = model(BRANCH, ir=3, opset=9)
    body = next(g for g in m.scopes() if g.name == "yes")
    k = body.constant(np.ones(1, np.float32), "k")
    assert k.producer is not None
    assert k.is_const
    node = body.outputs[0].producer
    assert node is not None
    node.set_input(1, k)
    committed(m)


def test_sparse_initializers_are_kept() -> None:
    p = proto("g (float[9] x) => (float[9] y) { y = Add(x, s) }")
    sparse = helper.make_sparse_tensor(
        numpy_helper.from_array(np.ones(2, np.float32), "s"), numpy_helper.from_array(np.array([1, 3]), "i"), [9]
    )
    p.graph.sparse_initializer.append(sparse)
    m = from_proto(p)
    assert not value(m, "s").is_const
    assert raw(to_proto(m)) == raw(p)
    p.graph.input.append(helper.make_tensor_value_info("s", TensorProto.FLOAT, [9]))  # now a default
    assert value(from_proto(p), "s").is_input


FUNCTIONS = """g (float[N] x) => (float[N] y) { y = my.F<by = 2.0>(x) }
<opset_import: ["": 18, "my": 1], domain: "my">
F <by> (a) => (b) {
    k = Constant<value_float: float = @by>()
    l = Constant<value_float = 0.5>()
    m = Mul(k, l)
    b = Mul(a, m)
}"""


def test_functions() -> None:
    m = model(FUNCTIONS)
    function = m.functions["my", "F", ""]
    k, l, a = (function.values[name] for name in "kla")  # noqa: E741
    assert not k.is_const  # it depends on the call
    assert l.is_const
    assert l.shape == ()
    assert a.is_input
    assert a.type is None
    assert function.opset() == 18
    assert m.graph.opset() == 17
    assert k.producer is not None
    assert k.producer.has_references
    made = function.constant(np.ones(2, np.float32), "more")
    assert made.producer is not None
    assert made.is_const
    assert function.outputs[0].producer is not None
    function.outputs[0].producer.set_input(1, made)
    committed(m)


def test_attributes() -> None:
    p = proto("""g (float[1,1,4,4] x) => (float[1,1,4,4] y) {
        y = Conv<pads = [1,1,1,1], auto_pad = "NOTSET">(x, w)
    }""", {"w": np.ones((1, 1, 3, 3), np.float32)})  # fmt: skip
    p.graph.node[0].attribute.add(name="odd", type=3, s=b"\xff")
    node = from_proto(p).graph.nodes[0]
    assert node.attr("pads") == (1, 1, 1, 1)
    assert node.attr("auto_pad") == "NOTSET"
    assert node.attr("group") == 1  # the schema's default
    assert node.attr("strides") is None
    assert node.attr("strides", (1, 1)) == (1, 1)
    assert node.attr("group", 7) == 7
    assert node.attr("odd") == b"\xff"
    assert "group" not in node.attributes


def test_bodies_are_found_in_any_operator_of_another_domain() -> None:
    body = helper.make_graph(
        [helper.make_node("Neg", ["a"], ["o"])], "body", [], [helper.make_empty_tensor_value_info("o")]
    )
    p = proto(CHAIN)
    p.graph.node.append(helper.make_node("Odd", [], ["z"], domain="my", first=body, rest=[body, body]))
    m = from_proto(p)
    assert len(m.graph.nodes[-1].subgraphs) == 3
    assert sum(value(m, "a").users.values()) == 4


def test_body_outputs_that_are_outer_values_get_an_identity() -> None:
    p = proto("""g (float[N] x, bool c) => (float[N] y) {
        a = Relu(x)
        y = If(c) < then_branch = t () => (float[N] a) {}, else_branch = e () => (float[N] o) { o = Neg(a) } >
    }""")
    m = from_proto(p)
    body = next(g for g in m.scopes() if g.name == "t")
    assert [n.op for n in body] == ["Identity"]
    m.check()
    assert raw(to_proto(m)) == raw(p)  # nothing was edited
    m.graph.rename(value(m, "a"), "b")
    committed(m)


def test_what_bodies_declare_is_not_believed() -> None:
    m = model("""g (float[1,3] x, int64 n, bool c) => (float[a,3] y) {
        y = Loop(n, c, x) <body = b (int64 i, bool k, float[7,7] v) => (bool k2, float[7,7] w) {
            k2 = Identity(k)
            w = Concat<axis = 0>(v, v)
        }>
    }""")
    body = next(g for g in m.scopes() if g.name == "b")
    assert body.values["v"].shape is None


def test_deep_nesting() -> None:
    text = "v = Identity(x)"
    for depth in range(28):  # protobuf's own limit is about 30
        text = (
            f"v = If(c) < then_branch = t{depth} () => (float[N] v) {{ {text} }}, "
            f"else_branch = e{depth} () => (float[N] w) {{ w = Neg(x) }} >"
        )
    m = model(f"g (float[N] x, bool c) => (float[N] v) {{ {text} }}")
    assert sum(1 for _ in m.scopes()) == 57
    assert sum(value(m, "x").users.values()) == 29
    m.check()
    assert sorted(v.name for v in captures(m.graph.nodes[0])) == ["c", "x"]
