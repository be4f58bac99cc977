"""drop-loop-states, hoist-loop-invariants, hoist-loop-rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import ModelProto

from graphopt.testing import conformance

from ..simplify.text import nodes, parse
from ..util import apply, assert_same, fired, reasons

Feeds = dict[str, Any]


def inside(model: ModelProto) -> str:
    """The operators of the first loop's body, in order."""
    loop = next(node for node in model.graph.node if node.op_type in ("Loop", "Scan"))
    return " ".join(node.op_type for a in loop.attribute for node in a.g.node)


def becomes(item: str, text: str, outer: str, inner: str, *feeds: Feeds, opset: int = 17, tol: float = 0) -> Any:
    """The pass fires; these operators are left around the loop and in it; the results are the same."""
    before = parse(text, opset)
    after, report = apply(before, item)
    assert (nodes(after), inside(after)) == (outer, inner)
    assert set(fired(report)) == {item}
    for given in feeds:
        assert_same(before, after, given, tol)
    conformance(item, before, feeds[0])
    return after


def stays(item: str, text: str, reason: str = "", opset: int = 17) -> None:
    before = parse(text, opset)
    after, report = apply(before, item)
    assert not fired(report) and (nodes(after), inside(after)) == (nodes(before), inside(before))
    said = reasons(report, item)
    assert any(reason in each for each in said) if reason else not said, said


X = {"x": np.array([[1, -2], [3, 4]], np.float32)}
TRIPS = [{**X, "trips": np.array(count)} for count in (3, 1, 0)]
HEAD = "(float[2,2] x, int64 trips) => (float[2,2] y)"


def loop(body: str, limit: str = "trips", head: str = HEAD, start: str = "x", more: str = "") -> str:
    """A loop of one state, v, whose next one is w; always goes on."""
    return f"""{head} <int64 two = {{2}}, int64 none = {{0}}, bool yes = {{1}}, float[2,2] m = {{1, 2, 3, 4}}> {{
        y = Loop({limit}, yes, {start}) < body = b (int64 i, bool c, float[2,2] v) => (bool go, float[2,2] w)
        {{ go = Identity(c)  {body} }} > {more} }}"""


# hoist-loop-invariants


@pytest.mark.parametrize(
    ("step", "op"),
    [
        ("e = Exp(x)", "Exp"),
        ("e = Transpose(x)", "Transpose"),
        ("e = MatMul(x, m)", "MatMul"),
        ("e = Mul(x, m)", "Mul"),
        ("e = Identity(x)", "Identity"),
        ("e = Cast<to = 1>(x)", "Cast"),
    ],
)
def test_what_cannot_fail_leaves_a_loop_that_may_not_run(step: str, op: str) -> None:
    becomes("hoist-loop-invariants", loop(f"{step}  w = Add(v, e)"), f"{op} Loop", "Identity Add", *TRIPS, tol=1e-6)


def test_what_reads_what_left_leaves_too() -> None:
    body = "k = Constant<value = float {2}>()  a = Neg(x)  b = Mul(a, k)  w = Add(v, b)"
    becomes("hoist-loop-invariants", loop(body), "Neg Mul Loop", "Identity Add", *TRIPS)


def test_what_may_fail_leaves_a_loop_that_runs() -> None:
    body = "s = Shape(x)  f = Flatten(x)  r = Reshape(f, s)  t = Softmax(r)  w = Add(v, t)"
    becomes("hoist-loop-invariants", loop(body, "two"), "Shape Flatten Reshape Softmax Loop", "Identity Add", TRIPS[0])


def test_what_may_fail_stays_where_the_loop_may_not_run() -> None:
    body = "s = Shape(x)  r = Reshape(x, s)  w = Add(v, r)"
    for limit in ("trips", "none"):
        stays("hoist-loop-invariants", loop(body, limit), "may not run at all")


def test_shapes_that_may_not_fit_stay() -> None:
    text = loop("e = Add(x, z)  w = Add(v, e)", head="(float[2,2] x, float[N] z, int64 trips) => (float[2,2] y)")
    stays("hoist-loop-invariants", text, "not certain to succeed")
    text = loop("e = MatMul(x, z)  w = Add(v, e)", head="(float[2,2] x, float[N,2] z, int64 trips) => (float[2,2] y)")
    stays("hoist-loop-invariants", text, "not certain to succeed")


def test_what_depends_on_the_loop_stays() -> None:
    stays("hoist-loop-invariants", loop("e = Exp(v)  f = Cast<to = 1>(i)  w = Mul(e, f)"))
    stays("hoist-loop-invariants", loop("e = RandomNormalLike(x)  w = Add(v, e)", "two"))


def test_large_results_stay() -> None:
    head = "(float[2,2] x, float[N,1] p, float[1,M] q) => (float[2,2] y)"
    body = "e = Mul(p, q)  r = ReduceMax<keepdims = 0>(e)  w = Add(v, r)"
    stays("hoist-loop-invariants", loop(body, "two", head), "large")


def test_what_the_body_returns_stays() -> None:
    stays("hoist-loop-invariants", loop("w = Exp(x)", "two"))


def test_inner_loops() -> None:
    """What is invariant in two loops leaves both."""
    inner = """w = Loop(two, yes, v) < body = k (int64 j, bool d, float[2,2] p) => (bool on, float[2,2] q)
        { on = Identity(d)  e = Exp(x)  q = Add(p, e) } >"""
    after = becomes("hoist-loop-invariants", loop(inner, "two"), "Exp Loop", "Identity Loop", TRIPS[0])
    assert len(after.graph.node) == 2


def test_scan() -> None:
    text = """(float[2,2] x, float[2] z) => (float[2] y, float[2,2] s) { y, s = Scan<num_scan_inputs = 1>(z, x)
        < body = b (float[2] v, float[2] r) => (float[2] w, float[2] t)
        { e = Exp(z)  w = Add(v, e)  t = Mul(r, e) } > }"""
    text = text.replace("Scan<num_scan_inputs = 1>(z, x)\n        < body", "Scan(z, x) < num_scan_inputs = 1, body")
    becomes("hoist-loop-invariants", text, "Exp Scan", "Add Mul", {**X, "z": np.float32([1, 2])})


# drop-loop-states

STATES = """(float[2,2] x, float[2,2] z, int64 trips) => (float[2,2] y, float[2,2] last) <bool yes = {1}> {
    y, last = Loop(trips, yes, x, z) < body = b (int64 i, bool c, float[2,2] v, float[2,2] k)
    => (bool go, float[2,2] w, float[2,2] %s) { go = Identity(c)  w = Add(v, k)  %s } > }"""


def test_states_that_never_change() -> None:
    feeds = [{**each, "z": X["x"] * 2} for each in TRIPS]
    after = becomes("drop-loop-states", STATES % ("k", ""), "Loop Identity", "Identity Add", *feeds)
    assert [len(n.input) for n in after.graph.node] == [3, 1]


def test_what_was_dropped_can_be_hoisted() -> None:
    text = loop("e = Exp(k)  w = Add(v, e)", start="x, x").replace("float[2,2] v)", "float[2,2] v, float[2,2] k)")
    text = text.replace("float[2,2] w)", "float[2,2] w, float[2,2] k)").replace("y = Loop", "y, unused = Loop")
    before = parse(text)
    after, _ = apply(before, "drop-loop-states", "hoist-loop-invariants")
    assert (nodes(after), inside(after)) == ("Exp Loop", "Identity Add")
    for feeds in TRIPS:
        assert_same(before, after, feeds)


def test_inner_bodies_read_the_outer_value() -> None:
    more = """w = If(c) < then_branch = t () => (float[2,2] p) { p = Add(v, k) },
        else_branch = e () => (float[2,2] p) { p = Neg(k) } >"""
    text = (STATES % ("k", "")).replace("w = Add(v, k)", more)
    feeds = [{**each, "z": X["x"] * 2} for each in TRIPS]
    becomes("drop-loop-states", text, "Loop Identity", "Identity If", *feeds)


def test_a_value_that_takes_the_name_of_an_output() -> None:
    text = (STATES % ("k", "")).replace(
        "y, last = Loop(trips, yes, x, z)", "n = Neg(z)  y, last = Loop(trips, yes, x, n)"
    )
    feeds = [{**each, "z": X["x"] * 2} for each in TRIPS]
    becomes("drop-loop-states", text, "Neg Loop", "Identity Add", *feeds)


@pytest.mark.parametrize("next_state", [("u", "u = Neg(k)"), ("v", "")])
def test_states_that_change_stay(next_state: tuple[str, str]) -> None:
    stays("drop-loop-states", STATES % next_state)


def test_a_state_that_is_returned_twice_stays() -> None:
    text = (STATES % ("k", "")).replace("(bool go, float[2,2] w,", "(bool go, float[2,2] k,")
    stays("drop-loop-states", text)


def test_refuses_sparse_initializers() -> None:
    before = parse(STATES % ("k", ""))
    body = before.graph.node[0].attribute[0].g
    sparse = body.sparse_initializer.add(dims=[3])
    sparse.values.CopyFrom(
        parse("(float[1] a) => (float[1] b) <float[1] one = {1}> { b = Add(a, one) }").graph.initializer[0]
    )
    sparse.indices.dims[:], sparse.indices.data_type = [1], 7
    sparse.indices.int64_data[:] = [0]
    after, report = apply(before, "drop-loop-states")
    assert not fired(report) and reasons(report, "drop-loop-states") == ["the body holds sparse initializers"]
    assert nodes(after) == "Loop"


# hoist-loop-rows

ROWS = """(float[T,1,2] x) => (int64 n, float[1,2] y) <int64 zero = {0}, float[2,2] m = {1, 2, 3, 4},
    float[1,2] h = {0, 0}, int64 axis = {0}, bool yes = {1}, float[2] s = {2, 3}> {
    d = Shape(x)  limit = Gather(d, axis)
    n, y = Loop("", yes, zero, h) <
    body = b (int64 i, bool c, int64 k, float[1,2] v) => (bool go, int64 k1, float[1,2] w)
    <int64 one = {1}, float[2] own = {5, 6}> { k1 = Add(k, one)  %s  go = Less(k1, limit) } > }"""
SEQUENCES = [{"x": np.arange(2 * t, dtype=np.float32).reshape(t, 1, 2) - 3} for t in (5, 1)]


@pytest.mark.parametrize(
    ("steps", "outer"),
    [
        ("r = Gather(x, k)  e = MatMul(r, m)", "MatMul"),
        ("r = Gather(x, k)  e = Tanh(r)", "Tanh"),
        ("r = Gather(x, k)  e = Mul(s, r)", ""),  # T is a symbol, and s might not fit: it does
        ("r = Gather(x, k)  a = Cast<to = 9>(r)  b = Not(a)  e = Cast<to = 1>(b)", "Cast Not Cast"),
    ],
)
def test_rows(steps: str, outer: str) -> None:
    text = ROWS % f"{steps}  w = Add(v, e)"
    expected = f"Shape Gather {outer or 'Mul'} Loop"
    becomes("hoist-loop-rows", text, expected, "Add Gather Add Less", *SEQUENCES, tol=1e-6)


def test_rows_with_a_trip_count() -> None:
    text = (ROWS % "r = Gather(x, k)  e = Tanh(r)  w = Add(v, e)").replace('Loop("", yes', "Loop(limit, yes")
    text = text.replace("go = Less(k1, limit)", "go = Identity(c)")
    before = parse(text)
    after, report = apply(before, "hoist-loop-rows")
    assert not fired(report) and nodes(after) == nodes(before)  # the condition is a copy of the state: not followed


@pytest.mark.parametrize(
    "steps",
    [
        "r = Gather(x, i)  e = Tanh(r)",  # not by the counter
        "r = Gather<axis = 1>(x, k)  e = Tanh(r)",
        "r = Gather(x, k)  e = Softmax(r)",
        "r = Gather(x, k)  e = MatMul(r, v)",
        "r = Gather(x, k)  e = Add(r, v)",
    ],
)
def test_rows_that_stay(steps: str) -> None:
    text = ROWS % f"{steps}  f = ReduceMax<keepdims = 0>(e)  w = Add(v, f)"
    stays("hoist-loop-rows", text)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("go = Less(k1, limit)", "go = Less(limit, k1)"),
        ("go = Less(k1, limit)", "go = Less(k, limit)"),
        ("go = Less(k1, limit)", "t = ReduceSum<keepdims = 0>(w)  big = Cast<to = 7>(t)  go = Less(k1, big)"),
        ("zero, h)", "axis1, h)"),
        ("k1 = Add(k, one)", "k1 = Add(k, limit)"),
    ],
)
def test_loops_that_do_not_count(old: str, new: str) -> None:
    text = (ROWS % "r = Gather(x, k)  e = Tanh(r)  w = Add(v, e)").replace(old, new)
    stays("hoist-loop-rows", text.replace("int64 zero", "int64 axis1 = {1}, int64 zero"))


def test_two_loops_whose_nodes_have_the_same_names() -> None:
    """What leaves bodies meets in one graph, in which ONNX Runtime wants every name once."""
    once = ROWS % "r = Gather(x, k)  [same] e = Tanh(r)  w = Add(v, e)"
    head, _, rest = once.partition("    n, y = ")
    text = head.replace("float[1,2] y)", "float[1,2] y, int64 n2, float[1,2] y2)") + "    n, y = " + rest.rstrip(" }")
    text += "  n2, y2 = " + rest
    before = parse(text)
    after, report = apply(before, "hoist-loop-rows")
    assert len(fired(report)) == 2
    names = [n.name for n in after.graph.node if n.name]
    assert len(set(names)) == len(names)
    assert_same(before, after, SEQUENCES[0], 1e-6)
