"""What ONNX Runtime's CPU kernels compute in integers, and in which form.

Conv, Gemm, MatMul, Add, Mul, Sigmoid, LeakyRelu, GlobalAveragePool, Concat: between DQ and Q, which ORT fuses to its
QLinear kernels. MaxPool and what only moves elements: between DQ and Q of one scale, which ORT drops. Where it has no
fast kernel, the same in other operators, all exact but for rounding: `_ort_forms`. docs/quantization-onnxruntime.md.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod

from onnx import TensorProto

from graphopt.ir import Node, Value
from graphopt.passes.quantize import _ort_forms as forms
from graphopt.passes.quantize._ort_cost import (
    ADD,
    DEQUANTIZE,
    FUSED_ADD,
    INT8_ADD,
    INT8_BROADCAST,
    INT8_MULTIPLY,
    INT8_TABLE,
    LAUNCH,
    LONE,
    MULTIPLY,
    QUANTIZE,
    QUICK_GELU,
    REORDER,
    SILU,
    conv,
    elements,
    far,
    per_element,
    pool,
    product,
)
from graphopt.passes.quantize._qdq_emit import Emitter
from graphopt.passes.quantize._qdq_forms import Form, Unit
from graphopt.rewrite import Builder

Found = Form | str
MICROSOFT = "com.microsoft"


class OnnxRuntime:
    """The table. own: whether operators of ORT's own domain may be used."""

    def __init__(self, own: bool = False) -> None:
        self.own = own

    def form(self, root: Node, inner: tuple[Node, ...]) -> Found:
        """The form of an operator, or why it stays float."""
        if root.domain or root.subgraphs:
            return "no integer kernel"
        if inner:
            return _gated(root, inner[0], self.own)
        make = _FORMS.get(root.op)
        return make(root) if make is not None else "no integer kernel"

    def inner(self, root: Node) -> tuple[Node, ...]:
        """The Sigmoid or HardSigmoid of x before x * sigmoid(x)."""
        if root.op != "Mul" or root.domain:
            return ()
        for slot in (0, 1):
            gate, other = root.inputs[slot], root.inputs[1 - slot]
            node = gate.producer if gate is not None else None
            if node is None or node.domain or node.op not in ("Sigmoid", "HardSigmoid") or gate is None:
                continue
            if node.inputs[0] is other and len(gate.users) == 1 and not gate.outs and node.graph is root.graph:
                return (node,)
        return ()

    def quantize_ns(self, value: Value) -> float:
        """Of a QuantizeLinear, and of the change of layout behind a convolution. ORT moves it in front of a MaxPool,
        which is then one of integers in the wrong layout."""
        made = value.producer.op if value.producer is not None else ""
        layout = REORDER if made in ("Conv", "Relu", "Clip", "MaxPool", "AveragePool") else 0.0
        moved = LONE * elements(value.producer.inputs[0]) if made == "MaxPool" and value.producer is not None else 0.0
        return LAUNCH + (QUANTIZE + layout) * elements(value) * far(value) + moved

    def dequantize_ns(self, value: Value) -> float:
        """Of a DequantizeLinear."""
        return LAUNCH + DEQUANTIZE * elements(value) * far(value)

    def float_form(self, emitter: Emitter, new: Builder, unit: Unit) -> Value | None:
        """x * sigmoid(x) as ORT's QuickGelu: behind a DequantizeLinear, which ORT copies for each reader, its own
        fusion no longer sees that both read the same."""
        if not self.own or not unit.inner or unit.inner[0].op != "Sigmoid":
            return None
        unit.root.graph.model.require_opset(MICROSOFT, 1)
        out: Value = new.make("QuickGelu", unit.inner[0].inputs[0], domain=MICROSOFT, alpha=1.0, name=unit.root.label)
        return out


def _floats(*values: Value | None) -> bool:
    return all(value is not None and value.dtype == TensorProto.FLOAT for value in values)


def _gated(root: Node, gate: Node, own: bool) -> Found:
    """x * sigmoid(x), x * hardsigmoid(x)."""
    slot = 0 if root.inputs[1] is gate.output else 1
    if gate.op == "Sigmoid":
        costs = per_element(root, QUICK_GELU if own else SILU, INT8_TABLE + INT8_MULTIPLY)
        return Form((slot,), *costs, forms.silu, narrow=forms.silu_matters)
    alpha, beta = float(gate.attr("alpha")), float(gate.attr("beta"))
    if alpha <= 0 or not 0 < beta < 1:
        return "the slope or offset of HardSigmoid is unusual"
    costs = per_element(root, 0.105 + MULTIPLY, INT8_ADD + INT8_MULTIPLY)
    return Form((slot,), *costs, forms.hard_swish, narrow=forms.hard_matters(alpha, beta, False))


def _conv(node: Node) -> Found:
    reason = _constants(node)
    if reason:
        return reason
    weight = node.inputs[1]
    assert weight is not None
    if len(weight.shape or ()) < 3:
        return "the rank of the weights is unusual"
    float_ns, int8_ns = conv(node)
    merged = forms.merged_groups(node)
    if merged is not None:
        int8_ns = merged[1]
    if forms.full_channels(node) is not None:
        return Form((0,), float_ns, int8_ns + LAUNCH, forms.wide_conv, anchor=True, codes=True)
    return Form((0,), float_ns, int8_ns, forms.conv, anchor=True)


def _constants(node: Node) -> str:
    weight, bias = node.inputs[1], node.input(2)
    if weight is None or not weight.is_const or not _floats(weight):
        return "the weights are not constant float32"
    if bias is not None and not (bias.is_const and _floats(bias)):
        return "the bias is not constant float32"
    return ""


def _conv_transpose(node: Node) -> Found:
    reason = _constants(node) or forms.reason_not_blocks(node)
    if reason:
        return reason
    weight = node.inputs[1]
    assert weight is not None and weight.shape is not None
    count, macs = elements(node.output), weight.shape[0]
    assert isinstance(macs, int)
    float_ns = LAUNCH + count * (0.3 + 0.012 * macs)
    return Form((0,), float_ns, 5 * LAUNCH + count * (0.15 + 0.0021 * macs), forms.conv_transpose, True, codes=True)


def _gemm(node: Node) -> Found:
    reason = _constants(node)
    if reason:
        return reason
    if node.attr("alpha") != 1.0 or (node.input(2) is not None and node.attr("beta") != 1.0) or node.attr("transA"):
        return "alpha, beta or transA; the default passes fold them"
    weight, bias = node.inputs[1], node.input(2)
    assert weight is not None and weight.shape is not None
    if bias is not None and (bias.rank != 1 or bias.shape != (weight.shape[0 if node.attr("transB") else 1],)):
        return "the bias is not one number a column"
    inner = weight.shape[1 if node.attr("transB") else 0]
    costs = product(node, inner if isinstance(inner, int) else 64)
    return Form((0,), *costs, forms.gemm, anchor=True, float_out=True)


def _matmul(node: Node) -> Found:
    weight = node.inputs[1]
    if weight is None or not weight.is_const or not _floats(weight) or weight.rank != 2:
        return "not a product with a constant float32 matrix"
    assert weight.shape is not None
    inner = weight.shape[0]
    costs = product(node, inner if isinstance(inner, int) else 64)
    return Form((0,), *costs, forms.matmul, anchor=True, float_out=True)


def _binary(node: Node) -> Found:
    a, b = node.inputs[0], node.inputs[1]
    if a is None or b is None or not _floats(a, b) or (a.is_const and b.is_const):
        return "not two float32 tensors"
    if a is b:
        return "a square"  # DQ of one tensor twice: ORT's fusion takes it, but nobody needs it
    spread = elements(a) != elements(node.output) or elements(b) != elements(node.output)
    if node.op == "Add":
        fused = any(v.producer is not None and v.producer.op == "Conv" and len(v.users) == 1 for v in (a, b))
        costs = per_element(node, FUSED_ADD if fused else ADD, INT8_ADD)
    else:
        costs = per_element(node, MULTIPLY, INT8_BROADCAST if spread else INT8_MULTIPLY)
    return Form((0, 1), *costs, forms.plain)


def _unary(float_ns: float, int8_ns: float) -> Callable[[Node], Found]:
    return lambda node: Form((0,), *per_element(node, float_ns, int8_ns), forms.plain)


def _sigmoid(node: Node) -> Found:
    return Form((0,), *per_element(node, 0.235, INT8_TABLE), forms.plain, narrow=forms.sigmoid_matters)


def _hard_sigmoid(node: Node) -> Found:
    alpha, beta = float(node.attr("alpha")), float(node.attr("beta"))
    if alpha <= 0 or not 0 < beta < 1:
        return "the slope or offset is unusual"
    costs = per_element(node, 0.105, INT8_ADD)
    return Form((0,), *costs, forms.hard_sigmoid, narrow=forms.hard_matters(alpha, beta, True), clamps=(0.0, 1.0))


def _hard_swish(node: Node) -> Found:
    costs = per_element(node, 0.24, INT8_ADD + INT8_MULTIPLY)
    return Form((0,), *costs, forms.hard_swish, narrow=forms.hard_matters(1 / 6, 0.5, False))


def _global_pool(node: Node) -> Found:
    count = elements(node.inputs[0])
    return Form((0,), LAUNCH + 0.045 * count, LAUNCH + 0.035 * count, forms.plain)


def _average_pool(node: Node) -> Found:
    reason = forms.reason_not_depthwise(node)
    if reason:
        return reason
    taps = prod(node.attr("kernel_shape"))
    return Form((0,), *per_element(node, 0.02 * taps + 0.02, 0.09 + 0.0185 * taps), forms.average_pool)


def _batch_norm(node: Node) -> Found:
    if node.attr("training_mode") or not all(v is not None and v.is_const and _floats(v) for v in node.inputs[1:5]):
        return "the statistics are not constant float32"
    if node.inputs[0] is None or (node.inputs[0].rank or 0) < 3:
        return "the rank is unusual"
    return Form((0,), *per_element(node, 0.14, 0.11), forms.batch_norm)


def _max_pool(node: Node) -> Found:
    if node.graph.opset() < 12 or (len(node.outputs) > 1 and node.outputs[1].name):
        return "MaxPool of integers takes opset 12 and no indices"
    return Form((0,), *pool(node), forms.plain, shares=True, lone_ns=LONE * elements(node.inputs[0]))


def _concat(node: Node) -> Found:
    if not _floats(*node.inputs):
        return "not float32"
    return Form(tuple(range(len(node.inputs))), *per_element(node, 0.05, 0.05), forms.plain, joins=True)


def _moves(float_ns: float, int8_ns: float) -> Callable[[Node], Found]:
    """Operators that move elements, whose inputs after the first are no activations."""
    return lambda node: Form((0,), *per_element(node, float_ns, int8_ns), forms.plain, shares=True)


def _resize(node: Node) -> Found:
    reason = forms.reason_not_repeats(node)
    if reason:
        return reason
    return Form((0,), *per_element(node, 0.06, 0.06), forms.repeat, shares=True, codes=True)


def _relu(node: Node) -> Found:
    costs = per_element(node, 0.04, 0.03)  # behind floats it is the Q that clamps, with a scale of what is left
    return Form((0,), *costs, forms.clip, shares=True, codes=True, lone_ns=elements(node.output))


def _clip(node: Node) -> Found:
    if forms.bounds_of(node) is None:
        return "the bounds are not constant"
    return _relu(node)


def _pad(node: Node) -> Found:
    reason = forms.reason_not_padded(node)
    if reason:
        return reason
    return Form((0,), *per_element(node, 0.1, 0.05), forms.pad, shares=True, codes=True)


_FORMS: dict[str, Callable[[Node], Found]] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Add": _binary,
    "Mul": _binary,
    "Sigmoid": _sigmoid,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _hard_swish,
    "LeakyRelu": _unary(0.19, INT8_TABLE),
    "Relu": _relu,
    "Clip": _clip,
    "GlobalAveragePool": _global_pool,
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
    "MaxPool": _max_pool,
    "Concat": _concat,
    "Resize": _resize,
    "Pad": _pad,
    "Reshape": _moves(0.001, 0.001),
    "Flatten": _moves(0.001, 0.001),
    "Squeeze": _moves(0.001, 0.001),
    "Unsqueeze": _moves(0.001, 0.001),
    "Transpose": _moves(0.15, 0.065),
    "Slice": _moves(0.06, 0.035),
    "Split": _moves(0.06, 0.035),
    "Gather": _moves(0.06, 0.04),
    "Expand": _moves(0.06, 0.03),
    "Tile": _moves(0.06, 0.03),
}
