"""Operators that TensorRT's parser does not know, written out by the function that ONNX defines them by.

ONNX gives many operators a body of simpler ones (IR.md, "Functions"; operators.md, "Function"): LayerNormalization,
Gelu, Mish, HardSwish, GroupNormalization, RMSNormalization and others. onnx's own inliner puts it in place.

Guards: the target is TensorRT; its parser has no such operator; ONNX defines a function for it at this opset; the model
has no local functions left (run inline-functions first).
"""

from __future__ import annotations

from dataclasses import dataclass

from onnx import ModelProto, defs, helper, inliner

from graphopt.analysis.shapes import ensure_types
from graphopt.ir import Model, Node
from graphopt.passes.base import Pass
from graphopt.rewrite import Context

_ROUNDS = 4  # bodies in bodies


@dataclass(frozen=True)
class ExpandUnsupported(Pass):
    """Writes out operators that TensorRT has not, as ONNX defines them."""

    name = "expand-unsupported"

    def run(self, model: Model, ctx: Context) -> None:
        """In all scopes."""
        if ctx.target != "tensorrt" or model.functions:
            return
        for _ in range(_ROUNDS):
            found = [node for graph in model.scopes() for node in graph if self._wanted(node, ctx)]
            if not found or not ctx.allow(self.name, found[0].outputs[0].name):
                return
            labels, kinds = [node.label for node in found], sorted({("", node.op) for node in found})
            ensure_types(model)
            model.reload(_inlined(model, kinds), model.store)
            ctx.record(self.name, labels, [], model.graph)

    def _wanted(self, node: Node, ctx: Context) -> bool:
        from graphopt.targets.tensorrt_parser import SUPPORTED

        if node.domain or node.op in SUPPORTED:
            return False
        if not _has_function(node.op, node.graph.opset()):
            ctx.refuse(self.name, "ONNX defines no function for this operator", node)
            return False
        return True


def _has_function(op: str, opset: int) -> bool:
    try:
        schema = defs.get_schema(op, max_inclusive_version=opset)
    except defs.SchemaError:
        return False
    return any(getattr(schema, kind, False) for kind in ("has_function", "has_context_dependent_function"))


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
    return result
