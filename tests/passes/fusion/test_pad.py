"""fuse-pad-conv and fuse-pad-pool."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from ..util import apply, assert_same, constant, fired, model, node, ops, rand, reasons

PADS = [0, 0, 1, 0, 0, 0, 2, 1]


def pad(
    opset: int, pads: list[int] = PADS, value: Any = None, axes: list[int] | None = None, **attrs: Any
) -> tuple[Any, dict[str, Any]]:
    """A Pad of this opset from x to p, and its constants."""
    if opset < 11:
        attrs |= {} if value is None else {"value": value}
        return node("Pad", "x", "p", pads=pads, **attrs), {}
    inputs, constants = "x pads", {"pads": np.array(pads, np.int64)}
    if value is not None or axes is not None:
        inputs += " value" if value is not None else " -"
        constants |= {} if value is None else {"value": np.float32(value)}
    if axes is not None:
        inputs += " axes"
        constants["axes"] = np.array(axes, np.int64)
    return node("Pad", inputs, "p", **attrs), constants


def padded(op: str, opset: int = 18, *, x: Any = (2, 3, 7, 7), more: Any = None, **options: Any) -> onnx.ModelProto:
    """Pad, then Conv or a pool with the attributes `more`."""
    made, weights = pad(opset, **options)
    if op == "Conv":
        weights |= {"w": rand(4, 3, 3, 3), "b": rand(4, seed=1)}
        last = node("Conv", "p w b", "y", name="conv", **(more or {}))
    else:
        last = node(op, "p", "y", name="pool", **{"kernel_shape": [3, 3], **(more or {})})
    return model([made, last], {"x": x}, ["y"], weights, opset=opset)


X = {"x": rand(2, 3, 7, 7, seed=5)}


@pytest.mark.parametrize("opset", [7, 10, 11, 13, 18, 19, 21])
@pytest.mark.parametrize("value", [None, 0.0, -0.0])
@pytest.mark.parametrize("more", [{}, {"pads": [1, 1, 0, 1], "strides": [2, 2]}, {"auto_pad": "VALID"}], ids=str)
def test_conv(opset: int, value: float | None, more: dict[str, Any]) -> None:
    before = padded("Conv", opset, value=value, more=more)
    after, report = apply(before, "fuse-pad-conv")
    assert ops(after) == {"Conv": 1}
    assert fired(report) == ["fuse-pad-conv"]
    assert_same(before, after, X, reference=None if opset >= 11 and "auto_pad" not in more else False)


@pytest.mark.parametrize(
    ("axes", "pads"), [([2, 3], [1, 0, 2, 1]), ([-1], [2, 1]), ([3, 2], [1, 0, 2, 1]), ([0, 2], [0, 1, 0, 1])]
)
def test_axes(axes: list[int], pads: list[int]) -> None:
    before = padded("Conv", 18, axes=axes, pads=pads)
    after, _ = apply(before, "fuse-pad-conv")
    assert ops(after) == {"Conv": 1}
    assert_same(before, after, X)


def test_pads_larger_than_the_kernel_of_a_convolution() -> None:
    before = padded("Conv", pads=[0, 0, 5, 4, 0, 0, 5, 6])
    after, _ = apply(before, "fuse-pad-conv")
    assert ops(after) == {"Conv": 1}
    assert_same(before, after, X)


CONV_REFUSALS: dict[str, tuple[dict[str, Any], str]] = {
    "value": ({"value": 1.0}, "the padded value is 1.0, not 0.0"),
    "mode": ({"mode": "reflect"}, "the Pad repeats or reflects what is there"),
    "negative": ({"pads": [0, 0, 1, -1, 0, 0, 1, 1]}, "a negative pad cuts off"),
    "batch": ({"pads": [1, 0, 1, 1, 0, 0, 1, 1]}, "the Pad is over the batch or the channels, too"),
    "channels": (
        {"pads": [0, 0, 1, 1, 0, 1, 1, 1], "x": (2, 2, 7, 7)},
        "the Pad is over the batch or the channels, too",
    ),
    "same": ({"more": {"auto_pad": "SAME_UPPER"}}, "auto_pad computes pads from the padded size"),
}


@pytest.mark.parametrize("opset", [10, 18])
@pytest.mark.parametrize("case", CONV_REFUSALS)
def test_conv_refuses(case: str, opset: int) -> None:
    options, reason = CONV_REFUSALS[case]
    before = padded("Conv", opset, **options)
    after, report = apply(before, "fuse-pad-conv")
    assert ops(after)["Pad"] == 1
    assert reasons(report, "fuse-pad-conv") == [reason]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("pads", "the pads are computed at run time"),
        ("value", "the padded value is computed at run time"),
        ("axes", "the padded axes are computed at run time"),
    ],
)
def test_conv_refuses_what_is_computed_at_run_time(name: str, reason: str) -> None:
    before = padded("Conv", value=0.0, axes=[2, 3], pads=[1, 1, 1, 1])
    shape = constant(before, name).shape
    kept = [t for t in before.graph.initializer if t.name != name]
    del before.graph.initializer[:]
    before.graph.initializer.extend(kept)
    kind = TensorProto.FLOAT if name == "value" else TensorProto.INT64
    before.graph.input.append(helper.make_tensor_value_info(name, kind, shape))
    _, report = apply(before, "fuse-pad-conv")
    assert reasons(report, "fuse-pad-conv") == [reason]


def test_leaves_a_padded_value_that_is_read_elsewhere() -> None:
    before = padded("Conv")
    before.graph.output.append(helper.make_tensor_value_info("p", TensorProto.FLOAT, [2, 3, 10, 8]))
    after, _ = apply(before, "fuse-pad-conv")
    assert ops(after)["Pad"] == 1


@pytest.mark.parametrize("opset", [7, 10, 11, 13, 18])
@pytest.mark.parametrize(
    "more",
    [{}, {"pads": [1, 1, 0, 1], "count_include_pad": 1}, {"pads": [0] * 4, "strides": [2, 2]}, {"auto_pad": "VALID"}],
    ids=str,
)
def test_average_pool(opset: int, more: dict[str, Any]) -> None:
    before = padded("AveragePool", opset, more=more)
    after, report = apply(before, "fuse-pad-pool")
    assert ops(after) == {"AveragePool": 1}
    assert fired(report) == ["fuse-pad-pool"]
    assert_same(before, after, X, reference=False)


def test_a_pad_of_nothing_does_not_count_what_hangs_over() -> None:
    before = padded("AveragePool", 17, pads=[0] * 8)
    after, _ = apply(before, "fuse-pad-pool")
    assert ops(after) == {"AveragePool": 1}
    assert not any(a.name == "count_include_pad" for a in after.graph.node[0].attribute)


@pytest.mark.parametrize("opset", [19, 22])
def test_average_pool_that_older_runtimes_miscount(opset: int) -> None:
    """ONNX Runtime 1.23 divides by the wrong number where pads differ from axis to axis."""
    before = padded("AveragePool", opset, pads=[0, 0, 1, 1, 0, 0, 1, 1], more={"strides": [2, 2]})
    after, _ = apply(before, "fuse-pad-pool")
    assert ops(after) == {"AveragePool": 1}
    assert_same(before, after, X, reference=False)
    _, report = apply(padded("AveragePool", opset), "fuse-pad-pool")
    assert "miscount uneven pads" in reasons(report, "fuse-pad-pool")[0]


@pytest.mark.parametrize("opset", [10, 18])
@pytest.mark.parametrize("more", [{}, {"pads": [1, 1, 0, 1], "strides": [2, 2]}], ids=str)
def test_max_pool(opset: int, more: dict[str, Any]) -> None:
    before = padded("MaxPool", opset, value=-np.inf, more=more)
    after, _ = apply(before, "fuse-pad-pool")
    assert ops(after) == {"MaxPool": 1}
    assert_same(before, after, {"x": X["x"] - 5}, tol=0, reference=False)


POOL_REFUSALS: dict[str, tuple[str, dict[str, Any], str]] = {
    "max of zeros": ("MaxPool", {}, "the padded value is 0.0, not -inf"),
    "average of -inf": ("AveragePool", {"value": -np.inf}, "the padded value is -inf, not 0.0"),
    "own pads not counted": (
        "AveragePool",
        {"more": {"pads": [1, 1, 0, 1]}},
        "the pool does not count its own padding, but counts that of the Pad",
    ),
    "ceil": (
        "AveragePool",
        {"more": {"ceil_mode": 1}},
        "with ceil_mode, windows that hang over the end are not the same",
    ),
    "dilations": (
        "MaxPool",
        {"value": -np.inf, "more": {"dilations": [2, 1]}},
        "with dilations, windows may lie in the padding alone",
    ),
    "same": ("AveragePool", {"more": {"auto_pad": "SAME_LOWER"}}, "auto_pad computes pads from the padded size"),
    "as large as the kernel": (
        "AveragePool",
        {"pads": [0, 0, 1, 3, 0, 0, 1, 1]},
        "the pads together are not smaller than the kernel",
    ),
    "together as large as the kernel": (
        "AveragePool",
        {"more": {"pads": [1, 0, 1, 0], "count_include_pad": 1}},
        "the pads together are not smaller than the kernel",
    ),
}


@pytest.mark.parametrize("case", POOL_REFUSALS)
def test_pool_refuses(case: str) -> None:
    op, options, reason = POOL_REFUSALS[case]
    after, report = apply(padded(op, **options), "fuse-pad-pool")
    assert ops(after)["Pad"] == 1
    assert reasons(report, "fuse-pad-pool") == [reason]


def test_max_pool_with_indices_is_left_alone() -> None:
    """They count the padded elements, too."""
    before = padded("MaxPool", value=-np.inf)
    before.graph.node[1].output.append("indices")
    before.graph.output.append(helper.make_tensor_value_info("indices", TensorProto.INT64, [2, 3, 8, 6]))
    after, _ = apply(before, "fuse-pad-pool")
    assert ops(after)["Pad"] == 1
