"""Operators on [N, C, L] as operators on [N, C, 1, L]: which have such a form, and which it is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from onnx import TypeProto

from graphopt.ir import Node, Value
from graphopt.passes.simplify._facts import ints, vector
from graphopt.passes.simplify._views import make_squeeze
from graphopt.passes.simplify.reduce import axes_of
from graphopt.rewrite import Builder

AXIS = 2  # the new one
ELEMENTWISE = frozenset(
    "Abs Add Ceil Celu Clip Div Elu Erf Exp Floor Gelu HardSigmoid HardSwish LeakyRelu Log Max Mean Min Mish Mul Neg "
    "PRelu Pow Reciprocal Relu Round Selu Sigmoid Sign Softplus Softsign Sqrt Sub Sum Tanh ThresholdedRelu".split()
)
MICROSOFT = frozenset({"Gelu", "QuickGelu"})
POOLS = frozenset({"AveragePool", "GlobalAveragePool"})  # maxima lose NaN in ways of their own
REDUCTIONS = frozenset({"ReduceMean", "ReduceSum"})
NORMS = frozenset({"BatchNormalization", "InstanceNormalization"})
_LISTS = ("dilations", "kernel_shape", "strides")  # attributes with a number for each axis: 1 for the new one


def has_form(node: Node) -> bool:
    """Whether an operator other than Conv has a form with one axis more, which is certainly the same function."""
    if node.has_references or not node.inputs or not node.outputs or node.output.rank != 3:
        return False
    if any(v.name for v in node.outputs[1:]):
        return False
    if node.domain == "com.microsoft":
        return node.op in MICROSOFT and len(node.inputs) == 1
    if node.domain or not all(_fits(value) for value in operands(node)):
        return False
    if node.op == "Slice":
        return _is_list(node, (1, 2, 3, 4)) and _data_rank(node) == 3
    if node.op == "Pad":
        return node.input(3) is None and _is_list(node, (1,)) and _data_rank(node) == 3
    if node.op == "Concat":
        return all(value.rank == 3 for value in operands(node))
    if node.op in REDUCTIONS:
        x = node.inputs[0]
        return (
            x is not None and _data_rank(node) == 3 and axes_of(node, x) == (AXIS,) and bool(node.attr("keepdims", 1))
        )
    if node.op in POOLS or node.op in NORMS:
        return _data_rank(node) == 3 and not node.attr("training_mode", 0)
    return node.op in ELEMENTWISE and any(value.rank == 3 for value in streams(node))


def find_ranks(order: Iterable[Node]) -> None:
    """Tells values that they have three axes where only the weights of a Conv say so: what it reads, what it makes, and
    what functions make of that."""
    for node in order:
        if node.domain or not node.inputs or not node.outputs or node.output.rank is not None:
            continue
        x, w = node.inputs[0], node.input(1)
        if node.op == "Conv" and w is not None and w.rank == 3 and x is not None:
            for value in (x, node.output):
                if value.rank is None:
                    value.set_shape((None,) * 3)
        elif x is not None and x.rank == 3 and (node.op in POOLS or node.op in NORMS or _is_function(node)):
            node.output.set_shape((None,) * 3)


def _is_function(node: Node) -> bool:
    return node.op in ELEMENTWISE and len(list(operands(node))) == 1


def operands(node: Node) -> Iterator[Value]:
    """The inputs that are given."""
    return (value for value in node.inputs if value is not None)


def streams(node: Node) -> Iterator[Value]:
    """The inputs that get the new axis and are no constants."""
    return (value for value in operands(node) if not value.is_const and value.rank == 3)


def _data_rank(node: Node) -> int | None:
    data = node.inputs[0]
    return None if data is None or data.is_const else data.rank


def _fits(value: Value) -> bool:
    """What is aligned at the last axis stays aligned; a matrix that is no constant would have to be reshaped."""
    return value.rank is not None and (value.rank in (0, 1, 3) or (value.is_const and value.rank == 2))


def _is_list(node: Node, slots: tuple[int, ...]) -> bool:
    given = [node.input(slot) for slot in slots]
    return node.input(1) is not None and all(value is None or ints(value) is not None for value in given)


def widen(node: Node, new: Builder, given: list[Value | None], weight: Value | None = None) -> Value:
    """The operator with one axis more. given: its operands, those of rank 3 already with it. weight: of a Conv."""
    more: dict[str, Any] = {}
    if node.op in POOLS or node.op == "Conv":
        for name in _LISTS:
            if name in node.attributes:
                more[name] = [1, *node.attr(name)]
        if "pads" in node.attributes:
            begin, end = node.attr("pads")
            more["pads"] = [0, begin, 0, end]
    if node.op == "Concat":
        more["axis"] = _place(node.attr("axis"))
    elif node.op == "Slice":
        axes = ints(node.input(3))
        axes = tuple(range(len(ints(node.input(1)) or ()))) if axes is None else axes
        given[3:4] = [_numbers([_place(axis) for axis in axes], new)]
    elif node.op in REDUCTIONS:
        if node.input(1) is None:
            more["axes"] = [AXIS + 1]
        else:
            given[1] = _numbers([AXIS + 1], new)
    elif node.op == "Pad":
        pads = list(ints(node.input(1)) or ())
        given[1] = _numbers([*pads[:AXIS], 0, *pads[AXIS:5], 0, pads[5]], new)
    elif weight is not None:
        given[1] = new.constant(np.expand_dims(weight.numpy(), AXIS), like=weight)
    made: Value = new.make(node.op, *given, like=node, domain=node.domain, **more)
    made.set_type(_with_axis(node.output))
    return made


def _numbers(numbers: list[int], new: Builder) -> Value:
    made: Value = new.constant(vector(numbers), "axes")
    return made


def _place(axis: int) -> int:
    """Where an axis of three is among four."""
    axis = axis + 3 if axis < 0 else axis
    return axis + (axis >= AXIS)


def raised(value: Value, new: Builder) -> Value:
    """The value with the new axis: a constant is reshaped, anything else unsqueezed."""
    if value.is_const:
        return new.constant(np.expand_dims(value.numpy(), -2), like=value) if (value.rank or 0) > 1 else value
    made = make_squeeze(new, value, (AXIS,), new.before, "Unsqueeze")
    made.set_type(_with_axis(value))
    return made


def _with_axis(value: Value) -> TypeProto | None:
    """The type with the new axis."""
    if value.type is None or value.shape is None:
        return None
    wide = TypeProto()
    wide.tensor_type.elem_type = value.type.tensor_type.elem_type
    for place, dim in enumerate(value.type.tensor_type.shape.dim):
        if place == AXIS:
            wide.tensor_type.shape.dim.add(dim_value=1)
        wide.tensor_type.shape.dim.add().CopyFrom(dim)
    return wide
