"""d / sqrt(mean(d d) + e),  d = x - mean(x)   ==   LayerNormalization(x, 1; e)   over the last axes
LayerNormalization(x, 1) * g   ==   LayerNormalization(x, g)
LayerNormalization(x, g) + b   ==   LayerNormalization(x, g, b)

From opset 17 on. ONNX Runtime (1.31) makes the same of one spelling (Pow, Sqrt, Div, scale and bias); before opset 17
the others are spelled like that. Measured, one thread: 2.0 times (197 x 128), 1.7 (8 x 128); the error is not larger.

Spellings: d * d or Pow(d, 2); a quotient by the root, or a product with Reciprocal or 1 / root; Sqrt, Pow(., 0.5) or
Pow(., -0.5); axes as attribute or input; scale and bias in any shape that fits, or left out.

Guards: float32; both means over the same axes, the last ones, which stay as 1; one number >= 0 as epsilon; the size of
the normalized axes known; scale and bias constant, one number for each element of these axes.
"""

from __future__ import annotations

import numpy as np

from graphopt.passes.recognition._forms import is_float, reduced
from graphopt.passes.recognition._norms import SEEN, epsilon, last_axes, normalized, per_element
from graphopt.passes.simplify._facts import static
from graphopt.rewrite import Builder, Match, P, const, maybe, refuse, rule
from graphopt.rewrite.rule import Outcome

NORMED = normalized(P.Sub("x", P.ReduceMean("x", maybe(const("axes"))).as_("mean")).as_("centred"))
LAYER_NORM = P.LayerNormalization("x", const("g"), maybe(const("b"))).as_("norm")


@rule("recognize-layer-norm", *NORMED, opset=">=17", targets=["onnx", "onnxruntime"])
def recognize_layer_norm(m: Match, new: Builder) -> Outcome:
    """A normalization written out becomes LayerNormalization, with a scale of ones."""
    axis, eps = _axis(m), epsilon(m)
    if axis is None or eps is None:
        return refuse("the means are not over the last axes, or the epsilon is not one number that is not negative")
    if not is_float(m.x):
        return refuse("this is not proven to be float32")
    dims = static(m.x.shape[axis:])
    if dims is None:
        return refuse("the size of the normalized axes is not known")
    ones = new.constant(np.ones(dims, np.float32), "ones")
    return new.LayerNormalization(m.x, ones, axis=axis - m.x.rank, epsilon=eps, type_of=m.x)


@rule("layer-norm-scale", P.Mul(LAYER_NORM, const("c")), opset=">=17")
def layer_norm_scale(m: Match, new: Builder) -> Outcome:
    """A scale behind a LayerNormalization that has none becomes its own."""
    if m.b is not None or not (m.g.numpy() == 1).all():
        return None
    return _absorb(m, new, 1)


@rule("layer-norm-bias", P.Add(LAYER_NORM, const("c")), opset=">=17")
def layer_norm_bias(m: Match, new: Builder) -> Outcome:
    """A bias behind a LayerNormalization that has none becomes its own."""
    return None if m.b is not None else _absorb(m, new, 2)


@rule(
    "spell-layer-norm",
    *(P.Add(P.Mul(form, const("g")), const("b")) for form in NORMED),
    opset=">=7,<17",
    targets=["onnx", "onnxruntime"],
    measure="order",
)
def spell_layer_norm(m: Match, new: Builder) -> Outcome:
    """A normalization written out is spelled as ONNX Runtime recognises it."""
    if tuple(node.op for node in (m.square, m.get("deviation"), m.quotient) if node is not None) == SEEN:
        return None
    axis = _axis(m)
    if axis is None or epsilon(m) is None:
        return refuse("the means are not over the last axes, or the epsilon is not one number that is not negative")
    if not is_float(m.x):
        return refuse("this is not proven to be float32")
    scale, bias = per_element(m.g, m.x, axis), per_element(m.b, m.x, axis)
    if scale is None or bias is None:
        return refuse("scale or bias is not one number for each normalized element, whose number is known")
    square = new.Pow(m.centred.output, new.constant(np.array(2, np.float32), "two"), type_of=m.x)
    root = new.Sqrt(new.Add(new.ReduceMean(square, m.var.input(1), like=m.var), m.eps))
    quotient = new.Div(m.centred.output, root, type_of=m.x)
    return new.Add(new.Mul(quotient, new.constant(scale, like=m.g), type_of=m.x), new.constant(bias, like=m.b))


def _axis(m: Match) -> int | None:
    """The first normalized axis, if both means are over the same ones."""
    axis = last_axes(m)
    return axis if axis is not None and reduced(m.mean, m.x) == tuple(range(axis, m.x.rank)) else None


def _absorb(m: Match, new: Builder, slot: int) -> Outcome:
    axis, rank = m.norm.attr("axis"), m.x.rank
    if rank is None or m.c.dtype != m.g.dtype:
        return refuse("the rank of what is normalized is not known, or the types differ")
    values = per_element(m.c, m.x, axis + rank if axis < 0 else axis)
    if values is None:
        return refuse("the constant is not one number for each normalized element, whose number is known")
    made = new.constant(values, like=m.c)
    operands = (m.x, made, None) if slot == 1 else (m.x, m.g, made)
    return new.LayerNormalization(*operands, like=m.norm, type_of=m.x)
