"""The nodes of one model, put into a scope of another: names, constants, functions and payloads are taken care of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from onnx import AttributeProto, FunctionProto, NodeProto, TensorProto

from graphopt.errors import GraphoptError
from graphopt.ir import Graph, Model, Node, Store, Value, captures
from graphopt.ir.external import shown
from graphopt.ir.wire import token_index

__all__ = ["graft"]


def graft(graph: Graph, part: Model, given: Mapping[str, Value], before: Node | None = None) -> list[Value]:
    """Inserts the nodes of `part` into `graph`; returns the values that its outputs became, in their order.

    given: for each input of the part, the value that takes its place; one with a default may be left out. before: the
    node in front of which to insert; None: at the end. The part stays as it is; what is inserted gets names that are
    free in the model. Raises GraphoptError where the operator sets or functions of the two contradict each other.
    """
    model, part = graph.model, part.clone()
    _agree_on_opsets(graph, part)
    _take_functions(model, part)
    _settle_names(model, part)
    if part.proto.graph.sparse_initializer:
        raise GraphoptError("the part has sparse initializers; run fold-constants on it first")
    here: dict[Value, Value] = {}
    for value in part.graph.inputs:
        if value.name in given:
            here[value] = given[value.name]
        elif value.tensor is None:
            raise GraphoptError(f"input {shown(value.name)} of the part stands for nothing; say what it reads")
    for value in part.graph.initializers.values():
        if value not in here and (value.users or value.outs):
            here[value] = _constant(graph, value, part.store)
    for node in part.graph:
        if node.subgraphs:
            _rename_captured(node, here)
        here.update(zip(node.outputs, _copy(node, graph, before, here, part.store).outputs, strict=True))
    return [here[value] for value in part.graph.outputs]


def _agree_on_opsets(graph: Graph, part: Model) -> None:
    used = {node.domain for scope in part.scopes(functions=False) for node in scope}
    for domain in sorted(used):
        wanted = part.opsets.get(domain)
        if wanted is None:
            continue
        if domain in graph.model.opsets and graph.opset(domain) != wanted:
            raise GraphoptError(
                f"the part uses version {wanted} of {domain or 'ai.onnx'} and the model {graph.opset(domain)}; convert "
                "one of them (onnx.version_converter)"
            )
        graph.model.require_opset(domain, wanted)


def _take_functions(model: Model, part: Model) -> None:
    added = False
    for key, body in part.functions.items():
        mine = model.functions.get(key)
        assert isinstance(body.proto, FunctionProto)
        if mine is None:
            model.proto.functions.append(body.proto)
            own = model.proto.functions[-1]
            for tensor in _tensors(own.node):
                _bring(tensor, part.store, model.store)
            model.require_opset(key[0], 1)
            model.functions[key] = Graph(own, model)
            added = True
        elif _text(mine, model) != _text(body, part):
            raise GraphoptError(
                f"function {shown(key[1])} is another one in the part; inline it there (inline-functions)"
            )
    if added:
        pending = [model.functions[key] for key in part.functions]
        while pending:
            pending = [inner for scope in pending for inner in scope.connect()]


def _text(body: Graph, model: Model) -> bytes:
    model.commit()
    proto = FunctionProto()
    proto.CopyFrom(body.proto)  # type: ignore[arg-type]
    return proto.SerializeToString(deterministic=True)


def _settle_names(model: Model, part: Model) -> None:
    """What bodies define must not hide a name of the model that they capture."""
    for scope in part.scopes(functions=False):
        if scope is not part.graph:
            for name in [name for name in scope.values if name in model.value_names]:
                scope.rename(scope.values[name], _free(name, model, part))
    part.commit()


def _free(name: str, model: Model, part: Model) -> str:
    found = model.fresh(name)
    while found in part.value_names:
        found = model.fresh(name)
    return found


def _rename_captured(node: Node, here: Mapping[Value, Value]) -> None:
    """Bodies are copied as protos: they must name what they capture as it is called in the model."""
    part = node.graph
    for value in captures(node):
        name = here[value].name
        if value.graph is part and value.name != name:
            clash = part.values.get(name)
            if clash is not None:
                part.rename(clash, part.model.fresh(f"{name}_of_part"))
            part.rename(value, name)
    part.model.commit()


def _copy(node: Node, graph: Graph, before: Node | None, here: Mapping[Value, Value], store: Store) -> Node:
    copy = graph.insert_copy(node, [None if value is None else here[value] for value in node.inputs], before)
    for tensor in _tensors([copy.proto]):
        _bring(tensor, store, graph.model.store)
    if node.subgraphs:
        graph.attach(copy)
    return copy


def _constant(graph: Graph, value: Value, store: Store) -> Value:
    assert value.tensor is not None
    tensor = TensorProto()
    tensor.CopyFrom(value.tensor.proto)
    _bring(tensor, store, graph.model.store)
    if graph.holds_initializers:
        return graph.adopt(tensor, value.name)
    first = next(iter(graph), None)
    return graph.insert("Constant", [], before=first, out=value.name, value=tensor).output


def _bring(tensor: TensorProto, store: Store, other: Store) -> None:
    """Makes a tensor's payload one of another store's, without copying it."""
    if tensor.data_location == TensorProto.EXTERNAL:
        tensor_bytes = store.external(tensor)
        del tensor.external_data[:]
        tensor.data_location = TensorProto.DEFAULT
        tensor.raw_data = other.add(tensor_bytes)
        return
    index = token_index(tensor.raw_data)
    if index is not None:
        tensor.raw_data = other.add(store.blobs[index])


def _tensors(nodes: Any) -> Iterator[TensorProto]:
    """Every tensor in the attributes of nodes and of their bodies."""
    pending: list[NodeProto] = list(nodes)
    while pending:
        for attribute in pending.pop().attribute:
            if attribute.type == AttributeProto.TENSOR:
                yield attribute.t
            yield from attribute.tensors
            for body in [attribute.g] if attribute.type == AttributeProto.GRAPH else attribute.graphs:
                yield from body.initializer
                pending += body.node
