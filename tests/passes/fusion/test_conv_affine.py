"""fuse-conv-affine and fuse-conv-transpose-affine: constants behind a convolution."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from ..util import apply, assert_same, constant, fired, model, node, ops, rand, reasons

RULES = ("fuse-conv-affine", "fuse-conv-transpose-affine")


def conv(
    op: str, inputs: str, c: Any, *, bias: bool = True, dtype: Any = np.float32, conv_op: str = "Conv", **attrs: Any
) -> onnx.ModelProto:
    """conv, then `op` with these inputs; weights with four channels out, in groups where asked for."""
    group = attrs.get("group", 1)
    w = rand(4, 3, 3, 3, dtype=dtype) if conv_op == "Conv" else rand(3 * group, 4 // group, 3, 3, dtype=dtype)
    weights = {"w": w, "k": np.asarray(c, dtype)}
    if bias:
        weights["b"] = rand(4, seed=1, dtype=dtype)
    nodes = [node(conv_op, "x w b" if bias else "x w", "c", name="conv", **attrs), node(op, inputs, "y", name="op")]
    kind = {np.float32: TensorProto.FLOAT, np.float16: TensorProto.FLOAT16, np.float64: TensorProto.DOUBLE}[dtype]
    return model(nodes, {"x": [2, 3 * group, 6, 6]}, ["y"], weights, dtype=kind)


SHAPES: dict[str, tuple[int, ...]] = {
    "scalar": (),
    "one": (1,),
    "1111": (1, 1, 1, 1),
    "c11": (4, 1, 1),
    "1c11": (1, 4, 1, 1),
}


@pytest.mark.parametrize("conv_op", ["Conv", "ConvTranspose"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("form", ["Mul c k", "Mul k c", "Div c k", "Add c k", "Add k c", "Sub c k", "Sub k c"])
@pytest.mark.parametrize("bias", [True, False])
def test_fires_and_is_right(conv_op: str, shape: str, form: str, bias: bool) -> None:
    op, inputs = form.split(" ", 1)
    k = rand(*SHAPES[shape], seed=2, low=0.5, high=2.0)
    attrs = {"group": 2} if conv_op == "ConvTranspose" else {"pads": [1, 1, 1, 1]}
    before = conv(op, inputs, k, bias=bias, conv_op=conv_op, **attrs)
    after, report = apply(before, *RULES)
    assert ops(after) == {conv_op: 1}
    assert fired(report) == [RULES[conv_op != "Conv"]]
    x = rand(2, 3 * attrs.get("group", 1), 6, 6, seed=5)  # type: ignore[operator]
    assert_same(before, after, {"x": x}, reference=None if conv_op == "Conv" else False)


def test_adding_leaves_the_weights_as_they_are() -> None:
    after, _ = apply(conv("Add", "c k", 1.0), *RULES)
    assert after.graph.node[0].input[1] == "w"


@pytest.mark.parametrize("shape", [(4,), (4, 1), (1, 4), (2, 1, 1, 1), (1, 1, 4, 1, 1), (1, 1, 1, 1, 1), (1, 4, 4, 4)])
@pytest.mark.parametrize("op", ["Mul", "Add"])
def test_refuses_what_is_not_per_channel(shape: tuple[int, ...], op: str) -> None:
    before = conv(op, "c k", rand(*shape, low=0.5))
    after, report = apply(before, *RULES)
    assert ops(after)[op] == 1
    assert "is not one number, or one number per channel" in reasons(report, RULES[0])[0]


def test_refuses_a_constant_that_makes_channels() -> None:
    weights = {"w": rand(1, 3, 3, 3), "k": rand(4, 1, 1)}
    before = model([node("Conv", "x w", "c"), node("Mul", "c k", "y")], {"x": [2, 3, 6, 6]}, ["y"], weights)
    _, report = apply(before, *RULES)
    assert "of shape [4, 1, 1]" in reasons(report, RULES[0])[0]


def test_leaves_a_constant_divided() -> None:
    after, _ = apply(conv("Div", "k c", rand(4, 1, 1, low=0.5)), *RULES)
    assert ops(after)["Div"] == 1


@pytest.mark.parametrize(
    ("op", "value", "reason"),
    [
        ("Div", 0.0, "the constant divisor is zero in some channel"),
        ("Mul", np.inf, "the constant is not finite"),
        ("Add", np.nan, "the constant is not finite"),
        ("Mul", 3e38, "the scaled weights overflow their dtype, or are not finite"),
        ("Add", 3.4e38, "the bias overflows its dtype, or is not finite"),
    ],
)
def test_refuses_numbers_that_break(op: str, value: float, reason: str) -> None:
    before = conv(op, "c k", np.float32(value))
    for tensor in before.graph.initializer:
        if tensor.name in ("w", "b"):
            values = np.full(tuple(tensor.dims), 3e38 if tensor.name == "b" else 2.0, np.float32)
            tensor.raw_data = values.tobytes()
    after, report = apply(before, *RULES)
    assert ops(after)[op] == 1
    assert reasons(report, RULES[0]) == [reason]


def test_float16_that_would_vanish() -> None:
    before = conv("Mul", "c k", 1e-5, dtype=np.float16)
    _, report = apply(before, *RULES)
    assert reasons(report, RULES[0]) == ["the scaled weights would be too small for float16"]


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_dtypes(dtype: Any) -> None:
    before = conv("Mul", "c k", rand(4, 1, 1, seed=2, low=0.5), dtype=dtype)
    after, _ = apply(before, *RULES)
    assert ops(after) == {"Conv": 1}
    assert constant(after, after.graph.node[0].input[1]).dtype == dtype
    x = rand(2, 3, 6, 6, dtype=dtype)
    # ONNX Runtime has no Conv of doubles on the CPU, the reference no float16 that is computed in float32.
    assert_same(before, after, {"x": x}, tol=4e-3 if dtype == np.float16 else 1e-14, reference=dtype == np.float64)


def test_batch_normalization_written_out_in_any_order() -> None:
    k = {name: rand(4, 1, 1, seed=i, low=0.5, high=2.0) for i, name in enumerate(("mu", "sd", "g", "t"))}
    nodes = [node("Conv", "x w", "c"), node("Sub", "c mu", "d"), node("Div", "d sd", "e"), node("Mul", "g e", "f")]
    before = model([*nodes, node("Add", "t f", "y")], {"x": ["N", 3, 6, 6]}, ["y"], {"w": rand(4, 3, 3, 3), **k})
    after, report = apply(before, *RULES)
    assert [n.op_type for n in after.graph.node] == ["Conv"]
    assert fired(report) == [RULES[0]] * 4
    assert after.graph.node[0].output[0] == "y"
    assert_same(before, after, {"x": rand(2, 3, 6, 6)})


def test_hard_sigmoid_written_out_stays_whole() -> None:
    """It is worth more as one operator; a Relu6 with a scale behind is no such thing."""
    nodes = [
        node("Conv", "x w", "c"),
        node("Add", "c three", "a"),
        node("Clip", "a zero six", "r"),
        node("Div", "r six", "y"),
    ]
    numbers = {"three": np.float32(3), "zero": np.float32(0), "six": np.float32(6)}
    before = model(nodes, {"x": ["N", 3, 6, 6]}, ["y"], {"w": rand(4, 3, 3, 3), **numbers})
    after, report = apply(before, *RULES)
    assert ops(after)["Add"] == 1
    assert "HardSigmoid" in reasons(report, RULES[0])[0]


def test_leaves_a_convolution_that_is_read_elsewhere() -> None:
    before = conv("Mul", "c k", 2.0)
    before.graph.node.append(node("Relu", "c", "z"))
    before.graph.output.append(onnx.helper.make_tensor_value_info("z", TensorProto.FLOAT, [2, 4, 4, 4]))
    after, _ = apply(before, *RULES)
    assert ops(after)["Mul"] == 1


def test_refuses_a_bias_computed_at_run_time() -> None:
    nodes = [node("Conv", "x w b", "c"), node("Mul", "c k", "y")]
    weights = {"w": rand(4, 3, 3, 3), "k": np.float32(2)}
    _, report = apply(model(nodes, {"x": [2, 3, 6, 6], "b": [4]}, ["y"], weights), *RULES)
    assert reasons(report, RULES[0]) == ["the bias is computed at run time"]


def test_copies_of_a_shared_weight_must_be_small() -> None:
    """A chain that scales one weight ten ways: the file must not hold it ten times."""
    weights = {"w": rand(32, 32, 3, 3), **{f"k{i}": np.float32(1 + i / 10) for i in range(10)}}
    nodes = []
    for i in range(10):
        nodes += [node("Conv", f"v{i} w" if i else "x w", f"c{i}"), node("Mul", f"c{i} k{i}", f"v{i + 1}")]
    before = model(nodes, {"x": [1, 32, 24, 24]}, ["v10"], weights)
    after, report = apply(before, *RULES, "fuse-affine-conv")
    assert after.ByteSize() < before.ByteSize() + 65536
    assert any("others read the weight" in reason for rule in report.refusals for reason in reasons(report, rule))
    assert_same(before, after, {"x": rand(1, 32, 24, 24) / 30}, tol=1e-5, reference=False)


def test_old_broadcasting_is_left_alone() -> None:
    """Before opset 7, Add aligned shapes by an attribute."""
    nodes = [node("Conv", "x w", "c"), node("Add", "c k", "y", axis=1, broadcast=1)]
    before = model(nodes, {"x": [2, 3, 6, 6]}, ["y"], {"w": rand(4, 3, 3, 3), "k": rand(4)}, opset=6)
    after, report = apply(before, *RULES)
    assert ops(after)["Add"] == 1
    assert fired(report) == []


@pytest.mark.parametrize(
    ("strides", "scale", "fires"), [([2, 2], -0.5, False), ([2, 2], 0.5, True), ([1, 1], -0.5, True)]
)
def test_zeros_between_the_strides_keep_their_sign(strides: list[int], scale: float, fires: bool) -> None:
    nodes = [node("ConvTranspose", "x w", "c", strides=strides), node("Mul", "c s", "y")]
    before = model(nodes, {"x": [1, 2, 4, 4]}, ["y"], {"w": rand(2, 2, 1, 1), "s": np.float32(scale)})
    _, report = apply(before, "fuse-conv-transpose-affine")
    assert bool(fired(report)) == fires
    assert fires or "would not become -0" in reasons(report, "fuse-conv-transpose-affine")[0]
