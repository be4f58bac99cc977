"""One step from ORT's own wrong results: ORT gets the original right, and would not get it right once a no-op is gone.

The steps are rewrites that are sound by ONNX: removing a no-op between two operators, dropping an output that nobody
reads, writing an attribute or an input in its usual form.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx

from traps.case import Feeds, case
from traps.cases.padding import RING, negatives
from traps.make import model, n, rand

STEP = "what we emit must not trigger ORT's own wrong results: a no-op kept this model from one"
TOL = 1e-4

NOOPS: dict[str, list[onnx.NodeProto]] = {
    "reshape": [n("Reshape", "a same", "b")],
    "max_of_one": [n("Max", "a", "b")],
    "sum_of_one": [n("Sum", "a", "b")],
    "transposes": [n("Transpose", "a", "a1"), n("Transpose", "a1", "b")],
    "squeezed": [n("Unsqueeze", "a zero", "a1"), n("Squeeze", "a1 zero", "b")],
    "slice": [n("Slice", "a zero all", "b")],
    "expand": [n("Expand", "a one", "b")],
    "concat_of_one": [n("Concat", "a", "b", axis=0)],
    "times_one": [n("Mul", "a unit", "b")],
    "negations": [n("Neg", "a", "a1"), n("Neg", "a1", "b")],
}


def around(
    noop: str,
    before: list[onnx.NodeProto],
    after: list[onnx.NodeProto],
    ends: tuple[str, str],
    consts: dict[str, Any],
    **kwargs: Any,
) -> onnx.ModelProto:
    """`before` makes `a`, the no-op makes `b` of it, `after` reads `b`."""
    nodes = [*before, *NOOPS[noop], *after]
    more = {"same": [0] * kwargs.pop("rank"), "zero": [0], "all": [2**62], "one": [1], "unit": 1.0, **consts}
    read = {name for node in nodes for name in node.input}
    return model(nodes, *ends, {k: v for k, v in more.items() if k in read}, **kwargs)


def rows() -> list[Feeds]:
    return [{"x": rand(4, 64, seed=s, low=-2.0, high=2.0)} for s in (0, 1)]


def tokens() -> list[Feeds]:
    return [{"x": rand(2, 5, 32, seed=s), "s": rand(2, 5, 32, seed=s + 5)} for s in (0, 1)]


for _noop in NOOPS:

    @case("ort/one-step", STEP, name=f"pad_{_noop}_maxpool", feeds=negatives, signs=False)
    def _pad(noop: str = _noop) -> onnx.ModelProto:
        pool = n("MaxPool", "b", "y", kernel_shape=[2, 2])
        ends = "x:float[N,3,6,6]", "y:float[?,?,?,?]"
        return around(noop, [n("Pad", "x pads", "a")], [pool], ends, {"pads": RING}, rank=4)

    @case("ort/one-step", STEP, name=f"dequantize_{_noop}_matmul", feeds=rows, tol=TOL)
    def _dequantize(noop: str = _noop) -> onnx.ModelProto:
        weight = np.random.default_rng(1).integers(-128, 128, (64, 32)).astype(np.int8)
        ends = "x:float[M,64]", "y:float[M,32]"
        before, after = [n("DequantizeLinear", "q s", "a")], [n("MatMul", "x b", "y")]
        return around(noop, before, after, ends, {"q": weight, "s": np.float32(0.02)}, rank=2)

    @case("ort/one-step", STEP, name=f"add_{_noop}_layernorm_scale_of_one", feeds=tokens, tol=TOL, ort=(1, 31))
    def _layernorm(noop: str = _noop) -> onnx.ModelProto:
        ends = "x:float[2,5,32] s:float[2,5,32]", "y:float[2,5,32]"
        after = [n("LayerNormalization", "b g", "y")]
        return around(noop, [n("Add", "x s", "a")], after, ends, {"g": [1.5]}, rank=3)

    @case("ort/one-step", STEP, name=f"qdq_{_noop}_qdq", feeds=rows, tol=TOL)
    def _qdq(noop: str = _noop) -> onnx.ModelProto:
        before = [n("QuantizeLinear", "x s z", "q"), n("DequantizeLinear", "q s z", "a")]
        after = [n("QuantizeLinear", "b t z", "r"), n("DequantizeLinear", "r t z", "y")]
        consts = {"s": 0.05, "t": 0.01, "z": np.array(128, np.uint8)}
        return around(noop, before, after, ("x:float[M,64]", "y:float[M,64]"), consts, rank=2)


@case("ort/one-step", STEP + ": an output that nobody reads", feeds=negatives, signs=False)
def pad_maxpool_with_unread_indices() -> onnx.ModelProto:
    nodes = [n("Pad", "x pads", "p"), n("MaxPool", "p", "y i", kernel_shape=[2, 2])]
    return model(nodes, "x:float[N,3,6,6]", "y:float[?,?,?,?]", {"pads": RING})


@case("ort/one-step", STEP + ": auto_pad=VALID is pads of zero", feeds=negatives, signs=False)
def pad_maxpool_with_auto_pad() -> onnx.ModelProto:
    nodes = [n("Pad", "x pads", "p"), n("MaxPool", "p", "y", kernel_shape=[2, 2], auto_pad="VALID")]
    return model(nodes, "x:float[N,3,6,6]", "y:float[?,?,?,?]", {"pads": RING})


@case("ort/one-step", STEP + ": axes that name them all", feeds=negatives, signs=False)
def pad_maxpool_with_all_axes() -> onnx.ModelProto:
    nodes = [n("Pad", "x pads - axes", "p"), n("MaxPool", "p", "y", kernel_shape=[2, 2])]
    consts = {"pads": RING, "axes": [0, 1, 2, 3]}
    return model(nodes, "x:float[N,3,6,6]", "y:float[?,?,?,?]", consts, opset=18)


@case("ort/one-step", STEP + ": a value of -0.0", feeds=negatives)
def pad_maxpool_with_negative_zero() -> onnx.ModelProto:
    nodes = [n("Pad", "x pads fill", "p"), n("MaxPool", "p", "y", kernel_shape=[2, 2])]
    consts = {"pads": RING, "fill": np.float32(-0.0)}
    return model(nodes, "x:float[N,3,6,6]", "y:float[?,?,?,?]", consts)


@case("ort/one-step", STEP + ": two Pads that would make one", feeds=negatives, signs=False)
def two_pads_maxpool() -> onnx.ModelProto:
    """By -1 and 2 on either side: ORT leaves negative pads alone; their sum is positive."""
    nodes = [
        n("Pad", "x cut", "a"),
        n("Pad", "a grow", "p"),
        n("MaxPool", "p", "y", kernel_shape=[2, 2], auto_pad="VALID"),
    ]
    consts = {"cut": [0, 0, -1, -1, 0, 0, -1, -1], "grow": [0, 0, 2, 2, 0, 0, 2, 2]}
    return model(nodes, "x:float[N,3,6,6]", "y:float[?,?,?,?]", consts)


@case("ort/one-step", STEP + ": another reader of the dequantized weight", feeds=rows, tol=TOL)
def dequantized_weight_read_twice() -> onnx.ModelProto:
    """The second reader is dead, or a copy of the first."""
    weight = np.random.default_rng(1).integers(-128, 128, (64, 32)).astype(np.int8)
    nodes = [
        n("DequantizeLinear", "q s", "w", axis=-1),
        n("MatMul", "x w", "y"),
        n("Exp", "w", "dead"),
        n("MatMul", "x w", "z"),
    ]
    consts = {"q": weight, "s": rand(32, low=0.01, high=0.03)}
    return model(nodes, "x:float[M,64]", "y:float[M,32] z:float[M,32]", consts)
