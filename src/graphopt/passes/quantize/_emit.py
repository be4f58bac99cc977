"""The nodes that a quantized weight becomes: DequantizeLinear before the product, or MatMulNBits in its place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto

from graphopt.ir import Model, NDArray, Node, Value
from graphopt.passes.quantize._blocks import Blocks, for_dequantize, for_matmul_nbits
from graphopt.passes.quantize._products import Product
from graphopt.rewrite.builder import Builder

if TYPE_CHECKING:
    from graphopt.passes.quantize.quantize_weights import QuantizeWeights

RULE = "quantize-weights"


def why_not(found: Product, options: QuantizeWeights, target: str) -> str:
    """Why a product cannot have the form asked for, or nothing."""
    if options.format == "matmulnbits":
        return _why_not_nbits(found, options, target)
    if target == "tensorrt" and not options.symmetric:
        return "TensorRT has no zero points: symmetric=true"
    return _why_not_opset(found.node, options, found.weight.dtype == TensorProto.FLOAT16)


def _why_not_opset(node: Node, options: QuantizeWeights, half: bool) -> str:
    blocked = options.bits == 4 or options.block_size > 0
    wanted = 21 if blocked else 19 if half else 13
    if node.graph.opset() < wanted:
        what = "weights of 4 bits or in blocks" if blocked else "scales in float16" if half else "scales per channel"
        return f"{what} are of opset {wanted}: run raise-opset first"
    if options.bits == 4 and node.graph.model.ir_version < 4:
        return "before IR version 4 initializers are inputs, which cannot be of 4 bits"
    return ""


def _why_not_nbits(found: Product, options: QuantizeWeights, target: str) -> str:
    node = found.node
    if target != "onnxruntime":
        return "MatMulNBits is ONNX Runtime's own operator: target onnxruntime, or format=dequantize"
    if node.graph.in_function:
        return "it is in a function, which may not import com.microsoft: run inline-functions first"
    if options.accuracy_level == 4 and not options.symmetric and found.weight.graph is not node.graph:
        return "ONNX Runtime 1.23 loses zero points of an outer scope at accuracy_level 4: symmetric=true has none"
    bias = node.input(2) if node.op == "Gemm" else None
    beta = float(node.attr("beta", 1.0)) if bias is not None else 1.0
    if bias is not None and not bias.is_const and beta != 1.0:
        return "the bias is computed at run time and has a factor"
    return ""


@dataclass
class Packed:
    """The constants of one weight, made once in its scope, for all products that read it in the same way."""

    weight: Value
    format: str
    _made: dict[tuple[bool, float], list[Value | None]] = field(default_factory=dict)
    _blocks: Blocks | None = None

    def of(self, found: Product, make: Callable[[Product], Blocks]) -> list[Value | None]:
        """Codes, scales and zero points (or None) as values of the weight's scope."""
        nbits = self.format == "matmulnbits"
        key = (False, found.alpha) if nbits else (found.transposes, 1.0)
        if key not in self._made:
            if self._blocks is None:
                self._blocks = make(found)
            if nbits:
                parts = (*for_matmul_nbits(self._blocks), int(TensorProto.UINT8))
            else:
                parts = for_dequantize(self._blocks, found.transposes)
            self._made[key] = self._constants(*parts, found.alpha if nbits else 1.0)
        return self._made[key]

    def _constants(
        self, codes: NDArray, scale: NDArray, zero: NDArray | None, kind: int, alpha: float
    ) -> list[Value | None]:
        graph, name = self.weight.graph, self.weight.name
        if kind in (TensorProto.INT4, TensorProto.UINT4):
            _need_ir_version(graph.model, 10)
        if alpha != 1.0:
            scale = (scale.astype(np.float64) * alpha).astype(scale.dtype)
        assert self._blocks is not None
        if self.format == "dequantize" and self._blocks.size >= self._blocks.shape[0]:
            scale, zero = scale.reshape(-1), None if zero is None else zero.reshape(-1)
        return [
            graph.constant(codes, f"{name}_codes", kind),
            graph.constant(scale, f"{name}_scale"),
            None if zero is None else graph.constant(zero, f"{name}_zero_point", kind),
        ]


def _need_ir_version(model: Model, version: int) -> None:
    """Tensors of 4 bits came with IR version 10."""
    if model.ir_version < version:
        model.ir_version = model.proto.ir_version = version


def emit(found: Product, packed: list[Value | None], options: QuantizeWeights, target: str) -> list[str]:
    """Rewrites a product; returns the labels of the new nodes."""
    new = Builder(found.node.graph, found.node, RULE, [found.node])
    if options.format == "matmulnbits":
        _as_matmul_nbits(found, packed, options, new)
    else:
        _as_dequantize(found, packed, options, target, new)
    return [node.label for node in new.nodes]


def _as_dequantize(
    found: Product, packed: list[Value | None], options: QuantizeWeights, target: str, new: Builder
) -> None:
    node, rows = found.node, found.shape[0]
    size = options.block_size
    blocked = 0 < size < rows
    along = 0 if not found.transposes else 1
    axis = along if blocked else 1 - along  # that of the blocks; or of the columns, which have a scale each
    if target != "tensorrt":
        axis -= 2  # from the end: ONNX Runtime leaves that as it is
    name = f"{node.label}_dequantize"
    value = new.make("DequantizeLinear", *packed, name=name, axis=axis, block_size=size if blocked else None)
    weight = node.inputs[1]
    if weight is not None and weight.type is not None:
        value.set_type(weight.type)
    node.set_input(1, value)


def _as_matmul_nbits(found: Product, packed: list[Value | None], options: QuantizeWeights, new: Builder) -> None:
    node = found.node
    rows, columns = found.shape
    node.graph.model.require_opset("com.microsoft", 1)
    bias = node.input(2) if node.op == "Gemm" else None
    inside, added = _bias(bias, float(node.attr("beta", 1.0)) if bias is not None else 1.0, columns, new)
    value = new.make(
        "MatMulNBits",
        found.x,
        *packed,
        *([None, inside] if inside is not None else []),
        domain="com.microsoft",
        name=node.label,
        type_of=node.output,
        K=rows,
        N=columns,
        bits=options.bits,
        block_size=options.block_size,
        accuracy_level=options.accuracy_level,
    )
    if added is not None:
        value = new.Add(value, added, name=f"{node.label}_bias", type_of=node.output)
    node.output.replace_with(value)
    node.graph.erase(node)
    new.settle()


def _bias(bias: Value | None, beta: float, columns: int, new: Builder) -> tuple[Value | None, Value | None]:
    """Gemm's bias as MatMulNBits takes it, one number a column, or to be added after it."""
    if bias is None or beta == 0:
        return None, None
    if not bias.is_const:
        return None, bias
    array = bias.numpy()
    if beta != 1.0:
        array = (array.astype(np.float64) * beta).astype(array.dtype)
    if array.size not in (1, columns) or (array.size == columns and array.shape[-1:] != (columns,)):
        return None, bias if beta == 1.0 else new.constant(array, bias.name)
    if array.shape == (columns,):
        return (bias if beta == 1.0 else new.constant(array, bias.name)), None
    return new.constant(np.ascontiguousarray(np.broadcast_to(array.reshape(-1), (columns,))), bias.name), None
