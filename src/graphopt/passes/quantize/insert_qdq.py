"""x w + b   ~   Q/DQ around it: (q(x) - z) s_x times w in int8 plus b in int32, rounded to the steps of the result

Static quantization: each tensor between integer operators has a scale and zero point, from its range on calibration
data, and one QuantizeLinear/DequantizeLinear pair that all its integer readers share. What is in integers is decided by
cost, for the target: anchors (Conv, ConvTranspose, Gemm, MatMul) gain by it, what is between them goes along where a
detour by floats would cost more. Operators that stay float read floats where there are any. A Relu or Clip is left to
the saturation of the Q behind it. Weights are int8, symmetric, one scale for each output channel; biases int32.

Lossy. docs/quantization-onnxruntime.md says what each operator becomes, and what it costs and gains.

Guards: opset 13 (scales per channel; `raise-opset` gets there); float32; constant weights; a range for each tensor.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from graphopt.analysis.ranges import Ranges
from graphopt.analysis.shapes import ensure_types
from graphopt.ir import Graph, Model, Node
from graphopt.passes.base import Pass
from graphopt.passes.quantize._onnxruntime import OnnxRuntime
from graphopt.passes.quantize._qdq_emit import Emitter
from graphopt.passes.quantize._qdq_forms import Target, Unit
from graphopt.passes.quantize._qdq_plan import Plan, exposed, plan
from graphopt.passes.quantize._ranges import ranges_of
from graphopt.passes.quantize._scales import check_dtype
from graphopt.passes.quantize._select import matches, selected
from graphopt.passes.quantize._weights import Constants
from graphopt.rewrite import Builder, Context
from graphopt.rewrite.driver import site_of
from graphopt.rewrite.sweep import is_opaque, sweep

if TYPE_CHECKING:
    from graphopt.ir import Value

NAME = "insert-qdq"


@dataclass(frozen=True)
class InsertQdq(Pass):
    """Static quantization: Q/DQ around what the target computes in integers.

    ranges: a file of `graphopt calibrate` (or, from Python, a Ranges object) for this model. only, keep_float: patterns
    of the labels of convolutions and products to quantize, and of any nodes to keep float. activations: "uint8" or
    "int8". weights: "int8". per_channel: a scale for each output channel of the weights. force: quantize whatever is
    chosen, even if it does not pay by the model of cost.
    """

    name = NAME
    lossy = True
    needs_ranges = True
    ranges: Any = ""
    only: str = "*"
    keep_float: str = ""
    activations: str = "uint8"
    weights: str = "int8"
    per_channel: bool = True
    force: bool = False

    def run(self, model: Model, ctx: Context) -> None:
        """Quantizes each scope (not functions). Raises GraphoptError where there are no ranges."""
        ranges = ranges_of(self.ranges)
        check_dtype(self.activations)
        check_dtype(self.weights)
        ensure_types(model)
        for graph in list(model.scopes(functions=False)):
            if is_opaque(graph):
                continue
            if graph.opset() < 13:
                self._refuse_all(graph, ctx)
                continue
            graph.ensure_sorted()
            self._quantize(graph, ranges, target_of(ctx.target), ctx)

    def _refuse_all(self, graph: Graph, ctx: Context) -> None:
        for node in graph:
            if node.op in ("Conv", "ConvTranspose", "Gemm", "MatMul") and not node.domain:
                reason = f"opset {graph.opset()} has no scales per channel: run raise-opset first (13 or more)"
                ctx.refuse(NAME, reason, node)

    def _quantize(self, graph: Graph, ranges: Ranges, target: Target, ctx: Context) -> None:
        def refuse(node: Node, reason: str) -> None:
            ctx.refuse(NAME, reason, node)

        apart = exposed(graph)

        def chosen(node: Node, anchor: bool) -> bool:
            return node not in apart and self._chosen(node, anchor)

        found = plan(graph, target, ranges, chosen, refuse, self.activations, self.force)
        for node in apart:
            refuse(node, "the body of an If, Loop or Scan reads what it makes, which ONNX Runtime does not survive")
        emitter = Emitter(graph, target, found.scales, Constants(), self.activations, self.weights, self.per_channel)
        integers = {node for unit in found.units for node in unit.nodes}
        constants = [v for node in integers for v in node.inputs if v is not None and v.tensor is not None]
        for unit in found.units:
            self._rewrite(unit, emitter, integers, ctx)
        _better_floats(found, emitter, ctx)
        for value in dict.fromkeys(constants):
            if value.is_const and not value.users and not value.outs and value.name in value.graph.initializers:
                value.graph.erase_initializer(value)

    def _chosen(self, node: Node, anchor: bool) -> bool:
        return selected(node, self.only, self.keep_float) if anchor else not matches(node.label, self.keep_float)

    def _rewrite(self, unit: Unit, emitter: Emitter, integers: set[Node], ctx: Context) -> None:
        if not ctx.allow(NAME, site_of(unit.root)):
            return
        output = unit.output
        floats = output.outs > 0 or not any(user in integers for user in output.users)
        labels = [node.label for node in unit.nodes]
        new = Builder(unit.root.graph, unit.nodes[-1], NAME, unit.nodes)
        read = [v.producer for node in unit.nodes for v in node.inputs if v is not None and v.producer is not None]
        emitter.quantize(new, unit, floats)
        sweep(*read)
        new.settle()
        ctx.record(NAME, labels, [node.label for node in new.nodes], unit.root.graph)


def _better_floats(found: Plan, emitter: Emitter, ctx: Context) -> None:
    """Units that stay float, in the form that is best next to integers."""
    for unit in found.floating:
        reads: list[Value | None] = list((unit.inner or (unit.root,))[0].inputs)
        if not any(value is not None and emitter.is_read(value) for value in reads):
            continue
        new = Builder(unit.root.graph, unit.root, NAME, unit.nodes)
        made = emitter.target.float_form(emitter, new, unit) if ctx.allow(NAME, site_of(unit.root)) else None
        if made is None:
            new.undo()
            continue
        labels = [node.label for node in unit.nodes]
        unit.root.output.replace_with(made)
        for node in (unit.root, *unit.inner):
            unit.root.graph.erase(node)
        new.settle()
        ctx.record(NAME, labels, [node.label for node in new.nodes], unit.root.graph)


def target_of(name: str) -> Target:
    """The table of a target."""
    return OnnxRuntime(own=name == "onnxruntime")
