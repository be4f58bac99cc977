"""average_pool(pad(x, p, 0))   ==   average_pool(x; pads p + q, count_include_pad = 1),
max_pool(pad(x, p, -inf))    ==   max_pool(x; pads p + q):   what the pool leaves out, or counts as zero.

Exact. Guards: for AveragePool, what it pads itself must be counted already (count_include_pad = 1, or no pads); for
MaxPool only -inf of a floating-point dtype will do (it pads with that, not with 0), and no indices. For both: mode
constant, pads and axes constant, none negative and none over batch or channels; explicit pads or VALID; no ceil_mode
(windows that hang over the end count and start differently there); no dilations; pads smaller than the kernel, or the
operator is not valid and whole windows could lie in the padding; for AveragePool from opset 19 on, the same pads
everywhere (ONNX Runtime 1.23 divides by the wrong number otherwise; 1.31 does not); the padded value read by nothing
else.
"""

from __future__ import annotations

import math
from typing import Any

from graphopt.passes.fusion._pad import spatial_pads
from graphopt.rewrite import Builder, Match, P, Refusal, refuse, rest, rule
from graphopt.rewrite.rule import Outcome

POOL = P.op("AveragePool", "MaxPool")(P.Pad("x", rest("parameters")).as_("pad")).as_("pool")


@rule("fuse-pad-pool", POOL, opset=">=7")
def fuse_pad_pool(m: Match, new: Builder) -> Outcome:
    pool, kernel = m.pool, m.pool.attr("kernel_shape")
    average = pool.op == "AveragePool"
    pads = spatial_pads(m.pad, len(kernel) + 2, 0.0 if average else -math.inf)
    if isinstance(pads, Refusal):
        return pads
    if pool.attr("auto_pad") not in ("NOTSET", "VALID"):
        return refuse("auto_pad computes pads from the padded size")
    if pool.attr("ceil_mode", 0):
        return refuse("with ceil_mode, windows that hang over the end are not the same")
    if any(step != 1 for step in pool.attr("dilations", ())):
        return refuse("with dilations, windows may lie in the padding alone")
    own = pool.attr("pads") or () if pool.attr("auto_pad") == "NOTSET" else ()
    if average and any(own) and not pool.attr("count_include_pad", 0):
        return refuse("the pool does not count its own padding, but counts that of the Pad")
    total = [a + b for a, b in zip(pads, own or [0] * len(pads), strict=True)]
    if any(size >= limit for size, limit in zip(total, (*kernel, *kernel), strict=True)):
        return refuse("the pads together are not smaller than the kernel")
    if average and new.graph.opset() >= 19 and len(set(total)) > 1:
        return refuse("from opset 19 on, older releases of ONNX Runtime miscount uneven pads that AveragePool includes")
    counted: dict[str, Any] = {"count_include_pad": 1} if average and any(total) else {}
    return new.make(pool.op, m.x, like=pool, pads=total, auto_pad=None, **counted)
