"""Writes units with Q/DQ: keeps which value is made of which integers, and one Q/DQ pair for each tensor."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from graphopt.ir import Graph, Value
from graphopt.passes.quantize._qdq_forms import Target, Unit
from graphopt.passes.quantize._scales import ONNX_TYPES, Scale, quantize, scale_between
from graphopt.passes.quantize._weights import Constants
from graphopt.rewrite import Builder


@dataclass
class Emitter:
    """The state of one scope while it is being quantized.

    scales: of every tensor that is to be quantized, by its value in the float model. dtype: of activations. weights: of
    weights. per_channel: whether weights have a scale for each output channel.
    """

    graph: Graph
    target: Target
    scales: dict[Value, Scale]
    constants: Constants
    dtype: str = "uint8"
    weights: str = "int8"
    per_channel: bool = True
    _codes: dict[Value, tuple[Value, Scale]] = field(default_factory=dict)  # by what DequantizeLinear makes of them
    _pairs: dict[Value, Value] = field(default_factory=dict)  # a float value, and the same behind Q and DQ

    def is_read(self, value: Value) -> bool:
        """Whether this value is what DequantizeLinear makes of integers."""
        return value in self._codes

    def read(self, new: Builder, value: Value) -> Value:
        """The value as an integer operator reads it: behind a DequantizeLinear."""
        if value in self._codes:
            return value
        if value.is_const:
            return self._constant(new, value)
        if value not in self._pairs:
            self._pairs[value] = self.requantized(new, value, self.scales[value], value.name, value)
        return self._pairs[value]

    def _constant(self, new: Builder, value: Value) -> Value:
        """A constant operand of Add, Mul or Concat: integers, and a DequantizeLinear."""
        array = value.numpy()
        scale = scale_between(float(array.min(initial=0)), float(array.max(initial=0)), self.dtype)
        codes = self.constants.codes(value, scale, None)
        return self.dequantized(new, codes, scale, value.name, value)

    def scale(self, value: Value) -> Scale:
        """The scale of what `read` gave."""
        return self._codes[value][1]

    def codes(self, value: Value) -> Value:
        """The integers of what `read` gave."""
        return self._codes[value][0]

    def dequantized(self, new: Builder, codes: Value, scale: Scale, hint: str, like: Value | None = None) -> Value:
        """A DequantizeLinear of these integers, known to `read`."""
        step, zero = self.constants.parameters(self.graph, scale, hint)
        value: Value = new.make("DequantizeLinear", codes, step, zero, name=f"{hint}_dq", type_of=like)
        self._codes[value] = (codes, scale)
        return value

    def requantized(self, new: Builder, value: Value, scale: Scale, hint: str, like: Value | None = None) -> Value:
        """A float value behind a Q/DQ pair of this scale."""
        step, zero = self.constants.parameters(self.graph, scale, hint)
        codes = new.make("QuantizeLinear", value, step, zero, name=f"{hint}_q")
        return self.dequantized(new, codes, scale, hint, like)

    def quantize(self, new: Builder, unit: Unit, readers_float: bool) -> None:
        """Replaces a unit; everybody reads the DequantizeLinear behind it from then on.

        readers_float: nothing reads it in integers, so that a kernel that gives floats may.
        """
        outputs = unit.outputs
        scales = [self.scales.get(value) for value in outputs]
        made = unit.form.emit(self, new, unit)
        maker = made.producer
        assert maker is not None
        if readers_float and unit.form.float_out and unit.act is None:
            outputs[0].replace_with(made)
        else:
            for old, scale in zip(outputs, scales, strict=True):
                assert scale is not None
                piece = made if len(outputs) == 1 else maker.outputs[old.index]
                old.replace_with(self._finish(new, unit, piece, scale, old))
        for node in reversed(unit.nodes):
            self.graph.erase(node)

    def _finish(self, new: Builder, unit: Unit, made: Value, scale: Scale, old: Value) -> Value:
        hint = old.name
        if unit.form.codes:
            return self.dequantized(new, self._clamp(new, unit, made, scale), scale, hint, old)
        step, zero = self.constants.parameters(self.graph, scale, hint)
        codes = new.make("QuantizeLinear", made, step, zero, name=f"{hint}_q")
        return self.dequantized(new, self._clamp(new, unit, codes, scale), scale, hint, old)

    def _clamp(self, new: Builder, unit: Unit, codes: Value, scale: Scale) -> Value:
        """The activation, in integers, unless saturation does it: codes are in order, so that Clip is exact on them."""
        low, high = unit.bounds
        half = float(scale.scale) / 2 * (1 + 1e-6)
        if float(scale.low) >= low - half and float(scale.high) <= high + half:
            return codes
        ends = [self.code(bound, scale) for bound in (low, high)]
        clipped: Value = new.make("Clip", codes, *ends, name=(unit.act or unit.root).label)
        return clipped

    def code(self, number: float, scale: Scale) -> Value | None:
        """The integer of a number, as a constant; None for an infinity."""
        if not np.isfinite(number):
            return None
        code = quantize(np.asarray(number, np.float32), scale)
        return self.constants.number(self.graph, np.asarray(code), "code", ONNX_TYPES[scale.dtype])
