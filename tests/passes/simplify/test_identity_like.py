"""Operators that do nothing: Identity, Dropout, Cast, Transpose, reshaping ones, Pad, Slice, Concat, Split, Resize."""

from __future__ import annotations

import numpy as np
import pytest

from ..util import apply, fired
from .text import fires, nodes, parse, refuses, same

X = "(float[N, 3, 4] x) => (float[N, 3, 4] y)"


def test_identity() -> None:
    fires("eliminate-identity", f"{X} {{ a = Identity(x)  y = Relu(a) }}", "Relu")
    fires("eliminate-identity", f"{X} {{ a = Relu(x)  y = Identity(a) }}", "Relu")
    fires("eliminate-identity", f"{X} {{ a = Relu(x)  b = Identity(a)  y = Identity(b) }}", "Relu")


def test_identity_of_strings() -> None:
    fires("eliminate-identity", "(string[N] x) => (bool[N] y) { a = Identity(x)  y = Equal(a, x) }", "Equal", 19)


@pytest.mark.parametrize(
    "body",
    [
        f"{X} {{ y = Identity(x) }}",
        f"{X} <float[1, 3, 4] w = {{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}}> {{ y = Identity(w) }}",
        "(float[N] x) => (float[N] y, float[N] z) { y = Relu(x)  z = Identity(y) }",
    ],
)
def test_identity_that_gives_an_output_its_name(body: str) -> None:
    refuses("eliminate-identity", body)


def test_identity_of_an_outer_value_in_a_body() -> None:
    body = """(bool c, float[2] x) => (float[2] y) { y = If(c) <
        then_branch = t () => (float[2] r) { r = Identity(x) },
        else_branch = e () => (float[2] s) { a = Identity(x)  s = Neg(a) }> }"""
    before = parse(body)
    after, report = apply(before, "eliminate-identity")
    assert fired(report) == ["eliminate-identity"]
    branches = {a.name: [n.op_type for n in a.g.node] for a in after.graph.node[0].attribute}
    assert branches == {"then_branch": ["Identity"], "else_branch": ["Neg"]}
    for c in (True, False):
        same(before, after, {"c": np.array(c), "x": np.float32([1, -2])})


@pytest.mark.parametrize(
    ("opset", "call"),
    [
        (17, "Dropout(x)"),
        (17, "Dropout(x, half)"),
        (17, "Dropout(x, half, no)"),
        (17, "Dropout(x, , no)"),
        (17, "Dropout(x, zero, train)"),
        (10, "Dropout<ratio = 0.5>(x)"),
        (7, "Dropout<ratio = 0.5>(x)"),
    ],
)
def test_dropout(opset: int, call: str) -> None:
    train = "(float[N] x, bool train)" if "train" in call else "(float[N] x)"
    body = f"{train} => (float[N] y) <float half = {{0.5}}, float zero = {{0.0}}, bool no = {{0}}> "
    fires("eliminate-dropout", f"{body} {{ a = {call}  y = Relu(a) }}", "Relu", opset)


@pytest.mark.parametrize(
    ("opset", "nodes_", "reason"),
    [
        (17, "a = Dropout(x, half, yes)  y = Relu(a)", "not the constant false"),
        (17, "a = Dropout(x, half, train)  y = Relu(a)", "not the constant false"),
        (17, "a, m = Dropout(x)  b = Cast<to = 1>(m)  y = Add(a, b)", "mask is in use"),
        (6, "a = Dropout<ratio = 0.5>(x)  y = Relu(a)", "is_test is not set"),
    ],
)
def test_dropout_refused(opset: int, nodes_: str, reason: str) -> None:
    head = "(float[N] x, bool train) => (float[N] y) <float half = {0.5}, bool yes = {1}>"
    refuses("eliminate-dropout", f"{head} {{ {nodes_} }}", reason, opset)


def test_dropout_with_is_test() -> None:
    body = "(float[N] x) => (float[N] y) { a = Dropout<ratio = 0.5, is_test = 1>(x)  y = Relu(a) }"
    after, report = apply(parse(body, 6), "eliminate-dropout")
    assert nodes(after) == "Relu" and fired(report) == ["eliminate-dropout"]


def test_cast() -> None:
    fires("eliminate-cast", "(float[N] x) => (float[N] y) { a = Cast<to = 1>(x)  y = Relu(a) }", "Relu")
    fires("eliminate-cast", "(string[N] x) => (bool[N] y) { a = Cast<to = 8>(x)  y = Equal(a, x) }", "Equal", 19)
    refuses("eliminate-cast", "(float[N] x) => (double[N] y) { y = Cast<to = 11>(x) }")


def test_cast_like() -> None:
    head = "(float[N] x, float[M] f, int64[M] i)"
    fires("resolve-cast-like", f"{head} => (float[N] y) {{ a = CastLike(x, f)  y = Relu(a) }}", "Relu")
    feeds = {"x": np.float32([1.5, -2]), "f": np.float32([1]), "i": np.int64([1])}
    fires("resolve-cast-like", f"{head} => (int64[N] y) {{ y = CastLike(x, i) }}", "Cast", feeds=feeds)


def test_cast_like_of_an_unknown_type() -> None:
    rounded = '(float[N] x, float16 h) => (float16[N] y) { y = CastLike<round_mode = "nearest">(x, h) }'
    after = fires(
        "resolve-cast-like", rounded, "Cast", 24, feeds={"x": np.float32([1.5]), "h": np.array(1, np.float16)}
    )
    assert [a.name for a in after.graph.node[0].attribute] == ["to"]
    body = "(float[N] x) => (float[N] y) { t = com.example.Thing(x)  a = CastLike(x, t)  y = Relu(a) }"
    text = parse(body.replace("com.example.Thing", "Relu"))
    text.graph.node[0].domain, text.graph.node[0].op_type = "com.example", "Thing"
    text.opset_import.add(domain="com.example", version=1)
    after, report = apply(text, "resolve-cast-like")
    assert not fired(report) and report.refusals["resolve-cast-like"]
    assert nodes(after) == "Thing CastLike Relu"


def test_transpose() -> None:
    fires("eliminate-transpose", f"{X} {{ a = Transpose<perm = [0, 1, 2]>(x)  y = Relu(a) }}", "Relu")
    fires("eliminate-transpose", "(float[N] x) => (float[N] y) { a = Transpose(x)  y = Relu(a) }", "Relu")
    refuses("eliminate-transpose", "(float[N, M] x) => (float[M, N] y) { y = Transpose(x) }")
    refuses("eliminate-transpose", "(float[1, N] x) => (float[N, 1] y) { y = Transpose<perm = [1, 0]>(x) }")


@pytest.mark.parametrize(
    ("shape", "target"),
    [
        ("N, 3, 4", "0, 3, 4"),
        ("N, 3, 4", "-1, 3, 4"),
        ("N, M, 4", "0, 0, 4"),
        ("N, M, 4", "0, -1, 4"),
        ("N, M, 4", "0, 0, -1"),
        ("2, 3", "2, 3"),
        ("2, 3", "-1, 3"),
        ("N", "-1"),
    ],
)
def test_reshape(shape: str, target: str) -> None:
    head = f"(float[{shape}] x) => (float[{shape}] y) <int64[{target.count(',') + 1}] s = {{{target}}}>"
    fires("eliminate-reshape", f"{head} {{ a = Reshape(x, s)  y = Relu(a) }}", "Relu")


@pytest.mark.parametrize(
    ("shape", "target", "result"),
    [("N, 4", "-1, 2", "M, 2"), ("N, M", "-1, 3", "K, 3"), ("2, 3", "3, 2", "3, 2"), ("6", "2, 3", "2, 3")],
)
def test_reshape_that_changes_something(shape: str, target: str, result: str) -> None:
    head = f"(float[{shape}] x) => (float[{result}] y) <int64[2] s = {{{target}}}>"
    refuses("eliminate-reshape", f"{head} {{ y = Reshape(x, s) }}")


def test_reshape_with_allowzero() -> None:
    head = "(float[0, 3] x) => (float[a, b] y) <int64[2] s = {0, 3}, int64[2] t = {3, 0}>"
    fires("eliminate-reshape", f"{head} {{ a = Reshape<allowzero = 1>(x, s)  y = Relu(a) }}", "Relu")
    refuses("eliminate-reshape", f"{head} {{ a = Reshape<allowzero = 1>(x, t)  y = Relu(a) }}")


def test_flatten() -> None:
    fires("eliminate-flatten", "(float[N, 3] x) => (float[N, 3] y) { a = Flatten(x)  y = Relu(a) }", "Relu")
    fires("eliminate-flatten", "(float[N, 3] x) => (float[N, 3] y) { a = Flatten<axis = -1>(x)  y = Relu(a) }", "Relu")
    fires("eliminate-flatten", "(float[1, 3] x) => (float[1, 3] y) { a = Flatten<axis = 0>(x)  y = Relu(a) }", "Relu")
    refuses("eliminate-flatten", "(float[2, 3] x) => (float[1, 6] y) { y = Flatten<axis = 0>(x) }")
    refuses("eliminate-flatten", "(float[N, 3, 4] x) => (float[N, 12] y) { y = Flatten(x) }")


def test_squeeze() -> None:
    fires("eliminate-squeeze", "(float[2, 3] x) => (float[2, 3] y) { a = Squeeze(x)  y = Relu(a) }", "Relu")
    refuses("eliminate-squeeze", "(float[N, 3] x) => (float[a, b] y) { a = Squeeze(x)  y = Relu(a) }")
    refuses("eliminate-squeeze", "(float[1, 3] x) => (float[3] y) { a = Squeeze(x)  y = Relu(a) }")


def test_expand() -> None:
    ones = "<int64[3] ones = {1, 1, 1}, int64[4] more = {1, 1, 1, 1}, int64[3] own = {1, 3, 4}, int64[2] wide = {3, 4}>"
    for name in ("ones", "own", "wide"):
        fires("eliminate-expand", f"{X} {ones} {{ a = Expand(x, {name})  y = Relu(a) }}", "Relu")
    refuses(
        "eliminate-expand", f"{X.replace('y)', 'z, float[1, N, 3, 4] y)')} {ones} {{ z = Relu(x) y = Expand(x, more) }}"
    )
    refuses("eliminate-expand", "(float[N] x) => (float[M] y) <int64[1] s = {3}> { y = Expand(x, s) }")


def test_tile() -> None:
    fires("eliminate-tile", f"{X} <int64[3] r = {{1, 1, 1}}> {{ a = Tile(x, r)  y = Relu(a) }}", "Relu")
    refuses("eliminate-tile", "(float[N] x) => (float[M] y) <int64[1] r = {2}> { y = Tile(x, r) }")
    refuses("eliminate-tile", "(float[N] x, int64[1] r) => (float[M] y) { y = Tile(x, r) }")


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge"])
def test_pad(mode: str) -> None:
    call = f'a = Pad<mode = "{mode}">(x, p)  y = Relu(a)'
    fires("eliminate-pad", f"{X} <int64[6] p = {{0, 0, 0, 0, 0, 0}}> {{ {call} }}", "Relu")
    refuses("eliminate-pad", f"{X} <int64[6] p = {{0, 0, 0, 0, 0, 1}}> {{ {call} }}")


def test_pad_of_other_opsets() -> None:
    fires("eliminate-pad", f"{X} {{ a = Pad<pads = [0, 0, 0, 0, 0, 0]>(x)  y = Relu(a) }}", "Relu", 10)
    zeros = "<int64[2] p = {0, 0}, float v = {7}, int64[1] axes = {1}>"
    fires("eliminate-pad", f"{X} {zeros} {{ a = Pad(x, p, v, axes)  y = Relu(a) }}", "Relu", 18)
    refuses("eliminate-pad", "(float[N] x, int64[2] p) => (float[M] y) { y = Pad(x, p) }")


BIG = "9223372036854775807"


@pytest.mark.parametrize(
    ("starts", "ends", "axes", "steps"),
    [
        ("0, 0", f"3, {BIG}", "1, 2", "1, 1"),
        ("0", BIG, "0", "1"),
        ("0", "2147483647", "-3", "1"),
        ("-3", "100", "1", "1"),
        ("-9", "3", "1", "1"),
    ],
)
def test_slice(starts: str, ends: str, axes: str, steps: str) -> None:
    count = starts.count(",") + 1
    given = {"s": starts, "e": ends, "a": axes, "t": steps}
    weights = ", ".join(f"int64[{count}] {name} = {{{numbers}}}" for name, numbers in given.items())
    fires("eliminate-slice", f"{X} <{weights}> {{ z = Slice(x, s, e, a, t)  y = Relu(z) }}", "Relu")


@pytest.mark.parametrize(
    ("starts", "ends", "axes", "steps"),
    [
        ("1", BIG, "1", "1"),
        ("0", "2", "1", "1"),
        ("0", "100", "0", "1"),  # N may be larger
        ("-3", BIG, "0", "1"),
        ("-1", "-9", "1", "-1"),
        ("0", BIG, "2", "2"),
        ("0", "-1", "2", "1"),
    ],
)
def test_slice_that_cuts(starts: str, ends: str, axes: str, steps: str) -> None:
    given = {"s": starts, "e": ends, "a": axes, "t": steps}
    weights = ", ".join(f"int64[1] {name} = {{{numbers}}}" for name, numbers in given.items())
    refuses("eliminate-slice", f"(float[N, 3, 4] x) => (float[a, b, c] y) <{weights}> {{ y = Slice(x, s, e, a, t) }}")


def test_slice_of_other_forms() -> None:
    fires(
        "eliminate-slice", f"{X} {{ z = Slice<starts = [0], ends = [{BIG}], axes = [1]>(x)  y = Relu(z) }}", "Relu", 9
    )
    fires(
        "eliminate-slice",
        f"{X} <int64[1] s = {{0}}, int64[1] e = {{{BIG}}}> {{ z = Slice(x, s, e)  y = Relu(z) }}",
        "Relu",
    )
    body = "(float[N, 3] x, int64[1] s) => (float[a, b] y) <int64[1] e = {9}> { y = Slice(x, s, e) }"
    refuses("eliminate-slice", body)


def test_concat() -> None:
    fires("eliminate-concat", f"{X} {{ z = Concat<axis = 1>(x)  y = Relu(z) }}", "Relu")
    empty = "(float[N, 3] x, float[N, 0] e) => (float[N, M] y)"
    fires("eliminate-concat", f"{empty} {{ z = Concat<axis = 1>(e, x, e)  y = Relu(z) }}", "Relu")
    fires("eliminate-concat", f"{empty} {{ z = Concat<axis = -1>(x, e, x)  y = Relu(z) }}", "Concat Relu")
    fires("eliminate-concat", f"{empty} {{ z = Concat<axis = 1>(e, e)  y = Relu(z) }}", "Relu")


def test_concat_that_joins() -> None:
    refuses("eliminate-concat", "(float[N, 3] x, float[0, 3] e) => (float[M, 6] y) { y = Concat<axis = 1>(e, x) }")
    refuses("eliminate-concat", "(float[N, 3] x, float[M, 3] e) => (float[K, 3] y) { y = Concat<axis = 0>(e, x) }")


def test_split() -> None:
    fires("eliminate-split", f"{X} {{ z = Split<axis = 1>(x)  y = Relu(z) }}", "Relu", 13)
    fires("eliminate-split", f"{X} {{ z = Split<axis = 1, num_outputs = 1>(x)  y = Relu(z) }}", "Relu", 18)


IMAGE = "(float[N, 2, 4, 5] x) => (float[N, 2, 4, 5] y) <float[4] one = {1, 1, 1, 1}, int64[4] own = {2, 2, 4, 5}>"


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("transform", ["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"])
def test_resize(mode: str, transform: str) -> None:
    call = f'z = Resize<mode = "{mode}", coordinate_transformation_mode = "{transform}">(x, , one)'
    fires("eliminate-resize", f"{IMAGE} {{ {call}  y = Relu(z) }}", "Relu")


def test_resize_to_its_own_size() -> None:
    fixed = IMAGE.replace("N", "2")
    fires("eliminate-resize", f'{fixed} {{ z = Resize<mode = "linear">(x, , , own)  y = Relu(z) }}', "Relu")
    refuses("eliminate-resize", f'{IMAGE} {{ z = Resize<mode = "linear">(x, , , own)  y = Relu(z) }}')
    axes = fixed.replace("int64[4] own = {2, 2, 4, 5}", "int64[2] own = {4, 5}")
    call = 'z = Resize<mode = "linear", axes = [-2, 3]>(x, , , own)  y = Relu(z)'
    after, _ = apply(
        parse(f"{axes} {{ {call} }}", 18), "eliminate-resize"
    )  # not run: ONNX Runtime 1.23 wants a roi here
    assert nodes(after) == "Relu"


def test_resize_of_other_opsets() -> None:
    fires("eliminate-resize", f"{IMAGE} {{ z = Resize(x, one)  y = Relu(z) }}", "Relu", 10)
    fires("eliminate-resize", f"{IMAGE} {{ z = Upsample(x, one)  y = Relu(z) }}", "Relu", 9)
    fires("eliminate-resize", f"{IMAGE} {{ z = Upsample<scales = [1.0, 1.0, 1.0, 1.0]>(x)  y = Relu(z) }}", "Relu", 7)


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        ("Resize(x, roi, almost)", ""),
        ("Resize(x, roi, s)", ""),
        ('Resize<coordinate_transformation_mode = "tf_crop_and_resize">(x, roi, one)', "moves pixels"),
        ('Resize<coordinate_transformation_mode = "tf_half_pixel_for_nn">(x, roi, one)', "moves pixels"),
    ],
)
def test_resize_that_changes_something(call: str, reason: str) -> None:
    head = IMAGE.replace("5] x)", "5] x, float[4] s)").replace(
        "<", "<float[4] almost = {1, 1, 1.1, 1}, float[8] roi = {0, 0, 0, 0, 1, 1, 1, 0.5}, "
    )
    refuses("eliminate-resize", f"{head} {{ z = {call}  y = Relu(z) }}", reason, 11)
