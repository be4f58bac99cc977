"""Neutral elements, Where, repeated and nested operators, Clip, variadic operators, reductions over one element."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import numpy_helper

from ..util import apply
from .text import fires, nodes, parse, refuses

F = "(float[N, 3] x) => (float[N, 3] y)"
I = "(int64[N, 3] x) => (int64[N, 3] y)"  # noqa: E741 - next to F
B = "(bool[N, 3] x) => (bool[N, 3] y)"


@pytest.mark.parametrize(
    ("head", "weight", "call"),
    [
        (F, "float c = {1}", "Mul(x, c)"),
        (F, "float c = {1}", "Mul(c, x)"),
        (F, "float[1] c = {1}", "Div(x, c)"),
        (F, "float[1, 3] c = {1, 1, 1}", "Mul(x, c)"),
        (F, "float c = {1}", "Pow(x, c)"),
        (F, "int64 c = {1}", "Pow(x, c)"),
        (F, "float c = {-0.0}", "Add(x, c)"),
        (F, "float c = {-0.0}", "Add(c, x)"),
        (F, "float c = {0.0}", "Sub(x, c)"),
        (I, "int64 c = {1}", "Mul(x, c)"),
        (I, "int64 c = {1}", "Div(x, c)"),
        (I, "int64 c = {0}", "Add(x, c)"),
        (I, "int64 c = {0}", "Add(c, x)"),
        (I, "int64[3] c = {0, 0, 0}", "Sub(x, c)"),
        (B, "bool c = {0}", "Or(x, c)"),
        (B, "bool c = {1}", "And(c, x)"),
        (B, "bool c = {0}", "Xor(x, c)"),
    ],
)
def test_neutral(head: str, weight: str, call: str) -> None:
    last = "Not" if head == B else "Abs"
    fires("eliminate-neutral", f"{head} <{weight}> {{ z = {call}  y = {last}(z) }}", last)


@pytest.mark.parametrize(
    ("head", "weight", "call", "reason"),
    [
        (F, "float c = {0.0}", "Add(x, c)", "-0 into +0"),
        (F, "float c = {-0.0}", "Sub(x, c)", "-0 into +0"),
        (F, "float[3] c = {-0.0, 0.0, -0.0}", "Add(x, c)", "-0 into +0"),
        (F, "float c = {0.0}", "Sub(c, x)", ""),
        (F, "float c = {1.0}", "Div(c, x)", ""),
        (F, "float c = {1.0}", "Pow(c, x)", ""),
        (F, "float c = {1.0000001}", "Mul(x, c)", ""),
        (F, "float[3] c = {1, 1, 2}", "Mul(x, c)", ""),
        ("(float[1, 3] x) => (float[2, 3] y)", "float[2, 1] c = {1, 1}", "Mul(x, c)", ""),
        ("(float[3] x) => (float[1, 3] y)", "float[1, 1] c = {1}", "Mul(x, c)", ""),
        ("(float[N] x) => (float[M] y)", "float[3] c = {1, 1, 1}", "Mul(x, c)", ""),
        (I, "int64 c = {0}", "Sub(c, x)", ""),
        (B, "bool c = {1}", "Or(x, c)", ""),
        (B, "bool c = {1}", "Xor(x, c)", ""),
    ],
)
def test_neutral_refused(head: str, weight: str, call: str, reason: str) -> None:
    refuses("eliminate-neutral", f"{head} <{weight}> {{ y = {call} }}", reason)


def test_neutral_default_that_a_caller_may_override() -> None:
    body = "(float[N, 3] x, float c = {1}) => (float[N, 3] y) { y = Mul(x, c) }"
    refuses("eliminate-neutral", body.replace(" = {1}", ""))


@pytest.mark.parametrize("value", ["1", "0"])
def test_where(value: str) -> None:
    head = f"(float[N, 3] x, float[N, 3] z) => (float[N, 3] y) <bool c = {{{value}}}, bool[1, 3] d = {{1, 1, 1}}>"
    # By onnx.reference: ONNX Runtime's own Where turns some -0 into +0.
    fires("eliminate-where", f"{head} {{ w = Where(c, x, z)  y = Neg(w) }}", "Neg", reference=True)
    fires("eliminate-where", f"{head} {{ w = Where(d, x, z)  y = Neg(w) }}", "Neg", reference=True)


def test_where_that_broadcasts_or_mixes() -> None:
    head = (
        "(float[1, 3] x, float[N, 3] z) => (float[N, 3] y) <bool c = {1}, bool[3] d = {1, 0, 1}, "
        "bool[2, 3] e = {1, 1, 1, 1, 1, 1}>"
    )
    refuses("eliminate-where", f"{head} {{ y = Where(c, x, z) }}", "broadcast")
    refuses("eliminate-where", f"{head} {{ y = Where(d, z, z) }}")
    one = head.replace("float[N, 3] z", "float[1, 3] z").replace("float[N, 3] y", "float[2, 3] y")
    refuses("eliminate-where", f"{one} {{ y = Where(e, x, z) }}", "broadcast")


def test_where_of_equals_and_not() -> None:
    head = "(bool[N, 1] c, float[N, 3] x, float[N, 3] z) => (float[N, 3] y)"
    fires("where-of-equals", f"{head} {{ w = Where(c, x, x)  y = Neg(w) }}", "Neg", reference=True)
    fires("where-not", f"{head} {{ n = Not(c)  y = Where(n, x, z) }}", "Where", reference=True)
    wide = (
        head.replace("bool[N, 1]", "bool[2, 3]")
        .replace("float[N, 3] x", "float[1, 3] x")
        .replace("[N, 3] y", "[2, 3] y")
    )
    refuses("where-of-equals", f"{wide} {{ y = Where(c, x, x) }}", "broadcast")
    both = head.replace("y)", "y, bool[N, 1] n)")
    refuses("where-not", f"{both} {{ n = Not(c)  y = Where(n, x, z) }}")


def test_double_negation() -> None:
    fires("eliminate-double-negation", f"{F} {{ a = Neg(x)  b = Neg(a)  y = Exp(b) }}", "Exp")
    fires("eliminate-double-negation", f"{I} {{ a = Neg(x)  b = Neg(a)  y = Abs(b) }}", "Abs")
    fires("eliminate-double-negation", f"{B} {{ a = Not(x)  b = Not(a)  y = Or(a, b) }}", "Not Or")
    lowest = {"x": np.int64([[-(2**63), 0, 1]])}
    fires("eliminate-double-negation", f"{I} {{ a = Neg(x)  b = Neg(a)  y = Abs(b) }}", "Abs", feeds=lowest)
    bits = "(int32[N] x) => (int32[N] y) { a = BitwiseNot(x)  b = BitwiseNot(a)  y = Abs(b) }"
    fires("eliminate-double-negation", bits, "Abs", 18)
    refuses("eliminate-double-negation", f"{F} {{ a = Neg(x)  b = Abs(a)  y = Neg(b) }}")


@pytest.mark.parametrize("op", ["Abs", "Relu", "Sign"])
def test_idempotents(op: str) -> None:
    fires("eliminate-repetition", f"{F} {{ a = {op}(x)  b = {op}(a)  y = Exp(b) }}", f"{op} Exp")


@pytest.mark.parametrize("first", ["Ceil", "Floor", "Round"])
@pytest.mark.parametrize("second", ["Ceil", "Floor", "Round"])
def test_roundings(first: str, second: str) -> None:
    fires("eliminate-repetition", f"{F} {{ a = {first}(x)  b = {second}(a)  y = Neg(b) }}", f"{first} Neg")


def test_repetition_refused() -> None:
    refuses("eliminate-repetition", f"{F} {{ a = Relu(x)  y = Abs(a) }}")
    refuses("eliminate-repetition", f"{F} {{ a = Neg(x)  y = Floor(a) }}")


def test_abs_of_neg() -> None:
    fires("abs-of-neg", f"{F} {{ a = Neg(x)  y = Abs(a) }}", "Abs")
    fires("abs-of-neg", f"{I} {{ a = Neg(x)  y = Abs(a) }}", "Abs", feeds={"x": np.int64([[-(2**63), 2, -3]])})
    refuses("abs-of-neg", f"{F.replace('y)', 'y, float[N, 3] a)')} {{ a = Neg(x)  y = Abs(a) }}")


CLIP = (
    f"{F} <float m3 = {{-3}}, float m1 = {{-1}}, float zero = {{0}}, float one = {{1}}, "
    f"float two = {{2}}, float inf = {{inf}}>"
)


@pytest.mark.parametrize(
    "nodes",
    [
        "a = Clip(x, m1, two)  y = Clip(a, zero, one)",
        "a = Clip(x, zero, one)  y = Clip(a, m1, two)",
        "a = Clip(x, zero)  y = Clip(a, , one)",
        "a = Clip(x, zero)  y = Clip(a, m1)",
        "a = Clip(x, , two)  y = Clip(a, , one)",
        "a = Clip(x, m1, one)  y = Clip(a, zero, two)",
        "a = Relu(x)  y = Clip(a, m1, two)",
        "a = Relu(x)  y = Clip(a, , two)",
        "a = Relu(x)  y = Clip(a, one, two)",
        "a = Relu(x)  y = Clip(a, zero)",
        "a = Clip(x, zero, two)  y = Relu(a)",
        "a = Clip(x, m1, two)  y = Relu(a)",
        "a = Clip(x, , two)  y = Relu(a)",
        "a = Clip(x, one, two)  y = Relu(a)",
        "a = Clip(x, m3, zero)  y = Relu(a)",
    ],
)
def test_clips(nodes: str) -> None:
    rule = "relu-of-clip" if nodes.endswith("Relu(a)") else "compose-clips"
    fires(rule, f"{CLIP} {{ {nodes} }}", "Clip")


@pytest.mark.parametrize(
    ("nodes", "reason"),
    [
        ("a = Clip(x, m3, m1)  y = Clip(a, one, two)", "do not meet"),
        ("a = Clip(x, two, one)  y = Clip(a, zero, two)", "lower one first"),
        ("a = Clip(x, inf)  y = Clip(a, , two)", "finite"),
        ("b = Exp(one)  a = Clip(x, b)  y = Clip(a, , two)", "constants"),
        ("a = Relu(x)  y = Clip(a, m3, m1)", "do not meet"),
        ("a = Relu(x)  y = Clip(a)", None),
    ],
)
def test_clips_refused(nodes: str, reason: str | None) -> None:
    refuses("compose-clips", f"{CLIP} {{ {nodes} }}", reason or "")


def test_clips_that_others_read() -> None:
    refuses("compose-clips", f"{CLIP.replace('y)', 'y, float[N, 3] a)')} {{ a = Clip(x, zero)  y = Clip(a, , one) }}")


def test_clips_of_other_forms() -> None:
    old = f"{F} {{ a = Clip<min = 0.0>(x)  y = Clip<max = 6.0, min = -1.0>(a) }}"
    fires("compose-clips", old, "Clip", 10)
    whole = f"{I} <int64 low = {{-9007199254740993}}, int64 high = {{2}}> {{ a = Clip(x, low)  y = Clip(a, , high) }}"
    feeds = {"x": np.int64([[-9007199254740993, -9007199254740994, 5]])}
    fires("compose-clips", whole, "Clip", feeds=feeds)
    wide = (
        "(double[N] x) => (double[N] y) <double low = {-1}, double high = {0.1}> { a = Clip(x, "
        "low)  y = Clip(a, , high) }"
    )
    fires("compose-clips", wide, "Clip")


@pytest.mark.parametrize("op", ["Max", "Min", "Sum", "Mean"])
def test_variadic(op: str) -> None:
    fires("eliminate-variadic", f"{F} {{ a = {op}(x)  y = Relu(a) }}", "Relu")
    refuses("eliminate-variadic", f"(float[N] x, float[N] z) => (float[N] y) {{ y = {op}(x, z) }}")


@pytest.mark.parametrize("op", ["Max", "Min", "Sum"])
def test_nested_variadic(op: str) -> None:
    head = "(float[N] p, float[N] q, float[1] r) => (float[N] y)"
    fires("flatten-variadic", f"{head} {{ a = {op}(p, q)  y = {op}(a, r) }}", op)
    fires("flatten-variadic", f"{head} {{ a = {op}(p, q, r)  y = {op}(a, p, q) }}", op)
    refuses("flatten-variadic", f"{head} {{ a = {op}(p, q)  y = {op}(r, a) }}")
    refuses("flatten-variadic", f"{head} {{ a = {op}(p, q)  b = {op}(a, r)  y = Add(a, b) }}")


R = "(float[N, 1, 3, 1] x)"


@pytest.mark.parametrize("op", ["ReduceMax", "ReduceMin", "ReduceProd"])
def test_reduce(op: str) -> None:
    fires("eliminate-reduce", f"{R} => (float[N, 1, 3, 1] y) {{ a = {op}<axes = [1]>(x)  y = Abs(a) }}", "Abs")
    fires("eliminate-reduce", f"{R} => (float[N, 1, 3, 1] y) {{ a = {op}<axes = [-1, 1]>(x)  y = Abs(a) }}", "Abs")
    fires("eliminate-reduce", f"{R} => (float[N, 3] y) {{ y = {op}<axes = [1, 3], keepdims = 0>(x) }}", "Squeeze")
    old = f"{R} => (float[N, 3, 1] y) {{ y = {op}<axes = [1], keepdims = 0>(x) }}"
    fires("eliminate-reduce", old, "Squeeze", 12)


def test_reduce_with_axes_as_input() -> None:
    axes = "<int64[1] a = {1}, int64[0] none = {}>"
    whole = f"{R} => (float[N, 1, 3, 1] y) {axes}".replace("float", "int32")
    fires("eliminate-reduce", f"{whole} {{ z = ReduceSum(x, a)  y = Abs(z) }}", "Abs")
    refuses(
        "eliminate-reduce", f"{R} => (float[N, 1, 3, 1] y) {axes} {{ z = ReduceSum(x, a)  y = Abs(z) }}", "-0 into +0"
    )
    # Not run: ONNX Runtime 1.23 and onnx.reference 1.19 get these wrong.
    for opset, call in (
        (17, "ReduceSum<noop_with_empty_axes = 1>(x)"),
        (18, "ReduceMax<noop_with_empty_axes = 1>(x, none)"),
    ):
        noop = parse(f"{R} => (float[N, 1, 3, 1] y) {axes} {{ z = {call}  y = Abs(z) }}", opset)
        assert nodes(apply(noop, "eliminate-reduce")[0]) == "Abs"
    refuses("eliminate-reduce", "(int64[1] x) => (int64[1] y) { z = ReduceSum(x)  y = Abs(z) }", "above 2^53")
    ones = "(int32[1, 1] x) => (int32[1, 1] y) { z = ReduceSum(x)  y = Abs(z) }"
    fires("eliminate-reduce", ones, "Abs")


@pytest.mark.parametrize(
    "call",
    [
        "ReduceMax<axes = [2]>(x)",
        "ReduceMax<axes = [0]>(x)",  # N may be 1, or not
        "ReduceMax<axes = [1, 2]>(x)",
        "ReduceMax(x)",
        "ReduceL2<axes = [1]>(x)",  # the square may overflow
        "ReduceL1<axes = [1]>(x)",
        "ReduceSum(x, axes)",
    ],
)
def test_reduce_refused(call: str) -> None:
    refuses("eliminate-reduce", f"(float[N, 1, 3, 1] x, int64[1] axes) => (float[a, b, c, d] y) {{ y = {call} }}")


def test_reduce_and_view() -> None:
    head = "(float[N, 3, 4] x)"
    one = "<int64[1] one = {1}, int64[1] two = {2}, int64[2] both = {1, 2}>"
    squeeze = f"{head} => (float[N, 4] y) {one} {{ a = ReduceMax<axes = [1]>(x)  y = Squeeze(a, one) }}"
    fires("squeeze-of-reduce", squeeze, "ReduceMax")
    fires("squeeze-of-reduce", squeeze.replace("axes = [1]", "axes = [-2]"), "ReduceMax")
    fires(
        "squeeze-of-reduce",
        squeeze.replace("ReduceMax<axes = [1]", "ArgMax<axis = 1").replace("float[N, 4]", "int64[N, 4]"),
        "ArgMax",
    )
    every = f"{head} => (float y) <int64[3] all = {{-1, 0, 1}}> {{ a = ReduceMax(x)  y = Squeeze(a, all) }}"
    fires("squeeze-of-reduce", every, "ReduceMax")
    fires("squeeze-of-reduce", every, "ReduceMax", 18)
    last = "<int64[1] last = {-1}, int64[1] two = {2}>"
    summed = f"{head} => (float[N, 3] y) {last} {{ a = ReduceSum(x, last)  y = Squeeze(a, two) }}"
    after = fires("squeeze-of-reduce", summed, "ReduceSum")
    axes = next(t for t in after.graph.initializer if t.name == after.graph.node[0].input[1])
    assert numpy_helper.to_array(axes).tolist() == [2]
    unsqueeze = (
        f"{head} => (float[N, 1, 4] y) {one} {{ a = ReduceMax<axes = [1], keepdims = 0>(x)  y = Unsqueeze(a, one) }}"
    )
    fires("unsqueeze-of-reduce", unsqueeze, "ReduceMax")
    other = unsqueeze.replace("Unsqueeze(a, one)", "Unsqueeze(a, two)").replace("[N, 1, 4]", "[N, 4, 1]")
    refuses("unsqueeze-of-reduce", other, "same axes")
    part = f"{head} => (float[N, 1] y) {one} {{ a = ReduceMax<axes = [1, 2]>(x)  y = Squeeze(a, two) }}"
    refuses("squeeze-of-reduce", part, "same axes")
    refuses(
        "squeeze-of-reduce",
        f"{head} => (float[a, b] y) {{ a = ReduceMax<axes = [1]>(x)  y = Squeeze(a) }}",
        "not known",
    )
    noop = (
        f"{head} => (float[N, 3, 4, 1] y) <int64[1] last = {{3}}> "
        f"{{ a = ReduceSum<noop_with_empty_axes = 1, keepdims = 0>(x)  y = Unsqueeze(a, last) }}"
    )
    refuses("unsqueeze-of-reduce", noop)


def test_a_relu_behind_a_clip_of_integers_stays() -> None:
    body = "(int32[3] x) => (int32[3] y) <int32 six = {6}> { a = Clip(x, , six)  y = Relu(a) }"
    refuses("relu-of-clip", body, "fails on integers")
