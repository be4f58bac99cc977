"""Sizes for a model's dynamic dimensions, and the shapes that follow from them."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from graphopt.analysis.cost import Sizes
from graphopt.analysis.shapes import infer
from graphopt.errors import GraphoptError

if TYPE_CHECKING:
    from onnx import TypeProto

    from graphopt.ir import Model, Value

# onnx aborts the whole process when a Slice gets a negative dimension, which is what its Conv infers for an image
# smaller than the kernel (a failed std::clamp assertion in onnx 1.23). So the made-up sizes are tried in a child first.
_PROBE = """
import sys
from onnx import ModelProto, shape_inference
model = ModelProto.FromString(sys.stdin.buffer.read())
shape_inference.infer_shapes(model, data_prop=True)
"""


# Operators whose output shape follows from their input shapes alone.
_BY_SHAPE = frozenset(("Add", "AveragePool", "Concat", "Conv", "Div", "Gemm", "MatMul", "MaxPool", "Mul", "Sub"))


def dimensions(model: Model, bindings: Mapping[str, int]) -> dict[str, int]:
    """The named dynamic dimensions of the inputs with their sizes: bound, or 1.

    Raises GraphoptError for a binding that no dimension goes by.
    """
    sizes = Sizes(bindings)
    dims = [dim for value in model.graph.inputs for dim in value.shape or () if isinstance(dim, str)]
    words = {word for dim in dims for word in (dim, *re.findall(r"\w+", dim))}
    for name in bindings:
        if name not in words:
            has = f"it has {', '.join(dict.fromkeys(dims))}" if dims else "it has none"
            raise GraphoptError(f"the inputs have no dimension named {name!r}: {has}")
    return {dim: sizes.dim(dim) for dim in dims}


def bind(model: Model, bindings: Mapping[str, int]) -> tuple[Model, bool]:
    """Infers shapes with every input dimension of a fixed size: bound, or 1.

    Returns the model and True, or a copy with shapes inferred from the symbols and False where the sizes do not suit
    the model's operators (an image smaller than a kernel, say).
    """
    if all(isinstance(dim, int) for value in model.graph.inputs for dim in value.shape or ()):
        infer(model)
        return model, True
    symbolic = model.clone()
    infer(symbolic)
    _fix(model, Sizes(bindings))
    if any(node.op == "Slice" for graph in model.scopes() for node in graph) and not _survives(model):
        return symbolic, False
    infer(model)
    return (symbolic, False) if _is_wrong(model, symbolic) else (model, True)


def sizes_of(model: Model, bindings: Mapping[str, int]) -> Sizes:
    """Shapes in numbers: inferred ones, else what the file says of a value (behind operators unknown to onnx)."""
    declared: dict[str, TypeProto] = {
        v.name: v.type for v in (*model.proto.graph.value_info, *model.proto.graph.output)
    }

    def shape_of(value: Value) -> tuple[int | str | None, ...] | None:
        if value.shape is None and value.graph is model.graph and value.name in declared:
            value.set_type(declared[value.name])
        return value.shape

    return Sizes(bindings, shape_of=shape_of)


def _fix(model: Model, sizes: Sizes) -> None:
    """Writes numbers for dynamic dims into the inputs' declarations."""
    infos = {info.name: info for info in model.proto.graph.input}
    for value in model.graph.inputs:
        info = infos[value.name]
        for dim in info.type.tensor_type.shape.dim:
            if not dim.HasField("dim_value") or dim.dim_value < 0:  # some exporters write -1
                dim.dim_value = sizes.dim(dim.dim_param) if dim.dim_param else sizes.default
        value.set_type(info.type)


def _survives(model: Model) -> bool:
    skeleton = model.commit().SerializeToString()
    probe = subprocess.run([sys.executable, "-c", _PROBE], input=skeleton, capture_output=True, check=False)
    return probe.returncode == 0


def _is_wrong(bound: Model, symbolic: Model) -> bool:
    """Whether inference failed on the sizes: a negative dimension, a rank that only the symbols give, or no
    result for an operator that needs nothing but known shapes."""
    for graph, other in zip(bound.scopes(), symbolic.scopes(), strict=True):
        for node, twin in zip(graph, other, strict=True):
            if node.op in _BY_SHAPE and not node.domain and not _known(node.outputs[:1]) and _known(node.inputs):
                return True
            for value, named in zip(node.outputs, twin.outputs, strict=True):
                if value.shape is None and named.shape is not None:
                    return True
                if any(isinstance(dim, int) and dim < 0 for dim in value.shape or ()):
                    return True
    return False


def _known(values: Iterable[Value | None]) -> bool:
    shapes = [value.shape for value in values if value is not None]
    return all(shape is not None and all(isinstance(dim, int) for dim in shape) for shape in shapes)
