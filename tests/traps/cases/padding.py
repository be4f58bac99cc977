"""Pad next to MaxPool, AveragePool and Conv, in the forms of opsets 2, 11, 13 and 18."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx

from traps.case import Feeds, case
from traps.make import MISSING, model, n, rand

MAXPOOL = "Pad (default constant 0) fused into MaxPool"
AVERAGE = "Pad fused into AveragePool that has pads or `count_include_pad`"
FORMS = "opset 2/11/13/18 forms of Pad"
BORDERS = "negative pads; pads over batch or channel axes"
RING = [0, 0, 1, 1, 0, 0, 1, 1]
TOL = 1e-5


def negatives() -> list[Feeds]:
    """Images with a border of negative numbers, where a zero wins in a maximum; one is all negative."""
    return [{"x": rand(2, 3, 6, 6, low=-2.0, high=1.0)}, {"x": rand(2, 3, 6, 6, seed=1, low=-2.0, high=-1.0)}]


def padded(
    op: str,
    pads: list[int],
    *,
    opset: int = 17,
    value: float | None = None,
    axes: list[int] | None = None,
    mode: str = "constant",
    pads_from: str = "constant",
    pool_pads: list[int] | None = None,
    **attrs: Any,
) -> onnx.ModelProto:
    """Pad, then `op` (a pool of 2x2, or a 3x3 Conv)."""
    consts: dict[str, Any] = {}
    if pool_pads is not None:
        attrs["pads"] = pool_pads
    if opset < 11:
        pad = n("Pad", "x", "p", pads=pads, mode=mode, value=value or 0.0)
    else:
        consts["pads"] = np.array(pads)
        slots = ["x", "pads", MISSING, MISSING]
        if value is not None:
            consts["fill"], slots[2] = np.float32(value), "fill"
        if axes is not None:
            consts["axes"], slots[3] = np.array(axes), "axes"
        while slots[-1] == MISSING:
            slots.pop()
        pad = n("Pad", " ".join(slots), "p", mode=mode)
    if op == "Conv":
        consts["w"] = rand(4, 3, 3, 3, seed=3)
        node = n("Conv", "p w", "y", **attrs)
    else:
        node = n(op, "p", "y", **{"kernel_shape": [2, 2], **attrs})
    nodes, ins = [pad, node], "x:float[N,3,6,6]"
    if pads_from == "input":
        del consts["pads"]
        ins += " pads:int64[8]"
    if pads_from == "computed":
        consts["half"] = np.array(pads)[:4]
        del consts["pads"]
        nodes = [n("Concat", "half half", "pads", axis=0), *nodes]
    return model(nodes, ins, "y:float[?,?,?,?]", consts, opset=opset, ir=4 if opset < 11 else 8)


def pad_case(name: str, group: str, why: str, *, hazard: bool = False, feeds: Any = negatives, **spec: Any) -> None:
    tol = 0.0 if spec["op"] == "MaxPool" else TOL
    case(group, why, name=name, feeds=feeds, tol=tol, hazard=hazard, signs=False)(lambda: padded(**spec))


for _opset in (2, 10, 11, 13, 18, 21):
    pad_case(f"pad_maxpool_opset_{_opset}", "ort/pad-pool", MAXPOOL, op="MaxPool", pads=RING, opset=_opset, hazard=True)
    pad_case(f"pad_conv_opset_{_opset}", "meaning/pad", FORMS, op="Conv", pads=RING, opset=_opset)
    if _opset > 2:
        pad_case(f"pad_average_opset_{_opset}", "meaning/pad", FORMS, op="AveragePool", pads=RING, opset=_opset)

pad_case("pad_maxpool_explicit_zero", "ort/pad-pool", MAXPOOL, op="MaxPool", pads=RING, value=0.0, hazard=True)
pad_case("pad_maxpool_one_side", "ort/pad-pool", MAXPOOL, op="MaxPool", pads=[0, 0, 0, 1, 0, 0, 0, 0], hazard=True)
pad_case(
    "pad_maxpool_with_pads",
    "ort/pad-pool",
    MAXPOOL + ": a pool with pads of its own, which are -inf",
    op="MaxPool",
    pads=RING,
    kernel_shape=[3, 3],
    pool_pads=[1, 1, 1, 1],
    hazard=True,
)
pad_case(
    "pad_maxpool_strided_ceil", "ort/pad-pool", MAXPOOL, op="MaxPool", pads=[0, 0, 0, 0, 0, 0, 1, 1], strides=[2, 2],
    ceil_mode=1, hazard=True,
)  # fmt: skip
CRASH = "ORT merges a Pad as wide as the window into the pool, whose constructor then refuses it"
pad_case("pad_maxpool_wide", "ort/pad-pool", CRASH, op="MaxPool", pads=[0, 0, 2, 2, 0, 0, 2, 2], hazard=True)
pad_case("pad_average_wide", "ort/pad-pool", CRASH, op="AveragePool", pads=[0, 0, 2, 2, 0, 0, 2, 2], hazard=True)
CEIL = "ORT merges Pad into a pool with ceil_mode: the last window then starts in the padding and is dropped"
pad_case(
    "pad_average_strided_ceil", "ort/pad-pool", CEIL, op="AveragePool", pads=[0, 0, 0, 0, 0, 0, 1, 1], strides=[2, 2],
    ceil_mode=1, hazard=True,
)  # fmt: skip
pad_case(
    "pad_maxpool_computed_pads", "ort/pad-pool", MAXPOOL, op="MaxPool", pads=RING, pads_from="computed", hazard=True
)
pad_case(
    "pad_maxpool_lowest",
    "meaning/pad",
    MAXPOOL + ": -3.4e38 is what MaxPool pads with, nearly",
    op="MaxPool",
    pads=RING,
    value=-3.4028235e38,
)
pad_case(
    "pad_maxpool_minus_inf",
    "meaning/pad",
    MAXPOOL + ": -inf is what MaxPool pads with",
    op="MaxPool",
    pads=RING,
    value=-np.inf,
)
pad_case("pad_maxpool_negative_value", "meaning/pad", MAXPOOL, op="MaxPool", pads=RING, value=-1.5)
pad_case("pad_maxpool_axes", "meaning/pad", FORMS, op="MaxPool", pads=[1, 1, 1, 1], axes=[2, 3], opset=18)
pad_case("pad_maxpool_negative_axes", "meaning/pad", FORMS, op="MaxPool", pads=[1, 0, 0, 1], axes=[-1, -2], opset=18)
pad_case("pad_conv_axes", "meaning/pad", FORMS, op="Conv", pads=[1, 2, 0, 3], axes=[3, 2], opset=18)
pad_case("pad_conv_negative_axes", "meaning/pad", FORMS, op="Conv", pads=[2, 1], axes=[-1], opset=18)
pad_case("pad_average_axes", "meaning/pad", FORMS, op="AveragePool", pads=[1, 0, 2, 1], axes=[2, 3], opset=19)

AVERAGES: dict[str, dict[str, Any]] = {
    "pads": {"kernel_shape": [4, 4], "pads": [1, 1, 1, 1]},
    "include_pad": {"count_include_pad": 1},
    "include_pad_and_pads": {"kernel_shape": [4, 4], "count_include_pad": 1, "pads": [1, 1, 1, 1]},
    "ceil": {"ceil_mode": 1, "strides": [2, 2], "kernel_shape": [3, 3]},
    "ceil_include_pad": {"ceil_mode": 1, "strides": [2, 2], "kernel_shape": [3, 3], "count_include_pad": 1},
}


def average(attrs: dict[str, Any]) -> onnx.ModelProto:
    nodes = [n("Pad", "x pads", "p"), n("AveragePool", "p", "y", **{"kernel_shape": [2, 2], **attrs})]
    return model(nodes, "x:float[N,3,6,6]", "y:float[?,?,?,?]", {"pads": RING}, opset=19)


for _title, _spec in AVERAGES.items():
    case("meaning/pad", AVERAGE, name=f"pad_average_{_title}", feeds=negatives, tol=TOL)(
        lambda spec=_spec: average(spec)
    )

for _op in ("MaxPool", "AveragePool", "Conv"):
    _low = _op.lower()
    pad_case(f"negative_pad_{_low}", "meaning/pad", BORDERS, op=_op, pads=[0, 0, -1, 0, 0, 0, 0, -2])
    pad_case(f"mixed_sign_pad_{_low}", "meaning/pad", BORDERS, op=_op, pads=[0, 0, -1, 2, 0, 0, 1, 0])
    pad_case(f"batch_pad_{_low}", "meaning/pad", BORDERS, op=_op, pads=[1, 0, 1, 1, 0, 0, 1, 1])
    pad_case(f"one_pad_{_low}", "meaning/pad", "a pad value that is not zero", op=_op, pads=RING, value=1.0)
    for _mode in ("reflect", "edge"):
        pad_case(f"{_mode}_pad_{_low}", "meaning/pad", "a mode that is not constant", op=_op, pads=RING, mode=_mode)
    pad_case(
        f"pads_as_input_{_low}",
        "meaning/pad",
        "pads known at run time only",
        op=_op,
        pads=RING,
        pads_from="input",
        feeds=lambda: [{**f, "pads": np.array(p)} for f, p in zip(negatives(), (RING, [0] * 8), strict=True)],
    )


@case("meaning/pad", BORDERS, feeds=negatives, tol=TOL)
def channel_pad_conv() -> onnx.ModelProto:
    nodes = [n("Pad", "x pads", "p"), n("Conv", "p w", "y", pads=[1, 0, 0, 1])]
    consts = {"pads": [0, 1, 0, 0, 0, 2, 0, 0], "w": rand(4, 6, 3, 3)}
    return model(nodes, "x:float[N,3,6,6]", "y:float[?,?,?,?]", consts)


@case("meaning/pad", "Pad into a Conv that pads by itself", feeds=negatives, tol=TOL)
def pad_conv_with_pads_and_auto_pad() -> onnx.ModelProto:
    nodes = [
        n("Pad", "x pads", "p"),
        n("Conv", "p w", "a", pads=[1, 0, 2, 1]),
        n("Conv", "p w", "b", auto_pad="SAME_LOWER", strides=[2, 2]),
        n("Conv", "p w", "c", auto_pad="VALID"),
    ]
    outs = "a:float[N,4,?,?] b:float[N,4,?,?] c:float[N,4,?,?]"
    return model(nodes, "x:float[N,3,6,6]", outs, {"pads": [0, 0, 1, 0, 0, 0, 2, 1], "w": rand(4, 3, 3, 3)})


@case("meaning/pad", MAXPOOL + ": after a Relu the zero changes nothing", feeds=negatives)
def relu_pad_maxpool() -> onnx.ModelProto:
    nodes = [n("Relu", "x", "r"), n("Pad", "r pads", "p"), n("MaxPool", "p", "y", kernel_shape=[2, 2])]
    return model(nodes, "x:float[N,3,6,6]", "y:float[?,?,?,?]", {"pads": RING})


@case("meaning/pad", "Pad as an output as well", feeds=negatives, tol=TOL)
def pad_that_is_an_output() -> onnx.ModelProto:
    nodes = [n("Pad", "x pads", "p"), n("Conv", "p w", "y")]
    return model(nodes, "x:float[N,3,6,6]", "y:float[?,?,?,?] p:float[?,?,?,?]", {"pads": RING, "w": rand(4, 3, 3, 3)})


@case("meaning/pad", "Pad before an integer Conv: the padding value is the zero point, not 0", tol=0.0)
def pad_conv_integer() -> onnx.ModelProto:
    nodes = [n("Pad", "x pads", "p"), n("ConvInteger", "p w xz", "y")]
    consts = {"pads": RING, "w": np.arange(27, dtype=np.uint8).reshape(1, 3, 3, 3), "xz": np.array(3, np.uint8)}
    return model(nodes, "x:uint8[N,3,4,4]", "y:int32[N,1,?,?]", consts)


@case("meaning/pad", "MaxPool with Indices: they count in the padded image", feeds=negatives)
def pad_maxpool_with_indices() -> onnx.ModelProto:
    nodes = [n("Pad", "x pads", "p"), n("MaxPool", "p", "y i", kernel_shape=[2, 2])]
    return model(nodes, "x:float[N,3,6,6]", "y:float[?,?,?,?] i:int64[?,?,?,?]", {"pads": RING})


@case("meaning/pad", "identity-like operators: Pad by nothing", feeds=negatives, tol=TOL)
def pad_by_nothing_in_every_mode() -> onnx.ModelProto:
    nodes = [n("Pad", "x none", "a"), n("Pad", "a none", "b", mode="reflect"), n("Conv", "b w", "y")]
    return model(nodes, "x:float[N,3,6,6]", "y:float[?,?,?,?]", {"none": [0] * 8, "w": rand(4, 3, 3, 3)})


@case("meaning/pad", "Pad before a LpPool, a GlobalMaxPool and a ConvTranspose", feeds=negatives, tol=TOL)
def pad_before_operators_of_another_kind() -> onnx.ModelProto:
    nodes = [
        n("Pad", "x pads", "p"), n("GlobalMaxPool", "p", "a"), n("ConvTranspose", "p w", "b"),
        n("GlobalAveragePool", "p", "c"), n("LpPool", "p", "d", kernel_shape=[2, 2]),
    ]  # fmt: skip
    outs = "a:float[N,3,1,1] b:float[N,2,?,?] c:float[N,3,1,1] d:float[N,3,?,?]"
    return model(nodes, "x:float[N,3,6,6]", outs, {"pads": RING, "w": rand(3, 2, 2, 2)})


@case("meaning/pad", "Pad on a rank that the window does not have", tol=TOL)
def pad_conv_1d_and_3d() -> onnx.ModelProto:
    nodes = [
        n("Pad", "x p1", "a"),
        n("Conv", "a w1", "y"),
        n("Pad", "v p3", "b"),
        n("MaxPool", "b", "z", kernel_shape=[2, 2, 2], auto_pad="VALID"),
    ]
    consts = {"p1": [0, 0, 2, 0, 0, 1], "w1": rand(4, 3, 3), "p3": [0, 0, 1, 0, 0, 0, 0, 0, 0, 1]}
    return model(nodes, "x:float[N,3,8] v:float[1,2,3,3,3]", "y:float[N,4,?] z:float[1,2,?,?,?]", consts)
