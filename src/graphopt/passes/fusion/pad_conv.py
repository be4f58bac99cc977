"""conv(pad(x, p), W, b; q)   ==   conv(x, W, b; p + q):   what Conv pads with is zero.

Exact. Guards: mode constant with the value 0 (or none given), pads and axes constant; no negative pads, and none over
the batch or the channels; Conv with explicit pads or VALID (SAME computes pads from the size that Pad makes); the
padded value read by nothing else.
"""

from __future__ import annotations

from graphopt.passes.fusion._pad import spatial_pads
from graphopt.rewrite import Builder, Match, P, Refusal, refuse, rest, rule
from graphopt.rewrite.rule import Outcome


@rule("fuse-pad-conv", P.Conv(P.Pad("x", rest("parameters")).as_("pad"), "w", rest("b")).as_("conv"), opset=">=7")
def fuse_pad_conv(m: Match, new: Builder) -> Outcome:
    shape = m.w.shape
    if shape is None:
        return refuse("the rank of the weights is not known")
    if m.w is m.pad.output:
        return refuse("the Pad's result is the weight, too, which ONNX Runtime would take for the padded input")
    pads = spatial_pads(m.pad, len(shape), 0.0)
    if isinstance(pads, Refusal):
        return pads
    if m.conv.attr("auto_pad") not in ("NOTSET", "VALID"):
        return refuse("auto_pad computes pads from the padded size")
    own = m.conv.attr("pads") or () if m.conv.attr("auto_pad") == "NOTSET" else ()
    total = [a + b for a, b in zip(pads, own or [0] * len(pads), strict=True)]
    return new.Conv(m.x, m.w, *m.b, like=m.conv, pads=total, auto_pad=None)
