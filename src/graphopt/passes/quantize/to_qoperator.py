"""QuantizeLinear(X(DequantizeLinear(x, xs, xz), ...), ys, yz)   ~   QLinearX(x, xs, xz, ..., ys, yz)

For runtimes that want quantized operators in the file. ONNX Runtime makes them itself when it loads a model; a file of
them loads faster, and cannot be fused in another way. Equal but for rounding: a result may differ by one integer (see
`_qoperators`). Relu and Clip in front of a Q that saturates like them are dropped by qdq-cleanup, which runs first.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from onnx import TensorProto

from graphopt.analysis.shapes import ensure_types
from graphopt.ir import Model, NDArray, Node, Value, dtypes
from graphopt.passes.base import Pass
from graphopt.passes.quantize._grid import BITS8, Grid, grid_of
from graphopt.passes.quantize._qoperators import BY_FLOAT, MICROSOFT, Form
from graphopt.passes.quantize._scales import INT32_MOST
from graphopt.passes.quantize._select import selected
from graphopt.rewrite import Builder, Context
from graphopt.rewrite.driver import site_of
from graphopt.rewrite.sweep import is_opaque, sweep

NAME = "to-qoperator"


@dataclass(frozen=True)
class ToQoperator(Pass):
    """Writes Q and DQ around Conv and MatMul as QLinearConv and QLinearMatMul, and for the target onnxruntime Gemm,
    Add, Mul, Sigmoid, LeakyRelu, pools and Concat as the runtime's own. only, keep_float: patterns of labels.
    """

    name = NAME
    lossy: ClassVar[bool] = True
    only: str = "*"
    keep_float: str = ""

    def run(self, model: Model, ctx: Context) -> None:
        """Node by node."""
        ensure_types(model)
        for graph in list(model.scopes(functions=False)):
            if is_opaque(graph):
                continue
            for node in graph.nodes:
                form = BY_FLOAT.get(node.op) if node.alive and not node.domain else None
                if form is None or (form.domain and ctx.target != "onnxruntime"):
                    continue
                quantize = _reader(node)
                if quantize is None or not selected(node, self.only, self.keep_float):
                    continue
                found = _operands(node, form, quantize)
                if isinstance(found, str):
                    ctx.refuse(NAME, found, node)
                elif ctx.allow(NAME, site_of(quantize)):
                    _rewrite(node, form, quantize, found, ctx)


@dataclass(frozen=True, eq=False)
class Operands:
    """What a quantized operator reads: the DQs of its data with their grids, the grid of the result, and the codes of
    a bias."""

    data: list[tuple[Node, Grid]]
    out: Grid
    bias: NDArray | None


def _reader(node: Node) -> Node | None:
    """The Q that alone reads a node, where the node reads a DQ."""
    value = node.output
    first = node.inputs[0].producer if node.inputs and node.inputs[0] is not None else None
    if first is None or first.op != "DequantizeLinear" or len(value.users) != 1 or value.is_output:
        return None
    reader = next(iter(value.users))
    return reader if reader.op == "QuantizeLinear" and reader.graph is node.graph else None


def _operands(node: Node, form: Form, quantize: Node) -> Operands | str:
    out = grid_of(quantize)
    if out is None or not out.is_single or out.dtype not in BITS8:
        return "the result is not quantized to 8 bits with one constant scale"
    data: list[tuple[Node, Grid]] = []
    for value in node.inputs if form.many else node.inputs[: len(form.data)]:
        maker = value.producer if value is not None else None
        grid = grid_of(maker) if maker is not None and maker.op == "DequantizeLinear" else None
        if maker is None or grid is None or grid.dtype not in BITS8 or maker.graph is not node.graph:
            return "an operand is not dequantized from 8 bits with a constant scale"
        data.append((maker, grid))
    reason = _why_not(node, form, [grid for _, grid in data], out)
    if reason:
        return reason
    bias = _bias(node, form, data[0][1], data[1][1]) if form.bias is not None else None
    return bias if isinstance(bias, str) else Operands(data, out, bias)


def _why_not(node: Node, form: Form, grids: list[Grid], out: Grid) -> str:
    first = grids[0]
    if not first.is_single or any(not grid.is_single for grid in grids[2:]):
        return "the data has a scale for each channel"
    if out.dtype != first.dtype:
        return "the result is of another type than the data"
    weights = form.float_op in ("Conv", "MatMul", "Gemm")
    if weights and first.dtype == TensorProto.INT8 and grids[1].dtype == TensorProto.UINT8:
        return "int8 data with uint8 weights has no kernel"
    if not weights and any(grid.dtype != first.dtype for grid in grids):
        return "the operands are of different types"
    if len(grids) > 1 and not grids[1].is_single:
        if not weights or grids[1].axis != _axis(node) or len(set(grids[1].zero.tolist())) > 1:
            return "the weights have scales along another axis, or different zero points"
        if form.float_op == "MatMul" and (node.inputs[1] is None or node.inputs[1].rank != 2):
            return "the weights have scales along another axis, or different zero points"
    if form.float_op == "Gemm" and (node.attr("alpha") != 1.0 or node.attr("beta") != 1.0 or node.attr("transA")):
        return "alpha, beta or transA of a Gemm"
    if form.float_op == "AveragePool" and any(d != 1 for d in node.attr("dilations", None) or ()):
        return "a pool with dilations"
    return ""


def _axis(node: Node) -> int:
    return 0 if node.op == "Conv" or (node.op == "Gemm" and node.attr("transB", 0)) else 1


def _bias(node: Node, form: Form, x: Grid, w: Grid) -> NDArray | str | None:
    """The bias in int32, of scale x times w; its own rounding is 2^-16 of the result's or less."""
    value = node.input(2)
    if value is None:
        return None
    real = _constant(value)
    channels = node.inputs[1].shape if node.inputs[1] is not None else None
    if real is None or real.ndim != 1 or channels is None or channels[_axis(node)] != real.size:
        return "the bias is no constant for each channel"
    codes = np.round(real / (x.scale.astype(np.float64) * w.scale.astype(np.float64)))
    if not np.isfinite(codes).all() or np.abs(codes).max(initial=0) > INT32_MOST // 2:
        return "the bias is too large for int32 on the scale of the products"
    return codes.astype(np.int32)


def _constant(value: Value) -> NDArray | None:
    """A float constant, or one dequantized from integers, in double precision."""
    if value.is_const:
        return value.numpy().astype(np.float64)
    node = value.producer
    if node is None or node.op != "DequantizeLinear" or not all(v is None or v.is_const for v in node.inputs):
        return None
    codes, scale, zero = node.inputs[0], node.inputs[1], node.input(2)
    assert codes is not None and scale is not None
    shift = zero.numpy().astype(np.float64) if zero is not None else 0.0
    real: NDArray = (codes.numpy().astype(np.float64) - shift) * scale.numpy().astype(np.float64)
    return real if codes.numpy().ndim == 1 else None


def _rewrite(node: Node, form: Form, quantize: Node, found: Operands, ctx: Context) -> None:
    new = Builder(node.graph, node, NAME, [node, quantize])
    inputs: dict[int, Value | None] = {}
    for place, (maker, grid) in enumerate(found.data):
        slot = form.data[0] + 3 * place
        inputs.update(zip(range(slot, slot + 3), (maker.inputs[0], *_numbers(new, maker, grid)), strict=True))
    inputs.update(zip((form.out, form.out + 1), _numbers(new, quantize, found.out), strict=True))
    if found.bias is not None and form.bias is not None:
        inputs[form.bias] = new.constant(found.bias, f"{node.label}_bias")
    operands = [inputs.get(slot) for slot in range(max(inputs) + 1)]
    if form.domain == MICROSOFT:
        node.graph.model.require_opset(MICROSOFT, 1)
    dropped: dict[str, Any] = dict.fromkeys(_dropped(form))
    result = new.make(form.op, *operands, domain=form.domain, like=node, type_of=quantize.output, **dropped)
    names = [item.label for item in (node, quantize)]
    quantize.output.replace_with(result)
    sweep(quantize)
    new.settle()
    ctx.record(NAME, names, [made.label for made in new.nodes], new.graph)


def _dropped(form: Form) -> Iterator[str]:
    """Attributes that the quantized operator does not have."""
    if form.float_op == "Gemm":
        yield "beta"
    if form.float_op == "AveragePool":
        yield "dilations"


def _numbers(new: Builder, node: Node, grid: Grid) -> tuple[Value, Value]:
    """Scale and zero point, which quantized operators do not leave out."""
    step, zero = node.inputs[1], node.input(2)
    assert step is not None
    if zero is None:
        zero = new.constant(grid.zero.astype(dtypes.to_numpy(grid.dtype)), f"{step.name}_zero_point")
    if grid.is_single:
        step, zero = (v if v.shape == () else new.constant(v.numpy().reshape(()), like=v) for v in (step, zero))
    return step, zero
