"""What a model asks of its caller: the inputs to feed, their kinds, types and dimensions."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import isfinite

from onnx import GraphProto, ModelProto, TensorProto, TypeProto, ValueInfoProto

__all__ = ["Dim", "InputSpec", "input_specs", "overridable", "sizes_of", "symbols_of"]

Dim = int | str  # a size, or the name of a symbol; a dimension without name gets one of its own: "input[axis]"

_ANONYMOUS = {"", "?", "None", "none", "-1", "unknown"}  # what exporters write where they know no name


@dataclass(frozen=True)
class InputSpec:
    """One input that has to be fed.

    wraps: the kinds around the innermost type, outermost first, of "optional" and "sequence". leaf: "tensor", "sparse"
    or "map". elem_type: ONNX element type of the tensor, or of the map's values. key_type: of a map's keys. dims: of
    the tensor; None when even the rank is unknown.
    """

    name: str
    wraps: tuple[str, ...] = ()
    leaf: str = "tensor"
    elem_type: int = TensorProto.FLOAT
    key_type: int = 0
    dims: tuple[Dim, ...] | None = None


def overridable(graph: GraphProto) -> list[ValueInfoProto]:
    """The graph inputs that have a default: initializers that the caller may override."""
    defaults = {tensor.name for tensor in graph.initializer}
    defaults.update(sparse.values.name for sparse in graph.sparse_initializer)
    return [value for value in graph.input if value.name in defaults]


def input_specs(model: ModelProto) -> list[InputSpec]:
    """The inputs that have no default, in their order."""
    skip = {value.name for value in overridable(model.graph)}
    return [_spec(value) for value in model.graph.input if value.name not in skip]


def _spec(value: ValueInfoProto) -> InputSpec:
    kind, wraps = value.type, []
    while kind.WhichOneof("value") in ("optional_type", "sequence_type"):
        wraps.append("optional" if kind.HasField("optional_type") else "sequence")
        kind = kind.optional_type.elem_type if wraps[-1] == "optional" else kind.sequence_type.elem_type
    if kind.HasField("map_type"):
        inner = kind.map_type.value_type.tensor_type.elem_type
        return InputSpec(value.name, tuple(wraps), "map", inner, kind.map_type.key_type, ())
    leaf = "sparse" if kind.HasField("sparse_tensor_type") else "tensor"
    tensor = kind.sparse_tensor_type if leaf == "sparse" else kind.tensor_type
    return InputSpec(value.name, tuple(wraps), leaf, tensor.elem_type, 0, _dims(value.name, tensor))


def _dims(name: str, tensor: TypeProto.Tensor | TypeProto.SparseTensor) -> tuple[Dim, ...] | None:
    if not tensor.HasField("shape"):
        return None
    dims: list[Dim] = []
    for axis, dim in enumerate(tensor.shape.dim):
        if dim.HasField("dim_value") and dim.dim_value >= 0:
            dims.append(dim.dim_value)
        else:
            dims.append(dim.dim_param if dim.dim_param not in _ANONYMOUS else f"{name}[{axis}]")
    return tuple(dims)


_LONGEST = 256  # characters of an expression: Python's parser runs out of stack on some that are long enough


def symbols_of(specs: Iterable[InputSpec]) -> list[str]:
    """The free symbols of `specs`, in order; a dimension such as "past + 1" is none where "past" stands alone too."""
    named = [dim for spec in specs for dim in spec.dims or () if isinstance(dim, str)]
    known = set(named)
    return [dim for dim in dict.fromkeys(named) if not _terms(dim) or not _terms(dim) <= known - {dim}]


def sizes_of(dims: Iterable[Dim], binding: Mapping[str, int]) -> tuple[int, ...]:
    """The sizes of `dims` under `binding`: symbols looked up, sums and products of symbols computed (never below 0).

    >>> sizes_of((1, "batch", "past + 1"), {"batch": 2, "past": 3})
    (1, 2, 4)
    """
    return tuple(dim if isinstance(dim, int) else _size(dim, binding) for dim in dims)


def _size(dim: str, binding: Mapping[str, int]) -> int:
    if dim in binding:
        return binding[dim]
    return max(0, _evaluate(dim, binding))


def _tree(dim: str) -> ast.expr | None:
    if len(dim) > _LONGEST:
        return None
    try:
        return ast.parse(dim.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _terms(dim: str) -> set[str]:
    """The names in `dim` when it is an arithmetic expression over names, else nothing."""
    tree = _tree(dim)
    if tree is None or isinstance(tree, (ast.Name, ast.Constant)):
        return set()
    allowed = (ast.BinOp, ast.Name, ast.Constant, ast.Load, ast.Add, ast.Sub, ast.Mult, ast.FloorDiv, ast.Div)
    nodes = list(ast.walk(tree))
    return (
        {node.id for node in nodes if isinstance(node, ast.Name)}
        if all(isinstance(n, allowed) for n in nodes)
        else set()
    )


def _evaluate(dim: str, binding: Mapping[str, int]) -> int:
    """The value of an expression, worked bottom up (reverse of the breadth-first order); 1 for what is none."""
    tree = _tree(dim)
    if tree is None:
        return 1
    values: dict[ast.AST, int] = {}
    for node in reversed(list(ast.walk(tree))):
        if isinstance(node, ast.Name):
            values[node] = binding.get(node.id, 1)
        elif isinstance(node, ast.Constant):
            values[node] = int(node.value) if isinstance(node.value, (int, float)) and isfinite(node.value) else 1
        elif isinstance(node, ast.BinOp):
            values[node] = _apply(node.op, values.get(node.left, 1), values.get(node.right, 1))
    return values.get(tree, 1)


def _apply(operator: ast.operator, left: int, right: int) -> int:
    if isinstance(operator, ast.Add):
        return left + right
    if isinstance(operator, ast.Sub):
        return left - right
    return left * right if isinstance(operator, ast.Mult) else left // max(right, 1)
