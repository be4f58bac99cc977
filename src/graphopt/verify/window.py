"""The part of two models that differs, cut out of both with the same inputs and outputs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, TypeProto, ValueInfoProto, helper

from graphopt.ir import dtypes
from graphopt.verify.run import Session
from graphopt.verify.source import Source, bodies

__all__ = ["Window", "capture", "changed_window"]


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
        found.graph.input.extend(ValueInfoProto(name=name, type=_type_of(feeds[name])) for name in self.inputs)
        found.graph.output.extend(ValueInfoProto(name=name) for name in self.outputs)
        needed = {name for node in nodes for name in _reads(node)} - set(self.inputs)
        for tensor in model.graph.initializer:
            if tensor.name in needed:
                found.graph.initializer.append(_embedded(tensor, source.base_dir))
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
    prints = [[_fingerprint(node) for node in graph.node] for graph in (ours, theirs)]
    changed_tensors = _changed_tensors(ours, theirs)
    common = set(prints[0]) & set(prints[1])
    picked = []
    for graph, marks in zip((ours, theirs), prints, strict=True):
        chosen = {
            place for place, mark in enumerate(marks)
            if mark not in common or not changed_tensors.isdisjoint(_reads(graph.node[place]))
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


def capture(source: Source, names: Iterable[str], feeds: Mapping[str, Any]) -> dict[str, Any]:
    """The values of `names` (inputs and intermediate ones) in a run of `source`. Raises `LoadError` or `RunError`."""
    found = {name: feeds[name] for name in names if name in feeds}
    rest = [name for name in names if name not in found]
    if not rest:
        return found
    model = source.copy()
    del model.graph.output[:]
    model.graph.output.extend(_known_value(source.proto.graph, name) for name in rest)
    session = Session(Source(model, None, source.name))
    return {**found, **dict(zip(rest, session.run(feeds), strict=True))}


def _known_value(graph: GraphProto, name: str) -> ValueInfoProto:
    """What the graph says of the value's type (needed to pass types that numpy lacks), else only its name."""
    for value in (*graph.value_info, *graph.output, *graph.input):
        if value.name == name:
            return value
    return ValueInfoProto(name=name)


def _type_of(value: Any) -> TypeProto:
    if isinstance(value, list):
        return helper.make_sequence_type_proto(_type_of(value[0] if value else np.zeros(0, np.float32)))
    array = np.asarray(value)
    text = array.dtype.kind in "OUS"
    elem_type = TensorProto.STRING if text else dtypes.from_numpy(array.dtype)
    return helper.make_tensor_type_proto(elem_type, list(array.shape))


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


def _embedded(tensor: TensorProto, folder: str) -> TensorProto:
    from onnx.external_data_helper import load_external_data_for_tensor

    found = TensorProto()
    found.CopyFrom(tensor)
    if found.data_location == TensorProto.EXTERNAL:
        load_external_data_for_tensor(found, folder)
        found.data_location = TensorProto.DEFAULT
        del found.external_data[:]
    return found
