"""convert-precision in If, Loop, Scan and SequenceMap, with captured values, and in functions."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

from ..util import node, rand
from .halves import F16, F32, graphs, halved, ranges

X = {"x": rand(2, 4)}
W = rand(4, 4, seed=1)


def parsed(text: str, **weights: Any) -> onnx.ModelProto:
    """A model from onnx's text, with these initializers."""
    made = parser.parse_model('<ir_version: 8, opset_import: ["": 17]> ' + text)
    made.graph.initializer.extend(numpy_helper.from_array(np.asarray(v), k) for k, v in weights.items())
    return made


IF = """g (float[2,4] x, bool c) => (float[2,4] y) {
    a = MatMul(x, w)
    b = If (c) <
        then_branch = t () => (float[2,4] p) { p = MatMul(a, v) },
        else_branch = e () => (float[2,4] q) { q = Relu(a) } >
    y = Neg(b)
}"""


@pytest.mark.parametrize("taken", [True, False])
def test_if(taken: bool) -> None:
    half = halved(parsed(IF, w=W, v=W), {**X, "c": np.array(taken)})
    assert half.types["p"] == half.types["q"] == half.types["b"] == half.types["v"] == F16
    assert half.count("Cast") == 2


@pytest.mark.parametrize("taken", [True, False])
def test_a_branch_that_stays_is_cast_at_its_end(taken: bool) -> None:
    half = halved(parsed(IF.replace("q = Relu(a)", "q = Softmax(a)"), w=W, v=W), {**X, "c": np.array(taken)})
    assert half.types["b"] == F16
    assert half.count("Cast") == 4


@pytest.mark.parametrize("taken", [True, False])
def test_a_branch_that_returns_an_outer_value_through_identity(taken: bool) -> None:
    text = IF.replace("q = Relu(a)", "q = Identity(x)").replace("p = MatMul(a, v)", "p = Identity(v)")
    halved(parsed(text, w=W, v=rand(2, 4, seed=5)), {**X, "c": np.array(taken)})


@pytest.mark.parametrize("taken", [True, False])
def test_a_branch_that_returns_its_own_constant(taken: bool) -> None:
    text = IF.replace("q = Relu(a)", "q = Constant <value = float[2,4] {1, 2, 3, 4, 5, 6, 7, 8}> ()")
    halved(parsed(text, w=W, v=W), {**X, "c": np.array(taken)})


def test_an_if_of_which_nothing_is_read_as_float16() -> None:
    """The result goes out only: the If stays float32, or there is one Cast behind it, not one in each branch."""
    text = IF.replace("y = Neg(b)", "y = Identity(b)")
    half = halved(parsed(text, w=W, v=W), {**X, "c": np.array(True)})
    assert half.count("Cast") == 2


LOOP = """g (float[2,4] x, int64 n) => (float[2,4] y, float[k,2,4] s) {
    go = Constant <value = bool {1}> ()
    a = MatMul(x, w)
    y, s = Loop (n, go, a) <
        body = b (int64 i, bool on, float[2,4] h) => (bool more, float[2,4] h2, float[2,4] out) {
            more = Identity(on)
            m = MatMul(h, v)
            t = Tanh(m)
            h2 = Add(t, x)
            out = Relu(h2)
        } >
}"""


@pytest.mark.parametrize("trips", [0, 1, 3])
def test_loop_carries_one_type(trips: int) -> None:
    given = parsed(LOOP, w=W, v=W)
    half = halved(given, {**X, "n": np.array(trips)})
    assert half.types["h"] == half.types["h2"] == half.types["out"] == half.types["v"] == F16
    body = next(g for g in graphs(half.model) if g.name == "b")
    assert [i.type.tensor_type.elem_type for i in body.input] == [TensorProto.INT64, TensorProto.BOOL, F16]


def test_what_is_captured_is_cast_once_outside() -> None:
    half = halved(parsed(LOOP, w=W, v=W), {**X, "n": np.array(2)})
    body = next(g for g in graphs(half.model) if g.name == "b")
    assert not [n for n in body.node if n.op_type == "Cast"]


def test_a_loop_whose_body_must_stay_float32() -> None:
    text = LOOP.replace("t = Tanh(m)", "t = Exp(m)")
    half = halved(parsed(text, w=W * 0.1, v=W * 0.1), {**X, "n": np.array(2)})
    assert half.types["h"] == F32 or half.count("Cast") > 2


def test_a_loop_counter_stays_float32() -> None:
    """It would stand still at 2048."""
    text = """g (int64 n) => (float y) {
        go = Constant <value = bool {1}> ()
        zero = Constant <value = float {0}> ()
        one = Constant <value = float {1}> ()
        y = Loop (n, go, zero) <
            body = b (int64 i, bool on, float h) => (bool more, float h2) { more = Identity(on)  h2 = Add(h, one) } >
    }"""
    half = halved(parsed(text), {"n": np.array(3000)})
    assert half.types["h2"] == F32


def test_the_iteration_number_as_a_float() -> None:
    text = LOOP.replace("h2 = Add(t, x)", "f = Cast <to = 1> (i)  j = Sin(f)  u = Mul(t, j)  h2 = Add(u, x)")
    half = halved(parsed(text, w=W, v=W), {**X, "n": np.array(3)})
    assert half.types["f"] == half.types["j"] == F32 and half.types["u"] == F16


def scan(opset: int = 17) -> onnx.ModelProto:
    def info(name: str, shape: list[Any]) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, F32, shape)

    body = helper.make_graph(
        [node("MatMul", "h w", "m"), node("Add", "m e", "h2"), node("Neg", "h2", "o")],
        "body",
        [info("h", [4]), info("e", [4])],
        [info("h2", [4]), info("o", [4])],
    )
    graph = helper.make_graph(
        [node("Relu", "x", "r"), node("Scan", "start r", "last all", body=body, num_scan_inputs=1)],
        "g",
        [info("x", [5, 4])],
        [info("last", [4]), info("all", [5, 4])],
        [numpy_helper.from_array(W * 0.2, "w"), numpy_helper.from_array(np.zeros(4, np.float32), "start")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def test_scan() -> None:
    half = halved(scan(), {"x": rand(5, 4)})
    assert half.types["h"] == half.types["e"] == half.types["h2"] == half.types["o"] == F16


def test_scan_kept_by_name_of_an_inner_node() -> None:
    given = scan()
    given.graph.node[1].attribute[0].g.node[0].name = "inner"
    half = halved(given, {"x": rand(5, 4)}, keep_float="inner")
    assert half.types["m"] == F32


def test_sequence_map() -> None:
    body = helper.make_graph(
        [node("MatMul", "e w", "m"), node("Relu", "m", "o")],
        "body",
        [helper.make_tensor_value_info("e", F32, [1, 4])],
        [helper.make_tensor_value_info("o", F32, [1, 4])],
    )
    graph = helper.make_graph(
        [
            node("SplitToSequence", "x one", "s", axis=0),
            node("SequenceMap", "s", "t", body=body),
            node("ConcatFromSequence", "t", "y", axis=0),
        ],
        "g",
        [helper.make_tensor_value_info("x", F32, [2, 4])],
        [helper.make_tensor_value_info("y", F32, [2, 4])],
        [numpy_helper.from_array(W, "w"), numpy_helper.from_array(np.int64(1), "one")],
    )
    given = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    half = halved(given, X)
    assert half.types["m"] == F16


def test_three_levels() -> None:
    one, other = "t2 () => (float[2,4] p2) { p2 = MatMul(a, v) }", "e2 () => (float[2,4] q2) { q2 = Relu(x) }"
    text = IF.replace("p = MatMul(a, v)", f"p = If (c) < then_branch = {one}, else_branch = {other} >")
    half = halved(parsed(text, w=W, v=W), {**X, "c": np.array(True)})
    assert half.types["p2"] == half.types["q2"] == F16


def test_bodies_before_ir_version_4_hold_constants_in_nodes() -> None:
    text = IF.replace("p = MatMul(a, v)", "k = Constant <value = float[1] {0.3}> ()  p = Mul(a, k)")
    given = parsed(text, w=W)
    given.ir_version, given.opset_import[0].version = 3, 11
    given.graph.input.append(helper.make_tensor_value_info("w", F32, [4, 4]))
    half = halved_unchecked(given)
    assert half


def halved_unchecked(given: onnx.ModelProto) -> onnx.ModelProto:
    """Version 3 lists its constants as inputs, whose types change with them."""
    from graphopt.passes.precision.convert_precision import ConvertPrecision

    from ..util import apply, run

    made, _ = apply(given, ConvertPrecision())
    onnx.checker.check_model(made, full_check=True)
    feeds = {**X, "c": np.array(True)}
    np.testing.assert_allclose(run(made, feeds)[0], run(given, feeds)[0], atol=1e-2)
    return made


FUNCTION = """<ir_version: 8, opset_import: ["": 17, "local": 1]>
g (float[2,4] x, int64[2,4] i) => (float[2,4] y, int64[2,4] j) {
    a = local.twice(x)
    y = local.twice(a)
    j = local.twice(i)
}
<opset_import: ["": 17], domain: "local">
twice (v) => (w) { w = Add(v, v) }
"""


def test_a_function_that_is_called_with_several_types() -> None:
    half = halved(parser.parse_model(FUNCTION), {**X, "i": np.arange(8).reshape(2, 4)})
    assert not half.model.functions
    assert [n.op_type for n in half.model.graph.node].count("Add") == 3


def test_a_function_that_makes_float32_itself() -> None:
    text = FUNCTION.replace("w = Add(v, v)", "h = Constant <value = float {0.5}> ()  c = CastLike(h, v)  w = Add(v, c)")
    halved(parser.parse_model(text), {**X, "i": np.arange(8).reshape(2, 4)})


def test_ranges_are_of_the_main_graph() -> None:
    """A value of a body that happens to have the name of a range is not that one."""
    half = halved(parsed(LOOP, w=W, v=W), {**X, "n": np.array(2)}, ranges=ranges(m=(-1e6, 1e6)))
    assert half.types["m"] == F16
