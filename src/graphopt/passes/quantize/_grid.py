"""The numbers that a QuantizeLinear rounds to, read off the graph: (q - zero) * scale for every integer q of a type."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from graphopt.ir import Graph, NDArray, Node, Value

BITS8: dict[int, tuple[int, int]] = {TensorProto.INT8: (-128, 127), TensorProto.UINT8: (0, 255)}
LIMITS: dict[int, tuple[int, int]] = {**BITS8, TensorProto.INT16: (-32768, 32767), TensorProto.UINT16: (0, 65535)}
LARGEST = float(np.finfo(np.float32).max) / (1 << 17)  # times any 16-bit code it is finite
SMALLEST = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True, eq=False)
class Grid:
    """What one Q or DQ maps to and from. scale: float32, normal numbers above 0; zero: int64; both of shape () or [C],
    for the channels of `axis` (None for one scale). dtype: the integers' type, 8 or 16 bits."""

    scale: NDArray
    zero: NDArray
    dtype: int
    axis: int | None

    @property
    def is_single(self) -> bool:
        """Whether there is one scale for the whole tensor."""
        return self.axis is None

    @property
    def codes(self) -> tuple[int, int]:
        """The least and the largest integer of the type."""
        return LIMITS[self.dtype]

    @property
    def bounds(self) -> tuple[float, float]:
        """The least and the largest real value of a single grid, in double precision."""
        low, high = self.codes
        return (low - int(self.zero)) * float(self.scale), (high - int(self.zero)) * float(self.scale)

    def same(self, other: Grid) -> bool:
        """Whether both map every integer to the same number."""
        return (
            self.dtype == other.dtype
            and self.axis == other.axis
            and np.array_equal(self.scale, other.scale)
            and np.array_equal(self.zero, other.zero)
        )


def grid_of(node: Node | None) -> Grid | None:
    """The grid of a QuantizeLinear or DequantizeLinear.

    None where it is not known, or where (q - zero) * scale could round q away: a scale that is no constant, not
    float32, zero, negative, subnormal or too large; blocks; other types than integers of 8 and 16 bits; computed in
    another precision.
    """
    if node is None or node.domain or node.op not in ("QuantizeLinear", "DequantizeLinear"):
        return None
    step, zero = node.inputs[1], node.input(2)
    if step is None or not step.is_const or step.dtype != TensorProto.FLOAT or (zero is not None and not zero.is_const):
        return None
    dtype = _integers(node, zero)
    if dtype not in LIMITS or node.attr("block_size", 0) or node.has_references:
        return None
    if node.attr("precision", 0) not in (0, TensorProto.FLOAT):
        return None
    scale = step.numpy()
    if scale.ndim > 1 or not ((scale >= SMALLEST) & (scale <= LARGEST)).all():
        return None
    codes = np.zeros(scale.shape, np.int64) if zero is None else zero.numpy().astype(np.int64)
    if scale.size == 1 and codes.size == 1:
        return Grid(scale.reshape(()), codes.reshape(()), dtype, None)
    axis = _axis(node)
    return Grid(scale, codes, dtype, axis) if axis is not None and scale.shape == codes.shape else None


def _integers(node: Node, zero: Value | None) -> int:
    """The type on the integers' side; 0 where it is not known."""
    if node.op == "DequantizeLinear":
        if node.attr("output_dtype", 0) not in (0, TensorProto.FLOAT):
            return 0
        given = node.inputs[0].dtype if node.inputs[0] is not None else None
        return given or (zero.dtype if zero is not None else None) or 0
    return (zero.dtype if zero is not None else None) or node.attr("output_dtype", 0) or TensorProto.UINT8


def _axis(node: Node) -> int | None:
    if node.graph.opset() < 13:
        return None
    axis: int = node.attr("axis", 1)
    rank = node.output.rank
    if axis >= 0:
        return axis
    return axis + rank if rank is not None else None


def place_behind(value: Value, graph: Graph) -> Node:
    """The node of a scope to insert in front of, so that every reader of a value comes after what is inserted."""
    producer = value.producer
    return producer.next if producer is not None and producer.graph is graph else next(iter(graph))
