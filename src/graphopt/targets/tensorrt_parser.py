"""What TensorRT's ONNX parser takes, as far as it can be told without TensorRT.

From the support matrix of onnx-tensorrt (docs/operators.md, release 8.4, whose operators all later releases take, too)
and its restrictions on types. It says what will not parse; that a node is not refused here is no promise.
"""

from __future__ import annotations

from onnx import TensorProto

from graphopt.ir import Node, Value

__all__ = ["SUPPORTED", "why_not_parsed"]

SUPPORTED = frozenset(
    "Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization Cast Ceil Celu Clip "
    "Concat Constant ConstantOfShape Conv ConvTranspose Cos Cosh CumSum DepthToSpace DequantizeLinear Div Dropout "
    "Einsum Elu Equal Erf Exp Expand EyeLike Flatten Floor Gather GatherElements GatherND Gemm GlobalAveragePool "
    "GlobalLpPool GlobalMaxPool Greater GreaterOrEqual GRU HardSigmoid Identity If ImageScaler InstanceNormalization "
    "IsNaN LeakyRelu Less LessOrEqual Log LogSoftmax Loop LRN LSTM LpNormalization LpPool MatMul Max MaxPool Mean Min "
    "Mul Neg NonMaxSuppression Not Or Pad ParametricSoftplus Pow PRelu QuantizeLinear RandomUniform "
    "RandomUniformLike Range ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin "
    "ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize ReverseSequence RNN Round ScaledTanh Scan Scatter "
    "ScatterElements ScatterND Selu Shape Sigmoid Sign Sin Sinh Size Slice Softmax Softplus Softsign SpaceToDepth "
    "Split Sqrt Squeeze Sub Sum Tan Tanh ThresholdedRelu Tile TopK Transpose Unsqueeze Upsample Where Xor".split()
)
_TYPES = frozenset(
    (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT32, TensorProto.INT64, TensorProto.INT8, TensorProto.BOOL)
)
_SPATIAL = frozenset(("AveragePool", "MaxPool", "Conv", "ConvTranspose", "GlobalAveragePool", "GlobalMaxPool"))


def why_not_parsed(node: Node) -> str:
    """Why TensorRT's parser will not take a node, bodies included, or nothing.

    >>> from graphopt import ir
    >>> from onnx import parser
    >>> m = ir.from_proto(parser.parse_model('<ir_version: 8, opset_import: ["": 17]> g (float[N] x) => (int64[M, N] y)'
    ...                                      '{ y = NonZero(x) }'))
    >>> why_not_parsed(m.graph.nodes[0])
    'TensorRT has no NonZero'
    """
    pending = [node]
    while pending:
        item = pending.pop()
        pending += [inner for body in item.subgraphs for inner in body]
        reason = _reason(item)
        if reason:
            return reason if item is node else f"inside it, {reason}"
    return ""


def _reason(node: Node) -> str:
    if node.domain and (node.domain, node.op, node.proto.overload) not in node.graph.model.functions:
        return f"{node.domain}::{node.op} is no operator of ONNX"
    if not node.domain and node.op not in SUPPORTED:
        return f"TensorRT has no {node.op}"
    for value in (*node.inputs, *node.outputs):
        if value is not None and value.name and value.dtype is not None and value.dtype not in _TYPES:
            return f"{value.name} is {_type(value)}, which TensorRT does not take"
    if node.op in _SPATIAL and node.inputs[0] is not None and (node.inputs[0].rank or 4) > 5:
        return f"{node.op} has more than three spatial axes"
    if node.op == "MaxPool" and len(node.outputs) > 1 and node.outputs[1].name:
        return "MaxPool gives indices"
    return ""


def _type(value: Value) -> str:
    from graphopt.ir import dtypes

    return dtypes.name(value.dtype or 0)
