"""Quantized constants: made once each, however many operators read them, beside the float ones (never in their place).

A float weight that something else still reads stays; one that nothing reads any more is swept at the end.
"""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np

from graphopt.ir import Graph, NDArray, Node, Value
from graphopt.passes.quantize._scales import INT8, ONNX_TYPES, Scale, bias_codes, quantize, weight_scale
from graphopt.rewrite import Builder


class Constants:
    """The quantized constants of a run, by what they were made of.

    The values belong to the scope of the float constant (weights) or of the first reader (scales, biases).
    """

    def __init__(self) -> None:
        self._made: dict[Hashable, Value] = {}
        self._scales: dict[Hashable, Scale] = {}

    def scale_of(self, weight: Value, axis: int | None, dtype: str = INT8) -> Scale:
        """The scale of a weight, symmetric, per channel of `axis` or for all of it."""
        key = (weight, axis, dtype)
        if key not in self._scales:
            self._scales[key] = weight_scale(weight.numpy(), axis, dtype)
        return self._scales[key]

    def codes(self, weight: Value, scale: Scale, axis: int | None) -> Value:
        """The integers of a constant (float weights of any dtype), as a constant of the scope it is in."""
        key = ("codes", weight, axis, scale.dtype, scale.scale.tobytes(), scale.zero.tobytes())
        if key not in self._made:
            array = quantize(weight.numpy(), scale, axis)
            hint = f"{weight.name}_quantized"
            self._made[key] = weight.graph.constant(array, hint, ONNX_TYPES[scale.dtype])
        return self._made[key]

    def number(self, graph: Graph, array: NDArray, hint: str, dtype: int | None = None) -> Value:
        """A constant of this content in this scope; the same content, the same constant (scales, zero points)."""
        array = np.asarray(array)
        key = ("number", graph, array.dtype.str, array.shape, array.tobytes(), dtype)
        if key not in self._made:
            self._made[key] = graph.constant(array, hint, dtype)
        return self._made[key]

    def parameters(self, graph: Graph, scale: Scale, hint: str) -> tuple[Value, Value]:
        """Scale and zero point as constants."""
        return (
            self.number(graph, scale.scale, f"{hint}_scale"),
            self.number(graph, scale.zero, f"{hint}_zero_point", ONNX_TYPES[scale.dtype]),
        )

    def dequantized(self, new: Builder, weight: Value, scale: Scale, axis: int | None, like: Node) -> Value:
        """Integers and the DequantizeLinear that reads them; its output has the shape of the weight and is float32."""
        codes = self.codes(weight, scale, axis)
        step, zero = self.parameters(like.graph, scale, weight.name)
        given = axis if scale.scale.ndim else None
        out: Value = new.make("DequantizeLinear", codes, step, zero, name=f"{like.label}_dq", axis=given)
        return out

    def dequantized_bias(self, new: Builder, bias: Value, scale: NDArray, like: Node) -> Value:
        """A bias as int32 codes (of shape [C], scale activation * weight) and its DequantizeLinear, float32."""
        key = ("bias", bias, scale.tobytes())
        if key not in self._made:
            self._made[key] = bias.graph.constant(bias_codes(bias.numpy(), scale), f"{bias.name}_quantized")
        step = self.number(like.graph, scale, f"{bias.name}_scale")
        given = 0 if scale.ndim else None
        out: Value = new.make("DequantizeLinear", self._made[key], step, name=f"{like.label}_bias_dq", axis=given)
        return out
