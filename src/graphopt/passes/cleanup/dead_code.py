"""Removes nodes, initializers and functions that nothing reads.

Guards: graph inputs stay, used or not (they are the interface), with their defaults; so do tensors that quantization
annotations name; nodes of unknown domains stay
(they may do more than compute); bodies of operators that are not standard stay as they are.
"""

from __future__ import annotations

from dataclasses import dataclass

from onnx import FunctionProto

from graphopt.ir import Graph, Model
from graphopt.passes.base import Pass
from graphopt.rewrite import Context
from graphopt.rewrite.sweep import is_dead, is_opaque, sweep

NAME = "dead-code"


@dataclass(frozen=True)
class DeadCode(Pass):
    """Removes nodes, initializers and functions that nothing reads."""

    name = NAME

    def run(self, model: Model, ctx: Context) -> None:
        """Removes from the innermost scopes outwards."""
        for graph in reversed(list(model.scopes())):
            if not is_opaque(graph):
                _nodes(graph, ctx)
                _initializers(graph, ctx)
        _functions(model, ctx)


def _nodes(graph: Graph, ctx: Context) -> None:
    for node in reversed(graph.nodes):
        if is_dead(node) and ctx.allow(NAME):
            label = node.label
            ctx.claim()
            sweep(node)
            ctx.record(NAME, [label], [], graph)


def _initializers(graph: Graph, ctx: Context) -> None:
    annotated = _annotated(graph)
    for value in list(graph.initializers.values()):
        if not (value.users or value.outs or value.is_input or value.name in annotated) and ctx.allow(NAME):
            ctx.claim()
            graph.erase_initializer(value)
            ctx.record(NAME, [value.name], [], graph)


def _annotated(graph: Graph) -> set[str]:
    """The tensors (scales, zero points) that quantization annotations name."""
    notes = () if isinstance(graph.proto, FunctionProto) else graph.proto.quantization_annotation
    return {entry.value for note in notes for entry in note.quant_parameter_tensor_names}


def _functions(model: Model, ctx: Context) -> None:
    """A function is in use if a node anywhere calls it by domain and name (overloads are kept together)."""
    called = {(node.domain, node.op) for graph in model.scopes(functions=False) for node in graph}
    waiting = dict(model.functions)
    reached = True
    while reached:
        reached = False
        for key, graph in list(waiting.items()):
            if key[:2] in called:
                del waiting[key]
                called |= {(node.domain, node.op) for scope in _within(graph) for node in scope}
                reached = True
    for key, graph in waiting.items():
        if ctx.allow(NAME):
            ctx.claim()
            assert isinstance(graph.proto, FunctionProto)
            model.erase_function(key)
            ctx.record(NAME, [key[1]], [], graph)


def _within(graph: Graph) -> list[Graph]:
    found = [graph]
    for scope in found:  # grows while it is walked
        for node in scope:
            found += node.subgraphs
    return found
