"""fold-shapes: what comes out as numbers, as a copied dim, as something that is there already; and what must stay."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from graphopt.passes.simplify.fold_shapes import FoldShapes

from ..util import apply, fired
from .text import fires, nodes, parse, refuses, same

SHAPE = (
    "<int64 i0 = {0}, int64 i1 = {1}, int64 i2 = {2}, int64[1] v0 = {0}, int64[1] v1 = {1}, "
    "int64[1] v2 = {2}, int64[1] v3 = {3}, int64[1] m1 = {-1}, int64[1] twelve = {12}, "
    "int64 big = {2147483648}>"
)


def folded(model: onnx.ModelProto, node: str = "Reshape") -> list[int]:
    """The constant second operand of the one node of an operator."""
    name = next(n.input[1] for n in model.graph.node if n.op_type == node)
    return list(numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == name)).tolist())


def constant_output(body: str, want: Any, opset: int = 17) -> None:
    """Every feed gives the value that the folded model holds as a constant."""
    after, _ = apply(parse(body, opset), "fold-shapes")
    assert [n.op_type for n in after.graph.node] == ["Identity"]
    np.testing.assert_array_equal(numpy_helper.to_array(after.graph.initializer[-1]), want)
    same(parse(body, opset), after)


@pytest.mark.parametrize(
    ("call", "want", "opset"),
    [
        ("Shape(x)", [2, 3, 4], 17),
        ("Shape<start = 1>(x)", [3, 4], 17),
        ("Shape<start = -2, end = -1>(x)", [3], 17),
        ("Shape<start = 2, end = 1>(x)", [], 17),
        ("Shape<start = -9, end = 9>(x)", [2, 3, 4], 17),
    ],
)
def test_shape_of_numbers(call: str, want: list[int], opset: int) -> None:
    constant_output(f"(float[2, 3, 4] x) => (int64[{len(want)}] y) {{ s = {call}  y = Identity(s) }}", want, opset)


def test_one_number_of_a_symbolic_shape() -> None:
    head = f"(float[N, 3, 4] x) => (int64 y) {SHAPE}"
    constant_output(f"{head} {{ s = Shape(x)  d = Gather(s, i1)  y = Identity(d) }}", 3)
    constant_output(
        f"{head} {{ s = Shape(x)  d = Slice(s, v1, v3)  p = ReduceProd<keepdims = 0>(d)  y = Identity(p) }}", 12
    )
    constant_output(f"{head} {{ s = Shape(x)  d = Gather(s, i2)  e = Mul(d, d)  f = Sub(e, i1)  y = Identity(f) }}", 15)
    constant_output(
        f"{head} {{ s = Shape(x)  a = Gather(s, i0)  b = Mul(a, i2)  c = Div(b, i2)  d = Sub(c, a)  y = Identity(d) }}",
        0,
    )


def test_returned_shapes_stay() -> None:
    refuses("fold-shapes", "(float[2, 3] x) => (int64[2] y) { y = Shape(x) }")
    refuses("fold-shapes", "(float[N, 3] x) => (int64[2] y) { s = Shape(x)  y = Identity(s) }")


VIEW = "(float[N, M, 12] x) => (float[a, b, c, d] y)"


def test_view_of_an_attention_head() -> None:
    calls = "s = Shape(x)  n = Gather(s, i0)  m = Gather(s, i1)  p = Unsqueeze(n, v0)  q = Unsqueeze(m, v0)"
    after = fires(
        "fold-shapes", f"{VIEW} {SHAPE} {{ {calls}  t = Concat<axis = 0>(p, q, v3, m1)  y = Reshape(x, t) }}", "Reshape"
    )
    assert folded(after) == [0, 0, 3, -1]


def test_flattened_batch() -> None:
    calls = "s = Shape(x)  n = Slice(s, v0, v1)  m = Slice(s, v1, v2)  p = Mul(n, m)  t = Concat<axis = 0>(p, twelve)"
    after = fires(
        "fold-shapes", f"(float[N, M, 12] x) => (float[a, b] y) {SHAPE} {{ {calls}  y = Reshape(x, t) }}", "Reshape"
    )
    assert folded(after) == [-1, 12]


def test_two_dims_that_trade_places() -> None:
    calls = "s = Shape(x)  n = Slice(s, v0, v1)  m = Slice(s, v1, v2)  t = Concat<axis = 0>(m, n, m1)"
    refuses(
        "fold-shapes",
        f"(float[N, M, 12] x) => (float[a, b, c] y) {SHAPE} {{ {calls}  y = Reshape(x, t) }}",
        "not known",
    )


def test_no_minus_one_next_to_a_symbol() -> None:
    """[N, M * 12] would be (0, -1): an error where N is 0 at run time."""
    calls = "s = Shape(x)  n = Slice(s, v0, v1)  m = Slice(s, v1, v2)  p = Mul(m, twelve)  t = Concat<axis = 0>(n, p)"
    body = f"(float[N, M, 12] x) => (float[a, b] y) {SHAPE} {{ {calls}  y = Reshape(x, t) }}"
    refuses("fold-shapes", body, "not known")
    after, _ = apply(parse(body), "fold-shapes")
    same(parse(body), after, {"x": np.zeros((0, 3, 12), np.float32)})


def test_a_size_that_may_be_zero_would_copy() -> None:
    """[N * M, -1]: with M = 0 the written 0 copies N; [-1, 12] would be another shape."""
    calls = "s = Shape(x)  n = Slice(s, v0, v1)  m = Slice(s, v1, v2)  p = Mul(n, m)  t = Concat<axis = 0>(p, m1)"
    body = f"(float[N, M, 12] x) => (float[a, b] y) {SHAPE} {{ {calls}  y = Reshape(x, t) }}"
    refuses("fold-shapes", body, "not known")
    same(parse(body), apply(parse(body), "fold-shapes")[0], {"x": np.zeros((3, 0, 12), np.float32)})
    after, _ = apply(parse(body), FoldShapes(nonempty=True))
    assert nodes(after) == "Reshape" and folded(after) == [-1, 12]
    same(parse(body), after)


def test_minus_one_next_to_a_symbol_that_is_no_zero() -> None:
    calls = "s = Shape(x)  n = Slice(s, v0, v1)  m = Slice(s, v1, v2)  p = Mul(m, twelve)  t = Concat<axis = 0>(n, p)"
    body = f"(float[N, M, 12] x) => (float[a, b] y) {SHAPE} {{ {calls}  y = Reshape(x, t) }}"
    after, _ = apply(parse(body), FoldShapes(nonempty=True))
    assert nodes(after) == "Reshape" and folded(after) == [0, -1]
    same(parse(body), after)


@pytest.mark.parametrize("opset", [11, 17])
def test_dims_of_one_put_in(opset: int) -> None:
    axes = "" if opset > 12 else "<axes = [0]>"
    call = "Unsqueeze(d, v0)" if opset > 12 else f"Unsqueeze{axes}(d)"
    calls = f"s = Shape(x)  n = Slice(s, v0, v1)  d = Gather(s, i1)  m = {call}  t = Concat<axis = 0>(n, v1, m)"
    body = f"(float[N, M] x) => (float[a, b, c] y) {SHAPE} {{ {calls}  y = Reshape(x, t) }}"
    fires("fold-shapes", body, "Unsqueeze", opset)


def test_zero_that_copies() -> None:
    calls = "s = Shape(x)  m = Slice(s, v1, v2)  t = Concat<axis = 0>(v0, m, m1)"
    after = fires(
        "fold-shapes", f"(float[N, M, 12] x) => (float[a, b, c] y) {SHAPE} {{ {calls}  y = Reshape(x, t) }}", "Reshape"
    )
    assert folded(after) == [0, 0, -1]


def test_allowzero_means_zero() -> None:
    calls = "s = Shape(x)  n = Slice(s, v0, v1)"
    body = f"(float[N, 3] x) => (float[a, b, c] y) {SHAPE} {{ {calls}  t = Concat<axis = 0>(n, v0, v3)"
    body += "  y = Reshape<allowzero = 1>(x, t) }"
    after, _ = apply(parse(body), "fold-shapes")
    same(parse(body), after, {"x": np.zeros((0, 3), np.float32)})
    body = f"(float[N, 0] x) => (float[a, b] y) {SHAPE} {{ {calls}  t = Concat<axis = 0>(n, v0)"
    after = fires("fold-shapes", f"{body}  y = Reshape<allowzero = 1>(x, t) }}", "Reshape")
    assert folded(after) == [0, 0]
    body = f"(float[N, 3] x) => (float[a, b] y) {SHAPE} {{ {calls}  t = Concat<axis = 0>(n, m1)"
    after = fires("fold-shapes", f"{body}  y = Reshape<allowzero = 1>(x, t) }}", "Reshape")
    assert folded(after) == [0, -1]


def test_expand() -> None:
    head = f"(float[N, 1, 4] x) => (float[a, b, c] y) {SHAPE}"
    calls = "s = Shape(x)  n = Slice(s, v0, v1)  t = Concat<axis = 0>(n, v3, v1)  y = Expand(x, t)"
    after = fires("fold-shapes", f"{head} {{ {calls} }}", "Expand")
    assert folded(after, "Expand") == [1, 3, 1]
    calls = "s = Shape(x)  e = Expand(x, s)  y = Neg(e)"
    fires("fold-shapes", f"{head} {{ {calls} }}", "Neg")
    more = (
        f"(float[N, 4] x) => (float[a, b, c] y) {SHAPE} {{ s = Shape(x)  t = Concat<axis = 0>(v3, "
        f"s)  y = Expand(x, t) }}"
    )
    after = fires("fold-shapes", more, "Expand")
    assert folded(after, "Expand") == [3, 1, 1]
    other = (
        f"(float[N, 4] x, float[M] z) => (float[a, b, c] y) {SHAPE} {{ s = Shape(z)  "
        f"t = Concat<axis = 0>(s, v1, v1)  y = Expand(x, t) }}"
    )
    refuses("fold-shapes", other)


def test_expand_written_by_pytorch() -> None:
    """expand(-1, ...) comes as Where(Equal(shape, -1), ones, shape)."""
    calls = """s = Shape(x)  n = Slice(s, v0, v1)  t = Concat<axis = 0>(n, v3)  r = Shape(t)
        ones = ConstantOfShape<value = int64[1] {1}>(r)
        minus = Mul(ones, m1)  c = Equal(t, minus)  w = Where(c, ones, t)  y = Expand(z, w)"""
    after = fires("fold-shapes", f"(float[N, 5] x, float[N, 1] z) => (float[a, b] y) {SHAPE} {{ {calls} }}", "Expand")
    assert folded(after, "Expand") == [1, 3]


def test_slice_to_the_end() -> None:
    calls = "s = Shape(x)  m = Slice(s, v1, v2)  a = Slice(x, v1, m, v1)  y = Neg(a)"
    after = fires("fold-shapes", f"(float[N, M] x) => (float[a, b] y) {SHAPE} {{ {calls} }}", "Slice Neg")
    ends = next(n.input[2] for n in after.graph.node if n.op_type == "Slice")
    assert numpy_helper.to_array(next(t for t in after.graph.initializer if t.name == ends)).tolist() == [2**63 - 1]
    other = calls.replace("Slice(s, v1, v2)", "Slice(s, v0, v1)")
    refuses("fold-shapes", f"(float[N, M] x) => (float[a, b] y) {SHAPE} {{ {other} }}")


def test_equal_lists_are_computed_once() -> None:
    calls = "p = Relu(x)  s = Shape(x)  t = Shape(p)  y = ConstantOfShape(s)  z = ConstantOfShape(t)"
    fires(
        "fold-shapes",
        f"(float[N, M] x) => (float[a, b] y, float[c, d] z) {{ {calls} }}",
        "Shape ConstantOfShape ConstantOfShape",
    )
    calls = calls.replace("Relu(x)", "Transpose(x)")
    refuses("fold-shapes", f"(float[N, M] x) => (float[a, b] y, float[c, d] z) {{ {calls} }}")


def test_symbols_behind_operators() -> None:
    """Dims that inference has no name for are followed through Conv, pooling, broadcasting, Range, Concat and Slice."""
    w = (
        "<float[3, 3, 3] w = {"
        + ", ".join("1" * 27)
        + (
            "}, int64[1] v0 = {0}, int64[1] v2 = {2}, int64[1] v3 = {3}, int64[1] one = {1}, "
            "int64 i0 = {0}, int64 i1 = {1}, int64 i2 = {2}>"
        )
    )
    head = f"(float[N, 3, L] x) => (float[a, b, c] y) {w}"
    same_window = (
        "c = Conv<pads = [1, 1]>(x, w)  s = Shape(c)  a = Slice(x, v0, l, v2)  l = Slice(s, v2, v3)  y = Neg(a)"
    )
    ordered = "c = Conv<pads = [1, 1]>(x, w)  s = Shape(c)  l = Slice(s, v2, v3)  a = Slice(x, v0, l, v2)  y = Neg(a)"
    assert same_window != ordered
    after = fires("fold-shapes simplify", f"{head} {{ {ordered} }}", "Neg")
    assert len(after.graph.node) == 1
    strided = (
        "p = Conv<pads = [1, 1], strides = [2]>(x, w)  q = MaxPool<pads = [1, 1], strides = [2], "
        "kernel_shape = [3]>(x)  s = Shape(p)  l = Slice(s, v2, v3)  y = Slice(q, v0, l, v2)"
    )
    after, report = apply(parse(f"{head} {{ {strided} }}"), "fold-shapes", "simplify", "dead-code")
    assert nodes(after) == "MaxPool" and fired(report)
    joined = (
        "c = Concat<axis = 2>(x, x)  s = Shape(c)  m = Gather(s, i2)  h = Div(m, i2)  "
        "k = Unsqueeze(h, v0)  y = Slice(x, v0, k, v2)"
    )
    after, _ = apply(parse(f"{head} {{ {joined} }}"), "fold-shapes", "simplify")
    assert nodes(after) == "Identity"
    counted = "s = Shape(x)  n = Gather(s, i2)  r = Range(i0, n, i1)  t = Shape(r)  y = Slice(x, v0, t, v2)"
    after, _ = apply(parse(f"{head} {{ {counted} }}"), "fold-shapes", "simplify")
    assert nodes(after) == "Identity"


def test_position_embedding_cut_to_the_sequence() -> None:
    """table[:, :seq] + x has the shape of x: where seq is more than the table has, the Add fails."""
    table = "float[1, 3, 2] table = {1, 2, 3, 4, 5, 6}, int64[1] v0 = {0}, int64[1] v1 = {1}, int64[1] v2 = {2}"
    calls = (
        "s = Shape(x)  n = Slice(s, v1, v2)  t = Slice(table, v0, n, v1)  h = Add(x, t)  u = Shape(h)  y = Expand(h, u)"
    )
    body = f"(float[B, S, 2] x) => (float[a, b, c] y) <{table}> {{ {calls} }}"
    after, _ = apply(parse(body), "fold-shapes", "simplify", "dead-code")
    assert nodes(after) == "Shape Slice Slice Add"
    same(parse(body), after)
    calls = calls.replace("y = Expand(h, u)", "n2 = Slice(u, v1, v2)  z = Slice(x, v0, n2, v1)  y = Neg(z)")
    after, _ = apply(
        parse(f"(float[B, S, 2] x) => (float[a, b, c] y) <{table}> {{ {calls} }}"),
        "fold-shapes",
        "simplify",
        "dead-code",
    )
    assert nodes(after) == "Neg"


def test_a_table_of_one_row_says_nothing() -> None:
    """min(S, 1) broadcasts: the shape of x[:1] + y is not that of its left operand."""
    calls = (
        "s = Shape(x)  n = Slice(s, v0, v1)  t = Slice(one, v0, n, v0)  h = Add(x, t)  u = Shape(h)  y = Expand(x, u)"
    )
    table = "float[1] one = {5}, int64[1] v0 = {0}, int64[1] v1 = {1}"
    body = f"(float[S] x) => (float[a] y) <{table}> {{ {calls} }}"
    after, _ = apply(parse(body), "fold-shapes", "simplify", "fold-constants", "dead-code")
    for size in (1, 3, 4):
        same(parse(body), after, {"x": np.ones(size, np.float32)})


@pytest.mark.parametrize("op", ["Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Equal"])
def test_comparisons_that_hold_for_every_size(op: str) -> None:
    minus = "<int64 minus = {-1}, int64 i0 = {0}, int64 one = {1}>"
    head = f"(float[N] x) => (bool y) {minus} {{ s = Shape(x)  n = Gather(s, i0)"
    before = f"{head}  c = {op}(n, minus)  y = Identity(c) }}"
    after, report = apply(parse(before), "fold-shapes")
    assert fired(report) and nodes(after) == "Identity"
    same(parse(before), after)
    refuses("fold-shapes", f"{head}  c = {op}(n, one)  y = Identity(c) }}")
    if op not in ("GreaterOrEqual", "Less"):
        refuses("fold-shapes", f"{head}  c = {op}(n, i0)  y = Identity(c) }}")


def test_integers_that_overflow_stay() -> None:
    calls = "s = Shape(x)  n = Gather(s, i1)  c = Cast<to = 6>(n)  m = Mul(c, c)  y = Identity(m)"
    refuses_to_fold = f"(float[N, 65536] x) => (int32 y) {SHAPE} {{ {calls} }}"
    after, _ = apply(parse(refuses_to_fold), "fold-shapes")
    assert "Mul" in nodes(after)
    same(parse(refuses_to_fold), after, {"x": np.zeros((0, 65536), np.float32)})
    cast = f"(float[N, 3] x) => (int32 y) {SHAPE} {{ m = Mul(big, i2)  c = Cast<to = 6>(m)  y = Identity(c) }}"
    after, _ = apply(parse(cast), "fold-shapes")
    assert "Cast" in nodes(after)


def test_quotients() -> None:
    numbers = "<int64 one = {1}, int64 b = {2}, int64[2] v0 = {0, 0}, int64 i0 = {0}, int64 four = {4}>"
    calls = "s = Shape(x)  n = Gather(s, one)  m = Sub(i0, n)  q = Div(m, b)  y = Identity(q)"
    constant_output(f"(float[N, 7] x) => (int64 y) {numbers} {{ {calls} }}", -3)
    head = f"(float[N] x) => (int64 y) {numbers} {{ s = Shape(x)  n = Gather(s, i0)"
    refuses("fold-shapes", f"{head}  q = Div(n, four)  y = Mul(q, four) }}")
    refuses("fold-shapes", f"{head}  q = Div(n, i0)  y = Identity(q) }}")
    constant_output(f"{head}  p = Div(n, four)  q = Div(n, four)  r = Sub(p, q)  y = Identity(r) }}", 0)


def test_inside_bodies() -> None:
    """A body sees the sizes of outer values; its own lists are not taken for those of others."""
    body = """(bool c, float[N, 3, 4] x) => (float[a, b] y)
        <int64[1] v0 = {0}, int64[1] v1 = {1}, int64[1] twelve = {12}> {
        s = Shape(x)  n = Slice(s, v0, v1)
        y = If(c) < then_branch = t () => (float[p, q] r) { m = Concat<axis = 0>(n, twelve)  r = Reshape(x, m) },
                    else_branch = e () => (float[u, v] w) { k = Concat<axis = 0>(n, twelve)
                        l = Reshape(x, k)  w = Neg(l) }> }"""
    before = parse(body)
    after, _ = apply(before, "fold-shapes", "dead-code")
    assert nodes(after) == "If"
    for c in (True, False):
        same(before, after, {"c": np.array(c), "x": np.ones((2, 3, 4), np.float32)})


def test_sizes_that_change_from_trip_to_trip_stay() -> None:
    body = """(float[N] x) => (float[M] y, int64[K, 1] z) <int64 trips = {3}, bool go = {1}> {
        y, z = Loop(trips, go, x) < body = b (int64 i, bool c, float[P] v) => (bool d, float[Q] w, int64[1] l) {
            d = Identity(c)  w = Concat<axis = 0>(v, v)  l = Shape(v) }> }"""
    before = parse(body)
    after, report = apply(before, "fold-shapes")
    assert not fired(report)
    same(before, after)


def test_overridable_default_is_no_constant() -> None:
    before = parse("(float[2, 3] x, int64[2] s) => (float[a, b] y) <int64[2] t = {3, 2}> { y = Reshape(x, s) }")
    before.graph.initializer[0].name = "s"  # a default that a caller may override
    refused, report = apply(before, "fold-shapes")
    assert not fired(report)
    same(before, refused, {"x": np.ones((2, 3), np.float32), "s": np.int64([6, 1])})
