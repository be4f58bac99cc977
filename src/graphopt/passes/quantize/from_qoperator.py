"""QLinearX(x, xs, xz, ..., ys, yz)   ~   QuantizeLinear(X(DequantizeLinear(x, xs, xz), ...), ys, yz)

What a model of quantized operators says, in the form that every other pass here, and other runtimes, understand.
Equal but for rounding: a result may differ by one integer (see `_qoperators`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from graphopt.analysis.shapes import ensure_types
from graphopt.ir import Model, Node, Value
from graphopt.passes.base import Pass
from graphopt.passes.quantize._qoperators import FORMS, Form
from graphopt.passes.quantize._select import selected
from graphopt.rewrite import Builder, Context
from graphopt.rewrite.driver import site_of
from graphopt.rewrite.sweep import is_opaque

NAME = "from-qoperator"


@dataclass(frozen=True)
class FromQoperator(Pass):
    """Writes quantized operators (QLinearConv, QLinearMatMul, ONNX Runtime's QLinearAdd, QGemm ...) as Q and DQ around
    float ones. ConvInteger and MatMulInteger, which give int32, stay. only: patterns of labels.
    """

    name = NAME
    lossy: ClassVar[bool] = True
    only: str = "*"

    def run(self, model: Model, ctx: Context) -> None:
        """Node by node."""
        ensure_types(model)
        for graph in list(model.scopes(functions=False)):
            if is_opaque(graph):
                continue
            for node in graph.nodes:
                form = FORMS.get((node.domain, node.op))
                if form is None or not selected(node, self.only):
                    continue
                reason = _why_not(node, form)
                if reason:
                    ctx.refuse(NAME, reason, node)
                elif ctx.allow(NAME, site_of(node)):
                    _rewrite(node, form, ctx)


def _slots(node: Node, form: Form) -> tuple[int, ...]:
    return tuple(range(form.data[0], len(node.inputs), 3)) if form.many else form.data


def _why_not(node: Node, form: Form) -> str:
    if node.has_references:
        return "an attribute refers to the function's"
    for key, value in form.own:
        if node.attr(key, value) != value:
            return f"{key}={node.attr(key)} has no counterpart"
    for slot in (*_slots(node, form), form.out):
        at = slot if slot == form.out else slot + 1
        scale = node.input(at)
        if scale is None or not scale.is_const:
            return "a scale is computed at run time"
        if scale.numpy().size > 1 and node.graph.opset() < 13:
            return "scales per channel are of opset 13: run raise-opset first"
        if scale.numpy().size > 1 and (form.float_op not in ("Conv", "MatMul", "Gemm") or slot != form.data[1]):
            return "scales per channel of something other than weights"
    if form.float_op == "Gemm" and node.input(form.out) is None:
        return "it gives floats"
    if form.float_op == "MatMul":
        weight, scale = node.input(3), node.input(4)
        if scale is not None and scale.numpy().size > 1 and (weight is None or weight.rank != 2):
            return "scales per column of something other than a matrix"
    return ""


def _rewrite(node: Node, form: Form, ctx: Context) -> None:
    new = Builder(node.graph, node, NAME, [node])
    operands: list[Value | None] = []
    for place, slot in enumerate(_slots(node, form)):
        axis = _axis(node, form) if place == 1 else None
        scale, zero = (_number(value, new) for value in (node.input(slot + 1), node.input(slot + 2)))
        several = scale is not None and scale.numpy().size > 1
        operands.append(new.DequantizeLinear(node.inputs[slot], scale, zero, axis=axis if several else None))
    if form.bias is not None and node.input(form.bias) is not None:
        operands.append(_bias(node, form, new))
    kept: dict[str, Any] = {key: None for key, _ in form.own}
    result = new.make(form.float_op, *operands, like=node, **kept)
    step, zero = (_number(node.input(slot), new) for slot in (form.out, form.out + 1))
    codes = new.QuantizeLinear(result, step, zero, name=f"{node.label}_q", type_of=node.output)
    matched = node.label
    node.output.replace_with(codes)
    node.graph.erase(node)
    new.settle()
    ctx.record(NAME, [matched], [made.label for made in new.nodes], new.graph)


def _axis(node: Node, form: Form) -> int:
    """The axis of the weights' output channels."""
    if form.float_op == "Conv" or (form.float_op == "Gemm" and node.attr("transB", 0)):
        return 0
    return 1


def _number(value: Value | None, new: Builder) -> Value | None:
    """A scale or zero point of one element as a scalar, as Q and DQ spell one for the whole tensor."""
    if value is None or not value.is_const or value.numpy().size != 1 or value.shape == ():
        return value
    return new.constant(value.numpy().reshape(()), like=value)


def _bias(node: Node, form: Form, new: Builder) -> Value:
    """An int32 bias, whose scale is that of the data times that of the weights."""
    assert form.bias is not None
    x, w = node.input(form.data[0] + 1), node.input(form.data[1] + 1)
    assert x is not None and w is not None
    scale = np.asarray(x.numpy().reshape(()) * w.numpy(), np.float32)
    if scale.size == 1:
        scale = scale.reshape(())
    step = new.constant(scale, f"{node.label}_bias_scale")
    codes = node.inputs[form.bias]
    out: Value = new.DequantizeLinear(codes, step, axis=None if scale.ndim == 0 else 0)
    return out
