"""BatchNormalization and affine operators next to Conv, ConvTranspose, Gemm and MatMul: exact, or left alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx

from traps.case import Feeds, case
from traps.checks import gone, keeps
from traps.make import Array, init, model, n, rand

TRAINING = "BatchNormalization with training_mode=1, or with its extra outputs in use, folded into Conv"
GEMM = "Gemm `beta`/`alpha` ignored when folding BN or a bias into it"
TRANSPOSED = "ConvTranspose weights scaled along the wrong axis; groups"
WIDTH = "a per-channel constant of shape [C] after a Conv broadcasts over width, not channels"
NEIGHBOUR = "the plain form, which must fuse and stay right"
TOL = 2e-5


def bn(c: int, seed: int = 50) -> dict[str, Array]:
    """Scale, bias, mean, variance of a BatchNormalization; one scale is zero, one negative."""
    scale = rand(c, seed=seed, low=0.5, high=2.0)
    scale[0], scale[-1] = 0.0, -scale[-1]
    return {
        "g": scale,
        "b": rand(c, seed=seed + 1),
        "mu": rand(c, seed=seed + 2),
        "var": rand(c, seed=seed + 3, low=0.1, high=3.0),
    }


BN = n("BatchNormalization", "c g b mu var", "y", epsilon=1e-3)


def images(*shape: int) -> list[Feeds]:
    return [{"x": rand(*shape, seed=s, low=-3.0, high=3.0)} for s in (0, 1)]


def conv_bn(w: Array, *, bias: bool = False, **attrs: Any) -> onnx.ModelProto:
    consts = {"w": w, **bn(w.shape[0])}
    if bias:
        consts["cb"] = rand(w.shape[0], seed=40)
    nodes = [n("Conv", "x w cb" if bias else "x w", "c", **attrs), BN]
    dims = ",".join(["N", str(w.shape[1] * attrs.get("group", 1)), *"?" * (w.ndim - 2)])
    return model(nodes, f"x:float[{dims}]", f"y:float[N,{w.shape[0]}{',?' * (w.ndim - 2)}]", consts)


CONV_FORMS: dict[str, tuple[Array, dict[str, Any], tuple[int, ...]]] = {
    "plain": (rand(4, 3, 3, 3), {}, (2, 3, 6, 6)),
    "bias_and_pads": (rand(4, 3, 3, 3), {"bias": True, "pads": [1, 0, 1, 2]}, (2, 3, 6, 6)),
    "groups": (rand(6, 2, 3, 3), {"group": 2, "bias": True}, (2, 4, 6, 6)),
    "depthwise": (rand(4, 1, 3, 3), {"group": 4}, (2, 4, 6, 6)),
    "depthwise_multiplier": (rand(6, 1, 3, 3), {"group": 3}, (2, 3, 6, 6)),
    "1d": (rand(4, 3, 5), {"bias": True, "strides": [2]}, (2, 3, 11)),
    "3d": (rand(3, 2, 2, 2, 2), {}, (1, 2, 4, 4, 4)),
    "dilated": (rand(4, 3, 3, 3), {"dilations": [2, 2]}, (2, 3, 7, 7)),
    "same_upper": (rand(4, 3, 4, 4), {"auto_pad": "SAME_UPPER", "strides": [2, 2]}, (2, 3, 7, 7)),
}
for _form, (_w, _attrs, _shape) in CONV_FORMS.items():
    case(
        "meaning/batchnorm",
        NEIGHBOUR,
        name=f"conv_bn_{_form}",
        feeds=lambda shape=_shape: images(*shape),
        checks=[gone("BatchNormalization")],
        tol=TOL,
    )(lambda w=_w, attrs=_attrs: conv_bn(w, **attrs))


def conv_transpose_bn(w: Array, group: int) -> onnx.ModelProto:
    c = w.shape[1] * group
    nodes = [n("ConvTranspose", "x w cb", "c", group=group, strides=[2, 2]), BN]
    consts = {"w": w, "cb": rand(c, seed=41), **bn(c)}
    return model(nodes, f"x:float[N,{w.shape[0]},3,3]", f"y:float[N,{c},?,?]", consts)


for _name, _w, _group in (
    ("square", rand(4, 4, 2, 2), 1),
    ("wide", rand(3, 5, 3, 3), 1),
    ("groups", rand(4, 3, 2, 2), 2),
    ("depthwise", rand(4, 1, 2, 2), 4),
):
    case(
        "meaning/batchnorm",
        TRANSPOSED,
        name=f"conv_transpose_bn_{_name}",
        feeds=lambda w=_w: images(2, w.shape[0], 3, 3),
        checks=[gone("BatchNormalization")],
        tol=TOL,
    )(lambda w=_w, group=_group: conv_transpose_bn(w, group))


@case("meaning/batchnorm", TRANSPOSED, feeds=lambda: images(2, 4, 3, 3), tol=TOL)
def conv_transpose_mul_add_with_groups() -> onnx.ModelProto:
    nodes = [n("ConvTranspose", "x w", "c", group=2), n("Mul", "c k", "m"), n("Add", "t m", "y")]
    consts = {"w": rand(4, 3, 2, 2), "k": rand(6, 1, 1, seed=1), "t": rand(1, 6, 1, 1, seed=2)}
    return model(nodes, "x:float[N,4,3,3]", "y:float[N,6,?,?]", consts)


@case("meaning/batchnorm", TRAINING, feeds=lambda: images(2, 3, 6, 6), checks=[keeps("BatchNormalization")], tol=TOL)
def bn_in_training_mode_with_outputs() -> onnx.ModelProto:
    nodes = [n("Conv", "x w", "c"), n("BatchNormalization", "c g b mu var", "y rm rv", training_mode=1)]
    outs = "y:float[N,4,?,?] rm:float[4] rv:float[4]"
    return model(nodes, "x:float[N,3,6,6]", outs, {"w": rand(4, 3, 3, 3), **bn(4)}, opset=15)


@case(
    "meaning/batchnorm",
    TRAINING,
    feeds=lambda: images(2, 3, 6, 6),
    evaluator="reference",
    checks=[keeps("BatchNormalization")],
    tol=TOL,
)
def bn_in_training_mode_alone() -> onnx.ModelProto:
    nodes = [n("Conv", "x w", "c"), n("BatchNormalization", "c g b mu var", "y", training_mode=1)]
    return model(nodes, "x:float[N,3,6,6]", "y:float[N,4,?,?]", {"w": rand(4, 3, 3, 3), **bn(4)}, opset=15)


@case("meaning/batchnorm", TRAINING, evaluator="none", checks=[keeps("BatchNormalization")])
def bn_of_opset_9_with_outputs_in_use() -> onnx.ModelProto:
    """Opset 7 to 13: more outputs than one is training, whatever the attributes say."""
    nodes = [n("Conv", "x w", "c"), n("BatchNormalization", "c g b mu var", "y rm rv sm sv")]
    outs = "y:float[N,4,?,?] rm:float[4] sm:float[4]"
    return model(nodes, "x:float[N,3,6,6]", outs, {"w": rand(4, 3, 3, 3), **bn(4)}, opset=9)


@case("meaning/batchnorm", TRAINING, feeds=lambda: images(2, 3, 6, 6), checks=[gone("BatchNormalization")], tol=TOL)
def bn_of_opset_9_in_inference() -> onnx.ModelProto:
    nodes = [n("Conv", "x w", "c"), BN]
    return model(nodes, "x:float[N,3,6,6]", "y:float[N,4,?,?]", {"w": rand(4, 3, 3, 3), **bn(4)}, opset=9)


@case("meaning/batchnorm", TRAINING, feeds=lambda: images(2, 3, 6, 6), evaluator="none", checks=[keeps("Conv")])
def bn_of_opset_7_over_space_as_well() -> onnx.ModelProto:
    """spatial=0: scale, mean and variance per feature, not per channel."""
    features = {k: rand(4, 4, 4, seed=i, low=0.5, high=2.0) for i, k in enumerate(("g", "b", "mu", "var"))}
    nodes = [n("Conv", "x w", "c"), n("BatchNormalization", "c g b mu var", "y", spatial=0, name="bn")]
    return model(nodes, "x:float[N,3,6,6]", "y:float[N,4,4,4]", {"w": rand(4, 3, 3, 3), **features}, opset=8)


@case(
    "meaning/batchnorm",
    "a value in use elsewhere is not the rule's to change",
    feeds=lambda: images(2, 3, 6, 6),
    tol=TOL,
)
def conv_bn_with_conv_as_output_too() -> onnx.ModelProto:
    outs = "y:float[N,4,?,?] c:float[N,4,?,?]"
    return model([n("Conv", "x w", "c"), BN], "x:float[N,3,6,6]", outs, {"w": rand(4, 3, 3, 3), **bn(4)})


@case("meaning/batchnorm", "shared weights are cloned, never overwritten", feeds=lambda: images(2, 3, 6, 6), tol=TOL)
def conv_bn_with_shared_weight() -> onnx.ModelProto:
    nodes = [n("Conv", "x w", "c"), BN, n("Conv", "x w", "d", pads=[1, 1, 1, 1]), n("Identity", "w", "u")]
    outs = "y:float[N,4,?,?] d:float[N,4,?,?] u:float[4,3,3,3]"
    return model(nodes, "x:float[N,3,6,6]", outs, {"w": rand(4, 3, 3, 3), **bn(4)})


@case("meaning/batchnorm", "the variance's square root", feeds=lambda: images(2, 3, 6, 6), tol=TOL)
def conv_bn_with_zero_variance() -> onnx.ModelProto:
    consts = {"w": rand(4, 3, 3, 3), **bn(4)}
    consts["var"] = np.array([0.0, 1e-12, 1.0, 4.0], np.float32)
    return model([n("Conv", "x w", "c"), BN], "x:float[N,3,6,6]", "y:float[N,4,?,?]", consts)


@case("meaning/batchnorm", "a weight that is computed at run time is no constant", tol=TOL)
def conv_bn_with_weight_as_input() -> onnx.ModelProto:
    ins = "x:float[N,3,6,6] w:float[4,3,3,3]"
    return model([n("Conv", "x w", "c"), BN], ins, "y:float[N,4,?,?]", bn(4))


@case("meaning/batchnorm", "BN before Conv where padding allows", feeds=lambda: images(2, 3, 6, 6), tol=TOL)
def bn_before_padded_conv() -> onnx.ModelProto:
    """The shift cannot go into the bias: at the border the padding is zero, not the shift."""
    nodes = [n("BatchNormalization", "x g b mu var", "c"), n("Conv", "c w cb", "y", pads=[1, 1, 1, 1])]
    consts = {"w": rand(4, 3, 3, 3), "cb": rand(4, seed=8), **bn(3)}
    return model(nodes, "x:float[N,3,6,6]", "y:float[N,4,?,?]", consts)


@case("meaning/batchnorm", "BN before Conv where padding allows", feeds=lambda: images(2, 4, 6, 6), tol=TOL)
def bn_before_grouped_conv() -> onnx.ModelProto:
    nodes = [n("BatchNormalization", "x g b mu var", "c"), n("Conv", "c w", "y", group=2)]
    return model(nodes, "x:float[N,4,6,6]", "y:float[N,6,?,?]", {"w": rand(6, 2, 3, 3), **bn(4)})


GEMM_FORMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "alpha_beta": {"alpha": 0.5, "beta": 2.0},
    "trans_b": {"transB": 1, "alpha": -1.5},
    "trans_a": {"transA": 1, "beta": 0.25},
    "trans_ab_beta_zero": {"transA": 1, "transB": 1, "beta": 0.0},
}
for _form, _attrs in GEMM_FORMS.items():

    @case(
        "meaning/gemm",
        GEMM,
        name=f"gemm_bn_{_form}",
        feeds=lambda a=_attrs: images(*((3, 2) if a.get("transA") else (2, 3))),
        checks=[gone("BatchNormalization")],
        tol=TOL,
    )
    def _gemm_bn(attrs: dict[str, Any] = _attrs) -> onnx.ModelProto:
        consts = {"w": rand(*((4, 3) if attrs.get("transB") else (3, 4))), "cb": rand(4, seed=1), **bn(4)}
        dims = "3,N" if attrs.get("transA") else "N,3"
        return model([n("Gemm", "x w cb", "c", **attrs), BN], f"x:float[{dims}]", "y:float[N,4]", consts)

    @case(
        "meaning/gemm",
        GEMM,
        name=f"gemm_add_{_form}",
        feeds=lambda a=_attrs: images(*((3, 2) if a.get("transA") else (2, 3))),
        tol=TOL,
    )
    def _gemm_add(attrs: dict[str, Any] = _attrs) -> onnx.ModelProto:
        consts = {"w": rand(*((4, 3) if attrs.get("transB") else (3, 4))), "cb": rand(4, seed=1), "t": rand(4, seed=2)}
        nodes = [n("Gemm", "x w cb", "c", **attrs), n("Mul", "c k", "m"), n("Add", "m t", "y")]
        dims = "3,N" if attrs.get("transA") else "N,3"
        return model(nodes, f"x:float[{dims}]", "y:float[N,4]", {**consts, "k": rand(1, 4, seed=3)})


for _title, _shape in {"scalar": (), "one": (1,), "row": (1, 4), "column": (2, 1), "full": (2, 4)}.items():

    @case(
        "meaning/gemm",
        GEMM + ": C broadcasts from any of its shapes",
        name=f"gemm_bn_with_c_{_title}",
        feeds=lambda: images(2, 3),
        tol=TOL,
    )
    def _gemm_c(shape: tuple[int, ...] = _shape) -> onnx.ModelProto:
        consts = {"w": rand(3, 4), "cb": rand(*shape, seed=1), **bn(4)}
        return model([n("Gemm", "x w cb", "c", beta=0.5), BN], "x:float[2,3]", "y:float[2,4]", consts)


@case("meaning/gemm", "MatMul+Add into Gemm: a matrix of rank 3, or a bias that grows the result", tol=TOL)
def matmul_add_that_is_no_gemm() -> onnx.ModelProto:
    nodes = [n("MatMul", "x w", "a"), n("Add", "a t", "y"), n("MatMul", "z w", "b"), n("Add", "b grow", "q")]
    outs = "y:float[2,3,5] q:float[2,3,5]"
    consts = {"w": rand(4, 5), "t": rand(5, seed=1), "grow": rand(2, 1, 5, seed=2)}
    return model(nodes, "x:float[2,3,4] z:float[3,4]", outs, consts)


@case(
    "meaning/gemm",
    "MatMul+Add into Gemm: integers, and a bias that turns one row into many",
    evaluator="ort-off",
    tol=TOL,
)
def matmul_add_with_bias_of_more_rows() -> onnx.ModelProto:
    nodes = [n("MatMul", "x w", "a"), n("Add", "a t", "y"), n("MatMul", "i j", "b"), n("Add", "b k", "q")]
    consts = {"w": rand(4, 5), "t": rand(3, 5), "j": np.ones((2, 2), np.int32), "k": np.ones(2, np.int32)}
    return model(nodes, "x:float[1,4] i:int32[N,2]", "y:float[3,5] q:int32[N,2]", consts)


@case("meaning/gemm", "MatMul + BatchNormalization", checks=[gone("BatchNormalization")], tol=TOL)
def matmul_bn() -> onnx.ModelProto:
    return model([n("MatMul", "x w", "c"), BN], "x:float[N,3]", "y:float[N,4]", {"w": rand(3, 4), **bn(4)})


@case("meaning/gemm", "MatMul + BatchNormalization: channels are axis 1, not the last", tol=TOL)
def matmul_of_rank_3_bn() -> onnx.ModelProto:
    nodes = [n("MatMul", "x w", "c"), BN]
    return model(nodes, "x:float[N,4,3]", "y:float[N,4,4]", {"w": rand(3, 4), **bn(4)})


WIDE = {
    "c": (4,),
    "1c": (1, 4),
    "w1": (4, 1),
    "c11": (4, 1, 1),
    "1c11": (1, 4, 1, 1),
    "n11": (2, 1, 1, 1),
    "rank5": (1, 1, 4, 1, 1),
}
for _op in ("Add", "Mul", "Sub", "Div"):
    for _title, _shape in WIDE.items():
        if _op in {"Sub", "Div"} and _title not in {"c", "c11", "1c11"}:
            continue

        @case(
            "meaning/broadcast", WIDTH, name=f"conv_{_op.lower()}_{_title}", feeds=lambda: images(2, 3, 6, 6), tol=TOL
        )
        def _conv_affine(op: str = _op, shape: tuple[int, ...] = _shape) -> onnx.ModelProto:
            nodes = [n("Conv", "x w cb", "c"), n(op, "c k", "y")]
            consts = {"w": rand(4, 3, 3, 3), "cb": rand(4, seed=1), "k": rand(*shape, seed=2, low=0.5, high=2.0)}
            return model(nodes, "x:float[2,3,6,6]", f"y:float[{'1,' * (len(shape) - 4)}2,4,4,4]", consts)


@case("meaning/broadcast", WIDTH, feeds=lambda: images(2, 3, 6, 6), tol=TOL)
def constant_minus_conv_and_constant_over_conv() -> onnx.ModelProto:
    nodes = [n("Conv", "x w", "c"), n("Sub", "k c", "a"), n("Conv", "x w", "d"), n("Div", "k d", "y")]
    consts = {"w": rand(4, 3, 3, 3), "k": rand(4, 1, 1, seed=2)}
    return model(nodes, "x:float[N,3,6,6]", "a:float[N,4,?,?] y:float[N,4,?,?]", consts)


@case("meaning/broadcast", "An 'identity' that broadcasts its other operand", feeds=lambda: images(2, 3, 6, 6), tol=TOL)
def one_channel_conv_times_a_vector() -> onnx.ModelProto:
    """The product has four channels, the convolution one."""
    nodes = [n("Conv", "x w", "c"), n("Mul", "c k", "m"), n("Add", "m t", "y")]
    consts = {"w": rand(1, 3, 3, 3), "k": rand(4, 1, 1, seed=2), "t": rand(4, 1, 1, seed=3)}
    return model(nodes, "x:float[N,3,6,6]", "y:float[N,4,?,?]", consts)


@case("meaning/broadcast", "An 'identity' that broadcasts its other operand", feeds=lambda: images(2, 3, 3, 3), tol=TOL)
def pointwise_conv_times_an_image() -> onnx.ModelProto:
    nodes = [n("Conv", "x w", "c"), n("GlobalAveragePool", "c", "p"), n("Add", "p t", "y")]
    return model(nodes, "x:float[N,3,3,3]", "y:float[N,4,5,5]", {"w": rand(4, 3, 1, 1), "t": rand(4, 5, 5, seed=3)})


@case("meaning/broadcast", "per-channel constants before a Conv", feeds=lambda: images(2, 3, 6, 6), tol=TOL)
def scale_and_shift_before_conv() -> onnx.ModelProto:
    """Input normalization; by width (shape [6]) it cannot go into the weights."""
    nodes = [
        n("Div", "x k", "a"), n("Sub", "a t", "b"), n("Conv", "b w", "y"),
        n("Mul", "x row", "c"), n("Conv", "c w", "z", pads=[1, 1, 1, 1]),
    ]  # fmt: skip
    consts = {"w": rand(4, 3, 3, 3), "k": np.float32(255), "t": rand(3, 1, 1, seed=3), "row": rand(6, seed=4)}
    return model(nodes, "x:float[N,3,6,6]", "y:float[N,4,?,?] z:float[N,4,?,?]", consts)


@case("meaning/broadcast", "BN written out as Sub, Mul, Div, Add", feeds=lambda: images(2, 3, 6, 6), tol=TOL)
def conv_with_bn_written_out() -> onnx.ModelProto:
    nodes = [
        n("Conv", "x w", "c"), n("Sub", "c mu", "d"), n("Div", "d sd", "e"), n("Mul", "g e", "f"),
        n("Add", "f b", "y"),
    ]  # fmt: skip
    consts = {k: rand(4, 1, 1, seed=i, low=0.5, high=2.0) for i, k in enumerate(("mu", "sd", "g", "b"))}
    return model(nodes, "x:float[N,3,6,6]", "y:float[N,4,?,?]", {"w": rand(4, 3, 3, 3), **consts})


@case(
    "meaning/broadcast",
    "rounding once in float64",
    feeds=lambda: [{"x": rand(2, 3, 6, 6).astype(np.float16)}],
    tol=4e-3,
)
def conv_bn_in_float16() -> onnx.ModelProto:
    """A product of scale and weight near the largest float16."""
    consts = {k: v.astype(np.float16) for k, v in {"w": rand(4, 3, 3, 3) * 8, **bn(4)}.items()}
    return model([n("Conv", "x w", "c"), BN], "x:float16[N,3,6,6]", "y:float16[N,4,?,?]", consts)


@case(
    "meaning/broadcast",
    "float16 overflow to inf",
    feeds=lambda: [{"x": (rand(2, 3, 6, 6) * 1e-3).astype(np.float16)}],
    tol=8e-3,
)
def folding_into_float16_would_overflow() -> onnx.ModelProto:
    """The two factors fit float16 one after the other; their product (about 1e6) does not."""
    nodes = [n("Conv", "x w", "c"), n("Mul", "c k", "y")]
    consts = {"w": (rand(4, 3, 3, 3) * 1000).astype(np.float16), "k": np.full((4, 1, 1), 1000, np.float16)}
    return model(nodes, "x:float16[N,3,6,6]", "y:float16[N,4,?,?]", consts)


@case("meaning/broadcast", "double weights", feeds=lambda: [{"x": rand(2, 3).astype(np.float64)}], tol=1e-14)
def gemm_mul_in_double() -> onnx.ModelProto:
    nodes = [n("Gemm", "x w", "c"), n("Mul", "c k", "y")]
    consts = {"w": rand(3, 4).astype(np.float64) / 3, "k": rand(4, seed=1).astype(np.float64) / 7}
    return model(nodes, "x:double[N,3]", "y:double[N,4]", consts)


@case(
    "meaning/broadcast", "initializers in typed fields instead of raw_data", feeds=lambda: images(2, 3, 6, 6), tol=TOL
)
def conv_bn_with_weights_in_float_data() -> onnx.ModelProto:
    consts: dict[str, onnx.TensorProto] = {}
    for key, value in {"w": rand(4, 3, 3, 3), **bn(4)}.items():
        tensor = init(key, value)
        tensor.ClearField("raw_data")
        tensor.float_data.extend(value.ravel().tolist())
        consts[key] = tensor
    return model([n("Conv", "x w", "c"), BN], "x:float[N,3,6,6]", "y:float[N,4,?,?]", consts)
