"""Values and nodes: the def-use chains of a graph, over its NodeProtos."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import AttributeProto, GraphProto, NodeProto, TensorShapeProto, TypeProto

from graphopt.errors import ModelError
from graphopt.ir import dtypes, schema
from graphopt.ir.tensor import NDArray, Store, Tensor

if TYPE_CHECKING:
    from graphopt.ir.graph import Graph

Dim = int | str | None
Shape = tuple[Dim, ...]
_MISSING: Any = object()
_ARRAY = "\0array"  # no attribute can have this name
SPARSE = 1 << 22  # elements of a sparse constant that is taken for its dense form


class Value:
    """One tensor (or sequence, optional, map) of a graph; it has one definition.

    name: unique in its scope. producer, index: the node that makes it and which of its outputs it is (None, 0 for graph
    inputs and initializers). users: how many input slots of each node read it, nodes of nested bodies included.
    type: what shape inference or the interface says, or None. tensor: its constant value, if it is an initializer.
    """

    __slots__ = ("_shape", "graph", "index", "is_input", "name", "outs", "producer", "tensor", "type", "users")

    def __init__(self, name: str, graph: Graph, producer: Node | None = None, index: int = 0):
        self.name, self.graph, self.producer, self.index = name, graph, producer, index
        self.users: dict[Node, int] = {}
        self.outs = 0  # how many graph outputs this is
        self.is_input = False
        self.type: TypeProto | None = None
        self.tensor: Tensor | None = None
        self._shape: Shape | None = None

    def __repr__(self) -> str:
        return f"<Value {self.name}>"

    @property
    def is_output(self) -> bool:
        """Whether the graph returns it."""
        return self.outs > 0

    @property
    def is_const(self) -> bool:
        """An initializer or Constant that no caller can override."""
        if self.tensor is not None:
            return not self.is_input
        node = self.producer
        if node is None or node.op != "Constant" or node.domain or node.has_references:
            return False
        return "sparse_value" not in node.attributes or node.is_small_sparse

    @property
    def shape(self) -> Shape | None:
        """Dims: sizes, symbols, or None where nothing is known; None for an unknown rank."""
        if self.tensor is not None and not self.is_input:
            return self.tensor.shape
        if self._shape is None:
            if self.type is not None:
                self._shape = _dims(self.type)
            elif self.is_const:  # a Constant that inference has not seen: in a function, or new
                self._shape = self.numpy().shape
        return self._shape

    @property
    def rank(self) -> int | None:
        """Number of dims, where that is known."""
        shape = self.shape
        return None if shape is None else len(shape)

    @property
    def dtype(self) -> int | None:
        """Element type as in `onnx.TensorProto.DataType`, or None where it is not known or no tensor."""
        if self.tensor is not None:
            return self.tensor.dtype
        if self.type is not None and self.type.HasField("tensor_type"):
            return self.type.tensor_type.elem_type or None
        if self.producer is not None and self.is_const:
            given = self.producer.attributes.get("value")
            return given.t.data_type if given is not None else dtypes.from_numpy(self.numpy().dtype)
        return None

    def set_type(self, type_proto: TypeProto | None) -> None:
        """Records what is known of the type; the proto is kept, not copied."""
        self.type, self._shape = type_proto, None

    def set_shape(self, shape: Shape) -> None:
        """Records dims that were found out in another way than by inference; the rest of the type stays."""
        self._shape = shape

    def numpy(self) -> NDArray:
        """The constant's values, read-only. Raises ValueError when it is not constant."""
        if self.tensor is not None and not self.is_input:
            return self.tensor.numpy()
        if not self.is_const:
            raise ValueError(f"{self.name} is not constant")
        assert self.producer is not None
        return self.producer.constant_value()

    def replace_with(self, new: Value) -> None:
        """Every reader, nested ones included, and every graph output reads `new` instead.

        Public names stay: where this is a graph output, `new` takes the name over, or an Identity is left. A new
        node's value takes over the name in any case, so that readers need no change in their NodeProtos.
        """
        self.graph.replace(self, new)


class Node:
    """An operator call. Wraps its NodeProto, which stays untouched until the node changes.

    inputs hold None for an optional input left out; outputs hold a Value with an empty name for one not wanted.
    sources, rules: where it comes from, as far as that was asked for; see `graphopt.ir.provenance`.
    """

    __slots__ = (
        "_attributes",
        "_values",
        "alive",
        "dirty",
        "domain",
        "graph",
        "inputs",
        "name",
        "next",
        "op",
        "outputs",
        "prev",
        "proto",
        "rules",
        "sources",
        "subgraphs",
    )

    def __init__(self, proto: NodeProto, graph: Graph):
        self.proto, self.graph = proto, graph
        self.op: str = proto.op_type
        self.domain: str = schema.canonical(proto.domain)
        self.name: str = proto.name
        self.inputs: list[Value | None] = []
        self.outputs: list[Value] = []
        self.subgraphs: Sequence[Graph] = ()
        self.dirty, self.alive = False, True
        self.prev: Node = self
        self.next: Node = self
        self.sources: tuple[str, ...] = ()
        self.rules: tuple[str, ...] = ()
        self._attributes: dict[str, AttributeProto] | None = None
        self._values: dict[str, Any] | None = None  # made when first needed: most nodes are never asked

    def __repr__(self) -> str:
        return f"<Node {self.op} {self.label}>"

    @property
    def label(self) -> str:
        """A name to show people: the node's own, or its first output's."""
        return self.name or next((v.name for v in self.outputs if v.name), self.op)

    @property
    def rule(self) -> str:
        """The last rule that was at it, or nothing."""
        return self.rules[-1] if self.rules else ""

    @property
    def attributes(self) -> dict[str, AttributeProto]:
        """The attributes given, by name, as protos."""
        if self._attributes is None:
            self._attributes = {a.name: a for a in self.proto.attribute}
        return self._attributes

    @property
    def has_references(self) -> bool:
        """Whether an attribute refers to the enclosing function's, so that its value is not known here."""
        return self.graph.in_function and any(a.ref_attr_name for a in self.attributes.values())

    @property
    def is_small_sparse(self) -> bool:
        """Whether a sparse constant can be written out: its dims may say 10^12 elements where three are stored."""
        return 0 <= prod(self.attributes["sparse_value"].sparse_tensor.dims) <= SPARSE

    def attr(self, name: str, default: Any = _MISSING) -> Any:
        """An attribute's value: the one given, else `default`, else the schema's at this model's opset, else None."""
        if self._values is not None and name in self._values:
            return self._values[name]
        given = self.attributes.get(name)
        if given is not None:
            return self._remember(name, schema.decode(given))
        if default is not _MISSING:
            return default
        return schema.default(self.op, self.domain, self.graph.opset(self.domain), name)

    def set_attr(self, name: str, value: Any) -> None:
        """Sets an attribute, as `helper.make_attribute` would; None removes it. Bodies cannot be set: insert a node."""
        if self.subgraphs and isinstance(value, GraphProto):
            raise TypeError(f"the bodies of {self!r} are read already; insert another node with the body wanted")
        proto = self.proto
        kept = [a for a in proto.attribute if a.name != name]
        if len(kept) != len(proto.attribute):
            proto.attribute.sort(key=lambda a: a.name == name)
            del proto.attribute[len(kept) :]
        if value is not None:
            proto.attribute.append(schema.attribute(self.op, self.domain, self.graph.opset(self.domain), name, value))
        self._attributes = self._values = None
        self.graph.touch(self)

    def input(self, index: int) -> Value | None:
        """The input in a slot, or None where it is left out."""
        return self.inputs[index] if index < len(self.inputs) else None

    @property
    def output(self) -> Value:
        """The first output."""
        return self.outputs[0]

    def set_input(self, index: int, new: Value | None) -> None:
        """Makes a slot read another value."""
        old = self.inputs[index]
        if old is new:
            return
        if old is not None:
            release(old, self)
        if new is not None:
            new.users[self] = new.users.get(self, 0) + 1
            if new.graph is not self.graph:
                self.graph.unshadow(new)
        self.inputs[index] = new
        self.graph.touch(self)

    def write(self) -> NodeProto:
        """The node's proto, with the present names of inputs and outputs written into it."""
        if self.dirty:
            self.proto.input[:] = [value.name if value is not None else "" for value in self.inputs]
            self.proto.output[:] = [value.name for value in self.outputs]
            self.dirty = False
        return self.proto

    def constant_value(self) -> NDArray:
        """The array that a Constant node makes (any of its value attributes)."""
        known = self._values.get(_ARRAY) if self._values is not None else None
        array: NDArray = known if known is not None else self._remember(_ARRAY, constant_array(self))
        return array

    def _remember(self, name: str, value: Any) -> Any:
        if self._values is None:
            self._values = {}
        self._values[name] = value
        return value


def constant_array(node: Node) -> NDArray:
    """The array of a Constant node, in the dtype that the operator's specification gives each attribute."""
    for name, make in _CONSTANT.items():
        if name in node.attributes:
            array = make(node.attributes[name], node.graph.model.store)
            array.flags.writeable = False
            return array
    raise ModelError(f"Constant node {node.label!r} has no value attribute")


def _strings(items: Iterable[bytes]) -> NDArray:
    return np.array(list(items), dtype=object)


def _sparse(attribute: AttributeProto, store: Store) -> NDArray:
    sparse = attribute.sparse_tensor
    values, indices = Tensor(sparse.values, store).numpy(), Tensor(sparse.indices, store).numpy()
    if not 0 <= prod(sparse.dims) <= SPARSE or min(sparse.dims, default=0) < 0:
        raise ModelError(f"a sparse constant of dims {list(sparse.dims)[:16]} is too large to be written out")
    array = np.zeros(tuple(sparse.dims), values.dtype)
    try:
        if indices.min(initial=0) < 0:
            raise IndexError("an index is negative")
        if indices.ndim == 2:
            array[tuple(indices.T)] = values
        else:
            array.reshape(-1)[indices] = values
    except (IndexError, ValueError) as error:
        raise ModelError(f"a sparse constant does not hold what it declares: {error}") from None
    return array


_CONSTANT: dict[str, Callable[[AttributeProto, Store], NDArray]] = {
    "value": lambda a, store: Tensor(a.t, store).numpy(),
    "value_float": lambda a, _: np.array(a.f, np.float32),
    "value_floats": lambda a, _: np.array(list(a.floats), np.float32),
    "value_int": lambda a, _: np.array(a.i, np.int64),
    "value_ints": lambda a, _: np.array(list(a.ints), np.int64),
    "value_string": lambda a, _: _strings([a.s]).reshape(()),
    "value_strings": lambda a, _: _strings(a.strings),
    "sparse_value": _sparse,
}


def release(value: Value, node: Node) -> None:
    """One input slot of `node` stops reading `value`."""
    left = value.users[node] - 1
    if left:
        value.users[node] = left
    else:
        del value.users[node]


# What exporters write for "any size": the same word on two dims says nothing about both.
_ANONYMOUS = frozenset({"", "?", "*", "-1", "none", "null", "unk", "unknown", "dynamic", "any"})


def is_symbol(name: str) -> bool:
    """Whether a dim_param stands for one size wherever it is used."""
    return name.lower() not in _ANONYMOUS


def _dims(type_proto: TypeProto) -> Shape | None:
    if not type_proto.HasField("tensor_type") or not type_proto.tensor_type.HasField("shape"):
        return None
    return tuple([_dim(d) for d in type_proto.tensor_type.shape.dim])


def _dim(proto: TensorShapeProto.Dimension) -> Dim:
    size = proto.dim_value
    if size > 0:
        return size
    if proto.HasField("dim_value"):
        return 0 if size == 0 else None
    name = proto.dim_param
    return name if is_symbol(name) else None
