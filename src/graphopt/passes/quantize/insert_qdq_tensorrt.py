"""x w + b   ~   DQ(Q(x)) DQ(Q(w)) + b     with symmetric int8, at the inputs of what has weights, as TensorRT fuses it

`_tensorrt` says where. Lossy: x and w are rounded to their grids, the sums are not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from graphopt.analysis.shapes import ensure_types
from graphopt.errors import PassError
from graphopt.ir import Model, Node, Value
from graphopt.passes.base import Pass
from graphopt.passes.quantize._grid import place_behind
from graphopt.passes.quantize._layers import LAYERS, Layer, drop_constant
from graphopt.passes.quantize._ranges import ranges_of
from graphopt.passes.quantize._scales import INT8, Scale
from graphopt.passes.quantize._tensorrt import NAME, Plan, plan
from graphopt.passes.quantize._weights import Constants
from graphopt.rewrite import Builder, Context
from graphopt.rewrite.driver import site_of
from graphopt.rewrite.sweep import is_opaque


@dataclass(frozen=True)
class InsertQdqTensorrt(Pass):
    """Quantizes a model for TensorRT's explicit quantization.

    ranges: a file's path, or Ranges, of the model as it is now. only, keep_float: patterns of labels. per_channel: of
    weights. weights_as: "qdq", float32 weights with Q and DQ, which TensorRT folds; or "int8", a quarter of the file.
    attention: products of two activations, too (Q K^T and P V), for int8 attention kernels.

    The file runs in ONNX Runtime as well, and gives what TensorRT gives but for its own rounding. Takes opset 13;
    TensorRT 8.5 reads up to 17.
    """

    name = NAME
    lossy: ClassVar[bool] = True
    needs_ranges = True
    ranges: Any = ""
    only: str = "*"
    keep_float: str = ""
    per_channel: bool = True
    weights_as: str = "qdq"
    attention: bool = False

    def run(self, model: Model, ctx: Context) -> None:
        """Plans each scope, then writes it: layers with their inputs and weights first, then what is around them."""
        if self.weights_as not in ("qdq", "int8"):
            raise PassError(f"weights_as is 'qdq' or 'int8', not {self.weights_as!r}")
        ranges = ranges_of(self.ranges)
        ensure_types(model)
        for graph in list(model.scopes(functions=False)):
            if graph.opset() < 13:
                for node in graph:
                    if node.op in LAYERS and not node.domain:
                        ctx.refuse(NAME, "scales per channel are of opset 13: run raise-opset first", node)
            elif not is_opaque(graph):
                found = plan(graph, ranges, self.only, self.keep_float, self.attention, ctx)
                _Writer(found, self).write(ctx)


class _Writer:
    """Writes the plan of one scope. A value is quantized once, however many operators read it."""

    def __init__(self, found: Plan, options: InsertQdqTensorrt) -> None:
        self.plan, self.options = found, options
        self._constants = Constants()
        self._pairs: dict[Value, Value] = {}

    def write(self, ctx: Context) -> None:
        layers = {layer.node: layer for layer in self.plan.layers}
        slots: dict[Node, list[int]] = {}
        for node, slot in self.plan.edges:
            slots.setdefault(node, []).append(slot)
        for node, chosen in slots.items():
            if not ctx.allow(NAME, site_of(node)):
                continue
            new = Builder(node.graph, node, NAME, [node])
            for slot in chosen:
                value = node.inputs[slot]
                assert value is not None
                node.set_input(slot, self._pair(new, value))
            if node in layers:
                self._weights(new, layers[node])
            ctx.record(NAME, [node.label], [node.label, *(made.label for made in new.nodes)], node.graph)

    def _pair(self, new: Builder, value: Value) -> Value:
        """DQ(Q(value)), right behind what makes it, where all its readers are."""
        if value not in self._pairs:
            place = Builder(new.graph, place_behind(value, new.graph), NAME, [new.before])
            scale = Scale(np.asarray(self.plan.scales[value]), np.int8(0)[()], INT8)
            step, zero = self._constants.parameters(new.graph, scale, value.name)
            codes = place.QuantizeLinear(value, step, zero, name=f"{value.name}_q")
            self._pairs[value] = place.DequantizeLinear(codes, step, zero, name=f"{value.name}_dq", type_of=value)
        return self._pairs[value]

    def _weights(self, new: Builder, layer: Layer) -> None:
        node, old = layer.node, layer.node.inputs[1]
        assert old is not None
        spread = self.options.per_channel and not (node.op == "ConvTranspose" and layer.group > 1)
        axis = layer.weight_axis if spread else None
        scale = self._constants.scale_of(old, axis)
        if self.options.weights_as == "int8":
            codes = self._constants.codes(old, scale, axis)
            back = self._dequantized(new, codes, old, scale, axis)
        else:
            step, zero = self._constants.parameters(new.graph, scale, old.name)
            codes = new.QuantizeLinear(old, step, zero, name=f"{node.label}_weight_q", axis=axis)
            back = new.DequantizeLinear(codes, step, zero, name=f"{node.label}_weight_dq", axis=axis, type_of=old)
        node.set_input(1, back)
        if node.op in ("Conv", "ConvTranspose") and not node.attr("kernel_shape", None):
            node.set_attr("kernel_shape", list(old.numpy().shape[2:]))
        drop_constant(old)

    def _dequantized(self, new: Builder, codes: Value, old: Value, scale: Scale, axis: int | None) -> Value:
        step, zero = self._constants.parameters(new.graph, scale, old.name)
        out: Value = new.DequantizeLinear(codes, step, zero, name=f"{old.name}_dq", axis=axis)
        return out
