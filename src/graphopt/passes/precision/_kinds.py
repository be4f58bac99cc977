"""What each value is made of: its container and element type.

onnx's inference stops behind operators that it has no schema for; there, outputs have the type of the inputs that share
their type parameter.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from onnx import TypeProto

from graphopt.analysis.shapes import ensure_types
from graphopt.ir import Graph, Model, Node, Value, schema
from graphopt.passes.precision._contrib import contrib

Kind = tuple[str, int]  # "tensor", "sequence", "optional" or "other", and the element type (0: not known)
UNKNOWN: Kind = ("tensor", 0)
_ROUNDS = 4


def kinds_of(model: Model) -> dict[Value, Kind]:
    """The kind of every value outside functions."""
    ensure_types(model)
    found: dict[Value, Kind] = {}
    for graph in model.scopes(functions=False):
        for value in graph.values.values():
            found[value] = _declared(value)
    order = list(in_order(model))
    for _ in range(_ROUNDS):  # loops carry types back
        before = sum(kind == UNKNOWN for kind in found.values())
        for node in order:
            for outer, inner in crossings(node):
                _share(found, outer, inner)
            for index, value in enumerate(node.outputs):
                if found.get(value, UNKNOWN) == UNKNOWN and value.type is None and value.name:
                    found[value] = _bound(node, index, found)
        if before == sum(kind == UNKNOWN for kind in found.values()):
            break
    return found


def crossings(node: Node) -> list[tuple[Value, Value]]:
    """The values of one type on both sides of a standard operator's bodies: (outside, inside)."""
    if node.domain or node.op not in ("If", "Loop", "Scan"):
        return []
    pairs: list[tuple[Value | None, Value]] = []
    for body in node.subgraphs:
        ahead = len(node.inputs) - len(body.inputs)
        shift = 1 if node.op == "Loop" else 0
        if node.op != "If":
            carried = list(enumerate(body.inputs))[2 * shift :]
            pairs += [(node.input(ahead + k), value) for k, value in carried]
        pairs += list(zip(node.outputs, body.outputs[shift:], strict=False))
    return [(outer, inner) for outer, inner in pairs if outer is not None and outer.name]


def _share(found: dict[Value, Kind], a: Value, b: Value) -> None:
    for known, other in ((a, b), (b, a)):
        if found.get(other, UNKNOWN) == UNKNOWN and other.type is None and not other.is_const:
            found[other] = found.get(known, UNKNOWN)


def in_order(model: Model) -> Iterator[Node]:
    """All nodes outside functions as they are executed: those of a node's bodies before the node itself."""
    stack: list[Iterator[Node] | Node] = [iter(model.graph.nodes)]
    while stack:
        top = stack[-1]
        if isinstance(top, Node):
            stack.pop()
            yield top
            continue
        node = next(top, None)
        if node is None:
            stack.pop()
        elif node.subgraphs:
            stack.append(node)
            stack.extend(iter(body.nodes) for body in reversed(node.subgraphs))
        else:
            yield node


def kind_of(type_proto: TypeProto | None) -> Kind:
    """The kind that a type says."""
    if type_proto is None:
        return UNKNOWN
    which: Any = type_proto.WhichOneof("value")
    if which == "tensor_type":
        return "tensor", type_proto.tensor_type.elem_type
    if which == "sequence_type":
        return "sequence", type_proto.sequence_type.elem_type.tensor_type.elem_type
    if which == "optional_type":
        inner = kind_of(type_proto.optional_type.elem_type)
        return "optional" if inner[0] == "tensor" else "other", inner[1]
    return "other", 0


def retyped(type_proto: TypeProto | None, elem: int) -> TypeProto | None:
    """A copy of a type with another element type."""
    if type_proto is None:
        return None
    copy = TypeProto()
    copy.CopyFrom(type_proto)
    set_elem(copy, elem)
    return copy


def set_elem(type_proto: TypeProto, elem: int) -> None:
    """Sets the element type, whatever container it is in."""
    while type_proto.WhichOneof("value") in ("sequence_type", "optional_type"):
        which: Any = type_proto.WhichOneof("value")
        type_proto = getattr(type_proto, which).elem_type
    type_proto.tensor_type.elem_type = elem


def is_opaque(graph: Graph) -> bool:
    """Whether this scope, or one around it, is a body of an operator that is not standard."""
    scope: Graph | None = graph
    while scope is not None:
        if scope.owner is not None and (scope.owner.domain or scope.owner.op not in schema.CONTROL_FLOW):
            return True
        scope = scope.parent
    return False


def _declared(value: Value) -> Kind:
    if value.type is not None and value.tensor is None:
        return kind_of(value.type)
    return "tensor", value.dtype or 0


def _bound(node: Node, index: int, kinds: dict[Value, Kind]) -> Kind:
    known = contrib(node)
    if known is not None:
        source = node.input(known.like)
        return kinds.get(source, UNKNOWN) if source is not None and index not in known.float_outputs else UNKNOWN
    found = schema.find(node.op, node.domain, node.graph.opset(node.domain))
    if found is None or not found.outputs or node.subgraphs:
        return UNKNOWN
    wanted = found.outputs[min(index, len(found.outputs) - 1)].type_str
    if wanted.startswith("tensor("):
        return "tensor", _ELEMS.get(wanted, 0)
    for slot, value in enumerate(node.inputs):
        formal = found.inputs[min(slot, len(found.inputs) - 1)]
        if value is not None and formal.type_str == wanted and kinds.get(value, UNKNOWN)[1]:
            return kinds[value]
    return UNKNOWN


_ELEMS = {
    "tensor(float)": 1,
    "tensor(uint8)": 2,
    "tensor(int8)": 3,
    "tensor(int32)": 6,
    "tensor(int64)": 7,
    "tensor(string)": 8,
    "tensor(bool)": 9,
    "tensor(double)": 11,
}
