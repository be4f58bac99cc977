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

from graphopt.errors import GraphoptError
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
        values = [value for graph in _graphs(given) for value in graph.initializers.values()]
        external = [v.const_value for v in values if isinstance(v.const_value, onnx_ir.ExternalTensor)]
        external += [t for t in _attribute_tensors(given) if isinstance(t, onnx_ir.ExternalTensor)]
        folders = {os.path.realpath(tensor.base_dir or ".") for tensor in external}
        store = Store(folder=os.fspath(external[0].base_dir) if len(folders) == 1 else "")
        if len(folders) > 1 and any(isinstance(t, onnx_ir.ExternalTensor) for t in _attribute_tensors(given)):
            raise GraphoptError(
                "attributes hold external data, and external data are in several folders; load them first "
                "(onnx_ir.external_data.load_to_model)"
            )
        swapped: list[tuple[Any, Any]] = []
        stands: dict[int, Any] = {}
        try:
            with self.asking("serialize this model"):
                for value in values:
                    tensor = value.const_value
                    if tensor is None or not _apart(onnx_ir, tensor, len(folders) > 1):
                        continue
                    if id(tensor) not in stands:
                        stands[id(tensor)] = _stand_in(onnx_ir, tensor, value.name, store)
                    swapped.append((value, tensor))
                    value.const_value = stands[id(tensor)]
                proto = onnx_ir.serde.serialize_model(given)
        finally:
            for value, tensor in swapped:
                value.const_value = tensor
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
            for graph in _graphs(made):
                for value in graph.initializers.values():
                    value.const_value = _viewed(onnx_ir, value.const_value, copy.store)
            for node in _nodes(made):
                _view_attributes(onnx_ir, node, copy.store)
        return made, self.compared(model, partial(self.read, made))


def _apart(onnx_ir: Any, tensor: Any, scattered: bool) -> bool:
    """Whether a tensor goes around the serializer."""
    if isinstance(tensor, onnx_ir.ExternalTensor):
        return scattered
    return bool(tensor.dtype.value != _STRING and tensor.nbytes >= BIG)


def _stand_in(onnx_ir: Any, tensor: Any, name: str, store: Store) -> Any:
    kind, raw = int(tensor.dtype.value), getattr(tensor, "raw", None)
    proto = TensorProto(name=name, data_type=kind, dims=tuple(tensor.shape.numpy()), doc_string=tensor.doc_string or "")
    if isinstance(raw, TensorProto) and raw.HasField("raw_data"):
        payload: Any = raw.raw_data
    elif kind in dtypes.NARROW or isinstance(raw, TensorProto):
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


def _view_attributes(onnx_ir: Any, node: Any, store: Store) -> None:
    for name, attribute in list(node.attributes.items()):
        if attribute.value is None:
            continue
        if attribute.type == onnx_ir.AttributeType.TENSOR:
            tensors: Any = _viewed(onnx_ir, attribute.value, store)
            changed = tensors is not attribute.value
        elif attribute.type == onnx_ir.AttributeType.TENSORS:
            tensors = [_viewed(onnx_ir, tensor, store) for tensor in attribute.value]
            changed = any(new is not old for new, old in zip(tensors, attribute.value, strict=True))
        else:
            continue
        if changed:
            node.attributes[name] = onnx_ir.Attr(name, attribute.type, tensors, doc_string=attribute.doc_string)


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


def _attribute_tensors(model: Any) -> Iterator[Any]:
    for node in _nodes(model):
        for attribute in node.attributes.values():
            if attribute.type.name == "TENSOR" and attribute.value is not None:
                yield attribute.value
            elif attribute.type.name == "TENSORS" and attribute.value is not None:
                yield from attribute.value


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
