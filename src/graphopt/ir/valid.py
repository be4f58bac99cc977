"""What a model must be before anything is done with it: faults that would show much later, or be taken for ours."""

from __future__ import annotations

from math import prod

from onnx import AttributeProto, GraphProto, SparseTensorProto, TensorProto, defs

from graphopt.errors import ModelError
from graphopt.ir import dtypes, schema
from graphopt.ir.calls import check_calls
from graphopt.ir.external import shown
from graphopt.ir.model import Model
from graphopt.ir.node import Node
from graphopt.ir.order import is_sorted, sort
from graphopt.ir.tensor import Store, Tensor

# Operators that ONNX Runtime takes in the default domain although no opset has them, or not yet at this version.
_RUNTIME_OWN = frozenset(
    "LayerNormalization SimplifiedLayerNormalization ATen Affine Crop DynamicSlice GRUUnit GivenTensorFill "
    "ImageScaler ParametricSoftplus Scale ScaledTanh ThresholdedRelu MemcpyFromHost MemcpyToHost".split()
)
_VERSIONS = 1 << 31
_ELEMENTS = 1 << 48  # of a sparse tensor written out: no machine can
_WIDTHS: dict[int, int] = {
    TensorProto.FLOAT: 4, TensorProto.INT64: 8, TensorProto.INT32: 4, TensorProto.FLOAT16: 2, TensorProto.DOUBLE: 8,
    TensorProto.INT8: 1, TensorProto.UINT8: 1, TensorProto.BOOL: 1,
}  # fmt: skip
_WITH_TENSOR = ("Constant", "ConstantOfShape")


def validate(model: Model) -> None:
    """Operators exist, tensors are as large as they say, no node waits for itself.

    Raises ModelError naming the first node or tensor at fault. Operators of other domains are taken as they are.
    """
    _check_opset(model)
    check_calls(model)
    known: dict[tuple[str, int], bool] = {}
    in_order = True
    functions = {key[:2] for key in model.functions}
    for graph in model.scopes():
        for value in graph.initializers.values():
            assert value.tensor is not None
            if not _is_plain(value.tensor.proto):
                _check_tensor(value.tensor, value.name)
        if isinstance(graph.proto, GraphProto):
            for sparse in graph.proto.sparse_initializer:
                _check_sparse(sparse, model.store, sparse.values.name)
        opset = graph.opset()
        for node in graph:
            if node.domain:
                continue
            if node.op in _WITH_TENSOR:
                _check_constant(node, model.store)
            key = (node.op, opset)
            if key not in known:
                known[key] = ("", node.op) in functions or _is_operator(node.op, opset)
            if not known[key]:
                raise ModelError(f"node {shown(node.label)} uses operator {shown(node.op)}{_why_not(node.op, opset)}")
        if not is_sorted(graph):
            in_order = False
            sort(graph)  # raises on a cycle
    if in_order:
        model.facts["sorted"] = model.version


def _check_opset(model: Model) -> None:
    """Versions are small numbers: onnx keeps them in 32 bits, and raises TypeError for more."""
    for entry in [*model.proto.opset_import, *(i for f in model.proto.functions for i in f.opset_import)]:
        if not -_VERSIONS <= entry.version < _VERSIONS:
            raise ModelError(
                f"the model imports version {entry.version} of operator set {shown(entry.domain)}, which cannot be; "
                "the file is damaged: export or copy it again"
            )


def _check_constant(node: Node, store: Store) -> None:
    for attribute in node.proto.attribute:
        if attribute.type == AttributeProto.TENSOR:
            if not _is_plain(attribute.t):
                _check_tensor(Tensor(attribute.t, store), node.label)
        elif attribute.type == AttributeProto.SPARSE_TENSOR:
            _check_sparse(attribute.sparse_tensor, store, node.label)


def _check_sparse(sparse: SparseTensorProto, store: Store, name: str) -> None:
    if any(dim < 0 for dim in sparse.dims) or prod(sparse.dims) >= _ELEMENTS:
        dims = shown(list(sparse.dims))
        raise ModelError(f"sparse tensor {shown(name)} has dims {dims}, which cannot be; export the model again")
    for part in (sparse.values, sparse.indices):
        _check_tensor(Tensor(part, store), name)


def _is_plain(proto: TensorProto) -> bool:
    """Whether a tensor is of a common type and holds just the bytes that it says: quick, for most of them."""
    width = _WIDTHS.get(proto.data_type)
    if width is None:
        return False
    count = width
    for dim in proto.dims:
        if dim < 0:
            return False
        count *= dim
    return bool(count == len(proto.raw_data) and count > 0)


def _check_tensor(tensor: Tensor, name: str) -> None:
    if any(dim < 0 for dim in tensor.shape):
        dims = shown(list(tensor.shape))
        raise ModelError(f"tensor {shown(name)} has a negative dim in {dims}; export the model again")
    try:
        dtypes.to_numpy(tensor.dtype)
    except (KeyError, TypeError, ValueError):
        raise ModelError(
            f"tensor {shown(name)} has element type {tensor.dtype}, which this onnx release does not know; "
            "upgrade onnx, or export the model again"
        ) from None
    if tensor.is_external:
        return
    raw = tensor.raw()
    held, wanted, what = (0, 0, "values") if raw is None else (len(raw), tensor.nbytes, "bytes")
    if raw is None:
        held, wanted = dtypes.entries(tensor.proto), dtypes.entries_wanted(tensor.dtype, prod(tensor.shape))
    if held != wanted:
        raise ModelError(
            f"tensor {shown(name)} holds {held} {what} where its type and dims {shown(list(tensor.shape))} take "
            f"{shown(wanted)}; the file is damaged: export or copy it again"
        )


def _is_operator(op: str, opset: int) -> bool:
    return op in _RUNTIME_OWN or opset > schema.latest_opset() or bool(defs.has(op, opset, ""))


def _why_not(op: str, opset: int) -> str:
    versions = [s.since_version for s in defs.get_all_schemas_with_history() if s.name == op and not s.domain]
    if versions:
        return f", which is new in opset {min(versions)}; the model imports {opset}: export it with a later opset"
    return f", which ONNX does not have in opset {opset}; is a custom operator's domain missing?"
