"""What the uses of an input say about the values it should hold."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np
from onnx import TensorProto

from graphopt.verify.axes import Axes
from graphopt.verify.flow import Flow, Use, attribute
from graphopt.verify.parameters import DEPTH, Parameter, parameter_of
from graphopt.verify.spec import InputSpec

__all__ = ["Hint", "hints_of"]

_INDEX = {"Gather": 1, "GatherElements": 1, "GatherND": 1, "ScatterElements": 1, "ScatterND": 1, "Scatter": 1,
          "GatherBlockQuantized": 1, "NegativeLogLikelihoodLoss": 1, "SoftmaxCrossEntropyLoss": 1, "RoiAlign": 2,
          "ArrayFeatureExtractor": 1}  # fmt: skip
_COMPARES = {"Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual"}
_LENGTHS = {
    ("LSTM", 4),
    ("GRU", 4),
    ("RNN", 4),
    ("ReverseSequence", 1),
    ("Slice", 2),
    ("Range", 1),
    ("CropAndResize", 3),
}
_STEPS = {("LSTM", 4), ("GRU", 4), ("RNN", 4), ("ReverseSequence", 1)}  # lengths along the time axis of the first input
_POSITIVE = {"Log", "Sqrt"}
_VOCABULARY = (
    "keys_strings cats_strings pool_strings string_vocabulary classlabels_strings keys_int64s cats_int64s pool_int64s"
    " int64_vocabulary keys_floats"
).split()
_MASK = re.compile(r"mask|(^|_)valid(ity)?($|_)", re.IGNORECASE)
_LENGTH = re.compile(r"(^|[_./])(len|lens|length|lengths|widths?)($|[_./\d])|seq_?len|num_tokens", re.IGNORECASE)
_ROLES = (
    ("position", re.compile(r"position|pos_ids", re.IGNORECASE)),
    ("rate", re.compile(r"(^|_)(sr|fs|sample_?rate|sampling_rate)($|_)", re.IGNORECASE)),
)


@dataclass(frozen=True)
class Hint:
    """What the values of one input should be like.

    role: "", "mask", "length", "position", "rate" or "trip". low, high: bounds of integral values, None where unknown.
    below: symbols whose sizes integral values must stay below. choices: constants that the model compares the input
    with, or looks it up in. integral: a float input that is used as an integer. truncated: by a Cast. index: its values
    address the elements of some axis. positive: zero or less gives NaN. special: the model looks for NaN or infinity.
    rank: of an input whose shape is not declared. parameter: what it is when it steers an operator. found: traces of
    roles, for `hints_of`.
    """

    role: str = ""
    low: int | None = None
    high: int | None = None
    below: tuple[str, ...] = ()
    choices: tuple[object, ...] = ()
    integral: bool = False
    truncated: bool = False
    index: bool = False
    positive: bool = False
    special: bool = False
    rank: int | None = None
    parameter: Parameter | None = None
    found: frozenset[str] = field(default=frozenset())

    def bounded(self, low: int, high: int) -> Hint:
        """This hint with bounds no wider than low..high."""
        low = low if self.low is None else max(self.low, low)
        high = high if self.high is None else min(self.high, high)
        return replace(self, low=min(low, high), high=high)


def hints_of(specs: Iterable[InputSpec], flow: Flow, axes: Axes) -> dict[str, Hint]:
    """A hint for every input."""
    return {spec.name: _hint(spec, flow, axes) for spec in specs}


def _hint(spec: InputSpec, flow: Flow, axes: Axes) -> Hint:
    hint = Hint(role=_role_by_name(spec))
    choices: list[object] = []
    for use in flow.uses(spec.name):
        hint = _learn(hint, use, flow, axes)
        choices += _choices(use, flow)
    hint = replace(hint, choices=tuple(dict.fromkeys(choices))[:64])
    if not hint.role and "length" in hint.found and spec.dims is not None and len(spec.dims) <= 1:
        hint = replace(hint, role="length")
    return hint


def _role_by_name(spec: InputSpec) -> str:
    if _MASK.search(spec.name) and spec.elem_type != TensorProto.STRING:
        return "mask"
    integer = spec.elem_type in (TensorProto.INT32, TensorProto.INT64)
    if integer and _LENGTH.search(spec.name) and spec.dims is not None and len(spec.dims) <= 1:
        return "length"
    return next((role for role, pattern in _ROLES if integer and pattern.search(spec.name)), "")


def _learn(hint: Hint, use: Use, flow: Flow, axes: Axes) -> Hint:
    op, slot = use.node.op_type, use.slot
    if use.cast:
        hint = replace(hint, truncated=True)
    if _INDEX.get(op) == slot or (op == "OneHot" and slot == 0) or op == "EmbedLayerNormalization":
        hint = replace(hint, index=True, integral=True)
        size = None if use.bounded else _axis_size(use, flow, axes)
        if isinstance(size, str):
            return replace(hint, below=tuple(dict.fromkeys((*hint.below, size))))
        return hint if size is None else _bound(hint, use, size)
    if op in _POSITIVE or (op == "Div" and slot == 1) or op == "Reciprocal" or (op == "Pow" and slot == 0):
        hint = replace(hint, positive=True)
    if op in ("IsNaN", "IsInf"):
        hint = replace(hint, special=True)
    if (op, slot) in _LENGTHS or (op in _COMPARES and flow.constant(use.space, use.node.input[1 - slot]) is None):
        hint = replace(hint, found=hint.found | {"length"})
    if (op, slot) in _STEPS:
        shape = axes.shape(use.node.input[0]) if use.space == 0 else None
        axis = attribute(use.node, "time_axis", 0)
        size = shape[axis] if shape and isinstance(axis, int) else None
        hint = hint.bounded(1, size) if isinstance(size, int) else hint
    if hint.parameter is None:
        hint = replace(hint, parameter=parameter_of(use, flow, axes))
    if op in ("Div", "Mod") and slot == 1 and hint.low is None:
        hint = replace(hint, low=1)
    if op == "Loop" and slot == 0:
        hint = replace(hint, role=hint.role or "trip")
    if op in ("Conv", "MaxPool", "AveragePool", "ConvTranspose", "GlobalAveragePool") and slot == 0:
        weight = flow.shape(use.space, use.node.input[1]) if "Conv" in op else None
        hint = replace(hint, rank=hint.rank or len(weight or ()) or 4)
    return hint


def _axis_size(use: Use, flow: Flow, axes: Axes) -> int | str | None:
    """The size of the axis that the values address, or the symbol for it, where it is known."""
    node, op = use.node, use.node.op_type
    if op == "OneHot":
        depth = flow.constant(use.space, node.input[1])
        return DEPTH if depth is None else int(depth.ravel()[0])
    table = {0: 2, 1: 3, 8: 4}.get(use.slot, -1) if op == "EmbedLayerNormalization" else 0
    if not 0 <= table < len(node.input):
        return None
    name = node.input[table]
    shape = flow.shape(use.space, name) or (axes.shape(name) if use.space == 0 else None)
    if not shape:
        return None
    if op in ("GatherND", "ScatterND"):
        return min((dim for dim in shape if isinstance(dim, int)), default=None)
    axis = 1 if op.endswith("Loss") else -1 if op == "ArrayFeatureExtractor" else attribute(node, "axis", 0)
    return shape[axis] if isinstance(axis, int) and -len(shape) <= axis < len(shape) else None


def _bound(hint: Hint, use: Use, size: int) -> Hint:
    """Bounds on x so that scale * x + offset lies in 0 .. size - 1."""
    if not use.scale or size < 1:
        return hint
    ends = sorted(((0 - use.offset) / use.scale, (size - 1 - use.offset) / use.scale))
    low, high = int(np.ceil(ends[0] - 1e-9)), int(np.floor(ends[1] + 1e-9))
    return hint.bounded(low, high) if low <= high else hint


def _choices(use: Use, flow: Flow) -> Iterable[object]:
    node = use.node
    if node.op_type in _COMPARES and len(node.input) == 2:
        constant = flow.constant(use.space, node.input[1 - use.slot])
        if constant is None or constant.size > 16:
            return ()
        if constant.dtype.kind in "iuf" and use.scale:
            steps = (0,) if node.op_type == "Equal" else (0, 1)
            numbers = [(float(c) - use.offset) / use.scale + step for c in constant.ravel() for step in steps]
            return [int(n) if float(n).is_integer() else n for n in numbers]
        return [str(c) for c in constant.ravel()] if constant.dtype.kind in "OUS" else ()
    found: list[object] = []
    for name in _VOCABULARY:
        value = attribute(node, name)
        if isinstance(value, (list, tuple)):
            found += [v.decode("utf-8", "replace") if isinstance(v, bytes) else v for v in list(value)[:64]]
    return found
