"""The intervals of results, operator by operator: RULES has the operands that are asked for, and a function of the node
and their intervals. What is not in it is unbounded.

Real arithmetic, in float64. A sum of magnitudes bounds every partial sum, in any order. What infinities and NaN become
is said where it is not plain: an operator is here only if it makes no infinity of a NaN, and none of an infinity where
the interval is finite.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from math import inf, prod

import numpy as np
from onnx import TensorProto

from graphopt.ir import Node, Value
from graphopt.passes.collapse._intervals import (
    EXTENT,
    LIMITS,
    RANGES,
    UNKNOWN,
    Interval,
    around,
    elements,
    largest,
    magnitude,
    number,
    of_constant,
    products,
)
from graphopt.passes.collapse._through import objection, windows
from graphopt.passes.fusion._affine import Affine, of_batch_norm
from graphopt.passes.simplify._facts import static
from graphopt.rewrite import Refusal

Rule = Callable[[Node, list[Interval]], Interval]


def operands_of(value: Value) -> list[Value]:
    """The values whose intervals tell this one's."""
    node = value.producer
    if node is None or node.op not in _EVERY:
        return [v for v in (node.inputs[:1] if node is not None else ()) if v is not None]
    return [v for v in node.inputs if v is not None]


def is_hopeless(value: Value, operands: list[Interval | None]) -> bool:
    """Whether operands that are known (others: None) leave the result unbounded: weights need not be looked at."""
    node = value.producer
    return node is not None and node.op in _LINEAR and UNKNOWN in operands


def makes_nan(value: Value, operands: list[Interval]) -> bool:
    """Whether a result may be NaN where its operands, with these intervals, are all finite numbers."""
    op = value.producer.op if value.producer is not None else ""
    if op in ("Sqrt", "Log", "Pow"):
        return operands[0][0] < 0
    return op in _OVERFLOW


def without_nan(value: Value, found: Interval) -> Interval:
    """The interval of a result whose operand may be NaN: kernels look for a maximum from the lowest number on, and give
    that where nothing but NaN is."""
    op = value.producer.op if value.producer is not None else ""
    low, high = found
    return (-inf if op in _MAXIMA else low), (inf if op == "ReduceMin" else high)


def interval_of(value: Value, operands: list[Interval]) -> Interval:
    """The interval of a node's result, from those of `operands_of`; unbounded where nothing is known."""
    node = value.producer
    rule = None if node is None or node.domain not in _DOMAINS.get(node.op, ("",)) else RULES.get(node.op)
    if node is None or rule is None or node.has_references or value.index > _FURTHER.get(node.op, 0):
        return UNKNOWN
    try:
        with np.errstate(all="ignore"):
            return rule(node, operands)
    except (ArithmeticError, LookupError, TypeError, ValueError):  # a malformed node has no bounds
        return UNKNOWN


_DOMAINS = {"Gelu": ("", "com.microsoft")}
_MAXIMA = frozenset({"MaxPool", "GlobalMaxPool", "ReduceMax"})
_OVERFLOW = frozenset(  # on the way to a result that is bounded
    "GRU GroupNormalization InstanceNormalization LSTM LayerNormalization RMSNormalization RNN".split()
)
_LINEAR = frozenset("Add Div Gemm MatMul Mean Mul PRelu Sub Sum".split())  # unbounded if one operand is
_EVERY = _LINEAR | frozenset("Concat Max Min Where".split())
_FURTHER = {"Split": 1 << 30, "LSTM": 1, "GRU": 1, "RNN": 1}


def _fixed(low: float, high: float) -> Rule:
    return lambda node, operands: (low, high)


def _same(node: Node, operands: list[Interval]) -> Interval:
    return operands[0]


def _hull(node: Node, operands: list[Interval]) -> Interval:
    given = operands[1:] if node.op == "Where" else operands
    return min(low for low, _ in given), max(high for _, high in given)


def _min(node: Node, operands: list[Interval]) -> Interval:
    """Of a NaN and a number a runtime may take either; a constant is no NaN."""
    fixed = [high for v, (_, high) in zip(node.inputs, operands, strict=True) if v is not None and v.is_const]
    return min(low for low, _ in operands), min([*fixed, max(high for _, high in operands)])


def _max(node: Node, operands: list[Interval]) -> Interval:
    fixed = [low for v, (low, _) in zip(node.inputs, operands, strict=True) if v is not None and v.is_const]
    return max([*fixed, min(low for low, _ in operands)]), max(high for _, high in operands)


def _clip(node: Node, operands: list[Interval]) -> Interval:
    """min(max(x, least), most); a bound that is computed may be anything."""
    least, most = (-inf, -inf), (inf, inf)
    if node.graph.opset() < 11:
        least, most = (node.attr("min", -inf),) * 2, (node.attr("max", inf),) * 2
    else:
        least, most = _fixed_or(node.input(1), least), _fixed_or(node.input(2), most)
    low, high = operands[0]
    return min(max(low, least[0]), most[0]), min(max(high, least[1]), most[1])


def _fixed_or(value: Value | None, absent: Interval) -> Interval:
    return absent if value is None else of_constant(value) if value.is_const else UNKNOWN


def _sum(node: Node, operands: list[Interval]) -> Interval:
    flipped = [(-high, -low) if node.op == "Sub" and k else (low, high) for k, (low, high) in enumerate(operands)]
    low, high = sum(low for low, _ in flipped), sum(high for _, high in flipped)
    return around(max(-low, high)) if node.op == "Mean" else (low, high)


def _mul(node: Node, operands: list[Interval]) -> Interval:
    (a, b), (c, d) = operands
    bound = magnitude((a, b)) * magnitude((c, d))
    is_square = node.inputs[0] is node.inputs[1]
    if is_square or (a >= 0 and c >= 0):
        return (0.0, bound) if bound >= 0 else (0.0, inf)
    return around(bound)


def _div(node: Node, operands: list[Interval]) -> Interval:
    (a, b), (c, d) = operands
    if c <= 0 <= d:
        return UNKNOWN
    bound = magnitude((a, b)) / min(abs(c), abs(d))
    return (0.0, bound) if a >= 0 and c > 0 else around(bound)


def _pow(node: Node, operands: list[Interval]) -> Interval:
    power, bound = number(node.inputs[1]), max(1.0, magnitude(operands[0]))
    if power is None or power < 0:
        return UNKNOWN
    return (0.0 if power == 2 or operands[0][0] >= 0 else -(bound**power), bound**power)


def _scaled(factor: float, node: Node, operands: list[Interval]) -> Interval:
    """|f(x)| <= factor |x|, which an infinity may make NaN."""
    return around(factor * magnitude(operands[0]))


def _leaky(node: Node, operands: list[Interval]) -> Interval:
    slope = magnitude(operands[1]) if node.op == "PRelu" else abs(node.attr("alpha"))
    return around(max(1.0, slope) * magnitude(operands[0]))


def _elu(node: Node, operands: list[Interval]) -> Interval:
    least = abs(node.attr("alpha"))
    factor = abs(node.attr("gamma")) if node.op == "Selu" else 1.0
    return -factor * least, factor * max(operands[0][1], least)


def _pad(node: Node, operands: list[Interval]) -> Interval:
    if node.attr("mode", "constant") != "constant":
        return operands[0]
    filled = float(node.attr("value", 0.0)) if node.input(2) is None else number(node.input(2))
    return UNKNOWN if filled is None else (min(operands[0][0], filled), max(operands[0][1], filled))


def _pool(node: Node, operands: list[Interval]) -> Interval:
    return UNKNOWN if windows(node) else operands[0]


def _reduced(node: Node, operands: list[Interval]) -> Interval:
    """Sums, and means that are sums before, over some or all of the elements."""
    x = static(node.inputs[0].shape) if node.inputs[0] is not None else None
    bound, extent = magnitude(operands[0]), float(prod(x)) if x is not None else EXTENT
    if node.op in ("ReduceMax", "ReduceMin"):  # of nothing these are infinite
        return operands[0] if x is not None and min(x, default=1) > 0 else UNKNOWN
    if node.op == "AveragePool":
        extent = float(prod(node.attr("kernel_shape")))
    total = bound * max(1.0, extent) * (bound if node.op in ("ReduceL2", "ReduceSumSquare") else 1.0)
    if node.op in ("ReduceSum", "ReduceL1", "ReduceSumSquare", "CumSum"):
        return around(total)
    root = math.sqrt(total) if node.op == "ReduceL2" else bound
    return around(root) if total <= LIMITS.get(node.output.dtype or 0, 0.0) else UNKNOWN


def _conv(node: Node, operands: list[Interval]) -> Interval:
    weights, bound = node.inputs[1], magnitude(operands[0])
    if bound == inf:
        return UNKNOWN  # without looking at the weights
    array = elements(weights)
    if array is None or array.ndim < 3:
        return UNKNOWN
    axes = tuple(k for k in range(array.ndim) if k != (1 if node.op == "ConvTranspose" else 0))
    return around(bound * products(array, axes) + largest(node.input(2)))


def _matmul(node: Node, operands: list[Interval]) -> Interval:
    a, b = node.inputs[:2]
    first, second = (magnitude(found) for found in operands[:2])
    if first == inf or second == inf or a is None or b is None:
        return UNKNOWN
    flipped = [bool(node.attr("transA", 0)), bool(node.attr("transB", 0))] if node.op == "Gemm" else [False, False]
    if (array := elements(b)) is not None and array.ndim:
        bound = first * products(array, (-1 if flipped[1] else max(-2, -array.ndim),))
    elif (array := elements(a)) is not None and array.ndim:
        bound = second * products(array, (-2 if flipped[0] else -1,))
    else:
        inner = a.shape[-2 if flipped[0] else -1] if a.shape else None
        bound = first * second * (inner if isinstance(inner, int) else EXTENT)
    if node.op == "MatMul":
        return around(bound)
    shift = abs(node.attr("beta")) * magnitude(operands[2]) if len(operands) > 2 else 0.0
    return around(bound * max(1.0, abs(node.attr("alpha"))) + shift)


def _batch_norm(node: Node, operands: list[Interval]) -> Interval:
    gamma = node.inputs[1]
    if gamma is None or any(v is None or not v.is_const for v in node.inputs[1:5]):
        return UNKNOWN
    affine = of_batch_norm(node, gamma.numpy().size)
    if isinstance(affine, Refusal) or affine.scale is None:
        return UNKNOWN
    scale = float(np.abs(affine.scale).max(initial=0.0))
    return around((magnitude(operands[0]) + largest(node.inputs[3])) * scale + largest(node.inputs[2]))


def _normalized(node: Node, operands: list[Interval]) -> Interval:
    """(x - mean) / sqrt(var + epsilon), or x / sqrt(mean of squares + epsilon).

    What is infinite, or has an infinite mean, is divided by an infinity or NaN: NaN. What has a variance that overflows
    is divided by infinity: 0. Otherwise the distance from the mean is below the root of the largest number, and as the
    mean is rounded, x is at most 2^24 (2^53) times as far out: that is all that x / sqrt(epsilon) can be, in whatever
    order the kernel computes.
    """
    dtype, epsilon = node.output.dtype, float(node.attr("epsilon"))
    most = 1e27 if dtype == TensorProto.FLOAT else 1e170
    if dtype not in (TensorProto.FLOAT, TensorProto.DOUBLE) or not epsilon >= 9e-13:  # 1e-12 as float32 is less
        return UNKNOWN
    far = min(most, 2 * magnitude(operands[0]))
    return around(far / math.sqrt(epsilon) * largest(node.input(1)) + largest(node.input(2)))


def _dequantized(node: Node, operands: list[Interval]) -> Interval:
    x = node.inputs[0]
    low, high = RANGES[x.dtype or 0] if x is not None else UNKNOWN
    return around((high - low) * largest(node.inputs[1]))


def _recurrent(node: Node, operands: list[Interval]) -> Interval:
    """A hidden state is a mean of, or product with, tanh; a GRU keeps some of the first one, of sequences of no steps
    all of it is left."""
    return UNKNOWN if "activations" in node.attributes else around(1.01 + largest(node.input(5)))


def _resized(node: Node, operands: list[Interval]) -> Interval:
    if node.attr("mode", "nearest") == "cubic" or objection(node, Affine(), None):
        return UNKNOWN
    return around(1.01 * magnitude(operands[0]))


def _monotone(function: Callable[[float], float], node: Node, operands: list[Interval]) -> Interval:
    low, high = operands[0]
    return function(low), function(high)


def _log(x: float) -> float:
    return -inf if x <= 0 else math.log(x)


RULES: dict[str, Rule] = {
    **dict.fromkeys(("Sigmoid", "HardSigmoid", "Softmax", "Hardmax", "EyeLike"), _fixed(0.0, 1.0)),
    **dict.fromkeys(("Tanh", "Erf", "Softsign", "Sin", "Cos", "Sign"), _fixed(-1.0, 1.0)),
    **dict.fromkeys(
        "Cast CastLike DepthToSpace Expand Flatten Gather GatherElements GatherND Identity Reshape ReverseSequence "
        "Slice SpaceToDepth Split Squeeze Tile Transpose Unsqueeze".split(),
        _same,
    ),
    **dict.fromkeys(("Concat", "Where"), _hull),
    **dict.fromkeys(("Add", "Sub", "Sum", "Mean"), _sum),
    **dict.fromkeys(("Gelu", "HardSwish", "Mish"), partial(_scaled, 1.01)),
    **dict.fromkeys(("LeakyRelu", "PRelu"), _leaky),
    **dict.fromkeys(("Celu", "Elu", "Selu"), _elu),
    **dict.fromkeys(("MaxPool", "GlobalMaxPool"), _pool),
    **dict.fromkeys(
        "AveragePool CumSum GlobalAveragePool ReduceL1 ReduceL2 ReduceMax ReduceMean ReduceMin ReduceSum "
        "ReduceSumSquare".split(),
        _reduced,
    ),
    **dict.fromkeys(("Conv", "ConvTranspose"), _conv),
    **dict.fromkeys(("MatMul", "Gemm"), _matmul),
    **dict.fromkeys(
        ("LayerNormalization", "InstanceNormalization", "GroupNormalization", "RMSNormalization"), _normalized
    ),
    **dict.fromkeys(("LSTM", "GRU", "RNN"), _recurrent),
    **dict.fromkeys(("Resize", "Upsample"), _resized),
    "Abs": lambda node, operands: (0.0, magnitude(operands[0])),
    "BatchNormalization": _batch_norm,
    "Ceil": lambda node, operands: (operands[0][0], operands[0][1] + 1),
    "Clip": _clip,
    "DequantizeLinear": _dequantized,
    "Div": _div,
    "Exp": lambda node, operands: (0.0, math.exp(operands[0][1])),
    "Floor": lambda node, operands: (operands[0][0] - 1, operands[0][1]),
    "Log": partial(_monotone, _log),
    "Max": _max,
    "Min": _min,
    "Mul": _mul,
    "Neg": lambda node, operands: (-operands[0][1], -operands[0][0]),
    "OneHot": lambda node, operands: _fixed_or(node.inputs[2], UNKNOWN),
    "Pad": _pad,
    "Pow": _pow,
    "Reciprocal": lambda node, operands: (0.0, 1 / operands[0][0]) if operands[0][0] > 0 else UNKNOWN,
    "Relu": partial(_monotone, lambda x: max(x, 0.0)),
    "Round": lambda node, operands: (operands[0][0] - 1, operands[0][1] + 1),
    "Softplus": lambda node, operands: (0.0, max(operands[0][1], 0.0) + 1),
    "Sqrt": lambda node, operands: (0.0, math.sqrt(max(operands[0][1], 0.0))),
    "ThresholdedRelu": lambda node, operands: (min(operands[0][0], 0.0), max(operands[0][1], 0.0)),
    "Trilu": lambda node, operands: (min(operands[0][0], 0.0), max(operands[0][1], 0.0)),
}
