"""Clip(Clip(x, a, b), c, d)   ==   Clip(x, max(a, c), min(b, d)) with the outer bounds holding where they cross;
Clip(Relu(x), c, d)   ==   Clip(x, max(0, c), d);  Relu(Clip(x, a, b))   ==   Clip(x, max(0, a), b).

NaN and -0 pass through Clip and Relu alike in ONNX Runtime. A bound left out stays so: the runtime then clips to the
largest finite number, which is why an infinite bound is refused. Guards: bounds must be constant numbers, the lower not
above the upper (then every element becomes the upper one); the upper bound not below 0 next to a Relu; a Relu behind a
Clip of integers stays.
"""

from __future__ import annotations

from collections.abc import Callable
from math import isfinite

import numpy as np

from graphopt.ir import Node
from graphopt.passes.simplify._facts import INTEGERS
from graphopt.rewrite import Builder, Match, P, maybe, refuse, rule
from graphopt.rewrite.rule import Outcome

Bounds = tuple[float | None, float | None]

INNER = P.Clip("x", maybe("a"), maybe("b")).as_("inner")
OUTER = P.Clip(INNER, maybe("c"), maybe("d")).as_("outer")


@rule("compose-clips", OUTER, P.Clip(P.Relu("x").as_("inner"), maybe("c"), maybe("d")).as_("outer"))
def compose_clips(m: Match, new: Builder) -> Outcome:
    """Merges a Clip with the Clip or Relu before it."""
    return _merge(m, new)


@rule("relu-of-clip", P.Relu(INNER).as_("outer"))
def relu_of_clip(m: Match, new: Builder) -> Outcome:
    """Merges a Relu with the Clip before it."""
    if m.x.dtype in INTEGERS:
        return refuse("ONNX Runtime's own merging of Relu and Clip fails on integers, and might come to see this one")
    return _merge(m, new)


def _merge(m: Match, new: Builder) -> Outcome:
    inner, outer = _bounds(m.inner), _bounds(m.outer)
    if inner is None or outer is None:
        return refuse("the bounds are not finite constants with the lower one first")
    low, high = _tighter(inner[0], outer[0], max), _tighter(inner[1], outer[1], min)
    if low is not None and high is not None and low > high:
        return refuse("the two ranges do not meet")
    node = m.outer if m.outer.op == "Clip" else m.inner
    if node.graph.opset() < 11:
        return new.Clip(m.x, like=node, min=low, max=high)
    like = next((v for n in (m.inner, m.outer) for v in n.inputs[1:] if v is not None), None)
    if like is None:
        return None  # Clip without bounds next to a Relu
    dtype = like.numpy().dtype
    operands = [None if bound is None else new.constant(np.array(bound, dtype), "bound") for bound in (low, high)]
    return new.Clip(m.x, *operands, like=node)


def _bounds(node: Node) -> Bounds | None:
    """(lower or None, upper or None); None where one is computed, not finite, or they stand the wrong way round."""
    if node.op == "Relu":
        return 0.0, None
    if node.graph.opset() < 11:
        given: list[float | None] = [node.attr("min"), node.attr("max")]
    else:
        operands = node.input(1), node.input(2)
        if any(value is not None and not (value.is_const and value.numpy().size == 1) for value in operands):
            return None
        given = [None if value is None else value.numpy().reshape(-1)[0].item() for value in operands]
    low, high = given
    if any(bound is not None and not isfinite(bound) for bound in given):
        return None
    return None if low is not None and high is not None and low > high else (low, high)


def _tighter(a: float | None, b: float | None, choose: Callable[[float, float], float]) -> float | None:
    if a is None or b is None:
        return b if a is None else a
    return choose(a, b)
