"""A model to be verified, as it was given: a proto or a file, with what the checks need to know about it."""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import onnx
from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, SparseTensorProto, TensorProto

from graphopt.errors import ExternalDataError, ModelError
from graphopt.ir.external import check_tensors, refill
from graphopt.ir.tensor import Store, folder_of

if TYPE_CHECKING:
    from graphopt.verify.deadly import Hazards
    from graphopt.verify.effort import Effort

__all__ = ["PROTO_LIMIT", "Source", "attribute_tensors", "bodies", "nested", "nodes_of", "scopes", "tensor_bytes"]

PROTO_LIMIT = 2**31 - 1  # protobuf serializes no message of 2 GiB or more
_ALLOCATE = {"Unique", "TfIdfVectorizer", "StringSplit", "StringNormalizer"}
_DIVIDE = {"Div", "Mod"}
_LOWEST: dict[int, int] = {
    TensorProto.INT8: -(2**7), TensorProto.INT16: -(2**15), TensorProto.INT32: -(2**31), TensorProto.INT64: -(2**63),
}  # fmt: skip
_WORD = 15  # bytes: shorter texts are held in place
_INLINE = 1024  # a tensor of fewer bytes stays in the proto when the weights move out


@dataclass(eq=False)
class Source:
    """A model given as a `ModelProto` or as the path of a file.

    proto: the model; of a file, without its external data. path: the file, or None. name: for messages. memory: bytes
    that running it may take, None for what `limits.allowance` says.
    """

    proto: ModelProto
    path: Path | None = None
    name: str = "model"
    memory: int | None = None
    _temporary: list[weakref.finalize[..., Source]] = field(default_factory=list, repr=False)

    @classmethod
    def of(cls, model: Any) -> Source:
        """Wrap a ModelProto, a path, or whatever `graphopt.interop.model_of` takes. Raises `ModelError` when a file is
        missing, unreadable or not ONNX, `GraphoptError` for what is no model."""
        if isinstance(model, Source):
            return model
        if isinstance(model, ModelProto):
            return cls(model, None, model.graph.name or "model")._checked()
        if not isinstance(model, (str, os.PathLike)):  # a graphopt Model, or another library's
            from graphopt import interop, ir

            proto = ir.to_proto(interop.model_of(model, "verify"), whole=True)
            return cls(proto, None, proto.graph.name or "model")._checked()
        path = Path(model)
        try:
            proto = onnx.load_model(path, format="protobuf", load_external_data=False)
        except OSError as error:
            raise ModelError(f"{path}: cannot be read ({error.strerror or error})") from error
        except Exception as error:  # protobuf's DecodeError, whose class depends on protobuf's backend
            raise ModelError(f"{path}: not an ONNX file, or a truncated one") from error
        if not proto.HasField("graph"):
            raise ModelError(f"{path}: not an ONNX file: it holds no graph")
        return cls(proto, path, path.name)._checked()

    def _checked(self) -> Source:
        """Itself, once its external data is known to be what graphopt reads (docs/security.md): the runtime gets the
        file, and releases of it differ in what they refuse."""
        try:
            check_tensors(self.tensors(), self.store.files)
        except ExternalDataError as error:
            raise ExternalDataError(f"{self.path or self.name}: {error}") from None
        return self

    @cached_property
    def store(self) -> Store:
        """Its external data files; a proto's are relative to the current folder."""
        return Store() if self.path is None else Store(folder=folder_of(self.path), path=str(self.path))

    def copy(self) -> ModelProto:
        """A copy of the model to be changed, with its external data in it. Raises `ModelError` when they are
        missing."""
        model = ModelProto()
        model.CopyFrom(self.proto)
        for tensor in Source(model).tensors() if self.path is not None else ():
            self.embed(tensor)
        return model

    def embed(self, tensor: TensorProto) -> None:
        """Puts external data of this model into the tensor. Raises `ModelError` when they are missing."""
        if tensor.data_location == TensorProto.EXTERNAL:
            refill(tensor, bytes(self.store.external(tensor)))

    @cached_property
    def weight_bytes(self) -> int:
        """Bytes of all tensors: initializers, constants, external data, those of bodies and functions included."""
        return sum(tensor_bytes(tensor) for tensor in self.tensors())

    @cached_property
    def dense_bytes(self) -> int:
        """Bytes of all sparse tensors once they are written out."""
        return sum(8 * max(0, _product(sparse.dims)) for sparse in self._sparse_tensors())

    @cached_property
    def has_negative_sizes(self) -> bool:
        """Whether a runtime's shape inference would end the process over it; see `graphopt.analysis.negative`."""
        from graphopt.analysis.shapes import has_negative_sizes

        try:
            return has_negative_sizes(self.proto)
        except Exception:  # noqa: BLE001 - a model that cannot be read is for the runtime to refuse
            return False

    @cached_property
    def effort(self) -> Effort:
        """What its dearest operator costs."""
        from graphopt.verify.effort import Effort

        return Effort(self.proto)

    @cached_property
    def hazards(self) -> Hazards:
        """Whether, and on which inputs, a runtime that runs it would end the process."""
        from graphopt.verify.deadly import Hazards

        return Hazards(self.proto)

    @cached_property
    def is_risky(self) -> bool:
        """Whether a run may end the process: texts of more than a word and some sets take memory past the runtime's
        arena; the lowest integer divided by -1 traps."""
        nodes = [node for scope in scopes(self.proto) for node in nodes_of(scope)]
        ops = {node.op_type for node in nodes}
        if ops & _ALLOCATE or any(v.type.tensor_type.elem_type == TensorProto.STRING for v in self.proto.graph.input):
            return True
        if any(len(text) > _WORD for tensor in self.tensors() for text in tensor.string_data):
            return True
        entries = [entry for node in nodes for entry in node.attribute]
        if any(len(text) > _WORD for entry in entries for text in (entry.s, *entry.strings)):
            return True
        lowest = any(entry.i == -(2**63) for entry in entries) or any(map(_holds_lowest, self.tensors()))
        return bool(ops & _DIVIDE) and lowest

    def _sparse_tensors(self) -> Iterator[SparseTensorProto]:
        for scope in scopes(self.proto):
            yield from getattr(scope, "sparse_initializer", ())
            for node in nodes_of(scope):
                yield from (a.sparse_tensor for a in node.attribute if a.type == AttributeProto.SPARSE_TENSOR)

    @cached_property
    def node_count(self) -> int:
        """Nodes in all scopes."""
        return sum(len(nodes_of(scope)) for scope in scopes(self.proto))

    def tensors(self) -> Iterator[TensorProto]:
        """Every tensor of the model: initializers of all scopes and tensor attributes."""
        for scope in scopes(self.proto):
            if isinstance(scope, GraphProto):
                yield from scope.initializer
                for sparse in scope.sparse_initializer:
                    yield from (sparse.values, sparse.indices)
            for node in nodes_of(scope):
                yield from attribute_tensors(node)

    def opset(self, domain: str = "") -> int:
        """The version of `domain` that the model imports, 0 for none."""
        aliases = ("", "ai.onnx") if domain in ("", "ai.onnx") else (domain,)
        return max((entry.version for entry in self.proto.opset_import if entry.domain in aliases), default=0)

    def loadable(self) -> bytes | str:
        """What a runtime can load: the file's path, the serialized proto, or a temporary file for a proto over 2 GiB.

        Temporary files live until `close`, or as long as this object.
        """
        if self.path is not None:
            return str(self.path)
        if self.proto.ByteSize() < PROTO_LIMIT:
            return self.proto.SerializeToString()
        folder = tempfile.mkdtemp(prefix=f"graphopt-verify-{os.getpid()}-")
        self._temporary.append(weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True))
        return _write_split(self.proto, Path(folder))

    def close(self) -> None:
        """Remove the temporary files."""
        while self._temporary:
            self._temporary.pop()()


def nodes_of(scope: GraphProto | FunctionProto) -> list[NodeProto]:
    """The nodes of one scope, bodies not included."""
    return list(scope.node)


def bodies(node: NodeProto) -> Iterator[GraphProto]:
    """The graphs that `node` holds as attributes."""
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield attribute.g
        elif attribute.type == AttributeProto.GRAPHS:
            yield from attribute.graphs


def scopes(model: ModelProto) -> Iterator[GraphProto | FunctionProto]:
    """The main graph, the functions, and every body below them, each once."""
    return nested(model.graph, *model.functions)


def nested(*roots: GraphProto | FunctionProto) -> Iterator[GraphProto | FunctionProto]:
    """These scopes and every body below them, each once."""
    waiting = list(roots)
    while waiting:
        scope = waiting.pop()
        yield scope
        for node in scope.node:
            waiting += bodies(node)


def _holds_lowest(tensor: TensorProto) -> bool:
    lowest = _LOWEST.get(tensor.data_type)
    if lowest is None:
        return False
    width = max(1, -lowest.bit_length() // -8)
    return lowest.to_bytes(width, "little", signed=True) in tensor.raw_data or lowest in (
        tensor.int64_data if tensor.data_type == TensorProto.INT64 else tensor.int32_data
    )


def attribute_tensors(node: NodeProto) -> Iterator[TensorProto]:
    """The tensors that `node` holds as attributes (values and indices of the sparse ones)."""
    for attribute in node.attribute:
        if attribute.type == AttributeProto.TENSOR:
            yield attribute.t
        elif attribute.type == AttributeProto.TENSORS:
            yield from attribute.tensors
        elif attribute.type == AttributeProto.SPARSE_TENSOR:
            yield from (attribute.sparse_tensor.values, attribute.sparse_tensor.indices)


def tensor_bytes(tensor: TensorProto) -> int:
    """Bytes of the tensor's data, wherever they are (to within its header's few bytes, and without copying them)."""
    if tensor.data_location == TensorProto.EXTERNAL:
        length = next((entry.value for entry in tensor.external_data if entry.key == "length"), "")
        return int(length) if length.isdigit() else 4 * _product(tensor.dims)
    return tensor.ByteSize()


def _product(dims: Iterable[int]) -> int:
    total = 1
    for dim in dims:
        total *= dim
    return total


def _write_split(model: ModelProto, folder: Path) -> str:
    """Write `model` as a small file plus one data file, without copying or changing `model`; returns its path."""
    small = ModelProto()
    for name, value in model.ListFields():
        if name.name not in ("graph", "functions"):
            _copy_field(small, name.name, value)
    small.functions.extend(model.functions)
    for name, value in model.graph.ListFields():
        if name.name != "initializer":
            _copy_field(small.graph, name.name, value)
    with open(folder / "weights.bin", "wb") as data:
        for tensor in model.graph.initializer:
            _add_split(small.graph.initializer.add(), tensor, data)
    path = folder / "model.onnx"
    path.write_bytes(small.SerializeToString())
    return str(path)


def _copy_field(target: ModelProto | GraphProto, name: str, value: object) -> None:
    if hasattr(value, "CopyFrom"):
        getattr(target, name).CopyFrom(value)
    elif isinstance(value, (str, int, bytes)):
        setattr(target, name, value)
    else:
        getattr(target, name).extend(value)


def _add_split(target: TensorProto, tensor: TensorProto, data: BinaryIO) -> None:
    raw = tensor.raw_data if tensor.ByteSize() > _INLINE else b""
    if len(raw) < _INLINE:
        target.CopyFrom(tensor)
        return
    target.name, target.data_type, target.data_location = tensor.name, tensor.data_type, TensorProto.EXTERNAL
    target.dims.extend(tensor.dims)
    offset = data.tell()
    data.write(raw)
    for key, value in (("location", "weights.bin"), ("offset", str(offset)), ("length", str(len(raw)))):
        target.external_data.add(key=key, value=value)
