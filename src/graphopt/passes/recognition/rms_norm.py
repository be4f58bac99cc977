"""x / sqrt(mean(x x) + e) * g   ==   RMSNormalization(x, g; e)   over the last axes

From opset 23 on. Before, ONNX Runtime (1.31) makes its SimplifiedLayerNormalization of one spelling (Pow, Sqrt, Div, a
scale per element of the last axis), and the others are spelled like that. Measured, one thread: 1.8 times (197 x 128),
1.4 (8 x 128); the error is at most 1.3 times as large.

Spellings: x * x or Pow(x, 2); a quotient by the root, or a product with Reciprocal or 1 / root; Sqrt, Pow(., 0.5) or
Pow(., -0.5); axes as attribute or input.

Guards: float32; the mean over the last axes, which stay as 1; one number >= 0 as epsilon; the scale constant, one
number for each element of these axes, whose size is known.
"""

from __future__ import annotations

import numpy as np

from graphopt.ir import NDArray
from graphopt.passes.recognition._forms import is_float
from graphopt.passes.recognition._norms import epsilon, last_axes, normalized, per_element
from graphopt.rewrite import Builder, Match, P, Refusal, const, refuse, rule
from graphopt.rewrite.rule import Outcome

FORMS = tuple(P.Mul(form, const("g")) for form in normalized("x"))
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
    square = new.Pow(m.x, new.constant(np.array(2, np.float32), "two"), type_of=m.x)
    root = new.Sqrt(new.Add(new.ReduceMean(square, m.var.input(1), like=m.var), m.eps))
    return new.Mul(new.Div(m.x, root, type_of=m.x), new.constant(scale, like=m.g), type_of=m.x)


def _is_seen(m: Match) -> bool:
    """Whether ONNX Runtime recognises it as it is: by a quotient, or a product with 1 / root."""
    last = m.quotient if m.get("inverse") is None else m.inverse
    return m.square.op == "Pow" and m.get("deviation") is not None and (m.deviation.op, last.op) == ("Sqrt", "Div")


def _scale(m: Match) -> NDArray | Refusal:
    axis = last_axes(m)
    if axis is None or epsilon(m) is None:
        return refuse("the mean is not over the last axes, or the epsilon is not one number that is not negative")
    if not is_float(m.x):
        return refuse("this is not proven to be float32")
    scale = per_element(m.g, m.x, axis)
    return refuse("the scale is not one number for each normalized element") if scale is None else scale
