from __future__ import annotations

import numpy as np
import pytest

import graphopt
from graphopt.passes.horizontal.batch_matmul import BatchMatmul

from ..util import apply, assert_same, fired, model, node, ops, rand, reasons
from .test_stack_inputs import feeds_of

ALWAYS = BatchMatmul(gain=0)


def weights_of(count=3, inner=4, columns=5, flipped=False, bias=False, **more):
    shape = (columns, inner) if flipped else (inner, columns)
    found = {f"w{k}": rand(*shape, seed=k) for k in range(count)}
    if bias:
        found |= {f"b{k}": rand(columns, seed=9 + k) for k in range(count)}
    return found | more


def products(count=3, op="MatMul", bias=False, **attrs):
    return [node(op, f"x{k} w{k}" + f" b{k}" * bias, f"y{k}", **attrs) for k in range(count)]


def names(letter, count=3):
    return [f"{letter}{k}" for k in range(count)]


def merges(before, left, item=ALWAYS, target="onnx"):
    after, report = apply(before, item, target=target)
    assert fired(report) == ["batch-matmul"]
    assert dict(ops(after)) == left
    for size in (3, 1, 0):
        assert_same(before, after, feeds_of(before, size), reference=None if size else False)
    return after


def stays(before, reason="", item=ALWAYS, target="onnx"):
    after, report = apply(before, item, target=target)
    assert not fired(report)
    assert ops(after) == ops(before)
    said = reasons(report, "batch-matmul")
    assert any(reason in text for text in said) if reason else not said, said


APART = {"Concat": 1, "MatMul": 1, "Reshape": 2, "Split": 1}


@pytest.mark.parametrize("opset", [7, 11, 13, 17, 18, 22])
@pytest.mark.parametrize("shape", [(2, 4), ("N", 4), ("N", 2, 4), (1, 4), (3, 2, 1, 4)])
def test_inputs_of_their_own(opset, shape):
    before = model(products(), {key: list(shape) for key in names("x")}, names("y"), weights_of(), opset=opset)
    sizes = {"Shape": 1, "Div": 1, "Tile": 1} if opset >= 18 and shape[0] == "N" else {}
    merges(before, APART | sizes)


@pytest.mark.parametrize("flipped", [0, 1])
def test_gemm_with_bias_and_what_follows(flipped):
    weights = weights_of(flipped=bool(flipped), bias=True) | {f"s{k}": rand(5, seed=20 + k) for k in range(3)}
    nodes = products(op="Gemm", bias=True, transB=flipped)
    nodes += [node("Relu", f"y{k}", f"r{k}") for k in range(3)] + [node("Mul", f"s{k} r{k}", f"z{k}") for k in range(3)]
    before = model(nodes, {key: ["N", 4] for key in names("x")}, names("z"), weights)
    merges(before, APART | {"Add": 1, "Relu": 1, "Mul": 1})


def test_gemms_that_store_weights_either_way():
    weights = weights_of(2) | {"w1": rand(5, 4, seed=7)}
    nodes = [node("Gemm", "x0 w0", "y0"), node("Gemm", "x1 w1", "y1", transB=1)]
    before = model(nodes, {"x0": [2, 4], "x1": [2, 4]}, ["y0", "y1"], weights)
    merges(before, APART)


@pytest.mark.parametrize("rows", [1, 2, "N"])
@pytest.mark.parametrize("axis", [0, 1])
def test_parts_of_a_split_back_into_a_concat(rows, axis):
    if axis == 0 and rows == "N":
        return
    whole = [3 * rows, 4] if axis == 0 else [rows, 12]
    size = rows if axis == 0 else 4
    nodes = [node("Split", "x s", "x0 x1 x2", axis=axis), *products(), node("Concat", "y0 y1 y2", "y", axis=axis)]
    before = model(nodes, {"x": whole}, ["y"], weights_of() | {"s": np.array([size] * 3)})
    swapped = {} if axis == 0 or rows == 1 else {"Transpose": 2}
    merges(before, {"MatMul": 1, "Reshape": 2} | swapped)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_gathers_of_every_index(order):
    nodes = [node("Gather", f"x i{k}", f"x{k}", axis=0) for k in order] + products()
    index = {f"i{k}": np.int64(k) for k in range(3)}
    before = model(nodes, {"x": [3, "N", 4]}, names("y"), weights_of() | index)
    merges(before, {"MatMul": 1, "Reshape": 1, "Split": 1})


def test_gathers_along_another_axis_are_put_side_by_side():
    nodes = [node("Gather", f"x i{k}", f"x{k}", axis=1) for k in range(3)] + products()
    index = {f"i{k}": np.int64(k) for k in range(3)}
    before = model(nodes, {"x": ["N", 3, 4]}, names("y"), weights_of() | index)
    merges(before, APART | {"Gather": 3})


def test_a_concat_of_more_keeps_the_rest_and_one_in_another_order_everything():
    nodes = [*products(), node("Concat", "x0 y0 y1 y2", "y", axis=1)]
    inputs = {key: [2, 4] for key in names("x")}
    merges(model(nodes, inputs, ["y"], weights_of()), {"Concat": 2, "MatMul": 1, "Reshape": 2, "Transpose": 1})
    nodes[-1] = node("Concat", "y2 y0 y0 y1", "y", axis=1)
    merges(model(nodes, inputs, ["y"], weights_of()), APART | {"Concat": 2})


def test_a_concat_says_the_order_where_the_inputs_do_not():
    nodes = [*products(), node("Concat", "y2 y0 y1", "y", axis=0)]
    before = model(nodes, {key: ["N", 4] for key in names("x")}, ["y"], weights_of())
    merges(before, {"Concat": 1, "MatMul": 1, "Reshape": 2})


def test_products_of_products_need_no_split_in_between():
    weights = weights_of(bias=True) | {f"v{k}": rand(2, 5, seed=30 + k) for k in range(3)}
    nodes = [*products(op="Gemm", bias=True), *(node("Relu", f"y{k}", f"r{k}") for k in range(3))]
    nodes += [node("Gemm", f"r{k} v{k}", f"z{k}", transB=1) for k in range(3)]
    before = model(nodes, {key: ["N", 4] for key in names("x")}, names("z"), weights)
    merges(before, APART | {"MatMul": 2, "Add": 1, "Relu": 1})


@pytest.mark.parametrize("case", ["shared", "shapes", "scaled", "on the left"])
def test_products_of_products_that_are_not_alike(case):
    weights = weights_of(2, columns=4) | {"v0": rand(4, 4, seed=5), "v1": rand(4, 4, seed=6)}
    nodes = [*products(2), node("Gemm", "y0 v0", "z0"), node("Gemm", "y1 v1", "z1")]
    if case == "shared":
        nodes[3].input[1] = "v0"
    elif case == "shapes":
        weights["v1"] = rand(4, 3)
    elif case == "scaled":
        nodes[2:] = [node("Gemm", f"y{k} v{k}", f"z{k}", alpha=2.0) for k in range(2)]
    elif case == "on the left":
        nodes[2:] = [node("MatMul", f"v{k} y{k}", f"z{k}") for k in range(2)]
    before = model(nodes, {key: [4, 4] for key in names("x", 2)}, ["z0", "z1"], weights)
    merges(before, APART | {"MatMul": 3} if case == "on the left" else APART | {"Gemm": 2})


def test_a_result_in_use_elsewhere_ends_what_follows():
    nodes = [*products(2), node("Relu", "y0", "z0"), node("Relu", "y1", "z1")]
    before = model(nodes, {key: [2, 4] for key in names("x", 2)}, ["z0", "z1", "y1"], weights_of(2))
    merges(before, APART | {"Relu": 2})


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        ("symbols", "not certainly of the same shape"),
        ("unknown", "not certainly of the same shape"),
        ("two sizes", "more than the first size is not known"),
        ("zero", "a size is zero"),
        ("vector", "the inputs have no rows"),
        ("alpha", "a Gemm scales"),
        ("transA", "a Gemm scales"),
        ("bias", "a bias is not one number per column"),
        ("shared", ""),
        ("depends", ""),
        ("same input", ""),
        ("cost", "does not pay"),
    ],
)
def test_refuses(case, reason):
    nodes, weights, item = products(2), weights_of(2), ALWAYS
    shapes = [[4, 4], [4, 4]]
    if case == "symbols":
        shapes = [["N", 4], ["M", 4]]
    elif case == "unknown":
        shapes = [[None, 4], [None, 4]]
    elif case == "two sizes":
        shapes = [["N", "M", 4]] * 2
    elif case == "zero":
        shapes = [[0, 4]] * 2
    elif case == "vector":
        shapes = [[4]] * 2
    elif case in ("alpha", "transA"):
        nodes = products(2, op="Gemm", **({"alpha": 0.5} if case == "alpha" else {"transA": 1}))
    elif case == "bias":
        nodes, weights = products(2, op="Gemm", bias=True), weights | {"b0": rand(4, 5), "b1": rand(4, 5)}
    elif case == "shared":
        nodes = [node("MatMul", "x0 w0", "y0"), node("MatMul", "x1 w0", "y1")]
        del weights["w1"]
    elif case == "depends":
        weights = weights_of(2, columns=4)
        nodes = [node("MatMul", "x0 w0", "p"), node("MatMul", "p w1", "y0"), node("Neg", "x1", "y1")]
    elif case == "same input":
        nodes = [node("MatMul", "x0 w0", "y0"), node("MatMul", "x0 w1", "y1"), node("Neg", "x1", "z")]
    elif case == "cost":
        item = BatchMatmul()
    stays(model(nodes, {"x0": shapes[0], "x1": shapes[1]}, ["y0", "y1"], weights), reason, item)


@pytest.mark.parametrize(
    ("count", "rows", "size", "pays"), [(12, 8, 16, True), (12, 32, 256, False), (2, 1, 16, True), (2, 32, 256, False)]
)
def test_it_fires_where_it_pays(count, rows, size, pays):
    nodes = [node("Split", "x s", " ".join(names("x", count)), axis=0), *products(count)]
    nodes.append(node("Concat", " ".join(names("y", count)), "y", axis=0))
    weights = weights_of(count, size, size) | {"s": np.array([rows] * count)}
    before = model(nodes, {"x": [count * rows, size]}, ["y"], weights)
    assert bool(fired(apply(before, BatchMatmul())[1])) == pays


@pytest.mark.parametrize(("count", "rows", "pays"), [(12, 8, True), (2, 8, False), (12, 1 << 16, False)])
def test_tensorrt_gets_many_small_ones_merged(count, rows, pays):
    weights = weights_of(count, 64, 64)
    before = model(products(count), {key: [rows, 64] for key in names("x", count)}, names("y", count), weights)
    assert bool(fired(apply(before, BatchMatmul(), target="tensorrt")[1])) == pays


def test_nan_and_infinities_stay_with_their_product():
    before = model(products(), {key: [2, 4] for key in names("x")}, names("y"), weights_of())
    after, _ = apply(before, ALWAYS)
    feeds = feeds_of(before)
    for value in (np.nan, np.inf):
        assert_same(before, after, feeds | {"x1": np.full((2, 4), value, np.float32)})


def test_each_rewrite_is_verified_by_itself():
    before = model(products(), {key: ["N", 4] for key in names("x")}, names("y"), weights_of())
    _, report = graphopt.optimize(before, "fuse-horizontal{gain=0}", verify="rewrites", with_report=True)
    assert fired(report) == ["batch-matmul"] and not report.warnings
