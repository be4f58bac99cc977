"""collapse-resize-conv, collapse-resize-pointwise and collapse-concat-conv: work moved to where the image is small."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from ..util import apply, assert_same, fired, model, node, ops, rand, reasons

CONV, POINTWISE, CONCAT = "collapse-resize-conv", "collapse-resize-pointwise", "collapse-concat-conv"
FEEDS = {"x": rand(2, 4, 5, 6, seed=7)}
SCALES, SIZES = np.array([1, 1, 2, 3], np.float32), np.array([2, 4, 9, 13])
BY_SCALE, BY_SIZE = "x - scales", "x - - sizes"
PLACED: dict[str, Any] = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}


def enlarged(
    last: list[onnx.NodeProto], operands: str = BY_SCALE, x: Any = (2, 4, 5, 6), **more: Any
) -> onnx.ModelProto:
    """x through a Resize to r, and what reads it."""
    options = {"mode": "linear", **more.pop("options", {})}
    opset = more.pop("opset", 17)
    nodes = [node(more.pop("op", "Resize"), operands, "r", **options), *last]
    constants: dict[str, Any] = {
        "scales": SCALES,
        "sizes": SIZES,
        "w": rand(3, 4, 1, 1, seed=5),
        "b": rand(3, seed=6),
        **more,
    }
    used = {name for item in nodes for name in item.input}
    return model(nodes, {"x": x}, ["y"], {k: v for k, v in constants.items() if k in used}, opset=opset)


MODES: list[dict[str, Any]] = [{}, {"mode": "nearest", **PLACED}, {"coordinate_transformation_mode": "align_corners"}]
READ = [node("Conv", "r w b", "y")]


@pytest.mark.parametrize("operands", [BY_SCALE, BY_SIZE])
@pytest.mark.parametrize(
    "options",
    [
        {"mode": "linear"},
        {"mode": "cubic"},
        {"mode": "nearest", **PLACED},
        {"coordinate_transformation_mode": "align_corners"},
    ],
    ids=str,
)
@pytest.mark.parametrize(("w", "group"), [((3, 4, 1, 1), 1), ((4, 2, 1, 1), 2), ((4, 1, 1, 1), 4)])
def test_convolution(operands: str, options: Any, w: Any, group: int) -> None:
    read = [node("Conv", "r w b", "y", group=group)]
    before = enlarged(read, operands, options=options, w=rand(*w, seed=5), b=rand(w[0], seed=6))
    after, report = apply(before, CONV)
    assert [item.op_type for item in after.graph.node] == ["Conv", "Resize"]
    assert fired(report) == [CONV]
    assert_same(before, after, FEEDS, tol=5e-6, reference=False)


def test_free_sizes_and_other_forms() -> None:
    before = enlarged(READ, x=("N", 4, "H", "W"))
    after, _ = apply(before, CONV)
    assert [item.op_type for item in after.graph.node] == ["Conv", "Resize"]
    assert_same(before, after, FEEDS, tol=5e-6, reference=False)
    for opset, op in ((7, "Upsample"), (9, "Upsample"), (10, "Resize")):
        options = {"scales": SCALES.tolist()} if opset == 7 else {}
        before = enlarged(READ, "x" if opset == 7 else "x scales", op=op, opset=opset, options=options)
        after, _ = apply(before, CONV)
        assert [item.op_type for item in after.graph.node] == ["Conv", op]
        assert_same(before, after, FEEDS, tol=5e-6, reference=False)
    axes = enlarged(READ, opset=18, options={"axes": [2, 3]}, scales=np.array([2, 2], np.float32))
    after, _ = apply(axes, CONV)
    assert [item.op_type for item in after.graph.node] == ["Conv", "Resize"]
    assert_same(axes, after, FEEDS, tol=5e-6, reference=False)


NOT_LARGER = "this is not proven to enlarge the image, and that alone"


@pytest.mark.parametrize(
    ("before", "reason"),
    [
        (enlarged(READ, options={"mode": "cubic", "exclude_outside": 1}), "the weights of this interpolation are not"),
        (enlarged(READ, scales=np.array([1, 1, 0.5, 3], np.float32)), NOT_LARGER),
        (enlarged(READ, scales=np.array([1, 1, 1, 1], np.float32)), NOT_LARGER),
        (enlarged(READ, scales=np.array([1, 2, 2, 2], np.float32), x=(2, 2, 5, 6)), NOT_LARGER),
        (enlarged(READ, BY_SIZE, x=(2, 4, "H", 6)), NOT_LARGER),
        (enlarged([node("Conv", "r w b", "y", pads=[1, 1, 1, 1])]), "the convolution pads"),
        (enlarged([node("Conv", "r w b", "y", strides=[2, 2])]), "the kernel or a stride is larger than 1"),
        (enlarged(READ, w=rand(3, 4, 3, 3)), "the kernel or a stride is larger than 1"),
        (enlarged(READ, b=np.full(3, np.inf, np.float32)), "a weight or bias may be infinite"),
        (enlarged(READ, w=np.full((3, 4, 1, 1), np.inf, np.float32)), "a weight or bias may be infinite"),
        (enlarged(READ, w=rand(32, 4, 1, 1), b=rand(32)), "moving the further channels costs more than"),
        (
            enlarged([node("Conv", "r w b", "c"), node("Relu", "c", "y")], w=rand(4, 4, 1, 1), b=rand(4)),
            "moving the further channels costs more than",
        ),
    ],
)
def test_refuses_a_convolution(before: onnx.ModelProto, reason: str) -> None:
    after, report = apply(before, CONV)
    assert after.graph.node[0].op_type == "Resize"
    assert reasons(report, CONV)[0].startswith(reason)


def test_refuses_interpolation_with_a_value_of_its_own() -> None:
    options = {"coordinate_transformation_mode": "tf_crop_and_resize"}
    before = enlarged(READ, "x box scales", options=options, box=np.array([0, 0, 0, 0, 1, 1, 1, 1], np.float32))
    _, report = apply(before, CONV)
    assert reasons(report, CONV) == ["what lies outside has a value of its own"]


def test_leaves_an_image_that_is_read_elsewhere() -> None:
    before = enlarged(READ)
    before.graph.output.append(onnx.helper.make_tensor_value_info("r", TensorProto.FLOAT, [2, 4, 10, 18]))
    after, _ = apply(before, CONV)
    assert after.graph.node[0].op_type == "Resize"


@pytest.mark.parametrize("operands", [BY_SCALE, BY_SIZE])
@pytest.mark.parametrize("op", ["Relu", "Sigmoid", "HardSwish", "Clip", "Exp"])
def test_pointwise(op: str, operands: str) -> None:
    last = [node(op, "r low high" if op == "Clip" else "r", "y")]
    options = {"mode": "nearest", **PLACED}
    before = enlarged(last, operands, options=options, low=np.float32(-0.5), high=np.float32(0.5))
    after, report = apply(before, POINTWISE)
    assert [item.op_type for item in after.graph.node] == [op, "Resize"]
    assert fired(report) == [POINTWISE]
    assert_same(before, after, FEEDS, tol=0, reference=False)


NEAREST = {"mode": "nearest"}


@pytest.mark.parametrize(
    ("before", "reason"),
    [
        (enlarged([node("Relu", "r", "y")]), "the interpolation mixes elements"),
        (enlarged([node("Relu", "r", "y")], options=NEAREST, scales=np.array([1, 1, 0.5, 1], np.float32)), NOT_LARGER),
    ],
)
def test_refuses_pointwise(before: onnx.ModelProto, reason: str) -> None:
    after, report = apply(before, POINTWISE)
    assert after.graph.node[0].op_type == "Resize"
    assert reasons(report, POINTWISE) == [reason]


def test_refuses_bounds_computed_at_run_time_and_other_types() -> None:
    resize = node("Resize", "x - scales", "r", mode="nearest")
    nodes = [resize, node("ReduceMax", "x", "m", keepdims=0), node("Clip", "r - m", "y")]
    _, report = apply(model(nodes, {"x": [2, 4, 5, 6]}, ["y"], {"scales": SCALES}), POINTWISE)
    assert reasons(report, POINTWISE) == ["the bounds are computed at run time"]
    nodes = [resize, node("Abs", "r", "y")]
    before = model(nodes, {"x": [2, 4, 5, 6]}, ["y"], {"scales": SCALES}, dtype=TensorProto.INT32)
    _, report = apply(before, POINTWISE)
    assert reasons(report, POINTWISE) == ["this is not proven to be float32 of a known rank"]


def joined(parts: str, channels: int, out: int = 3, axis: int = 1, **conv: Any) -> onnx.ModelProto:
    """small (6 channels), enlarged to r; tall (4 channels) and wide (2), joined in front of a Conv."""
    nodes = [
        node("Resize", "small - scales", "r", mode="nearest", **PLACED),
        node("Concat", parts, "c", axis=axis),
        node("Conv", "c w b", "y", **conv),
    ]
    inputs: dict[str, Any] = {"small": ["N", 6, "H", "W"], "tall": ["N", 4, "A", "B"], "wide": ["N", 2, "A", "B"]}
    used = {name: shape for name, shape in inputs.items() if name in parts.split() or name == "small"}
    kernel = conv.get("kernel_shape", [1, 1])
    weights = {
        "scales": np.array([1, 1, 2, 2], np.float32),
        "w": rand(out, channels, *kernel, seed=5),
        "b": rand(out, seed=6),
    }
    return model(nodes, used, {"y": ["N", out, None, None]}, weights)


JOINED = {"small": rand(2, 6, 4, 5, seed=1), "tall": rand(2, 4, 8, 10, seed=2), "wide": rand(2, 2, 8, 10, seed=3)}


@pytest.mark.parametrize(
    ("parts", "channels"), [("r tall", 10), ("tall r", 10), ("tall r wide", 12), ("tall wide r", 12)]
)
@pytest.mark.parametrize("axis", [1, -3])
def test_concatenation(parts: str, channels: int, axis: int) -> None:
    before = joined(parts, channels, axis=axis)
    after, report = apply(before, CONCAT)
    assert fired(report) == [CONCAT]
    expected = {"Conv": 2, "Resize": 1, "Add": 1, "Concat": 1}
    assert ops(after) == (expected if channels == 12 else {k: v for k, v in expected.items() if k != "Concat"})
    feeds = {item.name: JOINED[item.name] for item in before.graph.input}
    assert_same(before, after, feeds, tol=5e-6, reference=False)


@pytest.mark.parametrize(
    ("before", "reason"),
    [
        (joined("r tall", 5, out=4, group=2), "the convolution has groups"),
        (joined("r tall", 10, kernel_shape=[3, 3]), "the kernel or a stride is larger than 1"),
        (joined("r tall", 10, strides=[2, 2]), "the kernel or a stride is larger than 1"),
        (joined("r tall", 10, pads=[1, 1, 1, 1]), "the convolution pads"),
        (joined("r tall", 10, out=64), "no part is proven to be enlarged by interpolation, at a cost"),
        (joined("r tall", 6, axis=2), "the parts' channels are not proven to be those of the weights"),
    ],
)
def test_refuses_a_concatenation(before: onnx.ModelProto, reason: str) -> None:
    after, report = apply(before, CONCAT)
    assert ops(after)["Concat"] == 1
    assert reasons(report, CONCAT)[0].startswith(reason)


def test_leaves_a_concatenation_whose_parts_are_read_elsewhere() -> None:
    for name in ("r", "c"):
        before = joined("r tall", 10)
        before.graph.output.append(
            onnx.helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 10 if name == "c" else 6, None, None])
        )
        after, _ = apply(before, CONCAT)
        assert ops(after)["Concat"] == 1
