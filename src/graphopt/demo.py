"""The network of ``graphopt fuse --demo``: small, made on the spot, with what exporters leave in real models.

An image classifier in the style of the mobile networks: a Pad and input normalization written out before the stem,
Conv+BatchNormalization+Relu in residual, depthwise and inverted-residual blocks, one BatchNormalization written as Mul
and Add, learnable scalars after activations, one hard-swish written out, Dropout and Identity, an If on a flag that is
constant, a Loop that refines the features, the shape arithmetic of ``x.view(batch, -1)``, and a Gemm head with Softmax.
Weights are random (He's initialization) but always the same.

>>> from graphopt.demo import demo_inputs, demo_model
>>> model = demo_model()
>>> {name: value.shape for name, value in demo_inputs(batch=2).items()}
{'image': (2, 3, 64, 64)}
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

__all__ = ["demo_inputs", "demo_model"]

Array = npt.NDArray[Any]
SIZE, CLASSES, FEATURES, ROUNDS = 64, 10, 96, 3


def demo_inputs(batch: int = 1, seed: int = 0) -> dict[str, npt.NDArray[np.float32]]:
    """Random images for the demo network.

    batch: how many. seed: other seeds give other images. Returns ``{"image": array}``, float32 of shape
    [batch, 3, 64, 64] with values from 0 to 255.
    """
    pixels = np.random.default_rng(seed).uniform(0, 255, (batch, 3, SIZE, SIZE))
    return {"image": pixels.astype(np.float32)}


def demo_model() -> ModelProto:
    """The demo network: float32, opset 17, symbolic batch, about 0.4 MB; the same bytes on every call.

    Input ``image``: float32 [batch, 3, 64, 64]. Output ``probabilities``: float32 [batch, 10].
    """
    net = _Net()
    x = _stem(net, "image")
    x = _residual(net, x, 24)
    x = _separable(net, x, 24, 48)
    x = _residual(net, x, 48)
    x = _inverted_residual(net, x, 48)
    x = _separable(net, x, 48, FEATURES)
    x = _written_out(net, x, FEATURES)
    x = net.add("GlobalAveragePool", [x])
    x = _flatten(net, net.add("Dropout", [net.add("Identity", [x])]))
    x = _refine(net, _choose(net, x))
    weight, bias = net.weight((CLASSES, FEATURES), FEATURES), net.const(np.zeros(CLASSES), "bias")
    net.add("Softmax", [net.add("Gemm", [x, weight, bias], transB=1)], "probabilities", axis=1)
    return net.model()


class _Net:
    """Collects nodes and weights; values are named after the operator that makes them."""

    def __init__(self) -> None:
        self.random = np.random.default_rng(2024)
        self.nodes: list[NodeProto] = []
        self.weights: list[TensorProto] = []

    def add(self, op: str, inputs: Sequence[str], output: str = "", **attrs: Any) -> str:
        """A node of one output; returns the output's name."""
        name = f"{op}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [output or f"{name}_out"], name=name, **attrs))
        return self.nodes[-1].output[0]

    def const(self, value: npt.ArrayLike, hint: str) -> str:
        """An initializer; floats become float32."""
        array = np.asarray(value)
        array = array.astype(np.float32) if array.dtype == np.float64 else array
        self.weights.append(numpy_helper.from_array(array, f"{hint}_{len(self.weights)}"))
        return self.weights[-1].name

    def weight(self, shape: tuple[int, ...], fan_in: int) -> str:
        return self.const(self.random.normal(0, np.sqrt(2 / fan_in), shape), "weight")

    def conv(self, x: str, into: int, out: int, kernel: int = 3, *, stride: int = 1, group: int = 1) -> str:
        """A Conv without bias that keeps the size where the stride is 1."""
        weight = self.weight((out, into // group, kernel, kernel), into // group * kernel * kernel)
        attrs: dict[str, Any] = {
            "kernel_shape": [kernel] * 2,
            "pads": [kernel // 2] * 4,
            "strides": [stride] * 2,
            "group": group,
        }
        return self.add("Conv", [x, weight], **attrs)

    def norm(self, x: str, channels: int) -> str:
        """BatchNormalization with statistics such as training leaves."""
        gamma, beta = self.random.uniform(0.6, 1.4, channels), self.random.normal(0, 0.2, channels)
        mean, var = self.random.normal(0, 0.3, channels), self.random.uniform(0.4, 1.6, channels)
        return self.add("BatchNormalization", [x, *(self.const(v, "bn") for v in (gamma, beta, mean, var))])

    def block(self, x: str, into: int, out: int, kernel: int = 3, **attrs: Any) -> str:
        """Conv, BatchNormalization, Relu."""
        return self.add("Relu", [self.norm(self.conv(x, into, out, kernel, **attrs), out)])

    def model(self) -> ModelProto:
        image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, SIZE, SIZE])
        result = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", CLASSES])
        doc = "The demo network of graphopt; its weights are random."
        graph = helper.make_graph(self.nodes, "graphopt_demo", [image], [result], self.weights, doc_string=doc)
        return helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="graphopt.demo"
        )


def _stem(net: _Net, image: str) -> str:
    """A black border by a Pad of its own, as TensorFlow exports it, (x / 255 - mean) / std, then the first block."""
    mean, std = (np.reshape(v, (1, 3, 1, 1)) for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    x = net.add("Pad", [image, net.const(np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64), "pads")])
    x = net.add("Div", [x, net.const(255.0, "scale")])
    x = net.add("Div", [net.add("Sub", [x, net.const(mean, "mean")]), net.const(std, "std")])
    x = net.add("Conv", [x, net.weight((24, 3, 3, 3), 27)], kernel_shape=[3, 3], strides=[2, 2])
    return net.add("Relu", [net.norm(x, 24)])


def _residual(net: _Net, x: str, channels: int) -> str:
    y = net.norm(net.conv(net.block(x, channels, channels), channels, channels), channels)
    return net.add("Relu", [net.add("Add", [y, x])])


def _separable(net: _Net, x: str, into: int, out: int) -> str:
    """Depthwise 3x3 of stride 2, a learnable scale and shift as in PP-LCNet, then 1x1."""
    y = net.block(x, into, into, stride=2, group=into)
    y = net.add("Add", [net.add("Mul", [y, net.const(0.8, "scale")]), net.const(0.1, "shift")])
    return net.block(y, into, out, 1)


def _inverted_residual(net: _Net, x: str, channels: int) -> str:
    """1x1 to twice the channels, depthwise, 1x1 back, around a shortcut; a hard-swish written out."""
    y = net.norm(net.conv(x, channels, 2 * channels, 1), 2 * channels)
    three, low, six = (net.const(v, "clip") for v in (3.0, 0.0, 6.0))
    gate = net.add("Div", [net.add("Clip", [net.add("Add", [y, three]), low, six]), six])
    y = net.block(net.add("Mul", [y, gate]), 2 * channels, 2 * channels, group=2 * channels)
    return net.add("Add", [net.norm(net.conv(y, 2 * channels, channels, 1), channels), x])


def _written_out(net: _Net, x: str, channels: int) -> str:
    """1x1 Conv with its BatchNormalization as Mul and Add of constants of shape [C, 1, 1]."""
    scale, shift = net.random.uniform(0.6, 1.4, (channels, 1, 1)), net.random.normal(0, 0.2, (channels, 1, 1))
    y = net.add("Mul", [net.conv(x, channels, channels, 1), net.const(scale, "scale")])
    return net.add("Relu", [net.add("Add", [y, net.const(shift, "shift")])])


def _flatten(net: _Net, x: str) -> str:
    """``x.view(x.size(0), -1)`` as exporters spell it: Shape, Gather, Unsqueeze, Concat, Reshape."""
    zero, axis, rest = (net.const(np.array(v, np.int64), "dim") for v in (0, [0], [-1]))
    batch = net.add("Unsqueeze", [net.add("Gather", [net.add("Shape", [x]), zero]), axis])
    return net.add("Reshape", [x, net.add("Concat", [batch, rest], axis=0)])


def _body(name: str, nodes: list[NodeProto], inputs: Sequence[str], outputs: Sequence[str]) -> GraphProto:
    """The graph of a branch or a loop; values are features unless their names say otherwise."""
    infos = [[_info(value) for value in values] for values in (inputs, outputs)]
    return helper.make_graph(nodes, name, infos[0], infos[1])


def _info(name: str) -> ValueInfoProto:
    scalars = {"round": TensorProto.INT64, "going": TensorProto.BOOL, "on": TensorProto.BOOL}
    if name in scalars:
        return helper.make_tensor_value_info(name, scalars[name], [])
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", FEATURES])


def _choose(net: _Net, x: str) -> str:
    """If on an exported flag that is never set: features scaled as in training, or rectified as in inference."""
    flag, keep = net.const(np.array(False), "training"), net.const(0.9, "keep")
    scaled = helper.make_node("Mul", [x, keep], ["scaled"], name="scale_features")
    kept = helper.make_node("Relu", [x], ["kept"], name="keep_features")
    then, other = _body("in_training", [scaled], [], ["scaled"]), _body("in_inference", [kept], [], ["kept"])
    return net.add("If", [flag], then_branch=then, else_branch=other)


def _refine(net: _Net, x: str) -> str:
    """A Loop of three rounds: h = tanh(h W / sqrt(features) + x), in which W / sqrt(features) is constant."""
    weight, root = net.weight((FEATURES, FEATURES), FEATURES), net.const(np.sqrt(FEATURES), "root")
    rounds, on = net.const(np.array(ROUNDS, np.int64), "rounds"), net.const(np.array(True), "on")
    nodes = [
        helper.make_node("Div", [weight, root], ["divided"], name="divide_weight"),
        helper.make_node("MatMul", ["hidden", "divided"], ["mixed"], name="mix"),
        helper.make_node("Add", ["mixed", x], ["sum"], name="add_features"),
        helper.make_node("Tanh", ["sum"], ["next"], name="squash"),
        helper.make_node("Identity", ["going"], ["on"], name="continue"),
    ]
    body = _body("refine", nodes, ["round", "going", "hidden"], ["on", "next"])
    return net.add("Loop", [rounds, on, x], body=body)
