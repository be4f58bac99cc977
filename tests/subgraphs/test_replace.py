"""Parts put back."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper, parser

from graphopt import extract, ir, optimize, replace, verify
from graphopt.errors import GraphoptError
from graphopt.subgraphs.extract import extract_region
from graphopt.subgraphs.region import region_of

HEAD = '<ir_version: 8, opset_import: ["": 17]> g '
MODEL = parser.parse_model(
    HEAD + "(float[N] x) => (float[N] y) { a = Neg(x)  b = Identity(a)  c = Abs(b)  y = Relu(c) }"
)


def ops(model: ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def test_an_optimized_part_goes_back() -> None:
    part = optimize(extract(MODEL, inputs="a", outputs="c"), verify="off")
    new = replace(MODEL, part)
    assert ops(new) == ["Neg", "Abs", "Relu"]
    assert verify(MODEL, new).ok


def test_what_others_still_read_stays() -> None:
    model = parser.parse_model(
        HEAD + "(float[N] x) => (float[N] y, float[N] z) { a = Neg(x)  b = Abs(a)  y = Relu(b)  z = Exp(a) }"
    )
    part = parser.parse_model(HEAD + "(float[N] x) => (float[N] b) { b = Abs(x) }")
    assert sorted(ops(replace(model, part))) == ["Abs", "Exp", "Neg", "Relu"]


def test_in_a_body_names_that_clash_get_out_of_the_way() -> None:
    model = parser.parse_model(
        HEAD + "(float[N] x, bool flag) => (float[N] y)"
        "{ a = Neg(x) y = If(flag) <then_branch = t () => (float[N] r) { s = Abs(a)  r = Exp(s) },"
        " else_branch = e () => (float[N] q) { q = Relu(a) }> }"
    )
    part = parser.parse_model(HEAD + "(float[N] a) => (float[N] r) { x = Abs(a)  q = Identity(x)  r = Exp(q) }")
    new = replace(model, part)
    assert verify(model, new).status == "passed"


def test_a_part_with_bodies_and_weights() -> None:
    text = (
        "(float[N] a, bool flag) => (float[N] c) { b = Neg(a) c = If(flag) <then_branch = t () => (float[N] r)"
        "{ r = Add(b, w) }, else_branch = e () => (float[N] q) { q = Mul(b, w) }> }"
    )
    large = numpy_helper.from_array(np.arange(1 << 15, dtype=np.float32), "w")
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1 << 15]) for name in ("x", "y")]
    flag = helper.make_tensor_value_info("flag", TensorProto.BOOL, [])
    nodes = [helper.make_node("Neg", ["x"], ["b"]), helper.make_node("Identity", ["b"], ["a"]),
             helper.make_node("Identity", ["a"], ["c"]), helper.make_node("Relu", ["c"], ["y"])]  # fmt: skip
    graph = helper.make_graph(nodes, "g", [ends[0], flag], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    part = parser.parse_model(HEAD + text.replace("t ()", "t ()").replace("(b, w)", "(b, b)"))
    part.graph.initializer.append(large)
    for attribute in part.graph.node[1].attribute:
        attribute.g.node[0].input[1] = "w"
    new = replace(model, part)
    assert len({name for node in new.graph.node for name in node.output}) == len(new.graph.node)
    assert new.graph.initializer[0].raw_data == large.raw_data


def test_bodies_that_share_names() -> None:
    """A part goes back into the body that it is from; one that does not say which is refused."""
    loop = (
        "%s = Loop(n, go, x) <body = b (int64 i, bool c, float[N] s) => (bool d, float[N] t)"
        "{ d = Identity(c)  u = %s(s)  t = Relu(u) }> "
    )
    text = loop % ("y", "Neg") + loop % ("z", "Abs")
    head = "(float[N] x, int64 n) => (float[N] y, float[N] z) { go = Constant<value = bool {1}>() "
    model = parser.parse_model(HEAD + head + text + "}")
    model.graph.node[1].name, model.graph.node[2].name = "first", "second"
    whole = ir.from_proto(model)
    bodies = [graph for graph in whole.scopes() if graph.parent is not None]
    part = ir.to_proto(extract_region(region_of([bodies[1].nodes[1]])))
    new = replace(model, part)
    assert verify(model, new).ok
    assert [n.op_type for n in new.graph.node[2].attribute[0].g.node][1] == "Abs"
    del part.metadata_props[:]
    with pytest.raises(GraphoptError, match="several bodies have tensors named"):
        replace(model, part)


def test_not_into_functions() -> None:
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17, "own": 1]> g (float[N] x) => (float[N] y) { y = own.f(x) }'
        '<domain: "own", opset_import: ["": 17]> f (p) => (q) { r = Exp(p)  q = Abs(r) }'
    )
    with pytest.raises(GraphoptError, match="inline functions first"):
        replace(model, extract(model, outputs="r"))


def test_types_must_fit() -> None:
    part = parser.parse_model(HEAD + "(float[N] a) => (double[N] c) { c = Cast<to = 11>(a) }")
    with pytest.raises(GraphoptError, match="another type"):
        replace(MODEL, part)


def test_names_must_be_there() -> None:
    with pytest.raises(GraphoptError, match="no scope with tensors named 'nope'"):
        replace(MODEL, parser.parse_model(HEAD + "(float[N] a) => (float[N] nope) { nope = Abs(a) }"))
    with pytest.raises(GraphoptError, match="input 'nope' of the part is no tensor"):
        replace(MODEL, parser.parse_model(HEAD + "(float[N] nope) => (float[N] c) { c = Abs(nope) }"))
    with pytest.raises(GraphoptError, match="not computed in the model"):
        replace(MODEL, parser.parse_model(HEAD + "(float[N] a) => (float[N] x) { x = Abs(a) }"))


def test_opsets_must_agree() -> None:
    part = parser.parse_model('<ir_version: 8, opset_import: ["": 18]> g (float[N] a) => (float[N] c) { c = Abs(a) }')
    with pytest.raises(GraphoptError, match=r"version 18 of ai\.onnx and the model 17"):
        replace(MODEL, part)


def test_no_cycles() -> None:
    model = parser.parse_model(
        HEAD + "(float[N] x) => (float[N] y) { a = Neg(x)  b = Abs(a)  c = Exp(b)  y = Relu(c) }"
    )
    part = parser.parse_model(
        HEAD + "(float[N] x, float[N] b) => (float[N] a, float[N] c) { a = Add(x, b)  c = Exp(b) }"
    )
    with pytest.raises(GraphoptError, match="one of its inputs depends on one of its outputs"):
        replace(model, part)
