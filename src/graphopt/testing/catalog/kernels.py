"""The element types that kernels of ONNX Runtime's CPU provider take, by operator and opset: found by trying (1.31).

tests/testing/kernels.py makes the table anew. What is not in it is run by `onnx.reference` instead.
"""

from __future__ import annotations

import functools

from onnx import TensorProto

# The simplest first: choices shrink to it.
_LETTERS = {
    "f": "FLOAT", "l": "INT64", "i": "INT32", "?": "BOOL", "d": "DOUBLE", "e": "FLOAT16", "B": "UINT8", "b": "INT8",
    "g": "BFLOAT16", "I": "UINT32", "L": "UINT64", "h": "INT16", "H": "UINT16", "S": "STRING", "w": "FLOAT8E4M3FN",
    "y": "FLOAT8E5M2", "x": "FLOAT8E4M3FNUZ", "z": "FLOAT8E5M2FNUZ", "j": "INT4", "J": "UINT4", "k": "FLOAT4E2M1",
    "o": "INT2", "O": "UINT2",
}  # fmt: skip
LETTERS = {letter: number for letter, name in _LETTERS.items() if (number := getattr(TensorProto, name, 0))}
TYPES = list(LETTERS.values())

# Operator, then "opset from which on:types" for the first input that has a choice of types; none: there is no kernel.
_TABLE = """
Abs 7:flideBbILhH
Acos 7:fe
Acosh 9:fe
Add 7:flideIL 14:flideBbILhH
AffineGrid 20:fd 21:fde
ArgMax 7:flideBb
ArgMin 7:flideBb
Asin 7:fe
Asinh 9:fe
Atan 7:fe
Atanh 9:fe
Attention 23:fde
AveragePool 7:fe
BatchNormalization 7:fde
BitCast 26:flidI
BitShift 11:BIL
BitwiseAnd 18:liBbILhH
BitwiseNot 18:liBbILhH
BitwiseOr 18:liBbILhH
BitwiseXor 18:liBbILhH
BlackmanWindow 17:li
Cast 7:fli?deBbILhH 13:fli?deBbgILhH 19:fli?deBbgILhHwyxz
CastLike 15:fli?deBbgILhH 19:fli?deBbgILhHwyxz
Ceil 7:fde
CenterCropPad 18:fli?deBbIL
Clip 7:fe 12:flideBbIL
Col2Im 18:fe
Compress 9:fli?deBbILhHS
Concat 7:fli?deBbILhHS 13:fli?deBbgILhHS
Conv 7:fe
ConvInteger 10:B
ConvTranspose 7:fe
Cos 7:fde
Cosh 9:fe
CumProd 26:flideIL
CumSum 11:flid 14:flide
DeformConv 19:fde
DepthToSpace 7:fde 11:fdeBb
DequantizeLinear 10:iBb 19:iBbwyxz 21:iBbhHwyxzjJ 25:iBbhHwyxzjJoO
Det 11:fe
Div 7:flideIL 14:flideBbILhH
Dropout 7:fde
Einsum 12:flide
Elu 7:fe 18:fde 19:fe
Equal 7:li? 11:fli?deBbILhH 19:fli?deBbILhHS
Erf 9:fe
Exp 7:fde
Expand 8:fli?deBbILhHS
EyeLike 9:flideL
Flatten 7:fde 9:fli?deBbILhHS 13:fli?deBbgILhHS
Floor 7:fde
GRU 7:f
Gather 7:fli?deBbILhHS 13:fli?deBbgILhHS
GatherElements 11:fli?deBbILhHS 13:fli?deBbgILhHS
GatherND 11:fli?deBbILhHS 13:fli?deBbgILhHS
Gelu 20:fe
Gemm 7:fde
GlobalAveragePool 7:fe
GlobalLpPool 7:fe
GlobalMaxPool 7:fe
Greater 7:fde 9:flideBbILhH
GreaterOrEqual 12:flideBbILhH
GridSample 16:fe
GroupNormalization 21:fde
HammingWindow 17:li
HannWindow 17:li
HardSigmoid 7:fe 18:fde 19:fe
HardSwish 14:fe 18:fde 19:fe
Hardmax 7:fe
Identity 7:fli?deBbILhHS 13:fli?deBbgILhHS 19:fli?deBbgILhHSwyxz
InstanceNormalization 7:fe
IsInf 10:fd 20:fdegwyxz
IsNaN 9:fde 20:fdegwyxz
LRN 7:fe
LSTM 7:f
LayerNormalization 17:fdeg
LeakyRelu 7:fe 16:fde 19:fe
Less 7:fde 9:flideBbILhH
LessOrEqual 12:flideBbILhH
Log 7:fde
LogSoftmax 7:fde
LpNormalization 7:fde
LpPool 7:fe
MatMul 7:fde 9:flide
MatMulInteger 10:Bb
Max 7:fe 8:fde 12:flideBbIL
MaxPool 7:fe 8:fde 12:fdeBb
MaxRoiPool 7:fe
MaxUnpool 9:f
Mean 7:fe
MeanVarianceNormalization 9:f
MelWeightMatrix 17:li
Min 7:fe 8:fde 12:flideBbIL
Mish 18:fde 19:fe
Mod 10:flideBbILhH
Mul 7:flideIL 14:flideBbILhH
Neg 7:flidebh
NegativeLogLikelihoodLoss 12:fde
NonZero 9:fli?eB
OneHot 9:fli
PRelu 7:fe 16:flideI 19:fe
Pad 7:fde 11:flideBbIL 13:fli?deBbIL
Pow 7:fde 12:flid
QLinearConv 10:B
QLinearMatMul 10:B
QuantizeLinear 10:f 19:fe
RMSNormalization 23:fde
RNN 7:f
Range 11:flidh
Reciprocal 7:fde
ReduceL1 7:flide
ReduceL2 7:flide
ReduceLogSum 7:fde
ReduceLogSumExp 7:fde 18:fdeg 19:fde
ReduceMax 7:flide 12:flideBb 20:fli?deBb
ReduceMean 7:flide
ReduceMin 7:flide 12:flideBb 20:fli?deBb
ReduceProd 7:flide
ReduceSum 7:flide
ReduceSumSquare 7:flide
Relu 7:fde 14:fideb 18:flideb 19:fideb
Reshape 7:fli?deBbILhHS 13:fli?deBbgILhHS 21:fli?deBbgILhHSwyxz
Resize 10:fieBb
ReverseSequence 10:fli?deBbILhHS
RoiAlign 10:fde 22:
RotaryEmbedding 23:fe
Round 11:fde
Scatter 9:fli?deBbILhHS
ScatterElements 11:fli?deBbILhHS 13:fli?deBbgILhHS 16:fli?dBbILhHS
ScatterND 11:fli?deBbILhHS 13:fli?deBbgILhHS 16:fli?dBbILhHS
Selu 7:fe 18:fde 19:fe
Shape 7:fli?deBbILhHS 13:fli?deBbgILhHS 21:fli?deBbgILhHSwyxz
Shrink 9:flideBbILhH
Sigmoid 7:fde
Sign 9:flideBbILhH 13:flideBbgILhH
Sin 7:fde
Sinh 9:fe
Size 7:fli?deBbILhHS
Slice 7:fli?deBbILhHS 13:fli?deBbgILhHS
Softmax 7:fde
SoftmaxCrossEntropyLoss 12:fde
Softplus 7:fe 18:fde 19:fe
Softsign 7:fe 18:fde 19:fe
SpaceToDepth 7:fdeBb
Split 7:fli?deBbILhHS 13:fli?deBbgILhHS
SplitToSequence 11:fli
Sqrt 7:fde
Squeeze 7:fli?deBbILhHS 13:fli?deBbgILhHS
Sub 7:flideIL 14:flideBbILhH
Sum 7:fde
Swish 24:fde 25:
Tan 7:fe
Tanh 7:fde
TensorScatter 24:fli?deBbgILhH
TfIdfVectorizer 9:li
ThresholdedRelu 10:fe 18:fde 19:fe
Tile 7:fli?deBbILhHS
TopK 7:fde 11:flideBbh
Transpose 7:fli?deBbILhHS 13:fli?deBbgILhHS 21:fli?deBbgILhHSwyxzjJ 25:fli?deBbgILhHSwyxzjJoO
Trilu 14:fli?de
Unique 11:fldebS
Unsqueeze 7:fli?deBbILhHS 13:fli?deBbgILhHS
Upsample 7:fieBb
Where 9:flideBbIS
"""


@functools.cache
def kernels(op: str, opset: int) -> frozenset[int]:
    """The element types that an operator's data can have; all of them where nothing is known."""
    found = frozenset(TYPES)
    for entry in _rows().get(op, ()):
        since, _, letters = entry.partition(":")
        if int(since) <= opset:
            found = frozenset(LETTERS[letter] for letter in letters or "flid?" if letter in LETTERS)
    return found


@functools.cache
def _rows() -> dict[str, list[str]]:
    return {op: entries for op, *entries in (line.split() for line in _TABLE.strip().splitlines())}
