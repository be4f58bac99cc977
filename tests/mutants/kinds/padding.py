"""Pads merged into the Conv or pool that follows."""

from __future__ import annotations

from typing import Any

import numpy as np

from graphopt import refuse, rule
from graphopt.rewrite import P, const, maybe

from ..mutant import broken, witness

PAD = P.Pad("x", const("pads"), maybe(const("value"))).as_("pad")
IMAGE = np.arange(9, dtype=np.float32).reshape(1, 1, 3, 3)
AROUND = [0, 0, 1, 1, 0, 0, 1, 1]
MODEL = "g (float[N,1,3,3] x) => (float[A,B,C,D] y) { p = Pad(x, pads%s)  y = %s }"


def spatial(m: Any, node: Any, *, batch: bool = False) -> Any:
    """The pads of a Pad and of the node that reads it together; None where that node has no such form."""
    pads = m.pads.numpy()
    half = len(pads) // 2
    if m.pad.attr("mode") != b"constant" and m.pad.attr("mode") != "constant":
        return None
    if len(m.pad.inputs) > 3 or node.attr("auto_pad") not in ("NOTSET", b"NOTSET", None) or (pads < 0).any():
        return None
    if not batch and (pads[[0, 1, half, half + 1]] != 0).any():
        return None
    more = np.concatenate([pads[2:half], pads[half + 2 :]])
    return [int(a + b) for a, b in zip(node.attr("pads") or [0] * len(more), more, strict=True)]


def value(m: Any) -> float:
    return float(m.value.numpy().item()) if m.value is not None else 0.0


def fits(pads: Any, node: Any) -> bool:
    """A pool's window must not lie in the pads alone."""
    return all(pad < size for pad, size in zip(pads, [*node.attr("kernel_shape")] * 2, strict=True))


@broken(
    "a Pad of zeros is merged into a MaxPool, which pads with minus infinity",
    witness(MODEL % ("", "MaxPool<kernel_shape=[2,2]>(p)"), {"x": IMAGE - 10}, pads=AROUND),
)
@rule("zeros-into-max-pool", P.MaxPool(PAD).as_("pool"), opset=">=11")
def zeros_into_max_pool(m: Any, new: Any) -> Any:
    pads = spatial(m, m.pool)
    if pads is None or value(m) != 0 or not fits(pads, m.pool):
        return refuse("no spatial pads of zero")
    return new.MaxPool(m.x, like=m.pool, pads=pads)


@broken(
    "a Pad is merged into an AveragePool that does not count its pads",
    witness(MODEL % ("", "AveragePool<kernel_shape=[2,2]>(p)"), {"x": IMAGE + 1}, pads=AROUND),
)
@rule("zeros-into-average-pool", P.AveragePool(PAD).as_("pool"), opset=">=11")
def zeros_into_average_pool(m: Any, new: Any) -> Any:
    pads = spatial(m, m.pool)
    if pads is None or value(m) != 0 or not fits(pads, m.pool) or m.pool.attr("ceil_mode"):
        return refuse("no spatial pads of zero")
    return new.AveragePool(m.x, like=m.pool, pads=pads)


CONV = P.Conv(PAD, const("w"), maybe(const("b"))).as_("conv")


@broken(
    "a Pad is merged into a Conv whatever it pads with",
    witness(MODEL % (", one", "Conv(p, w)"), {"x": IMAGE}, pads=AROUND, one=1.0, w=np.ones((1, 1, 2, 2), np.float32)),
)
@rule("any-pad-into-conv", CONV, opset=">=11")
def any_pad_into_conv(m: Any, new: Any) -> Any:
    pads = spatial(m, m.conv)
    return refuse("no spatial pads") if pads is None else new.Conv(m.x, m.w, m.b, like=m.conv, pads=pads)


@broken(
    "what a Pad adds to the batch is lost when it is merged into a Conv",
    witness(
        MODEL % ("", "Conv(p, w)"), {"x": IMAGE},
        pads=[1, 0, 0, 0, 0, 0, 0, 0], w=np.ones((1, 1, 2, 2), np.float32),
    ),
)  # fmt: skip
@rule("batch-pad-into-conv", CONV, opset=">=11")
def batch_pad_into_conv(m: Any, new: Any) -> Any:
    pads = spatial(m, m.conv, batch=True)
    if pads is None or value(m) != 0:
        return refuse("no pads of zero")
    return new.Conv(m.x, m.w, m.b, like=m.conv, pads=pads)


@broken(
    "two Pads are merged although they pad with different numbers",
    witness(
        "g (float[3] x) => (float[M] y) { p = Pad(x, pads, one)  y = Pad(p, pads) }",
        {"x": [1.0, 2.0, 3.0]}, pads=[1, 1], one=1.0,
    ),
)  # fmt: skip
@rule("pads-of-different-numbers", P.Pad(PAD, const("more"), maybe(const("other"))).as_("outer"), opset=">=11")
def pads_of_different_numbers(m: Any, new: Any) -> Any:
    if {m.pad.attr("mode"), m.outer.attr("mode")} - {"constant", b"constant"}:
        return refuse("not constant")
    if len(m.pad.inputs) > 3 or len(m.outer.inputs) > 3 or m.pads.shape != m.more.shape:
        return refuse("only some axes")
    if min(m.pads.numpy().min(initial=0), m.more.numpy().min(initial=0)) < 0:
        return refuse("negative pads")
    return new.Pad(m.x, new.constant(m.pads.numpy() + m.more.numpy(), like=m.pads), m.value, like=m.outer)
