"""What exporters write, through the preset `fuse`: it collapses, or a refusal says why not."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

import graphopt

from ..util import assert_same, model, node, ops, rand

IMAGE, ROWS, MATRIX = [2, 4, 8, 8], [2, 3, 4], [5, 4]
PADS = {"pads": [1, 1, 1, 1]}
W: dict[str, Any] = {
    "w": rand(6, 4, 3, 3, seed=1),
    "wt": rand(4, 6, 3, 3, seed=2),
    "b": rand(6, seed=3),
    "m": rand(4, 6, seed=4),
    "up": rand(4, 24, seed=5),
    "down": rand(24, 3, seed=6),
    "a": rand(24, seed=7),
    "d": rand(3, seed=8),
    "wide": rand(24, 4, 1, 1, seed=9),
    "wide3": rand(24, 4, 3, 3, seed=9),
    "narrow": rand(3, 24, 1, 1, seed=10),
    "narrow3": rand(3, 24, 3, 3, seed=10),
    "v3": rand(4, 4, 3, 3, seed=11),
    "v1": rand(4, 4, 1, 1, seed=12),
}
STARTS = {
    "Conv": (node("Conv", "x w b", "v", **PADS), IMAGE, (6, 1, 1)),
    "Conv without a bias": (node("Conv", "x w", "v"), IMAGE, (6, 1, 1)),
    "ConvTranspose": (node("ConvTranspose", "x wt b", "v"), IMAGE, (6, 1, 1)),
    "Gemm": (node("Gemm", "x m b", "v"), MATRIX, (6,)),
    "Gemm without a bias": (node("Gemm", "x m", "v"), MATRIX, (6,)),
    "MatMul": (node("MatMul", "x m", "v"), MATRIX, (6,)),
    "MatMul of rows": (node("MatMul", "x m", "v"), ROWS, (6,)),
}
NORMS = [
    "Sub v mean/Mul v inv/Mul v gamma/Add v beta",
    "Sub v mean/Div v inv/Mul gamma v/Add beta v",
    "Mul v inv/Add v mean/Mul v gamma/Add v beta",
    "Mul v gamma/Sub v mean",
    "Sub beta v/Div v gamma",
]


def steps(text: str, start: str, names: dict[str, str] | None = None) -> list[onnx.NodeProto]:
    nodes, value = [], start
    parts = text.split("/")
    for place, step in enumerate(parts):
        op, *operands = step.split()
        result = "y" if place == len(parts) - 1 else f"s{place}"
        nodes.append(node(op, " ".join(value if name == "v" else name for name in operands), result))
        value = result
    return nodes


def build(nodes: list[onnx.NodeProto], x: list[int], opset: int = 17, **more: Any) -> onnx.ModelProto:
    used = {name for item in nodes for name in item.input}
    return model(nodes, {"x": x}, ["y"], {k: v for k, v in {**W, **more}.items() if k in used}, opset=opset)


def numbers(shape: tuple[int, ...]) -> dict[str, Any]:
    names = ("mean", "inv", "gamma", "beta", "k")
    return {name: rand(*shape, seed=20 + seed, low=0.3, high=2) for seed, name in enumerate(names)}


def fused(before: onnx.ModelProto, **options: Any) -> onnx.ModelProto:
    after = graphopt.fuse(before, verify="off", **options)
    feeds = {"x": rand(*[d.dim_value for d in before.graph.input[0].type.tensor_type.shape.dim], seed=30)}
    assert_same(before, after, feeds, tol=1e-5, reference=False)
    return after


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("start", STARTS)
def test_batch_normalization_written_out_behind(start: str, norm: str) -> None:
    first, x, shape = STARTS[start]
    after = fused(build([first, *steps(norm, "v")], x, **numbers(shape)))
    wanted = {first.op_type: 1}
    if start == "MatMul":
        wanted = {"Gemm": 1}
    if start == "MatMul of rows":
        wanted = {"MatMul": 1, "Add": 1}
    assert ops(after) == wanted or (start == "MatMul of rows" and ops(after) == {"MatMul": 1, "Sub": 1})


@pytest.mark.parametrize("step", ["Add v k", "Sub v k", "Sub k v", "Mul v k", "Div v k"])
@pytest.mark.parametrize("start", STARTS)
def test_one_operator_behind(start: str, step: str) -> None:
    first, x, shape = STARTS[start]
    after = fused(build([first, *steps(step, "v")], x, **numbers(shape)))
    if start == "MatMul of rows" and step[0] in "AS":
        assert sum(ops(after).values()) == 2  # MatMul, and what is added: as the runtime wants it
    elif start == "MatMul" and step == "Sub k v":
        assert sum(ops(after).values()) == 2
    else:
        assert sum(ops(after).values()) == 1


READERS = {
    "Conv": (node("Conv", "z w b", "y"), IMAGE, (4, 1, 1)),
    "Gemm": (node("Gemm", "z m b", "y"), MATRIX, (4,)),
    "MatMul and Add": ([node("MatMul", "z m", "q"), node("Add", "q b", "y")], ROWS, (4,)),
    "MatMul": (node("MatMul", "z m", "y"), ROWS, (4,)),
    "padded Conv": (node("Conv", "z w b", "y", **PADS), IMAGE, (4, 1, 1)),
}


@pytest.mark.parametrize("norm", NORMS[:4])
@pytest.mark.parametrize("reader", READERS)
def test_batch_normalization_written_out_in_front(reader: str, norm: str) -> None:
    last, x, shape = READERS[reader]
    nodes = steps(norm, "x")
    nodes[-1].output[0] = "z"
    after = fused(build([*nodes, *(last if isinstance(last, list) else [last])], x, **numbers(shape)))
    wanted: dict[str, dict[str, int]] = {
        "Conv": {"Conv": 1},
        "Gemm": {"Gemm": 1},
        "MatMul and Add": {"MatMul": 1, "Add": 1},
        "MatMul": {"MatMul": 1, "Add": 1},
        "padded Conv": {"BatchNormalization": 1, "Conv": 1},
    }
    assert ops(after) == wanted[reader]


PAIRS = {
    "MatMul, MatMul": ([node("MatMul", "z up", "p"), node("MatMul", "p down", "y")], ROWS),
    "MatMul, Add, MatMul, Add": (
        [node("MatMul", "z up", "p"), node("Add", "p a", "q"), node("MatMul", "q down", "r"), node("Add", "r d", "y")],
        ROWS,
    ),
    "MatMul, Add, MatMul, Add of matrices": (
        [node("MatMul", "z up", "p"), node("Add", "a p", "q"), node("MatMul", "q down", "r"), node("Add", "d r", "y")],
        MATRIX,
    ),
    "Gemm, Gemm": ([node("Gemm", "z up a", "p"), node("Gemm", "p down d", "y")], MATRIX),
    "Gemm, MatMul": ([node("Gemm", "z up a", "p"), node("MatMul", "p down", "y")], MATRIX),
    "MatMul, Gemm": ([node("MatMul", "z up", "p"), node("Gemm", "p down d", "y")], MATRIX),
    "Conv1x1, Conv1x1": ([node("Conv", "z wide a", "p"), node("Conv", "p narrow d", "y")], IMAGE),
    "Conv3x3, Conv1x1": ([node("Conv", "z wide3 a", "p", **PADS), node("Conv", "p narrow d", "y")], IMAGE),
    "Conv1x1, Conv3x3": ([node("Conv", "z wide", "p"), node("Conv", "p narrow3 d", "y", **PADS)], IMAGE),
}
BOUNDED = {
    "Sigmoid": [node("Sigmoid", "x", "z")],
    "a Conv of Clip": [node("Clip", "x low high", "c"), node("Mul", "c high", "e"), node("Relu", "e", "z")],
    "LayerNormalization": [node("LayerNormalization", "x ones", "z", axis=-1)],
}


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("start", BOUNDED)
def test_linear_chains_of_what_is_bounded(pair: str, start: str) -> None:
    nodes, x = PAIRS[pair]
    more = {"low": np.float32(-3), "high": np.float32(3), "ones": rand(x[-1], low=0.5, high=2)}
    after = fused(build([*BOUNDED[start], *nodes], x, **more))
    assert sum(ops(after)[op] for op in ("Conv", "Gemm", "MatMul")) == 1
    assert sum(ops(after).values()) <= len(BOUNDED[start]) + 2


@pytest.mark.parametrize("pair", PAIRS)
def test_linear_chains_of_anything(pair: str) -> None:
    nodes, x = PAIRS[pair]
    before = build([node("Neg", "x", "z"), *nodes], x)
    after, report = graphopt.fuse(before, verify="off", with_report=True)
    assert sum(ops(after)[op] for op in ("Conv", "Gemm", "MatMul")) == 2
    reasons = {reason for rule, each in report.refusals.items() if rule.endswith("-chain") for reason in each}
    assert any("fast_math=True" in reason for reason in reasons)
    after = fused(before, fast_math=True)
    assert sum(ops(after)[op] for op in ("Conv", "Gemm", "MatMul")) == 1


STATISTICS = {name: rand(4, seed=seed, low=0.2) for seed, name in enumerate(("g", "t", "mu", "var"))}
BRANCHES = [
    node("Conv", "z v3", "p", **PADS),
    node("BatchNormalization", "p g t mu var", "pn"),
    node("Conv", "z v1", "q"),
    node("BatchNormalization", "q g t mu var", "qn"),
    node("BatchNormalization", "z g t mu var", "i"),
]


@pytest.mark.parametrize("sums", ["pn qn/s i", "pn i/s qn", "qn i/pn s", "i pn/qn s"])
@pytest.mark.parametrize("start", ["Sigmoid", "Neg"])
def test_branches_of_repvgg(sums: str, start: str) -> None:
    first, second = sums.split("/")
    nodes = [
        node(start, "x", "z"),
        *BRANCHES,
        node("Add", first, "s"),
        node("Add", second, "r"),
        node("Relu", "r", "y"),
    ]
    before = build(nodes, IMAGE, **STATISTICS)
    if start == "Neg":
        assert ops(graphopt.fuse(before, verify="off"))["Conv"] == 2
    assert ops(fused(before, fast_math=start == "Neg")) == {start: 1, "Conv": 1, "Relu": 1}


def test_the_affine_of_a_layer_norm() -> None:
    """It stays in the normalization, whose kernel multiplies by a scale anyway: measured, folding it gains nothing."""
    nodes = [
        node("LayerNormalization", "x s t", "l", axis=-1),
        node("Mul", "l k", "lk"),
        node("Add", "lk k", "z"),
        node("MatMul", "z m", "q"),
        node("Add", "q b", "y"),
    ]
    more = {name: rand(4, seed=seed) for seed, name in enumerate("stk")}
    after = fused(build(nodes, ROWS, **more))
    assert ops(after) == {"LayerNormalization": 1, "MatMul": 1, "Add": 1}


def test_upsampled_in_every_spelling() -> None:
    for opset, op, operands in (
        (7, "Upsample", "x"),
        (9, "Upsample", "x scales"),
        (10, "Resize", "x scales"),
        (13, "Resize", "x - scales"),
    ):
        attrs: dict[str, Any] = {"mode": "nearest"} | ({"scales": [1.0, 1, 2, 2]} if opset == 7 else {})
        if opset == 13:
            attrs |= {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        nodes = [node(op, operands, "r", **attrs), node("Conv", "r narrow4", "c"), node("Relu", "c", "y")]
        more = {"scales": np.array([1, 1, 2, 2], np.float32), "narrow4": rand(3, 4, 1, 1)}
        after = fused(build(nodes, IMAGE, opset, **more))
        assert [item.op_type for item in after.graph.node] == ["Conv", "Relu", op]


def test_division_by_a_power_of_two() -> None:
    nodes = [node("Div", "x k", "z"), node("Abs", "z", "y")]
    assert ops(fused(build(nodes, IMAGE, k=np.float32(4)))) == {"Mul": 1, "Abs": 1}
    other = build(nodes, IMAGE, k=np.float32(255))
    assert ops(fused(other)) == {"Div": 1, "Abs": 1}
    assert ops(fused(other, fast_math=True)) == {"Mul": 1, "Abs": 1}


def test_an_image_normalized() -> None:
    """x / 255, minus the mean, over the deviation: two operators where the next convolution pads, none where not."""
    more = {"full": np.float32(255), "mean": rand(4, 1, 1, low=0.3, high=0.6), "std": rand(4, 1, 1, low=0.2, high=0.3)}
    first = [node("Div", "x full", "p"), node("Sub", "p mean", "q"), node("Div", "q std", "z")]
    assert ops(fused(build([*first, node("Conv", "z w b", "y")], IMAGE, **more))) == {"Conv": 1}
    padded = fused(build([*first, node("Conv", "z w b", "y", **PADS)], IMAGE, **more))
    assert sum(ops(padded).values()) <= 2
    assert sum(ops(fused(build([*first, node("Abs", "z", "y")], IMAGE, **more))).values()) == 3
