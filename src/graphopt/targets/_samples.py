"""The small models that measuring times: one operator each, once or three times in a row."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 17


@dataclass(frozen=True)
class Sample:
    """kind: the entry of `Machine.seconds` that it measures. shape: of the input. weights: shapes, or values, of
    further operands. chain: whether several in a row can be timed, which leaves out what it takes to start a run.
    low: the least of the inputs, which are uniform up to 0.9. others: further outputs that the operator must have."""

    kind: str
    op: str
    shape: tuple[int, ...]
    weights: tuple[Any, ...] = ()
    attrs: dict[str, Any] = field(default_factory=dict)
    chain: bool = True
    low: float = -0.9
    dtype: Any = np.float32
    others: tuple[str, ...] = ()
    domain: str = ""

    def model(self, length: int) -> onnx.ModelProto:
        """The operator `length` times in a row."""
        random = np.random.default_rng(0)
        constants = [_constant(random, f"w{k}", weight) for k, weight in enumerate(self.weights)]
        names = [constant.name for constant in constants]
        nodes = [
            helper.make_node(
                self.op,
                [f"v{k}", *names],
                [f"v{k + 1}" if k + 1 < length else "y", *self.others],
                domain=self.domain,
                **self.attrs,
            )
            for k in range(length)
        ]
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(self.dtype))
        x = helper.make_tensor_value_info("v0", kind, self.shape)
        graph = helper.make_graph(nodes, "sample", [x], [onnx.ValueInfoProto(name="y")], constants)
        imports = [helper.make_opsetid("", OPSET), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=imports, ir_version=8)

    def feed(self) -> np.ndarray:
        """The input."""
        drawn = np.random.default_rng(1).uniform(self.low, 0.9, self.shape)
        return np.asarray(drawn * 100 if self.dtype == np.uint8 else drawn).astype(self.dtype)


def _constant(random: np.random.Generator, name: str, weight: Any) -> TensorProto:
    if isinstance(weight, np.ndarray):
        return numpy_helper.from_array(weight, name)
    fan = max(1, int(np.prod(weight[1:])) if len(weight) != 2 else weight[0])
    return numpy_helper.from_array((random.uniform(0.5, 1.0, weight) / fan).astype(np.float32), name)


IMAGE = (1, 64, 64, 64)  # 262,144 elements: a megabyte


def _same(kernel: int) -> dict[str, Any]:
    return {"kernel_shape": [kernel, kernel], "pads": [kernel // 2] * 4}


def _numbers(*values: float, dtype: Any = np.float32) -> np.ndarray:
    return np.array(values if len(values) != 1 else values[0], dtype)


def _axes(*axes: int) -> dict[str, Any]:
    return {"axes": list(axes), "keepdims": 1}


ONE_BY_ONE = "Elu Softplus Softsign Selu Sin Cos Round"
VECTORS = "Exp Tanh Sigmoid Erf Relu LeakyRelu HardSigmoid Abs"
BYTES = np.random.default_rng(0).integers(-90, 90, (384, 384), np.int8)
BYTE_TAPS = np.random.default_rng(0).integers(-90, 90, (64, 64, 3, 3), np.int8)
GRID = np.random.default_rng(0).uniform(-1, 1, (1, 32, 32, 2)).astype(np.float32)
SMALL, TWICE = (1, 15, 64, 64), (np.zeros(0, np.float32), np.array([1, 1, 2, 2], np.float32))
SAMPLES = (
    Sample("conv", "Conv", (1, 64, 28, 28), ((64, 64, 3, 3), (64,)), _same(3)),
    Sample("pointwise", "Conv", (1, 128, 28, 28), ((128, 128, 1, 1), (128,)), _same(1)),
    Sample("depthwise", "Conv", (1, 64, 56, 56), ((64, 1, 3, 3), (64,)), {**_same(3), "group": 64}),
    Sample("first", "Conv", (1, 3, 112, 112), ((32, 3, 3, 3), (32,)), _same(3), chain=False),
    Sample("columns", "Conv", (1, 64, 512), ((64, 64, 3), (64,)), {"kernel_shape": [3], "pads": [1, 1]}),
    Sample("transposed", "ConvTranspose", (1, 32, 28, 28), ((32, 32, 3, 3), (32,)), {"pads": [1] * 4}),
    Sample("gemm", "MatMul", (128, 384), ((384, 384),)),
    Sample("recurrent", "LSTM", (16, 1, 128), ((1, 512, 128), (1, 512, 128)), {"hidden_size": 128}, chain=False),
    Sample("gemm integer", "DynamicQuantizeMatMul", (128, 384), (BYTES, _numbers(0.01)), domain="com.microsoft"),
    Sample("conv integer", "ConvInteger", (1, 64, 28, 28), (BYTE_TAPS,), _same(3), False, 0.0, np.uint8),
    Sample("quantize", "DynamicQuantizeLinear", IMAGE, chain=False, others=("scale", "zero")),
    Sample("sample", "GridSample", (1, 64, 32, 32), (GRID,)),
    Sample("add", "Add", IMAGE, ((1, 64, 1, 1),)),
    Sample("Mul", "Mul", IMAGE, ((1, 64, 1, 1),)),
    *(Sample(op, op, IMAGE) for op in VECTORS.split()),
    *(Sample(op, op, IMAGE) for op in ONE_BY_ONE.split()),
    *(Sample(op, op, IMAGE, chain=False, low=0.1) for op in ("Log", "Sqrt", "Reciprocal")),
    Sample("Clip", "Clip", IMAGE, (_numbers(0.0), _numbers(0.8))),
    Sample("PRelu", "PRelu", IMAGE, ((64, 1, 1),)),
    Sample("Pow", "Pow", IMAGE, (_numbers(1.3),), low=0.1),
    Sample("Gelu", "Gelu", IMAGE, domain="com.microsoft"),
    Sample("QuickGelu", "QuickGelu", IMAGE, (), {"alpha": 1.0}, domain="com.microsoft"),
    Sample("BatchNormalization", "BatchNormalization", IMAGE, ((64,), (64,), (64,), (64,))),
    Sample("LayerNormalization", "LayerNormalization", (512, 512), ((512,), (512,)), {"axis": -1}),
    Sample("InstanceNormalization", "InstanceNormalization", IMAGE, ((64,), (64,))),
    Sample("softmax", "Softmax", (512, 512), (), {"axis": -1}),
    Sample("softmax inner", "Softmax", (4, 64, 256), (), {"axis": 1}),
    Sample("reduce", "ReduceMean", (512, 512), (), _axes(1), chain=False),
    Sample("reduce rows", "ReduceMean", (1, 512, 512), (), _axes(1), chain=False),
    Sample("transpose", "Transpose", IMAGE, (), {"perm": [0, 2, 3, 1]}, chain=False),
    Sample("transpose slow", "Transpose", (16, 32, 16, 32), (), {"perm": [3, 1, 2, 0]}, chain=False),
    Sample("copy", "Pad", IMAGE, (_numbers(0, 0, 0, 0, 0, 1, 0, 0, dtype=np.int64),), chain=False),
    Sample("strided", "Slice", (512, 512), tuple(np.array([k]) for k in (0, 512, 1, 2)), {}, False),
    Sample("gather", "Gather", (512, 512), (np.arange(512)[::-1].copy(),), {"axis": 1}),
    Sample("pool", "MaxPool", IMAGE, (), {"kernel_shape": [3, 3], "pads": [1] * 4}),
    Sample("resize", "Resize", SMALL, TWICE, {"mode": "linear"}, False),
    Sample("resize nearest", "Resize", SMALL, TWICE, {"mode": "nearest"}, False),
    Sample("resize cubic", "Resize", (1, 2, 32, 32), TWICE, {"mode": "cubic"}, False),
    Sample("search", "CumSum", (512, 512), (_numbers(1, dtype=np.int64),)),
)
