"""What TensorRT's ONNX parser takes, as far as it can be told without TensorRT.

From the support matrices of onnx-tensorrt (docs/operators.md of releases 8.5 and 10.15): operators, types, and those
restrictions that the graph shows. It says what will not parse; that a node is not refused here is no promise.
"""

from __future__ import annotations

from onnx import TensorProto

from graphopt.ir import Model, Node, Value

__all__ = ["OLDEST", "SUPPORTED", "supported", "why_not_parsed", "why_not_taken"]

OLDEST = (8, 5)
SUPPORTED = frozenset(
    "Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization Cast Ceil Celu Clip "
    "Concat Constant ConstantOfShape Conv ConvTranspose Cos Cosh CumSum DepthToSpace DequantizeLinear Div Dropout "
    "Einsum Elu Equal Erf Exp Expand EyeLike Flatten Floor Gather GatherElements GatherND Gemm GlobalAveragePool "
    "GlobalLpPool GlobalMaxPool Greater GreaterOrEqual GridSample GRU HardSigmoid HardSwish Identity If ImageScaler "
    "InstanceNormalization IsNaN LeakyRelu Less LessOrEqual Log LogSoftmax Loop LRN LSTM LpNormalization LpPool MatMul "
    "Max MaxPool Mean MeanVarianceNormalization Min Mod Mul Neg NonMaxSuppression NonZero Not OneHot Or Pad "
    "ParametricSoftplus Pow PRelu QuantizeLinear RandomNormal RandomNormalLike RandomUniform RandomUniformLike Range "
    "Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum "
    "ReduceSumSquare Relu Reshape Resize ReverseSequence RNN RoiAlign Round ScaledTanh Scan Scatter ScatterElements "
    "ScatterND Selu Shape Shrink Sigmoid Sign Sin Sinh Size Slice Softmax Softplus Softsign SpaceToDepth Split Sqrt "
    "Squeeze Sub Sum Tan Tanh ThresholdedRelu Tile TopK Transpose Trilu Unsqueeze Upsample Where Xor".split()
)
_LATER = frozenset(  # by 10
    "Attention BlackmanWindow CastLike DeformConv Gelu GroupNormalization HammingWindow HannWindow Hardmax IsInf "
    "LayerNormalization Mish RMSNormalization RotaryEmbedding STFT Swish".split()
)
_TYPES = frozenset(
    (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT32, TensorProto.INT64, TensorProto.INT8, TensorProto.BOOL)
)
_LATER_TYPES = frozenset(
    (TensorProto.BFLOAT16, TensorProto.UINT8, TensorProto.INT4, TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT4E2M1)
)
_SPATIAL = frozenset(("AveragePool", "MaxPool", "Conv", "ConvTranspose", "GlobalAveragePool", "GlobalMaxPool"))
_CONSTANTS = {
    "CumSum": (1, "axis"),
    "Slice": (3, "axes"),
    "TopK": (1, "K"),
    "Squeeze": (1, "axes"),
    "Unsqueeze": (1, "axes"),
}
_MODES = frozenset(("half_pixel", "pytorch_half_pixel", "tf_half_pixel_for_nn", "asymmetric", "align_corners"))
_OPSETS = ((10, 24), (9, 19), (8, 17))  # newest opset that a version's parser knows


def supported(version: tuple[int, ...] = OLDEST) -> frozenset[str]:
    """The operators that a version's parser knows."""
    return SUPPORTED | _LATER if version >= (10,) else SUPPORTED


def why_not_taken(model: Model, version: tuple[int, ...] = OLDEST) -> str:
    """Why a version's parser will not take a model as a whole, or nothing: its opset is newer."""
    newest = next(opset for release, opset in _OPSETS if version >= (release,))
    opset = model.opsets.get("", 0)
    if opset > newest:
        return f"opset {opset} is newer than what TensorRT {'.'.join(map(str, version[:2]))} knows ({newest})"
    return ""


def why_not_parsed(node: Node, version: tuple[int, ...] = OLDEST) -> str:
    """Why TensorRT's parser will not take a node, bodies included, or nothing.

    >>> from graphopt import ir
    >>> from onnx import parser
    >>> m = ir.from_proto(parser.parse_model('<ir_version: 8, opset_import: ["": 17]> g (float[N] x) => (float[M] y)'
    ...                                      '{ y = BitShift<direction="LEFT">(x, x) }'))
    >>> why_not_parsed(m.graph.nodes[0])
    'TensorRT has no BitShift'
    """
    pending = [node]
    while pending:
        item = pending.pop()
        pending += [inner for body in item.subgraphs for inner in body]
        reason = _reason(item, version)
        if reason:
            return reason if item is node else f"inside it, {reason}"
    return ""


def _reason(node: Node, version: tuple[int, ...]) -> str:
    if node.domain and (node.domain, node.op, node.proto.overload) not in node.graph.model.functions:
        return f"{node.domain}::{node.op} is no operator of ONNX"
    if not node.domain and node.op not in supported(version):
        later = f" before version 10, and {'.'.join(map(str, version[:2]))} is asked for" if node.op in _LATER else ""
        return f"TensorRT has no {node.op}{later}"
    types = _TYPES | _LATER_TYPES if version >= (10,) else _TYPES
    for value in (*node.inputs, *node.outputs):
        if value is not None and value.name and value.dtype is not None and value.dtype not in types:
            return f"{value.name} is {_type(value)}, which TensorRT does not take"
    if node.op in _SPATIAL and node.inputs[0] is not None and (node.inputs[0].rank or 4) > 5:
        return f"{node.op} has more than three spatial axes"
    return _restriction(node, version)


def _restriction(node: Node, version: tuple[int, ...]) -> str:
    """What the matrices say under "Restrictions"."""
    if node.op == "MaxPool" and len(node.outputs) > 1 and node.outputs[1].name:
        return "MaxPool gives indices"
    if node.op in ("QuantizeLinear", "DequantizeLinear"):
        point = node.input(2)
        if point is not None and point.is_const and point.numpy().any():
            return f"the zero point of {node.op} is not 0"
    if node.op in _CONSTANTS and version < (10,):
        slot, name = _CONSTANTS[node.op]
        value = node.input(slot)
        if value is not None and not value.is_const:
            return f"{name} of {node.op} is no constant"
    if node.op == "Resize":
        mode = node.attr("coordinate_transformation_mode", "half_pixel")
        if node.attr("mode", "nearest") == "cubic" or mode not in _MODES:
            return f"Resize in mode {node.attr('mode', 'nearest')}, {mode}"
    return ""


def _type(value: Value) -> str:
    from graphopt.ir import dtypes

    return dtypes.name(value.dtype or 0)
