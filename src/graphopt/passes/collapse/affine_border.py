"""conv(s x + t, W, b)   ==   conv(x, s W, b) + M   where the convolution pads: M[n, p] is the sum of W[n] t over those
taps that read the image and not the padding, at each place p.

What is padded in is zero, not t, so that the shift is no bias at the border: it is a constant image. That pays where
the result has fewer elements than x, and an addition of them takes the place of one over x: strides, and 1x1
convolutions that reduce. Exact in real arithmetic; computed in float64 and rounded once. ORT 1.31, one thread: Add,
Conv3x3 64 -> 64 of stride 2 at 56 x 56 1.09 times as fast, 128 -> 16 1.08, 256 -> 64 at 28 x 28 1.03, 64 -> 64 1.00.

Guards: the map is one Add or Sub of a constant, or a BatchNormalization (what has no shift, or no padding, is left to
fuse-affine-conv and fuse-bn-conv); the image's height and width are known numbers; the result is at most half as large
as x; M is at most 1 MB; explicit pads; a shift above 1e4 (float32) would cancel digits; the constant is no part of a
written-out activation or normalization (see fusion/_keep.py); W and b constant; the value between read by nothing else.
"""

from __future__ import annotations

from math import prod

import numpy as np

from graphopt.ir import NDArray
from graphopt.passes.collapse._front import map_of
from graphopt.passes.fusion import _conv
from graphopt.passes.fusion._affine import Affine, cancels, rounded
from graphopt.passes.simplify._facts import static
from graphopt.rewrite import Builder, Match, P, Refusal, const, maybe, one_of, refuse, rule
from graphopt.rewrite.rule import Outcome

ANY = one_of(
    P.op("Add", "Sub")("x", const("c")).as_("op"),
    P.Sub(const("c"), "x").as_("op"),
    P.BatchNormalization("x", const("g"), const("t"), const("mu"), const("var")).as_("op"),
)
_PART, _LARGEST = 2, 1 << 20  # of x's elements; bytes of M


@rule("collapse-affine-border", P.Conv(ANY, const("w"), maybe(const("b"))).as_("conv"), opset=">=7", measure="flops")
def collapse_affine_border(m: Match, new: Builder) -> Outcome:
    reason = _conv.why_not(m.conv, m.w)
    if reason:
        return refuse(reason)
    affine = map_of(m, m.w.numpy().ndim, _conv.channels_in(m.conv, m.w))
    if isinstance(affine, Refusal):
        return affine
    if affine.shift is None or not (affine.shift != 0).any() or not _conv.is_padded(m.conv, m.w):
        return None
    x, y = static(m.x.shape), static(m.root.output.shape)
    if x is None or y is None or len(x) != m.w.numpy().ndim or len(y) != len(x):
        return refuse("the size of the image is not known, and with it what the shift is at the border")
    if m.conv.attr("auto_pad") != "NOTSET":
        return refuse("auto_pad computes pads from the size")
    if _PART * prod(y[1:]) > prod(x[1:]):
        return refuse("adding a constant image to the result costs as much as the shift does")
    if prod(y[1:]) * m.w.numpy().dtype.itemsize > _LARGEST:
        return refuse("the constant image would make the file much larger")
    if cancels(affine.shift, m.w):
        return refuse("the shift is so large that behind the products it would cancel their digits")
    with np.errstate(all="ignore"):
        image = rounded(_image(m, affine.shift, x[2:], y[2:]), m.w)
    if isinstance(image, Refusal):
        return image
    moved = _conv.before(m, new, Affine(affine.scale, None, affine.worth))
    if moved is None or isinstance(moved, (Refusal, tuple)):
        return moved
    moved.set_type(m.root.output.type)
    return new.Add(moved, new.constant(image, f"{m.conv.label}_border"), name=m.conv.label, type_of=m.root.output)


def _image(m: Match, shift: NDArray, x: tuple[int, ...], y: tuple[int, ...]) -> NDArray:
    """M [1, channels out, ...]: first each tap's sum over channels, then one spatial axis after the other."""
    weight, group = m.w.numpy().astype(np.float64), int(m.conv.attr("group"))
    rank = weight.ndim - 2
    out, into = weight.shape[:2]
    each = np.repeat(np.broadcast_to(shift, (into * group,)).reshape(group, into), out // group, axis=0)
    total = np.einsum("oi...,oi->o...", weight, each)
    steps = zip(
        m.conv.attr("strides") or [1] * rank, m.conv.attr("dilations") or [1] * rank, m.conv.attr("pads"), strict=False
    )
    for axis, (stride, dilation, pad) in enumerate(steps):
        place = np.arange(y[axis])[None, :] * stride + np.arange(weight.shape[2 + axis])[:, None] * dilation - pad
        inside = ((place >= 0) & (place < x[axis])).astype(np.float64)  # [taps, places]
        total = np.moveaxis(np.tensordot(total, inside, axes=([1 + axis], [0])), -1, 1 + axis)
    return total[None]
