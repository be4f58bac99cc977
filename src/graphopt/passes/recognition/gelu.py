"""x (1 + erf(x / sqrt 2)) / 2   ==   Gelu(x)
x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2   ==   Gelu(x; approximate = "tanh")   ==   FastGelu(x)

Emitted: Gelu from opset 20 on; before, com.microsoft's Gelu and FastGelu for ONNX Runtime. For any other reader of the
file the erf form is spelled Mul(Mul(x, Add(Erf(Div(x, sqrt 2)), 1)), 0.5), one of the two forms that ONNX Runtime
(1.31) makes its own Gelu of; it misses x * (0.5 * (1 + erf)), which PyTorch's newer exporter writes, and the product
with 1 / sqrt 2, which TensorFlow's does. Measured, one thread: 1.6 (64 x 128) to 3.2 times (128 x 1536), tanh 2 to 4.

Spellings: the half on either factor, on both together, or inside (0.5 erf + 0.5); products and quotients, operands in
any order; the cube as Pow or products, with x drawn out of the sum or not.

Guards: float32; the constants these numbers, rounded to float32, and of a shape that leaves x's as it is; nothing in
between read elsewhere. NaN and infinities go through alike.
"""

from __future__ import annotations

from math import pi, sqrt

import numpy as np

from graphopt.passes.recognition._forms import is_float, keep_shape
from graphopt.rewrite import Builder, Match, P, Refusal, const, one_of, refuse, rule
from graphopt.rewrite.pattern import Pattern
from graphopt.rewrite.rule import Outcome

CONSTANTS = ("half", "one", "offset", "sqrt2", "k", "c", "unit", "cube", "square")


def halved(value: Pattern | str) -> Pattern:
    """A value divided by 2."""
    return one_of(P.Mul(value, const("half", 0.5)).as_("halved"), P.Div(value, const("half", 2.0)).as_("halved"))


def halved_product(gate: Pattern) -> tuple[Pattern, ...]:
    """x * (1 + gate) / 2 in its spellings."""
    one_more = P.Add(gate, const("one", 1.0))
    return (
        halved(P.Mul("x", one_more)),
        P.Mul(halved("x"), one_more),
        P.Mul("x", halved(one_more)),
        P.Mul("x", P.Add(halved(gate), const("offset", 0.5))),
    )


SCALED = one_of(P.Div("x", const("sqrt2", sqrt(2))).as_("inner"), P.Mul("x", const("sqrt2", sqrt(0.5))).as_("inner"))
ERF = halved_product(P.Erf(SCALED))

K, C = const("k", 0.044715), const("c", sqrt(2 / pi))
XX = one_of(P.Mul("x", "x"), P.Pow("x", const("square", 2.0)))
SQUARE = one_of(P.Mul(XX, K), P.Mul(P.Mul("x", K), "x"))
CUBE = one_of(P.Mul(one_of(P.Pow("x", const("cube", 3.0)), P.Mul(XX, "x")), K), P.Mul(SQUARE, "x"))
FACTOR = P.Add(SQUARE, const("unit", 1.0))
POLYNOMIAL = one_of(P.Mul(one_of(P.Add("x", CUBE), P.Mul("x", FACTOR)), C), P.Mul(P.Mul("x", C), FACTOR))
TANH = halved_product(P.Tanh(POLYNOMIAL))


@rule("recognize-gelu", *ERF, *TANH, opset=">=20", targets=["onnx", "onnxruntime"])
def recognize_gelu(m: Match, new: Builder) -> Outcome:
    """GELU written out with erf or tanh becomes Gelu."""
    return _why_not(m) or new.Gelu(m.x, approximate=None if m.get("sqrt2") else "tanh", type_of=m.x)


@rule("recognize-gelu-onnxruntime", *ERF, *TANH, opset="<20", targets=["onnxruntime"])
def recognize_gelu_onnxruntime(m: Match, new: Builder) -> Outcome:
    """GELU written out with erf or tanh becomes ONNX Runtime's Gelu or FastGelu."""
    reason = _why_not(m)
    if reason is not None:
        return reason
    new.graph.model.require_opset("com.microsoft", 1)
    return new.make("Gelu" if m.get("sqrt2") else "FastGelu", m.x, domain="com.microsoft", type_of=m.x)


@rule("spell-gelu", *ERF, opset=">=9,<20", targets=["onnx"], measure="order")
def spell_gelu(m: Match, new: Builder) -> Outcome:
    """GELU written out with erf is spelled as ONNX Runtime recognises it."""
    if _is_seen(m):
        return None
    reason = _why_not(m)
    if reason is not None:
        return reason
    sqrt2, one, half = (new.constant(np.array(value, np.float32), "gelu") for value in (sqrt(2), 1.0, 0.5))
    erf = new.Erf(new.Div(m.x, sqrt2, type_of=m.x), type_of=m.x)
    product = new.Mul(m.x, new.Add(erf, one, type_of=m.x), type_of=m.x)
    return new.Mul(product, half, type_of=m.x)


def _is_seen(m: Match) -> bool:
    """Whether ONNX Runtime recognises it as it is: the half is a factor of x, or of the whole."""
    whole = m.halved is m.root or m.halved.inputs[0] is m.x or m.halved.inputs[1] is m.x
    return whole and m.inner.op == "Div" and m.halved.op == "Mul"


def _why_not(m: Match) -> Refusal | None:
    if not is_float(m.x):
        return refuse("Gelu of ONNX Runtime takes float32 only, and this is not proven to be that")
    if not keep_shape(m.x, *(m.get(name) for name in CONSTANTS)):
        return refuse("a constant is not proven to leave the shape of the other operand as it is")
    return None
