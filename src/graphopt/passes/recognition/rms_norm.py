"""x / sqrt(mean(x x) + e) * g   ==   RMSNormalization(x, g; e)   over the last axes

From opset 23 on. Before, ONNX Runtime (1.31) makes its SimplifiedLayerNormalization of one spelling (Pow, Sqrt, Div, a
scale per element of the last axis), and the others are spelled like that, with ones where the scale is missing.
Measured, one thread: 1.8 times (197 x 128), 1.4 (8 x 128); the error is at most 1.3 times as large.

Spellings: x * x or Pow(x, 2); a quotient by the root, or a product with Reciprocal or 1 / root; Sqrt, Pow(., 0.5) or
Pow(., -0.5); axes as attribute or input; the scale behind, on 1 / root, or left out.

Guards: float32; the mean over the last axes, which stay as 1; one number >= 0 as epsilon; the scale constant, one
number for each element of these axes, whose size is known.
"""

from __future__ import annotations

from math import prod

import numpy as np

from graphopt.ir import NDArray
from graphopt.passes.recognition._forms import is_float
from graphopt.passes.recognition._norms import epsilon, follows, last_axes, normalized, per_element, scaled, spelled
from graphopt.passes.simplify._facts import static
from graphopt.rewrite import Builder, Match, Refusal, refuse, rule
from graphopt.rewrite.rule import Outcome

FORMS = scaled("x")
ORT = ["onnx", "onnxruntime"]


@rule("recognize-rms-norm", *FORMS, opset=">=23", targets=ORT)
def recognize_rms_norm(m: Match, new: Builder) -> Outcome:
    """A normalization without mean, written out, becomes RMSNormalization."""
    scale = _scale(m)
    if isinstance(scale, Refusal):
        return scale
    made = new.constant(scale, like=m.g)
    return new.RMSNormalization(m.x, made, axis=-scale.ndim, epsilon=epsilon(m), type_of=m.x)


@rule("spell-rms-norm", *FORMS, opset=">=7,<23", targets=ORT, measure="order")
def spell_rms_norm(m: Match, new: Builder) -> Outcome:
    """A normalization without mean, written out, is spelled as ONNX Runtime recognises it."""
    if _is_seen(m):
        return None
    scale = _scale(m)
    if isinstance(scale, Refusal):
        return scale
    if scale.ndim != 1:
        return refuse("the runtime recognises it over the last axis alone")
    return new.Mul(spelled(m, new, m.x), new.constant(scale, like=m.g), type_of=m.x)


@rule("complete-rms-norm", *normalized("x"), opset=">=7", targets=ORT, measure="order")
def complete_rms_norm(m: Match, new: Builder) -> Outcome:
    """A normalization without mean and scale, written out, gets a scale of ones, by which ONNX Runtime knows it."""
    if m.x.producer is not None and m.x.producer.op == "Sub":  # LayerNorm's
        return None
    axis = _axis(m)
    if isinstance(axis, Refusal):
        return axis
    if follows(m.root.output, "Mul", m.x, axis) is not None:
        return None
    dims = static(m.x.shape[axis:])
    if dims is None or (len(dims) != 1 and new.graph.opset() < 23):
        return refuse("the size of the normalized axes is not known, or there are several")
    if prod(dims) == 1:  # the runtime drops a factor of one element, and takes what is behind it for the scale
        return refuse("what is normalized has one element")
    return new.Mul(spelled(m, new, m.x), new.constant(np.ones(dims, np.float32), "ones"), type_of=m.x)


def _is_seen(m: Match) -> bool:
    """Whether ONNX Runtime recognises it as it is: by a quotient, or a product with 1 / root."""
    quotient = m.get("quotient")
    if quotient is None or m.square.op != "Pow":
        return False
    last = quotient if m.get("inverse") is None else m.inverse
    return m.get("deviation") is not None and (m.deviation.op, last.op) == ("Sqrt", "Div")


def _axis(m: Match) -> int | Refusal:
    axis = last_axes(m)
    if axis is None or epsilon(m) is None:
        return refuse("the mean is not over the last axes, or the epsilon is not one number that is not negative")
    return axis if is_float(m.x) else refuse("this is not proven to be float32")


def _scale(m: Match) -> NDArray | Refusal:
    axis = _axis(m)
    if isinstance(axis, Refusal):
        return axis
    scale = per_element(m.g, m.x, axis)
    return refuse("the scale is not one number for each normalized element") if scale is None else scale
