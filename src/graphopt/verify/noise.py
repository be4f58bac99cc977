"""How far the original is from itself: under changes of one unit in the last place of its inputs or of its weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from onnx import GraphProto, NodeProto, TensorProto, numpy_helper

from graphopt.verify.source import Source, nodes_of, scopes

__all__ = ["APART", "nudged", "nudged_feeds", "nudged_scales", "nudged_weights"]

# These read shapes, steps and thresholds from their float inputs: a nudge there is no rounding error.
_GEOMETRY = set(
    (
        "Resize Upsample Range NonMaxSuppression RoiAlign Pad Clip CropAndResize HannWindow ThresholdedRelu Shrink Loop"
        " If Scan"
    ).split()
)
_SUMS = set("Add Sub Mul Div Sum Conv ConvTranspose Gemm MatMul BatchNormalization InstanceNormalization".split())
_QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")
_FLOATING = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)
_KINDS = {"float16": np.uint16, "bfloat16": np.uint16, "float32": np.uint32, "float64": np.uint64}
APART = 4  # seeds; the last of them turns no tensor (of the first eight)
_MIX = 0x9E3779B97F4A7C15  # 2^64 divided by the golden ratio: spreads the bits of a value


def nudged(array: np.ndarray, seed: int, steps: int = 1, turned: bool = False) -> np.ndarray:
    """`array` with every element moved by `steps` units in the last place, up or down by a hash of its value; turned:
    the other way.

    Equal elements move equally, so ties stay ties; zeros, infinities, NaN and other types stay as they are.
    """
    kind = _KINDS.get(array.dtype.name)
    if kind is None or not array.size:
        return array
    bits = np.ascontiguousarray(array).reshape(-1).view(kind)
    mixed = (bits.astype(np.uint64) + np.uint64(seed + 1)) * np.uint64(_MIX)
    up = ((mixed >> np.uint64(40)) & np.uint64(1)).astype(bool) != turned
    moved = np.where(up, bits + kind(steps), bits - kind(steps)).astype(kind).view(array.dtype).reshape(array.shape)
    with np.errstate(invalid="ignore"):  # a nudge may make infinity a NaN, which is then not taken
        values, results = array.astype(np.float64), moved.astype(np.float64)
    keep = (values == 0) | ~np.isfinite(values) | ~np.isfinite(results)
    return np.where(keep, array, moved).astype(array.dtype)


def nudged_feeds(feeds: Mapping[str, Any], seed: int, steps: int = 1) -> dict[str, Any]:
    """`feeds` with every float nudged, those in sequences too."""
    return {name: _nudged_value(value, seed, steps) for name, value in feeds.items()}


def _nudged_value(value: Any, seed: int, steps: int) -> Any:
    if isinstance(value, list):
        return [nudged(item, seed, steps) if isinstance(item, np.ndarray) else item for item in value]
    return nudged(value, seed, steps) if isinstance(value, np.ndarray) else value


def nudged_weights(source: Source, seed: int = 0, apart: bool = False) -> Source:
    """A copy of the model whose float weights are nudged. The original's weights are read into memory.

    apart: single numbers, too, that are added, multiplied or normalized with; and in the seeds up to `APART` any two of
    eight tensors move alike in one and in opposite ways in another, if their weights are equal, too. Where such terms
    cancel (a bias that is the mean taken off it again, and weights that are zero), this alone shows how far what is
    left of them is rounding.
    """
    model = source.copy()
    spared = {name for scope in scopes(model) for n in nodes_of(scope) if n.op_type in _GEOMETRY for name in n.input}
    for scope in scopes(model):
        tensors = [(tensor, tensor.name) for tensor in getattr(scope, "initializer", ())]
        for node in nodes_of(scope):
            if node.op_type == "Constant":
                tensors += [(entry.t, node.output[0]) for entry in node.attribute if entry.HasField("t")]
        terms = _terms(nodes_of(scope)) if apart else set[str]()
        for place, (tensor, name) in enumerate(tensors):
            if name not in spared:
                _nudge_tensor(tensor, 0 if apart else seed, name in terms, apart and bool(place >> seed & 1))
    return Source(model, None, source.name)


def _terms(nodes: Iterable[NodeProto]) -> set[str]:
    """What sums and products read."""
    return {name for node in nodes if node.op_type in _SUMS and not node.domain for name in node.input}


def nudged_scales(source: Source, seed: int = 0) -> Source | None:
    """A copy of the model whose quantization scales are nudged; None where it has none that are constant.

    What is exactly between two steps then goes to the other, as it does when a runtime adds up in another order.
    """
    model = source.copy()
    found = False
    for scope in scopes(model):
        if not isinstance(scope, GraphProto):
            continue
        names = {n.input[1] for n in nodes_of(scope) if n.op_type in _QUANTIZERS and len(n.input) > 1}
        for tensor in scope.initializer:
            if tensor.name in names and tensor.data_type in _FLOATING:
                tensor.CopyFrom(numpy_helper.from_array(nudged(numpy_helper.to_array(tensor), seed), tensor.name))
                found = True
    return Source(model, None, source.name) if found else None


def _nudge_tensor(tensor: TensorProto, seed: int, single: bool, turned: bool) -> None:
    if tensor.data_type not in _FLOATING or (np.prod(tensor.dims, dtype=np.int64) < 2 and not single):
        return  # single numbers are constants of formulas, which a rewrite does not round
    array = nudged(numpy_helper.to_array(tensor), seed, turned=turned)
    name = tensor.name
    tensor.CopyFrom(numpy_helper.from_array(array, name))
