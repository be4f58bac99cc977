"""conv(x, V, a) + conv(x, W, b) == conv(x, V + W, a + b), conv(x, W, b) + k x + t == conv(x, W + k I, b + t).

Branches of RepVGG, ACNet, MobileOne and their like, and a residual around one convolution. A smaller kernel is put
where the larger one has the same places: tap u of a kernel with pad p reads place u - p, so that it moves by the
difference of the pads. An identity, or a BatchNormalization (k = g / sqrt(v + eps), t = its shift), is a kernel of 1.
Exact in real arithmetic; computed in float64 and rounded once. ORT 1.31, one thread: 3x3 + 1x1 + identity 1.16 times
as fast, 1x1 + 1x1 1.7 times.

Guards: x never infinite (or `fast_math=True`); same strides, dilations and groups, explicit pads; the results have the
same size (Add may broadcast); one kernel lies within the other; for an identity, stride 1 and as many channels out as
in; weights and biases constant and finite, weights read by nothing else; branches read by nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from graphopt.ir import NDArray, Node, Value
from graphopt.passes.collapse import _linear
from graphopt.passes.collapse._bounded import objection
from graphopt.passes.fusion import _conv
from graphopt.passes.fusion._affine import of_batch_norm, rounded
from graphopt.rewrite import Builder, Match, P, Refusal, const, maybe, one_of, refuse, rule
from graphopt.rewrite.rule import Outcome

FIRST = P.Conv("x", const("v"), maybe(const("a"))).as_("first")
SECOND = P.Conv("x", const("w"), maybe(const("b"))).as_("second")
BN = P.BatchNormalization("x", const("g"), const("t"), const("mu"), const("var")).as_("bn")


@rule("collapse-conv-branches", P.Add(FIRST, one_of(SECOND, BN)), P.Add(FIRST, "x"), opset=">=7")
def collapse_conv_branches(m: Match, new: Builder) -> Outcome:
    reason = objection(m.x)
    if reason:
        return refuse(reason)
    first = _branch(m.first, m.v, m.a)
    if isinstance(first, Refusal):
        return first
    second = _branch(m.second, m.w, m.b) if m.get("second") is not None else _identity(m, first)
    if isinstance(second, Refusal):
        return second
    if second.weight.dtype != first.weight.dtype or second.steps != first.steps:
        return refuse("the branches differ in type, strides, dilations or groups")
    larger, smaller = (first, second) if first.weight.size >= second.weight.size else (second, first)
    total = _sum(larger, smaller)
    if isinstance(total, Refusal):
        return total
    like = m.v if larger is first else m.w
    node: Node = m.first if larger is first else m.second
    weight = rounded(total, like)
    bias = rounded(first.bias + second.bias, like)
    if isinstance(weight, Refusal):
        return weight
    if isinstance(bias, Refusal):
        return bias
    has_bias = bool(bias.any()) or m.a is not None or m.get("b") is not None
    added = new.constant(bias, f"{node.label}_bias") if has_bias else None
    return new.Conv(m.x, new.constant(weight, like.name), added, like=node, type_of=m.root.output)


@dataclass(frozen=True)
class _Branch:
    """weight in its own dtype, bias in float64 [channels out]; pads: begins, then ends; steps: strides, dilations,
    groups."""

    weight: NDArray
    bias: NDArray
    pads: tuple[int, ...]
    steps: tuple[tuple[int, ...], tuple[int, ...], int]


def _branch(conv: Node, weight: Value, bias: Value | None) -> _Branch | Refusal:
    reason = _conv.why_not(conv, weight) or _linear.why_not(weight)
    if reason:
        return refuse(reason)
    array = weight.numpy()
    rank = array.ndim - 2
    if conv.attr("auto_pad") not in ("NOTSET", "VALID"):
        return refuse("auto_pad computes pads from the kernel")
    pads = conv.attr("pads") if conv.attr("auto_pad") == "NOTSET" else None
    steps = tuple(conv.attr("strides") or [1] * rank), tuple(conv.attr("dilations") or [1] * rank), conv.attr("group")
    given = np.zeros(array.shape[0]) if bias is None else bias.numpy().astype(np.float64)
    if given.shape != array.shape[:1] or not np.isfinite(given).all() or not np.isfinite(array).all() or not array.size:
        return refuse("weights or biases are not finite, or do not fit")
    return _Branch(array, given, tuple(pads or [0] * 2 * rank), steps)


def _identity(m: Match, conv: _Branch) -> _Branch | Refusal:
    """x itself, or its BatchNormalization, as a convolution with a kernel of 1 in the same groups."""
    strides, _, group = conv.steps
    out, into = conv.weight.shape[:2]
    if any(step != 1 for step in strides) or out != into * group:
        return refuse("the convolution does not have its operand's size and channels")
    scale, shift = np.ones(out), np.zeros(out)
    bn = m.get("bn")
    if bn is not None:
        affine = of_batch_norm(bn, out)
        if isinstance(affine, Refusal):
            return affine
        assert affine.scale is not None
        assert affine.shift is not None
        scale, shift = affine.scale, affine.shift
    rank = conv.weight.ndim - 2
    weight = np.zeros((out, into, *[1] * rank), np.float64)
    weight[np.arange(out), np.arange(out) % into] = scale.reshape(-1, *[1] * rank)
    with np.errstate(all="ignore"):
        narrow = weight.astype(conv.weight.dtype)
    return _Branch(narrow, shift, (0,) * 2 * rank, conv.steps)


def _sum(larger: _Branch, smaller: _Branch) -> NDArray | Refusal:
    """The kernels added in float64, the smaller one where it reads the same places."""
    if larger.weight.shape[:2] != smaller.weight.shape[:2]:
        return refuse("the branches do not have the same channels")
    total = larger.weight.astype(np.float64)
    rank = total.ndim - 2
    window = [slice(None), slice(None)]
    for axis in range(rank):
        dilation = larger.steps[1][axis]
        wide, narrow = larger.weight.shape[2 + axis], smaller.weight.shape[2 + axis]
        begin = larger.pads[axis] - smaller.pads[axis]
        end = larger.pads[rank + axis] - smaller.pads[rank + axis]
        if begin + end != dilation * (wide - narrow):
            return refuse("the branches' results do not have the same size")
        if begin < 0 or end < 0 or begin % dilation:
            return refuse("neither kernel lies within the other")
        window.append(slice(begin // dilation, begin // dilation + narrow))
    total[tuple(window)] += smaller.weight.astype(np.float64)
    return total
