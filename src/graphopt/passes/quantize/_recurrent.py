"""LSTM with constant weights   ~   com.microsoft's DynamicQuantizeLSTM, which ONNX Runtime alone has.

Input and state are quantized at run time, in each step; the weights are int8, with a scale for each gate's unit, and
lie transposed, (directions, inputs, 4 units). Measured, one thread, 20 steps: 1.3 times as fast with 64 units, 1.8 with
128, 2.6 with 256, 3.3 with 512; with 32 it is slower. There is no such operator for GRU or RNN.
"""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from graphopt.ir import NDArray, Node, Value
from graphopt.passes.quantize._scales import quantize, weight_scale
from graphopt.rewrite.builder import Builder

ORT = "com.microsoft"
UNITS = 64
"""Of a direction, from which on it pays."""
GATES = ["Sigmoid", "Tanh", "Tanh"]


def why_not_lstm(node: Node, least: int, target: str) -> str:
    """Why an LSTM stays as it is, or nothing."""
    if target != "onnxruntime":
        return "a quantized LSTM is an operator of ONNX Runtime's own: target onnxruntime"
    if node.attr("layout", 0):
        return "DynamicQuantizeLSTM takes steps first, not the batch"
    if [str(one) for one in _texts(node)] not in ([], GATES, GATES * 2):
        return "its activations are not Sigmoid, Tanh, Tanh"
    weights = node.inputs[1], node.inputs[2]
    for value in weights:
        if value is None or not value.is_const or value.rank != 3:
            return "the weights are not constant"
        if value.dtype != TensorProto.FLOAT:
            return "the weights are not float32"
        if not np.isfinite(value.numpy()).all():
            return "the weights hold infinities or NaN"
    size = sum(value.numpy().size for value in weights if value is not None)
    units = weights[1].numpy().shape[2] if weights[1] is not None else 0
    if size < max(1, least) or (least and units < UNITS):
        return f"it has {units} units, too few for int8 to pay"
    return ""


def make_lstm(node: Node, new: Builder, per_channel: bool) -> list[Value]:
    """The quantized LSTM for a node; its outputs."""
    given = [node.input(place) for place in range(8)]
    tail: list[Value] = []
    for place in (1, 2):
        value = node.inputs[place]
        assert value is not None
        codes, scales = _codes(value.numpy(), per_channel)
        given[place] = new.constant(codes, f"{value.name}_quantized")
        tail += [
            new.constant(scales, f"{value.name}_scale"),
            new.constant(np.zeros(scales.shape, np.int8), f"{value.name}_zero_point"),
        ]
    new.graph.model.require_opset(ORT, 1)
    wanted, operands = len(node.outputs), (*given, *tail)
    made = new.make("DynamicQuantizeLSTM", *operands, like=node, domain=ORT, n_out=wanted, name=node.label, layout=None)
    return [made] if isinstance(made, Value) else list(made)


def _codes(array: NDArray, per_channel: bool) -> tuple[NDArray, NDArray]:
    """Weights (directions, 4 units, inputs) as int8 (directions, inputs, 4 units); scales (directions[, 4 units])."""
    rows = array.reshape(-1, array.shape[2]) if per_channel else array.reshape(array.shape[0], -1)
    scale = weight_scale(rows, 0)
    codes = quantize(rows, scale, 0).reshape(array.shape)
    return np.ascontiguousarray(codes.transpose(0, 2, 1)), scale.scale.reshape(array.shape[: 2 if per_channel else 1])


def _texts(node: Node) -> list[str]:
    found = node.attr("activations", None) or []
    return [one.decode() if isinstance(one, bytes) else str(one) for one in found]
