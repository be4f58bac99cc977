"""Control flow for patterns that have it: an If or a Loop with a few operators in its bodies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from onnx import TensorProto, helper

from graphopt.testing.draft import Draft, Var

__all__ = ["BODIES"]

_UNARY = ("Neg", "Identity", "Abs", "Relu", "Exp")


def _condition(draft: Draft, given: dict[int, Var], slot: int, constant: bool) -> Var | None:
    if slot in given:
        return given[slot]
    chooser = draft.chooser
    shape = chooser.pick([(), (1,)])
    data = np.full(shape, chooser.chance(50))
    return draft.constant(data) if constant or chooser.chance(70) else draft.input(TensorProto.BOOL, shape, data=data)


def _body_values(inner: Draft, sources: Sequence[Var], ops: Sequence[str]) -> list[Var]:
    """A few nodes in a body, on captured values or the body's own; the values made, each maybe a source itself."""
    values, chooser = list(sources), inner.chooser
    known = [op for op in _UNARY if op in ops] or _UNARY
    for _ in range(chooser.integer(0, 3)):
        op = chooser.pick([*known, "Add", "Mul", "Sub"])
        first = chooser.pick(values)
        if first.shape is None:
            continue
        operands = [first]
        if op in ("Add", "Mul", "Sub"):
            same = [var for var in values if var.shape == first.shape and var.dtype == first.dtype]
            data = chooser.array(first.dtype, (), special=False)
            own = inner.constant(data, first.dtype, as_node=chooser.chance(50))
            operands.append(chooser.pick([*same, own]))
        values += inner.node(op, operands)
    return values


def _if(draft: Draft, given: dict[int, Var], constant: bool, ops: Sequence[str]) -> list[Var]:
    """An If with one or two outputs, computed in its branches from what they capture, or captured as they are."""
    chooser = draft.chooser
    shape = tuple(chooser.pick([2, 3, 1]) for _ in range(chooser.integer(0, 2)))
    sources = [draft.input(TensorProto.FLOAT, shape), draft.constant(chooser.array(1, shape, special=False), 1)]
    condition = _condition(draft, given, 0, constant)
    count = chooser.integer(1, 2)
    bodies: dict[str, Any] = {}
    for side in ("then_branch", "else_branch"):
        inner = draft.body()
        values = _body_values(inner, sources, ops)
        for _ in range(count):
            result = chooser.pick(values[::-1])
            if result in sources and chooser.chance(70):
                [result] = inner.node("Identity", [result])
            inner.output(result)
        draft.absorb(inner)
        bodies[side] = inner.graph(side)
    outputs = [draft.fresh(TensorProto.FLOAT, shape) for _ in range(count)]
    names = [var.name for var in outputs]
    return draft.append(helper.make_node("If", [condition.name if condition else ""], names, **bodies), outputs)


def _loop(draft: Draft, given: dict[int, Var], constant: bool, ops: Sequence[str]) -> list[Var]:
    """A Loop with up to two carried values and up to one scan output, of few trips or none."""
    chooser = draft.chooser
    shape = tuple(chooser.pick([2, 3, 1]) for _ in range(chooser.integer(0, 2)))
    states = [draft.input(TensorProto.FLOAT, shape) for _ in range(chooser.integer(1, 2))]
    outer = draft.input(TensorProto.FLOAT, shape)
    trips: Var | None = None
    if chooser.chance(80):
        data = np.full(chooser.pick([(), (1,)]), chooser.pick([1, 2, 0, 3, -1]), np.int64)
        trips = draft.constant(data) if chooser.chance(80) else draft.input(TensorProto.INT64, data.shape, data=data)
    condition = _condition(draft, given, 1, constant) if trips is None or chooser.chance(50) else None
    inner = draft.body()
    inner.declare(TensorProto.INT64, ())  # the counter
    going = inner.declare(TensorProto.BOOL, ())
    carried = [inner.declare(TensorProto.FLOAT, shape) for _ in states]
    stays = trips is not None and chooser.chance(60)
    inner.output(inner.node("Identity", [going])[0] if stays else inner.constant(np.array(False), as_node=True))
    values = _body_values(inner, [*carried, outer], ops)
    scans = chooser.integer(0, 1)
    for _ in range(len(states) + scans):
        inner.output(inner.node("Identity", [chooser.pick(values[::-1])])[0])
    draft.absorb(inner)
    outputs = [draft.fresh(TensorProto.FLOAT, shape) for _ in states]
    outputs += [draft.fresh(TensorProto.FLOAT, None) for _ in range(scans)]
    operands = [var.name if var is not None else "" for var in (trips, condition, *states)]
    node = helper.make_node("Loop", operands, [var.name for var in outputs], body=inner.graph("body"))
    return draft.append(node, outputs)


BODIES: dict[str, Callable[..., list[Var]]] = {"If": _if, "Loop": _loop}
