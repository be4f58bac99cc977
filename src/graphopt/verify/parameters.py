"""Inputs that steer an operator rather than feed it: axes, target shapes, scales, slice bounds, counts."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from graphopt.verify.axes import Axes
from graphopt.verify.flow import Flow, Use, attribute

__all__ = ["Parameter", "parameter_of", "parameter_values"]

Shape = tuple["int | str | None", ...]

_KINDS = {
    ("Squeeze", 1): "squeezed",
    ("Unsqueeze", 1): "axes",
    ("Slice", 3): "axes",
    ("Pad", 3): "axes",
    ("CumSum", 1): "axes",
    ("CumProd", 1): "axes",
    ("Reshape", 1): "target",
    ("Expand", 1): "expanded",
    ("CenterCropPad", 1): "expanded",
    ("Tile", 1): "repeats",
    ("Resize", 2): "scales",
    ("Upsample", 1): "scales",
    ("Resize", 3): "sizes",
    ("Slice", 1): "starts",
    ("Slice", 2): "ends",
    ("Slice", 4): "steps",
    ("Split", 1): "split",
    ("Range", 0): "from",
    ("Range", 1): "to",
    ("Range", 2): "steps",
    ("TopK", 1): "count",
    ("OneHot", 1): "depth",
    ("Pad", 1): "pads",
    ("AffineGrid", 1): "grid",
    ("SequenceAt", 1): "zero",
    ("SequenceErase", 1): "zero",
    ("SequenceInsert", 2): "zero",
    ("ConstantOfShape", 0): "shape",
    ("Col2Im", 1): "image",
    ("Trilu", 1): "zero",
    ("Dropout", 1): "ratio",
    ("NonMaxSuppression", 2): "shape",
    ("SplitToSequence", 1): "split",
}
DEPTH = 5  # of a OneHot whose depth is an input


@dataclass(frozen=True)
class Parameter:
    """What a parameter is for (`kind`), the shape of the data it applies to and that of the result, where known."""

    kind: str
    data: Shape | None = None
    result: Shape | None = None
    axis: int = 0


def parameter_of(use: Use, flow: Flow, axes: Axes) -> Parameter | None:
    """The parameter that an input is by this use of it, None when it is data."""
    node = use.node
    kind = "axes" if node.op_type.startswith("Reduce") and use.slot == 1 else _KINDS.get((node.op_type, use.slot))
    if kind is None:
        return None
    data = axes.shape(node.input[0]) if use.space == 0 and node.input[0] else None
    result = _declared(flow, node.output[0]) if use.space == 0 and node.output else None
    axis = attribute(node, "axis", -1 if node.op_type == "TopK" else 0)
    return Parameter(kind, data, result, axis if isinstance(axis, int) else 0)


def parameter_values(parameter: Parameter, shape: tuple[int, ...], style: str) -> np.ndarray:
    """Values of the given shape; where the operator would take several, those of style "wide" differ from "base"."""
    count, wide = math.prod(shape), style == "wide"
    values = _VALUES[parameter.kind](parameter, count, wide)
    return np.resize(np.asarray(values, np.float64), shape) if count else np.zeros(shape)


def _declared(flow: Flow, name: str) -> Shape | None:
    graph = flow.model.graph
    for value in (*graph.output, *graph.value_info):
        if value.name == name and value.type.tensor_type.HasField("shape"):
            return tuple(d.dim_value if d.HasField("dim_value") else None for d in value.type.tensor_type.shape.dim)
    return None


def _static(shape: Shape | None, count: int) -> list[int] | None:
    if shape is None or len(shape) != count or not all(isinstance(dim, int) for dim in shape):
        return None
    return [dim for dim in shape if isinstance(dim, int)]


def _axes(parameter: Parameter, count: int, wide: bool) -> list[int]:
    rank = len(parameter.data or ())
    known = wide and rank >= count and parameter.kind != "axes"
    return [axis - rank if known else axis for axis in range(count)]


def _squeezed(parameter: Parameter, count: int, wide: bool) -> list[int]:
    ones = [axis for axis, dim in enumerate(parameter.data or ()) if dim == 1]
    chosen = ones[:count] if len(ones) >= count else list(range(count))
    return [axis - len(parameter.data or ()) for axis in chosen] if wide and ones else chosen


def _target(parameter: Parameter, count: int, wide: bool) -> list[int]:
    return _static(parameter.result, count) or [-1, *[1] * (count - 1)]


def _expanded(parameter: Parameter, count: int, wide: bool) -> list[int]:
    return _static(parameter.result, count) or _static(parameter.data, count) or [1] * count


def _ratios(parameter: Parameter, count: int, wide: bool) -> list[float]:
    result, data = _static(parameter.result, count), _static(parameter.data, count)
    if result and data and all(data):
        return [new / old for new, old in zip(result, data, strict=True)]
    if parameter.kind == "repeats":
        return [2] * count
    sides = min(2, max(1, count - 2))
    return [1] * (count - sides) + [0.5 if wide else 2] * sides


def _sizes(parameter: Parameter, count: int, wide: bool) -> list[int]:
    result, data = _static(parameter.result, count), _static(parameter.data, count)
    return result or ([*data[:-1], 2 * data[-1]] if data else [8] * count)


def _split(parameter: Parameter, count: int, wide: bool) -> list[int]:
    data = parameter.data or ()
    size = data[parameter.axis] if -len(data) <= parameter.axis < len(data) else None
    if not isinstance(size, int):
        return [1] * count
    return [size // count] * (count - 1) + [size - size // count * (count - 1)]


def _count(parameter: Parameter, count: int, wide: bool) -> list[int]:
    data = parameter.data or ()
    size = data[parameter.axis] if -len(data) <= parameter.axis < len(data) else None
    most = size if isinstance(size, int) else 2
    return [max(1, min(most, 1 if wide else 3))] * count


def _grid(parameter: Parameter, count: int, wide: bool) -> list[int]:
    """AffineGrid's (N, C, sizes): N is theta's, sizes those of the result (N, sizes, 2 or 3)."""
    result = _static(parameter.result, count)
    batch = next((dim for dim in parameter.data or () if isinstance(dim, int)), 1)
    return [batch, 2, *(result[1:-1] if result else [4] * (count - 2))]


def _image(parameter: Parameter, count: int, wide: bool) -> list[int]:
    known = _static(parameter.result, count + 2)
    return known[2:] if known else [5] * count


def _pads(parameter: Parameter, count: int, wide: bool) -> list[int]:
    """One on either side of every axis but the first two."""
    rank = max(1, count // 2)
    return [int(place % rank >= min(2, rank - 1)) for place in range(count)]


_VALUES: dict[str, Callable[[Parameter, int, bool], Sequence[float]]] = {
    "axes": _axes,
    "squeezed": _squeezed,
    "target": _target,
    "expanded": _expanded,
    "repeats": _ratios,
    "scales": _ratios,
    "sizes": _sizes,
    "split": _split,
    "count": _count,
    "grid": _grid,
    "image": _image,
    "starts": lambda parameter, count, wide: [1 if wide else 0] * count,
    "ends": lambda parameter, count, wide: [-1 if wide else 1000] * count,
    "steps": lambda parameter, count, wide: [1] * count,
    "from": lambda parameter, count, wide: [1 if wide else 0] * count,
    "to": lambda parameter, count, wide: [9 if wide else 5] * count,
    "depth": lambda parameter, count, wide: [DEPTH] * count,
    "pads": _pads,
    "zero": lambda parameter, count, wide: [0] * count,
    "shape": lambda parameter, count, wide: [2 if wide else 3] * count,
    "ratio": lambda parameter, count, wide: [0.25 if wide else 0.5] * count,
}
