"""QuantizeLinear and DequantizeLinear: scales, zero points, dtypes, and the storage that the user chose."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto

from traps.case import Feeds, case
from traps.checks import grows_at_most, keeps
from traps.make import Array, model, n, rand

MOVED = "QDQ: moving Q/DQ across an op that changes values between the two"
ZERO = "QDQ: dropping a zero point; int8 against uint8; blocked quantization"
STORAGE = "QDQ: folding DequantizeLinear of weights when the user wanted int8 storage"
WIDE = {"x": rand(2, 16, low=-9.0, high=9.0)}
STEP = {
    "s": np.float32(0.05),
    "t": np.float32(0.02),
    "zu": np.array(128, np.uint8),
    "zi": np.array(0, np.int8),
    "zl": np.array(-128, np.int8),
}


def wide() -> list[Feeds]:
    return [WIDE, {"x": rand(3, 16, seed=1, low=-3.0, high=30.0)}]


def qdq(source: str, out: str, scale: str = "s", zero: str = "zu") -> list[onnx.NodeProto]:
    """Quantize and dequantize; the quantized value is `q_<out>`."""
    return [
        n("QuantizeLinear", f"{source} {scale} {zero}", f"q_{out}"),
        n("DequantizeLinear", f"q_{out} {scale} {zero}", out),
    ]


def used(nodes: list[onnx.NodeProto], consts: dict[str, Any]) -> dict[str, Any]:
    names = {i for node in nodes for i in node.input}
    return {k: v for k, v in consts.items() if k in names}


def rows(
    nodes: list[onnx.NodeProto], outs: str = "y:float[N,16]", consts: dict[str, Any] | None = None, **kwargs: Any
) -> onnx.ModelProto:
    return model(nodes, "x:float[N,16]", outs, used(nodes, {**STEP, **(consts or {})}), **kwargs)


@case(
    "meaning/qdq", "a Q/DQ pair is no identity: it rounds and saturates", feeds=wide, checks=[keeps("QuantizeLinear")]
)
def qdq_pair_alone() -> onnx.ModelProto:
    return rows(qdq("x", "y"))


@case(
    "meaning/qdq",
    "DQ then Q with the same scale is an identity on integers",
    feeds=lambda: [{"x": np.arange(-128, 128).astype(np.int8)}],
)
def dq_q_pair() -> onnx.ModelProto:
    nodes = [
        n("DequantizeLinear", "x s zi", "d"),
        n("QuantizeLinear", "d s zi", "a"),
        n("QuantizeLinear", "d t zi", "b"),
        n("QuantizeLinear", "d s zu", "c"),
    ]
    return model(nodes, "x:int8[N]", "a:int8[N] b:int8[N] c:uint8[N]", used(nodes, STEP))


for _op, _attrs in {
    "Relu": {},
    "Clip": {},
    "Neg": {},
    "Transpose": {"perm": [1, 0]},
    "Flatten": {},
    "Abs": {},
    "Sigmoid": {},
}.items():
    for _zero in ("zu", "zl", "zi") if _op in {"Relu", "Clip"} else ("zu",):
        case("meaning/qdq", MOVED, name=f"{_op.lower()}_between_qdq_{_zero}", feeds=wide)(
            lambda op=_op, zero=_zero, attrs=_attrs: rows(
                [
                    *qdq("x", "a", zero=zero),
                    n(op, "a lo hi" if op == "Clip" else "a", "b", **attrs),
                    *qdq("b", "y", zero=zero),
                ],
                "y:float[?,?]",
                {"lo": np.float32(-1.0), "hi": np.float32(2.0)},
            )
        )


@case(
    "meaning/qdq",
    MOVED + ": Relu before a quantization to int8 with zero point -128 is inside it; with 0 it is not",
    feeds=wide,
)
def relu_before_quantization() -> onnx.ModelProto:
    nodes = [n("Relu", "x", "r"), *qdq("r", "a", zero="zl"), *qdq("r", "b", zero="zi"), *qdq("r", "c", zero="zu")]
    return rows(nodes, "a:float[N,16] b:float[N,16] c:float[N,16]")


@case("meaning/qdq", MOVED + ": two pairs of the same scale, of unlike zero points and of unlike dtypes", feeds=wide)
def qdq_pairs_in_a_row() -> onnx.ModelProto:
    nodes = [*qdq("x", "a"), *qdq("a", "b"), *qdq("b", "c", zero="zi"), *qdq("c", "y", zero="zl")]
    return rows(nodes)


@case("meaning/qdq", ZERO, feeds=lambda: [{"x": np.arange(256, dtype=np.uint8).reshape(16, 16)}])
def dequantization_with_and_without_zero_point() -> onnx.ModelProto:
    nodes = [
        n("DequantizeLinear", "x s", "a"),
        n("DequantizeLinear", "x s zu", "b"),
        n("DequantizeLinear", "x t", "c"),
        n("Sub", "a b", "y"),
    ]
    return model(nodes, "x:uint8[N,16]", "y:float[N,16] c:float[N,16]", used(nodes, STEP))


@case("meaning/qdq", ZERO + ": the zero point's dtype says what Q makes", feeds=wide)
def quantization_to_uint8_by_default() -> onnx.ModelProto:
    nodes = [
        n("QuantizeLinear", "x s", "a"),
        n("QuantizeLinear", "x s zi", "b"),
        n("Cast", "a", "c", to=TensorProto.INT32),
        n("Cast", "b", "d", to=TensorProto.INT32),
    ]
    return rows(nodes, "c:int32[N,16] d:int32[N,16] a:uint8[N,16] b:int8[N,16]")


@case(
    "meaning/qdq",
    ZERO + ": round half to even, saturation, inf",
    feeds=lambda: [
        {
            "x": np.array(
                [[0.5, 1.5, 2.5, -0.5, 1e9, -1e9, np.inf, -np.inf, 127.5, -128.5, 0.25, 3.4, 254.5, 255.5, 3e38, -0.0]],
                np.float32,
            )
        }
    ],
)
def rounding_and_saturation_of_quantization() -> onnx.ModelProto:
    nodes = [
        n("QuantizeLinear", "x one zu", "a"),
        n("QuantizeLinear", "x one zi", "b"),
        n("QuantizeLinear", "x one zl", "c"),
    ]
    return rows(nodes, "a:uint8[N,16] b:int8[N,16] c:int8[N,16]", {"one": np.float32(1)})


@case("meaning/qdq", ZERO + ": foldable all the way", feeds=lambda: [{}])
def folding_of_quantization() -> onnx.ModelProto:
    values = np.array([0.5, 1.5, 2.5, -0.5, 1e9, -1e9, np.inf, -np.inf, 127.5, -128.5], np.float32)
    nodes = [
        n("QuantizeLinear", "v one zu", "a"),
        n("QuantizeLinear", "v one zi", "b"),
        n("DequantizeLinear", "b s zi", "c"),
    ]
    return model(
        nodes, "", "a:uint8[10] b:int8[10] c:float[10]", used(nodes, {**STEP, "v": values, "one": np.float32(1)})
    )


INT8_WEIGHT = {
    "w": np.random.default_rng(0).integers(-128, 128, (64, 16)).astype(np.int8),
    "ws": rand(16, low=0.01, high=0.05),
}


@case(
    "meaning/qdq",
    STORAGE,
    feeds=lambda: [{"x": rand(2, 64)}],
    checks=[keeps("DequantizeLinear"), grows_at_most(2048)],
    tol=1e-5,
)
def int8_weight_of_an_elementwise_operator() -> onnx.ModelProto:
    nodes = [
        n("DequantizeLinear", "w ws", "f", axis=1),
        n("Transpose", "f", "g", perm=[1, 0]),
        n("Gather", "g i", "h"),
        n("Mul", "x h", "y"),
    ]
    return model(nodes, "x:float[N,64]", "y:float[N,64]", {**INT8_WEIGHT, "i": [3]}, opset=19, ir=9)


@case(
    "meaning/qdq",
    STORAGE + ": a quantized Conv",
    feeds=lambda: [{"x": rand(2, 8, 6, 6)}],
    checks=[grows_at_most(2048)],
    tol=1e-2,
)
def qdq_conv_bn_keeps_int8_weights() -> onnx.ModelProto:
    weight = np.random.default_rng(0).integers(-127, 128, (16, 8, 3, 3)).astype(np.int8)
    nodes = [
        *qdq("x", "a"), n("DequantizeLinear", "w ws wz", "f", axis=0), n("Conv", "a f b", "c"),
        n("BatchNormalization", "c g g g v", "d"), n("Relu", "d", "e"), *qdq("e", "y"),
    ]  # fmt: skip
    consts = {
        **STEP,
        "w": weight,
        "ws": rand(16, low=0.001, high=0.002),
        "wz": np.zeros(16, np.int8),
        "b": rand(16),
        "g": rand(16, low=0.5, high=1.0),
        "v": rand(16, low=0.5, high=1.0),
    }
    return model(nodes, "x:float[N,8,6,6]", "y:float[N,16,4,4]", used(nodes, consts))


@case(
    "meaning/qdq",
    STORAGE + ": a quantized bias (int32) next to it",
    feeds=lambda: [{"x": rand(2, 8)}],
    checks=[grows_at_most(2048)],
    tol=1e-2,
)
def qdq_gemm_with_int32_bias() -> onnx.ModelProto:
    nodes = [
        *qdq("x", "a"), n("DequantizeLinear", "w ws", "f"), n("DequantizeLinear", "b bs", "fb"),
        n("Gemm", "a f fb", "c", transB=1), *qdq("c", "y"),
    ]  # fmt: skip
    consts = {
        **STEP,
        "w": np.arange(-64, 64).astype(np.int8).reshape(16, 8),
        "ws": np.float32(0.01),
        "b": np.arange(16, dtype=np.int32) * 100,
        "bs": np.float32(0.0005),
    }
    return model(nodes, "x:float[N,8]", "y:float[N,16]", used(nodes, consts))


def blocked(kind: Any, axis: int, block: int, **attrs: Any) -> onnx.ModelProto:
    info = ml_dtypes.iinfo(kind)
    weight: Array = np.random.default_rng(3).integers(int(info.min), int(info.max) + 1, (8, 12)).astype(kind)
    shape = [8, 12]
    shape[axis] //= block
    consts = {"w": weight, "ws": rand(*shape, low=0.1, high=0.5), "wz": np.ones(shape).astype(kind)}
    nodes = [n("DequantizeLinear", "w ws wz", "f", axis=axis, block_size=block, **attrs), n("Mul", "x f", "y")]
    return model(nodes, "x:float[8,12]", "y:float[8,12]", consts, opset=21, ir=10)


for _kind, _axis, _block in ((np.int8, 0, 4), (np.uint8, 1, 3), (ml_dtypes.int4, 1, 4), (ml_dtypes.uint4, -2, 2)):
    case("meaning/qdq", ZERO, name=f"blocks_of_{np.dtype(_kind)}_along_{_axis}".replace("-", "minus_"), tol=1e-6)(
        lambda kind=_kind, axis=_axis, block=_block: blocked(kind, axis, block)
    )


@case("meaning/qdq", ZERO + ": per axis, moved across a Transpose", feeds=lambda: [{"x": rand(3, 16)}], tol=1e-6)
def per_axis_dequantization_before_transpose() -> onnx.ModelProto:
    nodes = [
        n("DequantizeLinear", "w ws", "f", axis=1),
        n("Transpose", "f", "g", perm=[1, 0]),
        n("DequantizeLinear", "w ws", "h"),
        n("MatMul", "x g", "y"),
        n("Sub", "f h", "z"),
    ]
    return model(nodes, "x:float[N,16]", "y:float[N,64] z:float[64,16]", INT8_WEIGHT, opset=13)


@case("meaning/qdq", "dynamic quantization: the scale belongs to the tensor as it is", feeds=wide, tol=0.0)
def dynamic_quantization_of_one_tensor_twice() -> onnx.ModelProto:
    nodes = [
        n("DynamicQuantizeLinear", "x", "a as az"), n("MatMulInteger", "a w az", "p"),
        n("DynamicQuantizeLinear", "x", "b bs bz"),
        n("MatMulInteger", "b v bz", "q"), n("Relu", "x", "r"), n("DynamicQuantizeLinear", "r", "c cs cz"),
        n("Cast", "p", "pf", to=TensorProto.FLOAT),
        n("Mul", "pf as", "y"),
    ]  # fmt: skip
    consts = {"w": np.ones((16, 4), np.int8), "v": np.full((16, 4), 3, np.uint8)}
    return model(nodes, "x:float[N,16]", "y:float[N,4] q:int32[N,4] c:uint8[N,16] cs:float[] cz:uint8[]", consts)


@case(
    "meaning/qdq",
    "float8 quantization: saturate on and off",
    feeds=lambda: [{"x": rand(2, 16, low=-900.0, high=900.0)}],
    evaluator="reference",
)
def quantization_to_float8() -> onnx.ModelProto:
    consts = {"s": np.float32(1.5), "z": np.array(0, ml_dtypes.float8_e4m3fn)}
    nodes = [
        n("QuantizeLinear", "x s z", "a"), n("DequantizeLinear", "a s z", "y"),
        n("QuantizeLinear", "x s z", "b", saturate=0), n("DequantizeLinear", "b s z", "w"),
    ]  # fmt: skip
    return model(nodes, "x:float[N,16]", "y:float[N,16] w:float[N,16]", consts, opset=19, ir=9)
