"""conv(concat(resize(a), c...), [V W], b)   ==   resize(conv(a, V)) + conv(concat(c...), W, b),   for a kernel of 1.

The weights of the enlarged channels are applied before they are enlarged (see resize_conv.py), those of the others as
before; what then remains of several resized parts goes the same way. Exact in real arithmetic. ORT 1.31, one thread:
2 c channels enlarged by 2 beside c others, to c, at 40 x 40: 1.3 times as fast for c = 4 to 64, 2.4 for 128.

Guards: those of collapse-resize-conv; the parts' channels are known and add up to those of the weights, which have no
groups; no more channels than the enlarged part has, or the multiplications saved are worth more than an Add and a
Resize of further channels; weights, concatenation and enlarged part read by nothing else.
"""

from __future__ import annotations

import numpy as np

from graphopt.ir import Node, Value
from graphopt.passes.collapse import _linear
from graphopt.passes.collapse._resize import growth, remade
from graphopt.passes.collapse._through import objection
from graphopt.passes.collapse.resize_conv import ELEMENT
from graphopt.passes.fusion import _conv
from graphopt.passes.fusion._affine import Affine
from graphopt.rewrite import Builder, Match, P, const, maybe, refuse, rest, rule
from graphopt.rewrite.rule import Outcome

RESIZE = P.op("Resize", "Upsample")("x", rest("operands"))
W = (const("w"), maybe("b"))


@rule(
    "collapse-concat-conv",
    P.Conv(P.Concat(RESIZE, rest("others")).as_("concat"), *W).as_("conv"),
    P.Conv(P.Concat("first", RESIZE, rest("others")).as_("concat"), *W).as_("conv"),
    P.Conv(P.Concat("first", "second", rest("others")).as_("concat"), *W).as_("conv"),
    opset=">=7",
    measure="flops",
)
def collapse_concat_conv(m: Match, new: Builder) -> Outcome:
    parts = list(m.concat.inputs)
    chosen = [i for i, part in enumerate(parts) if _is_enlarged(part)]
    if not chosen or len(parts) < 2 or None in parts:
        return None
    reason = _conv.why_not(m.conv, m.w) or _linear.why_not(m.w) or _why_not(m.conv, m.w.numpy().shape)
    if reason:
        return refuse(reason)
    rank = m.w.numpy().ndim
    widths = _widths(parts, rank, int(m.concat.attr("axis")), m.w.numpy().shape[1])
    if widths is None:
        return refuse("the parts' channels are not proven to be those of the weights")
    for index in chosen:
        resize = parts[index].producer
        factor = growth(resize, rank)
        if factor > 1 and not objection(resize, Affine(), None) and _pays(widths[index], m.w.numpy().shape[0], factor):
            return _split(m, new, index, widths)
    return refuse("no part is proven to be enlarged by interpolation, at a cost that is worth an Add")


def _is_enlarged(part: Value | None) -> bool:
    node = part.producer if part is not None else None
    if part is None or node is None or node.op not in ("Resize", "Upsample") or node.domain:
        return False
    return not part.outs and sum(part.users.values()) == 1 and part not in node.inputs


def _why_not(conv: Node, shape: tuple[int, ...]) -> str:
    if conv.attr("group") != 1:
        return "the convolution has groups"
    if any(size != 1 for size in shape[2:]) or any(step != 1 for step in conv.attr("strides") or ()):
        return "the kernel or a stride is larger than 1"
    padded = conv.attr("auto_pad") == "NOTSET" and any(conv.attr("pads") or ())
    return "the convolution pads" if padded else ""


def _widths(parts: list[Value], rank: int, axis: int, channels: int) -> list[int] | None:
    """Each part's channels, if they add up."""
    shapes = [part.shape for part in parts]
    if axis not in (1, 1 - rank) or any(shape is None or len(shape) != rank for shape in shapes):
        return None
    widths = [shape[1] for shape in shapes if shape is not None and isinstance(shape[1], int) and shape[1] > 0]
    return widths if len(widths) == len(parts) and sum(widths) == channels else None


def _pays(into: int, out: int, factor: float) -> bool:
    return out <= into or into * out * (1 - 1 / factor) > ELEMENT * (out - into + out)


def _split(m: Match, new: Builder, index: int, widths: list[int]) -> Outcome:
    parts = list(m.concat.inputs)
    resize = parts.pop(index).producer
    start = sum(widths[:index])
    inside = slice(start, start + widths[index])
    array = m.w.numpy()
    small = new.Conv(resize.inputs[0], new.constant(np.ascontiguousarray(array[:, inside]), m.w.name), like=m.conv)
    enlarged = remade(resize, small, array.shape[0], new, m.root.output)
    others = parts[0] if len(parts) == 1 else new.Concat(*parts, like=m.concat)
    weight = new.constant(np.delete(array, np.r_[inside], axis=1), m.w.name)
    rest_ = new.Conv(others, weight, m.b, like=m.conv, type_of=m.root.output)
    return new.Add(rest_, enlarged, name=m.conv.label, type_of=m.root.output)
