"""What other converters get wrong, as their users report it: each a model that is converted here.

Issues of microsoft/onnxconverter-common (207, 208, 266, 272, 306, 320, 323), microsoft/onnxruntime (14827, 21345) and
onnx/onnxmltools (361, 446).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from ..util import model, node, rand
from .halves import F16, F32, halved

IMAGE = {"x": rand(1, 3, 8, 8)}
W = rand(4, 3, 3, 3, seed=1)


def image(*nodes: onnx.NodeProto, opset: int = 17, **weights: Any) -> onnx.ModelProto:
    return model(list(nodes), {"x": [1, 3, 8, 8]}, ["y"], weights, opset=opset)


@pytest.mark.parametrize("opset", [10, 11, 13, 17, 19])
def test_resize_scales_and_roi_stay_float32(opset: int) -> None:
    """onnxconverter-common 207, 272, 306; onnxmltools 361: float16 scales are not valid."""
    roi = "" if opset == 10 else " roi"
    nodes = [node("Conv", "x w", "c"), node("Resize", f"c{roi} scales", "r"), node("Relu", "r", "y")]
    weights: dict[str, Any] = {"w": W, "scales": np.float32([1, 1, 2, 2])}
    if roi:
        weights["roi"] = np.zeros(0, np.float32)
    half = halved(image(*nodes, opset=opset, **weights), IMAGE)
    assert half.types["scales"] == F32
    assert half.types["r"] == (F16 if opset > 10 else half.types["r"])


def test_resize_by_sizes_with_empty_scales() -> None:
    """onnxconverter-common 266: an empty constant of the wrong type stands for what is left out."""
    nodes = [node("Conv", "x w", "c"), node("Resize", "c roi scales sizes", "y")]
    empty = np.zeros(0, np.float32)
    half = halved(image(*nodes, opset=11, w=W, roi=empty, scales=empty, sizes=np.int64([1, 4, 12, 12])), IMAGE)
    assert half.types["scales"] == F32


def test_scales_that_are_computed() -> None:
    """onnxruntime 14827: the scales come from the shapes, as floats."""
    nodes = [
        node("Conv", "x w", "c"),
        node("Shape", "c", "s"),
        node("Cast", "s", "f", to=F32),
        node("Div", "f two", "h"),
        node("Floor", "h", "fl"),
        node("Div", "fl f", "scales"),
        node("Resize", "c - scales", "y"),
    ]
    half = halved(image(*nodes, w=W, two=np.float32([1, 1, 2, 2])), IMAGE)
    assert half.types["scales"] == half.types["f"] == F32


def test_upsample_of_opset_9() -> None:
    half = halved(
        image(node("Conv", "x w", "c"), node("Upsample", "c s", "y"), opset=9, w=W, s=np.float32([1, 1, 2, 2])), IMAGE
    )
    assert half.types["s"] == F32


def test_a_cast_to_float_changes_its_attribute() -> None:
    """onnxconverter-common 320, 328: the Cast said float32, its output float16."""
    nodes = [node("Greater", "x z", "g"), node("Cast", "g", "c", to=F32), node("Mul", "x c", "y")]
    half = halved(image(*nodes, z=np.float32(0)), IMAGE)
    assert half.types["c"] == F16


def test_casts_of_inputs_come_first() -> None:
    """onnxconverter-common 208: with inputs kept float32, nodes were no longer in order."""
    nodes = [node("Conv", "x w", "a"), node("Conv", "x v", "b"), node("Concat", "a b", "y", axis=1)]
    half = halved(image(*nodes, w=W, v=W), IMAGE)
    assert half.count("Cast") == 2


def test_concat_gets_one_type() -> None:
    """onnxmltools 446: one operand behind a blocked Resize was float32, the other float16."""
    nodes = [
        node("MaxPool", "x", "p", kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", "p w", "c", pads=[1, 1, 1, 1]),
        node("Resize", "c - s", "u", name="up"),
        node("Concat", "x u", "y", axis=1),
    ]
    given = image(*nodes, w=W, s=np.float32([1, 1, 2, 2]))
    halved(given, IMAGE)
    half = halved(given, IMAGE, keep_float="up")
    assert half.kept() == {"up"}


def test_a_mean_of_many_large_numbers() -> None:
    """onnxconverter-common 323: ReduceMean in float16 gives zeros or NaN behind a square."""
    nodes = [
        node("Conv", "x w", "c"),
        node("Mul", "c c", "s"),
        node("ReduceMean", "s", "m", axes=[2, 3]),
        node("Sqrt", "m", "y"),
    ]
    halved(image(*nodes, w=W * 40), {"x": rand(1, 3, 8, 8) * 5})


def test_everything_blocked_is_the_model_as_it_was() -> None:
    """onnxruntime 21345: NaN although every node was blocked; the weights had been converted."""
    nodes = [node("Conv", "x w", "c"), node("Relu", "c", "y")]
    given = image(*nodes, w=W * 1e6)
    half = halved(given, IMAGE, keep_float="*")
    assert half.model.SerializeToString() == given.SerializeToString()


def test_blocked_operators_in_a_branch_that_read_an_outer_weight() -> None:
    """A weight of the main graph that only a branch reads must change, too, and only where it is read as float16."""
    body = helper.make_graph(
        [node("MatMul", "h w", "p", name="inner")], "t", [], [helper.make_tensor_value_info("p", F32, [2, 4])]
    )
    other = helper.make_graph([node("Identity", "h", "q")], "e", [], [helper.make_tensor_value_info("q", F32, [2, 4])])
    graph = helper.make_graph(
        [node("MatMul", "x w", "h"), node("If", "c", "y", then_branch=body, else_branch=other)],
        "g",
        [helper.make_tensor_value_info("x", F32, [2, 4]), helper.make_tensor_value_info("c", TensorProto.BOOL, [])],
        [helper.make_tensor_value_info("y", F32, [2, 4])],
        [numpy_helper.from_array(rand(4, 4), "w")],
    )
    given = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    feeds = {"x": rand(2, 4), "c": np.array(True)}
    assert halved(given, feeds).types["w"] == F16
    half = halved(given, feeds, keep_float="inner")
    assert sorted(t.data_type for t in half.model.graph.initializer) == [F32, F16]


@pytest.mark.parametrize("opset", [6, 11, 12])
def test_clip_with_the_largest_floats(opset: int) -> None:
    """As attributes they are float32 numbers; as inputs they would be infinite in float16, which bounds as well."""
    low, high = np.float32(-3.4028235e38), np.float32(3.4028235e38)
    if opset == 6:
        given = image(node("Conv", "x w", "c"), node("Clip", "c", "y", min=0.0, max=float(high)), opset=opset, w=W)
    else:
        given = image(node("Conv", "x w", "c"), node("Clip", "c l h", "y"), opset=opset, w=W, l=low, h=high)
    halved(given, IMAGE)


def test_max_pool_indices_and_padding_of_minus_infinity() -> None:
    nodes = [node("Pad", "x p v", "a"), node("MaxPool", "a", "y i", kernel_shape=[2, 2])]
    given = image(*nodes, p=np.int64([0, 0, 1, 1, 0, 0, 1, 1]), v=np.float32(-np.inf))
    halved(given, IMAGE)


def test_fp16_transposes_in_front_of_a_matmul_that_end_onnx_runtime() -> None:
    """ONNX Runtime 1.31 crashes on them at its full optimization level: they stay float32, but for TensorRT."""
    from graphopt.passes.precision.convert_precision import ConvertPrecision

    from ..util import apply, run

    given = model(
        [node("Transpose", "x", "t", perm=[1, 0, 2], name="t"), node("MatMul", "t w", "y")],
        {"x": [2, 3, 4]},
        ["y"],
        {"w": rand(4, 5)},
    )
    half = halved(given, {"x": rand(2, 3, 4)})
    assert half.kept() == {"t"}
    assert np.isfinite(run(half.model, {"x": rand(2, 3, 4)}, optimize=True)[0]).all()
    made, _ = apply(given, ConvertPrecision(), target="tensorrt")
    assert [n.op_type for n in made.graph.node] == ["Cast", "Transpose", "MatMul", "Cast"]


def test_a_cast_of_a_constant_to_the_type_that_it_has() -> None:
    """It becomes a Cast to float16, which is not nothing."""
    nodes = [node("Conv", "x w", "c"), node("Cast", "k", "f", to=F32), node("Div", "c f", "y")]
    constant = node("Constant", "", "k", value=helper.make_tensor("", F32, [1], [3.0]))
    assert halved(image(constant, *nodes, w=W), IMAGE).types["y"] == F32


def test_sums_of_what_is_scattered() -> None:
    """ONNX Runtime's CPU provider has ScatterElements in float16, but not with a reduction."""
    nodes = [node("MatMul", "x w", "h"), node("ScatterElements", "h i h", "y", reduction="add", name="scatter")]
    given = model(nodes, {"x": [2, 4]}, ["y"], {"w": rand(4, 4), "i": np.zeros((2, 4), np.int64)}, opset=18)
    assert halved(given, {"x": rand(2, 4)}).kept() == {"scatter"}


@pytest.mark.skipif(onnx.defs.onnx_opset_version() < 26, reason="BitCast came with opset 26")
def test_what_reads_bits() -> None:
    bits = node("BitCast", "x", "y", to=TensorProto.INT32, name="bits")
    given = model([bits], {"x": [2, 4]}, {"y": [2, 4]}, opset=26, output_dtype=TensorProto.INT32)
    assert halved(given).count("Cast") == 0


def test_an_empty_optional_says_its_type() -> None:
    """onnx's backend case test_if_opt: one branch makes an empty optional, the other one fills it."""
    from graphopt.testing import backend_cases

    case = next(case for case in backend_cases() if case.name == "test_if_opt")
    halved(case.model)
