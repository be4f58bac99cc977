"""A model: its graph, functions and opsets, and the one place where protos are written back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from onnx import FunctionProto, GraphProto, ModelProto, helper

from graphopt.errors import ModelError
from graphopt.ir import schema
from graphopt.ir.collector import paused
from graphopt.ir.graph import Graph
from graphopt.ir.invariants import check
from graphopt.ir.node import Node
from graphopt.ir.tensor import Store

FunctionKey = tuple[str, str, str]  # domain, name, overload


class Model:
    """An ONNX model under edit.

    The proto given becomes this model's own: it is changed in place by `commit`. Use `from_proto` or `clone` to keep
    one. Raises ModelError where the model is not valid ONNX: undefined or doubly defined names, no graph.

    >>> from onnx import parser
    >>> m = Model(parser.parse_model('<ir_version: 8, opset_import: ["": 17]> g (float[N] x) => (float[N] y) '
    ...                              '{ a = Identity(x)  y = Relu(a) }'))
    >>> [node.op for node in m.graph], m.opsets
    (['Identity', 'Relu'], {'': 17})
    """

    def __init__(self, proto: ModelProto, store: Store | None = None):
        self.store = store or Store()
        self.journal: list[Node] = []
        self.fast_math = False  # whether what is equal for finite values alone may be put in, see the pass of that name
        self.facts: dict[str, Any] = {}  # what analyses know, with the version it holds for
        with paused():
            self._read(proto)
        self._clean = len(self.journal)

    def reload(self, proto: ModelProto, store: Store | None = None) -> None:
        """Takes another proto's content, for tools that work on protos; nodes and values held from before are void."""
        self.facts.clear()
        self.store = store or self.store
        self._read(proto)
        self.journal.append(self.graph._root)

    def _read(self, proto: ModelProto) -> None:
        if not proto.HasField("graph"):
            raise ModelError("not an ONNX model: it holds no graph; is this the right file?")
        self.proto = proto
        self.value_names: set[str] = set()
        self._annotated = False
        self._node_names: set[str] | None = None
        self._stems: dict[str, int] = {}
        self.ir_version: int = proto.ir_version
        self.opsets: dict[str, int] = {schema.canonical(o.domain): o.version for o in proto.opset_import}
        self.graph = Graph(proto.graph, self)
        self.functions: dict[FunctionKey, Graph] = {}
        for function in proto.functions:
            key = (schema.canonical(function.domain), function.name, function.overload)
            if key in self.functions:
                raise ModelError(f"function {function.name!r} is defined twice; the model is not valid ONNX")
            self.functions[key] = Graph(function, self)
        pending = [self.graph, *self.functions.values()]
        while pending:  # enclosing scopes first: a body may read any value of theirs
            pending = [body for graph in pending for body in graph.connect()]
        self._annotated, self._node_names = False, None  # now every scope is there to be asked
        try:
            "".join([*self.value_names, *self.opsets, *(text for key in self.functions for text in key)])
            "".join([text for graph in self.scopes() for n in graph for text in (n.op, n.domain, n.name)])
        except TypeError:  # protobuf hands out bytes for what is no UTF-8
            raise ModelError("a name in the model is no valid UTF-8; the file is damaged, export it again") from None

    def scopes(self, functions: bool = True) -> Iterator[Graph]:
        """Every graph: the main one, function bodies, and the bodies nested in each; enclosing scopes first."""
        pending = [self.graph, *(self.functions.values() if functions else ())]
        while pending:
            following: list[Graph] = []
            for graph in pending:
                yield graph
                for node in graph.holders:
                    following += node.subgraphs
            pending = following

    @property
    def version(self) -> int:
        """Grows with every change."""
        return len(self.journal)

    @property
    def is_changed(self) -> bool:
        """Whether anything was edited since it was made."""
        return len(self.journal) != self._clean

    def fresh(self, stem: str) -> str:
        """A value name that no scope of this model uses."""
        if not self._annotated:  # nor may a new value inherit what the file says of a name that it does not define
            self._annotated = True
            for graph in self.scopes():
                self.value_names.update(info.name for info in graph.proto.value_info)
        return self._fresh(stem, self.value_names)

    def fresh_node_name(self, stem: str) -> str:
        """A node name that no scope of this model uses."""
        if self._node_names is None:
            self._node_names = {node.name for graph in self.scopes() for node in graph}
        return self._fresh(stem, self._node_names)

    def _fresh(self, stem: str, taken: set[str]) -> str:
        name = stem
        while not name or name in taken:
            count = self._stems[stem] = self._stems.get(stem, 0) + 1
            name = f"{stem}_{count}"
        taken.add(name)
        return name

    def commit(self) -> ModelProto:
        """Writes the edits back and returns the proto. Large payloads stay in the store: to see them use `to_proto`."""
        if self.is_changed:
            for graph in list(self.scopes()):
                _commit(graph)
            self._clean = len(self.journal)
        return self.proto

    def clone(self) -> Model:
        """An independent copy; the payloads are shared."""
        proto = ModelProto()
        proto.CopyFrom(self.commit())
        return Model(proto, self.store.clone())

    def compact(self) -> Model:
        """A copy without what erased nodes left behind: protobuf's arenas never free."""
        return Model(ModelProto.FromString(self.commit().SerializeToString()), self.store)

    def require_opset(self, domain: str, version: int) -> None:
        """Makes sure that a domain is imported (an import that is there stays as it is)."""
        if domain not in self.opsets:
            self.opsets[domain] = version
            self.proto.opset_import.add(domain=domain, version=version)
            self.journal.append(self.graph._root)

    def erase_function(self, key: FunctionKey) -> None:
        """Removes a function that nothing calls."""
        graph = self.functions.pop(key)
        kept = [f for f in self.proto.functions if f is not graph.proto]
        self.proto.functions.sort(key=lambda f: f is graph.proto)
        del self.proto.functions[len(kept) :]
        self.journal.append(self.graph._root)

    def check(self) -> None:
        """The IR's invariants: chains and names agree, order is topological. Raises ModelError naming the first
        violation."""
        check(self)

    def text(self, names: bool = False) -> str:
        """The model as text; see `graphopt.ir.to_text`."""
        from graphopt.ir.text import to_text

        return to_text(self, names)

    def __repr__(self) -> str:
        return f"<Model {self.graph.name or '(unnamed)'}: {len(self.graph)} nodes>"


def _commit(graph: Graph) -> None:
    proto: Any = graph.proto
    for node in graph._unwritten:
        added = proto.node.add()
        added.CopyFrom(node.proto)
        node.proto = added
    graph._unwritten.clear()
    order: dict[int, int] = {}
    for index, node in enumerate(graph):
        order[id(node.write())] = index
    end = len(order)
    in_place = len(proto.node) == end and all(order.get(id(p)) == i for i, p in enumerate(proto.node))
    if not in_place:
        proto.node.sort(key=lambda p: order.get(id(p), end))
        del proto.node[end:]
    _commit_interface(graph)
    live = [p for p in proto.value_info if p.name in graph.values]
    if len(live) != len(proto.value_info):
        names = graph.values
        proto.value_info.sort(key=lambda p: p.name not in names)
        del proto.value_info[len(live) :]


def _commit_interface(graph: Graph) -> None:
    proto = graph.proto
    if isinstance(proto, FunctionProto):
        proto.input[:] = [value.name for value in graph.inputs]
        proto.output[:] = [value.name for value in graph.outputs]
        return
    for info, value in zip(proto.output, graph.outputs, strict=True):
        if info.name != value.name:
            info.name = value.name
    if graph._removed_initializers:
        kept = len(graph.initializers)
        names = graph.initializers
        proto.initializer.sort(key=lambda t: t.name not in names)
        del proto.initializer[kept:]
        graph._removed_initializers = False
    if graph.parent is None and graph.model.ir_version < 4:
        _list_initializers(graph, proto)
    else:
        for info, value in zip(proto.input, graph.inputs, strict=True):
            if info.name != value.name:
                info.name = value.name


def _list_initializers(graph: Graph, proto: GraphProto) -> None:
    """Before IR version 4 every initializer must be listed as a graph input, too."""
    known = {info.name for info in proto.input}
    wanted = {value.name for value in graph.inputs} | graph.initializers.keys()
    if not known <= wanted:
        kept = sum(info.name in wanted for info in proto.input)
        proto.input.sort(key=lambda info: info.name not in wanted)
        del proto.input[kept:]
    for name, value in graph.initializers.items():
        if name not in known:
            proto.input.append(helper.make_tensor_value_info(name, value.dtype or 0, value.shape or ()))
