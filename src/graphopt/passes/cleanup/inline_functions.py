"""Calls of model-local functions are replaced by the functions' bodies, with onnx's own inliner.

Guards: a recursive function is refused; a function whose opset imports contradict the model's stays a call.
"""

from __future__ import annotations

from dataclasses import dataclass

from onnx import FunctionProto, inliner

from graphopt.errors import ModelError
from graphopt.ir import Model
from graphopt.passes.base import Pass
from graphopt.rewrite import Context


@dataclass(frozen=True)
class InlineFunctions(Pass):
    """Replaces calls of model-local functions by their bodies."""

    name = "inline-functions"

    def run(self, model: Model, ctx: Context) -> None:
        """Inlines all calls, in all scopes."""
        if not model.functions or not ctx.allow():
            return
        _refuse_recursion(model)
        _write_out_defaults(model)
        names = sorted(key[1] for key in model.functions)
        before = sum(len(graph) for graph in model.scopes(functions=False))
        inlined = inliner.inline_local_functions(model.commit())
        model.reload(inlined)
        after = sum(len(graph) for graph in model.scopes(functions=False))
        if len(model.functions) != len(names) or before != after:
            ctx.record("inline-functions", names, [], model.graph)


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


def _refuse_recursion(model: Model) -> None:
    """Raises ModelError naming a function that calls itself, directly or not."""
    calls: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for key, graph in model.functions.items():
        scopes = [graph]
        for scope in scopes:
            for node in scope:
                scopes += node.subgraphs
        known = {k[:2] for k in model.functions}
        calls.setdefault(key[:2], []).extend(
            (node.domain, node.op) for scope in scopes for node in scope if (node.domain, node.op) in known
        )
    done: set[tuple[str, str]] = set()
    for start in calls:
        path: list[tuple[str, str]] = []
        stack = [(start, False)]
        while stack:
            name, leaving = stack.pop()
            if leaving:
                done.add(path.pop())
            elif name in path:
                raise ModelError(f"function {name[1]!r} calls itself; ONNX does not allow recursion")
            elif name not in done:
                path.append(name)
                stack += [(name, True), *((callee, False) for callee in calls.get(name, ()))]
