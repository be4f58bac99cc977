"""Maps behind and in front of MatMul and Gemm: collapse-matmul-affine, collapse-affine-before-matmul,
collapse-affine-back-product."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from ..util import apply, assert_same, fired, model, node, ops, rand, reasons

SUMS, BEFORE, BACK = "collapse-matmul-affine", "collapse-affine-before-matmul", "collapse-affine-back-product"
WEIGHTS: dict[str, Any] = {
    "w": rand(4, 6, seed=1),
    "a": rand(6, seed=2),
    "c": rand(6, seed=3, low=0.5, high=2),
    "k": rand(4, seed=4, low=0.5, high=2),
    "t": rand(4, seed=5),
    "b": rand(6, seed=6),
    "one": np.float32(1.5),
    "heads": np.array([0, -1, 2, 3]),
    "flat": np.array([-1, 6]),
}


def build(nodes: list[onnx.NodeProto], x: Any = (2, 5, 4), **more: Any) -> onnx.ModelProto:
    used = {name for item in nodes for name in item.input}
    return model(nodes, {"x": x}, ["y"], {k: v for k, v in {**WEIGHTS, **more}.items() if k in used})


def chain(start: str, *steps: str) -> list[onnx.NodeProto]:
    """`Sub v k` applies Sub to the value so far and k; the last one makes y."""
    nodes = [node("MatMul", "x w", "v0")] if start == "v0" else []
    value = start
    for place, step in enumerate(steps):
        op, *operands = step.split()
        result = "y" if place == len(steps) - 1 else f"s{place}"
        nodes.append(node(op, " ".join(value if name == "v" else name for name in operands), result))
        value = result
    return nodes


FIRST = ["Add v a", "Sub v a", "Sub a v"]
SECOND = ["Add v c", "Add one v", "Sub v c", "Sub c v", "Mul v c", "Mul one v", "Div v c"]


@pytest.mark.parametrize("first", FIRST)
@pytest.mark.parametrize("second", SECOND)
@pytest.mark.parametrize("x", [(4,), (5, 4), ("N", 2, 5, 4)])
def test_sums_behind_a_product(first: str, second: str, x: Any) -> None:
    before = build(chain("v0", first, second), x)
    after, report = apply(before, SUMS)
    assert fired(report)[0] == SUMS
    assert ops(after) == {"MatMul": 1, "Add": 1}
    assert_same(before, after, {"x": rand(*[3 if d == "N" else d for d in x], seed=7)}, tol=5e-6)


def test_a_difference_becomes_a_sum_where_that_is_a_gemm() -> None:
    before = build(chain("v0", "Sub v a"), (5, 4))
    after, _ = apply(before, SUMS)
    assert ops(after) == {"MatMul": 1, "Add": 1}
    assert_same(before, after, {"x": rand(5, 4, seed=7)}, tol=0)
    _, report = apply(build(chain("v0", "Sub v a")), SUMS)
    assert reasons(report, SUMS) == ["the product is not proven to be a matrix, whose sum with a constant is a Gemm"]


@pytest.mark.parametrize(
    ("before", "reason"),
    [
        (build(chain("v0", "Sub v a", "Div v c"), c=np.float32(0)), "the constant divisor is zero in some channel"),
        (build(chain("v0", "Sub v a", "Mul v c"), c=rand(5, 1)), "a constant of shape [5, 1] is not one number"),
        (build(chain("v0", "Sub v a", "Mul v c"), w=np.full((4, 6), 3e38, np.float32)), "the scaled weights overflow"),
        (
            build(
                chain("v0", "Sub v a", "Sub v c"), c=np.full(6, 3.4e38, np.float32), a=np.full(6, 3.4e38, np.float32)
            ),
            "the bias overflows",
        ),
        (build(chain("v0", "Add v a", "Add v c"), a=rand(5, 1)), "what is added would be larger than both constants"),
        (
            build(chain("v0", "Add v a", "Mul v c"), (2, 4), w=rand(4), a=rand(2), c=rand(2)),
            "the weights are no matrix",
        ),
        (
            build(
                [
                    *chain("v0", "Sub v a", "Add v three")[:-1],
                    node("Add", "s0 three", "p"),
                    node("Clip", "p zero six", "q"),
                    node("Div", "q six", "y"),
                ],
                three=np.float32(3),
                zero=np.float32(0),
                six=np.float32(6),
            ),
            "the constant is part of a HardSigmoid written out",
        ),
    ],
)
def test_sums_refuse(before: onnx.ModelProto, reason: str) -> None:
    _, report = apply(before, SUMS)
    assert not fired(report)
    assert any(each.startswith(reason) for each in reasons(report, SUMS))


def test_sums_leave_integers() -> None:
    nodes = chain("v0", "Sub v a", "Mul v c")
    weights = {"w": np.ones((4, 6), np.int32), "a": np.ones(6, np.int32), "c": np.ones(6, np.int32)}
    before = model(nodes, {"x": [2, 4]}, ["y"], weights, dtype=onnx.TensorProto.INT32)
    _, report = apply(before, SUMS)
    assert set(reasons(report, SUMS)) == {"the weights are not floating-point numbers"}


MAPS = [
    "Mul v k/Add v t",
    "Div v k/Sub v t",
    "Mul one v/Sub t v",
    "Add v t/Mul v k",
    "Sub t v/Div v k",
    "Sub v one/Mul v k",
]


def mapped(steps: str, x: Any = (2, 5, 4), **more: Any) -> onnx.ModelProto:
    nodes = chain("x", *steps.split("/"))
    nodes[-1].output[0] = "z"
    return build([*nodes, node("MatMul", "z w", "y")], x, **more)


@pytest.mark.parametrize("steps", MAPS)
@pytest.mark.parametrize("x", [(4,), (5, 4), ("N", 2, 5, 4)])
def test_two_in_front_of_a_product(steps: str, x: Any) -> None:
    before = mapped(steps, x)
    after, report = apply(before, BEFORE)
    assert fired(report) == [BEFORE]
    assert ops(after) == {"MatMul": 1, "Add": 1}
    assert_same(before, after, {"x": rand(*[3 if d == "N" else d for d in x], seed=7)}, tol=5e-6)


@pytest.mark.parametrize(
    ("before", "reason"),
    [
        (mapped(MAPS[0], w=rand(4, 9)), "adding to so many columns costs more than the operators in front"),
        (mapped(MAPS[0], w=rand(2, 4, 6)), "the weights are no matrix"),
        (mapped(MAPS[0], t=np.full(4, 1e5, np.float32)), "the shift is so large that behind the products"),
        (mapped(MAPS[0], (5, 1)), "the constant is not proven to leave the shape of the other operand"),
        (mapped(MAPS[0], k=rand(5, 1)), "a constant of shape [5, 1] is not one number"),
        (mapped(MAPS[0], w=np.full((4, 6), 3e38, np.float32), k=np.full(4, 9, np.float32)), "the scaled weights over"),
        (
            mapped(
                MAPS[0], w=np.full((4, 6), 3e38, np.float32), k=np.full(4, 0.1, np.float32), t=np.full(4, 9, np.float32)
            ),
            "the bias overflows its dtype",
        ),
    ],
)
def test_two_in_front_refuse(before: onnx.ModelProto, reason: str) -> None:
    _, report = apply(before, BEFORE)
    assert not fired(report)
    assert reasons(report, BEFORE)[0].startswith(reason)


def test_two_in_front_leave_normalizations() -> None:
    """The scale and bias of one written out."""
    nodes = [
        node("ReduceMean", "x", "u", axes=[-1]),
        node("Sub", "x u", "d"),
        node("Mul", "d d", "q"),
        node("ReduceMean", "q", "r", axes=[-1]),
        node("Sqrt", "r", "s"),
        node("Div", "d s", "n"),
        node("Mul", "n k", "m"),
        node("Add", "m t", "z"),
        node("MatMul", "z w", "y"),
    ]
    _, report = apply(build(nodes), BEFORE)
    assert reasons(report, BEFORE)[0].startswith("the constant is part of a normalization written out")


HEADS = [node("Reshape", "v0 heads", "r"), node("Transpose", "r", "v", perm=[0, 2, 1, 3])]
RELU = [node("Relu", "v0", "v")]
VIEW = [node("Reshape", "v0 flat", "v")]
GEMM = node("Gemm", "x w b", "v0")


@pytest.mark.parametrize("step", ["Mul v one", "Div v one", "Add v one", "Sub one v"])
@pytest.mark.parametrize("start", ["Gemm", "MatMul", "MatMul Add"])
@pytest.mark.parametrize("through", [HEADS, VIEW], ids=["heads", "view"])
def test_back_through_views(step: str, start: str, through: list[onnx.NodeProto]) -> None:
    first = {"Gemm": [GEMM], "MatMul": [node("MatMul", "x w", "v0")]}.get(
        start, [node("MatMul", "x w", "p"), node("Add", "p b", "v0")]
    )
    op, operands = step.split(" ", 1)
    x = (5, 4) if start == "Gemm" else (2, 5, 4)
    through = VIEW if start == "Gemm" else through
    before = build([*first, *through, node(op, operands, "y")], x)
    after, report = apply(before, BACK)
    if start == "MatMul" and op in ("Add", "Sub"):
        assert reasons(report, BACK) == ["nothing is added to the product: the shift would only move"]
        return
    assert fired(report) == [BACK]
    assert op == "Add" or op not in ops(after)
    assert_same(before, after, {"x": rand(*x, seed=7)}, tol=5e-6)


def test_back_with_one_number_for_each_column() -> None:
    before = build([GEMM, *VIEW, node("Mul", "v c", "y")], (5, 4))
    after, _ = apply(before, BACK)
    assert ops(after) == {"Gemm": 1, "Reshape": 1}
    assert_same(before, after, {"x": rand(5, 4, seed=7)}, tol=5e-6)
    transposed = [node("MatMul", "x w", "v0"), node("Transpose", "v0", "v", perm=[0, 2, 1]), node("Div", "v c", "y")]
    before = build(transposed, c=rand(6, 1, low=1))
    after, _ = apply(before, BACK)
    assert ops(after) == {"MatMul": 1, "Transpose": 1}
    assert_same(before, after, {"x": rand(2, 5, 4, seed=7)}, tol=5e-6)


@pytest.mark.parametrize(
    ("before", "reason"),
    [
        (build([GEMM, *RELU, node("Mul", "v one", "y")], (5, 4), one=np.float32(-1)), "a scale that is not positive"),
        (build([GEMM, *RELU, node("Add", "v one", "y")], (5, 4)), "a shift does not move through Relu"),
        (
            build([GEMM, *VIEW, node("Mul", "v one", "s"), node("MatMul", "s m", "y")], (5, 4), m=rand(6, 3)),
            "the runtime takes the factor",
        ),
        (build([GEMM, *VIEW, node("Mul", "v one", "y")], (5, 4), one=rand(5, 1)), "a constant of shape [5, 1]"),
        (
            build(
                [node("MatMul", "x w", "p"), node("Add", "p b", "v0"), *VIEW, node("Mul", "v one", "y")], b=rand(5, 6)
            ),
            "what is added to the product is not one number",
        ),
        (
            build([node("MatMul", "x w", "v0"), node("Relu", "v0", "v"), node("Mul", "v one", "y")], w=rand(4)),
            "the weights are no matrix",
        ),
        (
            build([node("MatMul", "x w", "v0"), node("Relu", "v0", "v"), node("Mul", "v one", "y")], (4,)),
            "the rank of the product is not known",
        ),
        (
            build([node("MatMul", "x w", "v0"), *RELU, node("Mul", "v one", "y")], w=np.full((4, 6), 3e38, np.float32)),
            "the scaled weights overflow",
        ),
        (build([GEMM, *VIEW, node("Mul", "v one", "y")], (5, 4), one=rand(1, 1, 1)), "a constant of shape [1, 1, 1]"),
    ],
)
def test_back_refuses(before: onnx.ModelProto, reason: str) -> None:
    _, report = apply(before, BACK)
    assert not fired(report)
    assert reasons(report, BACK)[0].startswith(reason)
