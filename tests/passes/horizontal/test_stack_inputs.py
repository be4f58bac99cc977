from __future__ import annotations

import numpy as np
import pytest

import graphopt
from graphopt.passes.collapse.fast_math import FastMath
from graphopt.passes.horizontal.stack_inputs import StackInputs

from ..util import apply, assert_same, fired, model, node, ops, rand, reasons

ALWAYS = StackInputs(gain=0)
WEIGHTS = {"w": rand(4, 5), "b": rand(5, seed=1)}


def feeds_of(proto, size=3):
    found = {}
    for number, info in enumerate(proto.graph.input):
        shape = [d.dim_value or size for d in info.type.tensor_type.shape.dim]
        found[info.name] = rand(*shape, seed=number, low=-2, high=2)
    return found


def merges(before, left, item=ALWAYS, target="onnx", count=1):
    """It fires `count` times, these operators are left, and the results are the same, for other sizes of N, too."""
    after, report = apply(before, item, target=target)
    assert fired(report) == ["stack-inputs"] * count
    assert dict(ops(after)) == left
    for size in (3, 1, 0):
        assert_same(before, after, feeds_of(before, size), reference=None if size else False)
    return after


def stays(before, reason="", item=ALWAYS, target="onnx"):
    after, report = apply(before, item, target=target)
    assert not fired(report)
    assert ops(after) == ops(before)
    said = reasons(report, "stack-inputs")
    assert any(reason in text for text in said) if reason else not said, said


def gemms(*inputs, **attrs):
    return [node("Gemm", f"{x} w b", f"y{k}", **attrs) for k, x in enumerate(inputs)]


@pytest.mark.parametrize("opset", [7, 11, 13, 17, 18, 22])
@pytest.mark.parametrize("rows", [2, "N"])
def test_products(opset, rows):
    nodes = gemms("x", "z")
    merges(
        model(nodes, {"x": [rows, 4], "z": [rows, 4]}, ["y0", "y1"], WEIGHTS, opset=opset),
        {"Concat": 1, "Gemm": 1, "Split": 1}
        | ({"Shape": 1, "Div": 1, "Tile": 1} if rows == "N" and opset > 17 else {}),
    )


def test_matmul_of_any_rank():
    nodes = [node("MatMul", "x w", "p"), node("MatMul", "z w", "q")]
    shape = ["N", 2, 4]
    merges(model(nodes, {"x": shape, "z": shape}, ["p", "q"], WEIGHTS), {"Concat": 1, "MatMul": 1, "Split": 1})


def test_gathers_of_every_index_need_no_concat():
    index = {f"i{k}": np.int64(k if k != 2 else -1) for k in range(3)}
    nodes = [node("Gather", f"x i{k}", f"x{k}", axis=0) for k in (1, 0, 2)]
    nodes += [node("Gemm", f"x{k} w b", f"y{k}") for k in (1, 0, 2)]
    merges(model(nodes, {"x": [3, "N", 4]}, ["y0", "y1", "y2"], WEIGHTS | index), {"Reshape": 1, "Gemm": 1, "Split": 1})


@pytest.mark.parametrize("case", ["size", "twice"])
def test_gathers_of_some_do(case):
    index = {f"i{k}": np.int64(k) for k in range(2)}
    nodes = [node("Gather", f"x i{k}", f"x{k}", axis=0) for k in range(2)]
    if case == "twice":
        index["i1"] = np.int64(0)
    nodes += [node("Gemm", f"x{k} w b", f"y{k}") for k in range(2)]
    size = 2 if case == "twice" else 3
    left = {"Gather": 2, "Concat": 1, "Gemm": 1, "Split": 1}
    merges(model(nodes, {"x": [size, "N", 4]}, ["y0", "y1"], WEIGHTS | index), left)


def test_parts_of_a_split_and_operands_of_a_concat_need_neither():
    nodes = [node("Split", "x s", "x0 x1", axis=0), *gemms("x0", "x1")]
    nodes += [node("Relu", "y0", "r0"), node("Relu", "y1", "r1"), node("Concat", "r0 r1", "y", axis=0)]
    weights = WEIGHTS | {"s": np.array([2, 2])}
    merges(model(nodes, {"x": [4, 4]}, ["y"], weights), {"Gemm": 1, "Relu": 1})
    nodes[-1] = node("Concat", "x r0 r1", "y", axis=0)
    weights["w"] = rand(4, 4)
    weights["b"] = rand(4)
    merges(model(nodes, {"x": [4, 4]}, ["y"], weights), {"Gemm": 1, "Relu": 1, "Concat": 1})


def test_a_siamese_network_with_residuals_and_an_output_in_the_middle():
    """Both lanes run once; what is read from outside is split off, where it is."""
    weights = {
        "w": rand(3, 3, 3, 3),
        "b": rand(3),
        "f": rand(12, 5),
        "s": rand(3, 1, 1),
        "scale": rand(3, low=1, high=2),
    }
    weights |= {"shift": rand(3), "mean": rand(3), "var": rand(3, low=1, high=2)}
    nodes = []
    for k in "01":
        nodes += [
            node("Conv", f"x{k} w b", f"a{k}", pads=[1, 1, 1, 1]),
            node("BatchNormalization", f"a{k} scale shift mean var", f"n{k}"),
            node("Relu", f"n{k}", f"c{k}"),
            node("Conv", f"c{k} w b", f"d{k}", pads=[1, 1, 1, 1]),
            node("Add", f"d{k} c{k}", f"e{k}"),
            node("Mul", f"s e{k}", f"g{k}"),
            node("MaxPool", f"g{k}", f"h{k}", kernel_shape=[2, 2], strides=[2, 2]),
            node("Flatten", f"h{k}", f"i{k}"),
            node("MatMul", f"i{k} f", f"j{k}"),
        ]
    nodes += [node("Sub", "j0 j1", "y")]
    before = model(nodes, {"x0": ["N", 3, 4, 4], "x1": ["N", 3, 4, 4]}, ["y", "c1"], weights)
    after = merges(before, {"Concat": 1, **dict.fromkeys(_once(nodes), 1), "Conv": 2, "Split": 2, "Sub": 1})
    assert [o.name for o in after.graph.output] == ["y", "c1"]


def _once(nodes):
    return {item.op_type for item in nodes} - {"Conv", "Sub"}


def test_what_depends_on_another_is_not_merged_with_it():
    weights = {"w": rand(4, 4), "b": rand(4)}
    nodes = [node("Gemm", "x w b", "p"), node("Gemm", "p w b", "q"), node("Gemm", "z w b", "r")]
    before = model(nodes, {"x": ["N", 4], "z": ["N", 4]}, ["q", "r"], weights)
    merges(before, {"Concat": 1, "Gemm": 2, "Split": 1})


def test_chains_that_cross_do_not_become_a_cycle():
    weights = {"v": rand(4, 4), "w": rand(4, 4, seed=1)}
    nodes = [
        node("MatMul", "x v", "a"),
        node("MatMul", "a w", "b"),
        node("MatMul", "z w", "c"),
        node("MatMul", "c v", "d"),
    ]
    before = model(nodes, {"x": [2, 4], "z": [2, 4]}, ["b", "d"], weights)
    stays(before)


def test_lanes_that_stand_one_after_the_other_in_the_file():
    weights = {"w": rand(4, 4), "b": rand(4)}
    nodes = [node("Gemm", "x w b", "p"), node("Relu", "p", "q"), node("Neg", "z", "n")]
    nodes += [node("Gemm", "n w b", "r"), node("Relu", "r", "s"), node("Abs", "x", "m"), node("Gemm", "m w b", "t")]
    before = model(nodes, {"x": [2, 4], "z": [2, 4]}, ["q", "s", "t"], weights)
    merges(before, {"Concat": 1, "Gemm": 2, "Relu": 2, "Neg": 1, "Abs": 1, "Split": 1})


@pytest.mark.parametrize(
    ("follower", "weights"),
    [
        ({"op_type": "Softmax", "axis": 0}, {}),
        ({"op_type": "Transpose", "perm": [1, 0]}, {}),
        ({"op_type": "Flatten", "axis": 0}, {}),
        ({"op_type": "Add", "more": "c"}, {"c": rand(2, 1)}),
        ({"op_type": "Add", "more": "c"}, {"c": rand(1, 1, 1)}),
    ],
    ids=["softmax", "transpose", "flatten", "rows", "rank"],
)
def test_what_works_across_items_stays_behind(follower, weights):
    op, more = follower.pop("op_type"), follower.pop("more", "")
    nodes = [*gemms("x", "z"), *(node(op, f"y{k} {more}", f"u{k}", **follower) for k in range(2))]
    before = model(nodes, {"x": [2, 4], "z": [2, 4]}, ["u0", "u1"], WEIGHTS | weights)
    merges(before, {"Concat": 1, "Gemm": 1, "Split": 1, op: 2})


def test_half_precision_is_worth_it_and_rounds_anew():
    weights = {"w": rand(64, 64, 3, 3).astype(np.float16)}
    nodes = [node("Conv", "x w", "y"), node("Conv", "z w", "u")]
    shape = [1, 64, 5, 5]
    half = model(nodes, {"x": shape, "z": shape}, ["y", "u"], weights, dtype=10)
    stays(half, "would round what is computed in float32", StackInputs())
    assert "stack-inputs" in fired(apply(half, FastMath(), StackInputs())[1])
    full = model(nodes, {"x": shape, "z": shape}, ["y", "u"], {"w": rand(64, 64, 3, 3)})
    stays(full, "does not pay", StackInputs())


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        ("symbols", "not certainly of the same shape"),
        ("unknown", "not certainly of the same shape"),
        ("weights", ""),
        ("biases", ""),
        ("attributes", ""),
        ("a bias for each row", ""),
        ("transposed", ""),
        ("same input", ""),
        ("computed weight", ""),
        ("cost", "does not pay"),
    ],
)
def test_refuses(case, reason):
    nodes, weights, item = gemms("x", "z"), dict(WEIGHTS), ALWAYS
    inputs = {"x": [4, 4], "z": [4, 4]}
    if case == "symbols":
        inputs = {"x": ["N", 4], "z": ["M", 4]}
    elif case == "unknown":
        inputs = {"x": [None, 4], "z": [None, 4]}
    elif case in ("weights", "biases"):
        weights["v"], weights["c"] = rand(4, 5, seed=3), rand(5, seed=4)
        nodes[1] = node("Gemm", "z v b" if case == "weights" else "z w c", "y1")
    elif case == "attributes":
        nodes[1] = node("Gemm", "z w b", "y1", alpha=0.5)
    elif case == "a bias for each row":
        weights["b"] = rand(4, 5)
    elif case == "transposed":
        nodes = gemms("x", "z", transA=1)
    elif case == "same input":
        nodes = gemms("x", "x")
    elif case == "computed weight":
        inputs["w"] = weights.pop("w").shape
    elif case == "cost":
        inputs, item = {"x": [64, 4], "z": [64, 4]}, StackInputs()
    stays(model(nodes, inputs, ["y0", "y1"], weights), reason, item)


@pytest.mark.parametrize(("rows", "size", "pays"), [(1, 512, True), (1, 16, False), (64, 256, False), (8, 256, False)])
def test_it_fires_where_it_pays(rows, size, pays):
    weights = {"w": rand(size, size)}
    nodes = [node("MatMul", "x w", "y"), node("MatMul", "z w", "u")]
    before = model(nodes, {"x": [rows, size], "z": [rows, size]}, ["y", "u"], weights)
    assert bool(fired(apply(before, StackInputs())[1])) == pays


@pytest.mark.parametrize("from_one", [True, False])
def test_where_the_rows_are_not_known_nothing_may_be_lost_with_many(from_one):
    weights = {"w": rand(512, 256), "i0": np.int64(0), "i1": np.int64(1)}
    nodes = [node("MatMul", "x0 w", "y0"), node("MatMul", "x1 w", "y1")]
    inputs = {"x0": ["N", 512], "x1": ["N", 512]}
    if from_one:
        nodes = [*(node("Gather", f"x i{k}", f"x{k}", axis=0) for k in range(2)), *nodes]
        inputs = {"x": [2, "N", 512]}
    before = model(nodes, inputs, ["y0", "y1"], weights)
    assert bool(fired(apply(before, StackInputs())[1])) == from_one


def test_a_default_has_sizes_of_its_own():
    weights = WEIGHTS | {"z": rand(1, 4)}
    stays(model(gemms("x", "z"), {"x": ["N", 4], "z": ["N", 4]}, ["y0", "y1"], weights), "same shape")
    weights["z"] = rand(2, 4)
    before = model(gemms("x", "z"), {"x": [2, 4], "z": [2, 4]}, ["y0", "y1"], weights)
    assert fired(apply(before, ALWAYS)[1])


@pytest.mark.parametrize(("rows", "pays"), [(64, True), (1 << 16, False)])
def test_tensorrt_gets_small_ones_merged(rows, pays):
    inputs = {f"x{k}": [rows, 64] for k in range(4)}
    nodes = [node("MatMul", f"x{k} w", f"y{k}") for k in range(4)]
    before = model(nodes, inputs, [f"y{k}" for k in range(4)], {"w": rand(64, 64)})
    assert bool(fired(apply(before, StackInputs(), target="tensorrt")[1])) == pays


def test_inside_a_branch():
    from onnx import parser

    before = parser.parse_model("""<ir_version: 8, opset_import: ["": 17]>
        g (bool c, float[2, 2] x, float[2, 2] z) => (float[2, 2] y)
        <float[2, 2] w = {3, 4, 5, 6}> {
            y = If (c) <
                then_branch = t () => (float[2, 2] a) {
                    p = MatMul(x, w)
                    q = MatMul(z, w)
                    a = Sub (p, q)
                },
                else_branch = e () => (float[2, 2] b) { b = Add (x, z) }
            >
        }""")
    after, report = apply(before, ALWAYS)
    assert fired(report) == ["stack-inputs"]
    for chosen in (True, False):
        assert_same(before, after, {"c": np.array(chosen), "x": rand(2, 2), "z": rand(2, 2, seed=1)}, reference=False)


def test_each_rewrite_is_verified_by_itself():
    before = model(gemms("x", "z"), {"x": ["N", 4], "z": ["N", 4]}, ["y0", "y1"], WEIGHTS)
    _, report = graphopt.optimize(before, "fuse-horizontal{gain=0}", verify="rewrites", with_report=True)
    assert fired(report) == ["stack-inputs"] and not report.warnings


def test_nan_and_infinities_stay_in_their_lane():
    before = model(gemms("x", "z"), {"x": [2, 4], "z": [2, 4]}, ["y0", "y1"], WEIGHTS)
    after, _ = apply(before, ALWAYS)
    assert_same(before, after, {"x": np.full((2, 4), np.nan, np.float32), "z": rand(2, 4)})
    assert_same(before, after, {"x": np.full((2, 4), np.inf, np.float32), "z": rand(2, 4)})
