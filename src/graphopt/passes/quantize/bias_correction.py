"""Bias correction:   b + (W - Wq) E[x]

Rounding the weights to Wq moves what a channel computes by (Wq - W) x, whose mean over the data is no noise: it is made
up for in the bias (Nagel, van Baalen, Blankevoort, Welling, ICCV 2019, arXiv:1906.04721, section 4.2). E[x] for each
input channel comes from calibration. What is left of the error is its variance alone, so that the squared error of a
layer's output never grows on the calibration data.

At the border of a padded Conv some of the kernel reads zeros, whose mean is 0. Where the sizes are known, each tap
counts for the part of the positions at which it reads data; where they are not, for all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from graphopt.analysis.ranges import Ranges, TensorRange
from graphopt.analysis.shapes import ensure_types
from graphopt.ir import Model, NDArray, Node, Value
from graphopt.passes.base import Pass
from graphopt.passes.quantize._grid import grid_of
from graphopt.passes.quantize._layers import Layer, drop_constant, layer_of
from graphopt.passes.quantize._ranges import ranges_of
from graphopt.passes.quantize._scales import dequantize, quantize, spread, weight_scale
from graphopt.passes.quantize._select import selected
from graphopt.rewrite import Context
from graphopt.rewrite.driver import site_of
from graphopt.rewrite.sweep import is_opaque

NAME = "bias-correction"
MARK = "graphopt.bias_corrected"  # on a node: doing it again would correct what is right by then


@dataclass(frozen=True)
class BiasCorrection(Pass):
    """Puts the mean error of quantized weights into the biases of Conv, Gemm and MatMul with an Add.

    ranges: a file's path, or Ranges, with means of channels. dtype, per_channel: how the weights will be quantized, the
    same as of insert-qdq, which runs after this pass. Weights with QuantizeLinear and DequantizeLinear in front are
    taken as these make them. only, keep_float: patterns of labels.
    """

    name = NAME
    lossy: ClassVar[bool] = True
    needs_ranges = True
    ranges: Any = ""
    dtype: str = "int8"
    per_channel: bool = True
    only: str = "*"
    keep_float: str = ""

    def run(self, model: Model, ctx: Context) -> None:
        """Corrects layer by layer; the ranges are those of the model as it was, so that the order does not matter."""
        ensure_types(model)
        ranges = ranges_of(self.ranges)
        for graph in list(model.scopes(functions=False)):
            if is_opaque(graph):
                continue
            for node in graph.nodes:
                if selected(node, self.only, self.keep_float):
                    self._correct(node, ranges, ctx)

    def _correct(self, node: Node, ranges: Ranges, ctx: Context) -> None:
        error = None if _is_corrected(node) else self._error(node)
        if error is None:
            return
        layer, delta = error
        mean = mean_of(layer, ranges)
        if isinstance(mean, str):
            ctx.refuse(NAME, mean, node)
            return
        place = _bias_of(layer)
        if isinstance(place, str):
            ctx.refuse(NAME, place, node)
            return
        shift = _mean_output(layer, delta, mean)
        owner, slot = place
        old = owner.input(slot)
        before = np.zeros(layer.outs) if old is None else old.numpy().astype(np.float64)
        after = (before + shift).astype(np.float32)
        if not np.isfinite(after).all() or np.array_equal(after, before.astype(np.float32)):
            ctx.refuse(NAME, "its weights lose nothing on average", node)
        elif not _is_corrected(owner) and ctx.allow(NAME, site_of(owner)):
            _set_bias(owner, slot, after, f"{node.label}_bias")
            ctx.record(NAME, [owner.label], [owner.label], node.graph)

    def _error(self, node: Node) -> tuple[Layer, NDArray] | None:
        """A layer, and how much its weights lose: W - Wq."""
        layer = layer_of(node)
        if layer is not None and node.op != "ConvTranspose":
            scale = weight_scale(layer.weight.numpy(), layer.weight_axis if self.per_channel else None, self.dtype)
            axis = layer.weight_axis
            codes = quantize(layer.weight.numpy(), scale, axis)
            return layer, layer.weight.numpy().astype(np.float64) - dequantize(codes, scale, axis)
        return _quantized_layer(node)


def _quantized_layer(node: Node) -> tuple[Layer, NDArray] | None:
    """A layer whose float weights go through a Q and a DQ, and what these lose."""
    back = node.inputs[1].producer if len(node.inputs) > 1 and node.inputs[1] is not None else None
    there = back.inputs[0].producer if back is not None and back.inputs and back.inputs[0] is not None else None
    if back is None or there is None or there.op != "QuantizeLinear" or node.op not in ("Conv", "Gemm", "MatMul"):
        return None
    grid, again, weight = grid_of(there), grid_of(back), there.inputs[0]
    if grid is None or again is None or not grid.same(again) or weight is None or not weight.is_const:
        return None
    array = weight.numpy()
    if array.ndim < 2 or (node.op != "Conv" and array.ndim != 2) or (node.op == "Gemm" and node.attr("transA", 0)):
        return None
    scale, zero = (spread(part, grid.axis, array.ndim) for part in (grid.scale, grid.zero))
    codes = np.clip(np.round(array / scale).astype(np.float64) + zero, *grid.codes)
    out_first = node.op == "Conv" or (node.op == "Gemm" and bool(node.attr("transB", 0)))
    group = int(node.attr("group")) if node.op == "Conv" else 1
    return Layer(node, weight, group, out_first), array - (codes - zero) * scale.astype(np.float64)


def mean_of(layer: Layer, ranges: Ranges) -> NDArray | str:
    """E[x] of each input channel of a layer, or why it is not known. Through Q and DQ it is that of what they read."""
    value: Value | None = layer.x
    known: TensorRange | None = ranges.get(layer.x.name)
    while known is None and value is not None and value.producer is not None:
        if value.producer.op not in ("QuantizeLinear", "DequantizeLinear"):
            break
        value = value.producer.inputs[0]
        known = ranges.get(value.name) if value is not None else None
    if known is None:
        return "there is no range of what it reads"
    if known.channel_mean is None or known.channel_axis is None:
        return "the range of what it reads has no means of channels: calibrate per channel"
    axis, rank = known.channel_axis, layer.x.rank
    wanted = layer.channel_axis
    if axis != wanted and (rank is None or axis % rank != wanted % rank):
        return "the range of what it reads is by another axis"
    return known.channel_mean if known.channel_mean.size == layer.ins else "the range has another number of channels"


def _mean_output(layer: Layer, delta: NDArray, mean: NDArray) -> NDArray:
    """What weights of `delta` give on average: a number for each output channel."""
    flows = delta * _coverage(layer) * layer.along_in(mean)
    axes = tuple(axis for axis in range(delta.ndim) if axis != (0 if layer.out_first else 1))
    total: NDArray = flows.sum(axis=axes)
    return total * (float(layer.node.attr("alpha", 1.0)) if layer.node.op == "Gemm" else 1.0)


def _coverage(layer: Layer) -> NDArray:
    """For each tap of a Conv's kernel, at which part of the output's positions it reads data, not padding."""
    node, kernel = layer.node, layer.weight.numpy().shape[2:]
    pads = node.attr("pads", None) or [0] * (2 * len(kernel))
    sizes = (layer.x.shape or ())[2:]
    if node.op != "Conv" or not any(pads) or len(sizes) != len(kernel):
        return np.ones(1)
    part: NDArray = np.ones(1)
    steps, spaces = (node.attr(name, None) or [1] * len(kernel) for name in ("strides", "dilations"))
    for axis, (size, taps) in enumerate(zip(sizes, kernel, strict=True)):
        if not isinstance(size, int):
            return np.ones(1)
        reach = spaces[axis] * (taps - 1)
        positions = np.arange(0, size + pads[axis] + pads[axis + len(kernel)] - reach, steps[axis]) - pads[axis]
        places = positions + spaces[axis] * np.arange(taps)[:, None]
        inside = ((places >= 0) & (places < size)).mean(axis=1) if positions.size else np.ones(taps)
        part = part[..., None] * inside
    return part


def _bias_of(layer: Layer) -> tuple[Node, int] | str:
    """The node and the slot of a layer's bias, or why it has none that can be changed."""
    node = layer.node
    if node.op == "MatMul":
        reader = next(iter(node.output.users), None)
        if reader is None or reader.op != "Add" or len(node.output.users) > 1 or node.output.is_output:
            return "a MatMul without a bias"
        slot = 0 if reader.inputs[1] is node.output else 1
        bias = reader.inputs[slot]
        fits = bias is not None and bias.is_const and bias.numpy().shape == (layer.outs,)
        return (reader, slot) if fits else "a MatMul without a bias"
    bias = node.input(2)
    if bias is None:
        return node, 2
    if not bias.is_const or bias.numpy().shape != (layer.outs,) or (node.op == "Gemm" and node.attr("beta", 1.0) != 1):
        return "its bias is no constant for each channel"
    return node, 2


def _is_corrected(owner: Node) -> bool:
    return any(entry.key == MARK for entry in owner.proto.metadata_props)


def _set_bias(owner: Node, slot: int, bias: NDArray, hint: str) -> None:
    old = owner.input(slot)
    if slot == len(owner.inputs):
        owner.inputs.append(None)
    owner.set_input(slot, owner.graph.constant(bias, old.name if old is not None else hint))
    if old is not None:
        drop_constant(old)
    owner.proto.metadata_props.add(key=MARK, value="1")
