"""A region as a model of its own. Weights are not read, not copied: both models look at the same payloads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from onnx import FunctionProto, GraphProto, ModelProto, TensorProto, TypeProto, ValueInfoProto

from graphopt.analysis.shapes import UNKNOWN
from graphopt.errors import GraphoptError
from graphopt.ir import Graph, Model, Node, Value
from graphopt.subgraphs.region import SCOPE_KEY, Region, scope_of

__all__ = ["LEAST_IR", "cut"]

LEAST_IR = 4  # before it, every initializer had to be an input
KEPT = 1 << 10  # bytes of a constant that stays without weights: it may be a shape, an axis, a scale
Types = dict[Value, TypeProto]


def cut(region: Region, types: Types, *, weights: bool = True, name: str = "") -> Model:
    """The region as a model, under the names that its values have.

    types: of inputs and outputs; an output that has none there is left untyped. weights: without, constants of more
    than a kilobyte become inputs, after the others. name: of the graph. Functions that it calls come along. Raises
    GraphoptError for an input whose type is not known.
    """
    source = region.graph.model
    source.commit()  # bodies are part of their nodes' protos
    proto = ModelProto(ir_version=max(LEAST_IR, source.ir_version), producer_name="graphopt")
    _import(proto, region.graph)
    place = scope_of(region.graph)
    if place:
        proto.metadata_props.add(key=SCOPE_KEY, value=place)
    graph = proto.graph
    graph.name = name or f"{source.graph.name or 'model'}_part"
    defaults = [value for value in region.inputs if value.tensor is not None]
    own = set(region.nodes)
    for value in (*region.constants, *defaults):
        _take_constant(graph, value, weights or value in defaults, own)
    graph.node.extend([node.write() for node in region.nodes])
    graph.input.extend([_info(value, _type(value, types)) for value in region.inputs])
    if not weights:
        large = [value for value in region.constants if not _stays(value)]
        graph.input.extend([_info(value, _constant_type(value)) for value in large])
    graph.output.extend([_info(value, types.get(value)) for value in region.outputs])
    _name_dims(graph)
    if source.functions:
        proto.functions.extend(_called(source, region.nodes))
    return Model(proto, source.store.clone())


def _import(proto: ModelProto, graph: Graph) -> None:
    """The opsets of the scope that the region is in; functions have their own."""
    while graph.parent is not None:
        graph = graph.parent
    imports = graph.proto.opset_import if isinstance(graph.proto, FunctionProto) else graph.model.proto.opset_import
    proto.opset_import.extend(imports)
    known = {entry.domain for entry in imports}
    for function in graph.model.proto.functions:
        if function.domain not in known:
            known.add(function.domain)
            proto.opset_import.add(domain=function.domain, version=1)


def _take_constant(graph: GraphProto, value: Value, weights: bool, own: set[Node]) -> None:
    node = value.producer
    if value.tensor is not None:
        if weights or _stays(value):
            graph.initializer.append(value.tensor.proto)
    elif node is not None:
        if node not in own:
            graph.node.append(node.write())
    else:
        holder = value.graph.proto
        assert isinstance(holder, GraphProto)
        graph.sparse_initializer.extend([s for s in holder.sparse_initializer if s.values.name == value.name])


def _stays(value: Value) -> bool:
    """Whether a constant is there without weights, too."""
    return value.tensor is None or value.tensor.nbytes <= KEPT or value.tensor.dtype == TensorProto.STRING


def _constant_type(value: Value) -> TypeProto:
    found = TypeProto()
    assert value.tensor is not None
    found.tensor_type.elem_type = value.tensor.dtype
    found.tensor_type.shape.SetInParent()
    for size in value.tensor.shape:
        found.tensor_type.shape.dim.add(dim_value=size)
    return found


def _type(value: Value, types: Types) -> TypeProto:
    found = types.get(value)
    if found is None and value.tensor is not None:
        found = _constant_type(value)
    if found is None:
        raise GraphoptError(
            f"the type of {value.name!r} is not known, so it cannot be an input: neither onnx nor ONNX Runtime infers "
            "it; cut elsewhere"
        )
    return found


def _info(value: Value, type_proto: TypeProto | None) -> ValueInfoProto:
    return ValueInfoProto(name=value.name, type=type_proto)


def _name_dims(graph: GraphProto) -> None:
    """Names that inference made up stay only where they say that two dims are equal."""
    infos = [*graph.input, *graph.output]
    made = [
        dim
        for info in infos
        for dim in info.type.tensor_type.shape.dim
        if info.type.HasField("tensor_type") and dim.dim_param.startswith(UNKNOWN)
    ]
    count = Counter(dim.dim_param for dim in made)
    for dim in made:
        if count[dim.dim_param] == 1:
            dim.Clear()


def _called(model: Model, nodes: Iterable[Node]) -> list[FunctionProto]:
    """The functions that nodes call, directly or not, in the order of the model."""
    wanted: set[tuple[str, str, str]] = set()
    pending = list(nodes)
    while pending:
        node = pending.pop()
        for body in node.subgraphs:
            pending += list(body)
        key = (node.domain, node.op, node.proto.overload)
        if key in model.functions and key not in wanted:
            wanted.add(key)
            pending += list(model.functions[key])
    return [f.proto for key, f in model.functions.items() if key in wanted and isinstance(f.proto, FunctionProto)]
