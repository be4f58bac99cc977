"""Bytes that a node reads and writes. Views (Reshape, Squeeze, Identity ...) are free.

A Gather reads what it picks, not the whole table; so do Slice, Split and their like. A Shape reads nothing of its
operand. The nodes of bodies count by themselves. Values of a type without a fixed size (strings, sequences) count
nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import prod
from typing import TYPE_CHECKING

from graphopt.analysis.cost.sizes import Sizes
from graphopt.ir.dtypes import payload_bytes

if TYPE_CHECKING:
    from graphopt.ir import Node, Value

# The result is the operand under another shape; runtimes share the memory.
VIEWS = frozenset("Constant Dropout Flatten Identity Optional OptionalGetElement Reshape Squeeze Unsqueeze".split())
_SHAPES_ALONE = frozenset(("Shape", "Size", "EyeLike", "RandomNormalLike", "RandomUniformLike", "OptionalHasElement"))
# Of their first operand they read as much as they write.
_PICKING = frozenset("CenterCropPad Gather GatherElements GatherND Slice Split".split())


def traffic(node: Node, sizes: Sizes | None = None) -> int | None:
    """Bytes read and written; None where a shape is not known. A weight counts each time.

    >>> from graphopt import ir
    >>> from graphopt.analysis.shapes import infer
    >>> from onnx import parser
    >>> text = 'g (float[N, 8] x) => (float[8, N] y) { a = Abs(x)  b = Identity(a)  y = Transpose(b) }'
    >>> model = ir.from_proto(parser.parse_model('<ir_version: 8, opset_import: ["": 17]> ' + text))
    >>> infer(model)
    >>> [traffic(node, Sizes({"N": 10})) for node in model.graph]
    [640, 0, 640]
    """
    sizes = sizes if sizes is not None else Sizes()
    if is_view(node) or node.subgraphs:
        return 0
    written = size_of(node.outputs, sizes)
    if written is None:
        return None
    if node.op in _SHAPES_ALONE and not node.domain:
        return written
    if node.op in _PICKING and not node.domain:
        indices = size_of(node.inputs[1:2], sizes)
        return None if indices is None else 2 * written + indices
    read = size_of(node.inputs, sizes)
    return None if read is None else read + written


def is_view(node: Node) -> bool:
    """Whether the result shares its operand's memory."""
    return node.op in VIEWS and not node.domain and not (node.op == "Dropout" and node.input(2) is not None)


def size_of(values: Iterable[Value | None], sizes: Sizes) -> int | None:
    """Bytes of all these values together; None where the shape of one is not known."""
    total = 0
    for value in values:
        if value is None or not value.name:
            continue
        shape, kind = sizes.of(value), value.dtype
        if shape is None or kind is None:
            if value.type is not None and not value.type.HasField("tensor_type"):
                continue  # a sequence: nobody knows how long
            return None
        total += payload_bytes(kind, prod(shape))
    return total
