"""Siblings: operators that read one input, each with constants of its own, and what follows all of them alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnx
from onnx import AttributeProto, helper

from graphopt.testing import catalog
from graphopt.testing.chooser import Chooser
from graphopt.testing.draft import DoesNotFit, Draft, Drawn, Var
from graphopt.testing.rules.hints import Hints

__all__ = ["WEIGHTED", "plain", "siblings"]

WEIGHTED = ("Conv", "MatMul", "Gemm", "ConvTranspose")  # operators with constant weights, as a rule
_FOLLOWERS = ("Relu", "Add", "Mul", "Sigmoid", "Sub", "Neg", "Div")
_ALIKE = 85  # percent


def siblings(chooser: Chooser, hints: Hints) -> Drawn:
    """Two or three operators on one input, each with its own weights, maybe of another number of channels; what follows
    each of them in the same way; and a Concat of all, or as many outputs. Now and then one of them is not like the
    others. Raises DoesNotFit."""
    draft = Draft(chooser, chooser.pick([17, 13, 11, 21, 9, 18, 7, 12, 10]))
    mentioned = [op for op in WEIGHTED if op in hints.ops] or list(WEIGHTED)
    op = chooser.pick(mentioned)
    omit = frozenset({2}) if chooser.chance(40) else frozenset()
    first = catalog.apply(draft, op, const_slots=frozenset({1, 2} - omit), omit=omit)[0]
    count = chooser.integer(1, 2)
    results = [first, *(_again(draft, first, {}, chooser, resize=chooser.chance(50)) for _ in range(count))]
    known = [op for op in _FOLLOWERS if op in hints.ops and op in catalog.available(draft.opset)]
    for _ in range(chooser.integer(0, 2) if known else 0):
        results = _followed(draft, chooser.pick(known), results, chooser)
    if chooser.chance(40) and all(var.rank for var in results):
        axis = chooser.pick([1, -1]) if (first.rank or 0) > 1 else 0
        operands = results if chooser.chance(70) else [*results, *results[:1]] if chooser.chance(50) else results[::-1]
        draft.output(draft.node("Concat", operands, axis=axis % (first.rank or 1) if draft.opset < 11 else axis)[0])
    for var in results if not draft.outputs or chooser.chance(20) else ():
        draft.output(var)
    return draft.finish()


def _followed(draft: Draft, op: str, results: list[Var], chooser: Chooser) -> list[Var]:
    """One more operator behind each, alike (or behind all but one), with constants of its own."""
    first, others = results[0], results[1:]
    slot = 1 if chooser.chance(20) else 0
    made = catalog.apply(draft, op, {slot: first}, const_slots=frozenset({1 - slot}))[0]
    found = [made]
    for var in others:
        if chooser.chance(_ALIKE):
            found.append(_again(draft, made, {first.name: var}, chooser, resize=True))
        else:
            found.append(var)
    return found


def _again(draft: Draft, made: Var, instead: Mapping[str, Var], chooser: Chooser, *, resize: bool) -> Var:
    """The node that made a value once more. instead: what it reads in place of a value. Constants are its own; resize:
    of another number of channels where that fits, of that of `instead` if there is one."""
    node = next(node for node in draft.nodes if made.name in node.output)
    by_name = {var.name: var for var in draft.values}
    attrs = {a.name: plain(a) for a in node.attribute}
    operands = [by_name.get(name) for name in node.input]
    if chooser.chance(100 - _ALIKE):
        attrs.pop(next(iter(attrs), ""), None)
    for size, axis in [*_sizes(operands, instead, chooser)] if resize else []:
        try:
            return _node(draft, node.op_type, operands, instead, attrs, size, axis)
        except DoesNotFit:
            continue
    return _node(draft, node.op_type, operands, instead, attrs, None, -1)


def plain(attribute: AttributeProto) -> Any:
    """An attribute's value, as `Draft.node` takes it."""
    value = helper.get_attribute_value(attribute)
    return value.decode() if isinstance(value, bytes) else value


def _sizes(
    operands: list[Var | None], instead: Mapping[str, Var], chooser: Chooser
) -> list[tuple[tuple[int, int], int]]:
    """(channels there, channels wanted) and the weights' axis: those of a value in the place of another, or any."""
    pairs = [(by.shape, var.shape) for var in operands if var is not None and (by := instead.get(var.name)) is not None]
    for new, old in pairs:
        if new is not None and old is not None and len(new) == len(old):
            return [((b, a), -1) for a, b in zip(new, old, strict=True) if a != b][:1]
    weight = operands[1] if len(operands) > 1 else None
    if weight is None or weight.const is None or weight.const.ndim < 2 or instead:
        return []
    wanted = chooser.pick([2, 3, 1, 4])
    return [((weight.const.shape[axis], wanted), axis) for axis in ((0, 1) if chooser.chance(50) else (1, 0))]


def _node(
    draft: Draft,
    op: str,
    operands: list[Var | None],
    instead: Mapping[str, Var],
    attrs: dict[str, Any],
    size: tuple[int, int] | None,
    axis: int,
) -> Var:
    """The node; constants get new data, and where `size` says so, another size: the weights along `axis` (-1: wherever
    they have that size), all others wherever they have that size."""
    chooser, mark, given = draft.chooser, draft.mark(), []
    shared = chooser.chance(100 - _ALIKE)
    for slot, var in enumerate(operands):
        if var is None or var.const is None or (slot == 0 and var.name not in instead and not instead):
            given.append(instead.get(var.name, var) if var is not None else None)
            continue
        shape = list(var.const.shape)
        for at, dim in enumerate(shape):
            if size is not None and dim == size[0] and (slot != 1 or axis in (-1, at)):
                shape[at] = size[1]
        is_same = shared and shape == list(var.const.shape)
        given.append(var if is_same else draft.constant(chooser.array(var.dtype, shape, special=False), var.dtype))
    try:
        return draft.node(op, given, **attrs)[0]
    except (DoesNotFit, onnx.checker.ValidationError) as error:
        draft.rollback(mark)
        raise DoesNotFit(str(error)) from error
