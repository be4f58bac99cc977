"""ONNX Runtime's own wrong results at its default level: what we emit must be right in it nevertheless.

`hazard` marks what ORT 1.31 gets wrong. The neighbours without it are forms that survive, or that ORT has mended:
they must not become one that does not.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto

from traps.case import Feeds, case
from traps.checks import grows_at_most
from traps.make import graph, model, n, rand

DQ = "DequantizeLinear(int8 weight) into MatMul becomes MatMulNBits with int8 *activations* (level 4): 45 dB SQNR"
SKIP = "SkipLayerNormalization in fp16"
SCALE = "SimplifiedLayerNormalization with a scale whose shape does not fit"
OUTPUTS = "fusions across graph outputs"
TOL = 1e-4
K, N = 64, 32


def rows(*names: str, shape: tuple[int, ...] = (4, K)) -> list[Feeds]:
    return [{name: rand(*shape, seed=seed + i, low=-2.0, high=2.0) for i, name in enumerate(names)} for seed in (0, 5)]


def dequantized(
    kind: Any = np.int8,
    scale: tuple[int, ...] = (),
    *,
    op: str = "MatMul",
    opset: int = 21,
    zero: int | None = None,
    size: tuple[int, int] = (K, N),
    transposed: bool = False,
    **attrs: Any,
) -> onnx.ModelProto:
    """x @ dequantized weight; per tensor, per channel or in blocks, with or without zero points."""
    info = ml_dtypes.iinfo(kind)
    weight = np.random.default_rng(1).integers(int(info.min), int(info.max) + 1, size).astype(kind)
    consts: dict[str, Any] = {"q": weight, "s": rand(*scale, seed=2, low=0.01, high=0.03)}
    if zero is not None:
        consts["z"] = np.full(scale, zero).astype(kind)
    nodes = [n("DequantizeLinear", "q s z" if zero is not None else "q s", "w", **attrs)]
    if transposed:
        nodes.append(n("Transpose", "w", "wt", perm=[1, 0]))
    last = "x wt" if transposed else "x w"
    if op == "Add":
        consts["b"] = rand(size[1], seed=3)
        nodes += [n("MatMul", last, "m"), n("Add", "m b", "y")]
    else:
        nodes.append(n(op, last, "y"))
    width = size[1] if transposed else size[0]
    return model(nodes, f"x:float[M,{width}]", "y:float[M,?]", consts, opset=opset, ir=10)


DQ_BITES: dict[str, dict[str, Any]] = {
    "per_tensor": {},
    "per_tensor_opset_10": {"opset": 10},
    "per_tensor_with_zero_point": {"zero": 3},
    "per_channel": {"scale": (N,), "axis": 1},
    "uint8_per_channel": {"kind": np.uint8, "scale": (N,), "axis": 1, "zero": 128},
    "blocks_of_16": {"scale": (K // 16, N), "axis": 0, "block_size": 16},
    "int4_blocks_of_32": {"kind": ml_dtypes.int4, "scale": (K // 32, N), "axis": 0, "block_size": 32},
    "uint4_with_zero_point": {"kind": ml_dtypes.uint4, "scale": (K // 16, N), "axis": 0, "block_size": 16, "zero": 8},
    "gemm": {"op": "Gemm"},
    "bias_add": {"op": "Add", "scale": (N,), "axis": 1},
    "transposed": {"transposed": True, "size": (N, K)},
    "transposed_per_channel": {"transposed": True, "size": (N, K), "scale": (N,), "axis": 0},
    "odd_sizes": {"size": (50, 20)},
}
DQ_SURVIVES: dict[str, dict[str, Any]] = {
    "negative_axis": {"scale": (N,), "axis": -1},
    "along_k": {"scale": (K,), "axis": 0},
    "negative_block_axis": {"scale": (K // 16, N), "axis": -2, "block_size": 16},
    "scale_of_one_element": {"scale": (1,)},
}
for _name, _spec in [*DQ_BITES.items(), *DQ_SURVIVES.items()]:
    case(
        "ort/dequantize-matmul",
        DQ,
        name=f"dq_matmul_{_name}",
        feeds=lambda s=_spec: rows("x", shape=(4, s.get("size", (K, N))[0 if not s.get("transposed") else 1])),
        checks=[grows_at_most(2000)],
        tol=TOL,
        hazard=_name in DQ_BITES,
    )(lambda spec=_spec: dequantized(**spec))


def norm(nodes: list[onnx.NodeProto], consts: dict[str, Any], shape: str = "2,5,32", **kwargs: Any) -> onnx.ModelProto:
    read = {name for node in nodes for name in node.input}
    ins = " ".join(f"{name}:float[{shape}]" for name in ("x", "s") if name in read)
    return model(nodes, ins, kwargs.pop("outs", "y:float[2,5,32]"), consts, **kwargs)


def tokens(width: int = 32) -> list[Feeds]:
    return rows("x", "s", shape=(2, 5, width))


def token(width: int = 32) -> list[Feeds]:
    return rows("x", shape=(2, 5, width))


SKIP_LN = [n("Add", "x s", "t"), n("LayerNormalization", "t g b", "y", epsilon=1e-5)]


@case(
    "ort/layernorm",
    "Add + LayerNormalization with a scale of one element: SkipLayerNormalization refuses it",
    feeds=tokens,
    tol=TOL,
    hazard=True,
    ort=(1, 31),
)
def skip_layernorm_with_scale_of_one() -> onnx.ModelProto:
    return norm(SKIP_LN, {"g": [1.5], "b": rand(32)})


@case(
    "ort/layernorm",
    "Add + LayerNormalization with a scale of one element and no bias",
    feeds=tokens,
    tol=TOL,
    hazard=True,
    ort=(1, 31),
)
def skip_layernorm_with_scale_of_one_alone() -> onnx.ModelProto:
    nodes = [n("Add", "s x", "t"), n("LayerNormalization", "t g", "y", axis=2)]
    return norm(nodes, {"g": [1.5]})


for _title, _shape in {"full": (2, 5, 32), "matrix": (5, 32), "row": (1, 32)}.items():
    case("ort/layernorm", SKIP, name=f"skip_layernorm_scale_{_title}", feeds=tokens, tol=TOL, ort=(1, 31))(
        lambda shape=_shape: norm(SKIP_LN, {"g": rand(*shape), "b": rand(32, seed=1)})
    )


@case("ort/layernorm", SKIP, feeds=tokens, tol=TOL)
def skip_layernorm_of_a_broadcast_sum() -> onnx.ModelProto:
    nodes = [n("Add", "x row", "t"), *SKIP_LN[1:], n("Add", "row s", "u"), n("LayerNormalization", "u g b", "z")]
    return norm(
        nodes, {"g": rand(32), "b": rand(32, seed=1), "row": rand(1, 32)}, outs="y:float[2,5,32] z:float[2,5,32]"
    )


def halves(scale: float, offset: float) -> list[Feeds]:
    return [{k: (v * scale + offset).astype(np.float16) for k, v in f.items()} for f in tokens()]


def half_layernorm(*, written_out: bool) -> onnx.ModelProto:
    nodes = SKIP_LN
    consts: dict[str, Any] = {"g": rand(32, low=0.5, high=1.5), "b": rand(32, seed=1)}
    if written_out:
        nodes = [
            SKIP_LN[0], n("ReduceMean", "t", "m", axes=[-1]), n("Sub", "t m", "d"), n("Pow", "d two", "p"),
            n("ReduceMean", "p", "v", axes=[-1]), n("Add", "v eps", "ve"), n("Sqrt", "ve", "sd"),
            n("Div", "d sd", "q"),
            n("Mul", "q g", "qg"), n("Add", "qg b", "y"),
        ]  # fmt: skip
        consts |= {"two": 2.0, "eps": 1e-5}
    half = {k: np.asarray(v, np.float16) for k, v in consts.items()}
    return model(nodes, "x:float16[2,5,32] s:float16[2,5,32]", "y:float16[2,5,32]", half)


case("ort/layernorm", SKIP, name="skip_layernorm_fp16", feeds=lambda: halves(1.0, 0.0), tol=2e-3)(
    lambda: half_layernorm(written_out=False)
)
case(
    "ort/layernorm",
    SKIP + ": the sum is rounded to fp16 before the mean is taken, or is not (42 against 74 dB)",
    name="skip_layernorm_fp16_far_from_zero",
    feeds=lambda: halves(0.5, 30.0),
    tol=2e-3,
)(lambda: half_layernorm(written_out=False))
case("ort/layernorm", SKIP, name="layernorm_fp16_written_out", feeds=lambda: halves(1.0, 0.0), tol=2e-3)(
    lambda: half_layernorm(written_out=True)
)


def rms(source: str = "x", axes: list[int] | None = None) -> list[onnx.NodeProto]:
    return [
        n("Pow", f"{source} two", "p"), n("ReduceMean", "p", "v", axes=axes or [-1]), n("Add", "v eps", "ve"),
        n("Sqrt", "ve", "sd"), n("Div", f"{source} sd", "q"), n("Mul", "q g", "y"),
    ]  # fmt: skip


RMS = {"two": 2.0, "eps": 1e-5}


@case(
    "ort/rmsnorm",
    SCALE + ": the normalized axis has one element and the scale 32",
    feeds=lambda: token(1),
    tol=TOL,
    hazard=True,
)
def rms_of_width_one_times_a_vector() -> onnx.ModelProto:
    return norm(rms(), {**RMS, "g": rand(32)}, "2,5,1")


@case("ort/rmsnorm", SCALE + ": the same for LayerNormalization", feeds=lambda: token(1), tol=TOL, hazard=True)
def layernorm_of_width_one_times_a_vector() -> onnx.ModelProto:
    nodes = [
        n("ReduceMean", "x", "m", axes=[-1]),
        n("Sub", "x m", "d"),
        *rms("d")[:-1],
        n("Mul", "q g", "qg"),
        n("Add", "qg b", "y"),
    ]
    return norm(nodes, {**RMS, "g": rand(32), "b": rand(32, seed=1)}, "2,5,1")


@case("ort/rmsnorm", SCALE + ": a scale of rank 2 survives", feeds=lambda: token(1), tol=TOL)
def rms_of_width_one_times_a_matrix() -> onnx.ModelProto:
    return norm(rms(), {**RMS, "g": rand(1, 32)}, "2,5,1")


for _title, _shape in {
    "scalar": (), "one": (1,), "row": (1, 32), "matrix": (5, 32), "column": (5, 1), "full": (2, 5, 32),
    "rank4": (3, 1, 1, 32),
}.items():  # fmt: skip
    case("ort/rmsnorm", SCALE, name=f"rms_scale_{_title}", feeds=token, tol=TOL)(
        lambda shape=_shape: norm(
            rms(), {**RMS, "g": rand(*shape)}, outs="y:float[3,2,5,32]" if len(shape) == 4 else "y:float[2,5,32]"
        )
    )
for _title, _axes in {"last_two": [1, 2], "middle": [1], "all": [0, 1, 2]}.items():
    case("ort/rmsnorm", SCALE + ": other axes than the last", name=f"rms_over_{_title}", feeds=token, tol=TOL)(
        lambda axes=_axes: norm(rms(axes=axes), {**RMS, "g": rand(32)})
    )


@case("ort/rmsnorm", SCALE, feeds=tokens, tol=TOL)
def skip_rms_with_scale_of_one() -> onnx.ModelProto:
    return norm([n("Add", "x s", "t"), *rms("t")], {**RMS, "g": [1.5]})


GELU = [
    n("Div", "t root", "e"), n("Erf", "e", "f"), n("Add", "f one", "h"), n("Mul", "t h", "k"),
    n("Mul", "k half", "y"),
]  # fmt: skip
GELU_CONSTS = {"root": np.float32(np.sqrt(2)), "one": 1.0, "half": 0.5}
CHAINS: dict[str, tuple[list[onnx.NodeProto], dict[str, Any], str]] = {
    "gelu": ([n("Add", "x s", "t"), *GELU], GELU_CONSTS, "e f h k t"),
    "bias_gelu": ([n("Add", "x b", "t"), *GELU], {**GELU_CONSTS, "b": rand(32)}, "t k"),
    "skip_layernorm": (SKIP_LN, {"g": rand(32), "b": rand(32, seed=1)}, "t"),
    "rms": (rms(), {**RMS, "g": rand(32)}, "p v ve sd q"),
    "quick_gelu": ([n("Sigmoid", "x", "q"), n("Mul", "x q", "y")], {}, "q"),
    "matmul_add": ([n("MatMul", "x w", "m"), n("Add", "m b", "y")], {"w": rand(32, 32), "b": rand(32)}, "m"),
}
for _title, (_nodes, _consts, _inner) in CHAINS.items():
    _feeds = tokens if any("s" in node.input for node in _nodes) else token
    for _extra in _inner.split():
        case("ort/outputs", OUTPUTS, name=f"{_title}_with_{_extra}_as_output", feeds=_feeds, tol=TOL)(
            lambda nodes=_nodes, consts=_consts, extra=_extra: norm(
                nodes, consts, outs=f"y:float[2,5,32] {extra}:float[2,5,?]"
            )
        )


@case(
    "ort/outputs",
    OUTPUTS + ": the value in the middle is read by the body of an If",
    feeds=lambda: [{**f, "c": np.array(c)} for f in tokens() for c in (True, False)],
    tol=TOL,
)
def inner_value_captured_by_a_body() -> onnx.ModelProto:
    yes = graph([n("Exp", "k", "ky")], "", "ky:float[2,5,32]")
    no = graph([n("Neg", "t", "ty")], "", "ty:float[2,5,32]")
    nodes = [n("Add", "x s", "t"), *GELU, n("If", "c", "z", then_branch=yes, else_branch=no)]
    ins = "x:float[2,5,32] s:float[2,5,32] c:bool[]"
    return model(nodes, ins, "y:float[2,5,32] z:float[2,5,32]", GELU_CONSTS)


def convs(nodes: list[onnx.NodeProto], outs: str, **consts: Any) -> onnx.ModelProto:
    weights = {"w": rand(16, 16, 3, 3, low=-0.1, high=0.1), "b": rand(16, seed=1), **consts}
    return model(nodes, "x:float[N,16,8,8]", outs, weights)


SAME = {"pads": [1, 1, 1, 1]}


@case(
    "ort/outputs",
    OUTPUTS + ": residual blocks, which FusedConv adds in place",
    feeds=lambda: rows("x", shape=(2, 16, 8, 8)),
    tol=TOL,
)
def residual_conv_with_every_value_as_output() -> onnx.ModelProto:
    nodes = [
        n("Conv", "x w b", "a", **SAME), n("Relu", "a", "r"), n("Conv", "r w b", "c", **SAME), n("Add", "c r", "d"),
        n("Relu", "d", "e"), n("Conv", "e w", "y", **SAME), n("Add", "y d", "z"),
    ]  # fmt: skip
    dims = "N,16,8,8"
    return convs(nodes, " ".join(f"{v}:float[{dims}]" for v in "yzacdre"))


@case("ort/outputs", OUTPUTS + ": Conv+BN+Relu+MaxPool in NCHWc", feeds=lambda: rows("x", shape=(2, 16, 8, 8)), tol=TOL)
def conv_bn_relu_pool_with_inner_outputs() -> onnx.ModelProto:
    nodes = [
        n("Conv", "x w b", "a", **SAME), n("BatchNormalization", "a b b b v", "c"), n("Relu", "c", "r"),
        n("MaxPool", "r", "y", kernel_shape=[2, 2], strides=[2, 2]),
    ]  # fmt: skip
    outs = "y:float[N,16,4,4] a:float[N,16,8,8] r:float[N,16,8,8]"
    return convs(nodes, outs, v=rand(16, low=0.5, high=2.0))


@case(
    "ort/quantized",
    "ORT merges two Q/DQ pairs of unlike scales into one, half a step off",
    feeds=lambda: rows("x"),
    tol=TOL,
)
def two_qdq_pairs_of_unlike_scales() -> onnx.ModelProto:
    nodes = [
        n("QuantizeLinear", "x s1 z", "q"), n("DequantizeLinear", "q s1 z", "d"),
        n("QuantizeLinear", "d s2 z", "r"), n("DequantizeLinear", "r s2 z", "y"),
    ]  # fmt: skip
    consts = {"s1": 0.05, "s2": 0.01, "z": np.array(128, np.uint8)}
    return model(nodes, "x:float[M,64]", "y:float[M,64]", consts)


@case("ort/quantized", "Cast pairs that ORT may drop: the one in the middle rounds", feeds=lambda: rows("x"), tol=0.0)
def cast_down_and_up() -> onnx.ModelProto:
    nodes = [
        n("Cast", "x", "h", to=TensorProto.FLOAT16),
        n("Cast", "h", "u", to=TensorProto.FLOAT),
        n("Sub", "x u", "y"),
    ]
    return model(nodes, "x:float[M,64]", "y:float[M,64]")
