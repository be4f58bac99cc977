"""Signed activations as unsigned ones, which ONNX Runtime has its kernels for on x86.

DQ(Q(x, s, z as int8))   ==   DQ(Q(x, s, z + 128 as uint8));
DQ(Q(x, s, 0 as int8))   ~   DQ(Q(x, 127 s / 255, 0 as uint8))     for x >= 0

The first is exact. In the second half of the codes stood for what x never is: both sides cut x off at 127 s, and the
steps become half as large; a Relu in front of such a Q does nothing and can go.
"""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from graphopt.ir import Node, Value
from graphopt.passes.quantize._grid import SMALLEST, Grid, grid_of
from graphopt.passes.quantize.qdq_cleanup._moves import FEWER, SAME_SIZE
from graphopt.passes.quantize.qdq_cleanup.clip_quantize import cut_of
from graphopt.rewrite import Builder

KEEP = frozenset((*SAME_SIZE, *FEWER, "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "Concat"))
POSITIVE = frozenset(("Relu", "Sigmoid", "HardSigmoid", "Softmax"))


def unsigned_grid(quantize: Node) -> Grid | None:
    """The grid of uint8 for a Q to int8 of an activation; None where it stays as it is."""
    grid, value = grid_of(quantize), quantize.inputs[0]
    if grid is None or grid.dtype != TensorProto.INT8 or not grid.is_single or value is None or value.is_const:
        return None
    out = quantize.output
    for reader in out.users:
        other = grid_of(reader) if reader.op == "DequantizeLinear" else None
        if other is None or not other.same(grid) or reader.inputs[0] is not out or reader.graph is not quantize.graph:
            return None
    if out.is_output or not out.users:
        return None
    finer = np.asarray(np.float64(grid.scale) * 127 / 255, np.float32)
    if int(grid.zero) == 0 and float(finer) >= SMALLEST and is_positive(value):
        return Grid(finer, np.zeros((), np.int64), TensorProto.UINT8, None)
    return Grid(grid.scale, grid.zero + 128, TensorProto.UINT8, None)


def is_positive(value: Value) -> bool:
    """Whether a value is certainly nowhere below zero."""
    pending, seen = [value], {value}
    while pending:
        node = pending.pop().producer
        if node is None or node.domain:
            return False
        if node.op in POSITIVE:
            continue
        if node.op == "Clip":
            bounds = cut_of(node, tuple(node.inputs[1:]))
            if bounds is None or bounds[0] < 0:
                return False
            continue
        if node.op == "DequantizeLinear":
            grid = grid_of(node)
            if grid is None or not grid.is_single or grid.bounds[0] < 0:
                return False
            continue
        if node.op not in KEEP:
            return False
        sources = [v for v in (node.inputs if node.op == "Concat" else node.inputs[:1]) if v is not None]
        pending += [v for v in sources if v not in seen]
        seen.update(sources)
    return True


def rewrite(quantize: Node, grid: Grid, new: Builder) -> None:
    """Makes a Q and the DQs that read it go by another grid, one of uint8."""
    step, zero = new.constant(grid.scale, "scale"), new.constant(grid.zero.astype(np.uint8), "zero_point")
    codes = new.QuantizeLinear(quantize.inputs[0], step, zero, like=quantize, axis=None, output_dtype=None)
    for reader in list(quantize.output.users):
        back = new.DequantizeLinear(codes, step, zero, like=reader, axis=None, type_of=reader.output)
        reader.output.replace_with(back)
        reader.graph.erase(reader)
    quantize.graph.erase(quantize)
    new.settle()
