"""A scope: the main graph, a body of If/Loop/Scan, or the body of a model-local function."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import AttributeProto, FunctionProto, GraphProto, NodeProto, TensorProto, ValueInfoProto

from graphopt.errors import ModelError
from graphopt.ir import schema
from graphopt.ir.node import Node, Value, release
from graphopt.ir.provenance import mark, origin_of
from graphopt.ir.tensor import NDArray, Tensor, fill

if TYPE_CHECKING:
    from graphopt.ir.model import Model

_GRAPHS = (AttributeProto.GRAPH, AttributeProto.GRAPHS)


class Graph:
    """Nodes in file order, and the values of one scope.

    inputs, outputs: the interface, in order. An initializer that is also an input is an input with a default (and not
    constant), except before IR version 4, where every initializer is listed as an input and is constant.
    initializers: by name. parent, owner: the enclosing scope and the node that holds this body.
    """

    def __init__(
        self, proto: GraphProto | FunctionProto, model: Model, parent: Graph | None = None, owner: Node | None = None
    ):
        self.proto, self.model, self.parent, self.owner = proto, model, parent, owner
        self.in_function: bool = isinstance(proto, FunctionProto) or (parent is not None and parent.in_function)
        self.values: dict[str, Value] = {}
        self.initializers: dict[str, Value] = {}
        self.inputs: list[Value] = []
        self.outputs: list[Value] = []
        self.holders: dict[Node, None] = {}  # the nodes that own bodies
        self._removed_initializers = False
        self._unwritten: list[Node] = []  # nodes that have no proto in the graph's yet
        self._opsets: dict[str, int] | None = None
        self._count = 0
        self._root = Node(NodeProto(), self)
        self._read_definitions()

    # -- reading -------------------------------------------------------------------------------------------------------

    def _read_definitions(self) -> None:
        """Everything that defines a value; `connect` follows, once the enclosing scope knows its own."""
        proto = self.proto
        if isinstance(proto, FunctionProto):
            self.inputs = [self._define(name) for name in proto.input]
            for value in self.inputs:
                value.is_input = True
        else:
            self._read_interface(proto)
        values, last = self.values, self._root
        for node_proto in proto.node:
            node = Node(node_proto, self)
            for index, name in enumerate(node_proto.output):
                value = Value(name, self, node, index)
                if name and values.setdefault(name, value) is not value:
                    raise ModelError(
                        f"value {name!r} has two definitions, the second by {node!r}; the model is not valid ONNX"
                    )
                node.outputs.append(value)
            last.next, node.prev, last = node, last, node
        last.next, self._root.prev = self._root, last
        self._count = len(proto.node)
        self.model.value_names.update(values)

    def _read_interface(self, proto: GraphProto) -> None:
        constant_inputs = self.parent is None and self.model.ir_version < 4
        stored = {t.name for t in proto.initializer} if constant_inputs else ()
        for info in proto.input:
            value = self._define(info.name)
            if self.parent is None:  # what a body declares is nobody's contract, and often wrong
                value.set_type(info.type)
            if info.name in stored:
                continue
            value.is_input = True
            self.inputs.append(value)
        for tensor in proto.initializer:
            self._add_initializer(tensor.name, tensor)
        for sparse in proto.sparse_initializer:  # kept as they are: readers see a value that is not constant
            if sparse.values.name not in self.values:
                self._define(sparse.values.name)

    def _add_initializer(self, name: str, tensor: TensorProto) -> Value:
        if name in self.initializers:
            raise ModelError(f"initializer {name!r} is there twice; the model is not valid ONNX")
        value = self.values.get(name) or self._define(name)
        value.tensor = Tensor(tensor, self.model.store)
        self.initializers[name] = value
        return value

    def _define(self, name: str) -> Value:
        if name in self.values:
            raise ModelError(f"value {name!r} has two definitions; the model is not valid ONNX")
        value = self.values[name] = Value(name, self)
        return value

    def connect(self) -> list[Graph]:
        """Resolves what nodes read and what the graph returns; returns the bodies found, to be connected next."""
        values, bodies = self.values, []
        for node in self:
            inputs = node.inputs
            for name in node.proto.input:
                value = None
                if name:
                    value = values.get(name) or self.lookup(name, node)
                    users = value.users
                    users[node] = users.get(node, 0) + 1
                inputs.append(value)
            if node.op in schema.CONTROL_FLOW or node.domain:
                bodies += self._read_bodies(node)
        for out in self.proto.output:
            name = out if isinstance(out, str) else out.name
            value = self.lookup(name, None)
            if value.graph is not self:  # not valid, but out there; written back only if the model is edited
                value = self._own(value)
            value.outs += 1
            self.outputs.append(value)
        return bodies

    def _own(self, outer: Value) -> Value:
        """A value of this body for an outer one that it returns; the proto stays as it is until something changes."""
        node = self.insert("Identity", [outer], out=outer.name)
        proto = NodeProto()
        proto.CopyFrom(node.proto)
        del self.proto.node[-1]
        node.proto = proto
        self._unwritten.append(node)
        return node.output

    def _read_bodies(self, node: Node) -> list[Graph]:
        protos = (p for a in node.proto.attribute if a.type in _GRAPHS for p in (a.graphs or [a.g]))
        bodies = [Graph(proto, self.model, self, node) for proto in protos]
        if bodies:
            node.subgraphs = bodies
            self.holders[node] = None
        return bodies

    def lookup(self, name: str, reader: Node | None) -> Value:
        """The value of this name as seen from this scope. Raises ModelError when nothing defines it."""
        value = self.find(name)
        if value is not None:
            return value
        who = f"{reader!r} reads" if reader is not None else f"graph {self.name!r} returns"
        raise ModelError(f"{who} {name!r}, which nothing defines; the model is not valid ONNX")

    def find(self, name: str) -> Value | None:
        """The value of this name as seen from this scope, or None."""
        scope: Graph | None = self
        while scope is not None:
            value = scope.values.get(name)
            if value is not None:
                return value
            scope = scope.parent
        return None

    # -- looking -------------------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The graph's (or function's) own."""
        return self.proto.name

    @property
    def holds_initializers(self) -> bool:
        """Whether constants can be initializers here: not in functions, nor in bodies before IR version 4."""
        return not self.in_function and (self.parent is None or self.model.ir_version >= 4)

    @property
    def version(self) -> int:
        """Grows with every change anywhere in the model."""
        return len(self.model.journal)

    @property
    def nodes(self) -> list[Node]:
        """The nodes, in order, as a list of its own."""
        return list(self)

    def __iter__(self) -> Iterator[Node]:
        node = self._root.next
        while node is not self._root:
            following = node.next  # so that the current node may be erased
            yield node
            node = following if following.alive else self._skip(following)

    def _skip(self, node: Node) -> Node:
        while not node.alive:  # erased nodes keep pointing on
            node = node.next
        return node

    def __len__(self) -> int:
        return self._count

    def opset(self, domain: str = "") -> int:
        """The version of a domain that is imported here; 1 where it is not imported (a custom domain)."""
        if self._opsets is None:
            scope = self
            while scope.parent is not None:
                scope = scope.parent
            if isinstance(scope.proto, FunctionProto):
                self._opsets = {schema.canonical(o.domain): o.version for o in scope.proto.opset_import}
            else:
                self._opsets = self.model.opsets
        return self._opsets.get(domain, 1)

    def edits_since(self, version: int) -> Iterable[Node]:
        """The living nodes of this model that were made or changed since."""
        journal = dict.fromkeys(self.model.journal[version:])
        return [node for node in journal if node.alive and node is not node.graph._root]

    # -- changing ------------------------------------------------------------------------------------------------------

    def touch(self, node: Node) -> None:
        """Puts a change on record: the node's proto is written back at commit."""
        node.dirty = True
        self.model.journal.append(node)

    def insert(
        self,
        op: str,
        inputs: Sequence[Value | None],
        *,
        before: Node | None = None,
        domain: str = "",
        n_out: int = 1,
        name: str | None = None,
        out: str | None = None,
        **attrs: Any,
    ) -> Node:
        """Makes a node as `helper.make_node` would, in front of `before` (or at the end).

        Attributes that are None are left out; a GraphProto becomes a body, which may read any value of this scope.
        `out` is a hint for the output's name.
        """
        proto = self.proto.node.add()  # born in the graph's own arena: commit copies nothing
        proto.op_type = op
        if domain:
            proto.domain = domain
        for key in sorted(attrs):
            if attrs[key] is not None:
                proto.attribute.append(schema.attribute(op, domain, self.opset(domain), key, attrs[key]))
        node = Node(proto, self)
        stem = out or op
        node.name = proto.name = self.model.fresh_node_name(name or stem)
        for index in range(n_out):
            value = Value(self.model.fresh(stem if index == 0 else f"{stem}_{index}"), self, node, index)
            self.values[value.name] = value
            node.outputs.append(value)
        node.inputs = [None] * len(inputs)
        for index, item in enumerate(inputs):
            if item is not None:
                node.set_input(index, item)
        self.touch(node)
        self._link(node, (before or self._root).prev)
        if op in schema.CONTROL_FLOW or domain:
            self.attach(node)
        return node

    def insert_copy(self, node: Node, inputs: Sequence[Value | None], before: Node | None) -> Node:
        """A copy of another scope's node that reads these values. Its bodies, if it has any, are in its proto: they are
        to be read with `attach` once the tensors in it are of this model."""
        names = [value.name for value in node.outputs]
        stem = next((name for name in names if name), node.op)
        copy = self.insert(
            node.op, inputs, before=before, domain=node.domain, n_out=len(names), name=node.name or None, out=stem
        )
        proto = copy.proto
        proto.attribute.extend(node.proto.attribute)
        proto.metadata_props.extend(node.proto.metadata_props)
        proto.doc_string, proto.overload = node.proto.doc_string, node.proto.overload
        for old, new in zip(node.outputs, copy.outputs, strict=True):
            if old.name:
                new.set_type(old.type)
            else:  # not wanted
                del self.values[new.name]
                new.name = ""
        return copy

    def attach(self, node: Node) -> None:
        """Reads the bodies in the attributes of a new node."""
        pending = self._read_bodies(node)
        while pending:
            pending = [body for graph in pending for body in graph.connect()]

    def constant(self, array: NDArray, hint: str = "const", dtype: int | None = None) -> Value:
        """A new constant value: an initializer, or a Constant node where there can be none. `dtype` is an onnx type,
        where the array's own does not say it."""
        array = np.asarray(array)
        if not self.holds_initializers:
            tensor = TensorProto()
            fill(tensor, array, "", self.model.store, dtype)
            return self.insert("Constant", [], before=self._root.next, out=hint, value=tensor).output
        assert isinstance(self.proto, GraphProto)
        name = self.model.fresh(hint)
        proto = self.proto.initializer.add()
        fill(proto, array, name, self.model.store, dtype)
        return self._add_initializer(name, proto)

    def adopt(self, tensor: TensorProto, hint: str) -> Value:
        """A new initializer with a copy of this tensor, its payload shared."""
        assert isinstance(self.proto, GraphProto)
        proto = self.proto.initializer.add()
        proto.CopyFrom(tensor)
        proto.name = self.model.fresh(hint)
        return self._add_initializer(proto.name, proto)

    def freeze(self, value: Value, tensor: TensorProto) -> None:
        """Turns what a node makes into an initializer with this content (copied, its payload shared): readers and
        names stay. The node loses that output. Not inside functions, which have no initializers."""
        node = value.producer
        assert isinstance(self.proto, GraphProto) and node is not None
        node.outputs[value.index] = Value("", self, node, value.index)
        self.touch(node)
        proto = self.proto.initializer.add()
        proto.CopyFrom(tensor)
        proto.name = value.name
        value.producer, value.index = None, 0
        self._add_initializer(value.name, proto)
        self.model.journal.extend(value.users)

    def erase(self, node: Node) -> None:
        """Removes a node that nothing reads. Raises ValueError when something does."""
        for value in node.outputs:
            if value.users or value.outs:
                raise ValueError(f"{node!r} is still in use")
        pending = [node]
        while pending:  # the nodes of its bodies let go of what they capture
            item = pending.pop()
            self.model.journal.append(item)
            for read in item.inputs:
                if read is not None:
                    release(read, item)
            item.inputs = []
            item.alive = False
            for body in item.subgraphs:
                pending.extend(body)
                for value in body.outputs:
                    value.outs -= 1
        for value in node.outputs:
            if value.name:
                del self.values[value.name]
        node.prev.next, node.next.prev = node.next, node.prev
        self.holders.pop(node, None)
        self._count -= 1
        self.model.journal.append(node)

    def erase_initializer(self, value: Value) -> None:
        """Removes an initializer that nothing reads."""
        if value.users or value.outs:
            raise ValueError(f"{value!r} is still in use")
        del self.initializers[value.name], self.values[value.name]
        self._removed_initializers = True
        self.model.journal.append(self._root)

    def rename(self, value: Value, name: str) -> None:
        """Gives a value another name, one that is free in this scope."""
        if value.name:
            del self.values[value.name]
        if value.tensor is not None and self.initializers.pop(value.name, None) is not None:
            self.initializers[name] = value
            value.tensor.proto.name = name
        value.name = name
        self.values[name] = value
        self.model.value_names.add(name)
        for user in value.users:
            user.graph.unshadow(value)
            user.graph.touch(user)
        if value.producer is not None:
            self.touch(value.producer)

    def add_input(self, info: ValueInfoProto) -> Value:
        """A new input of the main graph, after the others. Its name is free."""
        assert isinstance(self.proto, GraphProto) and self.parent is None
        self.proto.input.append(info)
        value = self._define(info.name)
        value.is_input = True
        value.set_type(self.proto.input[-1].type)
        self.inputs.append(value)
        self.model.value_names.add(info.name)
        self.model.journal.append(self._root)
        return value

    def set_outputs(self, values: Sequence[Value], infos: Sequence[ValueInfoProto]) -> None:
        """Makes these values of the main graph what it returns; infos: their types, as declared."""
        assert isinstance(self.proto, GraphProto) and self.parent is None
        for value in self.outputs:
            value.outs -= 1
        self.outputs = list(values)
        for value in values:
            value.outs += 1
        copies = [ValueInfoProto.FromString(info.SerializeToString()) for info in infos]
        del self.proto.output[:]
        self.proto.output.extend(copies)
        self.model.journal.append(self._root)

    def replace(self, old: Value, new: Value) -> None:
        """See `Value.replace_with`."""
        if old is new:
            return
        fresh = new.graph is self and new.producer is not None and not new.outs and not old.is_input
        takes_name = fresh and old.producer is not None and (old.outs > 0 or not new.users)
        if takes_name and old.outs and new.producer is not None and "sparse_value" in new.producer.attributes:
            takes_name = False  # ONNX Runtime would take it for a sparse output
        if new.type is None and old.type is not None:
            new.set_type(old.type)
        for user in list(old.users):
            if user is new.producer:
                continue  # new = f(old): old stays as what f reads
            for index, value in enumerate(user.inputs):
                if value is old:
                    if takes_name:
                        _rewire(user, index, old, new)
                    else:
                        user.set_input(index, new)
        if takes_name:
            self._swap_names(old, new)
        if old.outs and old.producer is None:
            pass  # an input or initializer that is returned as it is: its name is the interface
        elif old.outs:
            if not takes_name:
                source = new
                keeper = self.insert("Identity", [source])
                assert old.producer is not None
                mark(keeper, origin_of(old.producer))  # what the original made that was returned by this name
                new = keeper.output
                new.set_type(source.type)
                self._swap_names(old, new)
            self.outputs = [new if value is old else value for value in self.outputs]
            new.outs, old.outs = new.outs + old.outs, 0
        self.model.journal.append(new.producer or self._root)

    def _swap_names(self, old: Value, new: Value) -> None:
        """`new`'s readers see a change of name only if it had any before."""
        others = [user for user in new.users if new.name in user.proto.input]
        old.name, new.name = new.name, old.name
        self.values[old.name], self.values[new.name] = old, new
        for node in (old.producer, new.producer, *others):
            if node is not None:
                node.graph.touch(node)
        for user in new.users:
            if user.graph is not self:
                user.graph.unshadow(new)

    def unshadow(self, outer: Value) -> None:
        """Makes sure that `outer`'s name means `outer` in this scope: a local value of the same name is renamed."""
        scope: Graph | None = self
        while scope is not None and scope is not outer.graph:
            local = scope.values.get(outer.name)
            if local is not None:
                scope.rename(local, self.model.fresh(outer.name))
            scope = scope.parent

    def toposort(self) -> None:
        """Orders the nodes so that definitions come before uses; stable. Raises ModelError on a cycle."""
        from graphopt.ir.order import sort

        order = sort(self)
        self.model.journal.append(self._root)
        root = self._root
        root.prev = root.next = root
        self._count = 0
        for node in order:
            self._link(node, root.prev)

    def ensure_sorted(self) -> None:
        """Sorts only where some use comes before its definition."""
        from graphopt.ir.order import is_sorted

        if not is_sorted(self):
            self.toposort()

    def _link(self, node: Node, after: Node) -> None:
        node.prev, node.next = after, after.next
        after.next.prev = after.next = node
        self._count += 1


def _rewire(user: Node, index: int, old: Value, new: Value) -> None:
    """Like `set_input`, for a reader whose proto stays right because `new` takes over the name of `old`."""
    release(old, user)
    new.users[user] = new.users.get(user, 0) + 1
    user.inputs[index] = new
    user.graph.model.journal.append(user)
