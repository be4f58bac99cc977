"""conv(f(conv(x, V, a)), W, b)   ==   conv(f(conv(x, V', a')), W', b + sum(W f(a))) over channels whose filter in V is
zero: they are a alone, so that what they add is a part of the bias. V' and W' are what is left.

f: none, Gelu, HardSwish or LeakyRelu. Training with weight decay leaves such channels (ppocrv6_det_small: 690 of 1,536
in two blocks). Exact in real arithmetic; computed in float64 and rounded once.

Guards: x never infinite (or `fast_math=True`); both convolutions without groups, weights and biases constant, finite
and read by nothing else; the second one unpadded (or the constants are zero: what is padded in is); an eighth of the
channels, at least, is to go, and one stays whose weights are all not zero in both: an infinity or NaN in x, which a
filter of zeros passes on as NaN, is still seen (f makes no number of it: Relu and Sigmoid would); the values between
read by nothing else.
"""

from __future__ import annotations

import math

import numpy as np

from graphopt.ir import NDArray, Node
from graphopt.passes.collapse import _linear
from graphopt.passes.collapse._bounded import objection
from graphopt.passes.fusion import _conv
from graphopt.passes.fusion._affine import rounded
from graphopt.rewrite import Builder, Match, P, Refusal, const, maybe, one_of, refuse, rule
from graphopt.rewrite.rule import Outcome

INNER = P.Conv("x", const("v"), maybe(const("a"))).as_("inner")
VALUE = one_of(
    P.op("Gelu", "HardSwish", "LeakyRelu")(INNER).as_("f"), P.of("com.microsoft").Gelu(INNER).as_("f"), INNER
)
_PART = 8


@rule("collapse-dead-channels", P.Conv(VALUE, const("w"), maybe(const("b"))).as_("outer"), opset=">=7", measure="flops")
def collapse_dead_channels(m: Match, new: Builder) -> Outcome:
    v, w = m.v.numpy(), m.w.numpy()
    if v.ndim < 3 or w.ndim != v.ndim or w.shape[1] * m.outer.attr("group") != v.shape[0] or not v.size or not w.size:
        return None
    live = v.reshape(v.shape[0], -1).any(axis=1)
    if live.all():
        return None
    reason = _conv.why_not(m.inner, m.v) or _conv.why_not(m.outer, m.w) or _linear.why_not(m.v, m.w) or objection(m.x)
    if reason:
        return refuse(reason)
    if m.inner.attr("group") != 1 or m.outer.attr("group") != 1:
        return refuse("a convolution has groups")
    reason = _why_not(v, w, live)
    if reason:
        return refuse(reason)
    a = np.zeros(len(live)) if m.a is None else m.a.numpy().astype(np.float64)
    constants = np.where(live, 0.0, a)
    if m.get("f") is not None:
        constants = _applied(m.f, constants)
    if not np.isfinite(constants).all():
        return refuse("a bias is not finite")
    if constants.any() and _conv.is_padded(m.outer, m.w):
        return refuse("what is padded in is zero, not the constant of a channel")
    return _without(m, new, live, constants)


def _why_not(v: NDArray, w: NDArray, live: NDArray) -> str:
    if (len(live) - np.count_nonzero(live)) * _PART < len(live):
        return "too few channels are constant to be worth it"
    if not (np.isfinite(v).all() and np.isfinite(w).all()):
        return "the weights are not finite"
    whole = v.reshape(len(live), -1).all(axis=1) & np.moveaxis(w, 1, 0).reshape(len(live), -1).all(axis=1)
    return "" if whole.any() else "no channel that stays is sure to pass on infinities and NaN"


def _applied(f: Node, values: NDArray) -> NDArray:
    """f in float64."""
    if f.op == "HardSwish":
        return values * np.clip(values / 6 + 0.5, 0, 1)
    if f.op == "LeakyRelu":
        return np.where(values < 0, values * f.attr("alpha"), values)
    if f.attr("approximate", "none") == "tanh":
        inner = math.sqrt(2 / math.pi) * (values + 0.044715 * values**3)
        return 0.5 * values * (1 + np.tanh(inner))
    return np.array([0.5 * value * (1 + math.erf(value / math.sqrt(2))) for value in values.tolist()])


def _without(m: Match, new: Builder, live: NDArray, constants: NDArray) -> Outcome:
    w = m.w.numpy()
    bias = m.b
    if constants.any():
        moved = _linear.summed(w.reshape(*w.shape[:2], -1), constants)
        total = rounded(moved if m.b is None else moved + m.b.numpy().astype(np.float64), m.w)
        if isinstance(total, Refusal):
            return total
        bias = new.constant(total, m.b.name if m.b is not None else f"{m.outer.label}_bias")
    kept = None if m.a is None else new.constant(m.a.numpy()[live], m.a.name)
    value = new.Conv(m.x, new.constant(m.v.numpy()[live], m.v.name), kept, like=m.inner)
    if m.get("f") is not None:
        value = new.make(m.f.op, value, like=m.f, domain=m.f.domain)
    return new.Conv(value, new.constant(w[:, live], m.w.name), bias, like=m.outer, type_of=m.root.output)
