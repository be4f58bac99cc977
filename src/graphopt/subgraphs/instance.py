"""A model-local function as a model: its body, with the attributes and operand types of its first call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, TypeProto, ValueInfoProto

from graphopt.analysis.shapes import ensure_types, infer
from graphopt.errors import GraphoptError
from graphopt.ir import Graph, Model, Node
from graphopt.ir.external import shown

__all__ = ["CALL", "instantiate"]

CALL = "call"  # in the facts of an instance: the call that it was made for

Key = tuple[str, str, str]


def instantiate(body: Graph) -> Model:
    """The function whose body this is, as a model. Raises GraphoptError where nothing calls it, or a call does not say
    the types of its operands."""
    model = body.model
    path = _path_to(model, body)
    ensure_types(model)
    graph = model.graph
    for call in path:
        here = call if graph is model.graph else _twin(call, graph)
        graph = _instance(model, here).graph
    return graph.model


def _path_to(model: Model, body: Graph) -> list[Node]:
    """Calls that lead from the main graph into a function, the outermost first."""
    calls: dict[Key, Node] = {}
    for scope in model.scopes():
        for node in scope:
            key = (node.domain, node.op, node.proto.overload)
            if key in model.functions and (key not in calls or calls[key].graph.in_function):
                calls.setdefault(key, node) if scope.in_function else calls.update({key: node})
    keys = {graph: key for key, graph in model.functions.items()}
    path: list[Node] = []
    wanted = body
    while True:
        while wanted.parent is not None:
            wanted = wanted.parent
        call = calls.get(keys[wanted])
        if call is None or call in path:
            raise GraphoptError(f"nothing calls the function {shown(wanted.name)}, so its types are not known")
        path.append(call)
        if not call.graph.in_function:
            return path[::-1]
        wanted = call.graph


def _twin(call: Node, graph: Graph) -> Node:
    """The same call in the function's instance: bodies and nodes keep their order."""
    outer = call.graph
    while outer.parent is not None:
        outer = outer.parent
    pairs = [(outer, graph)]
    while pairs:
        old, new = pairs.pop()
        for ours, theirs in zip(old, new, strict=True):
            if ours is call:
                return theirs
            pairs += zip(ours.subgraphs, theirs.subgraphs, strict=True)
    raise AssertionError("a call is in its own function")


def _instance(model: Model, call: Node) -> Model:
    model.commit()
    key = (call.domain, call.op, call.proto.overload)
    function = model.functions[key].proto
    assert isinstance(function, FunctionProto)
    proto = ModelProto(ir_version=max(8, model.ir_version), producer_name="graphopt")
    proto.opset_import.extend(function.opset_import)
    known = {entry.domain for entry in function.opset_import}
    for other in model.proto.functions:
        if other.domain not in known:
            known.add(other.domain)
            proto.opset_import.add(domain=other.domain, version=1)
    proto.functions.extend(f for f in model.proto.functions if f is not function)
    graph = proto.graph
    graph.name = function.name
    graph.node.extend(function.node)
    given = {a.name: a for a in (*function.attribute_proto, *call.proto.attribute)}
    _bind(graph, given)
    for slot, name in enumerate(function.input):
        value = call.input(slot)
        kind = value.type if value is not None else None
        if value is not None and value.is_const:
            kind = _type_of_constant(value.dtype, value.shape)
        if kind is None:
            raise GraphoptError(f"the type of operand {slot} of {call!r} is not known, so neither is the function's")
        graph.input.append(ValueInfoProto(name=name, type=kind))
    graph.output.extend(ValueInfoProto(name=name) for name in function.output)
    made = Model(proto, model.store.clone())
    infer(made)
    made.facts[CALL] = call
    return made


def _type_of_constant(dtype: int | None, shape: Any) -> TypeProto:
    found = TypeProto()
    found.tensor_type.elem_type = dtype or 0
    found.tensor_type.shape.SetInParent()
    for size in shape or ():
        found.tensor_type.shape.dim.add(dim_value=size)
    return found


def _bind(graph: GraphProto, given: Mapping[str, AttributeProto]) -> None:
    """Puts the call's attributes where the body refers to them; what neither call nor function gives is left out."""
    pending: list[GraphProto] = [graph]
    while pending:
        for node in pending.pop().node:
            kept = []
            for attribute in node.attribute:
                if attribute.ref_attr_name:
                    if attribute.ref_attr_name not in given:
                        continue
                    bound = AttributeProto()
                    bound.CopyFrom(given[attribute.ref_attr_name])
                    bound.name = attribute.name
                    attribute = bound
                kept.append(attribute)
            if len(kept) != len(node.attribute) or any(a.ref_attr_name for a in node.attribute):
                copies = [AttributeProto.FromString(a.SerializeToString()) for a in kept]
                del node.attribute[:]
                node.attribute.extend(copies)
            for attribute in node.attribute:
                pending += [attribute.g] if attribute.type == AttributeProto.GRAPH else list(attribute.graphs)
