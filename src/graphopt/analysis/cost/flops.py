"""FLOPs and parameters of a node, from shapes.

Conventions, those of most papers' tables: a multiply and an add count one each (so Conv and MatMul have 2 x MACs); an
elementwise operator counts one per output element, exp and sqrt included; normalizations and Softmax count five per
element; data movement (Reshape, Transpose, Gather, casts) counts nothing. Integer operations count as FLOPs do.

A symbolic dimension takes its value from the bindings, and `default` (1) where it has none, so the figures of a model
with a free batch size are those of one sample. The body of a Loop or Scan counts once; both branches of an If count.

>>> import graphopt.ir as ir
>>> from graphopt.analysis.shapes import infer
>>> from onnx import parser
>>> head = '<ir_version: 8, opset_import: ["": 17]> '
>>> body = 'g (float[N, 8] x, float[8, 4] w) => (float[N, 4] y) { y = MatMul(x, w) }'
>>> model = ir.from_proto(parser.parse_model(head + body))
>>> infer(model)
>>> node = next(iter(model.graph))
>>> node_cost(node).flops, node_cost(node, Sizes({"N": 10})).flops
(64, 640)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from graphopt.analysis.cost.sizes import Sizes, Static
from graphopt.ir.tensor import payload_bytes

if TYPE_CHECKING:
    from graphopt.ir import Node


@dataclass(frozen=True)
class NodeCost:
    """flops: None where the operator or a shape that it needs is not known. parameters: elements of its constant
    inputs; parameter_bytes: the bytes they take as stored (a tensor that two nodes share counts at both)."""

    flops: int | None
    parameters: int
    parameter_bytes: int


def node_cost(node: Node, sizes: Sizes | None = None) -> NodeCost:
    """The cost of one node; nodes of its subgraphs are not included.

    >>> NodeCost(flops=64, parameters=32, parameter_bytes=128).flops
    64
    """
    sizes = sizes if sizes is not None else Sizes()
    constants = [v for v in node.inputs if v is not None and v.is_const and v.shape is not None and v.dtype is not None]
    counts = [(v.dtype or 0, prod(d for d in v.shape or () if isinstance(d, int))) for v in constants]
    try:
        flops = _flops(node, sizes)
    except (IndexError, TypeError, ValueError):  # a malformed node has no cost; `Model.check` is who complains
        flops = None
    return NodeCost(flops, sum(n for _, n in counts), sum(payload_bytes(kind, n) for kind, n in counts))


def _flops(node: Node, sizes: Sizes) -> int | None:
    if node.domain not in ("", "com.microsoft") or (node.domain, node.op) == ("com.microsoft", "Attention"):
        return None
    if node.op in _FREE or node.subgraphs:
        return 0
    heavy = _HEAVY.get(node.op)
    if heavy is not None:
        return heavy(node, sizes)
    if node.op in _PER_INPUT:
        return _times(_PER_INPUT[node.op], sizes.of(node.inputs[0]))
    if node.op in _PER_OUTPUT:
        return _times(_PER_OUTPUT[node.op], sizes.of(node.output))
    return None


def _times(each: int, shape: Static | None) -> int | None:
    return None if shape is None else each * prod(shape)


def _conv(node: Node, sizes: Sizes, weight: int = 1) -> int | None:
    """Each output element takes as many MACs as one filter W[m] has weights. W: [M, C/group, kernel...]."""
    filters, out = sizes.of(node.inputs[weight]), sizes.of(node.output)
    if filters is None or out is None:
        return None
    has_bias = node.input(2 if weight == 1 else 8) is not None and node.op != "ConvInteger"
    return 2 * prod(out) * prod(filters[1:]) + (prod(out) if has_bias else 0)


def _qlinear_conv(node: Node, sizes: Sizes) -> int | None:
    return _conv(node, sizes, weight=3)


def _conv_transpose(node: Node, sizes: Sizes) -> int | None:
    """Each input element meets one filter W[c]. W: [C, M/group, kernel...]."""
    filters, x, out = sizes.of(node.inputs[1]), sizes.of(node.inputs[0]), sizes.of(node.output)
    if filters is None or x is None or (out is None and node.input(2) is not None):
        return None
    return 2 * prod(x) * prod(filters[1:]) + (prod(out) if out is not None and node.input(2) is not None else 0)


def _matmul(node: Node, sizes: Sizes) -> int | None:
    a, out = sizes.of(node.inputs[0]), sizes.of(node.output)
    if a is None or out is None or not a:
        return None
    transposed = node.op == "FusedMatMul" and node.attr("transA", 0) and len(a) > 1
    return 2 * prod(out) * (a[-2] if transposed else a[-1])


def _gemm(node: Node, sizes: Sizes) -> int | None:
    a, out = sizes.of(node.inputs[0]), sizes.of(node.output)
    if a is None or out is None:
        return None
    return 2 * prod(out) * a[0 if node.attr("transA", 0) else 1] + (prod(out) if node.input(2) is not None else 0)


def _recurrent(node: Node, sizes: Sizes) -> int | None:
    """Each step multiplies the input by W and the state by R; gate arithmetic is left out. X: [steps, batch, input]."""
    x, w, r = (sizes.of(node.inputs[index]) for index in range(3))
    if x is None or w is None or r is None:
        return None
    return 2 * x[0] * x[1] * (prod(w) + prod(r))


def _einsum(node: Node, sizes: Sizes) -> int | None:
    """One MAC for each point of the space of all labels."""
    extent = _extents(node, sizes)
    return None if extent is None else (2 if len(node.inputs) > 1 else 1) * prod(extent.values())


def _extents(node: Node, sizes: Sizes) -> dict[str, int] | None:
    """Labels of an Einsum with their sizes; the dims of an ellipsis are counted from the last."""
    terms = node.attr("equation").replace(" ", "").split("->")[0].split(",")
    extent: dict[str, int] = {}
    for term, value in zip(terms, node.inputs, strict=True):
        shape = sizes.of(value)
        if shape is None:
            return None
        labels = list(term)
        if "..." in term:
            before, after = term.split("...")
            labels = [*before, *(f".{i}" for i in range(len(shape) - len(before) - len(after), 0, -1)), *after]
        if len(labels) != len(shape):
            return None
        for label, size in zip(labels, shape, strict=True):
            extent[label] = max(size, extent.get(label, 0))
    return extent


def workspace(node: Node, sizes: Sizes | None = None) -> int:
    """Elements that a node computes on the way, besides its inputs and outputs, at the most: the columns of a Conv, the
    scores of an Attention, the products of an Einsum of more than two terms. 0 where shapes are not known."""
    sizes = sizes if sizes is not None else Sizes()
    try:
        return _workspace(node, sizes)
    except (IndexError, TypeError, ValueError):
        return 0


def _workspace(node: Node, sizes: Sizes) -> int:
    if node.op in ("Conv", "ConvInteger", "DeformConv", "QLinearConv", "ConvTranspose"):
        weight = sizes.of(node.inputs[3 if node.op == "QLinearConv" else 1])
        image = sizes.of(node.inputs[0] if node.op == "ConvTranspose" else node.output)
        return 0 if weight is None or image is None else prod(weight[1:]) * prod(image[2:])
    if node.op == "Einsum" and len(node.inputs) > 2:
        return prod((_extents(node, sizes) or {}).values())
    if node.op == "Attention":
        q, k = sizes.of(node.inputs[0]), sizes.of(node.inputs[1])
        if q is None or k is None:
            return 0
        return q[0] * (node.attr("q_num_heads") if len(q) == 3 else q[1]) * q[-2] * k[-2]
    return 0


def _pool(node: Node, sizes: Sizes) -> int | None:
    return _times(prod(node.attr("kernel_shape")), sizes.of(node.output))


def _attention(node: Node, sizes: Sizes) -> int | None:
    """Two products of [queries, keys] by the head size, and a softmax. 4-D inputs: [batch, heads, length, size]."""
    q, k, v = (sizes.of(node.inputs[index]) for index in range(3))
    if q is None or k is None or v is None:
        return None
    if len(q) == 3:  # [batch, length, heads * size]
        heads, shared_by = node.attr("q_num_heads"), node.attr("q_num_heads") // node.attr("kv_num_heads")
        return int(q[0] * q[1] * k[1] * (2 * q[2] + 2 * v[2] * shared_by + 5 * heads))
    return q[0] * q[1] * q[2] * k[2] * (2 * q[3] + 2 * v[3] + 5)


def _det(node: Node, sizes: Sizes) -> int | None:
    """By LU decomposition. X: [..., n, n]."""
    x = sizes.of(node.inputs[0])
    return None if x is None else prod(x[:-2]) * (2 * x[-1] ** 3 // 3 + x[-1])


def _fourier(node: Node, sizes: Sizes) -> int | None:
    """5 n log2(n), and three transforms for lengths that are no power of two; by output, which has all points."""
    out = sizes.of(node.output)
    return None if out is None else 15 * prod(out) * max(1, max(out, default=1).bit_length())


def _roi_align(node: Node, sizes: Sizes) -> int | None:
    """Bilinear samples; with a ratio of 0 their number depends on the data."""
    ratio = node.attr("sampling_ratio")
    return _times(8 * ratio * ratio, sizes.of(node.output)) if ratio else None


def _sum(node: Node, sizes: Sizes) -> int | None:
    return _times(max(0, len(node.inputs) - 1), sizes.of(node.output))


_HEAVY: dict[str, Callable[[Node, Sizes], int | None]] = {
    "Conv": _conv,
    "FusedConv": _conv,
    "ConvInteger": _conv,
    "DeformConv": _conv,
    "QLinearConv": _qlinear_conv,
    "ConvTranspose": _conv_transpose,
    "MatMul": _matmul,
    "FusedMatMul": _matmul,
    "MatMulInteger": _matmul,
    "DynamicQuantizeMatMul": _matmul,
    "QLinearMatMul": _matmul,
    "Gemm": _gemm,
    "FusedGemm": _gemm,
    "LSTM": _recurrent,
    "GRU": _recurrent,
    "RNN": _recurrent,
    "Einsum": _einsum,
    "AveragePool": _pool,
    "MaxPool": _pool,
    "LpPool": _pool,
    "Attention": _attention,
    "Det": _det,
    "DFT": _fourier,
    "STFT": _fourier,
    "RoiAlign": _roi_align,
    "Sum": _sum,
    "Max": _sum,
    "Min": _sum,
    "Mean": _sum,
}


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_FREE = _words(
    "BitCast Cast CastLike CenterCropPad Compress Concat ConcatFromSequence Constant ConstantOfShape DepthToSpace "
    "Dropout Expand EyeLike Flatten Gather GatherElements GatherND Identity If Loop MaxUnpool NonZero OneHot Optional "
    "OptionalGetElement OptionalHasElement Pad Range RegexFullMatch Reshape ReverseSequence Scan Scatter "
    "ScatterElements ScatterND SequenceAt SequenceConstruct SequenceEmpty SequenceErase SequenceInsert SequenceLength "
    "SequenceMap Shape Size Slice SpaceToDepth Split SplitToSequence Squeeze StringConcat StringNormalizer "
    "StringSplit TensorScatter TfIdfVectorizer Tile Transpose Trilu Unique Unsqueeze"
)
_PER_INPUT = {  # FLOPs for each element of the first input
    "GlobalAveragePool": 1,
    "GlobalMaxPool": 1,
    "GlobalLpPool": 2,
    "ArgMax": 1,
    "ArgMin": 1,
    "TopK": 1,
    "CumSum": 1,
    "CumProd": 1,
    "Col2Im": 1,
    **dict.fromkeys(("NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss"), 5),
    **dict.fromkeys(("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1"), 1),
    **dict.fromkeys(("ReduceL2", "ReduceSumSquare", "ReduceLogSum", "ReduceLogSumExp"), 2),
}
_PER_OUTPUT = {  # FLOPs for each element of the first output
    **dict.fromkeys(
        _words(
            "Abs Acos Acosh Add And Asin Asinh Atan Atanh BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor "
            "Ceil Clip Cos Cosh Div Equal Erf Exp Floor Greater GreaterOrEqual IsInf IsNaN LeakyRelu Less "
            "LessOrEqual Log Mod Mul Neg Not Or PRelu Pow Reciprocal Relu Resize Round Sign Sin Sinh Sqrt Sub Tan "
            "Tanh ThresholdedRelu Upsample Where Xor Bernoulli RandomNormal RandomNormalLike RandomUniform "
            "RandomUniformLike"
        ),
        1,
    ),
    **dict.fromkeys(("BatchNormalization", "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"), 2),
    **dict.fromkeys(("Celu", "Elu", "HardSigmoid", "Selu", "Shrink", "Sigmoid", "Softplus", "Softsign"), 3),
    **dict.fromkeys(("Gelu", "FastGelu", "HardSwish", "Mish", "QuickGelu", "Swish", "BiasGelu"), 5),
    **dict.fromkeys(("Hardmax", "LogSoftmax", "LpNormalization", "LRN", "MeanVarianceNormalization", "Softmax"), 5),
    **dict.fromkeys(("GroupNormalization", "InstanceNormalization", "LayerNormalization", "RMSNormalization"), 5),
    **dict.fromkeys(("SimplifiedLayerNormalization", "SkipLayerNormalization", "GridSample", "RotaryEmbedding"), 5),
    **dict.fromkeys(("AffineGrid", "BlackmanWindow", "HammingWindow", "HannWindow", "MelWeightMatrix", "SwiGLU"), 5),
}
