"""Transpose(x)   ==   Unsqueeze(Transpose(Squeeze(x)))   where some axes have size 1

Exact. ONNX Runtime has a fast kernel where a single axis moves, or the last one stays; it looks at the order of the
axes as it is written, those of size 1 included: (0, 3, 2, 1) of [n, 1, h, w] is slow, (0, 2, 1) of [n, h, w] is not.
Measured, one thread: 3.8 times as fast (1 x 1 x 50 x 128), 9.8 (8 x 64 x 1 x 64), 1.2 (4 x 1 x 10 x 16).

Guards: float32; the rank, and that these dims are 1, are known; slow before and fast behind; from 512 elements on.
"""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.ir import Value
from graphopt.passes.forms._cost import pays
from graphopt.passes.recognition._forms import elements, is_float
from graphopt.passes.simplify._facts import option
from graphopt.passes.simplify._views import make_squeeze
from graphopt.rewrite import Builder, Match, P, refuse, rule
from graphopt.rewrite.rule import Outcome

FEWEST = 512


def is_fast(perm: Sequence[int]) -> bool:
    """Whether a single axis moves, or the last one stays."""
    if not len(perm) or perm[-1] == len(perm) - 1:
        return True
    others = ([axis for axis in perm if axis != moved] for moved in perm)
    return any(left == sorted(left) for left in others)


def _superfluous(perm: Sequence[int], ones: Sequence[int], x: Value) -> list[int]:
    """Axes of size 1 without which the order is fast: those that an Unsqueeze has just put in (with which the Squeeze
    then goes away), or one, or all; none where that does not help."""
    maker = x.producer
    fresh = option(maker, "axes", 1) if maker is not None and maker.op == "Unsqueeze" and not maker.domain else None
    rank = len(perm)
    chosen = [[axis % rank for axis in fresh]] if fresh and all(-rank <= axis < rank for axis in fresh) else []
    chosen += [[axis] for axis in ones] + [list(ones)]
    return next((sorted(gone) for gone in chosen if set(gone) <= set(ones) and is_fast(_without(perm, gone))), [])


def _without(perm: Sequence[int], gone: Sequence[int]) -> list[int]:
    kept = sorted(set(perm) - set(gone))
    return [kept.index(axis) for axis in perm if axis not in gone]


@rule("transpose-ones", P.Transpose("x").as_("node"), targets=["onnx", "onnxruntime"], measure="order")
def transpose_ones(m: Match, new: Builder) -> Outcome:
    shape, perm = m.x.shape, m.node.attr("perm")
    if shape is None:
        return refuse("the rank is not known")
    perm = tuple(perm) if perm else tuple(range(len(shape)))[::-1]
    if is_fast(perm):
        return None
    gone = _superfluous(perm, [axis for axis, dim in enumerate(shape) if dim == 1], m.x)
    if not gone:
        return refuse("without the axes of size 1 the order is as slow")
    if not is_float(m.x):
        return refuse("it was measured for float32, and this is not proven to be that")
    if not pays(elements(m.x), FEWEST):
        return refuse("the tensor is so small that further operators cost more than they save")
    behind = [place for place, axis in enumerate(perm) if axis in gone]
    short = _without(perm, gone)
    y = make_squeeze(new, m.x, gone, m.node)
    if short != sorted(short):
        y = new.Transpose(y, perm=short)
    return make_squeeze(new, y, behind, m.node, "Unsqueeze")
