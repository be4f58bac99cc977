"""Operators that TensorRT's parser does not know, written out by the function that ONNX defines them by.

ONNX gives many operators a body of simpler ones (IR.md, "Functions"; operators.md, "Function"): Gelu, Mish, Swish
and others. onnx's own inliner puts it in place; casts to the type that is there already are left out.

Guards: the target is TensorRT and its parser has no such operator; ONNX defines a function for it at this opset, and
that is computed as runtimes compute the operator (it is in the list below: Softplus, for one, is not, as its
log(exp(x) + 1) is infinite from 89 on); no operand is a scalar, nor may be one (constants of one element in some of
ONNX's bodies make vectors of them); it stands in the main graph, where its function depends on types; the model has no
local functions left (run inline-functions first).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from onnx import ModelProto, defs, helper, inliner

from graphopt.analysis.shapes import ensure_types
from graphopt.ir import Model, Node
from graphopt.passes.base import Pass
from graphopt.rewrite import Context

_ROUNDS = 4  # bodies in bodies
_SOUND = frozenset("Gelu Mish Swish".split())
_ANYWHERE = frozenset(["Mish"])  # the others' bodies depend on types, which onnx's inliner knows in the main graph only


@dataclass(frozen=True)
class ExpandUnsupported(Pass):
    """Writes out operators that TensorRT has not, as ONNX defines them. any_target: for other targets, too."""

    name = "expand-unsupported"
    checked_as: ClassVar[Mapping[str, Any]] = {"any_target": True}
    any_target: bool = False

    def run(self, model: Model, ctx: Context) -> None:
        """In all scopes."""
        if model.functions or not (self.any_target or ctx.target == "tensorrt"):
            return
        for _ in range(_ROUNDS):
            ensure_types(model)
            found = [node for graph in model.scopes() for node in graph if self._wanted(node, ctx)]
            if not found or not ctx.allow(self.name, found[0].outputs[0].name):
                return
            labels, kinds = [node.label for node in found], sorted({("", node.op) for node in found})
            for node in found:
                _say_defaults(node)
            model.reload(_inlined(model, kinds), model.store)
            _drop_idle_casts(model)
            ctx.record(self.name, labels, [], model.graph)

    def _wanted(self, node: Node, ctx: Context) -> bool:
        from graphopt.targets.tensorrt_parser import SUPPORTED

        if node.domain or node.op in SUPPORTED:
            return False
        if not _has_function(node.op, node.graph.opset()):
            ctx.refuse(self.name, "ONNX defines no function for this operator", node)
            return False
        if node.op not in _SOUND:
            ctx.refuse(self.name, "ONNX's function for it is not known to be computed as the operator is", node)
            return False
        if node.op not in _ANYWHERE and node.graph is not node.graph.model.graph:
            ctx.refuse(self.name, "it stands in a body, where onnx's inliner does not know types", node)
            return False
        if not all(value.rank for value in node.inputs if value is not None and value.name):
            ctx.refuse(self.name, "an operand is a scalar, or may be one", node)
            return False
        return True


def _has_function(op: str, opset: int) -> bool:
    try:
        schema = defs.get_schema(op, max_inclusive_version=opset)
    except defs.SchemaError:
        return False
    return any(getattr(schema, kind, False) for kind in ("has_function", "has_context_dependent_function"))


def _say_defaults(node: Node) -> None:
    """The inliner gives a body no defaults of attributes that a node leaves out."""
    schema = defs.get_schema(node.op, max_inclusive_version=node.graph.opset())
    for name, attribute in schema.attributes.items():
        if attribute.default_value.type and name not in node.attributes:
            node.set_attr(name, helper.get_attribute_value(attribute.default_value))


def _drop_idle_casts(model: Model) -> None:
    ensure_types(model)
    for graph in model.scopes():
        for node in list(graph):
            source = node.input(0)
            if (
                node.op == "Cast"
                and source is not None
                and source.dtype == node.attr("to")
                and not node.output.is_output
            ):
                node.output.replace_with(source)
                graph.erase(node)


def _inlined(model: Model, kinds: list[tuple[str, str]]) -> ModelProto:
    """By onnx's inliner, which asks for the types of everything, initializers included: they are written into the model
    for it, and taken out again."""
    proto = ModelProto()
    proto.CopyFrom(model.commit())
    known = {info.name for info in (*proto.graph.input, *proto.graph.output, *proto.graph.value_info)}
    for name, value in model.graph.values.items():
        if name not in known and value.dtype is not None:
            proto.graph.value_info.append(helper.make_tensor_value_info(name, value.dtype, value.shape))
    result = inliner.inline_selected_functions(proto, kinds, inline_schema_functions=True)
    kept = [info for info in result.graph.value_info if info.name in known]
    del result.graph.value_info[:]
    result.graph.value_info.extend(kept)
    del result.graph.output[:]  # which it gives the shapes that it infers
    result.graph.output.extend(proto.graph.output)
    return result
