"""onnx_graphsurgeon.Graph: in and out by its own importer and exporter, weights around them.

graphsurgeon keeps constants as protos until their values are asked for. Those of a model stay in the model's store
(`held.Held`), and while graphsurgeon exports, every constant is stood in for by a proto that is made here: large
values are then not copied, and types come out right that its exporter confuses (float8_e4m3fnuz). It has no scopes for
constants: each is exported with every graph that reads it, so that one used in two branches is there three times. That
is put right in the exported model.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any, ClassVar

import numpy as np
from onnx import GraphProto, ModelProto, TensorProto

from graphopt.errors import GraphoptError
from graphopt.interop.adapter import Adapter, Request, finish, library
from graphopt.ir import Model, Store, Tensor
from graphopt.ir.tensor import fill
from graphopt.ir.wire import BIG, token_index

__all__ = ["GraphSurgeon"]


class GraphSurgeon(Adapter):
    """Graphs of NVIDIA's onnx_graphsurgeon."""

    package: ClassVar[str] = "onnx_graphsurgeon"
    extra: ClassVar[str] = "graphsurgeon"
    types: ClassVar[tuple[tuple[str, str], ...]] = (("onnx_graphsurgeon", "Graph"),)
    shown: ClassVar[tuple[str, ...]] = ("an onnx_graphsurgeon.Graph",)

    def to_model(self, given: Any, request: Request) -> Model:
        """The graph; constants that it has not loaded stay where they are, arrays are viewed."""
        self.refuse_export(request)
        return self.read(given)

    def read(self, given: Any) -> Model:
        """The same."""
        gs = library("onnx_graphsurgeon", self.extra)
        if isinstance(given, getattr(gs, "Function", ())):
            raise GraphoptError("a Function of onnx_graphsurgeon is no model: give the Graph that it belongs to")
        from graphopt.interop.held import Held

        constants = list(_constants(gs, given))
        held = [c._values for c in constants if isinstance(c._values, Held)]
        outside = [values.store.files for values in held if Tensor(values.proto, values.store).is_external]
        store = Store()
        if len({id(files) for files in outside}) == 1:  # else what is in files is viewed like everything else
            store.files = outside[0]
        swapped: list[tuple[Any, Any]] = []
        try:
            with self.asking("export this graph"):
                for constant in constants:
                    values = constant._values
                    stand_in = _stand_in(constant, store)
                    if stand_in is not None:
                        swapped.append((constant, values))
                        constant._values = stand_in
                proto: ModelProto = gs.export_onnx(given)
        finally:
            for constant, values in swapped:
                constant._values = values
        _settle(proto.graph)
        return finish(proto, store)

    def from_model(self, model: Model) -> tuple[Any, list[str]]:
        """A graph whose large constants stay in the model's store until they are asked for."""
        gs = library("onnx_graphsurgeon", self.extra)
        from graphopt.interop.held import Held

        copy = model.clone()
        with self.asking("hold this model"):
            made = gs.import_onnx(copy.commit())
            for constant in _constants(gs, made):
                values = constant._values
                proto = getattr(values, "tensor", None)
                if not isinstance(proto, TensorProto):
                    continue
                if proto.data_location == TensorProto.EXTERNAL or token_index(proto.raw_data) is not None:
                    constant._values = Held(proto, copy.store, values.shape, values.dtype, values.nbytes)
                    constant.data_location = None
        return made, self.compared(model, partial(self.read, made))


def _stand_in(constant: Any, store: Store) -> Any:
    """What takes the place of a constant's values during the export, or None where they can stay."""
    from graphopt.interop.held import Held, StandIn

    values = constant._values
    if isinstance(values, Held):
        proto = TensorProto()
        proto.CopyFrom(values.proto)
        tensor = Tensor(values.proto, values.store)
        if not tensor.is_external or store.files is not values.store.files:
            raw = tensor.raw()
            assert raw is not None
            _carry(proto, raw, store)
        return StandIn(proto)
    if isinstance(values, np.ndarray):
        if constant._export_dtype is not None and constant._export_dtype != values.dtype:
            return None  # a conversion that the library does
        proto = TensorProto()
        fill(proto, values, constant.name, store)
        return StandIn(proto)
    whole = getattr(values, "tensor", None)
    if isinstance(whole, TensorProto) and whole.ByteSize() >= BIG and whole.HasField("raw_data"):
        light = TensorProto(name=whole.name, data_type=whole.data_type, dims=whole.dims, doc_string=whole.doc_string)
        light.metadata_props.extend(whole.metadata_props)
        _carry(light, whole.raw_data, store)
        return StandIn(light)
    return None


def _carry(proto: TensorProto, raw: Any, store: Store) -> None:
    proto.ClearField("external_data")
    proto.ClearField("data_location")
    proto.raw_data = store.add(raw) if len(raw) >= BIG else bytes(raw)


def _constants(gs: Any, graph: Any) -> Iterator[Any]:
    """Every constant of a graph, of its functions, of bodies and attributes, each once."""
    seen: set[int] = set()
    pending: list[Any] = [graph, *graph.functions]
    while pending:
        scope = pending.pop()
        found: list[Any] = [*scope.inputs, *scope.outputs]
        for node in scope.nodes:
            found += [*node.inputs, *node.outputs, *node.attrs.values()]
        found += vars(scope).get("attrs", {}).values()  # a function's defaults
        for item in found:
            if isinstance(item, gs.Graph) and id(item) not in seen:
                seen.add(id(item))
                pending.append(item)
            elif isinstance(item, gs.Constant) and id(item) not in seen:
                seen.add(id(item))
                yield item


def _settle(main: GraphProto) -> None:
    """Leaves each constant once: in the body that reads it, if it is one, else in the main graph."""
    places: dict[tuple[str, bytes], list[GraphProto]] = defaultdict(list)
    versions: dict[str, set[bytes]] = defaultdict(set)
    taken: set[str] = set()
    for scope in _scopes(main):
        taken.update(info.name for info in scope.input)
        taken.update(name for node in scope.node for name in node.output)
        for tensor in scope.initializer:
            content = tensor.SerializeToString()
            places[tensor.name, content].append(scope)
            versions[tensor.name].add(content)
    moved: dict[int, tuple[GraphProto, set[str]]] = {}
    for (name, content), scopes in places.items():
        if len(scopes) == 1 or len(versions[name]) > 1 or name in taken:
            continue
        if scopes[0] is not main:
            main.initializer.append(TensorProto.FromString(content))
        for scope in scopes:
            if scope is not main:
                moved.setdefault(id(scope), (scope, set()))[1].add(name)
    for scope, names in moved.values():
        _drop(scope, names)


def _drop(scope: GraphProto, names: Iterable[str]) -> None:
    gone = set(names)
    kept = sum(tensor.name not in gone for tensor in scope.initializer)
    scope.initializer.sort(key=lambda tensor: tensor.name in gone)
    del scope.initializer[kept:]


def _scopes(main: GraphProto) -> Iterator[GraphProto]:
    """The graph and every body below it, outer ones first."""
    pending = [main]
    while pending:
        following: list[GraphProto] = []
        for scope in pending:
            yield scope
            for node in scope.node:
                for attribute in node.attribute:
                    following += [attribute.g] if attribute.HasField("g") else attribute.graphs
        pending = following
