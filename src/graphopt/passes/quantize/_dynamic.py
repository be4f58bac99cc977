"""Products with constant weights, as quantize-dynamic reads them: MatMul and Gemm alike."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from onnx import TensorProto

from graphopt.ir import NDArray, Node, Value
from graphopt.passes.quantize._scales import quantize
from graphopt.passes.quantize._weights import Constants
from graphopt.rewrite import Builder

NO_WEIGHTS = "neither operand is constant: int8 pays where weights are packed once"


@dataclass(frozen=True)
class Weights:
    """A constant matrix, (inputs, outputs). value: the constant; turned: it is stored as (outputs, inputs). times: how
    often it is repeated along each axis, a value of run time, or None: then it may be a batch of matrices."""

    value: Value
    turned: bool
    times: Value | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Inputs, outputs."""
        first, second = self.value.numpy().shape[-2:]
        return (second, first) if self.turned else (first, second)

    def codes(self, made: Matrices, per_channel: bool) -> tuple[Value, NDArray]:
        """The matrix in int8, (inputs, outputs), made once for all who read it, and its scales: (outputs,) or ()."""
        key = (self.value, self.turned, per_channel and self.times is None)
        if key not in made.codes:
            axis = (0 if self.turned else 1) if key[2] else None
            scale = made.numbers.scale_of(self.value, axis)
            codes = quantize(self.value.numpy(), scale, axis)
            laid = np.ascontiguousarray(codes.swapaxes(-1, -2)) if self.turned else codes
            made.codes[key] = self.value.graph.constant(laid, f"{self.value.name}_quantized"), scale.scale
        return made.codes[key]

    def repeated(self, codes: Value, new: Builder) -> Value:
        """The codes as often as the matrix is there."""
        if self.times is None:
            return codes
        times, rank = self.times, self.value.rank or 2
        if self.turned:
            order = np.array([*range(rank - 2), rank - 1, rank - 2])
            times = new.Gather(times, new.constant(order, "swapped"))
        tiled: Value = new.Tile(codes, times)
        return tiled


@dataclass
class Matrices:
    """What was made of constants so far. codes: of weights, as they lie in MatMulInteger. numbers: scales, biases."""

    numbers: Constants = field(default_factory=Constants)
    codes: dict[tuple[Value, bool, bool], tuple[Value, NDArray]] = field(default_factory=dict)

    def drop_unread(self) -> None:
        """Takes the float matrices out of the file that nothing reads any more."""
        for value in dict.fromkeys(key[0] for key in self.codes):
            if value.users or value.outs:
                continue
            if value.producer is None:
                value.graph.erase_initializer(value)
            elif value.producer.alive:
                value.graph.erase(value.producer)


@dataclass(frozen=True)
class Product:
    """alpha x w + bias. bias: what is added, spelled as in MatMul's Add, or None. last: the node whose output it is."""

    node: Node
    x: Value
    weights: Weights
    alpha: float
    bias: Value | None
    beta: float
    last: Node


def find_product(node: Node) -> Product | str | None:
    """What a node multiplies; why that stays as it is; or None where it is no product at all."""
    if node.domain or node.op not in ("MatMul", "Gemm") or node.has_references:
        return None
    x, w = node.inputs[0], node.inputs[1]
    if x is None or w is None or (x.is_const and w.is_const):
        return None
    return _gemm(node, x, w) if node.op == "Gemm" else _matmul(node, x, w)


def _matmul(node: Node, x: Value, w: Value) -> Product | str:
    weights = _weights(w)
    if isinstance(weights, str):
        return weights
    if x.rank == 1:
        return "the activation is a vector"
    bias = bias_of(node.output, weights.shape[1])
    if isinstance(bias, str):
        return bias
    last = node if bias is None else next(iter(node.output.users))
    return _sound(Product(node, x, weights, 1.0, bias, 1.0, last))


def _gemm(node: Node, x: Value, w: Value) -> Product | str:
    if node.attr("transA", 0):
        return "the activation is transposed"
    turned = bool(node.attr("transB", 0))
    weights = _weights(w, turned)
    if isinstance(weights, str):
        return weights
    bias, beta = node.input(2), float(node.attr("beta", 1.0))
    if bias is not None and not bias.is_const and beta != 1.0:
        return "the bias is computed at run time and has a factor"
    return _sound(Product(node, x, weights, float(node.attr("alpha", 1.0)), bias if beta else None, beta, node))


def _weights(value: Value, turned: bool = False) -> Weights | str:
    """A constant matrix, a Transpose of one included (an embedding that is the last layer's weights, too), or a Tile
    (DeBERTa's relative positions, one for each item of the batch)."""
    value, swapped = _through(value, "Transpose")
    value, times = _through(value, "Tile")
    turned = turned != (swapped is not None)
    if not value.is_const:
        return NO_WEIGHTS
    if value.dtype != TensorProto.FLOAT:  # the activation is of the same type, by the operator's definition
        return "the weights are not float32"
    if (value.rank or 0) < 2 or (value.rank != 2 and times is None):
        return "the weights are no matrix"
    return Weights(value, turned, None if times is None else times.inputs[1])


def _through(value: Value, op: str) -> tuple[Value, Node | None]:
    """What a Tile, or a Transpose of the last two axes, was made from, if that is how the value was made."""
    node = value.producer
    before = node.inputs[0] if node is not None and node.op == op and not node.domain else None
    if node is None or before is None or node.has_references or value.is_const or node.graph is not value.graph:
        return value, None
    rank = before.rank
    if rank is None or (op == "Transpose" and list(node.attr("perm", [])) != [*range(rank - 2), rank - 1, rank - 2]):
        plain = op == "Transpose" and rank == 2 and not node.attr("perm", [])
        return (before, node) if plain else (value, None)
    return before, node


def _sound(found: Product) -> Product | str:
    if not np.isfinite(found.weights.value.numpy()).all():
        return "the weights hold infinities or NaN"
    return found


def bias_of(product: Value, columns: int) -> Value | str | None:
    """The constant, one number a column, that the only reader of a product adds to it; None if that does nothing of the
    kind; or why the product has to stay, as ONNX Runtime (1.31) would take for a bias what is none."""
    if product.outs or len(product.users) != 1:
        return None
    (reader,) = product.users
    if reader.op != "Add" or reader.domain or reader.graph is not product.graph or product.users[reader] != 1:
        return None
    other = reader.inputs[1] if reader.inputs[0] is product else reader.inputs[0]
    if other is None or not other.is_const:
        return None
    shape = other.numpy().shape
    if not shape or shape[-1] == 1 or any(dim != 1 for dim in shape[:-1]):
        return None
    if shape[-1] != columns or len(shape) > (product.rank or 1):
        return "what is added is wider than the product, and ONNX Runtime would take it for a bias"
    return other
