"""The shipped descriptions of targets.

`ORT_CPU`: ONNX Runtime 1.31.1 on one thread of an AMD EPYC with AVX-512 VNNI: medians of three runs of `graphopt
machine`. The widths of blocks, the passes over the input and what a copy costs are from
`python benchmarks/patterns.py horizontal`.

`TENSORRT_H200`: from published data, not measured. NVIDIA H200 SXM data sheet (2024): 4.8 TB/s, 67 TFLOPS in float32,
494 in TF32 (dense), which TensorRT takes for float32 unless told not to; of these a half, as kernels reach it. L2: 50
MB (H100 white paper). Starting a kernel from a CUDA graph or a stream takes 2 to 3 microseconds.
"""

from __future__ import annotations

from graphopt.analysis.cost.machine import Machine

_PICOSECONDS = {
    "conv": 6.8,
    "pointwise": 6.8,
    "depthwise": 16,
    "first": 9.0,
    "columns": 11,
    "transposed": 13,
    "conv integer": 52,
    "gemm": 7.0,
    "gemm integer": 2.2,
    "recurrent": 24,
    "add": 88,
    "curve": 240,
    "branch": 1500,
    "normalize": 370,
    "softmax": 190,
    "softmax inner": 610,
    "reduce": 54,
    "reduce rows": 1300,
    "transpose": 580,
    "transpose slow": 3100,
    "copy": 79,
    "strided": 800,
    "gather": 2600,
    "pool": 12,
    "resize": 1200,
    "resize nearest": 360,
    "resize cubic": 90000,
    "sample": 1500,
    "quantize": 95,
    "search": 2900,
    "reorder": 94,
    "other": 1000,
    "Abs": 88,
    "BatchNormalization": 87,
    "Clip": 76,
    "Cos": 1300,
    "Elu": 1500,
    "Erf": 340,
    "Exp": 99,
    "Gelu": 420,
    "HardSigmoid": 98,
    "InstanceNormalization": 200,
    "LayerNormalization": 370,
    "LeakyRelu": 190,
    "Log": 1500,
    "Mul": 86,
    "PRelu": 4600,
    "Pow": 3200,
    "QuickGelu": 140,
    "Reciprocal": 160,
    "Relu": 73,
    "Round": 170,
    "Selu": 1500,
    "Sigmoid": 240,
    "Sin": 1300,
    "Softplus": 10000,
    "Softsign": 170,
    "Sqrt": 280,
    "Tanh": 220,
    "Upsample": 90,
}

ORT_CPU = Machine(
    name="onnxruntime on a CPU with AVX-512",
    runtime="onnxruntime",
    source="shipped: ONNX Runtime 1.31.1, one thread of an AMD EPYC",
    overhead=1.7e-7,
    bandwidth=1e11,
    memory_bandwidth=4.9e10,
    seconds={kind: value * 1e-12 for kind, value in _PICOSECONDS.items()},
)

_MULTIPLY = 1 / (0.5 * 494e12 / 2)
TENSORRT_H200 = Machine(
    name="tensorrt on an H200",
    runtime="tensorrt",
    source="shipped: NVIDIA's data sheet of the H200, a half of its peak",
    overhead=2.5e-6,
    bandwidth=1e13,
    memory_bandwidth=4.8e12,
    cache=50 << 20,
    # Anything but products is limited by memory; what is computed one by one on a CPU is not here.
    seconds={
        **dict.fromkeys(("conv", "pointwise", "first", "columns", "transposed", "gemm"), _MULTIPLY),
        **dict.fromkeys(("conv integer", "gemm integer"), _MULTIPLY / 4),
        **dict.fromkeys(("depthwise", "recurrent"), 1 / (0.25 * 67e12 / 2)),
        "search": 1e-12,
        "other": 1e-14,
    },
    widths=(),
    a_pass_of_rows=0.0,
    rows_a_pass=1,
    columns=32,
)
