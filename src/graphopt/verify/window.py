"""The part of two models that differs, cut out of both with the same inputs and outputs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto, TypeProto, ValueInfoProto, helper

from graphopt.ir import dtypes
from graphopt.verify.run import Session
from graphopt.verify.source import Source, bodies, nested

__all__ = ["Window", "capture", "changed_window", "part", "readers_of", "retyped", "type_of", "unused_removed"]


@dataclass(frozen=True)
class Window:
    """Nodes of two models by their places, the values that enter them and those that leave them (names in both)."""

    ours: tuple[int, ...]
    theirs: tuple[int, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def cut(self, source: Source, feeds: Mapping[str, Any], *, first: bool) -> ModelProto:
        """This part of the first or the second model, as a model whose inputs are typed by `feeds`."""
        model = source.proto
        places = self.ours if first else self.theirs
        nodes = [model.graph.node[place] for place in places]
        found = ModelProto(ir_version=model.ir_version, producer_name="graphopt")
        found.opset_import.extend(model.opset_import)
        found.functions.extend(model.functions)
        found.graph.name = "window"
        found.graph.node.extend(nodes)
        found.graph.input.extend(ValueInfoProto(name=name, type=type_of(feeds[name])) for name in self.inputs)
        found.graph.output.extend(ValueInfoProto(name=name) for name in self.outputs)
        needed = {*self.outputs, *(name for node in nodes for name in _reads(node))} - set(self.inputs)
        for tensor in model.graph.initializer:
            if tensor.name in needed:
                found.graph.initializer.append(_embedded(tensor, source))
        found.graph.sparse_initializer.extend(
            sparse for sparse in model.graph.sparse_initializer if sparse.values.name in needed
        )
        return found


def changed_window(before: ModelProto, after: ModelProto, hops: int = 0) -> Window | None:
    """The nodes of the main graphs that are in one model and not in the other, and `hops` nodes around them.

    A node is the same in both when it makes the same names from the same names, with the same attributes. None when
    nothing differs, or what differs cannot be cut out alike (say, only initializers do).
    """
    ours, theirs = before.graph, after.graph
    altered = _changed_functions(before, after)
    prints = [[_fingerprint(node) for node in graph.node] for graph in (ours, theirs)]
    changed_tensors = _changed_tensors(ours, theirs)
    common = set(prints[0]) & set(prints[1])
    picked = []
    for graph, marks in zip((ours, theirs), prints, strict=True):
        chosen = {
            place for place, mark in enumerate(marks)
            if mark not in common or not changed_tensors.isdisjoint(_reads(graph.node[place]))
            or (altered and not altered.isdisjoint(_calls(graph.node[place])))
        }  # fmt: skip
        picked.append(chosen)
    if not picked[0] and not picked[1]:
        return None
    for _ in range(hops):
        names = {n for g, p in zip((ours, theirs), picked, strict=True) for i in p for n in _touches(g.node[i])}
        for graph, chosen in zip((ours, theirs), picked, strict=True):
            chosen |= {place for place, node in enumerate(graph.node) if not names.isdisjoint(_touches(node, graph))}
    return _bounded(ours, theirs, sorted(picked[0]), sorted(picked[1]))


def _bounded(ours: GraphProto, theirs: GraphProto, left: list[int], right: list[int]) -> Window | None:
    """The window of these nodes; None when a value that it has to read or give is not in both models."""
    parts = ((ours, left), (theirs, right))
    inside = [{name for place in places for name in graph.node[place].output} for graph, places in parts]
    made = inside[0] | inside[1]
    constants = _constants(ours) | _constants(theirs)
    read = dict.fromkeys(name for graph, places in parts for i in places for name in _reads(graph.node[i]))
    inputs = [name for name in read if name not in made and name not in constants and name]
    wanted = [_wanted(graph, set(places)) for graph, places in parts]
    outputs = [name for name in dict.fromkeys([*wanted[0], *wanted[1]]) if name in made]
    outputs = [name for name in outputs if name in inside[0] and name in inside[1]]
    known = {value.name for value in ours.input} | {name for node in ours.node for name in node.output}
    if not outputs or not set(inputs) <= known:
        return None
    return Window(tuple(left), tuple(right), tuple(inputs), tuple(outputs))


def _wanted(graph: GraphProto, places: set[int]) -> list[str]:
    """The names that something outside `places` reads, graph outputs included."""
    found = [value.name for value in graph.output]
    for place, node in enumerate(graph.node):
        if place not in places:
            found += _reads(node)
    return found


def part(
    before: ModelProto, after: ModelProto, outputs: Sequence[str], feeds: Mapping[str, Any]
) -> tuple[ModelProto, ModelProto, dict[str, Any]] | None:
    """The nodes of both models that `outputs` depend on, back to the values that `feeds` has, which become inputs.

    None where an output is among the feeds itself, or a value that is needed is nowhere.
    """
    found: list[tuple[int, ...]] = []
    needed: set[str] = set()
    for model in (before, after):
        makers = {name: place for place, node in enumerate(model.graph.node) for name in node.output if name}
        constants = _constants(model.graph)
        places: set[int] = set()
        waiting = list(outputs)
        while waiting:
            name = waiting.pop()
            if name in feeds:
                needed.add(name)
            elif name in makers:
                if makers[name] not in places:
                    places.add(makers[name])
                    waiting += _reads(model.graph.node[makers[name]])
            elif name not in constants:
                return None
        found.append(tuple(sorted(places)))
    if not needed.isdisjoint(outputs):
        return None
    inputs = tuple(name for name in feeds if name in needed)
    window = Window(found[0], found[1], inputs, tuple(outputs))
    models = (window.cut(Source.of(model), feeds, first=model is before) for model in (before, after))
    return next(models), next(models), {name: feeds[name] for name in inputs}


def readers_of(model: ModelProto, outputs: Iterable[str], near: int) -> set[str]:
    """`outputs`, and what the nodes up to `near` steps before them make."""
    makers = {name: node for node in model.graph.node for name in node.output if name}
    found = set(outputs)
    layer = set(outputs)
    for _ in range(near):
        layer = {name for made in layer if made in makers for name in _reads(makers[made])} - found
        found |= layer
    return found


def retyped(model: ModelProto, feeds: Mapping[str, Any]) -> ModelProto:
    """A copy with inputs typed by `feeds` and no other types: those of intermediate values and outputs follow."""
    found = ModelProto()
    found.CopyFrom(model)
    del found.graph.input[:], found.graph.value_info[:]
    found.graph.input.extend(
        ValueInfoProto(name=value.name, type=type_of(feeds[value.name]) if value.name in feeds else value.type)
        for value in model.graph.input
    )
    outputs = [value.name for value in model.graph.output]
    del found.graph.output[:]
    found.graph.output.extend(ValueInfoProto(name=name) for name in outputs)
    return found


def unused_removed(
    before: ModelProto, after: ModelProto, feeds: Mapping[str, Any]
) -> tuple[ModelProto, ModelProto, dict[str, Any]]:
    """Copies without the inputs that neither reads, without weights, functions, imports that each does not use, and
    without documentation."""
    read = {name for model in (before, after) for name in _read_in(model.graph)}
    kept = {name: value for name, value in feeds.items() if name in read}
    return _bare(before, kept), _bare(after, kept), kept


def _bare(model: ModelProto, feeds: Mapping[str, Any]) -> ModelProto:
    found = ModelProto(ir_version=model.ir_version, producer_name="graphopt")
    graph, read = model.graph, _read_in(model.graph)
    found.graph.name = graph.name or "g"
    for node in graph.node:
        copy = found.graph.node.add()
        copy.CopyFrom(node)
        copy.ClearField("doc_string")
        del copy.metadata_props[:]
    found.graph.input.extend(value for value in graph.input if value.name in feeds)
    found.graph.output.extend(graph.output)
    found.graph.initializer.extend(tensor for tensor in graph.initializer if tensor.name in read)
    found.graph.sparse_initializer.extend(t for t in graph.sparse_initializer if t.values.name in read)
    called = {key for node in graph.node for key in _calls(node)}
    size = -1
    while size != (size := len(called)):
        for function in model.functions:
            if _function_key(function) in called:
                called.update(key for node in function.node for key in _calls(node))
    found.functions.extend(function for function in model.functions if _function_key(function) in called)
    domains = {domain for domain, _, _ in called} | {""}
    if "" in domains:
        domains.add("ai.onnx")
    found.opset_import.extend(entry for entry in model.opset_import if entry.domain in domains)
    return found


def _read_in(graph: GraphProto) -> set[str]:
    return {value.name for value in graph.output} | {name for node in graph.node for name in _reads(node)}


Key = tuple[str, str, str]


def _function_key(function: FunctionProto) -> Key:
    return function.domain, function.name, function.overload


def _calls(node: NodeProto) -> Iterator[Key]:
    """What the node and the nodes in its bodies call: domain, name and overload of operators or functions."""
    yield node.domain, node.op_type, node.overload
    for scope in nested(*bodies(node)):
        for inner in scope.node:
            yield inner.domain, inner.op_type, inner.overload


def _changed_functions(before: ModelProto, after: ModelProto) -> set[Key]:
    """Functions that are not the same in both models, and those that call them."""
    texts = [
        {_function_key(f): f.SerializeToString(deterministic=True) for f in model.functions}
        for model in (before, after)
    ]
    found = {key for key in {*texts[0], *texts[1]} if texts[0].get(key) != texts[1].get(key)}
    size = -1
    while found and size != (size := len(found)):
        for model in (before, after):
            found.update(
                _function_key(f) for f in model.functions if any(not found.isdisjoint(_calls(n)) for n in f.node)
            )
    return found


def capture(source: Source, names: Iterable[str], feeds: Mapping[str, Any]) -> dict[str, Any]:
    """The values of `names` (inputs and intermediate ones) in a run of `source`. Raises `LoadError` or `RunError`."""
    found = {name: feeds[name] for name in names if name in feeds}
    rest = [name for name in names if name not in found]
    if not rest:
        return found
    model = source.copy()
    del model.graph.output[:]
    model.graph.output.extend(_known_value(source.proto.graph, name) for name in rest)
    session = Session(Source(model, None, source.name, source.memory))
    return {**found, **dict(zip(rest, session.run(feeds), strict=True))}


def _known_value(graph: GraphProto, name: str) -> ValueInfoProto:
    """What the graph says of the value's type (needed to pass types that numpy lacks), else only its name."""
    for value in (*graph.value_info, *graph.output, *graph.input):
        if value.name == name:
            return value
    return ValueInfoProto(name=name)


def type_of(value: Any) -> TypeProto:
    """The ONNX type of a value that a session takes: a tensor of its very shape, a sequence of such, a map."""
    if isinstance(value, dict):
        return _map_type(value)
    if isinstance(value, list):
        return helper.make_sequence_type_proto(type_of(value[0] if value else np.zeros(0, np.float32)))
    array = np.asarray(value)
    text = array.dtype.kind in "OUS"
    elem_type = TensorProto.STRING if text else dtypes.from_numpy(array.dtype)
    return helper.make_tensor_type_proto(elem_type, list(array.shape))


def _map_type(value: Mapping[Any, Any]) -> TypeProto:
    text = any(isinstance(key, str) for key in value)
    items = np.asarray(list(value.values()))
    found = TypeProto()
    found.map_type.key_type = TensorProto.STRING if text else TensorProto.INT64
    found.map_type.value_type.CopyFrom(type_of(items[0] if items.size else np.float32(0)))
    return found


def _fingerprint(node: NodeProto) -> bytes:
    """What the node computes: everything but its name and documentation."""
    copy = NodeProto()
    copy.CopyFrom(node)
    copy.ClearField("name")
    copy.ClearField("doc_string")
    del copy.metadata_props[:]
    attributes = sorted(copy.attribute, key=lambda entry: entry.name)
    del copy.attribute[:]
    copy.attribute.extend(attributes)
    return copy.SerializeToString(deterministic=True)


def _changed_tensors(ours: GraphProto, theirs: GraphProto) -> set[str]:
    """Initializers of the same name with other contents."""
    known = {tensor.name: tensor for tensor in ours.initializer}
    return {t.name for t in theirs.initializer if t.name in known and t != known[t.name]}


def _constants(graph: GraphProto) -> set[str]:
    return {t.name for t in graph.initializer} | {s.values.name for s in graph.sparse_initializer}


def _reads(node: NodeProto) -> Iterator[str]:
    """The values that a node reads, its bodies included: names that a body makes itself are taken out."""
    yield from (name for name in node.input if name)
    waiting = [(body, frozenset[str]()) for body in bodies(node)]
    while waiting:
        body, outer = waiting.pop()
        made = {name for inner in body.node for name in inner.output}
        local = outer | {value.name for value in body.input} | _constants(body) | made
        yield from (value.name for value in body.output if value.name not in local)
        for inner in body.node:
            yield from (name for name in inner.input if name and name not in local)
            waiting += [(deeper, local) for deeper in bodies(inner)]


def _touches(node: NodeProto, graph: GraphProto | None = None) -> set[str]:
    """The values that a node reads or makes, weights left out when `graph` is given."""
    found = {*_reads(node), *(name for name in node.output if name)}
    return found - _constants(graph) if graph is not None else found


def _embedded(tensor: TensorProto, source: Source) -> TensorProto:
    found = TensorProto()
    found.CopyFrom(tensor)
    source.embed(found)
    return found
