"""Synthetic models: transformers of any number of nodes, written the way an exporter writes them before any folding,
and a model with one huge weight inside the file.

    python benchmarks/synthetic.py 8640 transformer.onnx
    python benchmarks/synthetic.py --weight-gb 1.5 big.onnx
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

HIDDEN, HEADS = 32, 4
NODES_PER_LAYER = 108
OPSET = 17


class _Writer:
    """Collects nodes and initializers with PyTorch-like value names."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.random = np.random.default_rng(0)

    def __call__(self, op: str, *inputs: str, **attributes: Any) -> str:
        name = f"/{op}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [f"{name}_output_0"], name, **attributes))
        return f"{name}_output_0"

    def constant(self, value: object, dtype: str) -> str:
        return self("Constant", value=numpy_helper.from_array(np.array(value, dtype)))

    def weight(self, name: str, array: np.ndarray) -> str:
        self.initializers.append(numpy_helper.from_array(array.astype(np.float32), name))
        return name

    def matrix(self, name: str, rows: int, columns: int) -> str:
        return self.weight(name, self.random.standard_normal((rows, columns)) / np.sqrt(rows))

    def bias(self, name: str, size: int) -> str:
        return self.weight(name, self.random.standard_normal(size) * 0.1)


def _linear(w: _Writer, x: str, name: str, rows: int, columns: int) -> str:
    return w("Add", w.bias(f"{name}.bias", columns), w("MatMul", x, w.matrix(f"{name}.weight", rows, columns)))


def _layer_norm(w: _Writer, x: str, name: str) -> str:
    centered = w("Sub", x, w("ReduceMean", x, axes=[-1], keepdims=1))
    squares = w("Pow", centered, w.constant(2.0, "float32"))
    variance = w("Add", w("ReduceMean", squares, axes=[-1], keepdims=1), "epsilon")
    scaled = w(
        "Mul",
        w("Div", centered, w("Sqrt", variance)),
        w.weight(f"{name}.weight", 1 + 0.1 * w.random.standard_normal(HIDDEN)),
    )
    return w("Add", scaled, w.bias(f"{name}.bias", HIDDEN))


def _gelu(w: _Writer, x: str) -> str:
    erf = w("Erf", w("Div", x, w.constant(2.0**0.5, "float32")))
    return w("Mul", w("Mul", x, w("Add", erf, "one")), "half")


def _view(w: _Writer, x: str, *sizes: int) -> str:
    """x.view(x.size(0), x.size(1), *sizes), with its chain of shape operators."""
    dims = []
    for axis in (0, 1):
        size = w("Gather", w("Shape", x), w.constant(axis, "int64"), axis=0)
        dims.append(w("Unsqueeze", size, w.constant([0], "int64")))
    dims += [w.constant([size], "int64") for size in sizes]
    return w("Reshape", x, w("Concat", *dims, axis=0))


def _attention(w: _Writer, x: str, name: str) -> str:
    heads = HEADS, HIDDEN // HEADS
    query, key, value = (_view(w, _linear(w, x, f"{name}.{part}", HIDDEN, HIDDEN), *heads) for part in "qkv")
    query = w("Transpose", query, perm=[0, 2, 1, 3])
    key = w("Transpose", key, perm=[0, 2, 3, 1])
    value = w("Transpose", value, perm=[0, 2, 1, 3])
    scores = w("Div", w("MatMul", query, key), w.constant(heads[1] ** 0.5, "float32"))
    weights = w("Dropout", w("Softmax", w("Add", scores, "mask"), axis=-1))
    context = w("Transpose", w("MatMul", weights, value), perm=[0, 2, 1, 3])
    return _linear(w, _view(w, context, HIDDEN), f"{name}.out", HIDDEN, HIDDEN)


def _layer(w: _Writer, x: str, name: str) -> str:
    x = _layer_norm(w, w("Add", _attention(w, w("Identity", x), f"{name}.attention"), x), f"{name}.norm1")
    hidden = _gelu(w, _linear(w, x, f"{name}.fc1", HIDDEN, 4 * HIDDEN))
    hidden = w("Cast", _linear(w, hidden, f"{name}.fc2", 4 * HIDDEN, HIDDEN), to=TensorProto.FLOAT)
    return _layer_norm(w, w("Add", hidden, x), f"{name}.norm2")


def transformer(nodes: int) -> onnx.ModelProto:
    """An encoder of about `nodes` nodes (the nearest whole number of layers, each of 108): x float32 [batch, sequence,
    32] and an additive mask float32 [batch, 1, 1, sequence] to y like x. Weights take 50 kB a layer."""
    w = _Writer()
    for name, value in (("epsilon", 1e-5), ("one", 1.0), ("half", 0.5)):
        w.weight(name, np.array(value))
    x = "x"
    for index in range(max(1, round(nodes / NODES_PER_LAYER))):
        x = _layer(w, x, f"layer.{index}")
    w.nodes[-1].output[0] = "y"
    graph = helper.make_graph(
        w.nodes,
        "transformer",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", "sequence", HIDDEN]),
            helper.make_tensor_value_info("mask", TensorProto.FLOAT, ["batch", 1, 1, "sequence"]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", "sequence", HIDDEN])],
        w.initializers,
    )
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8, producer_name="graphopt-bench"
    )


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _header(field: int, length: int) -> bytes:
    """Tag and length of a length-delimited protobuf field."""
    return _varint(field << 3 | 2) + _varint(length)


def write_big_weight(path: Path, gigabytes: float) -> None:
    """Write a model that holds one float32 embedding of `gigabytes` (1e9 bytes) in the file itself, followed by a few
    nodes that an optimizer can simplify: ids int64 [n] to y float32 [n, 1024]. Streamed: costs megabytes of memory."""
    columns = 1024
    rows = round(gigabytes * 1e9 / 4 / columns)
    nodes = [
        helper.make_node("Gather", ["embedding", "ids"], ["rows"]),
        helper.make_node("Identity", ["rows"], ["same"]),
        helper.make_node("Constant", [], ["a"], value=numpy_helper.from_array(np.float32(2))),
        helper.make_node("Constant", [], ["b"], value=numpy_helper.from_array(np.float32(3))),
        helper.make_node("Mul", ["a", "b"], ["c"]),
        helper.make_node("Mul", ["same", "c"], ["y"]),
    ]
    inputs = [helper.make_tensor_value_info("ids", TensorProto.INT64, ["n"])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", columns])]
    graph = helper.make_graph(nodes, "big", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
    model.ClearField("graph")
    tensor = TensorProto(name="embedding", data_type=TensorProto.FLOAT, dims=[rows, columns])

    # The message is written from the inside out: raw_data is field 9 of TensorProto, initializer 5 of GraphProto, graph
    # 7 of ModelProto; fields may come in any order.
    size = rows * columns * 4
    tensor_head = tensor.SerializeToString() + _header(9, size)
    graph_head = graph.SerializeToString() + _header(5, len(tensor_head) + size)
    model_head = model.SerializeToString() + _header(7, len(graph_head) + len(tensor_head) + size)
    block = np.random.default_rng(0).standard_normal((256, columns), np.float32).tobytes()
    with path.open("wb") as file:
        file.write(model_head + graph_head + tensor_head)
        for start in range(0, size, len(block)):
            file.write(block[: min(len(block), size - start)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0] if __doc__ else None)
    parser.add_argument("nodes", type=int, nargs="?", help="nodes of the transformer")
    parser.add_argument("path", type=Path)
    parser.add_argument("--weight-gb", type=float, help="write the model with one weight of this size instead")
    args = parser.parse_args()
    if args.weight_gb:
        write_big_weight(args.path, args.weight_gb)
    elif args.nodes:
        onnx.save(transformer(args.nodes), args.path)
    else:
        parser.error("give the number of nodes, or --weight-gb")


if __name__ == "__main__":
    main()
