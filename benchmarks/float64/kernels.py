"""Operators in double precision by numpy, as the ONNX specification has them: those that ONNX's reference evaluator
lacks, is slow at, or rounds to 32 bits in. What a kernel does not cover raises `Unsupported`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from float64.indexing import gather_elements, gather_nd, one_hot, pad, range_, scatter_elements, scatter_nd, stft
from float64.node import FLOATS, Array, Node, Unsupported, channels, sigmoid
from float64.quantization import dequantize, dynamic_quantize, quantize
from float64.recurrent import recurrent
from float64.resizing import resize
from float64.windows import average_pool, conv, conv_integer, conv_transpose, global_pool, max_pool


def _erf(x: Array) -> Array:
    return np.fromiter(map(math.erf, x.reshape(-1).tolist()), np.float64, x.size).reshape(x.shape)


def _softmax(node: Node, x: Array) -> Array:
    axis = node.attrs.get("axis", -1 if node.opset >= 13 else 1) % max(1, x.ndim)
    axes = (axis,) if node.opset >= 13 else tuple(range(axis, x.ndim))
    moved = x - x.max(axes, keepdims=True, initial=-np.inf)
    total = np.exp(moved).sum(axes, keepdims=True)
    return moved - np.log(total) if node.op == "LogSoftmax" else np.exp(moved) / total


def _cast(node: Node, x: Array) -> Array:
    to = node.attrs["to"]
    if to in FLOATS:
        return np.vectorize(float, otypes=[np.float64])(x) if x.dtype == object else x.astype(np.float64)
    kind = np.dtype(helper.tensor_dtype_to_np_dtype(to))
    if kind.kind not in "biu" or kind.name.endswith(("int4", "int2")) or x.dtype == object:
        raise Unsupported(f"Cast to {TensorProto.DataType.Name(to)}")
    return x.astype(kind)


def _pow(node: Node, x: Array, y: Array) -> Array:
    return np.power(x, y.astype(x.dtype) if x.dtype.kind != "f" else y).astype(x.dtype)


def _clip(node: Node, x: Array, low: Array | None = None, high: Array | None = None) -> Array:
    low = node.attrs.get("min") if low is None else low
    high = node.attrs.get("max") if high is None else high
    x = x if low is None else np.maximum(x, low).astype(x.dtype)
    return x if high is None else np.minimum(x, high).astype(x.dtype)


def _gemm(node: Node, a: Array, b: Array, c: Array | None = None) -> Array:
    a, b = (m.T if node.attrs.get(name, 0) else m for m, name in ((a, "transA"), (b, "transB")))
    product = node.attrs.get("alpha", 1.0) * (a @ b)
    return product if c is None else product + node.attrs.get("beta", 1.0) * c


def _matmul_integer(node: Node, a: Array, b: Array, za: Array | None = None, zb: Array | None = None) -> Array:
    za, zb = (np.zeros(1) if z is None else np.asarray(z, np.float64) for z in (za, zb))
    za = za.reshape(-1, 1) if za.size > 1 else za
    return ((a - za) @ (b - zb)).astype(np.int32)  # sums of less than 2^53: exact


def _normalize(x: Array, axes: tuple[int, ...], epsilon: float) -> tuple[Array, Array, Array]:
    mean = x.mean(axes, keepdims=True)
    inverse = 1 / np.sqrt(((x - mean) ** 2).mean(axes, keepdims=True) + epsilon)
    return (x - mean) * inverse, mean, inverse


def _layer_norm(node: Node, x: Array, scale: Array, bias: Array | None = None) -> Any:
    axis = node.attrs.get("axis", -1) % x.ndim
    y, mean, inverse = _normalize(x, tuple(range(axis, x.ndim)), node.attrs.get("epsilon", 1e-5))
    y = y * scale if bias is None else y * scale + bias
    return (y, mean, inverse)[: len(node.outputs)]


def _instance_norm(node: Node, x: Array, scale: Array, bias: Array) -> Array:
    y = _normalize(x, tuple(range(2, x.ndim)), node.attrs.get("epsilon", 1e-5))[0]
    return y * channels(scale, x.ndim) + channels(bias, x.ndim)


def _batch_norm(node: Node, x: Array, scale: Array, bias: Array, mean: Array, var: Array) -> Array:
    if node.attrs.get("training_mode", 0) or len([name for name in node.outputs if name]) > 1:
        raise Unsupported("BatchNormalization in training")
    scale, bias, mean, var = (channels(each, x.ndim) for each in (scale, bias, mean, var))
    return (x - mean) / np.sqrt(var + node.attrs.get("epsilon", 1e-5)) * scale + bias


def _constant(node: Node) -> Array:
    (name, value), *_ = node.attrs.items()
    if name not in ("value", "value_float", "value_floats", "value_int", "value_ints"):
        raise Unsupported(f"Constant by {name}")
    if name == "value":
        array = numpy_helper.to_array(value)
        return array.astype(np.float64) if value.data_type in FLOATS else array
    return np.asarray(value, np.float64 if "float" in name else np.int64)


def _constant_of_shape(node: Node, shape: Array) -> Array:
    value = _constant(Node("Constant", "", [], dict(node.attrs), 1)) if node.attrs else np.zeros(1)
    return np.full([int(size) for size in shape], value.reshape(-1)[0])


def _zeros_like(node: Node, x: Array) -> Array:
    return np.zeros(x.shape)  # recipes give noise the scale 0: any finite numbers will do


KERNELS: dict[str, Callable[..., Any]] = {
    "Add": lambda n, a, b: a + b,
    "Sub": lambda n, a, b: a - b,
    "Mul": lambda n, a, b: a * b,
    "MatMul": lambda n, a, b: a @ b,
    "Relu": lambda n, x: np.maximum(x, 0).astype(x.dtype),
    "LeakyRelu": lambda n, x: np.where(x < 0, n.attrs.get("alpha", 0.01) * x, x),
    "PRelu": lambda n, x, s: np.where(x < 0, s * x, x),
    "Elu": lambda n, x: np.where(x < 0, n.attrs.get("alpha", 1.0) * np.expm1(np.minimum(x, 0)), x),
    "Sigmoid": lambda n, x: sigmoid(x),
    "HardSigmoid": lambda n, x: np.clip(n.attrs.get("alpha", 0.2) * x + n.attrs.get("beta", 0.5), 0, 1),
    "HardSwish": lambda n, x: x * np.clip(x / 6 + 0.5, 0, 1),
    "Softplus": lambda n, x: np.logaddexp(x, 0),
    "Erf": lambda n, x: _erf(x),
    "Pow": _pow,
    "Clip": _clip,
    "Cast": _cast,
    "Identity": lambda n, x: x,
    "Dropout": lambda n, x, *rest: (x, np.ones(x.shape, bool))[: len(n.outputs)],
    "Softmax": _softmax,
    "LogSoftmax": _softmax,
    "Gemm": _gemm,
    "MatMulInteger": _matmul_integer,
    "LayerNormalization": _layer_norm,
    "InstanceNormalization": _instance_norm,
    "BatchNormalization": _batch_norm,
    "Conv": conv,
    "ConvInteger": conv_integer,
    "ConvTranspose": conv_transpose,
    "MaxPool": max_pool,
    "AveragePool": average_pool,
    "GlobalAveragePool": global_pool,
    "GlobalMaxPool": global_pool,
    "RNN": recurrent,
    "GRU": recurrent,
    "LSTM": recurrent,
    "Resize": resize,
    "Upsample": resize,
    "QuantizeLinear": quantize,
    "DequantizeLinear": dequantize,
    "DynamicQuantizeLinear": dynamic_quantize,
    "ScatterElements": scatter_elements,
    "ScatterND": scatter_nd,
    "Pad": pad,
    "GatherND": gather_nd,
    "GatherElements": gather_elements,
    "OneHot": one_hot,
    "Range": range_,
    "STFT": stft,
    "Constant": _constant,
    "ConstantOfShape": _constant_of_shape,
    "RandomNormalLike": _zeros_like,
}
