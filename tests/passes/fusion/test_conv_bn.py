"""fuse-conv-bn and fuse-conv-transpose-bn."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from ..util import Array, apply, assert_same, constant, fired, model, node, ops, rand, reasons

BN = node("BatchNormalization", "c g t mu var", "y", epsilon=1e-3, name="bn")


def statistics(channels: int, dtype: Any = np.float32) -> dict[str, Array]:
    """One scale is zero, one negative."""
    scale = rand(channels, seed=1, low=0.5, high=2.0)
    scale[0], scale[-1] = 0.0, -scale[-1]
    made = {
        "g": scale,
        "t": rand(channels, seed=2),
        "mu": rand(channels, seed=3),
        "var": rand(channels, seed=4, low=0.1),
    }
    made["var"] = np.abs(made["var"]) + 0.01
    return {key: value.astype(dtype) for key, value in made.items()}


def conv_bn(
    op: str, w: Array, *, bias: bool = False, bn: onnx.NodeProto = BN, opset: int = 17, **attrs: Any
) -> onnx.ModelProto:
    group = attrs.get("group", 1)
    inner, outer = (w.shape[1] * group, w.shape[0]) if op == "Conv" else (w.shape[0], w.shape[1] * group)
    weights = {"w": w, **statistics(outer)}
    if bias:
        weights["b"] = rand(outer, seed=9)
    nodes = [node(op, "x w b" if bias else "x w", "c", name="conv", **attrs), bn]
    return model(nodes, {"x": ["N", inner, *[None] * (w.ndim - 2)]}, ["y"], weights, opset=opset)


FORMS: dict[str, tuple[str, tuple[int, ...], dict[str, Any]]] = {
    "plain": ("Conv", (4, 3, 3, 3), {}),
    "bias, uneven pads": ("Conv", (4, 3, 3, 3), {"bias": True, "pads": [1, 0, 1, 2]}),
    "groups": ("Conv", (6, 2, 3, 3), {"group": 2, "bias": True}),
    "depthwise": ("Conv", (4, 1, 3, 3), {"group": 4}),
    "depthwise multiplier": ("Conv", (6, 1, 3, 3), {"group": 3}),
    "1d": ("Conv", (4, 3, 5), {"bias": True, "strides": [2]}),
    "3d": ("Conv", (3, 2, 2, 2, 2), {}),
    "same upper": ("Conv", (4, 3, 3, 3), {"auto_pad": "SAME_UPPER"}),
    "opset 7": ("Conv", (4, 3, 3, 3), {"opset": 7}),
    "opset 9": ("Conv", (4, 3, 3, 3), {"opset": 9}),
    "opset 22": ("Conv", (4, 3, 3, 3), {"opset": 22}),
    "transposed": ("ConvTranspose", (4, 4, 2, 2), {"strides": [2, 2], "bias": True}),
    "transposed, wide": ("ConvTranspose", (3, 5, 3, 3), {}),
    "transposed, groups": ("ConvTranspose", (4, 3, 2, 2), {"group": 2, "bias": True}),
    "transposed, depthwise": ("ConvTranspose", (4, 1, 2, 2), {"group": 4}),
    "transposed, 1d, output padding": ("ConvTranspose", (4, 2, 3), {"strides": [2], "output_padding": [1]}),
}


@pytest.mark.parametrize("form", FORMS)
def test_fires_and_is_right(form: str) -> None:
    op, shape, attrs = FORMS[form]
    before = conv_bn(op, rand(*shape), **attrs)
    after, report = apply(before, "fuse-conv-bn", "fuse-conv-transpose-bn")
    assert ops(after) == {op: 1}
    assert fired(report) == ["fuse-conv-bn" if op == "Conv" else "fuse-conv-transpose-bn"]
    assert after.graph.node[0].name == "conv"
    channels = shape[1] * attrs.get("group", 1) if op == "Conv" else shape[0]
    x = rand(2, channels, *[7] * (len(shape) - 2), seed=5, low=-3, high=3)
    # onnx.reference has no dilations or output_padding everywhere, and no BatchNormalization of opset 7.
    assert_same(before, after, {"x": x}, reference=False)
    if op == "Conv" and attrs.get("opset", 17) > 9:
        assert_same(before, after, {"x": x}, reference=True)


def test_weights_are_rounded_once() -> None:
    """A float64 computation of the formula, rounded: not one bit away."""
    w = rand(4, 3, 3, 3)
    after, _ = apply(conv_bn("Conv", w), "fuse-conv-bn")
    s = {key: value.astype(np.float64) for key, value in statistics(4).items()}
    k = s["g"] / np.sqrt(s["var"] + np.float64(np.float32(1e-3)))
    weight, bias = (constant(after, name) for name in after.graph.node[0].input[1:])
    assert weight.dtype == np.float32
    np.testing.assert_array_equal(weight, (w.astype(np.float64) * k[:, None, None, None]).astype(np.float32))
    np.testing.assert_array_equal(bias, (s["t"] - s["mu"] * k).astype(np.float32))


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ml_dtypes.bfloat16])
def test_other_dtypes(dtype: Any) -> None:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    weights = {"w": rand(4, 3, 3, 3, dtype=dtype), **statistics(4, dtype)}
    nodes = [node("Conv", "x w", "c"), BN]
    before = model(nodes, {"x": [2, 3, 6, 6]}, ["y"], weights, dtype=kind, opset=22)
    after, _ = apply(before, "fuse-conv-bn")
    assert ops(after) == {"Conv": 1}
    assert {t.data_type for t in after.graph.initializer if t.name in after.graph.node[0].input} == {kind}
    if dtype == np.float16 or dtype == np.float64:
        tol = 4e-3 if dtype == np.float16 else 1e-14
        assert_same(before, after, {"x": rand(2, 3, 6, 6, dtype=dtype)}, tol=tol, reference=dtype == np.float64)


def test_statistics_of_another_dtype() -> None:
    """Opset 15: scale and bias, mean and variance may be float32 next to a float16 input."""
    weights = {"w": rand(4, 3, 3, 3, dtype=np.float16), **statistics(4)}
    before = model([node("Conv", "x w", "c"), BN], {"x": [2, 3, 6, 6]}, ["y"], weights, dtype=TensorProto.FLOAT16)
    after, _ = apply(before, "fuse-conv-bn")
    assert ops(after) == {"Conv": 1}
    assert constant(after, after.graph.node[0].input[2]).dtype == np.float16


@pytest.mark.parametrize("place", ["raw", "float_data", "constant node"])
def test_wherever_the_weights_are(place: str) -> None:
    before = conv_bn("Conv", rand(4, 3, 3, 3))
    for tensor in list(before.graph.initializer):
        if place == "float_data":
            values = numpy_helper.to_array(tensor).ravel().tolist()
            tensor.ClearField("raw_data")
            tensor.float_data.extend(values)
        elif place == "constant node":
            before.graph.node.insert(0, helper.make_node("Constant", [], [tensor.name], value=tensor))
    if place == "constant node":
        del before.graph.initializer[:]
    after, _ = apply(before, "fuse-conv-bn")
    assert ops(after)["BatchNormalization"] == 0
    assert_same(before, after, {"x": rand(1, 3, 6, 6, seed=5)})


def test_shared_weights_are_copied() -> None:
    weights = {"w": rand(4, 3, 3, 3), **statistics(4)}
    nodes = [node("Conv", "x w", "c"), BN, node("Conv", "x w", "d", pads=[1, 1, 1, 1])]
    before = model(nodes, {"x": [2, 3, 6, 6]}, ["y", "d"], weights)
    after, report = apply(before, "fuse-conv-bn")
    assert len(report.rewrites) == 1
    np.testing.assert_array_equal(constant(after, "w"), weights["w"])
    assert_same(before, after, {"x": rand(2, 3, 6, 6, seed=5)})


def test_a_large_shared_weight_is_not_copied() -> None:
    weights = {"w": rand(1024, 520, 3, 3), **statistics(1024)}
    nodes = [node("Conv", "x w", "c"), BN, node("Conv", "x w", "d")]
    after, report = apply(model(nodes, {"x": [2, 520, 6, 6]}, ["y", "d"], weights), "fuse-conv-bn")
    assert ops(after)["BatchNormalization"] == 1
    assert reasons(report, "fuse-conv-bn") == [
        "others read the weight, too, and scaled copies of it would make the file much larger"
    ]


@pytest.mark.parametrize(("opset", "outputs"), [(9, "y rm rv sm sv"), (15, "y rm rv")])
def test_refuses_training(opset: int, outputs: str) -> None:
    attrs = {"training_mode": 1} if opset >= 14 else {}
    bn = node("BatchNormalization", "c g t mu var", outputs, **attrs)
    before = conv_bn("Conv", rand(4, 3, 3, 3), bn=bn, opset=opset)
    after, report = apply(before, "fuse-conv-bn")
    assert ops(after)["BatchNormalization"] == 1
    assert "training mode" in reasons(report, "fuse-conv-bn")[0]
    before.graph.output.append(helper.make_tensor_value_info("rm", TensorProto.FLOAT, [4]))
    after, _ = apply(before, "fuse-conv-bn")
    assert ops(after)["BatchNormalization"] == 1


def test_refuses_statistics_that_vary_in_space() -> None:
    bn = node("BatchNormalization", "c g t mu var", "y", spatial=0)
    weights = {
        "w": rand(4, 3, 3, 3),
        **{k: rand(4, 4, 4, seed=i, low=0.5) for i, k in enumerate(("g", "t", "mu", "var"))},
    }
    before = model([node("Conv", "x w", "c"), bn], {"x": [2, 3, 6, 6]}, ["y"], weights, opset=8)
    after, report = apply(before, "fuse-conv-bn")
    assert ops(after)["BatchNormalization"] == 1
    assert reasons(report, "fuse-conv-bn") == ["the statistics of BatchNormalization are not one number per channel"]


@pytest.mark.parametrize("variance", [-1.0, -1e-3, np.nan])
def test_refuses_a_variance_without_square_root(variance: float) -> None:
    before = conv_bn("Conv", rand(4, 3, 3, 3))
    tensor = next(t for t in before.graph.initializer if t.name == "var")
    tensor.CopyFrom(numpy_helper.from_array(np.array([1, 1, variance, 1], np.float32), "var"))
    after, report = apply(before, "fuse-conv-bn")
    assert ops(after)["BatchNormalization"] == 1
    assert "not positive" in reasons(report, "fuse-conv-bn")[0]


def test_refuses_weights_that_overflow() -> None:
    weights = {"w": rand(4, 3, 3, 3, low=100, high=1000, dtype=np.float16), **statistics(4, np.float16)}
    weights["g"] = np.full(4, 500, np.float16)
    before = model([node("Conv", "x w", "c"), BN], {"x": [2, 3, 6, 6]}, ["y"], weights, dtype=TensorProto.FLOAT16)
    after, report = apply(before, "fuse-conv-bn")
    assert ops(after)["BatchNormalization"] == 1
    assert reasons(report, "fuse-conv-bn") == ["the scaled weights overflow their dtype, or are not finite"]


def test_leaves_what_is_read_elsewhere_or_not_constant() -> None:
    before = conv_bn("Conv", rand(4, 3, 3, 3))
    before.graph.output.append(helper.make_tensor_value_info("c", TensorProto.FLOAT, ["N", 4, None, None]))
    after, _ = apply(before, "fuse-conv-bn")
    assert ops(after)["BatchNormalization"] == 1
    before = conv_bn("Conv", rand(4, 3, 3, 3))
    before.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [4, 3, 3, 3]))  # a default only
    after, _ = apply(before, "fuse-conv-bn")
    assert ops(after)["BatchNormalization"] == 1


def test_refuses_a_bias_computed_at_run_time() -> None:
    nodes = [node("Conv", "x w b", "c"), BN]
    before = model(nodes, {"x": [2, 3, 6, 6], "b": [4]}, ["y"], {"w": rand(4, 3, 3, 3), **statistics(4)})
    _, report = apply(before, "fuse-conv-bn")
    assert reasons(report, "fuse-conv-bn") == ["the bias is computed at run time"]


def test_conv_bn_relu_is_one_chain() -> None:
    nodes = [node("Conv", "x w", "c"), node("BatchNormalization", "c g t mu var", "n"), node("Relu", "n", "y")]
    before = model(nodes, {"x": ["N", 3, 6, 6]}, ["y"], {"w": rand(4, 3, 3, 3), **statistics(4)})
    after, _ = apply(before, "fuse-conv-bn")
    assert [n.op_type for n in after.graph.node] == ["Conv", "Relu"]
    assert_same(before, after, {"x": rand(2, 3, 6, 6, seed=5)})


def test_in_the_body_of_an_if() -> None:
    """Statistics in the outer scope, the convolution in the body."""
    body = helper.make_graph(
        [node("Conv", "x w", "c"), node("BatchNormalization", "c g t mu var", "r")],
        "then",
        [],
        [helper.make_tensor_value_info("r", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(rand(4, 3, 3, 3), "w")],
    )
    other = helper.make_graph(
        [node("Conv", "x v", "q")],
        "else",
        [],
        [helper.make_tensor_value_info("q", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(rand(4, 3, 3, 3, seed=8), "v")],
    )
    nodes = [node("ReduceSum", "x", "s", keepdims=0), node("Greater", "s zero", "p")]
    nodes.append(helper.make_node("If", ["p"], ["y"], then_branch=body, else_branch=other))
    before = model(nodes, {"x": [2, 3, 6, 6]}, ["y"], {"zero": np.float32(0), **statistics(4)})
    after, report = apply(before, "fuse-conv-bn")
    assert fired(report) == ["fuse-conv-bn"]
    for seed in (1, 2, 3):
        assert_same(before, after, {"x": rand(2, 3, 6, 6, seed=seed)})


def test_in_a_function() -> None:
    """Inside a function constants are nodes, and an attribute reference is no constant."""
    constants = [
        helper.make_node("Constant", [], [key], value=numpy_helper.from_array(value))
        for key, value in {"w": rand(4, 3, 3, 3), **statistics(4)}.items()
    ]
    opsets = [helper.make_opsetid("", 17)]

    def calling(bn: onnx.NodeProto, **attributes: Any) -> onnx.ModelProto:
        body = [*constants, node("Conv", "x w", "c"), bn]
        function = helper.make_function("f", "F", ["x"], ["y"], body, opsets, **attributes)
        call = helper.make_node("F", ["x"], ["y"], domain="f")
        return model([call], {"x": [2, 3, 6, 6]}, {"y": [2, 4, 4, 4]}, imports={"f": 1}, functions=[function])

    before = calling(node("BatchNormalization", "c g t mu var", "y"))
    after, report = apply(before, "fuse-conv-bn")
    assert fired(report) == ["fuse-conv-bn"]
    assert_same(before, after, {"x": rand(2, 3, 6, 6, seed=5)})
    referring = node("BatchNormalization", "c g t mu var", "y")
    referring.attribute.add(name="epsilon", ref_attr_name="eps", type=onnx.AttributeProto.FLOAT)
    _, report = apply(calling(referring, attributes=["eps"]), "fuse-conv-bn")
    assert fired(report) == []
