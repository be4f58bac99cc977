"""Q and DQ that a model lacks, so that a runtime computes what lies between them in integers.

Models trained with quantization, or made for TensorRT, have them at the inputs of layers only. Everything here goes by
the scales that are in the model; no calibration is needed:

* int8 activations become uint8, on a finer grid where they are never negative (see `_unsigned`)
* `b` of a layer on integers   ~   DQ(round(b / (sx sw)))        an int32 bias, rounded to a part of the result's step
* `f(v)` where Q(v) is there too   ~   f(DQ(Q(v)))               by half a step of a scale that v is read at anyway
* `Q(Concat(a, DQ(b)))`   ==   Q(Concat(DQ(Q(a)), DQ(b)))        exact: Q DQ Q is Q
* `Q(MaxPool(v))`   ==   Q(MaxPool(DQ(Q(v))))                    exact, and so for what only moves elements
* `Q(a + DQ(b))`   ~   Q(DQ(Q'(a)) + DQ(b))                      Q' reaches from where the outer Q saturates to where it
  saturates: what it cuts off makes no difference, and its steps are at most twice those of a range of a's own

The last holds with a Relu or Clip in between as well, which saturates in its turn.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from onnx import TensorProto

from graphopt.analysis.ranges import Ranges, TensorRange
from graphopt.analysis.shapes import ensure_types
from graphopt.ir import Model, Node, Value, dtypes
from graphopt.passes.base import Pass
from graphopt.passes.quantize._grid import BITS8, Grid, grid_of, place_behind
from graphopt.passes.quantize._ranges import ranges_of
from graphopt.passes.quantize._scales import INT32_MOST, scale_between
from graphopt.passes.quantize._select import selected
from graphopt.passes.quantize._unsigned import rewrite, unsigned_grid
from graphopt.passes.quantize.qdq_cleanup._moves import FEWER, SAME_SIZE, why_not
from graphopt.passes.quantize.qdq_cleanup.clip_quantize import cut_of
from graphopt.rewrite import Builder, Context
from graphopt.rewrite.driver import site_of
from graphopt.rewrite.sweep import is_opaque

NAME = "complete-qdq"
LAYERS = frozenset(("Conv", "Gemm"))
MOVES = frozenset((*SAME_SIZE, *FEWER))
COMPUTES = LAYERS | {"MatMul", "Add", "Mul", "AveragePool", "GlobalAveragePool", "Sigmoid", "LeakyRelu", "Concat"}


@dataclass(frozen=True)
class CompleteQdq(Pass):
    """Adds the Q and DQ that ONNX Runtime needs to run a partly quantized model in integers. For the targets onnx and
    onnxruntime; run qdq-cleanup before it and after it. only, keep_float: patterns of labels of the operators. ranges:
    a file's path, or Ranges, for addends that have a range there; without, what makes a difference to the sum.
    """

    name = NAME
    lossy: ClassVar[bool] = True
    only: str = "*"
    keep_float: str = ""
    ranges: Any = ""

    def run(self, model: Model, ctx: Context) -> None:
        """Types, biases, then values that are quantized already, then operands of Concat and Add."""
        if ctx.target == "tensorrt" or model.opsets.get("", 0) < 10:
            return
        ensure_types(model)
        known = ranges_of(self.ranges) if self.ranges else None
        for graph in list(model.scopes(functions=False)):
            if is_opaque(graph):
                continue
            chosen = [node for node in graph if selected(node, self.only, self.keep_float) and not node.domain]
            for node in graph.nodes:
                _unsigned(node, ctx)
            for node in chosen:
                if node.op in LAYERS:
                    _bias(node, ctx)
            for node in chosen:
                _readers(node, ctx)
            for node in reversed(chosen):
                if node.op in MOVES:
                    _moved(node, ctx)
            for node in chosen:
                if node.op in ("Concat", "Add"):
                    _operands(node, known, ctx)


def _source(value: Value | None) -> Node | None:
    """The DQ that a value comes from."""
    node = value.producer if value is not None else None
    return node if node is not None and node.op == "DequantizeLinear" and not node.domain else None


def _in_integers(node: Node) -> bool:
    """Whether a runtime could compute a node in integers: it reads DQs, weights included; some of the operands of an
    Add or Concat may be about to."""
    if node.op not in COMPUTES or node.domain:
        return node.op == "DequantizeLinear" and not node.domain
    if node.op == "Concat":
        return all(_could_be(value) for value in node.inputs)
    if node.op == "Add":
        return any(_source(v) is not None for v in node.inputs) and all(_could_be(v) for v in node.inputs)
    data = node.inputs[:2] if node.op in ("Conv", "Gemm", "MatMul", "Mul") else node.inputs[:1]
    return all(_source(value) is not None for value in data)


def _could_be(value: Value | None) -> bool:
    """Whether a value comes from a DQ, or from an operator on DQs."""
    if value is None or _source(value) is not None:
        return value is not None
    node = _behind(value)
    return node is not None and node.op not in ("Concat", "Add") and _in_integers(node)


def _unsigned(node: Node, ctx: Context) -> None:
    grid = unsigned_grid(node) if node.op == "QuantizeLinear" and not node.domain else None
    if grid is None or not ctx.allow(NAME, site_of(node)):
        return
    new, label, graph = Builder(node.graph, node, NAME, [node]), node.label, node.graph
    rewrite(node, grid, new)
    ctx.record(NAME, [label], [made.label for made in new.nodes], graph)


# -- biases ----------------------------------------------------------------------------------------------------------


def _bias(node: Node, ctx: Context) -> None:
    bias = node.input(2)
    x, w = (grid_of(_source(node.input(slot))) for slot in (0, 1))
    if bias is None or not bias.is_const or x is None or w is None or not x.is_single:
        return
    array, axis = bias.numpy(), 1 if node.op == "Gemm" and not node.attr("transB", 0) else 0
    if bias.dtype != TensorProto.FLOAT or array.ndim != 1 or (not w.is_single and w.axis != axis):
        return
    if node.op == "Gemm" and (node.attr("alpha") != 1.0 or node.attr("beta") != 1.0):
        return
    scale = np.asarray(x.scale * w.scale, np.float32)
    codes = np.round(array.astype(np.float64) / scale.astype(np.float64))
    if not np.isfinite(codes).all() or np.abs(codes).max(initial=0) > INT32_MOST // 2:
        ctx.refuse(NAME, "its bias is too large for int32 on the scale of the products", node)
        return
    if scale.ndim and node.graph.opset() < 13:
        ctx.refuse(NAME, "scales per channel are of opset 13: run raise-opset first", node)
        return
    if not ctx.allow(NAME, site_of(node)):
        return
    new = Builder(node.graph, node, NAME, [node])
    step = new.constant(scale, f"{bias.name}_scale")
    axes = {"axis": 0} if scale.ndim else {}
    back = new.DequantizeLinear(new.constant(codes.astype(np.int32), f"{bias.name}_quantized"), step, **axes)
    node.set_input(2, back)
    _note(node, new, ctx)


# -- values that are quantized for one reader, and float for another -------------------------------------------------


def _readers(node: Node, ctx: Context) -> None:
    """Lets all readers of what a node makes read the integers that one of them reads."""
    value = node.output
    source = _behind(value) if node.op != "DequantizeLinear" else None
    if source is None or not _in_integers(source) or value.is_output:
        return
    quantizes = [reader for reader in value.users if reader.op == "QuantizeLinear"]
    others = [r for r in value.users if r.op != "QuantizeLinear" and r.graph is node.graph]
    grid = grid_of(quantizes[0]) if quantizes else None
    if grid is None or not others or not grid.is_single or quantizes[0].graph is not node.graph:
        return
    if any(r.op in ("Relu", "Clip") for r in others) or not ctx.allow(NAME, site_of(node)):
        return
    new = Builder(node.graph, place_behind(value, node.graph), NAME, [node])
    codes = new.QuantizeLinear(value, *quantizes[0].inputs[1:], like=quantizes[0])
    back = new.DequantizeLinear(codes, *quantizes[0].inputs[1:], type_of=value)
    for reader in others:
        for slot, read in enumerate(reader.inputs):
            if read is value:
                reader.set_input(slot, back)
    for quantize in quantizes:
        other = grid_of(quantize)
        if other is not None and other.same(grid) and quantize.graph is node.graph and not quantize.output.is_output:
            quantize.output.replace_with(codes)
            node.graph.erase(quantize)
    _note(node, new, ctx)


def _behind(value: Value) -> Node | None:
    """What makes a value: an operator that computes, or a DQ, before a Relu, a Clip or what only moves elements, where
    nothing else reads what comes in between."""
    node = value.producer
    while node is not None and not node.domain and (node.op in ("Relu", "Clip") or node.op in MOVES):
        source = node.inputs[0]
        if source is None or _source(source) is not None:
            return _source(source)
        if len(source.users) != 1 or source.is_output:
            return None
        node = source.producer
    return node


# -- operands that are float where the others and the result are integers --------------------------------------------


def _moved(node: Node, ctx: Context) -> None:
    """Quantizes what is moved where the result is quantized, if it is computed in integers for this reader alone."""
    found = _quantized(node)
    value = node.inputs[0] if node.inputs else None
    grid = grid_of(found[0]) if found is not None and found[1] == (-np.inf, np.inf) else None
    if grid is None or value is None or len(value.users) != 1 or value.is_output or why_not(node, grid):
        return
    source = _behind(value)
    if _source(value) is not None or source is None or source.graph is not node.graph or not _in_integers(source):
        return
    if ctx.allow(NAME, site_of(node)):
        new = Builder(node.graph, node, NAME, [node])
        _insert(node, [(0, value)], grid, new)
        _note(node, new, ctx)


def _insert(node: Node, operands: list[tuple[int, Value]], grid: Grid, new: Builder) -> None:
    """Puts a Q and a DQ in front of operands of a node."""
    step = new.constant(grid.scale, f"{node.label}_scale")
    zero = new.constant(grid.zero.astype(dtypes.to_numpy(grid.dtype)), f"{node.label}_zero_point")
    for slot, value in operands:
        codes = new.QuantizeLinear(value, step, zero, name=f"{value.name}_q")
        node.set_input(slot, new.DequantizeLinear(codes, step, zero, name=f"{value.name}_dq", type_of=value))


def _operands(node: Node, known: Ranges | None, ctx: Context) -> None:
    """Quantizes the operands of a Concat or Add that are computed in integers, as what follows allows."""
    found = _quantized(node)
    if found is None:
        return
    reader, bounds = found
    out = grid_of(reader)
    if out is None or not out.is_single or out.dtype not in BITS8:
        return
    floats = [(slot, v) for slot, v in enumerate(node.inputs) if v is not None and _source(v) is None]
    if not floats or any(not _is_ready(value, node) for _, value in floats):
        return
    if node.op == "Add":
        other = node.inputs[1 - floats[0][0]]
        seen = known.get(floats[0][1].name) if known is not None else None
        grid = _addend(out, grid_of(_source(other)), bounds, seen) if len(floats) == 1 else None
        if grid is None:
            ctx.refuse(NAME, "the other operand is not quantized with one scale of the same type", node)
            return
    else:
        grid = out
    if not ctx.allow(NAME, site_of(node)):
        return
    new = Builder(node.graph, node, NAME, [node])
    _insert(node, floats, grid, new)
    _note(node, new, ctx)


def _quantized(node: Node) -> tuple[Node, tuple[float, float]] | None:
    """The Q behind a node, perhaps behind a Relu or Clip, and the bounds of that."""
    bounds, value = (-np.inf, np.inf), node.output
    reader = next(iter(value.users), None)
    if reader is not None and reader.op in ("Relu", "Clip") and len(value.users) == 1 and not value.is_output:
        found = cut_of(reader, tuple(reader.inputs[1:]))
        if found is None or not found[0] <= found[1]:
            return None
        bounds, value = found, reader.output
        reader = next(iter(value.users), None)
    if reader is None or reader.op != "QuantizeLinear" or len(value.users) != 1 or value.is_output:
        return None
    return reader, bounds


def _is_ready(value: Value, reader: Node) -> bool:
    """Whether a value is computed in integers, for this reader alone."""
    node = _behind(value)
    alone = len(value.users) == 1 and value.users.get(reader) == 1 and not value.is_output
    return alone and node is not None and node.graph is reader.graph and _in_integers(node)


def _addend(out: Grid, other: Grid | None, bounds: tuple[float, float], seen: TensorRange | None) -> Grid | None:
    """The grid of an addend that reaches as far as it makes a difference to the sum, and no further than was seen."""
    if other is None or not other.is_single or other.dtype != out.dtype:
        return None
    low, high = max(out.bounds[0], bounds[0]), min(out.bounds[1], bounds[1])
    low, high = low - other.bounds[1], high - other.bounds[0]
    if seen is not None:
        low, high = max(low, seen.low), min(high, seen.high)
    found = scale_between(low, high, "uint8" if min(out.codes) == 0 else "int8")
    return Grid(found.scale, found.zero.astype(np.int64), out.dtype, None)


def _note(node: Node, new: Builder, ctx: Context) -> None:
    ctx.record(NAME, [node.label], [node.label, *(made.label for made in new.nodes)], node.graph)
