"""Transpose(x)   ==   two Transposes in each of which one block of axes moves

Exact. ONNX Runtime has a fast kernel (0.1 to 0.3 ns an element) where a single axis moves, and a slow one (2.3 ns)
for every other order that moves the last axis. Any order of three blocks of axes, and many of more, is two moves; with
the axes of a block written as one by a Reshape, each of them is of a single axis, and ONNX Runtime does not merge them
again. Measured, one thread: 7.2 times as fast (12 x 16 x 20 x 24), 6.5 (64 x 56 x 56, order 2, 1, 0).

Guards: float32; at most one dim is not known, none is 0; slow as it is; from 8,192 elements on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from graphopt.passes.forms._cost import pays
from graphopt.passes.forms._reduce import reshape
from graphopt.passes.forms.softmax_product import is_head
from graphopt.passes.forms.transpose_ones import is_fast
from graphopt.passes.recognition._forms import elements, is_float
from graphopt.rewrite import Builder, Match, P, refuse, rule
from graphopt.rewrite.rule import Outcome

FEWEST = 8192
Axes = tuple[int, ...]
Move = tuple[int, int, int]  # places at which two neighbouring blocks begin and end that change places


@rule("transpose-in-steps", P.Transpose("x").as_("node"), opset=">=5", targets=["onnx", "onnxruntime"], measure="order")
def transpose_in_steps(m: Match, new: Builder) -> Outcome:
    shape, perm = m.x.shape, m.node.attr("perm")
    if shape is None:
        return refuse("the rank is not known")
    perm = tuple(perm) if perm else tuple(range(len(shape)))[::-1]
    kept = sorted(axis for axis in perm if shape[axis] != 1)
    if is_fast([kept.index(axis) for axis in perm if axis in kept]):
        return None
    if m.x.producer is not None and m.x.producer.op == "Softmax" and is_head(m.x.producer):
        return refuse("the Conv behind it takes it in")
    if 0 in shape or sum(not isinstance(dim, int) for dim in shape) > 1:
        return refuse("more than one dim is not known, or one is 0")
    if not is_float(m.x):
        return refuse("it was measured for float32, and this is not proven to be that")
    if not pays(elements(m.x), FEWEST):
        return refuse("the tensor is so small that further operators cost more than they save")
    moves = _moves(perm)
    if moves is None:
        return refuse("it takes more than two moves of a block of axes")
    y, order = m.x, tuple(range(len(shape)))
    for begin, middle, end in moves:
        blocks = (order[:begin], order[begin:middle], order[middle:end], order[end:])
        y = new.Transpose(reshape(new, y, [_size(shape, block) for block in blocks]), perm=[0, 2, 1, 3])
        order = _moved(order, (begin, middle, end))
    return reshape(new, y, [shape[axis] for axis in perm])


def _size(shape: Sequence[int | str | None], block: Axes) -> int | None:
    size = 1
    for axis in block:
        dim = shape[axis]
        if not isinstance(dim, int):
            return None
        size *= dim
    return size


def _moved(order: Axes, move: Move) -> Axes:
    begin, middle, end = move
    return (*order[:begin], *order[middle:end], *order[begin:middle], *order[end:])


def _moves(perm: Axes) -> tuple[Move, Move] | None:
    """Two moves that bring the axes into this order."""
    start = tuple(range(len(perm)))
    for first in _all(len(perm)):
        once = _moved(start, first)
        for second in _all(len(perm)):
            if _moved(once, second) == perm:
                return first, second
    return None


def _all(rank: int) -> Iterator[Move]:
    for begin in range(rank):
        for middle in range(begin + 1, rank):
            for end in range(middle + 1, rank + 1):
                yield begin, middle, end
