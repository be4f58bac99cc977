"""What a model must be before anything is done with it: faults that would show much later, or be taken for ours."""

from __future__ import annotations

from onnx import defs

from graphopt.errors import ModelError
from graphopt.ir import dtypes, schema
from graphopt.ir.model import Model
from graphopt.ir.node import Value
from graphopt.ir.order import is_sorted, sort

# Operators that ONNX Runtime takes in the default domain although no opset has them, or not yet at this version.
_RUNTIME_OWN = frozenset(
    "LayerNormalization SimplifiedLayerNormalization ATen Affine Crop DynamicSlice GRUUnit GivenTensorFill "
    "ImageScaler ParametricSoftplus Scale ScaledTanh ThresholdedRelu MemcpyFromHost MemcpyToHost".split()
)


def validate(model: Model) -> None:
    """Operators exist, tensors are as large as they say, no node waits for itself.

    Raises ModelError naming the first node or tensor at fault. Operators of other domains are taken as they are.
    """
    known: dict[tuple[str, int], bool] = {}
    in_order = True
    functions = {key[:2] for key in model.functions}
    for graph in model.scopes():
        for value in graph.initializers.values():
            _check_tensor(value)
        opset = graph.opset()
        for node in graph:
            if node.domain:
                continue
            key = (node.op, opset)
            if key not in known:
                known[key] = ("", node.op) in functions or _is_operator(node.op, opset)
            if not known[key]:
                raise ModelError(f"node {node.label!r} uses operator {node.op!r}{_why_not(node.op, opset)}")
        if not is_sorted(graph):
            in_order = False
            sort(graph)  # raises on a cycle
    if in_order:
        model.facts["sorted"] = model.version


def _check_tensor(value: Value) -> None:
    tensor = value.tensor
    assert tensor is not None
    if any(dim < 0 for dim in tensor.shape):
        raise ModelError(f"tensor {value.name!r} has a negative dim in {list(tensor.shape)}; export the model again")
    try:
        dtypes.to_numpy(tensor.dtype)
    except (KeyError, TypeError, ValueError):
        raise ModelError(
            f"tensor {value.name!r} has element type {tensor.dtype}, which this onnx release does not know; "
            "upgrade onnx, or export the model again"
        ) from None
    if tensor.is_external:
        return
    raw = tensor.raw()
    if raw is not None and len(raw) != tensor.nbytes:
        raise ModelError(
            f"tensor {value.name!r} holds {len(raw)} bytes where its type and dims {list(tensor.shape)} take "
            f"{tensor.nbytes}; the file is damaged: export or copy it again"
        )


def _is_operator(op: str, opset: int) -> bool:
    return op in _RUNTIME_OWN or opset > schema.latest_opset() or bool(defs.has(op, opset, ""))


def _why_not(op: str, opset: int) -> str:
    versions = [s.since_version for s in defs.get_all_schemas_with_history() if s.name == op and not s.domain]
    if versions:
        return f", which is new in opset {min(versions)}; the model imports {opset}: export it with a later opset"
    return f", which ONNX does not have in opset {opset}; is a custom operator's domain missing?"
