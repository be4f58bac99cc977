"""collapse-dead-channels: filters of zeros make constants."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from ..util import assert_same, constant, fired, model, node, ops, rand, reasons, run
from .fast import apply

RULE = "collapse-dead-channels"
FEEDS = {"x": rand(2, 4, 6, 6, seed=7)}


def filters(*shape: int, dead: tuple[int, ...] = (1, 4)) -> Any:
    """Weights above 0.1 in magnitude; those of some channels out are zero."""
    array = rand(*shape, seed=1)
    array += np.copysign(np.float32(0.1), array)
    array[list(dead)] = 0
    return array


def chain(middle: str = "", v: Any = None, biases: str = "ab", opset: int = 20, **more: Any) -> onnx.ModelProto:
    """x through a Conv with 6 filters, a function, and a Conv."""
    inner, outer = more.pop("inner", {}), more.pop("outer", {})
    names = [("a" if "a" in biases else ""), ("b" if "b" in biases else "")]
    nodes = [node("Conv", f"x v {names[0]}", "c", **inner)]
    if middle:
        nodes.append(node(middle, "c", "f", **more.pop("options", {})))
    nodes.append(node("Conv", f"{'f' if middle else 'c'} w {names[1]}", "y", **outer))
    weights = {"v": filters(6, 4, 1, 1) if v is None else v, "w": rand(3, 6, 1, 1, seed=2, low=0.2)}
    weights |= {"a": rand(6, seed=3), "b": rand(3, seed=4), **more}
    used = {name for item in nodes for name in item.input}
    return model(nodes, {"x": [2, 4, 6, 6]}, ["y"], {k: w for k, w in weights.items() if k in used}, opset=opset)


@pytest.mark.parametrize("biases", ["", "a", "b", "ab"])
@pytest.mark.parametrize(
    ("middle", "options"),
    [("", {}), ("Gelu", {}), ("Gelu", {"approximate": "tanh"}), ("HardSwish", {}), ("LeakyRelu", {"alpha": 0.3})],
)
def test_constant_channels_go(middle: str, options: dict[str, Any], biases: str) -> None:
    before = chain(middle, biases=biases, options=options) if middle else chain(biases=biases)
    after, report = apply(before, RULE)
    assert fired(report) == [RULE]
    assert ops(after) == {"Conv": 2, middle: 1} if middle else {"Conv": 2}
    first, last = (constant(after, item.input[1]) for item in after.graph.node if item.op_type == "Conv")
    assert (first.shape, last.shape) == ((4, 4, 1, 1), (3, 4, 1, 1))
    assert_same(before, after, FEEDS, tol=5e-6, reference=False)


def test_larger_kernels_and_padding_around_zeros() -> None:
    v, w = filters(6, 4, 3, 3), rand(3, 6, 3, 3, seed=2, low=0.2)
    for before in (
        chain("HardSwish", v=v, w=w),
        chain(v=v, w=w, biases="b", inner={"pads": [1] * 4}, outer={"pads": [1] * 4}),
    ):
        after, _ = apply(before, RULE)
        assert constant(after, after.graph.node[0].input[1]).shape == (4, 4, 3, 3)
        assert_same(before, after, FEEDS, tol=5e-6)


def test_what_is_not_finite_stays_so() -> None:
    before = chain("HardSwish")
    after, _ = apply(before, RULE)
    for number in (np.inf, -np.inf, np.nan):
        x = FEEDS["x"].copy()
        x[0, 1, 2, 3] = number
        want, got = (run(item, {"x": x})[0] for item in (before, after))
        np.testing.assert_array_equal(np.isfinite(want), np.isfinite(got))


THIN = filters(6, 4, 1, 1)
THIN[[0, 2, 3, 5], 0] = 0


@pytest.mark.parametrize(
    ("before", "reason"),
    [
        (chain(v=filters(9, 4, 1, 1, dead=(3,)), w=rand(3, 9, 1, 1), biases=""), "too few channels are constant"),
        (chain(v=THIN), "no channel that stays is sure to pass on infinities and NaN"),
        (chain(v=filters(6, 2, 1, 1), inner={"group": 2}), "a convolution has groups"),
        (chain(w=rand(4, 3, 1, 1), b=rand(4), outer={"group": 2}), "a convolution has groups"),
        (chain(a=np.full(6, np.inf, np.float32)), "a bias is not finite"),
        (chain(w=np.full((3, 6, 1, 1), np.nan, np.float32)), "the weights are not finite"),
        (chain(outer={"pads": [1] * 4}), "what is padded in is zero, not the constant of a channel"),
        (chain(a=np.full(6, 3e38, np.float32), w=rand(3, 6, 1, 1, low=0.9)), "the bias overflows its dtype"),
    ],
)
def test_refuses(before: onnx.ModelProto, reason: str) -> None:
    after, report = apply(before, RULE)
    assert [constant(after, i.input[1]).shape for i in after.graph.node] == [
        constant(before, i.input[1]).shape for i in before.graph.node
    ]
    assert reasons(report, RULE)[0].startswith(reason)


def test_refuses_weights_that_are_read_elsewhere() -> None:
    before = chain()
    before.graph.node.append(node("Neg", "w", "z"))
    before.graph.output.append(onnx.helper.make_tensor_value_info("z", TensorProto.FLOAT, [3, 6, 1, 1]))
    _, report = apply(before, RULE)
    assert reasons(report, RULE) == ["others read the weights, too"]


def test_leaves_functions_that_hide_infinities_and_values_that_are_read_elsewhere() -> None:
    for middle in ("Relu", "Sigmoid"):
        after, report = apply(chain(middle), RULE)
        assert not fired(report)
    before = chain()
    before.graph.output.append(onnx.helper.make_tensor_value_info("c", TensorProto.FLOAT, [2, 6, 6, 6]))
    after, report = apply(before, RULE)
    assert ops(after) == {"Conv": 2}
    assert not fired(report)
