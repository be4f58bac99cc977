"""collapse-affine-chain: three operators with constants as two."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from ..util import apply, assert_same, fired, model, node, ops, rand, reasons

RULE = "collapse-affine-chain"
FEEDS = {"x": rand(2, 4, 6, seed=7)}
CONSTANTS: dict[str, Any] = {
    "a": rand(4, 1, seed=1),
    "b": rand(4, 1, seed=2, low=0.3, high=2),
    "c": rand(6, seed=3),
    "d": np.float32(2),
    "h": np.float32(0.5),
}


def build(steps: str, x: Any = (2, 4, 6), last: onnx.NodeProto | None = None, **more: Any) -> onnx.ModelProto:
    """x through steps like `Sub x a/Mul v b`, to z, and what reads it."""
    nodes, value = [], "x"
    for place, step in enumerate(steps.split("/")):
        op, *operands = step.split()
        nodes.append(node(op, " ".join(value if name in "vx" else name for name in operands), f"z{place}"))
        value = f"z{place}"
    nodes.append(last or node("Abs", value, "y"))
    used = {name for item in nodes for name in item.input}
    return model(nodes, {"x": x}, ["y"], {k: v for k, v in {**CONSTANTS, **more}.items() if k in used})


@pytest.mark.parametrize("first", ["Add x a", "Sub x a", "Sub a x"])
@pytest.mark.parametrize("second", ["Mul v b", "Div v b", "Mul d v"])
@pytest.mark.parametrize("third", ["Add v d", "Sub v a", "Sub a v"])
def test_shift_scale_shift(first: str, second: str, third: str) -> None:
    before = build(f"{first}/{second}/{third}")
    after, report = apply(before, RULE)
    assert fired(report) == [RULE]
    assert ops(after) == {"Mul": 1, "Add": 1, "Abs": 1}
    assert_same(before, after, FEEDS, tol=5e-6)


@pytest.mark.parametrize("first", ["Mul x d", "Div x h", "Mul d x"])
@pytest.mark.parametrize("second", ["Add v a", "Sub v a", "Sub a v"])
@pytest.mark.parametrize("third", ["Mul v d", "Div v h"])
def test_scale_shift_scale(first: str, second: str, third: str) -> None:
    before = build(f"{first}/{second}/{third}")
    after, _ = apply(before, RULE)
    assert ops(after) == {"Mul": 1, "Add": 1, "Abs": 1}
    assert_same(before, after, FEEDS, tol=5e-6)


def test_infinities_and_nan_are_where_they_were() -> None:
    special = rand(2, 4, 6, seed=7)
    special[0, 0, :4] = [np.inf, -np.inf, np.nan, 3e38]
    zero = np.float32([[0], [1], [-2], [0]])
    before = build("Sub x a/Mul v b/Add v d", b=zero)
    after, _ = apply(before, RULE)
    assert ops(after)["Sub"] == 0
    assert_same(before, after, {"x": special}, tol=5e-6)


@pytest.mark.parametrize("dtype", [TensorProto.FLOAT16, TensorProto.DOUBLE])
def test_other_types(dtype: int) -> None:
    kind = onnx.helper.tensor_dtype_to_np_dtype(dtype)
    nodes = [node("Sub", "x a", "u"), node("Mul", "u b", "v"), node("Add", "v c", "y")]
    weights = {k: np.asarray(CONSTANTS[k]).astype(kind) for k in ("a", "b", "c")}
    weights["a"] = weights["c"] = weights["a"] / 4
    before = model(nodes, {"x": [2, 4, 6]}, ["y"], weights, dtype=dtype)
    after, _ = apply(before, RULE)
    assert ops(after) == {"Mul": 1, "Add": 1}
    assert_same(before, after, {"x": FEEDS["x"].astype(kind)}, tol=1e-2 if dtype == TensorProto.FLOAT16 else 1e-14)


BATCH = "Sub x a/Mul v b/Add v a"


@pytest.mark.parametrize(
    ("before", "reason"),
    [
        (build(BATCH, a=np.full((4, 1), 1e4, np.float32)), "the shift is so large that behind the product it would"),
        (build(BATCH, a=np.full((4, 1), np.inf, np.float32)), "a constant is not finite"),
        (build("Div x h/Sub v a/Div v d"), "one factor undoes some of the other"),
        (build("Sub x a/Mul v c/Add v d"), "a new constant would be larger than the old ones"),
        (build("Sub x a/Mul v b/Add v d", a=np.float32(1e-30), b=np.float32(1e-15), d=np.float32(0)), "a new constant"),
        (build("Div x b/Sub v a/Div v h", h=np.float32(0)), "one factor undoes some of the other"),
        (
            build("Div x d/Sub v a/Div v h", d=np.float32(1), h=np.float32(0)),
            "a new constant is too large, or too small",
        ),
        (build("Mul x d/Add v a/Mul v d", d=np.float32(1e25)), "a new constant is too large, or too small"),
        (build(BATCH, last=node("Sigmoid", "z2", "y")), "the constants seem to be part of an activation written out"),
    ],
)
def test_refuses(before: onnx.ModelProto, reason: str) -> None:
    _, report = apply(before, RULE)
    assert not fired(report)
    assert reasons(report, RULE)[0].startswith(reason)


def test_leaves_integers_and_what_is_read_elsewhere() -> None:
    nodes = [node("Sub", "x a", "u"), node("Mul", "u b", "v"), node("Add", "v a", "y")]
    weights = {"a": np.int64(3), "b": np.int64(2)}
    _, report = apply(model(nodes, {"x": [3]}, ["y"], weights, dtype=TensorProto.INT64), RULE)
    assert not fired(report)
    both = model(nodes, {"x": [3]}, ["y", "v"], {"a": np.float32(3), "b": np.float32(2)})
    assert not fired(apply(both, RULE)[1])


def test_leaves_normalizations_written_out() -> None:
    mean = [node("ReduceMean", "x", "u", axes=[-1]), node("Sub", "x u", "e"), node("Mul", "e e", "q")]
    root = [node("ReduceMean", "q", "r", axes=[-1]), node("Sqrt", "r", "s"), node("Div", "e s", "n")]
    nodes = [*mean, *root, node("Mul", "n d", "m"), node("Add", "m d", "z"), node("Mul", "z d", "y")]
    _, report = apply(model(nodes, {"x": [2, 4, 6]}, ["y"], {"d": CONSTANTS["d"]}), RULE)
    assert reasons(report, RULE)[0].startswith("the constant is part of a normalization written out")
