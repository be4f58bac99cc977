"""Constant nodes become initializers: y = Constant(value)   ==   initializer y.

Guards: not in functions, which have none; not where the constant is itself returned (runtimes disagree on initializers
as outputs of a body); not sparse ones, which could explode; not where an attribute refers to a function's.
"""

from __future__ import annotations

from dataclasses import dataclass

from onnx import TensorProto

from graphopt.ir import Graph, Model, Node, Tensor
from graphopt.ir.tensor import fill
from graphopt.passes.base import Pass
from graphopt.rewrite import Context
from graphopt.rewrite.sweep import is_opaque


@dataclass(frozen=True)
class LiftConstants(Pass):
    """Turns Constant nodes into initializers."""

    name = "lift-constants"

    def run(self, model: Model, ctx: Context) -> None:
        """Lifts within each scope."""
        for graph in list(model.scopes(functions=False)):
            if is_opaque(graph) or not graph.holds_initializers:
                continue
            for node in graph:
                if node.op == "Constant" and not node.domain and not node.output.outs:
                    _lift(graph, node, ctx)


def _lift(graph: Graph, node: Node, ctx: Context) -> None:
    if "sparse_value" in node.attributes:
        ctx.refuse("lift-constants", "the constant is sparse", node)
        return
    if not ctx.allow("lift-constants", node.output.name):
        return
    given = node.attributes.get("value")
    if given is not None:
        tensor = given.t
    else:
        tensor = TensorProto()
        fill(tensor, node.constant_value(), "", graph.model.store)
    label = node.label
    ctx.claim((node.output, Tensor(tensor, graph.model.store)))
    graph.freeze(node.output, tensor)
    graph.erase(node)
    ctx.record("lift-constants", [label], [], graph)
