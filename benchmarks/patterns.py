"""What single rewrites gain: small models of one pattern each, the original against what graphopt makes of it.

    python benchmarks/patterns.py
    python benchmarks/patterns.py horizontal prelu --target onnxruntime --json patterns.json

Measured as `graphopt bench` does: in ONNX Runtime with all its own optimizations, one thread, in turns, in fresh
processes. A ratio above 1 means that the emitted model is faster. Arguments choose patterns by a part of their name.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from common import describe_machine, write_json
from onnx import helper, numpy_helper

PACKAGES = ("graphopt", "onnx", "onnxruntime", "numpy")


class Net:
    """A model that grows node by node; weights are random, always the same."""

    def __init__(self, *shape: int, opset: int = 17):
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.inputs: dict[str, Sequence[int]] = {"x": shape} if shape else {}
        self.opset = opset
        self.random = np.random.default_rng(0)

    def input(self, *shape: int) -> str:
        name = f"x{len(self.inputs)}"
        self.inputs[name] = shape
        return name

    def weight(self, *shape: int, low: float | None = None) -> str:
        """Normal numbers whose sums of products stay about 1; or uniform ones from `low` to 1."""
        fan = max(1, int(np.prod(shape[1:]))) if len(shape) > 1 else 1
        drawn = self.random.normal(size=shape) / np.sqrt(fan)
        return self.constant(drawn if low is None else self.random.uniform(low, 1, shape))

    def constant(self, values: Any, dtype: Any = np.float32) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

    def add(self, op: str, *inputs: str, n_out: int = 1, **attrs: Any) -> Any:
        names = [f"v{len(self.nodes)}_{k}" for k in range(n_out)]
        self.nodes.append(helper.make_node(op, inputs, names, **attrs))
        return names[0] if n_out == 1 else names

    def split(self, x: str, count: int, size: int, axis: int) -> list[str]:
        parts: list[str] = self.add("Split", x, self.constant([size] * count, np.int64), n_out=count, axis=axis)
        return parts

    def conv(self, x: str, cin: int, cout: int, k: int = 1, **attrs: Any) -> str:
        given = {"kernel_shape": [k, k], "pads": [k // 2] * 4, **attrs}
        made: str = self.add("Conv", x, self.weight(cout, cin, k, k), self.weight(cout), **given)
        return made

    def model(self, outputs: Sequence[str]) -> onnx.ModelProto:
        make = helper.make_tensor_value_info
        graph = helper.make_graph(
            self.nodes,
            "pattern",
            [make(name, 1, shape) for name, shape in self.inputs.items()],
            [make(y, 1, None) for y in outputs],
            self.weights,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)


def siblings(outputs: Sequence[int], cin: int, k: int, size: int, after: str = "", joined: bool = False) -> Any:
    net = Net(1, cin, size, size)
    results = [net.conv("x", cin, cout, k) for cout in outputs]
    if after:
        results = [net.add(after, y) for y in results]
    return net.model([net.add("Concat", *results, axis=1)] if joined else results)


def products(widths: Sequence[int], rows: int, inner: int) -> onnx.ModelProto:
    net = Net(rows, inner)
    return net.model([net.add("MatMul", "x", net.weight(inner, width)) for width in widths])


def tiny_products(count: int, depth: int = 8, order: int = 1, rows: int = 8, width: int = 16) -> onnx.ModelProto:
    """Products of the parts of a value with different weights, put together again; several times."""
    net = Net(count * rows, width)
    y = "x"
    for _ in range(depth):
        made = [net.add("MatMul", part, net.weight(width, width)) for part in net.split(y, count, rows, 0)]
        y = net.add("Concat", *made[::order], axis=0)
    return net.model([y])


def tiny_lanes(count: int, depth: int, rows: int = 8, width: int = 16) -> onnx.ModelProto:
    """Products of different inputs with different weights; several in a row."""
    net = Net()
    values = [net.input(rows, width) for _ in range(count)]
    for _ in range(depth):
        values = [net.add("MatMul", value, net.weight(width, width)) for value in values]
    return net.model(values)


def unrolled(steps: int, inner: int, width: int) -> onnx.ModelProto:
    """The input projection of a recurrent cell, written out step by step."""
    net = Net(steps, 1, inner)
    weight, bias = net.weight(inner, width), net.weight(width)
    results = []
    for step in range(steps):
        row = net.add("Gather", "x", net.constant(step, np.int64), axis=0)
        results.append(net.add("Sigmoid" if step % 2 else "Tanh", net.add("Gemm", row, weight, bias)))
    return net.model(results)


def siamese(size: int) -> onnx.ModelProto:
    """Two inputs through the same layers."""
    net = Net()
    weights = [net.weight(size, size) for _ in range(3)]
    results = []
    for y in [net.input(1, size) for _ in range(2)]:
        for weight in weights:
            y = net.add("Relu", net.add("MatMul", y, weight))
        results.append(y)
    return net.model([net.add("Sub", *results)])


def groups_written_out(count: int, channels: int, k: int, size: int, depthwise: bool = False) -> onnx.ModelProto:
    net = Net(1, 8, size, size)
    parts = net.split(net.conv("x", 8, count * channels), count, channels, 1)
    inner = 1 if depthwise else channels
    made = [net.conv(part, inner, channels, k, group=channels // inner) for part in parts]
    return net.model([net.conv(net.add("Concat", *made, axis=1), count * channels, 8)])


def between_split_and_concat(count: int, *ops: str, **attrs: Any) -> onnx.ModelProto:
    net = Net(1, 8 * count, 64)
    parts = net.split("x", count, 8, 1)
    for op in ops:
        parts = [net.add(op, part, **attrs) for part in parts]
    return net.model([net.add("Concat", *parts, axis=1)])


def prelu(slopes: Any) -> onnx.ModelProto:
    net = Net(1, 64, 56, 56)
    y = net.conv("x", 64, 64, 3)
    return net.model([net.conv(net.add("PRelu", y, net.constant(slopes)), 64, 64, 3)])


def hard_swish(around: bool) -> onnx.ModelProto:
    net = Net(1, 64, 56, 56)
    y = net.conv("x", 64, 64, 1) if around else "x"
    clipped = net.add("Clip", net.add("Add", y, net.constant(3.0)), net.constant(0.0), net.constant(6.0))
    y = net.add("Div", net.add("Mul", y, clipped), net.constant(6.0))
    return net.model([net.conv(y, 64, 64, 1) if around else y])


def affine_before_conv() -> onnx.ModelProto:
    net = Net(1, 3, 224, 224)
    y = net.add("Div", "x", net.constant(255.0))
    y = net.add("Div", net.add("Sub", y, net.weight(3, 1, 1)), net.weight(3, 1, 1, low=0.2))
    return net.model([net.conv(y, 3, 32, 3, pads=[0] * 4, strides=[2, 2])])


def affine_block() -> onnx.ModelProto:
    net = Net(1, 64, 56, 56)
    y = net.add("Add", net.add("Mul", net.conv("x", 64, 64, 1), net.constant([1.1])), net.constant([0.1]))
    y = net.add("Add", net.add("Mul", net.add("Relu", y), net.constant([0.9])), net.constant([0.0]))
    return net.model([net.conv(y, 64, 64, 1)])


def shift_before_padding() -> onnx.ModelProto:
    net = Net(1, 64, 56, 56)
    y = net.add("Add", net.add("Relu", net.conv("x", 64, 64, 1)), net.weight(64, 1, 1))
    return net.model([net.add("Relu", net.conv(y, 64, 64, 3, strides=[2, 2]))])


def affine_behind_concat() -> onnx.ModelProto:
    net = Net(1, 64, 56, 56)
    y = net.add("Concat", *(net.conv("x", 64, 32, k) for k in (1, 3)), axis=1)
    return net.model([net.add("Relu", net.add("Add", net.add("Mul", y, net.weight(64, 1, 1)), net.weight(64, 1, 1)))])


def batch_norm_behind_matmul() -> onnx.ModelProto:
    net = Net(1, 128, 384)
    y = net.add("Sub", net.add("MatMul", "x", net.weight(384, 384)), net.weight(384))
    y = net.add("Mul", net.add("Mul", y, net.weight(384, low=0.5)), net.weight(384, low=0.5))
    return net.model([net.add("Relu", net.add("Add", y, net.weight(384)))])


def norm_then_affine() -> onnx.ModelProto:
    net = Net(1, 128, 384)
    y = net.add("LayerNormalization", "x", net.weight(384), net.weight(384), axis=-1)
    y = net.add("Add", net.add("Mul", y, net.weight(384)), net.weight(384))
    return net.model([net.add("MatMul", y, net.weight(384, 128))])


def division(number: float) -> onnx.ModelProto:
    net = Net(1, 64, 56, 56)
    return net.model([net.add("Tanh", net.add("Div", "x", net.constant(number)))])


def layer_norm(square: str) -> onnx.ModelProto:
    net = Net(1, 128, 384)
    d = net.add("Sub", "x", net.add("ReduceMean", "x", axes=[-1]))
    squared = net.add("Mul", d, d) if square == "Mul" else net.add("Pow", d, net.constant(2.0))
    spread = net.add("Sqrt", net.add("Add", net.add("ReduceMean", squared, axes=[-1]), net.constant(1e-5)))
    y = net.add("Mul", net.add("Div", d, spread), net.weight(384))
    return net.model([net.add("Add", y, net.weight(384))])


def resize_then_conv(mode: str = "linear") -> onnx.ModelProto:
    net = Net(1, 64, 40, 40)
    scales = net.constant([1, 1, 4, 4])
    y = net.add("Resize", "x", "", scales, mode=mode, coordinate_transformation_mode="half_pixel")
    return net.model([net.conv(y, 64, 8, 1)])


def pixel_unshuffle() -> onnx.ModelProto:
    net = Net(1, 16, 160, 160)
    y = net.add("Reshape", "x", net.constant([1, 16, 80, 2, 80, 2], np.int64))
    y = net.add("Transpose", y, perm=[0, 1, 3, 5, 2, 4])
    return net.model([net.conv(net.add("Reshape", y, net.constant([1, 64, 80, 80], np.int64)), 64, 32, 3)])


def focus() -> onnx.ModelProto:
    net = Net(1, 3, 320, 320)
    axes, steps = net.constant([2, 3], np.int64), net.constant([2, 2], np.int64)
    end = net.constant([2**31, 2**31], np.int64)
    places = [(0, 0), (1, 0), (0, 1), (1, 1)]
    parts = [net.add("Slice", "x", net.constant(place, np.int64), end, axes, steps) for place in places]
    return net.model([net.conv(net.add("Concat", *parts, axis=1), 12, 32, 3)])


def rep_vgg() -> onnx.ModelProto:
    net = Net(1, 64, 56, 56)
    x = net.add("Relu", "x")
    y = net.add("Add", net.conv(x, 64, 64, 3), net.conv(x, 64, 64, 1))
    return net.model([net.add("Relu", net.add("Add", y, x))])


def gelu_tanh() -> onnx.ModelProto:
    net = Net(1, 128, 1024, opset=20)
    cubed = net.add("Mul", net.add("Pow", "x", net.constant(3.0)), net.constant(0.044715))
    inner = net.add("Mul", net.add("Add", "x", cubed), net.constant(np.sqrt(2 / np.pi)))
    y = net.add("Mul", net.constant(0.5), "x")
    return net.model([net.add("Mul", y, net.add("Add", net.add("Tanh", inner), net.constant(1.0)))])


def silu() -> onnx.ModelProto:
    net = Net(1, 64, 56, 56)
    y = net.conv("x", 64, 64, 1)
    return net.model([net.conv(net.add("Mul", y, net.add("Sigmoid", y)), 64, 64, 1)])


def conv_chain() -> onnx.ModelProto:
    net = Net(1, 128, 28, 28)
    return net.model([net.conv(net.conv("x", 128, 256, 1), 256, 64, 1)])


def distance_head(anchors: int) -> onnx.ModelProto:
    net = Net(1, 64, anchors)
    y = net.add("Reshape", "x", net.constant([1, 4, 16, anchors], np.int64))
    y = net.add("Softmax", net.add("Transpose", y, perm=[0, 2, 1, 3]), axis=1)
    y = net.add("Conv", y, net.constant(np.arange(16).reshape(1, 16, 1, 1)))
    return net.model([net.add("Reshape", y, net.constant([1, 4, anchors], np.int64))])


def one_hot(rows: int, depth: int, width: int) -> onnx.ModelProto:
    net = Net(rows)  # as numbers that are no indices are all off, what the indices are does not matter
    index = net.add("Cast", "x", to=7)
    hot = net.add("OneHot", index, net.constant(depth, np.int64), net.constant([0, 1]))
    return net.model([net.add("MatMul", hot, net.weight(depth, width))])


def alone(op: str, *shape: int, **attrs: Any) -> onnx.ModelProto:
    net = Net(*shape)
    return net.model([net.add(op, "x", **attrs)])


def channels_last_softmax() -> onnx.ModelProto:
    net = Net(1, 21, 128, 128)
    return net.model([net.add("Transpose", net.add("Softmax", "x", axis=1), perm=[0, 2, 3, 1])])


PATTERNS: dict[str, Callable[[], onnx.ModelProto]] = {
    "horizontal: 3 Conv3x3 64 to 16": lambda: siblings([16] * 3, 64, 3, 56),
    "horizontal: 3 Conv3x3 64 to 16, Relu, Concat": lambda: siblings([16] * 3, 64, 3, 56, "Relu", True),
    "horizontal: 3 Conv3x3 64 to 64": lambda: siblings([64] * 3, 64, 3, 40),
    "horizontal: 4 Conv1x1 512 to 33": lambda: siblings([33] * 4, 512, 1, 7),
    "horizontal: 4 Conv1x1 512 to 32": lambda: siblings([32] * 4, 512, 1, 7),
    "horizontal: 3 MatMul 384 to 384": lambda: products([384] * 3, 128, 384),
    "horizontal: MatMul 400 to 4, 16, 3": lambda: products([4, 16, 3], 40, 400),
    "horizontal: 12 tiny MatMul of parts, Concat": lambda: tiny_products(12),
    "horizontal: 12 tiny MatMul of parts, shuffled": lambda: tiny_products(12, order=-1),
    "horizontal: 12 tiny MatMul of inputs": lambda: tiny_lanes(12, 1),
    "horizontal: 12 x 4 tiny MatMul of inputs": lambda: tiny_lanes(12, 4),
    "horizontal: 4 MatMul 256 of parts, Concat": lambda: tiny_products(4, 1, 1, 32, 256),
    "horizontal: 20 Gemm 4096 to 400 of steps": lambda: unrolled(20, 4096, 400),
    "horizontal: siamese, 3 MatMul 512": lambda: siamese(512),
    "horizontal: 4 groups of 16 channels": lambda: groups_written_out(4, 16, 3, 14),
    "horizontal: 4 groups of 12 channels": lambda: groups_written_out(4, 12, 3, 14),
    "horizontal: 4 depthwise of 24 channels": lambda: groups_written_out(4, 24, 3, 14, True),
    "horizontal: 12 activations, Split to Concat": lambda: between_split_and_concat(12, *["Relu", "Sigmoid"] * 4),
    "horizontal: 4 ReduceMean, Split to Concat": lambda: between_split_and_concat(4, "ReduceMean", axes=[2]),
    "prelu: equal slopes": lambda: prelu(np.full((64, 1, 1), 0.25)),
    "prelu: a slope for each channel": lambda: prelu(np.linspace(0.1, 0.4, 64).reshape(64, 1, 1)),
    "hard-swish alone": lambda: hard_swish(False),
    "hard-swish between Conv1x1": lambda: hard_swish(True),
    "silu between Conv1x1": silu,
    "gelu, tanh": gelu_tanh,
    "layer norm, Mul": lambda: layer_norm("Mul"),
    "layer norm, Pow": lambda: layer_norm("Pow"),
    "affine: input normalization into Conv": affine_before_conv,
    "affine: learnable blocks between Conv1x1": affine_block,
    "affine: shift in front of a padded Conv of stride 2": shift_before_padding,
    "affine: behind a Concat of Convs": affine_behind_concat,
    "affine: batch norm written out behind MatMul": batch_norm_behind_matmul,
    "affine: behind LayerNormalization": norm_then_affine,
    "division by 4": lambda: division(4.0),
    "resize x4 then Conv1x1": resize_then_conv,
    "resize x4, cubic, then Conv1x1": lambda: resize_then_conv("cubic"),
    "pixel unshuffle, Conv3x3": pixel_unshuffle,
    "focus: 4 Slice, Concat, Conv3x3": focus,
    "repvgg: 3x3 + 1x1 + identity": rep_vgg,
    "chain: Conv1x1 of Conv1x1": conv_chain,
    "distance head: Softmax over 16, Conv1x1": lambda: distance_head(2100),
    "softmax over 21 channels, then NHWC": channels_last_softmax,
    "one-hot times matrix": lambda: one_hot(1024, 257, 64),
    "rows: ReduceMean 384 x 512": lambda: alone("ReduceMean", 1, 384, 512, axes=[1]),
    "rows: ReduceMean 28 x 28 x 16, NHWC": lambda: alone("ReduceMean", 1, 28, 28, 16, axes=[1, 2]),
    "squares of pairs: 2 x 257 x 100": lambda: alone("ReduceSumSquare", 1, 2, 257, 100, axes=[1], keepdims=0),
    "transpose: 1 x 1 x 50 x 128": lambda: alone("Transpose", 1, 1, 50, 128, perm=[0, 3, 2, 1]),
    "transpose: 64 x 56 x 56 reversed": lambda: alone("Transpose", 64, 56, 56, perm=[2, 1, 0]),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", help="parts of the names of patterns (default: all)")
    parser.add_argument("--passes", default="default", help="graphopt's passes (default: %(default)s)")
    parser.add_argument("--target", default="onnx", help="graphopt's target (default: %(default)s)")
    parser.add_argument("--fast-math", action="store_true", help="allow what is equal for finite values alone")
    parser.add_argument("--seconds", type=float, default=1.0, help="of measuring in a process (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="fresh processes (default: %(default)s)")
    parser.add_argument("--json", help="write everything to this file")
    args = parser.parse_args()
    import graphopt
    from graphopt.targets.latency import compare_latency

    chosen = [name for name in PATTERNS if not args.parts or any(part in name for part in args.parts)]
    if not chosen:
        sys.exit(f"no pattern has {' or '.join(map(repr, args.parts))} in its name; there are: {', '.join(PATTERNS)}")
    results = {}
    for name in chosen:
        with tempfile.TemporaryDirectory(prefix="graphopt-bench-") as folder:
            src, dst = Path(folder, "original.onnx"), Path(folder, "emitted.onnx")
            onnx.save(PATTERNS[name](), src)
            report = graphopt.optimize_file(src, dst, args.passes, target=args.target, fast_math=args.fast_math)
            found = compare_latency(src, dst, seconds=args.seconds, repeats=args.repeats)
        results[name] = {**found.to_dict(), "rewrites": [rewrite.rule for rewrite in report.rewrites]}
        low, high = found.interval
        used = ", ".join(dict.fromkeys(results[name]["rewrites"])) or "nothing"
        print(
            f"{name:48} {found.ratio:6.2f} ({low:.2f} to {high:.2f}) of {found.a.milliseconds:.3f} ms: {used}",
            flush=True,
        )
    machine = describe_machine(PACKAGES)
    options = {key: value for key, value in vars(args).items() if key != "json"}
    write_json(args.json, {"machine": machine, "options": options, "results": results})


if __name__ == "__main__":
    main()
