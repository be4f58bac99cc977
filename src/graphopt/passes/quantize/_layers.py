"""Operators that are linear in their input, with constant weights: which axis of the weights is which channel.

Layouts (ONNX operator specification): Conv [out, in / group, ...], ConvTranspose [in, out / group, ...], where the
channels of each group, on the side that is not divided, lie together; Gemm and MatMul [in, out], or [out, in] with
transB.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from graphopt.ir import NDArray, Node, Value
from graphopt.rewrite.sweep import sweep

LAYERS = frozenset(("Conv", "ConvTranspose", "Gemm", "MatMul"))


@dataclass(frozen=True, eq=False)
class Layer:
    """A Conv, ConvTranspose, Gemm or MatMul whose weights are a float32 constant of rank 2 and more."""

    node: Node
    weight: Value
    group: int
    out_first: bool

    @property
    def x(self) -> Value:
        """What it is applied to."""
        value = self.node.inputs[0]
        assert value is not None
        return value

    @property
    def bias(self) -> Value | None:
        """Its third operand."""
        return self.node.input(2)

    @property
    def channel_axis(self) -> int:
        """The axis of its input and of its output that the channels are on: 1, or -1."""
        return 1 if self.node.op in ("Conv", "ConvTranspose") else -1

    @property
    def weight_axis(self) -> int:
        """The axis of the weights for one scale per output channel (of a ConvTranspose with groups: per place in
        the group)."""
        return 0 if self.out_first else 1

    @property
    def outs(self) -> int:
        """Output channels."""
        return self._channels(self.out_first)

    @property
    def ins(self) -> int:
        """Input channels."""
        return self._channels(not self.out_first)

    def _channels(self, first: bool) -> int:
        shape = self.weight.numpy().shape
        return int(shape[0] if first else shape[1] * self.group)

    def along_out(self, numbers: NDArray) -> NDArray:
        """One number an output channel, as a factor of the weights."""
        return self._along(numbers, self.out_first)

    def along_in(self, numbers: NDArray) -> NDArray:
        """One number an input channel, as a factor of the weights."""
        return self._along(numbers, not self.out_first)

    def _along(self, numbers: NDArray, first: bool) -> NDArray:
        shape = self.weight.numpy().shape
        if first:
            return numbers.reshape(-1, *[1] * (len(shape) - 1))
        rows = np.repeat(numbers.reshape(self.group, shape[1]), shape[0] // self.group, axis=0)
        return rows.reshape(*shape[:2], *[1] * (len(shape) - 2))

    def largest_out(self, magnitudes: NDArray) -> NDArray:
        """The largest of these (shaped as the weights) for each output channel."""
        return self._largest(magnitudes, self.out_first)

    def largest_in(self, magnitudes: NDArray) -> NDArray:
        """The largest of these (shaped as the weights) for each input channel."""
        return self._largest(magnitudes, not self.out_first)

    def _largest(self, magnitudes: NDArray, first: bool) -> NDArray:
        rows, columns = magnitudes.shape[:2]
        flat = magnitudes.reshape(self.group, rows // self.group, columns, -1)
        return flat.max(axis=(2, 3) if first else (1, 3), initial=0.0).reshape(-1)


def layer_of(node: Node) -> Layer | None:
    """A node as a layer; None where it is none, or its weights are not float32 constants of a shape that fits."""
    if node.domain or node.op not in LAYERS or node.has_references or len(node.inputs) < 2 or node.inputs[0] is None:
        return None
    weight = node.inputs[1]
    if weight is None or not weight.is_const or weight.dtype != TensorProto.FLOAT:
        return None
    shape, group = weight.numpy().shape, 1
    if node.op in ("Conv", "ConvTranspose"):
        group = int(node.attr("group"))
        if len(shape) < 3 or group < 1 or shape[0] % group:
            return None
    elif len(shape) != 2 or (node.op == "Gemm" and node.attr("transA", 0)):
        return None
    if not all(shape):
        return None
    return Layer(node, weight, group, node.op == "Conv" or (node.op == "Gemm" and bool(node.attr("transB", 0))))


def drop_constant(value: Value) -> None:
    """Forgets a constant that nothing reads any more."""
    if value.users or value.outs or value.is_input:
        return
    if value.producer is not None:
        sweep(value.producer)
    elif value.tensor is not None:
        value.graph.erase_initializer(value)
