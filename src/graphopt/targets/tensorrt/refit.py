"""Other weights in an engine that is built, in a fraction of the time of building it.

The parser gives weights the names that initializers have in the model, and a Refitter replaces them by name (TensorRT
developer guide, "Refitting an Engine"). The new model must be the old one but for the numbers: both go through the same
passes first, as folding moves numbers between weights.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, numpy_helper

from graphopt.errors import GraphoptError
from graphopt.targets.tensorrt._bindings import Bindings

__all__ = ["check_same_graph", "refit"]


def check_same_graph(old: ModelProto, new: ModelProto) -> None:
    """Raises GraphoptError, naming the first difference, where two models differ in more than their weights."""
    pairs = list(zip(old.graph.node, new.graph.node, strict=False))
    if len(old.graph.node) != len(new.graph.node):
        raise GraphoptError(f"the new model has {len(new.graph.node)} nodes, not {len(old.graph.node)}: build it anew")
    for left, right in pairs:
        if left.SerializeToString(deterministic=True) != right.SerializeToString(deterministic=True):
            raise GraphoptError(f"{right.op_type} {right.name!r} differs from the engine's model: build it anew")
    shapes = {tensor.name: (tensor.data_type, list(tensor.dims)) for tensor in old.graph.initializer}
    for tensor in new.graph.initializer:
        if shapes.get(tensor.name) != (tensor.data_type, list(tensor.dims)):
            raise GraphoptError(f"weight {tensor.name!r} has another type or shape than the engine's: build it anew")


def refit(engine: Any, model: ModelProto, bindings: Bindings, logger: Any, log: list[str]) -> int:
    """Puts the initializers of `model` into an ICudaEngine; returns how many were replaced.

    Raises GraphoptError: the engine was built without `refit`, or TensorRT does not take a weight, or lacks one.
    """
    if not engine.refittable:
        raise GraphoptError("the engine was built without refit; build it with the option refit=True")
    try:
        refitter = bindings.trt.Refitter(engine, logger)
    except TypeError as error:  # so the bindings say that there is none: with several profiles before TensorRT 8.6
        raise GraphoptError(f"TensorRT does not refit such an engine: {_said(log)}") from error
    known = set(refitter.get_all_weights())
    held = []  # TensorRT reads them when it refits
    for tensor in model.graph.initializer:
        if tensor.name in known:
            array, weights = _weights(tensor, bindings)
            held.append(array)
            if not refitter.set_named_weights(tensor.name, weights):
                raise GraphoptError(f"TensorRT does not take weight {tensor.name!r}: {_said(log)}")
    missing = refitter.get_missing_weights()
    if missing:
        raise GraphoptError(f"refitting needs {missing[0]!r}, too, which the model has not; build it anew")
    if not refitter.refit_cuda_engine():
        raise GraphoptError(f"TensorRT does not refit the engine: {_said(log)}")
    return len(held)


_NARROWED: dict[int, Any] = {
    TensorProto.DOUBLE: np.float32,
    TensorProto.INT64: np.int32,
}  # by the parser, before it knew these types
_UNKNOWN_TO_NUMPY: dict[int, str] = {TensorProto.BFLOAT16: "BF16", TensorProto.FLOAT8E4M3FN: "FP8"}


def _weights(tensor: TensorProto, bindings: Bindings) -> tuple[np.ndarray, Any]:
    """The numbers, which have to outlive the refitting, and TensorRT's view of them."""
    array = np.ascontiguousarray(numpy_helper.to_array(tensor))
    narrow = _NARROWED.get(tensor.data_type)
    if narrow is not None and not (tensor.data_type == TensorProto.INT64 and bindings.has("DataType", "INT64")):
        array = array.astype(narrow)
    name = _UNKNOWN_TO_NUMPY.get(tensor.data_type)
    if name is None:
        return array, bindings.trt.Weights(array)
    if not bindings.has("DataType", name):
        raise GraphoptError(f"weight {tensor.name!r} is {name}, which this TensorRT does not have")
    return array, bindings.trt.Weights(getattr(bindings.trt.DataType, name), array.ctypes.data, array.size)


def _said(log: list[str]) -> str:
    return "; ".join(log[-2:]) or "it gave no reason"
