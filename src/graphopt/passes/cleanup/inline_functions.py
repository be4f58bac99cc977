"""Calls of model-local functions are replaced by the functions' bodies, with onnx's own inliner.

Guards: a recursive function is refused, and so are calls that write out to far more than the model; a function whose
opset imports contradict the model's stays a call.
"""

from __future__ import annotations

from dataclasses import dataclass

from onnx import FunctionProto, inliner

from graphopt.ir import Model
from graphopt.ir.calls import check_calls
from graphopt.passes.base import Pass
from graphopt.rewrite import Context


@dataclass(frozen=True)
class InlineFunctions(Pass):
    """Replaces calls of model-local functions by their bodies."""

    name = "inline-functions"

    def run(self, model: Model, ctx: Context) -> None:
        """Inlines all calls, in all scopes."""
        if not model.functions or not ctx.allow("inline-functions"):
            return
        check_calls(model)
        _write_out_defaults(model)
        _cover_sparse(model)
        names = sorted(key[1] for key in model.functions)
        before = sum(len(graph) for graph in model.scopes(functions=False))
        inlined = inliner.inline_local_functions(model.commit())
        model.reload(inlined)
        after = sum(len(graph) for graph in model.scopes(functions=False))
        if len(model.functions) != len(names) or before != after:
            ctx.record("inline-functions", names, [], model.graph)


def _cover_sparse(model: Model) -> None:
    """Sparse constants that a function returns as they are: ONNX Runtime would take them for sparse graph outputs."""
    for graph in model.functions.values():
        for node in list(graph):
            if "sparse_value" in node.attributes and node.output.outs:
                copy = graph.insert("Constant", [], before=node, sparse_value=node.attr("sparse_value"))
                node.output.replace_with(graph.insert("Identity", [copy.output], before=node).output)
                graph.erase(node)


def _write_out_defaults(model: Model) -> None:
    """Gives each call the attributes that it leaves to the function's defaults: onnx's inliner forgets them."""
    defaults = {
        key: list(graph.proto.attribute_proto)
        for key, graph in model.functions.items()
        if isinstance(graph.proto, FunctionProto) and graph.proto.attribute_proto
    }
    for graph in model.scopes() if defaults else ():
        for node in graph:
            for attribute in defaults.get((node.domain, node.op, node.proto.overload), ()):
                if attribute.name not in node.attributes:
                    node.proto.attribute.append(attribute)
