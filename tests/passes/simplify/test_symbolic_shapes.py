"""Rules of simplify where sizes are symbols: what is proved equal, positive or large enough, and what is not."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from ..util import apply, fired
from .text import fires, nodes, parse, refuses, same

WEIGHTS = (
    "<int64[1] v0 = {0}, int64[1] v1 = {1}, int64[1] v2 = {2}, int64[1] v6 = {6}, int64[1] v12 = {12}, "
    "int64[1] m1 = {-1}, int64 two = {2}, float[5, 3] five = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}>"
)
SIZES = "s = Shape(x)  n = Slice(s, v0, v1)  m = Slice(s, v1, v2)"


def constants(model: onnx.ModelProto, op: str, slot: int = 1) -> list[list[int]]:
    """The constant operands in a slot of all nodes of an operator."""
    stored = {t.name: numpy_helper.to_array(t).tolist() for t in model.graph.initializer}
    return [stored.get(n.input[slot], []) for n in model.graph.node if n.op_type == op]


def test_slice_to_a_computed_end() -> None:
    body = f"(float[N, M] x, float[K, M] z) => (float[a, b] y) {WEIGHTS} {{ {SIZES} c = Concat<axis = 0>(x, z)"
    ends = "k = Shape(z)  kk = Slice(k, v0, v1)"
    fires(
        "eliminate-slice dead-code", f"{body} {ends} e = Add(n, kk)  d = Slice(c, v0, e)  y = Neg(d) }}", "Concat Neg"
    )
    refuses("eliminate-slice", f"{body} {ends} e = Add(n, n)  d = Slice(c, v0, e)  y = Neg(d) }}")


def test_slices_from_the_end_of_a_dim_that_is_computed() -> None:
    """c has 6 rows whatever inference says of it."""
    body = f"(float[N, M, 2, 3] x) => (float[a, b] y) {WEIGHTS} {{ {SIZES} t = Concat<axis = 0>(v6, m1)"
    calls = "c = Reshape(x, t)  d = Slice(c, v1, m1)  y = Slice(d, v0, v2) }"
    after, report = apply(parse(f"{body} {calls}"), "compose-slices")
    assert fired(report) and constants(after, "Slice")[-1] == [1] and constants(after, "Slice", 2)[-1] == [3]
    same(parse(f"{body} {calls}"), after)


def test_split_of_concat_into_computed_sizes() -> None:
    head = f"(float[N, 2] x, float[M, 2] z) => (float[a, 2] y, float[b, 2] w) {WEIGHTS}"
    calls = "s = Shape(x)  n = Slice(s, v0, v1)  t = Shape(z)  m = Slice(t, v0, v1)  c = Concat<axis = 0>(x, z)"
    split = "u = Concat<axis = 0>({})  p, q = Split<axis = 0>(c, u)  y = Neg(p)  w = Neg(q)"
    fires("split-of-concat dead-code", f"{head} {{ {calls} {split.format('n, m')} }}", "Neg Neg")
    body = f"{head} {{ {calls} {split.format('m, n')} }}"
    refuses("split-of-concat", body, "not certainly the same")


def test_resize_to_a_computed_size() -> None:
    head = "(float[N, 2, H, W] x) => (float[a, b, c, d] y) <float none = {1}, int64 i = {2}>"
    call = 'Resize<mode = "linear">(x, , , t)  y = Relu(r)'
    fires("eliminate-resize dead-code", f"{head} {{ z = Neg(x)  t = Shape(z)  r = {call} }}", "Relu")
    refuses("eliminate-resize", f"{head} {{ z = Transpose<perm = [0, 1, 3, 2]>(x)  t = Shape(z)  r = {call} }}")


def test_squeeze_of_dims_that_are_no_1() -> None:
    head = f"(float[N, 3] x) => (float[a, b] y) {WEIGHTS}"
    fires("eliminate-squeeze", f"{head} {{ c = Concat<axis = 0>(x, five)  d = Squeeze(c)  y = Neg(d) }}", "Concat Neg")
    refuses("eliminate-squeeze", f"{head} {{ c = Concat<axis = 0>(x, x)  y = Squeeze(c) }}")


def test_views_next_to_a_dim_that_is_positive() -> None:
    """[N + 5, 3] as [0, -1, 3]: no error, as N + 5 is not 0; beside N it might be one."""
    lines = (
        "d = Shape(c)  k = Slice(d, v0, v1)  t = Concat<axis = 0>(k, m1, v1)  a = Unsqueeze(c, v2)  y = Reshape(a, t)"
    )
    head = f"(float[N, 3] x) => (float[a, b, c] y) {WEIGHTS}"
    fires("compose-views dead-code", f"{head} {{ c = Concat<axis = 0>(x, five)  {lines} }}", "Concat Reshape")


def test_views_of_a_computed_shape() -> None:
    """The second shape is computed, and cannot hold a 0 that copies."""
    head = f"(float[N, 6] x, float[M] z) => (float[a, b, c] y) {WEIGHTS}"
    sizes = "d = Shape(z)  k = Add(d, v1)  t = Concat<axis = 0>(k, {}, m1)  a = Flatten<axis = 0>(x)  y = Reshape(a, t)"
    after, report = apply(parse(f"{head} {{ {sizes.format('v2')} }}"), "compose-views")
    assert fired(report) and "Flatten" not in nodes(after)
    refuses("compose-views", f"{head} {{ {sizes.format('d')} }}", "not known")


# -- what a Reshape that succeeds says ---------------------------------------------------------------------------------

FAILS_AT_0 = "u = Concat<axis = 0>(n, m, v2, m1)  z = Reshape(x, u)"  # [N, M, 2, -1] is an error where N or M is 0


def test_a_dim_that_a_reshape_asks_to_be_positive() -> None:
    """With N positive [N, 2, 6 M] can be written as [0, 2, -1]."""
    rest = "k = Mul(m, v6)  t = Concat<axis = 0>(n, v2, k)  y = Reshape(x, t)"
    alone = f"(float[N, M, 12] x) => (float[a, b, c] y) {WEIGHTS} {{ {SIZES} {rest} }}"
    refuses("fold-shapes", alone, "not known")
    both = f"(float[N, M, 12] x) => (float[a, b, c] y, float[p, q, r, t] z) {WEIGHTS} {{ {SIZES} {rest} {FAILS_AT_0} }}"
    after, report = apply(parse(both), "fold-shapes")
    assert fired(report) and constants(after, "Reshape") == [[0, 2, -1], [0, 0, 2, -1]]
    same(parse(both), after)


THEN = "then_branch = g1 () => (float[e, f, g, h] v) { v = Neg(z) }"
ELSE = "else_branch = g2 () => (float[i, j, k, l] o) { o = Unsqueeze(x, v1) }"


@pytest.mark.parametrize(
    ("outputs", "use"),
    [
        ("float[p, q, r, t] w", "x4 = Unsqueeze(x, v1)  w = Neg(x4)"),  # nobody reads z
        ("int64[4] w", "w = Shape(z)"),  # only its shape is read, which a runtime may know without it
        ("float[p, q, r, t] w", f"w = If(c) < {THEN}, {ELSE} >"),  # it may be left out with the branch
    ],
)
def test_a_reshape_that_may_not_be_run_says_nothing(outputs: str, use: str) -> None:
    rest = "k = Mul(m, v6)  t = Concat<axis = 0>(n, v2, k)  y = Reshape(x, t)"
    inputs = "(float[N, M, 12] x, bool c)" if "If" in use else "(float[N, M, 12] x)"
    body = f"{inputs} => (float[a, b, d] y, {outputs}) {WEIGHTS} {{ {SIZES} {FAILS_AT_0} {rest} {use} }}"
    after, _ = apply(parse(body), "fold-shapes")
    assert [] in constants(after, "Reshape"), "the first one stays computed"


def test_a_reshape_in_a_branch_says_nothing() -> None:
    rest = "k = Mul(m, v6)  t = Concat<axis = 0>(n, v2, k)  y = Reshape(x, t)"
    branch = f"then_branch = g1 () => (float[e, f, g, h] z) {{ {FAILS_AT_0} }}"
    head = f"(float[N, M, 12] x, bool c) => (float[a, b, d] y, float[p, q, r, t] w) {WEIGHTS}"
    before = parse(f"{head} {{ {SIZES} {rest} w = If(c) < {branch}, {ELSE} > }}")
    after, _ = apply(before, "fold-shapes")
    assert constants(after, "Reshape") == [[]]
    empty = {"x": np.zeros((0, 3, 12), np.float32), "c": np.array(False)}
    same(before, after, empty)


def test_a_zero_that_copies_something_else_says_nothing() -> None:
    """[M, -1]: where M is 0 the dim N is copied, and nothing fails."""
    body = f"(float[N, M] x) => (float[a, b] y, float[c, d] z) {WEIGHTS} {{ {SIZES} u = Concat<axis = 0>(m, m1)"
    before = parse(f"{body}  z = Reshape(x, u)  k = Mul(m, v2)  t = Concat<axis = 0>(k, m1)  y = Reshape(x, t) }}")
    after, _ = apply(before, "fold-shapes")
    assert constants(after, "Reshape") == [[], []]
    same(before, after, {"x": np.zeros((3, 0), np.float32)})


def test_a_size_that_vanishes_with_the_dim_in_its_place() -> None:
    """[N M] as [N, 1, M]: where N is 0, what is copied is 0, too, so that the shape is as it is written."""
    calls = "p = Mul(n, m)  f = Reshape(x, p)  t = Concat<axis = 0>(n, v1, m)  g = Reshape(f, t)  u = Shape(g)"
    ends = "e = Slice(u, v0, v1)  d = Slice(x, v0, e, v0)  y = Neg(d)"
    body = f"(float[N, M] x) => (float[a, b] y) {WEIGHTS} {{ {SIZES} {calls} {ends} }}"
    after, _ = apply(parse(body), "fold-shapes", "simplify", "dead-code")
    assert nodes(after) == "Neg"
    for shape in ((2, 3), (0, 3)):
        same(parse(body), after, {"x": np.ones(shape, np.float32)})


def test_conditions_on_sizes_that_are_known_to_be_positive() -> None:
    """Greater(N, 0) holds wherever the model can be run."""
    body = f"(float[N, M, 4] x) => (float[a, b, c] y, bool[1] w) {WEIGHTS} {{ {SIZES}"
    before = parse(f"{body} t = Concat<axis = 0>(n, m, m1)  y = Reshape(x, t)  g = Greater(n, v0)  w = Identity(g) }}")
    after, _ = apply(before, "fold-shapes", "dead-code")
    assert "Greater" not in nodes(after) and "Shape" not in nodes(after)
    same(before, after)


def test_quotients_come_out_equal() -> None:
    """floor(floor(N / 2) / 3) == floor(N / 6)"""
    calls = "h = Div(n, v2)  q = Div(h, three)  d = Div(n, v6)  e = Sub(q, d)  y = Identity(e)"
    weights = WEIGHTS.replace("<", "<int64[1] three = {3}, ")
    body = f"(float[N, M] x) => (int64[1] y) {weights} {{ {SIZES} {calls} }}"
    after, _ = apply(parse(body), "fold-shapes", "dead-code")
    assert nodes(after) == "Identity"
    same(parse(body), after)
