"""How ONNX Runtime's integer forms are written: each function makes what is between the Q/DQ of a unit."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from graphopt.analysis.ranges import TensorRange
from graphopt.ir import NDArray, Node, Value
from graphopt.passes.quantize._ort_cost import conv_cost, elements
from graphopt.passes.quantize._qdq_emit import Emitter
from graphopt.passes.quantize._qdq_forms import Narrow, Unit
from graphopt.passes.quantize._scales import Scale, scale_between, widen_for_bias
from graphopt.rewrite import Builder

INFINITY = float("inf")


def plain(emitter: Emitter, new: Builder, unit: Unit) -> Value:
    """The operator as it is, between DQ and Q."""
    node = unit.root
    inputs = list(node.inputs)
    for slot in unit.form.data:
        value = inputs[slot]
        assert value is not None
        inputs[slot] = emitter.read(new, value)
    made = new.make(node.op, *inputs, like=node, n_out=len(node.outputs))
    out: Value = made if isinstance(made, Value) else made[0]
    return out


# -- products with constants -------------------------------------------------------------------------------------------


def conv(emitter: Emitter, new: Builder, unit: Unit) -> Value:
    """x, the weights in int8, the bias in int32 of scale s_x s_w."""
    node = unit.root
    x = emitter.read(new, _input(node, 0))
    merged = merged_groups(node)
    groups, weights = node.attr("group"), _input(node, 1)
    if merged is not None:
        weights = new.constant(_merge_groups(weights.numpy(), groups, merged[0]), "merged")
        groups = merged[0]
    weight, bias = constants(emitter, new, x, weights, node.input(2), 0, node)
    out: Value = new.make("Conv", x, weight, bias, like=node, group=groups)
    return out


WORTH_PADDING = 4096  # products a pixel


def full_channels(node: Node) -> int | None:
    """How many output channels a Conv should have for ORT's integer kernel, which is up to three times as slow where
    they are fewer than 16 or no multiple of 4; None where that does not matter."""
    weight = _input(node, 1)
    assert weight.shape is not None
    channels, *inner = (size if isinstance(size, int) else 1 for size in weight.shape)
    full = max(16, -channels // 4 * -4)
    macs = prod(inner)
    if node.attr("group") != 1 or full == channels or (macs < 256 and macs * channels < WORTH_PADDING):
        return None
    return full


def wide_conv(emitter: Emitter, new: Builder, unit: Unit) -> Value:
    """A Conv with channels of zeros added, and the integers of the others cut out."""
    node, full = unit.root, full_channels(unit.root)
    assert full is not None
    x, weight, bias = emitter.read(new, _input(node, 0)), _input(node, 1).numpy(), node.input(2)
    channels = len(weight)
    rows = [(0, full - channels)]
    w = new.constant(np.pad(weight, rows + [(0, 0)] * (weight.ndim - 1)), f"{node.label}_weight")
    b = None if bias is None else new.constant(np.pad(bias.numpy(), rows), f"{node.label}_bias")
    behind, bias_behind = constants(emitter, new, x, w, b, 0, node)
    codes = _quantized(emitter, new, new.Conv(x, behind, bias_behind, like=node), unit)
    ends = [emitter.constants.number(emitter.graph, np.array([n], np.int64), "ends") for n in (0, channels, 1)]
    out: Value = new.Slice(codes, *ends, name=f"{node.label}_channels")
    return out


def _quantized(emitter: Emitter, new: Builder, made: Value, unit: Unit) -> Value:
    """The integers of a unit's result, where more is to be done to them."""
    step, zero = emitter.constants.parameters(emitter.graph, emitter.scales[unit.output], unit.output.name)
    codes: Value = new.make("QuantizeLinear", made, step, zero, name=f"{unit.root.label}_q")
    return codes


def constants(
    emitter: Emitter, new: Builder, x: Value, weight: Value, bias: Value | None, axis: int, node: Node
) -> tuple[Value, Value | None]:
    """Weights and bias behind DequantizeLinear. Weights that others quantize in the same way are shared."""
    at = axis if emitter.per_channel else None
    scale = emitter.constants.scale_of(weight, at, emitter.weights)
    step = emitter.scale(x).scale
    if bias is not None:
        wider = np.asarray(widen_for_bias(scale.scale, step, bias.numpy()), np.float32)
        scale = Scale(wider, scale.zero, scale.dtype)
    behind = emitter.constants.dequantized(new, weight, scale, at, node)
    if bias is None:
        return behind, None
    product = np.asarray(scale.scale * step, np.float32)
    return behind, emitter.constants.dequantized_bias(new, bias, product, node)


def gemm(emitter: Emitter, new: Builder, unit: Unit) -> Value:
    """As Conv; a column of the weights is a channel."""
    node = unit.root
    x = emitter.read(new, _input(node, 0))
    axis = 0 if node.attr("transB") else 1
    weight, bias = constants(emitter, new, x, _input(node, 1), node.input(2), axis, node)
    out: Value = new.make("Gemm", x, weight, bias, like=node)
    return out


def matmul(emitter: Emitter, new: Builder, unit: Unit) -> Value:
    """x times int8 columns."""
    node = unit.root
    x = emitter.read(new, _input(node, 0))
    weight, _ = constants(emitter, new, x, _input(node, 1), None, 1, node)
    out: Value = new.make("MatMul", x, weight, like=node)
    return out


def merged_groups(node: Node) -> tuple[int, float] | None:
    """Fewer groups, the weights between which are 0, where ORT's integer kernel is faster so, and what it costs then:
    each group is a product of its own, which pays little for few channels. None where the groups are best as they are.
    """
    weight = _input(node, 1)
    groups = node.attr("group")
    assert weight.shape is not None
    shape = [size for size in weight.shape if isinstance(size, int)]
    if groups == 1 or shape[1] == 1:
        return None
    count, taps = elements(node.output), prod(shape[2:])
    options = [many for many in range(1, groups + 1) if groups % many == 0]
    costs = {many: conv_cost(count, shape[0], shape[1] * groups // many, taps, many)[1] for many in options}
    best = min(options, key=lambda many: (costs[many], -many))
    return None if best == groups else (best, costs[best])


def _merge_groups(weight: NDArray, groups: int, fewer: int) -> NDArray:
    """[M, C/groups, ...] to [M, C/fewer, ...], zeros between what were groups."""
    each, inner, ratio = weight.shape[0] // groups, weight.shape[1], groups // fewer
    wide = np.zeros((weight.shape[0], inner * ratio, *weight.shape[2:]), weight.dtype)
    for group in range(groups):
        at = group % ratio * inner
        rows = slice(group * each, (group + 1) * each)
        wide[rows, at : at + inner] = weight[rows]
    return wide


def _depthwise(
    emitter: Emitter, new: Builder, unit: Unit, weight: NDArray, bias: NDArray | None, **attrs: Any
) -> Value:
    """A depthwise Conv of these weights [C, 1, k, ...]."""
    node = unit.root
    x = emitter.read(new, _input(node, 0))
    w = new.constant(weight.astype(np.float32), f"{node.label}_weight")
    b = None if bias is None else new.constant(bias.astype(np.float32), f"{node.label}_bias")
    behind, bias_behind = constants(emitter, new, x, w, b, 0, node)
    out: Value = new.Conv(
        x, behind, bias_behind, name=node.label, group=len(weight), kernel_shape=list(weight.shape[2:]), **attrs
    )
    return out


def batch_norm(emitter: Emitter, new: Builder, unit: Unit) -> Value:
    """g (x - mu) / sqrt(v + eps) + b, one number a channel each, as a depthwise Conv of one tap."""
    node = unit.root
    g, b, mu, var = (_input(node, slot).numpy().astype(np.float64) for slot in (1, 2, 3, 4))
    k = g / np.sqrt(var + node.attr("epsilon"))
    rank = _input(node, 0).rank or 4
    return _depthwise(emitter, new, unit, k.reshape(-1, *[1] * (rank - 1)), b - k * mu)


def reason_not_depthwise(node: Node) -> str:
    """Why an AveragePool is no Conv with constant weights."""
    x, kernel = _input(node, 0), node.attr("kernel_shape")
    if x.shape is None or len(x.shape) < 2 or not isinstance(x.shape[1], int):
        return "the number of channels is not known"
    if node.attr("auto_pad", "NOTSET") not in ("NOTSET", "VALID") or node.attr("ceil_mode"):
        return "ceil_mode or auto_pad"
    if any(node.attr("pads") or ()) and not node.attr("count_include_pad"):
        return "the border is averaged over fewer elements"
    if any(step != 1 for step in node.attr("dilations") or ()):
        return "dilations"
    return "" if kernel else "no kernel_shape"


def average_pool(emitter: Emitter, new: Builder, unit: Unit) -> Value:
    """The mean over a window as a depthwise Conv: ORT's integer pools take 20 times as long."""
    node, x = unit.root, _input(unit.root, 0)
    kernel = list(node.attr("kernel_shape"))
    assert x.shape is not None and isinstance(x.shape[1], int)
    weight = np.full((x.shape[1], 1, *kernel), 1 / prod(kernel))
    given = {"pads": node.attr("pads"), "strides": node.attr("strides")}
    return _depthwise(emitter, new, unit, weight, None, **{k: list(v) for k, v in given.items() if v})


# -- activations -------------------------------------------------------------------------------------------------------


def silu(emitter: Emitter, new: Builder, unit: Unit) -> Value:
    """x sigmoid(x), by QLinearSigmoid and QLinearMul."""
    gate = unit.inner[0]
    x = emitter.read(new, _input(gate, 0))
    sigma = new.make("Sigmoid", x, name=gate.label)
    out: Value = new.Mul(x, emitter.requantized(new, sigma, _unit_scale(emitter), gate.label), like=unit.root)
    return out


def hard_sigmoid(emitter: Emitter, new: Builder, unit: Unit) -> Value:
    """clip(alpha x + beta, 0, 1): the sum, which the scale of the result, 1/255, saturates. alpha goes into the scale
    with which the same integers are read."""
    node = unit.inner[0] if unit.inner else unit.root
    hard = node.op == "HardSigmoid"
    alpha, beta = (float(node.attr("alpha")), float(node.attr("beta"))) if hard else (1 / 6, 0.5)
    x = emitter.read(new, _input(node, 0))
    scale = emitter.scale(x)
    steeper = Scale(np.asarray(scale.scale * np.float32(alpha), np.float32), scale.zero, scale.dtype)
    sloped = emitter.dequantized(new, emitter.codes(x), steeper, f"{node.label}_slope", _input(node, 0))
    half = new.constant(np.float32(beta), f"{node.label}_offset")
    out: Value = new.Add(sloped, emitter.read(new, half), name=node.label)
    return out


def hard_swish(emitter: Emitter, new: Builder, unit: Unit) -> Value:
    """x clip(alpha x + beta, 0, 1), by QLinearAdd that saturates and QLinearMul."""
    node = unit.inner[0] if unit.inner else unit.root
    x = emitter.read(new, _input(node, 0))
    gate = emitter.requantized(new, hard_sigmoid(emitter, new, unit), _unit_scale(emitter), f"{node.label}_gate")
    out: Value = new.Mul(x, gate, name=unit.root.label)
    return out


def _unit_scale(emitter: Emitter) -> Scale:
    """0 to 1."""
    return scale_between(0.0, 1.0, emitter.dtype)


def hard_matters(alpha: float, beta: float, gate: bool) -> Narrow:
    """Where HardSigmoid (gate) is not flat, HardSwish not 0."""
    low, high = -beta / alpha, (1 - beta) / alpha

    def narrow(found: TensorRange) -> tuple[float, float]:
        return max(found.low, low), min(found.high, high) if gate else found.high

    return narrow


def silu_matters(found: TensorRange) -> tuple[float, float]:
    """x sigmoid(x) is within a quarter of a step of 0 for x below some -t, and everything there is read as -t."""
    step = max(found.high, 1.0) / 255
    flat = next((t for t in (4.0, 5.0, 6.0, 7.0, 8.0, 9.0) if t / (1 + np.exp(t)) < step / 4), 10.0)
    return max(found.low, -flat), found.high


def sigmoid_matters(found: TensorRange) -> tuple[float, float]:
    """sigmoid(x) is within half a step, 1/510, of 0 and 1 beyond +-6.3."""
    return max(found.low, -8.0), min(found.high, 8.0)


# -- on the integers themselves ----------------------------------------------------------------------------------------


def bounds_of(node: Node) -> tuple[float, float] | None:
    """What a Relu or Clip with constant bounds clamps to; None where it is no such thing."""
    if node.domain or node.op not in ("Relu", "Clip"):
        return None
    if node.op == "Relu":
        return 0.0, INFINITY
    if node.graph.opset() < 11:
        low, high = node.attr("min"), node.attr("max")
        return float(-INFINITY if low is None else low), float(INFINITY if high is None else high)
    ends = [node.input(1), node.input(2)]
    if any(end is not None and not end.is_const for end in ends):
        return None
    low, high = (
        default if end is None else float(end.numpy().reshape(()))
        for end, default in zip(ends, (-INFINITY, INFINITY), strict=True)
    )
    return (low, high) if low <= high else None


def clip(emitter: Emitter, new: Builder, unit: Unit) -> Value:
    """Clip on the integers, which are in the order of what they stand for."""
    node = unit.root
    x = emitter.read(new, _input(node, 0))
    bounds = bounds_of(node)
    assert bounds is not None
    ends = [emitter.code(bound, emitter.scale(x)) for bound in bounds]
    out: Value = new.make("Clip", emitter.codes(x), *ends, name=node.label)
    return out


def reason_not_padded(node: Node) -> str:
    """Why a Pad is not one of integers."""
    mode, value = node.attr("mode"), node.input(2)
    if node.graph.opset() < 13 or node.input(3) is not None:
        return "Pad of integers takes opset 13, and no axes here"
    if mode not in ("constant", b"constant"):
        return "" if mode in ("edge", "reflect", b"edge", b"reflect") else "the mode is unusual"
    if value is not None and not (value.is_const and value.numpy().size == 1 and not value.numpy().any()):
        return "it pads with other than 0"
    return ""


def pad(emitter: Emitter, new: Builder, unit: Unit) -> Value:
    """Pad with the code of 0."""
    node = unit.root
    x = emitter.read(new, _input(node, 0))
    constant = node.attr("mode") in ("constant", b"constant")
    zero = emitter.code(0.0, emitter.scale(x)) if constant else None
    out: Value = new.make("Pad", emitter.codes(x), node.inputs[1], zero, like=node)
    return out


def reason_not_repeats(node: Node) -> str:
    """Why a Resize does not repeat each row and column of an image a whole number of times."""
    return "" if _repeats(node) is not None else "not by a whole number, nearest, of an image of known size"


def _repeats(node: Node) -> tuple[int, int] | None:
    x, y = _input(node, 0).shape, node.output.shape
    if x is None or y is None or len(x) != 4 or len(y) != 4 or node.attr("mode") not in ("nearest", b"nearest"):
        return None
    sizes = (*x[1:], *y[1:])
    if not all(isinstance(size, int) and size > 0 for size in sizes) or x[1] != y[1] or x[0] != y[0]:
        return None
    (h, w), (tall, wide) = (_ints(x[2:]), _ints(y[2:]))
    if tall % h or wide % w or not _floors(node, max(tall // h, wide // w)):
        return None
    return tall // h, wide // w


def _floors(node: Node, times: int) -> bool:
    """Whether output i is input floor(i / times)."""
    rule, nearest = _text(node.attr("coordinate_transformation_mode")), _text(node.attr("nearest_mode"))
    if rule == "asymmetric":
        return nearest == "floor"
    if rule in ("half_pixel", "pytorch_half_pixel"):
        return nearest in ("round_prefer_floor", "round_prefer_ceil")  # never on a half: (i + 0.5) / n - 0.5
    return False


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _ints(sizes: Any) -> list[int]:
    return [int(size) for size in sizes]


def repeat(emitter: Emitter, new: Builder, unit: Unit) -> Value:
    """Each pixel repeated, by Concat, channels last, which is how ORT keeps integers between convolutions: its own
    kernel for that layout takes 17 times as long."""
    node = unit.root
    found = _repeats(node)
    assert found is not None
    tall, wide = found
    x = emitter.read(new, _input(node, 0))
    shape = _input(node, 0).shape
    assert shape is not None
    channels, h, w = _ints(shape[1:])
    rows = new.Transpose(emitter.codes(x), perm=[0, 2, 3, 1], name=f"{node.label}_last")
    for times, row in ((wide, channels), (tall, wide * w * channels)):
        flat = new.Reshape(rows, _shape(emitter, [-1, row]), name=f"{node.label}_rows")
        rows = new.Concat(*[flat] * times, axis=1, name=f"{node.label}_repeat")
    image = new.Reshape(rows, _shape(emitter, [-1, tall * h, wide * w, channels]), name=f"{node.label}_image")
    out: Value = new.Transpose(image, perm=[0, 3, 1, 2], name=node.label)
    return out


def _shape(emitter: Emitter, sizes: list[int]) -> Value:
    return emitter.constants.number(emitter.graph, np.array(sizes, np.int64), "shape")


def reason_not_blocks(node: Node) -> str:
    """Why a ConvTranspose does not make a block of the output of each pixel."""
    weight, x = _input(node, 1), _input(node, 0)
    rank = (weight.rank or 0) - 2
    strides = node.attr("strides") or [1] * rank
    kernel = list(weight.shape or ())[2:]
    if rank != 2 or node.attr("group") != 1 or kernel != list(strides):
        return "no integer kernel for a ConvTranspose whose blocks overlap"
    if any(node.attr("pads") or ()) or any(node.attr("output_padding") or ()) or node.attr("output_shape"):
        return "pads"
    if any(step != 1 for step in node.attr("dilations") or ()) or node.attr("auto_pad", "NOTSET") not in (
        "NOTSET",
        "VALID",
    ):
        return "dilations or auto_pad"
    if x.shape is None or not all(isinstance(size, int) for size in x.shape[2:]):
        return "the size of the image is not known"
    return ""


def conv_transpose(emitter: Emitter, new: Builder, unit: Unit) -> Value:
    """Stride = kernel: a Conv of one tap makes the k_h k_w C numbers of each block, which are then put in place. The
    channels of one position lie together, so that moving them, channels last, is copying rows."""
    node = unit.root
    x, weight, bias = emitter.read(new, _input(node, 0)), _input(node, 1).numpy(), node.input(2)
    inner, channels, kh, kw = weight.shape
    w = new.constant(np.ascontiguousarray(weight.transpose(2, 3, 1, 0).reshape(-1, inner, 1, 1)), node.label)
    b = None if bias is None else new.constant(np.tile(bias.numpy(), kh * kw), f"{node.label}_bias")
    behind, bias_behind = constants(emitter, new, x, w, b, 0, node)
    made = new.Conv(x, behind, bias_behind, name=node.label, kernel_shape=[1, 1])
    codes = _quantized(emitter, new, made, unit)
    shape = _input(node, 0).shape
    assert shape is not None
    h, width = _ints(shape[2:])
    last = new.Transpose(codes, perm=[0, 2, 3, 1], name=f"{node.label}_last")
    blocks = new.Reshape(last, _shape(emitter, [-1, width, kh, kw * channels]), name=f"{node.label}_blocks")
    placed = new.Transpose(blocks, perm=[0, 2, 1, 3], name=f"{node.label}_placed")
    image = new.Reshape(placed, _shape(emitter, [-1, h * kh, width * kw, channels]), name=f"{node.label}_image")
    out: Value = new.Transpose(image, perm=[0, 3, 1, 2], name=f"{node.label}_first")
    return out


def _input(node: Node, slot: int) -> Value:
    value = node.inputs[slot]
    assert value is not None
    return value
