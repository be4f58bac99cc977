"""What small integer computations on sizes give while a model is drafted: Shape, Gather, Concat, ... of known data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from onnx import NodeProto, helper

LARGEST = 32  # elements: sizes, not data


def known(node: NodeProto, values: Sequence[np.ndarray | None], inputs: Sequence[Any], at: int) -> np.ndarray | None:
    """The data of output `at` of a node, where it follows from sizes and small constants; else None.

    inputs: the operands (anything with `shape`, or None); values: their data where known.
    """
    if at:
        return None
    if node.op_type in ("Shape", "Size"):
        shape = inputs[0].shape
        if shape is None:
            return None
        attrs = _attrs(node)
        if node.op_type == "Size":
            return np.array(int(np.prod(shape, dtype=np.int64)), np.int64)
        return np.array(shape[slice(attrs.get("start"), attrs.get("end"))], np.int64)
    rule = _RULES.get(node.op_type)
    if rule is None or any(v is None or v.size > LARGEST or v.dtype.kind != "i" for v in values):
        return None
    try:
        with np.errstate(all="ignore"):
            return np.asarray(rule(_attrs(node), *values))
    except (ValueError, IndexError, TypeError, ZeroDivisionError):
        return None


def _attrs(node: NodeProto) -> dict[str, Any]:
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def _squeeze(attrs: dict[str, Any], data: np.ndarray, axes: np.ndarray | None = None) -> np.ndarray:
    chosen = attrs.get("axes") if axes is None else axes.tolist()
    return np.squeeze(data, None if chosen is None else tuple(chosen))


def _unsqueeze(attrs: dict[str, Any], data: np.ndarray, axes: np.ndarray | None = None) -> np.ndarray:
    return np.expand_dims(data, tuple(attrs["axes"] if axes is None else axes.tolist()))


_RULES: dict[str, Callable[..., np.ndarray]] = {
    "Identity": lambda attrs, data: data,
    "Gather": lambda attrs, data, at: np.take(data, at, attrs.get("axis", 0)),
    "Concat": lambda attrs, *parts: np.concatenate(parts, attrs["axis"]),
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Add": lambda attrs, a, b: a + b,
    "Sub": lambda attrs, a, b: a - b,
    "Mul": lambda attrs, a, b: a * b,
    "Range": lambda attrs, start, limit, step: np.array(range(int(start), int(limit), int(step)), start.dtype),
    "Cast": lambda attrs, data: data.astype(helper.tensor_dtype_to_np_dtype(attrs["to"])),
}
