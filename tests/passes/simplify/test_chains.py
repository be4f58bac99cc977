"""Chains of Transpose, Cast, Slice, Pad, Concat, Split and of the operators that only reshape."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, numpy_helper

from graphopt.passes.simplify.cast_chain import holds

from ..util import apply, fired
from .text import fires, nodes, parse, refuses, same

X = "(float[N, 3, 4] x)"
ANY = "(float[a, b, c] y)"


def test_transposes() -> None:
    both = "a = Transpose<perm = [1, 2, 0]>(x)  y = Transpose<perm = [1, 0, 2]>(a)"
    after = fires("compose-transposes", f"{X} => {ANY} {{ {both} }}", "Transpose")
    assert list(after.graph.node[0].attribute[0].ints) == [2, 1, 0]
    undone = "a = Transpose<perm = [1, 2, 0]>(x)  b = Transpose<perm = [2, 0, 1]>(a)  y = Neg(b)"
    fires("compose-transposes", f"{X} => {ANY} {{ {undone} }}", "Neg")
    fires("compose-transposes", f"{X} => {ANY} {{ a = Transpose(x)  b = Transpose(a)  y = Neg(b) }}", "Neg")
    shared = "a = Transpose<perm = [1, 2, 0]>(x)  b = Transpose<perm = [2, 0, 1]>(a)  y = Neg(b)  z = Abs(a)"
    fires("compose-transposes", f"{X} => (float[a, b, c] y, float[d, e, f] z) {{ {shared} }}", "Transpose Neg Abs")


def test_transposes_of_unknown_rank() -> None:
    body = "(float[N, 3] x) => (float[a, b] y) { t = Relu(x)  p = Transpose<perm = [1, 0]>(t)  y = Transpose(p) }"
    before = parse(body)
    before.graph.node[0].domain = "com.example"  # nothing is known of what it makes
    before.opset_import.add(domain="com.example", version=1)
    after, report = apply(before, "compose-transposes")
    assert nodes(after) == "Relu Transpose Transpose"
    assert report.refusals["compose-transposes"]


def numpy_type(name: str) -> int:
    return int(getattr(TensorProto, name))


WORDS = {
    "BOOL": "bool", "INT8": "int8", "UINT8": "uint8", "INT32": "int32", "INT64": "int64", "FLOAT16": "float16",
    "FLOAT": "float", "DOUBLE": "double",
}  # fmt: skip


@pytest.mark.parametrize(
    ("a", "b", "c", "left"),
    [
        ("BOOL", "FLOAT", "BOOL", ""),
        ("BOOL", "INT64", "FLOAT", "Cast"),
        ("INT32", "INT64", "INT32", ""),
        ("INT32", "DOUBLE", "INT64", "Cast"),
        ("INT64", "INT64", "FLOAT", "Cast"),
        ("INT32", "INT64", "INT8", "Cast"),
        ("UINT8", "FLOAT16", "INT32", "Cast"),
        ("INT8", "FLOAT", "FLOAT16", "Cast"),
        ("FLOAT16", "FLOAT", "FLOAT16", ""),
        ("FLOAT16", "FLOAT", "DOUBLE", "Cast"),
        ("FLOAT", "DOUBLE", "FLOAT16", "Cast"),
        ("FLOAT", "DOUBLE", "BOOL", "Cast"),
        ("INT32", "DOUBLE", "FLOAT", "Cast"),
    ],
)
def test_casts(a: str, b: str, c: str, left: str) -> None:
    end = "Not" if c == "BOOL" else "Abs"
    body = f"({WORDS[a]}[N, 7] x) => ({WORDS[c]}[N, 7] y) {{ p = Cast<to = {numpy_type(b)}>(x)"
    fires("compose-casts", f"{body}  q = Cast<to = {numpy_type(c)}>(p)  y = {end}(q) }}", f"{left} {end}".strip())


@pytest.mark.parametrize(
    ("a", "b", "c", "reason"),
    [
        ("INT64", "INT32", "INT64", "cannot hold"),
        ("INT64", "FLOAT", "INT64", "cannot hold"),
        ("FLOAT", "FLOAT16", "FLOAT", "cannot hold"),
        ("FLOAT", "INT64", "FLOAT", "cannot hold"),
        ("FLOAT", "BOOL", "FLOAT", "cannot hold"),
        ("INT8", "UINT8", "INT32", "cannot hold"),
        ("FLOAT16", "FLOAT", "INT8", "round or wrap"),
        ("INT32", "DOUBLE", "INT8", "round or wrap"),
        ("INT32", "DOUBLE", "FLOAT16", "round or wrap"),
    ],
)
def test_casts_refused(a: str, b: str, c: str, reason: str) -> None:
    body = f"({WORDS[a]}[N] x) => ({WORDS[c]}[N] y) {{ p = Cast<to = {numpy_type(b)}>(x)"
    refuses("compose-casts", f"{body}  y = Cast<to = {numpy_type(c)}>(p) }}", reason)


def test_casts_of_strings_and_small_floats() -> None:
    body = "(int64[N] x) => (int64[N] y) { a = Cast<to = 8>(x)  y = Cast<to = 7>(a) }"
    refuses("compose-casts", body, "value alone")
    body = "(float8e4m3fn[N] x) => (float16[N] y) { a = Cast<to = 1>(x)  y = Cast<to = 10>(a) }"
    refuses("compose-casts", body, "value alone", 19)


def test_what_holds_what() -> None:
    types = {"BOOL": np.bool_, "INT8": np.int8, "UINT8": np.uint8, "INT32": np.int32, "INT64": np.int64}
    floats = {"FLOAT16": np.float16, "FLOAT": np.float32, "DOUBLE": np.float64}
    for wide, wide_type in (types | floats).items():
        for narrow, narrow_type in (types | floats).items():
            ours = holds(numpy_type(wide), numpy_type(narrow))
            if wide in types or narrow in floats:
                assert ours == np.can_cast(narrow_type, wide_type, "safe"), (wide, narrow)
            elif narrow != "INT64":  # numpy calls int64 to float64 safe, and uint8 to float16 not
                assert ours == (np.iinfo(narrow_type).max < 2**25 if narrow != "BOOL" else True) or wide == "DOUBLE"
    assert not holds(TensorProto.DOUBLE, TensorProto.INT64)


def slices(*cuts: str) -> tuple[str, str]:
    """Weights and nodes of Slices, each written as "start end axis step"."""
    weights, calls = [], []
    for number, cut in enumerate(cuts):
        for name, value in zip("seat", cut.split(), strict=True):
            weights.append(f"int64[1] {name}{number} = {{{value}}}")
        source, result = f"v{number - 1}" if number else "x", "y" if number == len(cuts) - 1 else f"v{number}"
        calls.append(f"{result} = Slice({source}, s{number}, e{number}, a{number}, t{number})")
    return ", ".join(weights), "  ".join(calls)


@pytest.mark.parametrize(
    "cuts",
    [
        ("1 3 1 1", "0 2 2 1"),
        ("-2 9 1 1", "-1 -9 2 -1"),
        ("1 3 -1 1", "0 2 -2 2"),
        ("1 9223372036854775807 1 1", "1 2 1 1"),
        ("0 2 1 1", "1 9223372036854775807 1 1"),
        ("1 3 2 1", "1 1 2 1"),
        ("2 9 2 1", "5 9 2 1"),
        ("1 3 1 1", "-1 9 1 1"),
        ("0 -1 2 1", "0 1 2 1"),
        ("-3 -1 2 1", "-5 -1 2 1"),
    ],
)
def test_slices(cuts: tuple[str, ...]) -> None:
    weights, calls = slices(*cuts)
    fires("compose-slices", f"(float[N, 3, 4] x) => {ANY} <{weights}> {{ {calls} }}", "Slice")


@pytest.mark.parametrize(
    "cuts", [("1 3 1 1", "-1 9 1 1"), ("0 3 1 2", "0 1 1 1"), ("0 -1 2 1", "0 1 2 1"), ("3 0 2 -1", "0 2 2 1")]
)
def test_slices_refused(cuts: tuple[str, ...]) -> None:
    """Counted from the end of a dim that is not known, or in steps."""
    weights, calls = slices(*cuts)
    refuses("compose-slices", f"(float[N, M, K] x) => {ANY} <{weights}> {{ {calls} }}", "same axis")


def test_slices_refused_for_other_reasons() -> None:
    weights, calls = slices("1 3 1 1", "0 2 2 1")
    refuses("compose-slices", f"(float[N, 3, 4] x) => {ANY[:-1]}, float[d, e, f] v0) <{weights}> {{ {calls} }}")
    computed = calls.replace("s1,", "s,")
    refuses("compose-slices", f"(float[N, 3, 4] x, int64[1] s) => {ANY} <{weights}> {{ {computed} }}", "not constant")


def test_slices_of_opset_9() -> None:
    calls = "a = Slice<starts = [1], ends = [9], axes = [1]>(x)  y = Slice<starts = [0], ends = [2]>(a)"
    fires("compose-slices", f"{X} => {ANY} {{ {calls} }}", "Slice", 9)


PADS = (
    "<int64[6] p = {0, 0, 1, 0, 2, 0}, int64[6] q = {1, 0, 0, 0, 1, 3}, int64[6] m = {0, -1, "
    "0, 0, 0, 0}, float v = {7}, float z = {0}>"
)


def test_pads() -> None:
    fires("compose-pads", f"{X} => {ANY} {PADS} {{ a = Pad(x, p, v)  y = Pad(a, q, v) }}", "Pad")
    fires("compose-pads", f"{X} => {ANY} {PADS} {{ a = Pad(x, p)  y = Pad(a, q, z) }}", "Pad")
    old = "a = Pad<pads = [0, 1, 0, 0, 0, 2], value = 3.0>(x)  y = Pad<pads = [0, 0, 1, 0, 1, 0], value = 3.0>(a)"
    fires("compose-pads", f"{X} => {ANY} {{ {old} }}", "Pad", 10)


@pytest.mark.parametrize(
    ("calls", "reason"),
    [
        ("a = Pad(x, p, v)  y = Pad(a, q)", "different"),
        ("a = Pad(x, p, w)  y = Pad(a, q, w)", "computed"),
        ('a = Pad<mode = "edge">(x, p)  y = Pad<mode = "edge">(a, q)', "constant padding"),
        ("a = Pad(x, p)  y = Pad(a, m)", "negative"),
        ("a = Pad(x, given)  y = Pad(a, p)", "not constant"),
    ],
)
def test_pads_refused(calls: str, reason: str) -> None:
    refuses("compose-pads", f"(float[N, 3, 4] x, float w, int64[6] given) => {ANY} {PADS} {{ {calls} }}", reason)


def test_pads_of_chosen_axes() -> None:
    weights = "<int64[2] p = {1, 2}, int64[6] q = {0, 0, 3, 0, 5, 0}, int64[1] axes = {-2}, float v = {0}>"
    calls = "a = Pad(x, p, v, axes)  y = Pad(a, q, v)"
    after = fires("compose-pads", f"{X} => {ANY} {weights} {{ {calls} }}", "Pad", 18)
    assert any(list(numpy_helper.to_array(t).reshape(-1)) == [0, 1, 3, 0, 7, 0] for t in after.graph.initializer)


def test_pads_of_axes_that_are_not_certain() -> None:
    weights = "<int64[2] p = {1, 2}, float v = {0}>"
    calls = "a = Pad(x, p, v, axes)  y = Pad(a, p, v, axes)"
    refuses("compose-pads", f"(float[N, 3, 4] x, int64[1] axes) => {ANY} {weights} {{ {calls} }}", "not constant", 18)


AB = "(float[N, 3] p, float[N, 2] q) => (float[N, M] y)"


def test_concats() -> None:
    fires("flatten-concats", f"{AB} {{ a = Concat<axis = 1>(p, q)  y = Concat<axis = 1>(q, a, p) }}", "Concat")
    fires("flatten-concats", f"{AB} {{ a = Concat<axis = -1>(p, q)  y = Concat<axis = 1>(a, p) }}", "Concat")
    refuses("flatten-concats", f"{AB} {{ a = Concat<axis = 1>(p, q)  y = Concat<axis = 1>(a, a) }}")
    refuses(
        "flatten-concats",
        "(float[N, 3] p) => (float[a, b] y) { a = Concat<axis = 0>(p, p)  y = Concat<axis = 1>(a, a) }",
    )
    refuses(
        "flatten-concats", f"{AB[:-1]}, float[N, K] a) {{ a = Concat<axis = 1>(p, q)  y = Concat<axis = 1>(a, q) }}"
    )
    refuses(
        "flatten-concats",
        f"{AB} {{ a = Concat<axis = 1>(p, q)  b = Concat<axis = 1>(a, q)  c = Concat<axis = 1>(a, q)  y = Add(b, c) }}",
    )


def test_concat_of_split() -> None:
    split = "(float[N, 6] x) => (float[a, b] y) { p, q = Split<axis = 1>(x)"
    fires("concat-of-split", f"{split}  z = Concat<axis = -1>(p, q)  y = Neg(z) }}", "Neg", 13)
    refuses("concat-of-split", f"{split}  y = Concat<axis = 1>(q, p) }}", opset=13)
    refuses("concat-of-split", f"{split}  y = Concat<axis = 0>(p, q) }}", opset=13)
    refuses("concat-of-split", f"{split}  y = Concat<axis = 1>(p, q, q) }}", opset=13)
    refuses("concat-of-split", f"{split}  y = Concat<axis = 1>(p) }}", opset=13)


def test_split_of_concat() -> None:
    head = (
        "(float[N, 2] p, float[N, 3] q) => (float[N, 2] y, float[N, 3] z) <int64[2] own = {2, "
        "3}, int64[2] other = {3, 2}>"
    )
    joined = "{ c = Concat<axis = 1>(p, q)"
    fires("split-of-concat", f"{head} {joined}  a, b = Split<axis = -1>(c, own)  y = Neg(a)  z = Neg(b) }}", "Neg Neg")
    fires("split-of-concat", f"{head} {joined}  y, z = Split<axis = 1>(c, own) }}", "Identity Identity")
    swapped = f"{head.replace('2] y, float[N, 3]', '3] y, float[N, 2]')} {joined}  y, z = Split<axis = 1>(c, other) }}"
    refuses("split-of-concat", swapped, "not certainly the same")
    even = (
        "(float[N, 2] p) => (float[N, 2] y, float[N, 2] z) { c = Concat<axis = 1>(p, p)  a, "
        "b = Split<axis = 1>(c)  y = Neg(a)  z = Neg(b) }"
    )
    fires("split-of-concat", even, "Neg Neg", 13)
    batch = (
        "(float[N, 2] p, float[N, 2] q) => (float[a, 2] y, float[b, "
        "2] z) { c = Concat<axis = 0>(p, q)  y, z = Split<axis = 0>(c) }"
    )
    fires("split-of-concat", batch, "Identity Identity", 13)
    refuses("split-of-concat", batch.replace("float[N, 2] q", "float[M, 2] q"), "not certainly the same", 13)
    three = (
        "(float[N, 2] p) => (float[N, 1] y, float[N, 1] z, float[N, 2] w) <int64[3] s = {1, 1, "
        "2}> { c = Concat<axis = 1>(p, p)  y, z, w = Split<axis = 1>(c, s) }"
    )
    refuses("split-of-concat", three)


SHAPES = (
    "<int64[2] flat = {-1, 12}, int64[2] copy = {0, -1}, int64[3] own = {0, 3, 4}, int64[1] all = {-1}, "
    "int64[3] three = {-1, 4, 3}, int64[1] one = {1}, int64[1] two = {2}, int64[1] last = {-1}, "
    "int64[2] both = {0, 2}, int64[4] four = {0, 1, 3, 4}>"
)


@pytest.mark.parametrize(
    ("calls", "left", "rank"),
    [
        ("a = Reshape(x, flat)  y = Reshape(a, three)", "Reshape", 3),
        ("a = Reshape(x, all)  y = Reshape(a, three)", "Reshape", 3),
        ("a = Flatten<axis = 1>(x)  y = Reshape(a, three)", "Reshape", 3),
        ("a = Flatten<axis = 2>(x)  y = Reshape(a, flat)", "Reshape", 2),
        ("a = Unsqueeze(x, one)  y = Reshape(a, flat)", "Reshape", 2),
        ("a = Unsqueeze(x, one)  y = Reshape(a, copy)", "Reshape", 2),
        ("a = Unsqueeze(x, one)  y = Flatten(a)", "Reshape", 2),
        ("a = Unsqueeze(x, one)  b = Squeeze(a, one)  y = Neg(b)", "Neg", 3),
        ("a = Unsqueeze(x, last)  b = Reshape(a, own)  y = Neg(b)", "Neg", 3),
        ("a = Unsqueeze(x, one)  y = Unsqueeze(a, one)", "Unsqueeze", 5),
        ("a = Unsqueeze(x, both)  y = Unsqueeze(a, last)", "Unsqueeze", 6),
        ("a = Unsqueeze(x, last)  y = Unsqueeze(a, one)", "Unsqueeze", 5),
        ("a = Reshape(x, four)  b = Squeeze(a, one)  y = Neg(b)", "Neg", 3),
    ],
)
def test_views(calls: str, left: str, rank: int) -> None:
    dims = ", ".join("abcdef"[:rank])
    fires("compose-views", f"{X} => (float[{dims}] y) {SHAPES} {{ {calls} }}", left)


def test_squeezes() -> None:
    head = (
        "(float[N, 1, 3, 1] x) => (float[N, 3] y) <int64[1] one = {1}, int64[1] two = {2}, "
        "int64[1] last = {-1}, int64[2] both = {1, 3}>"
    )
    fires("compose-views", f"{head} {{ a = Squeeze(x, one)  y = Squeeze(a, two) }}", "Squeeze")
    fires("compose-views", f"{head} {{ a = Squeeze(x, last)  y = Squeeze(a, one) }}", "Squeeze")
    again = head.replace("float[N, 3] y", "float[N, 1, 3, 1] y")
    fires("compose-views", f"{again} {{ a = Squeeze(x, both)  b = Unsqueeze(a, both)  y = Neg(b) }}", "Neg")
    moved = head.replace("float[N, 3] y", "float[N, 3, 1, 1] y")
    after = fires("compose-views", f"{moved} {{ a = Squeeze(x, one)  y = Unsqueeze(a, two) }}", "Reshape")
    assert numpy_helper.to_array(after.graph.initializer[-1]).tolist() == [0, 3, 1, 1]
    old = "(float[N, 1, 3, 1] x) => (float[N, 3] y) { a = Squeeze<axes = [1]>(x)  y = Squeeze<axes = [2]>(a) }"
    fires("compose-views", old, "Squeeze", 11)


@pytest.mark.parametrize(
    ("head", "calls"),
    [
        ("(float[B, N, M] x) => (float[a, b, c] y)", "a = Flatten<axis = 2>(x)  y = Reshape(a, zero)"),
        ("(float[B, N, M] x) => (float[a, b] y)", "a = Unsqueeze(x, one)  y = Flatten<axis = 2>(a)"),
        ("(float[B, N, 6] x, int64[2] s) => (float[a, b] y)", "a = Unsqueeze(x, one)  y = Reshape(a, s)"),
    ],
)
def test_views_refused(head: str, calls: str) -> None:
    weights = "<int64[3] zero = {0, 3, -1}, int64[1] one = {1}>"
    refuses("compose-views", f"{head} {weights} {{ {calls} }}", "not known")


def test_views_of_nothing() -> None:
    """With a dim of size 0 a -1 that was not there would be an error."""
    head = "x) => (float[a, b] y) <int64[1] one = {1}> { a = Unsqueeze(x, one)"
    before = parse(f"(float[B, N, 4] {head}  y = Flatten<axis = 1>(a) }}")
    after, report = apply(before, "compose-views")
    assert not fired(report)
    for size in (0, 2):
        same(before, after, {"x": np.zeros((size, 3, 4), np.float32)})
        fires(
            "compose-views",
            f"(float[N, 3, 4] {head}  y = Flatten(a) }}",
            "Reshape",
            feeds={"x": np.zeros((size, 3, 4), np.float32)},
        )


def test_second_reshape_copies_a_dim_of_the_first() -> None:
    weights = "<int64[3] first = {4, 3, -1}, int64[2] second = {0, -1}>"
    body = f"(float[N, 12] x) => (float[a, b] y) {weights} {{ a = Reshape(x, first)  y = Reshape(a, second) }}"
    after = fires("compose-views", body, "Reshape")
    assert numpy_helper.to_array(after.graph.initializer[-1]).tolist() == [4, -1]


def test_allowzero() -> None:
    weights = "<int64[2] first = {0, 6}, int64[3] second = {3, 0, 2}>"
    calls = "a = Reshape<allowzero = 1>(x, first)  y = Reshape<allowzero = 1>(a, second)"
    body = f"(float[0, 2, 3] x) => (float[3, 0, 2] y) {weights} {{ {calls} }}"
    fires("compose-views", body, "Reshape", feeds={"x": np.zeros((0, 2, 3), np.float32)})
