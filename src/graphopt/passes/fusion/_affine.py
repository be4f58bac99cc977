"""Per-channel affine maps y = scale * x + shift: read off BatchNormalization and constant operands, put into weights.

Everything is computed in float64 and rounded once, to the dtype of the weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from graphopt.ir import NDArray, Node, Value
from graphopt.rewrite import Refusal, refuse

FLOATS = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE})
_TINY = np.finfo(np.float32).tiny  # below it are subnormals, and zero, which makes NaN of infinity
# Bytes that scaled copies of a weight which others read, too, may add to the file: what is saved must be worth them.
FOR_AN_OPERATOR, FOR_A_NORMALIZATION = 32 << 10, 16 << 20


@dataclass(frozen=True)
class Affine:
    """float64 arrays of shape () or [channels]; None stands for a scale of 1 and a shift of 0.

    worth: bytes that copies of a shared weight may cost.
    """

    scale: NDArray | None = None
    shift: NDArray | None = None
    worth: int = FOR_AN_OPERATOR


def of_batch_norm(bn: Node, channels: int) -> Affine | Refusal:
    """The map of a BatchNormalization in inference, whose further inputs are constant."""
    if bn.attr("training_mode", 0):
        return refuse("batch statistics are live in training mode")
    if bn.graph.opset() < 14 and any(value.name for value in bn.outputs[1:]):
        return refuse("BatchNormalization with more than one output is in training mode before opset 14")
    arrays = [value.numpy() for value in bn.inputs[1:5] if value is not None]
    if any(array.shape != (channels,) for array in arrays):
        return refuse("the statistics of BatchNormalization are not one number per channel")
    gamma, beta, mean, variance = (array.astype(np.float64) for array in arrays)
    with np.errstate(all="ignore"):
        scale = gamma / np.sqrt(variance + bn.attr("epsilon"))
        shift = beta - mean * scale
    if not (np.isfinite(scale).all() and np.isfinite(shift).all()):
        return refuse("variance plus epsilon is not positive, or a statistic is not finite, in some channel")
    return Affine(scale, shift, FOR_A_NORMALIZATION)


def of_constant(node: Node, constant: Value, axis: int, channels: int, rank: int | None) -> Affine | Refusal:
    """The map that Add, Sub, Mul or Div with a constant is, for an operand x of this rank (None: not known).

    axis: where x has its channels, counted from the end (-1 is the last). The constant must neither vary along another
    axis nor have more dims than x. `constant - x` is a map, too; `constant / x` is none.
    """
    if all(value is None or value.is_const for value in node.inputs):  # c - c is 0, but c W - c W may be a rounding
        return refuse("both operands are constant, a matter of constant folding")
    array = constant.numpy()
    values = along(array, axis, channels, rank)
    if values is None:
        return refuse(f"a constant of shape {list(array.shape)} is not one number, or one number per channel")
    if not np.isfinite(values).all():
        return refuse("the constant is not finite")
    if node.op == "Add":
        return Affine(shift=values)
    if node.op == "Sub":
        return Affine(np.asarray(-1.0), values) if node.inputs[0] is constant else Affine(shift=-values)
    if node.op == "Div":
        with np.errstate(all="ignore"):
            values = 1.0 / values
        if not np.isfinite(values).all():
            return refuse("the constant divisor is zero in some channel")
    return Affine(scale=values)


def along(array: NDArray, axis: int, channels: int, rank: int | None) -> NDArray | None:
    """A constant as float64 of shape () or [channels], if it varies along that axis only; None otherwise."""
    if array.ndim > max(1, 1 if rank is None else rank) or array.size not in (1, channels):
        return None
    if array.size != 1 and (array.ndim < -axis or array.shape[axis] != channels):
        return None
    return array.reshape(() if array.size == 1 else -1).astype(np.float64)


def keeps_shape(constant: Value, x: Value, axis: int, channels: int) -> bool:
    """Whether an operator between the constant and x has x's shape, so that x can take the place of the result."""
    array = constant.numpy()
    if array.ndim == 0:
        return True
    shape = x.shape
    if shape is None or len(shape) < array.ndim or not array.size:
        return False
    return array.size == 1 or (len(shape) >= -axis and shape[axis] == channels)


def scaled(weight: Value, factor: NDArray, worth: int = FOR_AN_OPERATOR) -> NDArray | Refusal:
    """weight * factor (float64, of a shape that does not enlarge weight's), rounded once to weight's dtype."""
    array = weight.numpy()
    others = weight.outs + sum(weight.users.values()) - 1
    if others * array.nbytes > worth:
        return refuse("others read the weight, too, and scaled copies of it would make the file much larger")
    with np.errstate(all="ignore"):
        if array.dtype == np.float32:  # in blocks of numpy's own: no float64 copy of the whole
            result = np.empty(array.shape, array.dtype)
            np.multiply(array, factor, out=result, dtype=np.float64, casting="same_kind")
            peak = max(result.max(initial=0.0), -result.min(initial=0.0))
            if peak < _TINY and array.any() and np.any(factor):
                return refuse("the scaled weights would be too small for float32")
        else:
            exact = array.astype(np.float64) * factor
            result = exact.astype(array.dtype)
            if array.dtype == np.float16 and _vanishes(exact, result):
                return refuse("the scaled weights would be too small for float16")
    if not np.isfinite(result).all():
        return refuse("the scaled weights overflow their dtype, or are not finite")
    return result


def _vanishes(exact: NDArray, rounded: NDArray) -> bool:
    """Whether the largest weight has fallen among float16's subnormals, which have few digits."""
    largest = np.abs(exact).max(initial=0.0)
    return bool(0 < largest < 6.2e-5) and bool((rounded != exact).any())


def rounded(values: NDArray, like: Value) -> NDArray | Refusal:
    """float64 values in the dtype of another constant."""
    with np.errstate(all="ignore"):
        result: NDArray = np.asarray(values).astype(like.numpy().dtype)
    if not np.isfinite(result).all():
        return refuse("the bias overflows its dtype, or is not finite")
    return result


def cancels(shift: NDArray, like: Value) -> bool:
    """Whether a shift moved behind a product is so large that subtracting it there would eat the result's digits."""
    digits: dict[int, float] = {TensorProto.DOUBLE: 1e-15, TensorProto.FLOAT: 1e-7, TensorProto.FLOAT16: 1e-3}
    return bool(np.abs(shift).max(initial=0.0) * digits.get(like.dtype or 0, 1e-2) > 1e-3)
