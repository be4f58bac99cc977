"""inline-if and inline-loop."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import parser

from ..simplify.text import nodes, parse, same
from ..util import apply, fired, reasons

CONDITION = "<bool yes = {1}, bool no = {0}, bool[1] one = {1}>"


def branches(head: str, condition: str, then: str, other: str, more: str = "") -> str:
    return (
        f"{head} {CONDITION} {{ y = If({condition}) < then_branch = t () => {then}, "
        f"else_branch = e () => {other} > {more} }}"
    )


HEAD = "(float[2] x, bool c) => (float[2] y)"
THEN = "(float[2] r) <float two = {2}> { t = Mul(x, two)  r = Exp(t) }"
ELSE = "(float[2] r) { t = Neg(x)  r = Abs(t) }"


@pytest.mark.parametrize(("condition", "left"), [("yes", "Mul Exp"), ("no", "Neg Abs"), ("one", "Mul Exp")])
def test_if(condition: str, left: str) -> None:
    before = parse(branches(HEAD, condition, THEN, ELSE))
    after, report = apply(before, "inline-if")
    assert nodes(after) == left and fired(report) == ["inline-if"]
    same(before, after)


def test_if_on_a_condition_of_run_time() -> None:
    before = parse(branches(HEAD, "c", THEN, ELSE))
    after, report = apply(before, "inline-if")
    assert nodes(after) == "If" and not fired(report)


def test_names_that_clash() -> None:
    """Two branches that name their values alike."""
    body = f"""{HEAD} <bool yes = {{1}}, float three = {{3}}> {{ u = Mul(x, three)
        a = If(yes) < then_branch = t () => {THEN}, else_branch = e () => {ELSE} >
        b = If(yes) < then_branch = t () => {THEN}, else_branch = e () => {ELSE} >
        d = Add(a, b)  y = Add(d, u) }}"""
    before = parse(body)
    after, report = apply(before, "inline-if")
    assert nodes(after) == "Mul Mul Exp Mul Exp Add Add" and len(fired(report)) == 2
    same(before, after)


@pytest.mark.parametrize(
    ("then", "left"),
    [
        ("(float[2] w) <float[2] w = {1, 2}> { }", "Identity"),  # an initializer of the branch
        ("(float[2] r) { r = Identity(x) }", "Identity"),
        ("(float[2] r) <float[2] w = {1, 2}> { r = Identity(w) }", "Identity"),
    ],
)
def test_branches_that_return_what_is_there(then: str, left: str) -> None:
    before = parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> g {branches(HEAD, "yes", then, ELSE)}')
    after, report = apply(before, "inline-if", "simplify")
    assert nodes(after) == left and fired(report)[0] == "inline-if"
    same(before, after)


def test_branch_that_returns_an_outer_value() -> None:
    """Not valid, but out there: the branch returns x itself."""
    before = parse(branches(HEAD, "yes", "(float[2] r) { r = Neg(x) }", ELSE))
    branch = before.graph.node[0].attribute[0].g
    del branch.node[:]
    branch.output[0].name = "x"
    after, report = apply(before, "inline-if")
    assert fired(report) == ["inline-if"]
    assert nodes(after) == "Identity" and list(after.graph.node[0].input) == ["x"]


def test_several_outputs_and_the_same_value_twice() -> None:
    then = "(float[2] p, float[2] q, float[2] r) { p = Neg(x)  q = Exp(p)  r = Identity(p) }"
    other = "(float[2] p, float[2] q, float[2] r) { p = Abs(x)  q = Abs(x)  r = Abs(x) }"
    body = f"""(float[2] x) => (float[2] u, float[2] v, float[2] w) <bool yes = {{1}}> {{
        u, v, w = If(yes) < then_branch = t () => {then}, else_branch = e () => {other} > }}"""
    before = parse(body)
    after, report = apply(before, "inline-if", "simplify")
    assert nodes(after) == "Neg Exp Identity" and fired(report)[0] == "inline-if"
    same(before, after)
    unused = body.replace("u, v, w = If", "u, , w = If").replace("float[2] v, ", "")
    after, _ = apply(parse(unused), "inline-if", "dead-code")
    assert nodes(after) == "Neg Identity"


NESTED = """(float[2] r) <float two = {2}> {
    t = Mul(x, two)
    s = If(c) < then_branch = a () => (float[2] r) <float five = {5}> { r = Mul(t, five) },
                else_branch = b () => (float[2] q) { k = If(c) < then_branch = m () => (float[2] r) { r = Add(t, x) },
                                                            else_branch = n () => (float[2] t2) { t2 = Sub(t, two) } >
                                                     q = Exp(k) } >
    r = Neg(s) }"""


def test_nested_bodies_come_along() -> None:
    """Three levels deep, with captures of what is spliced."""
    before = parse(branches(HEAD, "yes", NESTED, ELSE))
    after, report = apply(before, "inline-if")
    assert nodes(after) == "Mul If Neg" and fired(report) == ["inline-if"]
    for c in (True, False):
        same(before, after, {"x": np.float32([1, -2]), "c": np.array(c)})


def test_nested_ifs_all_decided() -> None:
    before = parse(branches(HEAD, "yes", NESTED.replace("If(c)", "If(no)"), ELSE))
    after, report = apply(before, "inline-if")
    assert nodes(after) == "Mul Sub Exp Neg" and len(fired(report)) == 3
    same(before, after)


def test_inside_a_loop_body() -> None:
    body = f"""(float[2] x) => (float[2] y) <int64 trips = {{3}}, bool go = {{1}}, bool no = {{0}}> {{
        y = Loop(trips, go, x) < body = b (int64 i, bool c, float[2] v) => (bool d, float[2] w) {{
            d = Identity(c)
            w = If(no) < then_branch = t () => (float[2] r) {{ r = Neg(v) }}, else_branch = e () => {ELSE} > }} > }}"""
    before = parse(body)
    after, report = apply(before, "inline-if")
    inner = [n.op_type for n in after.graph.node[0].attribute[0].g.node]
    assert inner == ["Identity", "Neg", "Abs"] and fired(report) == ["inline-if"]
    same(before, after)


def test_sequences() -> None:
    then = "(seq(float[2]) r) { r = SequenceConstruct(x, x) }"
    other = "(seq(float[2]) r) { r = SequenceConstruct(x) }"
    body = f"""(float[2] x) => (float[K] y) <bool yes = {{1}}> {{
        s = If(yes) < then_branch = t () => {then}, else_branch = e () => {other} >
        y = ConcatFromSequence<axis = 0>(s) }}"""
    before = parse(body)
    after, report = apply(before, "inline-if")
    assert nodes(after) == "SequenceConstruct ConcatFromSequence" and fired(report) == ["inline-if"]
    same(before, after)


def loop(trips: str, condition: str, initial: str = "x", cond_out: str = "d = Identity(c)") -> str:
    return f"""(float[2] x, int64 n, bool given) => (float[2] y, float[K, 3] z)
        <int64 zero = {{0}}, int64 one = {{1}}, int64 many = {{7}}, int64 minus = {{-2}}, bool yes = {{1}},
         bool no = {{0}}, float[3] k = {{1, 2, 3}}> {{
        y, z = Loop({trips}, {condition}, {initial}) <
            body = b (int64 i, bool c, float[2] v) => (bool d, float[2] w, float[3] s) <bool stop = {{0}}> {{
            {cond_out}  f = Cast<to = 1>(i)  u = Add(v, f)  w = Exp(u)  s = Neg(k) }} > }}"""


@pytest.mark.parametrize(
    ("trips", "condition", "cond_out"),
    [
        ("one", "yes", "d = Identity(c)"),
        ("one", "", "d = Identity(c)"),
        ("many", "yes", "d = Identity(stop)"),
        ("", "yes", "d = Identity(stop)"),
    ],
)
def test_loop_of_one_trip(trips: str, condition: str, cond_out: str) -> None:
    before = parse(loop(trips, condition, cond_out=cond_out))
    after, report = apply(before, "simplify", "lift-constants", "fold-constants", "inline-loop", "dead-code")
    if cond_out.endswith("stop)"):  # an Identity of a constant is not known to be one yet
        body = before.graph.node[0].attribute[0].g
        body.output[0].name = "stop"
        del body.node[0]
        after, report = apply(before, "inline-loop", "dead-code")
    assert "Loop" not in nodes(after) and "inline-loop" in fired(report)
    same(before, after)


@pytest.mark.parametrize(
    ("trips", "condition"), [("zero", "yes"), ("minus", "yes"), ("many", "no"), ("n", "no"), ("zero", "given")]
)
def test_loop_without_a_trip(trips: str, condition: str) -> None:
    before = parse(loop(trips, condition))
    after, report = apply(before, "inline-loop")
    assert nodes(after) == "Identity Identity" and fired(report) == ["inline-loop"]
    same(before, after)


@pytest.mark.parametrize(
    ("trips", "condition"), [("n", "yes"), ("many", "yes"), ("one", "given"), ("n", ""), ("many", "given")]
)
def test_loop_that_stays(trips: str, condition: str) -> None:
    before = parse(loop(trips, condition))
    after, report = apply(before, "inline-loop")
    assert nodes(after) == "Loop" and not fired(report)


def test_empty_scan_output_of_unknown_shape() -> None:
    body = """(float[N] x) => (float[M] y, float[K, L] z) <int64 zero = {0}, bool yes = {1}> {
        y, z = Loop(zero, yes, x) < body = b (int64 i, bool c, float[P] v) => (bool d, float[Q] w, float[R] s) {
            d = Identity(c)  w = Concat<axis = 0>(v, v)  s = Neg(v) } > }"""
    after, report = apply(parse(body), "inline-loop")
    assert nodes(after) == "Loop"
    assert any("not known" in why for why in reasons(report, "inline-loop"))
    after, report = apply(
        parse(body.replace("y, z = Loop", "y, unused = Loop").replace(", float[K, L] z)", ")")), "inline-loop"
    )
    assert nodes(after) == "Identity" and fired(report) == ["inline-loop"]


def test_range_of_what_a_branch_hides() -> None:
    """Range of one-element vectors: runtimes take them only as long as they do not see the shape."""
    body = """(int64[1] n, int64 one) => (int64[K] y) <bool yes = {1}, int64 zero = {0}> {
        m = If(yes) < then_branch = t () => (int64[a] p) { p = Abs(n) },
                      else_branch = e () => (int64[b, c] q) { s = Shape(n)  q = Expand(n, s) } >
        y = Range(zero, m, one) }"""
    before = parse(body)
    after, report = apply(before, "inline-if", "simplify")
    assert nodes(after) == "Abs Squeeze Range" and "range-of-scalars" in fired(report)
    same(before, after, {"n": np.int64([4]), "one": np.array(1)})


def test_results_of_a_model_with_everything(rng: Any) -> None:
    """A loop of one trip in a branch that is taken, which captures values of both scopes around it."""
    body = """(float[2] x) => (float[2] y) <bool yes = {1}, int64 one = {1}> {
        a = Exp(x)
        y = If(yes) < then_branch = t () => (float[2] r) {
                b = Neg(a)
                r = Loop(one, yes, b) < body = l (int64 i, bool c, float[2] v) => (bool d, float[2] w) {
                    d = Identity(c)  e = Add(v, a)  w = Mul(e, b) } > },
            else_branch = e () => (float[2] r) { r = Identity(x) } > }"""
    before = parse(body)
    after, report = apply(before, "control-flow", "dead-code")
    assert nodes(after) == "Exp Neg Add Mul" and sorted(fired(report)[:2]) == ["inline-if", "inline-loop"]
    same(before, after, {"x": rng.normal(size=2).astype(np.float32)})
