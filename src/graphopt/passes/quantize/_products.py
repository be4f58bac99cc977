"""Products with constant weights, as weight-only quantization sees them: x [..., K] times a matrix [K, N]."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from onnx import TensorProto

from graphopt.ir import Model, NDArray, Node, Value
from graphopt.passes.quantize._select import selected
from graphopt.rewrite.sweep import is_opaque

FLOATS = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16})


@dataclass(frozen=True)
class Product:
    """One MatMul or Gemm. weight: the constant, [K, N], or [N, K] where `turned`. reads: the name of its activation in
    the model as it was, which statistics go by."""

    node: Node
    weight: Value
    turned: bool
    reads: str

    @property
    def x(self) -> Value:
        """Its activation, whatever makes it now."""
        value = self.node.inputs[0]
        assert value is not None
        return value

    @property
    def shape(self) -> tuple[int, int]:
        """K, N."""
        first, second = self.weight.shape or (0, 0)
        assert isinstance(first, int) and isinstance(second, int)
        return (second, first) if self.turned else (first, second)

    def matrix(self) -> NDArray:
        """The weight as [K, N], a view."""
        array = self.weight.numpy()
        return array.T if self.turned else array

    @property
    def transposes(self) -> bool:
        """Whether the node itself turns its second operand."""
        return self.node.op == "Gemm" and bool(self.node.attr("transB", 0))

    @property
    def alpha(self) -> float:
        """The factor of the product."""
        return float(self.node.attr("alpha", 1.0)) if self.node.op == "Gemm" else 1.0


def product_of(node: Node) -> Product | str | None:
    """The product that a node is; why its weights stay as they are; None where there are none to speak of."""
    if node.domain or node.op not in ("MatMul", "Gemm") or node.has_references or len(node.inputs) < 2:
        return None
    x, w = node.inputs[0], node.inputs[1]
    if x is None or w is None:
        return None
    source, turned = w, node.op == "Gemm" and bool(node.attr("transB", 0))
    made = w.producer
    if not w.is_const and made is not None and made.op == "Transpose" and not made.domain:
        before = made.inputs[0]  # an embedding that is the last layer's weights, too
        if before is not None and before.is_const and before.rank == 2 and list(made.attr("perm", [1, 0])) == [1, 0]:
            source, turned = before, not turned
    if not source.is_const:
        return "the weight is the left operand" if node.op == "MatMul" and x.is_const and x.rank == 2 else None
    if x.is_const:
        return "both operands are constant: fold-constants computes it"
    if source.dtype not in FLOATS:
        return "the weights are neither float32 nor float16"
    if source.rank != 2:
        return "the weights are no matrix"
    if node.op == "Gemm" and node.attr("transA", 0):
        return "the activation is transposed"
    return Product(node, source, turned, x.name)


def products(model: Model, only: str, keep_float: str) -> Iterator[tuple[Node, Product | str]]:
    """Every product chosen, in all scopes, or why it is none that can be quantized."""
    for graph in model.scopes():
        if is_opaque(graph):
            continue
        for node in graph:
            if node.op in ("MatMul", "Gemm") and selected(node, only, keep_float):
                found = product_of(node)
                if found is not None:
                    yield node, found


def inputs_of_products(model: Model, only: str, keep_float: str) -> dict[str, int]:
    """The activations whose statistics GPTQ and AWQ want: names in the main graph -> number of channels."""
    found: dict[str, int] = {}
    for node, product in products(model, only, keep_float):
        if isinstance(product, Product) and node.graph is model.graph and product.x.graph is model.graph:
            found.setdefault(product.reads, product.shape[0])
    return found
