"""The operators that quantization is for, and how each can be quantized."""

from __future__ import annotations

from dataclasses import dataclass

from onnx import TensorProto

from graphopt.analysis.shapes import ensure_types
from graphopt.ir import Model, Node
from graphopt.passes.quantize.insert_qdq import target_of
from graphopt.rewrite.sweep import is_opaque

RECURRENT = frozenset({"LSTM", "GRU", "RNN"})
PRODUCTS = frozenset({"MatMul", "Gemm"})
STATIC, DYNAMIC, WEIGHT = "static", "dynamic", "weight"


@dataclass(frozen=True)
class Anchor:
    """An operator that quantization pays for, if any does.

    label: `Node.label`, which the options `only` and `keep_float` of passes match. kind: the operator. methods: how it
    can be quantized: "static" (`insert-qdq`), "dynamic" (`quantize-dynamic`), "weight" (`quantize-weights`). work:
    multiplications of one run, as far as sizes are known.
    """

    label: str
    kind: str
    methods: tuple[str, ...]
    work: int = 0


def anchors(model: Model, target: str = "onnxruntime") -> list[Anchor]:
    """All anchors of a model, in order, those in bodies of If, Loop and Scan after the main graph's; not in functions.

    Only what has at least one method is listed. Whether a method pays is for measurement to say.

    >>> from graphopt.ir import from_proto
    >>> from onnx import parser
    >>> proto = parser.parse_model('<ir_version: 8, opset_import: ["": 17]> g (float[2,3] x) => (float[2,1] y)'
    ...     ' <float[3,1] w = {1.0, 2.0, 3.0}> { y = MatMul(x, w) }')
    >>> [(anchor.kind, anchor.methods, anchor.work) for anchor in anchors(from_proto(proto))]
    [('MatMul', ('static', 'dynamic', 'weight'), 6)]
    """
    ensure_types(model)
    table = target_of(target)
    found = []
    for graph in model.scopes(functions=False):
        if is_opaque(graph):
            continue
        for node in graph:
            methods = () if node.domain else _methods(node, not isinstance(table.form(node, ()), str))
            if methods:
                found.append(Anchor(node.label, node.op, methods, _work(node)))
    return found


def _methods(node: Node, static: bool) -> tuple[str, ...]:
    if node.op in RECURRENT:
        return (DYNAMIC,) if node.op == "LSTM" and all(_constant(node, slot) for slot in (1, 2)) else ()
    if node.op in ("Conv", "ConvTranspose"):
        return (STATIC,) if static else ()
    if node.op not in PRODUCTS or not _constant(node, 1):
        return ()
    return (*((STATIC,) if static else ()), DYNAMIC, WEIGHT)


def _constant(node: Node, slot: int) -> bool:
    value = node.input(slot)
    return value is not None and value.is_const and value.dtype == TensorProto.FLOAT


def _work(node: Node) -> int:
    """Output elements times products each; unknown sizes count as 1."""
    weight, shape = node.input(1), node.output.shape
    if weight is None or weight.shape is None or shape is None or node.op in RECURRENT:
        return 0
    sizes = [size for size in weight.shape if isinstance(size, int)]
    count = 1
    for size in shape:
        count *= size if isinstance(size, int) else 1
    if node.op in PRODUCTS:
        across = sizes[-1] if not (node.op == "Gemm" and node.attr("transB")) else sizes[0]
        for size in sizes[-2:]:
            count *= size
        return count // max(across, 1)
    for size in sizes[1:]:
        count *= size
    if node.op == "ConvTranspose" and len(sizes) > 1:  # [C, M, ...]: each output has C products per tap and stride
        count = count * sizes[0] // max(sizes[1], 1)
        for step in node.attr("strides") or ():
            count //= max(step, 1)
    return count
