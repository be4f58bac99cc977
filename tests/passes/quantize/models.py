"""Small networks with weights of very different sizes, their ranges, and how far a result is from another."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from tests.passes.util import Array, Feeds, model, node, rand, run

from graphopt.analysis.ranges import Ranges, TensorRange


def uneven(*shape: int, axis: int, seed: int, spread: float = 6.0) -> Array:
    """Weights whose channels along an axis differ in size by up to 2^spread."""
    sizes = np.exp2(np.random.default_rng(seed).uniform(-spread, 0, shape[axis]))
    return (rand(*shape, seed=seed) * sizes.reshape([-1 if i == axis else 1 for i in range(len(shape))])).astype("f")


def cnn(between: str = "Relu", seed: int = 0, opset: int = 17, spread: float = 6.0, **attrs: object) -> onnx.ModelProto:
    """Conv 3x3 (padded), something, depthwise Conv, Relu, Conv 1x1."""
    nodes = [
        node("Conv", "x w1 b1", "a", name="first", pads=[1, 1, 1, 1]),
        node(between, "a", "r1", name="between", **attrs),
        node("Conv", "r1 w2 b2", "c", name="second", group=8, pads=[1, 1, 1, 1]),
        node("Relu", "c", "r2", name="relu2"),
        node("Conv", "r2 w3", "y", name="third"),
    ]
    random = np.random.default_rng(seed)  # an even network, made uneven in the way that equalization undoes
    one, two = (np.exp2(random.uniform(-spread, 0, 8)).astype("f") for _ in range(2))
    weights = {
        "w1": rand(8, 3, 3, 3, seed=seed) * one[:, None, None, None],
        "b1": rand(8, seed=seed + 1) * one,
        "w2": rand(8, 1, 3, 3, seed=seed + 2) * (two / one)[:, None, None, None],
        "b2": rand(8, seed=seed + 3) * two,
        "w3": rand(4, 8, 1, 1, seed=seed + 4) / two[None, :, None, None],
    }
    return model(nodes, {"x": ["N", 3, 8, 8]}, ["y"], weights, opset=opset)


def residual(opset: int = 17) -> onnx.ModelProto:
    """A block of ResNet: two Convs, what goes in added, a second block with a Conv in its shortcut, a pool and Gemm."""
    nodes = [
        node("Conv", "x w0 b0", "c0", name="stem", pads=[1, 1, 1, 1]),
        node("Relu", "c0", "r0"),
        node("MaxPool", "r0", "p0", kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", "p0 w1 b1", "c1", name="conv1", pads=[1, 1, 1, 1]),
        node("Relu", "c1", "r1"),
        node("Conv", "r1 w2 b2", "c2", name="conv2", pads=[1, 1, 1, 1]),
        node("Add", "c2 p0", "s1", name="add1"),
        node("Relu", "s1", "r2"),
        node("Conv", "r2 w4", "short", name="shortcut"),
        node("Conv", "r2 w3 b3", "c3", name="conv3", pads=[1, 1, 1, 1]),
        node("Add", "short c3", "s2", name="add2"),
        node("Relu", "s2", "r3"),
        node("GlobalAveragePool", "r3", "g"),
        node("Flatten", "g", "f"),
        node("Gemm", "f w5 b5", "y", name="head", transB=1),
    ]
    weights = {f"w{i}": rand(8, 8, 3, 3, seed=i) for i in (1, 2, 3)} | {"w0": rand(8, 3, 3, 3, seed=7)}
    weights |= {"w4": rand(8, 8, 1, 1, seed=4), "w5": rand(5, 8, seed=5), "b5": rand(5, seed=6)}
    weights |= {f"b{i}": rand(8, seed=20 + i) for i in range(4)}
    return model(nodes, {"x": ["N", 3, 8, 8]}, ["y"], weights, opset=opset)


def batches(count: int = 4, shape: Sequence[int] = (2, 3, 8, 8), offset: float = 0.3) -> list[Feeds]:
    """Data whose mean is not zero."""
    return [{"x": rand(*shape, seed=100 + i) + np.float32(offset)} for i in range(count)]


def ranges_of_model(made: onnx.ModelProto, feeds: Sequence[Feeds], axis: int = 1) -> Ranges:
    """Ranges of every float tensor, with those and the means of its channels."""
    probed = onnx.ModelProto()
    probed.CopyFrom(made)
    known = {info.name for info in probed.graph.output}
    for item in probed.graph.node:
        probed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in item.output if name not in known)
    names = [info.name for info in probed.graph.output]
    seen: dict[str, list[Array]] = {}
    for feed in feeds:
        for name, array in [*zip(names, run(probed, feed), strict=True), *feed.items()]:
            if array.dtype == np.float32 and array.ndim > 1:
                seen.setdefault(name, []).append(np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1))
    found = {}
    for name, parts in seen.items():
        flat = np.concatenate(parts, 1).astype(np.float64)
        low, high = float(flat.min()), float(flat.max())
        channels = {"channel_low": flat.min(1), "channel_high": flat.max(1), "channel_mean": flat.mean(1)}
        found[name] = TensorRange(low, high, low, high, channel_axis=axis, **channels)
    return Ranges(found)


def error(a: onnx.ModelProto, b: onnx.ModelProto, feeds: Sequence[Feeds]) -> float:
    """The squared difference of the outputs, as a part of the squared outputs."""
    off = total = 0.0
    for feed in feeds:
        for want, got in zip(run(a, feed), run(b, feed), strict=True):
            off += float(((want.astype(np.float64) - got) ** 2).sum())
            total += float((want.astype(np.float64) ** 2).sum())
    return off / total
