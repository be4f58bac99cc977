"""Models as text, for tests and people: compact, the same every time, not meant to be parsed.

graph net (%x: float32[N,3]) -> (%y: float32[N,2]) {
  const %w: float32[2,3]
  %h: float32[N,2] = Gemm(%x, %w, _) {transB=1}
  %y = Relu(%h)
}
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
from onnx import AttributeProto, FunctionProto, TypeProto, helper

from graphopt.errors import ModelError
from graphopt.ir import dtypes
from graphopt.ir.graph import Graph
from graphopt.ir.model import Model
from graphopt.ir.node import Node, Value
from graphopt.ir.tensor import Store, Tensor

_TINY = 8  # elements of a constant that are shown
_PLAIN = re.compile(r"[\w./:#-]+\Z", re.ASCII)
_GRAPHS = (AttributeProto.GRAPH, AttributeProto.GRAPHS)
Item = Any  # a line, or an iterator of items to indent


def to_text(item: Model | Graph, names: bool = False) -> str:
    """The model (or one of its graphs) as text. Types are shown where they are known: those of the interface, and
    those that inference found. names: show node names, too.

    >>> from onnx import parser
    >>> m = Model(parser.parse_model('<ir_version: 8, opset_import: ["": 17]> g (float[N] x) => (float[N] y) '
    ...                              '{ a = Identity(x)  y = LeakyRelu<alpha = 0.1>(a) }'))
    >>> print(to_text(m))
    ir 8, opset 17
    graph g (%x: float32[N]) -> (%y: float32[N]) {
      %a = Identity(%x)
      %y = LeakyRelu(%a) {alpha=0.1}
    }
    """
    lines: list[str] = []
    stack: list[Iterator[Item]] = [_model(item, names) if isinstance(item, Model) else _graph(item, "graph ", names)]
    while stack:
        line = next(stack[-1], None)
        if line is None:
            stack.pop()
        elif isinstance(line, str):
            lines.append("  " * (len(stack) - 1) + line)
        else:
            stack.append(line)
    return "\n".join(lines)


def _model(model: Model, names: bool) -> Iterator[Item]:
    yield f"ir {model.ir_version}, {_opsets(model.opsets)}"
    yield from _graph(model.graph, "graph ", names)
    for (domain, name, overload), graph in model.functions.items():
        assert isinstance(graph.proto, FunctionProto)
        parameters = [*graph.proto.attribute, *(_attribute(a, model.store) for a in graph.proto.attribute_proto)]
        imports = {opset.domain: opset.version for opset in graph.proto.opset_import}
        title = ".".join(filter(None, (domain, name))) + (f":{overload}" if overload else "")
        given = f" <{', '.join(parameters)}>" if parameters else ""
        yield from _graph(graph, f"function {title}{given} ", names, f" {_opsets(imports)}")


def _opsets(opsets: dict[str, int]) -> str:
    return "opset " + ", ".join(f"{domain} {version}".strip() for domain, version in sorted(opsets.items()))


def _graph(graph: Graph, head: str, names: bool, tail: str = "") -> Iterator[Item]:
    if isinstance(graph.proto, FunctionProto):
        inputs, outputs = ", ".join(map(_name, graph.inputs)), ", ".join(map(_name, graph.outputs))
    else:
        declared = {info.name: info.type for info in graph.proto.input}
        inputs = ", ".join(_typed(v, v.type or declared.get(v.name)) for v in graph.inputs)
        infos = zip(graph.outputs, graph.proto.output, strict=True)
        outputs = ", ".join(_typed(value, info.type) for value, info in infos)
        if head == "graph " and graph.name:
            head += f"{_quote(graph.name)} "
    yield f"{head}({inputs}) -> ({outputs}){tail} {{"
    yield _body(graph, names)
    yield "}"


def _body(graph: Graph, names: bool) -> Iterator[Item]:
    for value in graph.initializers.values():
        assert value.tensor is not None
        word = "default" if value.is_input else "const"
        yield f"{word} {_name(value)}: {_tensor(value.tensor)}"
    if not isinstance(graph.proto, FunctionProto):
        for sparse in graph.proto.sparse_initializer:
            values = Tensor(sparse.values, graph.model.store)
            yield f"sparse %{_quote(sparse.values.name)}: {_dtype(values.dtype)}{_dims(tuple(sparse.dims))}"
    for node in graph:
        yield from _node(node, names)


def _node(node: Node, names: bool) -> Iterator[Item]:
    made = ", ".join(_typed(v, v.type) if v.name else "_" for v in node.outputs)
    read = ", ".join("_" if v is None else _name(v) for v in node.inputs)
    plain = [a for a in node.proto.attribute if a.type not in _GRAPHS]
    store = node.graph.model.store
    attributes = ", ".join(sorted(_attribute(a, store) for a in plain))
    op = f"{node.domain}.{node.op}" if node.domain else node.op
    overload = f":{node.proto.overload}" if node.proto.overload else ""
    line = f"{made} = " if made else ""
    line += f"{op}{overload}({read})" + (f" {{{attributes}}}" if attributes else "")
    title = f'  # "{node.name}"' if names and node.name else ""
    if not node.subgraphs:
        yield line + title
        return
    yield f"{line} do{title}"
    labels = [
        f"{_quote(a.name)}[{i}]" if a.graphs else _quote(a.name)
        for a in node.proto.attribute
        if a.type in _GRAPHS
        for i in range(max(1, len(a.graphs)))
    ]
    for label, body in sorted(zip(labels, node.subgraphs, strict=True), key=lambda pair: pair[0]):
        yield _graph(body, f"{label} ", names)


def _name(value: Value) -> str:
    return f"%{_quote(value.name)}"


def _quote(name: str | bytes) -> str:
    """A name as it is, or in quotes; protobuf hands out bytes for what is no UTF-8."""
    return name if isinstance(name, str) and _PLAIN.match(name) else _text(name)


def _typed(value: Value, type_proto: TypeProto | None) -> str:
    shown = _type(type_proto) if type_proto is not None else ""
    return f"{_name(value)}: {shown}" if shown else _name(value)


def _type(proto: TypeProto) -> str:
    """As `float32[N,3]`, `seq(int64[])`, `map(int64, float32)`; empty where nothing is known."""
    closing = ""
    text = ""
    while True:
        kind = proto.WhichOneof("value")
        if kind in ("tensor_type", "sparse_tensor_type"):
            tensor = getattr(proto, kind)
            text += ("sparse " if kind[0] == "s" else "") + _dtype(tensor.elem_type)
            if tensor.HasField("shape"):
                dims = tensor.shape.dim
                text += _dims([d.dim_value if d.HasField("dim_value") else d.dim_param or "?" for d in dims])
        elif kind in ("sequence_type", "optional_type"):
            text, closing = f"{text}{'seq' if kind[0] == 's' else 'optional'}(", closing + ")"
            proto = getattr(proto, kind).elem_type
            continue
        elif kind == "map_type":
            text, closing = f"{text}map({_dtype(proto.map_type.key_type)}, ", closing + ")"
            proto = proto.map_type.value_type
            continue
        elif kind is not None:
            text += kind
        return text + closing


def _dtype(kind: int) -> str:
    return dtypes.name(kind)


def _dims(dims: Any) -> str:
    return f"[{','.join(map(str, dims))}]"


def _tensor(tensor: Tensor) -> str:
    text = _dtype(tensor.dtype) + _dims(tensor.shape)
    if int(np.prod(tensor.shape, dtype=np.int64)) > _TINY:
        return text
    try:
        return f"{text} = {_values(tensor.numpy())}"
    except ModelError:
        return f"{text} = ?"


def _values(array: Any) -> str:
    if array.dtype == object:
        array = np.vectorize(_text, otypes=[object])(array) if array.size else array
    elif array.dtype.kind == "V":
        array = array.astype(np.float32)
    if not array.size:
        return "[]"
    items = [str(item) for item in array.ravel()]  # scalars print as short as is exact, whatever numpy's print options
    for dim in reversed(array.shape):
        items = [f"[{','.join(items[i : i + dim])}]" for i in range(0, len(items), dim)]
    return items[0]


def _text(item: str | bytes) -> str:
    return json.dumps(item.decode("utf-8", "backslashreplace") if isinstance(item, bytes) else item, ensure_ascii=False)


def _attribute(attribute: AttributeProto, store: Store) -> str:
    if attribute.ref_attr_name:
        return f"{_quote(attribute.name)}=@{_quote(attribute.ref_attr_name)}"
    try:
        value = helper.get_attribute_value(attribute)
    except ValueError:  # of no type that onnx knows
        return f"{_quote(attribute.name)}=?"
    return f"{_quote(attribute.name)}={_item(attribute.type, value, store)}"


def _item(kind: int, value: Any, store: Store) -> str:
    if kind == AttributeProto.FLOAT:
        return str(np.float32(value))
    if kind == AttributeProto.STRING:
        return _text(value)
    if kind == AttributeProto.TENSOR:
        return _tensor(Tensor(value, store))
    if kind == AttributeProto.SPARSE_TENSOR:
        return f"sparse {_dtype(value.values.data_type)}{_dims(value.dims)}"
    if kind == AttributeProto.TYPE_PROTO:
        return _type(value)
    if kind in _LISTS:
        return f"[{','.join(_item(_LISTS[kind], item, store) for item in value)}]"
    return str(value)


_LISTS: dict[int, int] = {
    AttributeProto.FLOATS: AttributeProto.FLOAT,
    AttributeProto.INTS: AttributeProto.INT,
    AttributeProto.STRINGS: AttributeProto.STRING,
    AttributeProto.TENSORS: AttributeProto.TENSOR,
    AttributeProto.SPARSE_TENSORS: AttributeProto.SPARSE_TENSOR,
    AttributeProto.TYPE_PROTOS: AttributeProto.TYPE_PROTO,
}
