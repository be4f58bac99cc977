"""A part put back in the place it was taken from, optimized or otherwise changed."""

from __future__ import annotations

from onnx import ModelProto

from graphopt import ir
from graphopt.errors import GraphoptError, ModelError
from graphopt.ir import Graph, Model, Value
from graphopt.ir.external import shown
from graphopt.subgraphs.boundary import before, types_of
from graphopt.subgraphs.extract import Path, model_of
from graphopt.subgraphs.graft import graft
from graphopt.subgraphs.region import SCOPE_KEY, Region, scope_of

__all__ = ["replace", "replace_in"]


def replace(model: ModelProto | Path | Model, part: ModelProto | Path | Model) -> ModelProto | Model:
    """A model in which `part` computes what it has outputs for: the inverse of `extract`.

    The part's inputs and outputs are tensors of the model, by name; everything that the outputs needed before and
    nothing else reads goes away. The model given stays as it is. Returns a `ModelProto` for a proto or a path, a Model
    for a Model. Raises GraphoptError where names or types do not fit, where the opsets differ, or where the part makes
    something that one of its own inputs depends on.

    >>> from onnx import parser
    >>> head = '<ir_version: 8, opset_import: ["": 17]> g '
    >>> m = parser.parse_model(head + '(float[N] x) => (float[N] y) { a = Neg(x)  b = Neg(a)  y = Relu(b) }')
    >>> part = parser.parse_model(head + '(float[N] x) => (float[N] b) { b = Identity(x) }')
    >>> [n.op_type for n in replace(m, part).graph.node]
    ['Identity', 'Relu']
    """
    source, piece = model_of(model), model_of(part)
    result = replace_in(source.clone() if isinstance(model, Model) else source, piece)
    return result if isinstance(model, Model) else ir.to_proto(result)


def replace_in(model: Model, part: Model) -> Model:
    """`replace` on a model that is changed; after an error it is void."""
    for scope in model.scopes():
        scope.ensure_sorted()
    graph, outputs = _place(model, part)
    given = {}
    for value in part.graph.inputs:
        found = graph.find(value.name)
        if found is not None:
            given[value.name] = found
        elif value.tensor is None:
            raise GraphoptError(
                f"input {shown(value.name)} of the part is no tensor that is visible there in the model"
            )
    _check_types(model, part, dict(zip(part.graph.outputs, outputs, strict=True)))
    region = before(outputs, frozenset(given.values()))
    made = graft(graph, part, given, before=region.nodes[0])
    for old, new in zip(outputs, made, strict=True):
        old.replace_with(new)
    _erase(region)
    try:
        graph.ensure_sorted()
    except ModelError:
        raise GraphoptError(
            "the part cannot be put back: one of its inputs depends on one of its outputs; cut it so that no path "
            "leaves it and comes back"
        ) from None
    return model


def _place(model: Model, part: Model) -> tuple[Graph, list[Value]]:
    """The scope that the part goes to, and what it replaces there."""
    names = [value.name for value in part.graph.outputs]
    places = [graph for graph in model.scopes() if all(name in graph.values for name in names)]
    mark = next((entry.value for entry in part.proto.metadata_props if entry.key == SCOPE_KEY), "")
    marked = [graph for graph in places if scope_of(graph) == mark]
    if not places:
        raise GraphoptError(f"the model has no scope with tensors named {', '.join(map(shown, names[:8]))}")
    if len(places) > 1 and len(marked) != 1:
        raise GraphoptError(
            f"several bodies have tensors named {', '.join(map(shown, names[:8]))}, and the part does not say which is "
            "meant; extract it again"
        )
    graph = marked[0] if len(marked) == 1 else places[0]
    found = [graph.values[name] for name in names]
    fixed = [value for value in found if value.producer is None]
    if fixed:
        raise GraphoptError(f"{shown(fixed[0].name)} is not computed in the model, so no part can replace it")
    if graph.in_function:
        raise GraphoptError("a part of a function is that of one call; inline functions first (inline-functions)")
    return graph, found


def _check_types(model: Model, part: Model, pairs: dict[Value, Value]) -> None:
    ours, theirs = types_of(model, pairs.values()), types_of(part, pairs)
    for new, old in pairs.items():
        if new in theirs and old in ours:
            mine, other = theirs[new], ours[old]
            if mine.WhichOneof("value") != other.WhichOneof("value") or (
                mine.tensor_type.elem_type != other.tensor_type.elem_type
            ):
                raise GraphoptError(f"{shown(old.name)} has another type in the part than in the model")


def _erase(region: Region) -> None:
    """Removes what nothing reads any more: the nodes replaced, and the constants that only they read."""
    for node in reversed(region.nodes):
        if not any(value.users or value.outs for value in node.outputs):
            region.graph.erase(node)
    for value in region.constants:
        maker = value.producer
        if value.users or value.outs:
            continue
        if maker is not None and maker.alive:
            maker.graph.erase(maker)
        elif value.tensor is not None and not value.is_input and value.name in value.graph.initializers:
            value.graph.erase_initializer(value)
