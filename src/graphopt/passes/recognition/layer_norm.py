"""d / sqrt(mean(d d) + e),  d = x - mean(x)   ==   LayerNormalization(x, 1; e)   over the last axes
LayerNormalization(x, 1) * g   ==   LayerNormalization(x, g)
LayerNormalization(x, g) + b   ==   LayerNormalization(x, g, b)

From opset 17 on. ONNX Runtime (1.31) makes the same of one spelling (Pow, Sqrt, Div, scale and bias, both there);
before opset 17 the others are spelled like that, with ones or zeros where scale or bias is missing. Measured, one
thread: 2.0 times (197 x 128), 1.7 (8 x 128); the error is not larger.

Spellings: d * d or Pow(d, 2); a quotient by the root, or a product with Reciprocal or 1 / root; Sqrt, Pow(., 0.5) or
Pow(., -0.5); axes as attribute or input; scale and bias in any shape that fits, or left out; the scale
behind, or on 1 / root.

Guards: float32; both means over the same axes, the last ones, which stay as 1; one number >= 0 as epsilon; the size of
the normalized axes known; scale and bias constant, one number for each element of these axes.
"""

from __future__ import annotations

from math import prod

import numpy as np

from graphopt.ir import Value
from graphopt.passes.recognition._forms import is_float, reduced
from graphopt.passes.recognition._norms import (
    epsilon,
    follows,
    is_seen,
    last_axes,
    normalized,
    per_element,
    scaled,
    scaled_within,
    spelled,
)
from graphopt.passes.simplify._facts import static
from graphopt.rewrite import Builder, Match, P, Refusal, const, maybe, refuse, rule
from graphopt.rewrite.rule import Outcome

MEAN = P.ReduceMean("x", maybe(const("axes"))).as_("mean")
CENTRED = P.Sub("x", MEAN).as_("centred")
NORMED = normalized(CENTRED)
LAYER_NORM = P.LayerNormalization("x", const("g"), maybe(const("b"))).as_("norm")


@rule("recognize-layer-norm", *NORMED, scaled_within(CENTRED), opset=">=17", targets=["onnx", "onnxruntime"])
def recognize_layer_norm(m: Match, new: Builder) -> Outcome:
    """A normalization written out becomes LayerNormalization, with a scale of ones where it has none."""
    axis = layer_axis(m)
    if isinstance(axis, Refusal):
        return axis
    dims = static(m.x.shape[axis:])
    if dims is None:
        return refuse("the size of the normalized axes is not known")
    scale = np.ones(dims, np.float32) if m.get("g") is None else per_element(m.g, m.x, axis)
    if scale is None:
        return refuse("the scale is not one number for each normalized element")
    made = new.constant(scale, "ones", like=m.get("g"))
    return new.LayerNormalization(m.x, made, axis=axis - m.x.rank, epsilon=epsilon(m), type_of=m.x)


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
    *(P.Add(form, const("b")) for form in scaled(CENTRED)),
    opset=">=7,<17",
    targets=["onnx", "onnxruntime"],
    measure="order",
)
def spell_layer_norm(m: Match, new: Builder) -> Outcome:
    """A normalization written out is spelled as ONNX Runtime recognises it."""
    if is_seen(m):
        return None
    axis = layer_axis(m)
    if isinstance(axis, Refusal):
        return axis
    scale, bias = per_element(m.g, m.x, axis), per_element(m.b, m.x, axis)
    if scale is None or bias is None:
        return refuse("scale or bias is not one number for each normalized element, whose number is known")
    product = new.Mul(spelled(m, new, m.centred.output), new.constant(scale, like=m.g), type_of=m.x)
    return new.Add(product, new.constant(bias, like=m.b), type_of=m.x)


@rule(
    "complete-layer-norm", *NORMED, *scaled(CENTRED), opset=">=7,<17", targets=["onnx", "onnxruntime"], measure="order"
)
def complete_layer_norm(m: Match, new: Builder) -> Outcome:
    """A normalization written out without scale or bias gets one of ones or zeros, by which ONNX Runtime knows it."""
    axis = layer_axis(m)
    if isinstance(axis, Refusal):
        return axis
    scale = None if m.get("g") is None else per_element(m.g, m.x, axis)
    output = m.root.output
    biased = follows(output, "Add", m.x, axis) is not None
    if follows(output, "Mul", m.x, axis) is not None or (scale is not None and biased):
        return None
    dims = static(m.x.shape[axis:])
    if dims is None or (m.get("g") is not None and scale is None):
        return refuse("the scale is not one number for each normalized element, or their number is not known")
    if prod(dims) == 1:  # the runtime drops a factor of one element, and takes what is behind it for the scale
        return refuse("what is normalized has one element")
    factor = new.constant(np.ones(dims, np.float32), "ones") if scale is None else new.constant(scale, like=m.g)
    product: Value = new.Mul(spelled(m, new, m.centred.output), factor, type_of=m.x)
    return product if biased else new.Add(product, new.constant(np.zeros(dims, np.float32), "zeros"), type_of=m.x)


def layer_axis(m: Match) -> int | Refusal:
    """The first normalized axis, if both means are over the same ones, and all else is as LayerNorm wants it."""
    axis = last_axes(m)
    if axis is None or reduced(m.mean, m.x) != tuple(range(axis, m.x.rank)) or epsilon(m) is None:
        return refuse("the means are not over the last axes, or the epsilon is not one number that is not negative")
    return axis if is_float(m.x) else refuse("this is not proven to be float32")


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
