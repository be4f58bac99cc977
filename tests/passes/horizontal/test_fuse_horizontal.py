from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, numpy_helper

import graphopt
from graphopt.passes.collapse.fast_math import FastMath
from graphopt.passes.horizontal.fuse_horizontal import FuseHorizontal

from ..util import apply, assert_same, fired, model, node, ops, rand, reasons

ALWAYS = FuseHorizontal(gain=0)


def feeds_of(proto, size=3):
    found = {}
    for number, info in enumerate(proto.graph.input):
        shape = [d.dim_value or size for d in info.type.tensor_type.shape.dim]
        found[info.name] = rand(*shape, seed=number, low=-2, high=2)
    return found


def merges(before, left, item=ALWAYS, target="onnx"):
    """It fires once, these operators are left, and the results are the same."""
    after, report = apply(before, item, target=target)
    assert fired(report) == ["fuse-horizontal"]
    assert dict(ops(after)) == left
    assert_same(before, after, feeds_of(before))
    return after


def stays(before, reason, item=ALWAYS, target="onnx"):
    after, report = apply(before, item, target=target)
    assert not fired(report)
    assert ops(after) == ops(before)
    said = reasons(report, "fuse-horizontal")
    assert any(reason in text for text in said) if reason else not said, said


def convolutions(
    outputs=(2, 3, 4), channels=6, kernel=3, opset=17, bias=True, after=(), inputs=("x", "x", "x"), **attrs
):
    """Conv of one input, one for each of `outputs`; after: operators that follow each."""
    weights, nodes, results = {}, [], []
    for k, (count, source) in enumerate(zip(outputs, inputs, strict=False)):
        group = attrs.get("group", 1)
        weights[f"w{k}"] = rand(count, channels // group, kernel, kernel, seed=k)
        more = f" b{k}" if bias else ""
        if bias:
            weights[f"b{k}"] = rand(count, seed=9 + k)
        nodes.append(node("Conv", f"{source} w{k}{more}", f"c{k}", pads=[kernel // 2] * 4, **attrs))
        last = f"c{k}"
        for step, op in enumerate(after):
            operand = ""
            if op in ("Add", "Mul", "Sub", "Div"):
                weights[f"a{step}_{k}"] = rand(count, 1, 1, seed=30 + k, low=1, high=2)
                operand = f" a{step}_{k}"
            nodes.append(node(op, last + operand, f"{op}{step}_{k}"))
            last = f"{op}{step}_{k}"
        results.append(last)
    names = dict.fromkeys(inputs[: len(outputs)])
    return nodes, {name: ["N", channels, 5, 5] for name in names}, results, weights, opset


def built(nodes, inputs, results, weights, opset=17, **more):
    return model(nodes, inputs, results, weights, opset=opset, **more)


@pytest.mark.parametrize("opset", [9, 11, 13, 17, 18, 22])
@pytest.mark.parametrize("bias", [True, False])
def test_convolutions(opset, bias):
    after = merges(built(*convolutions(opset=opset, bias=bias)), {"Conv": 1, "Split": 1})
    weight = next(t for t in after.graph.initializer if list(t.dims) == [9, 6, 3, 3])
    np.testing.assert_array_equal(numpy_helper.to_array(weight)[2:5], rand(3, 6, 3, 3, seed=1))


def test_what_follows_all_is_merged_too():
    merges(built(*convolutions(after=("Mul", "Relu", "Add"))), {"Conv": 1, "Mul": 1, "Relu": 1, "Add": 1, "Split": 1})


def test_constants_on_the_left():
    nodes, inputs, results, weights, _ = convolutions(after=("Sub",))
    for item in nodes:
        if item.op_type == "Sub":
            item.input[:] = list(item.input)[::-1]
    merges(built(nodes, inputs, results, weights), {"Conv": 1, "Sub": 1, "Split": 1})


def test_a_concat_of_all_takes_the_result():
    nodes, inputs, results, weights, _ = convolutions(after=("Relu",))
    nodes.append(node("Concat", " ".join(results), "y", axis=1))
    merges(built(nodes, inputs, ["y"], weights), {"Conv": 1, "Relu": 1})


def test_a_concat_of_more_keeps_the_rest():
    nodes, inputs, results, weights, _ = convolutions()
    nodes.append(node("Concat", " ".join(["x", *results, "x"]), "y", axis=1))
    merges(built(nodes, inputs, ["y"], weights), {"Conv": 1, "Concat": 1})


@pytest.mark.parametrize("case", ["order", "axis", "twice", "output"])
def test_a_concat_that_mixes_them_does_not(case):
    nodes, inputs, results, weights, _ = convolutions(outputs=(3, 3, 3))
    read = results[::-1] if case == "order" else [*results, results[0]] if case == "twice" else results
    nodes.append(node("Concat", " ".join(read), "y", axis=2 if case == "axis" else 1))
    outputs = ["y", results[0]] if case == "output" else ["y"]
    merges(built(nodes, inputs, outputs, weights), {"Conv": 1, "Split": 1, "Concat": 1})


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_matrix_products(rank):
    weights = {"v": rand(4, 5), "w": rand(4, 2, seed=1), "a": rand(5, seed=2), "b": rand(2, seed=3)}
    nodes = [node("MatMul", "x v", "p"), node("MatMul", "x w", "q"), node("Add", "p a", "y"), node("Add", "b q", "z")]
    nodes[3].input[:] = ["q", "b"]
    merges(model(nodes, {"x": [*["N", 3][: rank - 1], 4]}, ["y", "z"], weights), {"MatMul": 1, "Add": 1, "Split": 1})


def test_a_constant_that_adds_a_dim_is_left_behind():
    weights = {"v": rand(4, 5), "w": rand(4, 2, seed=1), "a": rand(1, 5, seed=2), "b": rand(1, 2, seed=3)}
    nodes = [node("MatMul", "x v", "p"), node("MatMul", "x w", "q"), node("Add", "p a", "y"), node("Add", "q b", "z")]
    merges(model(nodes, {"x": [4]}, ["y", "z"], weights), {"MatMul": 1, "Add": 2, "Split": 1})


@pytest.mark.parametrize("flipped", [0, 1])
def test_gemm(flipped):
    weights = {"a": rand(1, 5), "b": rand(2, seed=1)}
    for name, width in (("v", 5), ("w", 2)):
        weights[name] = rand(width, 4, seed=3) if flipped else rand(4, width, seed=3)
    nodes = [node("Gemm", f"x {w}", o, transB=flipped, alpha=0.5, beta=2.0) for w, o in (("v a", "y"), ("w b", "z"))]
    merges(model(nodes, {"x": ["N", 4]}, ["y", "z"], weights), {"Gemm": 1, "Split": 1})


def test_gemm_with_transposed_input_and_weights_stored_either_way():
    weights = {"v": rand(4, 5), "w": rand(2, 4, seed=1), "a": rand(5, seed=2), "b": rand(2, seed=3)}
    nodes = [node("Gemm", "x v a", "y", transA=1), node("Gemm", "x w b", "z", transA=1, transB=1)]
    merges(model(nodes, {"x": [4, "N"]}, ["y", "z"], weights), {"Gemm": 1, "Split": 1})


@pytest.mark.parametrize("scaled", [{}, {"alpha": 0.5}, {"beta": 0.5}])
def test_a_bias_that_only_some_have(scaled):
    weights = {"v": rand(4, 5), "w": rand(4, 2, seed=1), "a": rand(5, seed=2)}
    nodes = [node("Gemm", "x v a", "y", **scaled), node("Gemm", "x w", "z", **scaled)]
    before = model(nodes, {"x": ["N", 4]}, ["y", "z"], weights)
    if "beta" in scaled:
        stays(before, "")
    else:
        merges(before, {"Gemm": 1, "Split": 1})


def test_a_bias_that_only_some_convolutions_have_changes_no_zero():
    nodes, inputs, results, weights, _ = convolutions(outputs=(2, 3))
    del nodes[0].input[2], weights["b0"]
    after = merges(built(nodes, inputs, results, weights), {"Conv": 1, "Split": 1})
    bias = next(numpy_helper.to_array(t) for t in after.graph.initializer if list(t.dims) == [5])
    assert np.signbit(bias[:2]).all() and not bias[:2].any()


@pytest.mark.parametrize("kernel", [1, 2])
def test_transposed_convolutions(kernel):
    weights = {"v": rand(4, 2, kernel, kernel), "w": rand(4, 3, kernel, kernel, seed=1), "a": rand(2), "b": rand(3)}
    nodes = [node("ConvTranspose", f"x {w}", y, strides=[2, 2]) for w, y in (("v a", "p"), ("w b", "q"))]
    nodes += [node("Sigmoid", "p", "y"), node("Sigmoid", "q", "z")]
    merges(model(nodes, {"x": ["N", 4, 3, 3]}, ["y", "z"], weights), {"ConvTranspose": 1, "Sigmoid": 1, "Split": 1})


@pytest.mark.parametrize(("outputs", "pays"), [((1, 1), True), ((16, 16), False)])
def test_transposed_convolutions_of_few_channels_pay(outputs, pays):
    weights = {f"w{k}": rand(4, count, 2, 2, seed=k) for k, count in enumerate(outputs)}
    nodes = [node("ConvTranspose", f"x w{k}", f"y{k}", strides=[2, 2]) for k in range(2)]
    before = model(nodes, {"x": [1, 4, 3, 3]}, ["y0", "y1"], weights)
    assert bool(fired(apply(before, FuseHorizontal())[1])) == pays
    assert not fired(apply(before, FuseHorizontal(), target="tensorrt")[1])


def test_those_that_share_a_weight_are_left_out():
    nodes, inputs, results, weights, opset = convolutions()
    nodes.append(node("Neg", "w0", "z"))
    before = built(nodes, inputs, [*results, "z"], weights, opset)
    after, report = apply(before, ALWAYS)
    assert fired(report) == ["fuse-horizontal"] and ops(after)["Conv"] == 2
    assert_same(before, after, feeds_of(before))


def test_those_that_fill_the_blocks_are_left_out_where_the_others_gain():
    before = built(*convolutions((256, 16, 16, 16), 64, 3, inputs=("x",) * 4))
    after, report = apply(before, FuseHorizontal())
    assert fired(report) == ["fuse-horizontal"] and ops(after)["Conv"] == 2
    assert_same(before, after, feeds_of(before))


def test_it_runs_what_merges_operators_of_different_inputs():
    weights = {"w": rand(512, 512), **{f"v{k}": rand(4, 5, seed=k) for k in range(8)}, "s": np.array([1] * 8)}
    parts = " ".join(f"z{k}" for k in range(8))
    nodes = [node("MatMul", "x w", "a"), node("MatMul", "y w", "b"), node("Split", "z s", parts, axis=0)]
    nodes += [node("MatMul", f"z{k} v{k}", f"u{k}") for k in range(8)]
    nodes += [node("Concat", " ".join(f"u{k}" for k in range(8)), "c", axis=0)]
    before = model(nodes, {"x": [1, 512], "y": [1, 512], "z": [8, 4]}, ["a", "b", "c"], weights)
    _, report = apply(before, FuseHorizontal())
    assert fired(report) == ["stack-inputs", "batch-matmul"]


def test_bfloat16_weights_keep_their_type():
    import ml_dtypes

    weights = {name: rand(4, width).astype(ml_dtypes.bfloat16) for name, width in (("v", 5), ("w", 2))}
    nodes = [node("MatMul", "x v", "y"), node("MatMul", "x w", "z")]
    before = model(nodes, {"x": ["N", 4]}, ["y", "z"], weights, dtype=TensorProto.BFLOAT16)
    assert not fired(apply(before, ALWAYS)[1])  # a Split would round what is computed in float32
    after, report = apply(before, FastMath(), ALWAYS)
    assert "fuse-horizontal" in fired(report)
    assert {t.data_type for t in after.graph.initializer} == {TensorProto.BFLOAT16, TensorProto.INT64}


def test_inside_a_branch():
    from onnx import parser

    before = parser.parse_model("""<ir_version: 8, opset_import: ["": 17]>
        g (bool c, float[N, 2] x) => (float[N, 3] y)
        <float[2, 1] u = {7, 8}, float[2, 1] v = {1, 2}, float[2, 2] w = {3, 4, 5, 6}> {
            y = If (c) <
                then_branch = t () => (float[N, 3] a) {
                    p = MatMul(x, v)
                    q = MatMul(x, w)
                    a = Concat <axis = -1> (p, q)
                },
                else_branch = e () => (float[N, 3] b) { r = MatMul(x, u)  b = Concat <axis = -1> (x, r) }
            >
        }""")
    after, report = apply(before, ALWAYS)
    assert fired(report) == ["fuse-horizontal"]
    for chosen in (True, False):
        assert_same(before, after, {"c": np.array(chosen), "x": rand(3, 2)}, reference=False)


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        ("group", "grouped"),
        ("shared weight", "others read a weight"),
        ("attributes", ""),
        ("kernel", ""),
        ("inputs", ""),
        ("computed", ""),
        ("overridable", ""),
        ("cost", "does not pay"),
    ],
)
def test_refuses(case, reason):
    nodes, inputs, results, weights, opset = convolutions(outputs=(6, 6), group=6 if case == "group" else 1)
    results = list(results)
    if case == "shared weight":
        nodes.append(node("Neg", "w0", "z"))
        results.append("z")
    elif case == "attributes":
        nodes[0] = node("Conv", "x w0 b0", "c0", pads=[2, 0, 0, 2])
    elif case == "kernel":
        weights["w0"] = rand(6, 6, 1, 1)
    elif case in ("computed", "overridable"):
        inputs["w0"] = [6, 6, 3, 3]
        if case == "computed":
            del weights["w0"]
    elif case == "inputs":
        nodes, inputs, results, weights, opset = convolutions(inputs=("x", "y", "z"))
    stays(built(nodes, inputs, results, weights, opset), reason, FuseHorizontal() if case == "cost" else ALWAYS)


@pytest.mark.parametrize(
    ("weights", "nodes", "reason"),
    [
        (
            {"v": rand(2, 4, 5), "w": rand(2, 4, 5, seed=1)},
            [node("MatMul", "x v", "y"), node("MatMul", "x w", "z")],
            "matrices",
        ),
        ({"v": rand(4), "w": rand(4, seed=1)}, [node("MatMul", "x v", "y"), node("MatMul", "x w", "z")], "matrices"),
        (
            {"v": rand(4, 5), "w": rand(4, 5, seed=1), "a": rand(1, 1), "b": rand(1)},
            [node("Gemm", "x v a", "y"), node("Gemm", "x w b", "z")],
            "bias",
        ),
    ],
    ids=["batched", "vectors", "bias"],
)
def test_products_that_stay(weights, nodes, reason):
    stays(model(nodes, {"x": [2, 4]}, ["y", "z"], weights), reason)


@pytest.mark.parametrize(
    ("outputs", "channels", "kernel", "pays"),
    [
        ((16, 16, 16), 64, 3, True),
        ((33, 33, 33, 33), 512, 1, True),
        ((10, 10, 10), 30, 3, True),
        ((64, 64, 64), 64, 3, False),
        ((32, 32), 64, 1, False),
        ((16, 16, 16), 64, 1, False),
    ],
)
def test_it_fires_where_it_pays(outputs, channels, kernel, pays):
    before = built(*convolutions(outputs, channels, kernel, inputs=("x",) * len(outputs)))
    _, report = apply(before, FuseHorizontal())
    assert bool(fired(report)) == pays
    _, report = apply(before, FuseHorizontal(), target="tensorrt")
    assert not fired(report)


def test_tensorrt_gets_every_product_merged():
    weights = {f"w{k}": rand(64, 64, seed=k) for k in range(3)}
    before = model([node("MatMul", f"x w{k}", f"y{k}") for k in range(3)], {"x": [8, 64]}, ["y0", "y1", "y2"], weights)
    stays(before, "does not pay", FuseHorizontal())
    merges(before, {"MatMul": 1, "Split": 1}, FuseHorizontal(), "tensorrt")


def test_by_name_with_its_option():
    before = built(*convolutions())
    after = graphopt.optimize(before, "fuse-horizontal{gain=0}")
    assert dict(ops(after)) == {"Conv": 1, "Split": 1}
