"""Dead code, constant lifting, duplicates, common subexpressions, functions."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper, parser
from tests.passes.util import apply, assert_same, model, node

from graphopt.errors import ModelError

X = {"x": np.linspace(-2, 2, 12, dtype=np.float32).reshape(4, 3)}


def ops(proto):
    return [n.op_type for n in proto.graph.node]


# -- dead-code ---------------------------------------------------------------------------------------------------------


def test_dead_chains_and_weights_go_and_the_interface_stays():
    m = model(
        [node("Relu", "x", "y"), node("Neg", "x", "a"), node("Add", "a w", "b")],
        {"x": ["N", 3], "unused": [2]},
        ["y"],
        {"w": [1.0, 2, 3]},
    )
    out, report = apply(m, "dead-code")
    assert ops(out) == ["Relu"]
    assert not out.graph.initializer
    assert [i.name for i in out.graph.input] == ["x", "unused"]
    assert len(report.rewrites) == 2


def test_a_default_that_a_caller_may_override_stays():
    m = model([node("Relu", "x", "y")], {"x": [3], "w": [3]}, ["y"], {"w": [1.0, 2, 3]})
    out, report = apply(m, "dead-code")
    assert [t.name for t in out.graph.initializer] == ["w"]
    assert not report.rewrites


def test_what_a_body_captures_is_alive():
    m = parser.parse_model(
        """<ir_version: 8, opset_import: ["": 17]> g (bool c, float[3] x) => (float[3] y) {
            used = Neg(x)
            y = If (c) <
                then_branch = t () => (float[3] a) { a = Relu(used) },
                else_branch = e () => (float[3] b) { b = Abs(x) dead = Exp(used) }
            >
        }"""
    )
    out, _ = apply(m, "dead-code")
    assert ops(out) == ["Neg", "If"]
    assert [n.op_type for n in out.graph.node[1].attribute[1].g.node] == ["Abs"]


def test_operators_of_unknown_domains_may_do_more_than_compute():
    m = model(
        [node("Relu", "x", "y"), node("Log", "x", "z", domain="my.tools")], {"x": [3]}, ["y"], imports={"my.tools": 1}
    )
    assert ops(apply(m, "dead-code")[0]) == ["Relu", "Log"]


def test_functions_that_nothing_calls_go():
    body = [node("Relu", "a", "b")]
    used, unused = (
        helper.make_function("f", name, ["a"], ["b"], body, [helper.make_opsetid("", 17)])
        for name in ("used", "unused")
    )
    m = model([node("used", "x", "y", domain="f")], {"x": [3]}, {"y": [3]}, imports={"f": 1}, functions=[used, unused])
    assert [f.name for f in apply(m, "dead-code")[0].functions] == ["used"]


# -- lift-constants ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attribute", "expected"),
    [
        ({"value": numpy_helper.from_array(np.array([1.5], np.float16))}, np.array([1.5], np.float16)),
        ({"value_float": 0.1}, np.array(0.1, np.float32)),
        ({"value_floats": [0.1, 2.0]}, np.array([0.1, 2], np.float32)),
        ({"value_int": 7}, np.array(7, np.int64)),
        ({"value_ints": [7, 8]}, np.array([7, 8], np.int64)),
        ({"value_string": "s"}, np.array("s", object)),
        ({"value_strings": ["s", "t"]}, np.array(["s", "t"], object)),
    ],
)
def test_every_form_of_constant_is_lifted_with_its_dtype(attribute, expected):
    m = model(
        [node("Constant", "", "c", **attribute), node("Shape", "c", "y")],
        {"x": [3]},
        ["y"],
        output_dtype=TensorProto.INT64,
    )
    out, _ = apply(m, "lift-constants")
    assert ops(out) == ["Shape"]
    (tensor,) = out.graph.initializer
    array = numpy_helper.to_array(tensor)
    assert tensor.name == "c"
    assert array.dtype == expected.dtype
    assert array.shape == expected.shape
    assert (array == expected).all()


def test_a_constant_that_is_returned_stays_a_node():
    m = model([node("Constant", "", "y", value_float=1.0)], {"x": [3]}, ["y"])
    assert ops(apply(m, "lift-constants")[0]) == ["Constant"]


def test_a_sparse_constant_stays_a_node():
    values = numpy_helper.from_array(np.array([1.0], np.float32), "v")
    sparse = helper.make_sparse_tensor(values, numpy_helper.from_array(np.array([2], np.int64), "i"), [1000000])
    m = model(
        [node("Constant", "", "c", sparse_value=sparse), node("Shape", "c", "y")],
        {"x": [3]},
        ["y"],
        output_dtype=TensorProto.INT64,
    )
    out, report = apply(m, "lift-constants")
    assert ops(out) == ["Constant", "Shape"]
    assert report.refusals["lift-constants"] == {"the constant is sparse": ["c"]}


def test_before_ir_version_4_initializers_are_listed_as_inputs():
    m = model(
        [node("Constant", "", "c", value=numpy_helper.from_array(np.ones(3, np.float32))), node("Add", "x c", "y")],
        {"x": [3]},
        ["y"],
        opset=8,
        ir_version=3,
    )
    out, _ = apply(m, "lift-constants")
    assert [i.name for i in out.graph.input] == ["x", "c"]
    assert_same(m, out, {"x": np.ones(3, np.float32)})


# -- deduplicate -------------------------------------------------------------------------------------------------------


def test_equal_weights_become_one():
    m = model(
        [node("Add", "x a", "t"), node("Add", "t b", "y")], {"x": [4, 3]}, ["y"], {"a": [1.0, 2, 3], "b": [1.0, 2, 3]}
    )
    out, _ = apply(m, "deduplicate")
    assert [t.name for t in out.graph.initializer] == ["a"]
    assert_same(m, out, X)


def test_large_weights_are_compared_whole():
    a, b = np.zeros(40000, np.float32), np.zeros(40000, np.float32)
    b[20000] = 1
    nodes = [node("Add", "x a", "t"), node("Add", "t b", "u"), node("Add", "u c", "y")]
    m = model(nodes, {"x": [40000]}, ["y"], {"a": a, "b": b, "c": a.copy()})
    assert [t.name for t in apply(m, "deduplicate")[0].graph.initializer] == ["a", "b"]


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (np.array([0.0], np.float32), np.array([-0.0], np.float32)),
        (np.array([1], np.int64), np.array([1], np.int32)),
        (np.array([1, 1], np.int64), np.array([[1, 1]], np.int64)),
        (np.array([np.nan], np.float32), np.array([0x7FC00001], np.uint32).view(np.float32)),
    ],
)
def test_what_differs_in_bits_dtype_or_shape_stays_apart(a, b):
    m = model(
        [node("Shape", "a", "s"), node("Shape", "b", "t"), node("Concat", "s t", "y", axis=0)],
        {"x": [3]},
        ["y"],
        {"a": a, "b": b},
        output_dtype=TensorProto.INT64,
    )
    assert len(apply(m, "deduplicate")[0].graph.initializer) == 2


def test_typed_fields_and_raw_data_are_the_same_values():
    m = model(
        [node("Add", "x a", "t"), node("Add", "t b", "y")], {"x": [4, 3]}, ["y"], {"a": [1.0, 2, 3], "b": [1.0, 2, 3]}
    )
    m.graph.initializer[1].CopyFrom(helper.make_tensor("b", TensorProto.FLOAT, [3], [1.0, 2, 3]))
    assert len(apply(m, "deduplicate")[0].graph.initializer) == 1


def test_a_default_is_no_duplicate():
    m = model([node("Add", "a b", "y")], {"b": [3]}, ["y"], {"a": [1.0, 2, 3], "b": [1.0, 2, 3]})
    assert len(apply(m, "deduplicate")[0].graph.initializer) == 2


# -- cse ---------------------------------------------------------------------------------------------------------------


def test_equal_nodes_become_one_and_so_do_their_readers():
    m = model(
        [
            node("Neg", "x", "a"),
            node("Neg", "x", "b"),
            node("Exp", "a", "c"),
            node("Exp", "b", "d"),
            node("Add", "c d", "y"),
        ],
        {"x": [4, 3]},
        ["y"],
    )
    out, report = apply(m, "cse")
    assert ops(out) == ["Neg", "Exp", "Add"]
    assert [r.rule for r in report.rewrites] == ["cse", "cse"]
    assert_same(m, out, X)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (node("Clip", "x - c", "a"), node("Clip", "x c", "b")),
        (node("LeakyRelu", "x", "a", alpha=0.1), node("LeakyRelu", "x", "b", alpha=0.2)),
        (node("Sub", "x c", "a"), node("Sub", "c x", "b")),
        (node("RandomNormalLike", "x", "a"), node("RandomNormalLike", "x", "b")),
        (node("RandomNormalLike", "x", "a", seed=1.0), node("RandomNormalLike", "x", "b", seed=1.0)),
        (node("Neg", "x", "a", domain="my.ops"), node("Neg", "x", "b", domain="my.ops")),
    ],
    ids=["slots", "attributes", "order", "random", "seeded", "domain"],
)
def test_what_is_not_the_same_stays(first, second):
    m = model(
        [first, second, node("Add", "a b", "y")],
        {"x": [4, 3]},
        {"y": [4, 3]},
        {"c": np.float32(1)},
        imports={"my.ops": 1},
    )
    assert len(apply(m, "cse")[0].graph.node) == 3


def test_two_returned_results_keep_their_names():
    m = model([node("Neg", "x", "a"), node("Neg", "x", "b")], {"x": [4, 3]}, ["a", "b"])
    out, _ = apply(m, "cse")
    assert [o.name for o in out.graph.output] == ["a", "b"]
    assert_same(m, out, X)


def test_a_returned_result_keeps_its_name_when_it_is_the_later_one():
    m = model([node("Neg", "x", "a"), node("Neg", "x", "b"), node("Exp", "a", "c")], {"x": [4, 3]}, ["c", "b"])
    out, _ = apply(m, "cse")
    assert ops(out) == ["Neg", "Exp"]
    assert_same(m, out, X)


# -- inline-functions --------------------------------------------------------------------------------------------------


def test_functions_are_inlined():
    m = parser.parse_model(
        """<ir_version: 8, opset_import: ["": 17, "f": 1]>
        g (float[4,3] x) => (float[4,3] y) { t = f.twice<k = 3.0>(x)  y = f.twice<k = 2.0>(t) }
        <domain: "f", opset_import: ["": 17]>
        twice <k>(a) => (b) { c = Constant<value_float: float = @k>() b = Mul(a, c) }"""
    )
    out, report = apply(m, "inline-functions")
    assert not out.functions
    assert "twice" not in ops(out)
    assert [r.rule for r in report.rewrites] == ["inline-functions"]
    assert_same(m, out, X)


@pytest.mark.parametrize(
    ("body", "inlined"), [("y = Exp(a)", False), ("y = Identity(b)  unused = Neg(a)", False), ("y = Clip(b, a)", True)]
)
def test_a_call_may_leave_out_what_is_optional_alone(body, inlined):
    m = parser.parse_model(
        f"""<ir_version: 8, opset_import: ["": 17, "f": 1]> g (float[3] x) => (float[3] y) {{ y = f.a("", x) }}
        <domain: "f", opset_import: ["": 17]> a (a, b) => (y) {{ {body} }}"""
    )
    after, report = apply(m, "inline-functions")
    assert bool(after.functions) != inlined
    assert ("inline-functions" in report.refusals) != inlined


def test_a_function_that_calls_itself_is_refused():
    m = parser.parse_model(
        """<ir_version: 8, opset_import: ["": 17, "f": 1]> g (float[4,3] x) => (float[4,3] y) { y = f.a(x) }
        <domain: "f", opset_import: ["": 17, "f": 1]> a (x) => (y) { y = f.b(x) }
        <domain: "f", opset_import: ["": 17, "f": 1]> b (x) => (y) { y = f.a(x) }"""
    )
    with pytest.raises(ModelError, match="calls itself"):
        apply(m, "inline-functions")


# -- unique-names ------------------------------------------------------------------------------------------------------


def test_every_node_gets_a_name_of_its_own_and_values_keep_theirs():
    nodes = [node("Neg", "x", "a", name="n"), node("Exp", "a", "b", name="n"), node("Abs", "b", "y")]
    m = model(nodes, {"x": [4, 3]}, ["y"])
    out, report = apply(m, "unique-names")
    assert [n.name for n in out.graph.node] == ["n", "n_1", "y"]
    assert [list(n.output) for n in out.graph.node] == [["a"], ["b"], ["y"]]
    assert len(report.rewrites) == 2
    assert_same(m, out, X, reference=True)
    assert not apply(out, "unique-names")[1].rewrites


def test_names_are_unique_across_bodies():
    m = parser.parse_model(
        """<ir_version: 8, opset_import: ["": 17]> g (bool c, float[4,3] x) => (float[4,3] y) {
            y = If (c) <
                then_branch = t () => (float[4,3] a) { a = Relu(x) },
                else_branch = e () => (float[4,3] a) { a = Neg(x) }
            >
        }"""
    )
    out, _ = apply(m, "unique-names")
    inner = [a.g.node[0].name for a in out.graph.node[0].attribute]
    assert len({*inner, out.graph.node[0].name}) == 3
