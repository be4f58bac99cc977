"""What operators cost in ONNX Runtime's CPU kernels, in floats and in integers.

Nanoseconds on one thread of a Zen 5 with AVX-512 VNNI, ORT 1.31; only ratios matter. docs/quantization-onnxruntime.md
says how they were measured. Integer convolutions run in NHWC, which ORT arranges itself.
"""

from __future__ import annotations

from math import prod

from graphopt.ir import Node, Value

LAUNCH = 1500.0  # whatever a kernel does
QUANTIZE, DEQUANTIZE = 0.08, 0.125  # an element; with part of a change of layout
REORDER = 0.085  # from the blocks of channels that float convolutions work with
LONE = 3.0  # MaxPool of integers whose layout is not NHWC, an element of the input
UNKNOWN = 64  # a size that is not known; 1 for the first, the batch
ADD, FUSED_ADD, MULTIPLY = 0.125, 0.03, 0.135  # in floats, an element; Add behind a Conv is fused with it
QUICK_GELU, SILU = 0.145, 0.4  # x * sigmoid(x); two operators, each with a DequantizeLinear of its own
INT8_ADD, INT8_MULTIPLY, INT8_BROADCAST, INT8_TABLE = 0.105, 0.195, 0.245, 0.25


def elements(value: Value | None) -> int:
    """How many elements a value has, guessing at sizes that are not known."""
    if value is None or value.shape is None:
        return UNKNOWN**2
    return prod(size if isinstance(size, int) else 1 if at == 0 else UNKNOWN for at, size in enumerate(value.shape))


def far(value: Value) -> float:
    """How much longer it takes for what leaves the caches."""
    return 1.0 + min(max((elements(value) - 500_000) / 2_000_000, 0.0), 1.0)


def per_element(node: Node, float_ns: float, int8_ns: float) -> tuple[float, float]:
    """Costs that go by the size of the output."""
    count = elements(node.output)
    return LAUNCH + float_ns * count, LAUNCH + int8_ns * count


def conv(node: Node) -> tuple[float, float]:
    """A convolution: products, and for the integer kernel copying patches of the input (im2col)."""
    weight = node.inputs[1]
    assert weight is not None and weight.shape is not None
    shape = [size if isinstance(size, int) else UNKNOWN for size in weight.shape]
    groups: int = node.attr("group")
    out, taps = max(shape[0], 1), prod(shape[2:])
    return conv_cost(elements(node.output), out, shape[1], taps, groups)


def conv_cost(count: int, out: int, inner: int, taps: int, groups: int) -> tuple[float, float]:
    """count: output elements. out: channels made. inner: input channels of a group."""
    macs = inner * taps
    pixels = count / out
    if inner == 1 and groups > 1:
        return LAUNCH + count * (0.055 + 0.011 * taps), LAUNCH + count * (0.09 + 0.0185 * taps)
    each = out / groups
    padded = max(each, 16.0) / each
    patches = 0.0 if taps == 1 else (12 if inner <= 4 else 4) + 0.1 * taps
    float_ns = count * (0.01 + 0.0078 * macs * (padded if groups == 1 else 1.0))
    int8_ns = count * (0.05 + 0.0021 * macs * padded) + pixels * patches
    if groups > 1:
        float_ns += count * 6 / each
        int8_ns += count * 28 / each
    return LAUNCH + float_ns, 2 * LAUNCH + int8_ns


def product(node: Node, inner: int) -> tuple[float, float]:
    """MatMul or Gemm with a constant: `inner` products an element."""
    count = elements(node.output)
    return LAUNCH + count * inner * 0.0085, LAUNCH + count * (0.1 + inner * 0.0028)


def pool(node: Node) -> tuple[float, float]:
    """MaxPool, alike in both."""
    taps = prod(node.attr("kernel_shape") or [1])
    return per_element(node, 0.02 * taps + 0.02, 0.022 * taps + 0.02)
