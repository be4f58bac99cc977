"""What one model says and another does not: to be sure that nothing gets lost on the way through a library."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from google.protobuf.message import Message
from onnx import AttributeProto, FunctionProto, GraphProto, NodeProto, TensorProto, TypeProto

from graphopt.ir import Model, Tensor, schema
from graphopt.ir.external import shown

__all__ = ["Differences", "differences"]

Scope = GraphProto | FunctionProto
_STRUCTURE = {
    "model": {"graph", "functions", "opset_import"},
    "graph": {"node", "initializer", "input", "output", "value_info"},
    "function": {"node", "input", "output", "opset_import", "attribute", "attribute_proto", "name", "domain",
                 "overload", "value_info"},
    "node": {"input", "output", "op_type", "domain", "overload", "attribute"},
    "tensor": {"name", "dims", "data_type", "raw_data", "external_data", "data_location", "float_data", "int32_data",
               "int64_data", "uint64_data", "double_data", "string_data"},
    "attribute": {"name", "type", "ref_attr_name", "f", "i", "s", "t", "g", "tp", "sparse_tensor", "floats", "ints",
                  "strings", "tensors", "graphs", "type_protos", "sparse_tensors"},
}  # fmt: skip
_NEEDED = {"sparse_initializer"}  # fields that are part of what is computed, though no structure is compared for them


@dataclass
class Differences:
    """wrong: what makes the second model compute something else, or not be valid, in words. lost: notes that it lacks,
    such as "metadata_props of 3 nodes"."""

    wrong: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)


class _Known(NamedTuple):
    """The initializers of a scope, and of those around it."""

    own: dict[str, TensorProto]
    around: _Known | None

    def find(self, name: str) -> TensorProto | None:
        scope: _Known | None = self
        while scope is not None:
            if name in scope.own:
                return scope.own[name]
            scope = scope.around
        return None


def differences(before: Model, after: Model) -> Differences:
    """What `before` has and `after` has not. More types of inner values, opsets that nothing uses, another order of
    entries that have none, another form of the same numbers, and initializers in a scope further out are no difference.

    >>> from onnx import parser
    >>> head = '<ir_version: 8, opset_import: ["": 17]> g (float[N] x) => (float[N] y) '
    >>> a, b = (Model(parser.parse_model(head + body)) for body in ("{ y = Neg(x) }", "{ y = Abs(x) }"))
    >>> differences(a, b).wrong
    ["node 'y' is another operator"]
    """
    return _Comparison(before, after).run()


class _Comparison:
    def __init__(self, before: Model, after: Model):
        self.before, self.after = before, after
        self.wrong: list[str] = []
        self.lost: Counter[tuple[str, str]] = Counter()
        self.pending: list[tuple[Scope, Scope, _Known | None, _Known | None]] = []
        self.same: dict[tuple[int, int], tuple[TensorProto, TensorProto]] = {}  # kept alive: an id lasts as long

    def run(self) -> Differences:
        a, b = self.before.commit(), self.after.commit()
        self._notes("model", a, b)
        used = {n.domain for graph in self.before.scopes() for n in graph} | {""}
        self._opsets(self.before.opsets, self.after.opsets, used)
        self._main_inputs()
        self.pending.append((a.graph, b.graph, None, None))
        for key, graph in self.before.functions.items():
            other = self.after.functions.get(key)
            if other is None:
                self.wrong.append(f"the function {shown('.'.join(filter(None, key)))} is missing")
                continue
            assert isinstance(graph.proto, FunctionProto) and isinstance(other.proto, FunctionProto)
            self._function(graph.proto, other.proto)
        while self.pending and not self.wrong:
            self._scope(*self.pending.pop())
        lost = [f"{name} of {_several(count, what)}" for (what, name), count in sorted(self.lost.items())]
        return Differences(self.wrong, lost)

    def _opsets(self, a: dict[str, int], b: dict[str, int], used: set[str]) -> None:
        for domain, version in a.items():
            if domain in used and b.get(domain) != version:
                self.wrong.append(f"it imports version {b.get(domain)} of operators {shown(domain)}, not {version}")

    def _main_inputs(self) -> None:
        a, b = ([(v.name, v.tensor is not None) for v in m.graph.inputs] for m in (self.before, self.after))
        if a == b:
            return
        gone = [name for name, default in a if default and (name, default) not in b]
        if gone:
            self.wrong.append(f"the input {shown(gone[0])}, which has a default, becomes a constant")
        else:
            self.wrong.append("the inputs are others")

    def _function(self, a: FunctionProto, b: FunctionProto) -> None:
        self._notes("function", a, b)
        if list(a.input) != list(b.input) or list(a.output) != list(b.output):
            self.wrong.append(f"the function {shown(a.name)} has another interface")
        if set(a.attribute) != set(b.attribute):
            self.wrong.append(f"the function {shown(a.name)} has other attributes")
        opsets, others = ({schema.canonical(o.domain): o.version for o in f.opset_import} for f in (a, b))
        self._opsets(opsets, others, {schema.canonical(n.domain) for n in a.node})
        self._attributes(a.attribute_proto, b.attribute_proto, a.name, None, None)
        self.pending.append((a, b, None, None))

    def _scope(self, a: Scope, b: Scope, around_a: _Known | None, around_b: _Known | None) -> None:
        known_a = _Known({t.name: t for t in getattr(a, "initializer", ())}, around_a)
        known_b = _Known({t.name: t for t in getattr(b, "initializer", ())}, around_b)
        if isinstance(a, GraphProto):
            assert isinstance(b, GraphProto)
            self._notes("graph", a, b)
            listed = around_a is None and self.before.ir_version < 4  # of which `_main_inputs` says what counts
            self._interface(a.input, b.input, "input", {t.name for t in a.initializer} if listed else set())
            self._interface(a.output, b.output, "output", set())
        self._value_infos(a, b)
        if len(a.node) != len(b.node):
            self.wrong.append(f"{len(b.node)} nodes are left of {len(a.node)}")
            return
        for node, other_node in zip(a.node, b.node, strict=True):
            self._node(node, other_node, known_a, known_b)
        for info in getattr(a, "output", ()) if isinstance(a, GraphProto) else ():
            self._same_constant(info.name, known_a, known_b)

    def _interface(self, a: Iterable[Any], b: Iterable[Any], what: str, ignored: set[str]) -> None:
        ours, theirs = ([info for info in infos if info.name not in ignored] for infos in (a, b))
        if [info.name for info in ours] != [info.name for info in theirs]:
            self.wrong.append(f"the {what}s are others")
            return
        for info, other in zip(ours, theirs, strict=True):
            self._notes(what, info, other, {"name", "type"})
            if not info.HasField("type") or info.type == other.type:
                continue
            if _kind(info.type) != _kind(other.type):
                self.wrong.append(f"the {what} {shown(info.name)} is of another type")
            else:
                self.lost[what, "shape"] += 1

    def _value_infos(self, a: Scope, b: Scope) -> None:
        types = {info.name: info for info in b.value_info}
        inner = {name for node in a.node for name in node.output} if len(a.value_info) else set()
        if isinstance(a, GraphProto):  # interfaces have types of their own; of what is not there, nobody can speak
            inner -= {info.name for info in a.output}
        for info in a.value_info:
            if info.name not in inner:
                continue
            other = types.get(info.name)
            if other is None or info.type != other.type:
                self.lost["value", "type"] += 1
            else:
                self._notes("value", info, other, {"name", "type"})

    def _node(self, a: NodeProto, b: NodeProto, known_a: _Known, known_b: _Known) -> None:
        name = a.name or (a.output[0] if a.output else a.op_type)
        ours, theirs = ((n.op_type, schema.canonical(n.domain), n.overload) for n in (a, b))
        if ours != theirs:
            self.wrong.append(f"node {shown(name)} is another operator")
        if _stripped(a.input) != _stripped(b.input) or _stripped(a.output) != _stripped(b.output):
            self.wrong.append(f"node {shown(name)} reads or gives other values")
        self._notes("node", a, b)
        self._attributes(a.attribute, b.attribute, name, known_a, known_b)
        for value in a.input:
            self._same_constant(value, known_a, known_b)

    def _attributes(self, a: Any, b: Any, name: str, known_a: _Known | None, known_b: _Known | None) -> None:
        others = {attribute.name: attribute for attribute in b}
        if len(others) != len({attribute.name for attribute in a}):
            self.wrong.append(f"node {shown(name)} has another number of attributes")
        for attribute in a:
            other = others.get(attribute.name)
            if other is None or not self._same_attribute(attribute, other, known_a, known_b):
                self.wrong.append(f"the attribute {shown(attribute.name)} of {shown(name)} is lost or another")
                return
            self._notes("attribute", attribute, other)

    def _same_attribute(
        self, a: AttributeProto, b: AttributeProto, known_a: _Known | None, known_b: _Known | None
    ) -> bool:
        if (a.type, a.ref_attr_name) != (b.type, b.ref_attr_name):
            return False
        if a.ref_attr_name:
            return True
        if a.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS):
            bodies, others = ([x.g] if x.type == AttributeProto.GRAPH else list(x.graphs) for x in (a, b))
            if len(bodies) == len(others):
                pairs = zip(bodies, others, strict=True)
                self.pending += [(body, other, known_a, known_b) for body, other in pairs]
            return len(bodies) == len(others)
        if a.type in (AttributeProto.TENSOR, AttributeProto.TENSORS):
            tensors, rest = ([x.t] if x.type == AttributeProto.TENSOR else list(x.tensors) for x in (a, b))
            return len(tensors) == len(rest) and all(map(self._same_tensor, tensors, rest))
        return _values(a) == _values(b)

    def _same_constant(self, name: str, known_a: _Known, known_b: _Known) -> None:
        ours, theirs = known_a.find(name), known_b.find(name)
        if ours is None and theirs is None:
            return
        if ours is None or theirs is None or not self._same_tensor(ours, theirs):
            self.wrong.append(f"the initializer {shown(name)} is lost or another")

    def _same_tensor(self, a: TensorProto, b: TensorProto) -> bool:
        pair = (id(a), id(b))
        if pair in self.same:
            return True
        self._notes("tensor", a, b)
        if a.data_type != b.data_type or list(a.dims) != list(b.dims):
            return False
        if not _same_payload(Tensor(a, self.before.store), Tensor(b, self.after.store)):
            return False
        self.same[pair] = a, b
        return True

    def _notes(self, what: str, a: Any, b: Any, structure: set[str] | None = None) -> None:
        """Compares every field that is no part of the structure: those that onnx will have one day, too."""
        ignored = _STRUCTURE[what] if structure is None else structure
        for entry, value in a.ListFields():
            if entry.name in ignored or value == "":
                continue
            other = getattr(b, entry.name, None)
            if _plain(value) == _plain(other):
                continue
            if entry.name in _NEEDED:
                self.wrong.append(f"a {entry.name} is lost or another")
            self.lost[what, entry.name] += 1


def _same_payload(a: Tensor, b: Tensor) -> bool:
    ours, theirs = a.raw(), b.raw()
    if ours is not None and theirs is not None:
        first, second = np.frombuffer(ours, np.uint8), np.frombuffer(theirs, np.uint8)
        if first.ctypes.data == second.ctypes.data and len(first) == len(second):
            return True
        return bool(np.array_equal(first, second))
    left, right = a.numpy(), b.numpy()
    if left.dtype.kind == "O":
        return bool(left.tolist() == right.tolist())
    return left.tobytes() == right.tobytes()


def _plain(value: Any) -> Any:
    """A field's value to compare: maps of strings without their order, bytes for messages."""
    if isinstance(value, Message):
        return value.SerializeToString(deterministic=True)
    if hasattr(value, "MergeFrom"):  # repeated
        if len(value) and hasattr(value[0], "key") and hasattr(value[0], "value"):
            return {entry.key: entry.value for entry in value}
        items = [item.SerializeToString(deterministic=True) if isinstance(item, Message) else item for item in value]
        return sorted(items) if items and isinstance(items[0], bytes) else items
    return value


def _values(attribute: AttributeProto) -> bytes:
    """What an attribute holds, as bytes: NaN is then equal to itself."""
    copy = AttributeProto()
    copy.CopyFrom(attribute)
    copy.ClearField("doc_string")
    copy.ClearField("name")
    return copy.SerializeToString(deterministic=True)


def _kind(kind: TypeProto) -> list[Any]:
    """A type without shapes and denotations."""
    found: list[Any] = []
    while True:
        which = kind.WhichOneof("value")
        found.append(which)
        inner: Any = getattr(kind, which) if which else None
        if which in ("sequence_type", "optional_type"):
            kind = inner.elem_type
        elif which == "map_type":
            found.append(inner.key_type)
            kind = inner.value_type
        else:
            return [*found, getattr(inner, "elem_type", None)]


def _stripped(names: Iterable[str]) -> list[str]:
    """Without the empty names at its end, which say nothing."""
    found = list(names)
    while found and not found[-1]:
        found.pop()
    return found


def _several(count: int, what: str) -> str:
    return f"the {what}" if count == 1 and what in ("model", "graph") else f"{count} {what}{'s' * (count != 1)}"
