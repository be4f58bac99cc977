"""Which kernel a node runs in, and how much work that is: what `Machine.seconds` are for.

| kind | a unit of work is |
|---|---|
| conv, pointwise, depthwise | a multiplication, padded to blocks of channels; a kernel of 1; a group per channel |
| first, columns | the same for fewer channels than a block; where there are no blocks (1-D, groups of a few channels) |
| transposed, conv integer | a multiplication of ConvTranspose; of convolutions of integers |
| gemm, gemm integer, recurrent | a multiplication, padded to columns and rows; of integers; of LSTM, GRU, RNN |
| add | an element of what is vectorised and cheap: Add, Mul, Max, Neg, Where ... |
| curve, branch | an element of what is vectorised and not cheap (Exp ...); computed one by one (Elu, Pow ...) |
| copy, strided | an element that is moved in long runs (Concat, Slice, Gather of rows ...); in short ones |
| gather | an element that a Gather picks by itself |
| transpose, transpose slow | an element; of an order for which there is no fast kernel |
| reduce, reduce rows | an element that is reduced; where there is no fast kernel: over rows of a single matrix |
| softmax, softmax inner, normalize | an element; of Softmax over another axis than the last one; of normalizations |
| pool, sample | an element under a window of a pool; of GridSample, RoiAlign |
| resize, resize nearest, resize cubic | an element of the result, by lines; by neighbours; by cubics |
| quantize, search, other | an element; of TopK, NonZero, CumSum ...; of what is not known |

Views do no work.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil, prod
from typing import TYPE_CHECKING, NamedTuple

from graphopt.analysis.cost.flops import node_cost
from graphopt.analysis.cost.sizes import Sizes, Static
from graphopt.analysis.cost.traffic import is_view

if TYPE_CHECKING:
    from graphopt.analysis.cost.machine import Machine
    from graphopt.ir import Node, Value


class Work(NamedTuple):
    """kind: an entry of `Machine.seconds`. units: how many of them."""

    kind: str
    units: float


def work_of(node: Node, sizes: Sizes, machine: Machine) -> Work | None:
    """What a node computes by itself (nothing fused, bodies not included); None where a shape is not known.

    >>> from graphopt import ir
    >>> from graphopt.analysis.cost import ORT_CPU
    >>> from graphopt.analysis.shapes import infer
    >>> from onnx import parser
    >>> text = 'g (float[N, 8] x, float[8, 4] w) => (float[N, 4] y) { y = MatMul(x, w) }'
    >>> model = ir.from_proto(parser.parse_model('<ir_version: 8, opset_import: ["": 17]> ' + text))
    >>> infer(model)
    >>> work_of(next(iter(model.graph)), Sizes({"N": 12}), ORT_CPU)  # (12 + 2 for a pass) x 8 x 16 columns
    Work(kind='gemm', units=1792.0)
    """
    if is_view(node) or node.subgraphs:
        return Work("view", 0)
    special = _SPECIAL.get(node.op)
    try:
        found = special(node, sizes, machine) if special is not None else _plain(node, sizes)
    except (IndexError, TypeError, ValueError):  # a malformed node; `Model.check` is who complains
        return None
    if found is not None and node.op in machine.seconds and found.kind in _BY_NAME:
        return Work(node.op, found.units)
    return found


_BY_NAME = frozenset(("add", "curve", "branch", "other", "normalize", "quantize", "search"))


def _plain(node: Node, sizes: Sizes) -> Work | None:
    out = sizes.of(node.output)
    return None if out is None else Work(KIND_OF.get(node.op, "other"), prod(out))


def _conv(node: Node, sizes: Sizes, machine: Machine) -> Work | None:
    place = {"QLinearConv": 3}.get(node.op, 1)
    weight, out = sizes.of(node.inputs[place]), sizes.of(node.output)
    if weight is None or out is None:
        return None
    spots, taps = prod(out[:1]) * prod(out[2:]), prod(weight[1:])
    if place != 1 or node.op == "ConvInteger":
        return Work("conv integer", spots * taps * weight[0])
    kind = layout_of(node, weight, machine)
    if kind in ("columns", "depthwise"):
        return Work(kind, spots * taps * weight[0])
    return Work(kind, spots * taps * machine.widths[0] * padded_blocks(weight[0], machine))


def layout_of(node: Node, weight: Static, machine: Machine) -> str:
    """Whether a convolution runs in blocks of channels, and how: conv, pointwise, depthwise, first; or in columns."""
    channels, inputs, group = weight[0], weight[1], int(node.attr("group", 1))
    if len(weight) != 4 or not machine.widths or not _is_const(node.inputs[1]):
        return "columns"
    width = machine.widths[0]
    if group > 1:
        if channels % width:
            return "columns"
        if inputs == 1 and channels == group:
            return "depthwise"
        return "columns" if inputs % width or (channels // group) % width else "conv"
    if inputs < width:
        return "first"
    return "pointwise" if prod(weight[2:]) == 1 else "conv"


def padded_blocks(channels: int, machine: Machine, place: int = 0) -> float:
    """Blocks of output channels of the width at that place, and what the passes over the input cost besides."""
    blocks = ceil(channels / machine.widths[place])
    return blocks + machine.a_pass * ceil(blocks / machine.blocks_a_pass)


def spilled(node: Node, sizes: Sizes, machine: Machine) -> int:
    """Bytes that a convolution moves because its result does not fit into the cache: ONNX Runtime goes over it once for
    each block of input channels (for eight of them where the kernel is 1). 0 for any other node."""
    weight = sizes.of(node.inputs[1]) if node.op in ("Conv", "FusedConv") else None
    out = sizes.of(node.output)
    if weight is None or out is None or not machine.widths:
        return 0
    kind, width = layout_of(node, weight, machine), machine.widths[0]
    if kind not in ("conv", "pointwise"):
        return 0
    together = min(weight[0], width * machine.blocks_a_pass) * prod(out[2:]) * 4
    passes = ceil(weight[1] / (width * (8 if kind == "pointwise" else 1)))
    return 0 if together <= machine.cache else 8 * prod(out) * (passes - 1)


def _conv_transpose(node: Node, sizes: Sizes, machine: Machine) -> Work | None:
    x, weight = sizes.of(node.inputs[0]), sizes.of(node.inputs[1])
    return None if x is None or weight is None else Work("transposed", prod(x) * prod(weight[1:]))


def _matmul(node: Node, sizes: Sizes, machine: Machine) -> Work | None:
    a, out = sizes.of(node.inputs[0]), sizes.of(node.output)
    if a is None or out is None or not a:
        return None
    turned = bool(node.attr("transA", 0)) and len(a) > 1
    inner, columns = a[-2] if turned else a[-1], out[-1] if out else 1
    rows = out[-2] if len(out) > 1 else 1
    b = sizes.of(node.inputs[1])
    times = prod(out[:-2])
    if b is not None and len(b) == 2:  # a batch of one matrix of weights is that many more rows
        times, rows = 1, times * rows
    return Work(_gemm_kind(node), times * _product(rows, inner, columns, machine))


def _product(rows: int, inner: int, columns: int, machine: Machine) -> float:
    """Multiplications of [rows, inner] by [inner, columns], with those that only fill up."""
    passes = machine.a_pass_of_rows * ceil(rows / machine.rows_a_pass)
    return (rows + passes) * inner * machine.columns * ceil(columns / machine.columns)


def _gemm_kind(node: Node) -> str:
    return "gemm integer" if "Integer" in node.op or "Quantize" in node.op or "QLinear" in node.op else "gemm"


def _by_flops(kind: str) -> Callable[[Node, Sizes, Machine], Work | None]:
    def count(node: Node, sizes: Sizes, machine: Machine) -> Work | None:
        flops = node_cost(node, sizes).flops
        return None if flops is None else Work(kind, flops / 2)

    return count


def _reduce(node: Node, sizes: Sizes, machine: Machine) -> Work | None:
    x = sizes.of(node.inputs[0])
    if x is None:
        return None
    axes = _axes(node, len(x))
    if axes is None:
        return Work("reduce", prod(x))
    front, ends = x[: min(axes, default=0)], max(axes, default=0) == len(x) - 1
    vectorised = node.op in ("ReduceSum", "ReduceMean") and not (front and prod(front) == 1)
    return Work("reduce" if ends or vectorised else "reduce rows", prod(x))


def _axes(node: Node, rank: int) -> frozenset[int] | None:
    """The reduced axes, from the front; all where none are given; None where they are computed."""
    given = node.input(1)
    if given is not None and not given.is_const:
        return None
    axes: Sequence[int] = given.numpy().reshape(-1).tolist() if given is not None else node.attr("axes", None) or ()
    return frozenset(axis % rank for axis in axes) if axes else frozenset(range(rank))


def _softmax(node: Node, sizes: Sizes, machine: Machine) -> Work | None:
    x = sizes.of(node.inputs[0])
    if x is None:
        return None
    axis = int(node.attr("axis", -1)) % max(1, len(x))
    last = axis == len(x) - 1 or node.graph.opset() < 13
    return Work("softmax" if last else "softmax inner", prod(x))


def _transpose(node: Node, sizes: Sizes, machine: Machine) -> Work | None:
    x = sizes.of(node.inputs[0])
    if x is None:
        return None
    perm = tuple(node.attr("perm", None) or range(len(x))[::-1])
    kept = [axis for axis in perm if x[axis] != 1]
    if kept == sorted(kept):
        return Work("copy", prod(x))
    if perm[-1] == len(perm) - 1:  # whole rows move
        return Work("copy" if x[-1] >= SHORT else "strided", prod(x))
    return Work("transpose" if moves_one(perm) else "transpose slow", prod(x))


def moves_one(perm: Sequence[int]) -> bool:
    """Whether a single axis moves, for which ONNX Runtime has a fast kernel."""
    others = ([axis for axis in perm if axis != moved] for moved in perm)
    return any(left == sorted(left) for left in others)


SHORT = 8  # elements: runs shorter than this are moved one by one


def _moved(node: Node, sizes: Sizes, machine: Machine) -> Work | None:
    """Copies: how long the runs are that lie together on both sides decides."""
    out = sizes.of(node.output)
    whole = sizes.of(node.inputs[0]) if node.op == "Split" else out
    if out is None or whole is None:
        return None
    x, last = sizes.of(node.inputs[0]), out[-1] if out else 1
    if node.op == "Slice" and len(node.inputs) > 4 and node.input(4) is not None:
        steps = node.inputs[4]
        if steps is not None and steps.is_const and (steps.numpy() != 1).any():
            return Work("strided", prod(out))
    if node.op in ("DepthToSpace", "SpaceToDepth"):
        return Work("strided", prod(out))
    if node.op == "Gather":
        axis = int(node.attr("axis", 0)) % max(1, len(x) if x else 1)
        run = prod(x[axis + 1 :]) if x is not None else last
        return Work("copy" if run >= SHORT else "gather", prod(out))
    if node.op in ("Concat", "Split"):
        axis = int(node.attr("axis", 0)) % max(1, len(out))
        run = prod(out[axis:])
    else:
        run = last
    return Work("copy" if run >= SHORT else "strided", prod(whole))


def _pool(node: Node, sizes: Sizes, machine: Machine) -> Work | None:
    out = sizes.of(node.output)
    return None if out is None else Work("pool", prod(out) * prod(node.attr("kernel_shape")))


def _by_input(kind: str) -> Callable[[Node, Sizes, Machine], Work | None]:
    def count(node: Node, sizes: Sizes, machine: Machine) -> Work | None:
        x = sizes.of(node.inputs[0])
        return None if x is None else Work(kind, prod(x))

    return count


def _resize(node: Node, sizes: Sizes, machine: Machine) -> Work | None:
    out, mode = sizes.of(node.output), node.attr("mode", "nearest")
    if out is None:
        return None
    whole = node.op == "Upsample" or node.attr("coordinate_transformation_mode", "half_pixel") == "asymmetric"
    kind = {"nearest": "copy" if whole else "resize nearest", "cubic": "resize cubic"}.get(mode, "resize")
    return Work(kind, prod(out))


def _power(node: Node, sizes: Sizes, machine: Machine) -> Work | None:
    """Squares and cubes have a kernel of their own."""
    out = sizes.of(node.output)
    exponent = node.inputs[1]
    easy = _is_const(exponent) and exponent is not None and sizes.of(exponent) in ((), (1,))
    if out is None:
        return None
    if easy and exponent is not None and float(exponent.numpy().reshape(())) in (2.0, 3.0):
        return Work("Mul", prod(out))
    return Work("branch", prod(out))


def _is_const(value: Value | None) -> bool:
    return value is not None and value.is_const


def _words(kind: str, text: str) -> dict[str, str]:
    return dict.fromkeys(text.split(), kind)


KIND_OF = {
    **_words(
        "add",
        "Abs Add And Ceil Clip Div Equal Floor Greater GreaterOrEqual LeakyRelu Less LessOrEqual Max Mean Min Mul Neg "
        "Not Or Reciprocal Relu Sign Sqrt Sub Sum ThresholdedRelu Where Xor HardSigmoid BatchNormalization Cast "
        "CastLike ConstantOfShape IsNaN IsInf BitShift BitwiseAnd BitwiseOr BitwiseXor BitwiseNot Range EyeLike",
    ),
    **_words("curve", "Erf Exp Gelu FastGelu HardSwish Log Sigmoid Softmax Tanh QuickGelu BiasGelu Swish"),
    **_words(
        "branch",
        "Acos Acosh Asin Asinh Atan Atanh Celu Cos Cosh Elu Mish Mod PRelu Pow Round Selu Shrink Sin Sinh Softplus "
        "Softsign Tan",
    ),
    **_words("quantize", "QuantizeLinear DequantizeLinear DynamicQuantizeLinear"),
    **_words(
        "search",
        "CumProd CumSum Hardmax MatMulNBits Multinomial NonMaxSuppression NonZero OneHot TopK Unique RandomNormal "
        "RandomNormalLike RandomUniform RandomUniformLike Bernoulli",
    ),
    **_words("sample", "AffineGrid GridSample MaxRoiPool RoiAlign"),
    **_words("normalize", "GroupNormalization InstanceNormalization LayerNormalization LpNormalization LRN"),
    **_words("normalize", "MeanVarianceNormalization RMSNormalization SimplifiedLayerNormalization"),
    **_words("normalize", "SkipLayerNormalization"),
}
_SPECIAL: dict[str, Callable[[Node, Sizes, Machine], Work | None]] = {
    **dict.fromkeys(("Conv", "FusedConv", "ConvInteger", "QLinearConv"), _conv),
    "ConvTranspose": _conv_transpose,
    **dict.fromkeys(("MatMul", "FusedMatMul", "MatMulInteger", "QLinearMatMul", "Gemm", "FusedGemm"), _matmul),
    **dict.fromkeys(("MatMulIntegerToFloat", "DynamicQuantizeMatMul"), _matmul),
    **dict.fromkeys(("LSTM", "GRU", "RNN"), _by_flops("recurrent")),
    **dict.fromkeys(
        ("Einsum", "Attention", "MultiHeadAttention", "Det", "DFT", "STFT", "DeformConv"), _by_flops("gemm")
    ),
    **dict.fromkeys(
        ("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2"), _reduce
    ),
    **dict.fromkeys(("ReduceSumSquare", "ReduceLogSum", "ReduceLogSumExp"), _reduce),
    **dict.fromkeys(("GlobalAveragePool", "GlobalMaxPool", "ArgMax", "ArgMin", "GlobalLpPool"), _by_input("reduce")),
    **dict.fromkeys(("AveragePool", "MaxPool", "LpPool"), _pool),
    **dict.fromkeys(("Softmax", "LogSoftmax"), _softmax),
    "Transpose": _transpose,
    **dict.fromkeys(("Concat", "Split", "Slice", "Pad", "Gather", "Expand", "Tile"), _moved),
    **dict.fromkeys(("TopK", "NonZero", "Unique", "CumSum"), _by_input("search")),
    **dict.fromkeys(("GatherElements", "GatherND", "ScatterElements", "ScatterND", "DepthToSpace"), _moved),
    **dict.fromkeys(("SpaceToDepth", "Trilu", "ReverseSequence", "Compress", "Col2Im", "CenterCropPad"), _moved),
    "Pow": _power,
    **dict.fromkeys(("Resize", "Upsample"), _resize),
}
