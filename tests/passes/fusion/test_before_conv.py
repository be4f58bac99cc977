"""fuse-affine-conv and fuse-bn-conv: maps in front of a convolution."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from ..util import apply, assert_same, fired, model, node, ops, rand, reasons

STATISTICS = {"g": rand(4, seed=1), "t": rand(4, seed=2), "mu": rand(4, seed=3), "var": rand(4, seed=4, low=0.1)}
BN = node("BatchNormalization", "x g t mu var", "a")
PADDED = "what is padded in is zero, not the shift: at the border the shift is no bias"
KEPT = "the constant is not proven to leave the shape of the other operand as it is"


def before_conv(
    first: onnx.NodeProto, k: Any = None, *, x: Any = (2, 4, 6, 6), bias: bool = True, **attrs: Any
) -> onnx.ModelProto:
    group, op = attrs.get("group", 1), attrs.pop("op", "Conv")
    kernel = attrs.pop("kernel", (3, 3))
    shape = (6, 4 // group, *kernel) if op == "Conv" else (4, 6 // group, *kernel)
    weights: dict[str, Any] = {"w": rand(*shape, seed=5), **STATISTICS}
    if bias:
        weights["b"] = rand(6, seed=6)
    if k is not None:
        weights["k"] = k
    return model([first, node(op, "a w b" if bias else "a w", "y", name="conv", **attrs)], {"x": x}, ["y"], weights)


@pytest.mark.parametrize("step", ["Mul x k", "Mul k x", "Div x k", "Add x k", "Add k x", "Sub x k", "Sub k x"])
@pytest.mark.parametrize("shape", [(), (1,), (4, 1, 1), (1, 4, 1, 1), (1, 1, 1, 1)])
@pytest.mark.parametrize("attrs", [{}, {"group": 2, "bias": False}, {"auto_pad": "VALID", "strides": [2, 2]}], ids=str)
def test_affine(step: str, shape: tuple[int, ...], attrs: dict[str, Any]) -> None:
    op, inputs = step.split(" ", 1)
    before = before_conv(node(op, inputs, "a"), rand(*shape, seed=9, low=0.5, high=2), **attrs)
    after, report = apply(before, "fuse-affine-conv")
    assert ops(after) == {"Conv": 1}
    assert fired(report) == ["fuse-affine-conv"]
    # The reference of onnx 1.19 takes VALID for pads of its own where there are strides.
    by = False if "auto_pad" in attrs else None
    assert_same(before, after, {"x": rand(2, 4, 6, 6, seed=7)}, tol=5e-6, reference=by)


@pytest.mark.parametrize(
    "pads", [{"pads": [0, 1, 0, 0]}, {"auto_pad": "SAME_UPPER"}, {"auto_pad": "SAME_LOWER"}], ids=str
)
def test_padding_lets_the_scale_through_only(pads: dict[str, Any]) -> None:
    before = before_conv(node("Mul", "x k", "a"), rand(4, 1, 1), **pads)
    after, _ = apply(before, "fuse-affine-conv")
    assert ops(after) == {"Conv": 1}
    assert_same(before, after, {"x": rand(2, 4, 6, 6, seed=7)})
    after, report = apply(before_conv(node("Add", "x k", "a"), rand(4, 1, 1), **pads), "fuse-affine-conv")
    assert ops(after)["Add"] == 1
    assert reasons(report, "fuse-affine-conv") == [PADDED]


def test_a_pointwise_convolution_pads_nothing() -> None:
    before = before_conv(node("Add", "x k", "a"), rand(4, 1, 1), kernel=(1, 1), auto_pad="SAME_UPPER", strides=[2, 2])
    after, _ = apply(before, "fuse-affine-conv")
    assert ops(after) == {"Conv": 1}
    assert_same(before, after, {"x": rand(2, 4, 6, 6, seed=7)}, reference=False)


@pytest.mark.parametrize("group", [1, 2])
def test_scale_before_conv_transpose(group: int) -> None:
    before = before_conv(node("Mul", "x k", "a"), rand(4, 1, 1), op="ConvTranspose", group=group, strides=[2, 2])
    after, _ = apply(before, "fuse-affine-conv")
    assert ops(after) == {"ConvTranspose": 1}
    assert_same(before, after, {"x": rand(2, 4, 6, 6, seed=7)}, reference=False)
    before = before_conv(node("Add", "x k", "a"), rand(4, 1, 1), op="ConvTranspose")
    after, _ = apply(before, "fuse-affine-conv")
    assert ops(after)["Add"] == 1


def test_input_normalization() -> None:
    """(x / 255 - mean) / deviation, one operator at a time."""
    nodes = [node("Div", "x k", "a"), node("Sub", "a m", "c"), node("Div", "c s", "d"), node("Conv", "d w", "y")]
    weights = {
        "k": np.float32(255),
        "m": rand(3, 1, 1, low=0.3),
        "s": rand(3, 1, 1, low=0.2, high=0.3),
        "w": rand(4, 3, 3, 3),
    }
    before = model(nodes, {"x": ["N", 3, None, None]}, ["y"], weights)
    after, report = apply(before, "fuse-affine-conv")
    assert ops(after) == {"Conv": 1}
    assert fired(report) == ["fuse-affine-conv"] * 3
    assert_same(before, after, {"x": rand(2, 3, 8, 8, low=0, high=255)})


@pytest.mark.parametrize(
    ("x", "shape", "reason"),
    [
        ((2, 4, 6, 6), (6,), "a constant of shape [6] is not one number, or one number per channel"),
        ((2, 4, 6, 6), (2, 1, 1, 1), "a constant of shape [2, 1, 1, 1] is not one number, or one number per channel"),
        ((2, 1, 6, 6), (4, 1, 1), KEPT),
        ((2, "C", 6, 6), (4, 1, 1), KEPT),
        ((4, 6, 6), (1, 4, 1, 1), KEPT),
        ((4, 6, 6), (1, 1, 1, 1), KEPT),
    ],
)
def test_refuses_shapes(x: Any, shape: tuple[int, ...], reason: str) -> None:
    after, report = apply(before_conv(node("Mul", "x k", "a"), rand(*shape), x=x), "fuse-affine-conv")
    assert ops(after)["Mul"] == 1
    assert reasons(report, "fuse-affine-conv") == [reason]


def test_refuses_a_shift_that_would_cancel() -> None:
    _, report = apply(before_conv(node("Sub", "x k", "a"), np.float32(1e6)), "fuse-affine-conv")
    assert "cancel" in reasons(report, "fuse-affine-conv")[0]


def test_refuses_a_bias_computed_at_run_time_for_a_shift() -> None:
    nodes = [node("Add", "x k", "a"), node("Conv", "a w b", "y")]
    weights = {"w": rand(4, 3, 3, 3), "k": np.float32(1)}
    _, report = apply(model(nodes, {"x": [2, 3, 6, 6], "b": [4]}, ["y"], weights), "fuse-affine-conv")
    assert reasons(report, "fuse-affine-conv") == ["the bias is computed at run time"]


def test_leaves_a_value_that_is_read_elsewhere() -> None:
    before = before_conv(node("Mul", "x k", "a"), rand(4, 1, 1))
    before.graph.output.append(onnx.helper.make_tensor_value_info("a", TensorProto.FLOAT, [2, 4, 6, 6]))
    after, _ = apply(before, "fuse-affine-conv")
    assert ops(after)["Mul"] == 1


@pytest.mark.parametrize("attrs", [{}, {"group": 2}, {"group": 4, "kernel": (1, 1)}], ids=str)
@pytest.mark.parametrize("bias", [True, False])
def test_batch_normalization(attrs: dict[str, Any], bias: bool) -> None:
    if attrs.get("group") == 4:
        attrs = {**attrs, "group": 2}
    before = before_conv(BN, bias=bias, **attrs)
    after, report = apply(before, "fuse-bn-conv")
    assert ops(after) == {"Conv": 1}
    assert fired(report) == ["fuse-bn-conv"]
    assert_same(before, after, {"x": rand(2, 4, 6, 6, seed=7)}, tol=5e-6)


def test_batch_normalization_before_a_padded_conv() -> None:
    after, report = apply(before_conv(BN, pads=[1, 1, 1, 1]), "fuse-bn-conv")
    assert ops(after)["BatchNormalization"] == 1
    assert reasons(report, "fuse-bn-conv") == [PADDED]
    before = before_conv(BN, pads=[1, 1, 1, 1])
    for tensor in before.graph.initializer:
        if tensor.name in ("mu", "t"):
            tensor.raw_data = np.zeros(4, np.float32).tobytes()
    after, _ = apply(before, "fuse-bn-conv")
    assert ops(after) == {"Conv": 1}
    assert_same(before, after, {"x": rand(2, 4, 6, 6, seed=7)})


def written_out(*nodes: onnx.NodeProto, op: str = "Conv") -> onnx.ModelProto:
    """x [2, 4, 6, 6] through these nodes to `a`, then a product with constant weights."""
    numbers = {
        "half": 0.5,
        "one": 1.0,
        "three": 3.0,
        "six": 6.0,
        "zero": 0.0,
        "r2": 1.4142135,
        "k": 0.044715,
        "s": 0.7978846,
        "eps": 1e-5,
    }
    last = node("Conv", "a w", "y") if op == "Conv" else node("MatMul", "a v", "y")
    weights = {"w": rand(6, 4, 3, 3, seed=5), "v": rand(6, 3, seed=5), "gamma": rand(6, low=0.5), "beta": rand(6)}
    scalars = {name: np.float32(value) for name, value in numbers.items()}
    return model([*nodes, last], {"x": (2, 4, 6, 6)}, ["y"], {**weights, **scalars})


GATES = {
    "gelu": "Div x r2 d; Erf d e; Add e one f; Mul x f g; Mul g half a",
    "gelu, tanh": "Mul x s d; Tanh d e; Add one e f; Mul f x g; Mul half g a",
    "hard swish": "Add x three d; Clip d zero six e; Mul x e f; Div f six a",
    "hard sigmoid": "Add x three d; Clip d zero six e; Div e six a",
}


def steps(text: str) -> list[onnx.NodeProto]:
    """Nodes from "Op in in out; Op in out"."""
    words = [step.split() for step in text.split(";")]
    return [node(op, " ".join(ins), out) for op, *ins, out in words]


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("op", ["Conv", "MatMul"])
def test_activations_written_out_stay_whole(gate: str, op: str) -> None:
    rule = f"fuse-affine-{op.lower()}"
    before = written_out(*steps(GATES[gate]), op=op)
    after, report = apply(before, rule)
    assert ops(after) == ops(before)
    assert "an activation written out" in reasons(report, rule)[0]


def test_a_scale_behind_an_activation_folds() -> None:
    """x * sigmoid(x) * c: the constant is no part of the activation; nor is a learned scale behind HardSwish."""
    after, _ = apply(written_out(*steps("Sigmoid x d; Mul x d e; Mul e s a")), "fuse-affine-conv")
    assert ops(after) == {"Sigmoid": 1, "Mul": 1, "Conv": 1}
    swish = "Add x three d; Clip d zero six e; Mul x e f; Div f six g; Mul g s a"
    after, _ = apply(written_out(*steps(swish)), "fuse-affine-conv")
    assert ops(after) == {"Add": 1, "Clip": 1, "Mul": 1, "Div": 1, "Conv": 1}


def test_normalization_written_out_stays_whole() -> None:
    mean, variance = node("ReduceMean", "x", "m", axes=[-1]), node("ReduceMean", "q", "u", axes=[-1])
    rest = steps("Add u eps e; Sqrt e r; Div c r n; Mul n gamma a")
    before = written_out(mean, *steps("Sub x m c; Mul c c q"), variance, *rest, op="MatMul")
    after, report = apply(before, "fuse-affine-matmul")
    assert ops(after) == ops(before)
    assert "a normalization written out" in reasons(report, "fuse-affine-matmul")[0]
