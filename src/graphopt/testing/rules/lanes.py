"""Lanes: operators alike on several values of one shape: inputs, parts of a Split, or a Gather of each index."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import onnx
from onnx import TensorProto

from graphopt.testing import catalog
from graphopt.testing.chooser import Chooser
from graphopt.testing.draft import DoesNotFit, Draft, Drawn, Var
from graphopt.testing.rules.hints import Hints
from graphopt.testing.rules.siblings import WEIGHTED, plain

__all__ = ["lanes"]

_FOLLOWERS = (
    "Relu Add Mul Sigmoid Sub Div Neg Cast Clip Softmax ReduceMean ReduceMax ReduceSum MaxPool GlobalAveragePool "
    "Flatten BatchNormalization PRelu Transpose LayerNormalization"
).split()
_ODD = 12  # percent of lanes that are not like the others


def lanes(chooser: Chooser, hints: Hints) -> Drawn:
    """Two or three values, the same operators on each, with the same constants or each with its own; and a Concat of
    the results, or as many outputs. Now and then a lane differs, or reads another one's result. Raises DoesNotFit."""
    draft = Draft(chooser, chooser.pick([17, 13, 11, 21, 18, 9, 12, 10, 7, 8]))
    results = _parts(draft, chooser)
    known = set(catalog.available(draft.opset))
    weighted = [op for op in WEIGHTED if op in hints.ops and op in known]
    if weighted and (chooser.chance(85) or "ReduceMean" not in hints.ops):
        omit = frozenset({2}) if chooser.chance(50) else frozenset()
        results = _on_all(draft, chooser.pick(weighted), results, chooser, chooser.chance(50), omit)
    mentioned = [op for op in _FOLLOWERS if op in hints.ops and op in known] or ["Relu"]
    for _ in range(chooser.integer(0, 2) if weighted else chooser.integer(1, 3)):
        try:
            results = _on_all(draft, chooser.pick(mentioned), results, chooser, chooser.chance(60))
        except DoesNotFit:
            continue
    if chooser.chance(50) and results[0].rank:
        axis = chooser.integer(0, results[0].rank - 1)
        operands = results if chooser.chance(75) else results[::-1] if chooser.chance(50) else [*results, results[0]]
        if chooser.chance(15):
            operands = [*operands, draft.constant(np.zeros(results[0].shape or ()), results[0].dtype)]
        with suppress(DoesNotFit):
            results = draft.node("Concat", operands, axis=axis)
    for var in results:
        draft.output(var)
    return draft.finish()


def _parts(draft: Draft, chooser: Chooser) -> list[Var]:
    count, rank = chooser.integer(2, 3), chooser.pick([2, 3, 4, 2, 3])
    dtype = chooser.pick([TensorProto.FLOAT, TensorProto.FLOAT, TensorProto.FLOAT, TensorProto.DOUBLE])
    shape = [chooser.pick([1, 2, 3, 4, 2, 3, 0] if place != 1 else [2, 3, 4, 1]) for place in range(rank)]
    dims: tuple[int | str, ...] = ("N", *shape[1:]) if chooser.chance(40) else tuple(shape)
    how = chooser.pick(["inputs", "split", "gather"])
    if how == "inputs":
        return [draft.input(dtype, shape, dims) for _ in range(count)]
    if how == "gather":
        whole = draft.input(dtype, [count, *shape], (count, *dims))
        places = list(range(count)) if chooser.chance(70) else [count - 1 - k for k in range(count)]
        if chooser.chance(10):
            places[-1] = 0
        index = [draft.constant(np.array(k - count if chooser.chance(20) else k), TensorProto.INT64) for k in places]
        return [draft.node("Gather", [whole, k], axis=0)[0] for k in index]
    axis = chooser.pick([0, 1, rank - 1])
    sizes = [shape[axis]] * count
    if chooser.chance(20):
        sizes[-1] += 1
    longer = [*shape[:axis], sum(sizes), *shape[axis + 1 :]]
    whole = draft.input(dtype, longer, ("N", *longer[1:]) if axis and chooser.chance(40) else tuple(longer))
    if draft.opset < 13:
        return draft.node("Split", [whole], count, axis=axis, split=sizes)
    return draft.node("Split", [whole, draft.constant(np.array(sizes), TensorProto.INT64)], axis=axis, n_out=count)


def _on_all(
    draft: Draft, op: str, values: list[Var], chooser: Chooser, shared: bool, omit: frozenset[int] = frozenset()
) -> list[Var]:
    """The same operator on each. shared: with the very same constants. Raises DoesNotFit."""
    mark = draft.mark()
    slots = frozenset(range(1, 6)) - omit
    first = catalog.apply(draft, op, {0: values[0]}, const_slots=slots, omit=omit)[0]
    node = next(node for node in draft.nodes if first.name in node.output)
    by_name = {var.name: var for var in draft.values}
    attrs = {a.name: plain(a) for a in node.attribute}
    found = [first]
    for value in values[1:]:
        operands = [value if name == values[0].name else by_name.get(name) for name in node.input]
        odd = chooser.chance(_ODD)
        if odd and found[-1].shape == value.shape and chooser.chance(50):
            operands = [found[-1] if operand is value else operand for operand in operands]
        elif odd and attrs:
            attrs = {key: given for key, given in attrs.items() if key != next(iter(attrs))}
        if not shared:
            operands = [_fresh(draft, operand) for operand in operands]
        try:
            found.append(draft.node(op, operands, **attrs)[0])
        except (DoesNotFit, onnx.checker.ValidationError) as error:
            draft.rollback(mark)
            raise DoesNotFit(str(error)) from error
    return found


def _fresh(draft: Draft, operand: Var | None) -> Var | None:
    """A constant of floats with other data."""
    if operand is None or operand.const is None or operand.const.dtype.kind != "f":
        return operand
    return draft.constant(draft.chooser.array(operand.dtype, operand.const.shape, special=False), operand.dtype)
