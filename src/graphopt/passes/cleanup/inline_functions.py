"""Calls of model-local functions are replaced by the functions' bodies, with onnx's own inliner.

Guards: a recursive function is refused, and so are calls that write out to far more than the model; a function whose
opset imports contradict the model's stays a call; and none is written out where a call lacks an operand it needs.
"""

from __future__ import annotations

from dataclasses import dataclass

from onnx import FunctionProto, defs, inliner

from graphopt.ir import Graph, Model, Node
from graphopt.ir import schema as schemas
from graphopt.ir.calls import check_calls
from graphopt.ir.provenance import mark, origin_of_all
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
        lacking = _calls_that_lack_an_operand(model)
        for call in lacking:
            ctx.refuse("inline-functions", "the call leaves out an operand that the function needs", call)
        if lacking:
            return
        _mark(model)
        _write_out_defaults(model)
        _cover_sparse(model)
        names = sorted(key[1] for key in model.functions)
        before = sum(len(graph) for graph in model.scopes(functions=False))
        inlined = inliner.inline_local_functions(model.commit())
        model.reload(inlined)
        after = sum(len(graph) for graph in model.scopes(functions=False))
        if len(model.functions) != len(names) or before != after:
            ctx.record("inline-functions", names, [], model.graph)


def _mark(model: Model) -> None:
    """Notes in the nodes of functions which they are: the inliner gives them other names, and keeps the notes."""
    for body in model.functions.values():
        pending = [body]
        while pending:
            for node in pending.pop():
                mark(node, origin_of_all([node], "inline-functions"))
                pending += node.subgraphs


def _calls_that_lack_an_operand(model: Model) -> list[Node]:
    """Calls that leave out what the function reads where it is not optional: written out, they would not be valid."""
    calls = []
    for graph in model.scopes():
        for node in graph:
            body = model.functions.get((node.domain, node.op, node.proto.overload))
            if body is not None and not _can_do_without(body, node):
                calls.append(node)
    return calls


def _can_do_without(body: Graph, call: Node) -> bool:
    missing = [formal for slot, formal in enumerate(body.inputs) if call.input(slot) is None]
    return not any(formal.is_output for formal in missing) and all(
        _is_optional(user, slot)
        for formal in missing
        for user in formal.users
        for slot, value in enumerate(user.inputs)
        if value is formal
    )


def _is_optional(node: Node, slot: int) -> bool:
    schema = schemas.find(node.op, node.domain, node.graph.opset(node.domain))
    return (
        schema is not None
        and slot < len(schema.inputs)
        and schema.inputs[slot].option == defs.OpSchema.FormalParameterOption.Optional
    )


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
