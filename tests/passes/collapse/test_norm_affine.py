"""collapse-norm-affine and collapse-affine-before-norm: maps that normalizations take into their scale and bias."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from ..util import apply, assert_same, fired, model, node, ops, rand, reasons

BEHIND, BEFORE = "collapse-norm-affine", "collapse-affine-before-norm"
FEEDS = {"x": rand(2, 4, 5, 6, seed=7, low=-3, high=5)}
CONSTANTS: dict[str, Any] = {
    **{
        name: rand(4, seed=seed, low=0.2, high=2) for seed, name in enumerate(("g", "b", "mu", "var", "g2", "b2", "k4"))
    },
    "l": rand(6, seed=11, low=0.5, high=2),
    "m": rand(6, seed=12),
    "k": rand(4, 1, 1, seed=13, low=0.5, high=2),
    "e": rand(6, seed=14, low=0.5, high=2),
    "one": np.float32(1.5),
}
NORMS = {
    "BatchNormalization": node("BatchNormalization", "x g b mu var", "n"),
    "InstanceNormalization": node("InstanceNormalization", "x g b", "n"),
    "LayerNormalization": node("LayerNormalization", "x l m", "n", axis=-1),
    "no bias": node("LayerNormalization", "x l", "n", axis=-1),
}


def build(nodes: list[onnx.NodeProto], opset: int = 17, x: Any = (2, 4, 5, 6), **more: Any) -> onnx.ModelProto:
    used = {name for item in nodes for name in item.input}
    weights = {k: v for k, v in {**CONSTANTS, **more}.items() if k in used}
    return model(nodes, {"x": x}, {"y": x}, weights, opset=opset)


def constant_of(norm: str) -> str:
    return "k" if norm in ("BatchNormalization", "InstanceNormalization") else "e"


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(
    "step", ["Mul n ?", "Mul ? n", "Div n ?", "Add n ?", "Sub n ?", "Sub ? n", "Mul n one", "Add one n"]
)
def test_a_map_behind(norm: str, step: str) -> None:
    op, operands = step.replace("?", constant_of(norm)).split(" ", 1)
    before = build([NORMS[norm], node(op, operands, "y")])
    after, report = apply(before, BEHIND)
    if norm == "InstanceNormalization" and op in ("Add", "Sub"):
        assert reasons(report, BEHIND)[0].startswith("RMSNormalization has no bias, and what kernels of the others")
        return
    assert fired(report) == [BEHIND]
    assert ops(after) == {NORMS[norm].op_type: 1}
    assert_same(before, after, FEEDS, tol=5e-6)


@pytest.mark.parametrize(("norm", "opset"), [("GroupNormalization", 21), ("RMSNormalization", 23)])
def test_a_scale_behind_the_newer_ones(norm: str, opset: int) -> None:
    first = node(norm, "x g b", "n", num_groups=2) if norm[0] == "G" else node(norm, "x l", "n", axis=-1)
    before = build([first, node("Mul", "n k" if norm[0] == "G" else "n e", "y")], opset)
    after, _ = apply(before, BEHIND)
    assert ops(after) == {norm: 1}
    assert_same(before, after, FEEDS, tol=5e-6)
    _, report = apply(build([first, node("Add", "n one", "y")], opset), BEHIND)
    assert reasons(report, BEHIND)[0].startswith("RMSNormalization has no bias")


@pytest.mark.parametrize("norm", ["BatchNormalization", "LayerNormalization", "InstanceNormalization"])
def test_a_batch_normalization_behind(norm: str) -> None:
    before = build([NORMS[norm], node("BatchNormalization", "n g2 b2 mu var", "y")])
    after, report = apply(before, BEHIND)
    if norm == "BatchNormalization":
        assert ops(after) == {norm: 1}
        assert_same(before, after, FEEDS, tol=5e-6)
        return
    assert len(reasons(report, BEHIND)) == 1


@pytest.mark.parametrize(
    ("before", "reason"),
    [
        (
            build([NORMS["BatchNormalization"], node("Mul", "n e", "y")]),
            "a constant of shape [6] is not one number, or",
        ),
        (
            build([NORMS["BatchNormalization"], node("Div", "n one", "y")], one=np.float32(0)),
            "the constant divisor is zero",
        ),
        (
            build([NORMS["LayerNormalization"], node("Div", "n one", "y")], one=np.float32(0)),
            "the constant divisor is zero",
        ),
        (
            build([NORMS["LayerNormalization"], node("Mul", "n one", "y")], one=np.float32(np.inf)),
            "the constant is not",
        ),
        (
            build([NORMS["LayerNormalization"], node("Div", "n one", "y")], l=rand(6) * 1e-30, one=np.float32(1e-30)),
            "the normalization's scale is so small",
        ),
        (build([NORMS["LayerNormalization"], node("Mul", "n k", "y")]), "the constant is not one number for each norm"),
        (build([NORMS["LayerNormalization"], node("Mul", "n e", "y")], x=(2, 4, 5, "N")), "the constant is not one"),
        (
            build([NORMS["BatchNormalization"], node("Mul", "n one", "y")], g=rand(4) * 1e38, one=np.float32(100)),
            "the bias overflows",
        ),
        (build([NORMS["BatchNormalization"], node("Mul", "n one", "y")], var=-rand(4, low=1, high=2)), "variance plus"),
        (
            build(
                [
                    NORMS["BatchNormalization"],
                    node("Add", "n three", "p"),
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
def test_behind_refuses(before: onnx.ModelProto, reason: str) -> None:
    _, report = apply(before, BEHIND)
    assert not fired(report)
    assert reasons(report, BEHIND)[0].startswith(reason)


@pytest.mark.parametrize("step", ["Mul x k", "Div x k", "Add x k", "Sub x k", "Sub k x", "Mul one x", "Sub x one"])
@pytest.mark.parametrize("opset", [8, 9, 15])
def test_a_map_in_front(step: str, opset: int) -> None:
    op, operands = step.split(" ", 1)
    before = build([node(op, operands, "n"), node("BatchNormalization", "n g b mu var", "y")], opset)
    after, report = apply(before, BEFORE)
    assert fired(report) == [BEFORE]
    assert ops(after) == {"BatchNormalization": 1}
    assert_same(before, after, FEEDS, tol=5e-6, reference=False)  # the evaluator's older ones take batch statistics


LAST = node("BatchNormalization", "n g b mu var", "y")


@pytest.mark.parametrize(
    ("before", "reason"),
    [
        (build([node("Add", "x k", "n"), LAST], k=np.full((4, 1, 1), 1e5, np.float32)), "the shift is so large"),
        (build([node("Mul", "x e", "n"), LAST]), "a constant of shape [6] is not one number, or one number per"),
        (build([node("Mul", "x k", "n"), LAST], x=(2, 1, 5, 6)), "the constant is not proven to leave the shape"),
        (
            build([node("Mul", "x one", "n"), LAST], var=-rand(4, low=1, high=2)),
            "variance plus epsilon is not positive",
        ),
        (
            build([node("Mul", "x one", "n"), LAST], one=np.float32(1e30), g=np.full(4, 1e30, np.float32)),
            "the bias over",
        ),
    ],
)
def test_in_front_refuses(before: onnx.ModelProto, reason: str) -> None:
    _, report = apply(before, BEFORE)
    assert not fired(report)
    assert reasons(report, BEFORE)[0].startswith(reason)


def test_what_is_read_elsewhere_is_left() -> None:
    first = node("LayerNormalization", "x l m", "n u", axis=-1)
    assert not fired(apply(build([first, node("Mul", "n one", "v"), node("Add", "v u", "y")]), BEHIND)[1])
    nodes = [NORMS["BatchNormalization"], node("Mul", "n one", "z"), node("Add", "z n", "y")]
    assert not fired(apply(build(nodes), BEHIND)[1])
