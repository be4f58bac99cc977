"""Gather(table, i)   ~   Cast(Gather(codes, i)) * Gather(scale, i)          a scale for each row, in int8

or, for ONNX Runtime, GatherBlockQuantized, of 4 or 8 bits in blocks. Only the rows that are looked up are computed.

Guards: a constant matrix of float32 or float16, finite, with rows of 16 numbers or more, looked up along its first
axis; for GatherBlockQuantized, no odd number of 4-bit zero points in a row, which ONNX Runtime 1.23 reads from
the wrong half of a byte from the second row on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto

from graphopt.ir import Model, Node, Value
from graphopt.passes.quantize import _awq
from graphopt.passes.quantize._blocks import Blocks, pack_bits
from graphopt.passes.quantize._products import FLOATS
from graphopt.passes.quantize._rtn import Grid, quantize_matrix
from graphopt.passes.quantize._select import selected
from graphopt.rewrite import Context
from graphopt.rewrite.builder import Builder
from graphopt.rewrite.driver import site_of
from graphopt.rewrite.sweep import is_opaque

if TYPE_CHECKING:
    from graphopt.passes.quantize.quantize_weights import QuantizeWeights

RULE = "quantize-tables"
SHORT = 16  # numbers in a row, below which its scale takes what its codes save


def quantize_tables(model: Model, ctx: Context, options: QuantizeWeights) -> None:
    """Quantizes the tables of all Gather nodes chosen, each once."""
    made: dict[Value, list[Value]] = {}
    for graph in model.scopes():
        if is_opaque(graph):
            continue
        for node in graph.nodes:
            if node.op != "Gather" or node.domain or not selected(node, options.only, options.keep_float):
                continue
            table = node.inputs[0]
            if table is None or not table.is_const or table.rank != 2 or table.dtype not in FLOATS:
                continue
            why = _why_not(node, table, options, ctx.target)
            if why:
                ctx.refuse(RULE, why, node)
            elif ctx.allow(RULE, site_of(node)):
                if table not in made:
                    made[table] = _constants(table, options)
                _rewrite(node, made[table], options, ctx)
                _awq.drop(table)


def _why_not(node: Node, table: Value, options: QuantizeWeights, target: str) -> str:
    rows, columns = table.numpy().shape
    if rows * columns < max(1, options.least):
        return f"the table has {rows * columns} numbers, too few to pay"
    if columns < SHORT:
        return f"its rows have {columns} numbers, too few for a scale"
    if node.has_references or node.attr("axis", 0) not in (0, -2):
        return "it is looked up along its columns"
    if options.format == "matmulnbits":
        if target != "onnxruntime":
            return "GatherBlockQuantized is ONNX Runtime's own operator: target onnxruntime, or format=dequantize"
        if node.graph.in_function:
            return "it is in a function, which may not import com.microsoft: run inline-functions first"
        if columns % (8 // options.bits):
            return "its rows are no whole number of bytes"
        if options.bits == 4 and not options.symmetric and -(-columns // options.block_size) % 2:
            return "an odd number of zero points in a row, which ONNX Runtime 1.23 reads wrong: symmetric=True has none"
    if not np.isfinite(table.numpy()).all():
        return "the table holds infinities or NaN"
    return ""


def _constants(table: Value, options: QuantizeWeights) -> list[Value]:
    """Codes, scales and zero points in the scope of the table."""
    by_column = table.numpy().T
    graph, name = table.graph, table.name
    if options.format == "matmulnbits":
        found = quantize_matrix(by_column, Grid(options.bits, options.block_size, options.symmetric, options.search))
        parts = [pack_bits(np.ascontiguousarray(found.codes.T), options.bits), np.ascontiguousarray(found.scale.T)]
        if not options.symmetric:
            parts.append(pack_bits(np.ascontiguousarray(found.zero.T), options.bits))
    else:
        found = quantize_matrix(by_column, Grid(8, by_column.shape[0], True, options.search, True))
        parts = [_signed(found), np.ascontiguousarray(found.scale.T)]
    return [graph.constant(p, f"{name}_{h}") for p, h in zip(parts, ("codes", "scale", "zero_point"), strict=False)]


def _signed(found: Blocks) -> np.ndarray:
    return np.ascontiguousarray(found.codes.T - np.uint8(128)).view(np.int8)


def _rewrite(node: Node, parts: list[Value], options: QuantizeWeights, ctx: Context) -> None:
    new = Builder(node.graph, node, RULE, [node])
    index, label, graph = node.inputs[1], node.label, node.graph
    if options.format == "matmulnbits":
        graph.model.require_opset("com.microsoft", 1)
        value = new.make(
            "GatherBlockQuantized",
            parts[0],
            index,
            *parts[1:],
            domain="com.microsoft",
            name=label,
            type_of=node.output,
            bits=options.bits,
            block_size=options.block_size,
            gather_axis=0,
            quantize_axis=1,
        )
    else:
        kind = parts[1].dtype or TensorProto.FLOAT
        row = new.Cast(new.Gather(parts[0], index, name=label, axis=0), to=kind, name=f"{label}_cast")
        value = new.Mul(row, new.Gather(parts[1], index, name=f"{label}_scale", axis=0), type_of=node.output)
    node.output.replace_with(value)
    graph.erase(node)
    new.settle()
    ctx.record(RULE, [label], [made.label for made in new.nodes], graph)
