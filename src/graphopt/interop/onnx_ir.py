"""onnx_ir.Model: in and out without copying weights.

onnx_ir keeps what ONNX says but sparse constants, maps and training information; tensors may be any array or a part of
a file. Its serializer copies every array into protobuf, so large ones are taken out for the time it runs, and their
views go straight into the model's store.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from typing import Any, ClassVar

import numpy as np
from onnx import TensorProto

from graphopt.interop.adapter import Adapter, Request, finish, library
from graphopt.ir import Model, Store, Tensor, dtypes
from graphopt.ir.wire import BIG, token_index

__all__ = ["OnnxIr"]

_STRING = TensorProto.STRING


class OnnxIr(Adapter):
    """Models of onnx_ir."""

    package: ClassVar[str] = "onnx_ir"
    extra: ClassVar[str] = "ir"
    types: ClassVar[tuple[tuple[str, str], ...]] = (("onnx_ir", "Model"),)
    shown: ClassVar[tuple[str, ...]] = ("an onnx_ir.Model",)

    def to_model(self, given: Any, request: Request) -> Model:
        """The model; large arrays and files are viewed, not copied, and must not change as long as it is in use."""
        self.refuse_export(request)
        return self.read(given)

    def read(self, given: Any) -> Model:
        """The same for other adapters."""
        onnx_ir = library("onnx_ir", self.extra)
        places = list(_places(given))
        external = [t for t in (place.get() for place in places) if isinstance(t, onnx_ir.ExternalTensor)]
        folders = {os.path.realpath(tensor.base_dir or ".") for tensor in external}
        store = Store(folder=os.fspath(external[0].base_dir) if len(folders) == 1 else "")
        swapped: list[tuple[_Place, Any]] = []
        stands: dict[int, Any] = {}
        try:
            with self.asking("serialize this model"):
                for place in places:
                    tensor = place.get()
                    if tensor is None or not _apart(onnx_ir, tensor, len(folders) > 1):
                        continue
                    if id(tensor) not in stands:
                        stands[id(tensor)] = _stand_in(onnx_ir, tensor, store)
                    swapped.append((place, place.kept()))
                    place.put(stands[id(tensor)])
                proto = onnx_ir.serde.serialize_model(given)
        finally:
            for place, kept in swapped:
                place.restore(kept)
        for tensor in (t for graph in _protos(proto.graph) for t in graph.initializer if len(t.metadata_props) > 1):
            entries = {entry.key: entry.value for entry in tensor.metadata_props}  # onnx_ir 1.1 writes each twice
            del tensor.metadata_props[:]
            for key, text in entries.items():
                tensor.metadata_props.add(key=key, value=text)
        return finish(proto, store)

    def from_model(self, model: Model) -> tuple[Any, list[str]]:
        """An onnx_ir.Model, whose tensors are views of the model's payloads, or onnx_ir's own external tensors."""
        onnx_ir = library("onnx_ir", self.extra)
        copy = model.clone()
        with self.asking("hold this model"):
            made = onnx_ir.serde.deserialize_model(copy.commit())
            for place in _places(made):
                old = place.get()
                new = _viewed(onnx_ir, old, copy.store)
                if new is not old:
                    place.put(new)
            for node in _nodes(made):
                _fill_lists(node, copy.store)
        return made, self.compared(model, partial(self.read, made))


def _apart(onnx_ir: Any, tensor: Any, scattered: bool) -> bool:
    """Whether a tensor goes around the serializer."""
    if isinstance(tensor, onnx_ir.ExternalTensor):
        return scattered
    raw = getattr(tensor, "raw", None)
    if isinstance(raw, TensorProto) and not raw.HasField("raw_data"):
        return False  # in a typed field: it keeps its form
    return bool(tensor.dtype.value != _STRING and tensor.nbytes >= BIG)


def _stand_in(onnx_ir: Any, tensor: Any, store: Store) -> Any:
    kind, raw = int(tensor.dtype.value), getattr(tensor, "raw", None)
    proto = TensorProto(name=tensor.name or "", data_type=kind, dims=tuple(tensor.shape.numpy()))
    if tensor.doc_string:
        proto.doc_string = tensor.doc_string
    if isinstance(raw, TensorProto) and raw.HasField("raw_data"):
        payload: Any = raw.raw_data
    elif kind in dtypes.NARROW:
        payload = tensor.tobytes()
    else:
        payload = np.ascontiguousarray(tensor.numpy()).reshape(-1).view(np.uint8).data
    proto.raw_data = store.add(payload) if len(payload) >= BIG else bytes(payload)
    made = onnx_ir.serde.TensorProtoTensor(proto)
    made.metadata_props.update(tensor.metadata_props)
    return made


def _viewed(onnx_ir: Any, tensor: Any, store: Store) -> Any:
    """A tensor that onnx_ir made of a proto, with its payload where it really is."""
    if isinstance(tensor, onnx_ir.ExternalTensor):
        tensor.base_dir = store.folder
        return tensor
    proto = getattr(tensor, "raw", None)
    if not isinstance(proto, TensorProto) or token_index(proto.raw_data) is None:
        return tensor
    held, kind = Tensor(proto, store), onnx_ir.DataType(proto.data_type)
    words = {"name": proto.name, "doc_string": proto.doc_string or None, "metadata_props": dict(tensor.metadata_props)}
    raw = held.raw()
    assert raw is not None
    if proto.data_type not in dtypes.NARROW:
        return onnx_ir.Tensor(held.numpy(), dtype=kind, shape=onnx_ir.Shape(held.shape), **words)
    if hasattr(onnx_ir, "PackedTensor"):
        return onnx_ir.PackedTensor(np.frombuffer(raw, np.uint8), kind, shape=held.shape, **words)
    proto.raw_data = bytes(raw)
    return tensor


def _fill_lists(node: Any, store: Store) -> None:
    """Lists of tensors, which hardly any operator has, get their large payloads back."""
    for attribute in node.attributes.values():
        for tensor in attribute.value or () if attribute.type.name == "TENSORS" else ():
            proto = getattr(tensor, "raw", None)
            if isinstance(proto, TensorProto) and token_index(proto.raw_data) is not None:
                proto.raw_data = bytes(Tensor(proto, store).raw() or b"")


def _graphs(model: Any) -> Iterator[Any]:
    """Every graph that can hold initializers: the main one, and bodies at any depth."""
    pending = [model.graph, *model.functions.values()]
    while pending:
        graph = pending.pop()
        if hasattr(graph, "initializers"):
            yield graph
        for node in graph:
            pending += _bodies(node)


def _bodies(node: Any) -> list[Any]:
    found: list[Any] = []
    for attribute in node.attributes.values():
        if attribute.type.name == "GRAPH" and attribute.value is not None:
            found.append(attribute.value)
        elif attribute.type.name == "GRAPHS" and attribute.value is not None:
            found += attribute.value
    return found


def _nodes(model: Any) -> Iterator[Any]:
    pending = [model.graph, *model.functions.values()]
    while pending:
        for node in pending.pop():
            yield node
            pending += _bodies(node)


class _Place:
    """Where a model holds a tensor: an initializer's value, or a node's attribute."""

    def __init__(self, holder: Any, name: str, attribute: bool):
        self.holder, self.name, self.attribute = holder, name, attribute

    def kept(self) -> Any:
        return self.holder.attributes[self.name] if self.attribute else self.holder.const_value

    def restore(self, kept: Any) -> None:
        if self.attribute:
            self.holder.attributes[self.name] = kept
        else:
            self.holder.const_value = kept

    def get(self) -> Any:
        return self.kept().value if self.attribute else self.kept()

    def put(self, tensor: Any) -> None:
        if self.attribute:
            old = self.kept()
            self.restore(type(old)(self.name, old.type, tensor, doc_string=old.doc_string))
        else:
            self.restore(tensor)


def _places(model: Any) -> Iterator[_Place]:
    """Every tensor of a model that is by itself (not in a list)."""
    for graph in _graphs(model):
        yield from (_Place(value, value.name, False) for value in graph.initializers.values())
    for node in _nodes(model):
        for name, attribute in list(node.attributes.items()):
            if attribute.type.name == "TENSOR" and attribute.value is not None:
                yield _Place(node, name, True)


def _protos(graph: Any) -> Iterator[Any]:
    pending = [graph]
    while pending:
        scope = pending.pop()
        yield scope
        for node in scope.node:
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    pending.append(attribute.g)
                pending += attribute.graphs
