"""Inputs in a folder, for another process: one protobuf message of onnx for each, whatever its type."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from onnx import GraphProto, ModelProto, SequenceProto, TensorProto, numpy_helper

from graphopt.errors import GraphoptError
from graphopt.ir import dtypes


def write_feeds(folder: Path, feeds: Mapping[str, Any]) -> None:
    """Writes inputs as onnx messages. Raises GraphoptError for a map, an optional or a sparse tensor."""
    index = {}
    for place, (name, value) in enumerate(feeds.items()):
        message = _message(name, value)
        index[name] = [f"{place}.pb", type(message).__name__]
        (folder / f"{place}.pb").write_bytes(message.SerializeToString())
    (folder / "index.json").write_text(json.dumps(index))


def _message(name: str, value: Any) -> TensorProto | SequenceProto:
    if isinstance(value, (np.ndarray, np.generic)):
        return numpy_helper.from_array(np.asarray(value))
    if isinstance(value, (list, tuple)) and all(isinstance(item, np.ndarray) for item in value):
        return numpy_helper.from_list(list(value))
    raise GraphoptError(f"input {name!r} is neither a tensor nor a sequence of tensors; such models cannot be timed")


def read_feeds(folder: Path) -> dict[str, Any]:
    """What `write_feeds` wrote: OrtValues, arrays of strings, lists of arrays."""
    feeds: dict[str, Any] = {}
    for name, (file, kind) in json.loads((folder / "index.json").read_text()).items():
        data = (folder / file).read_bytes()
        if kind == "SequenceProto":
            feeds[name] = numpy_helper.to_list(SequenceProto.FromString(data))
        else:
            feeds[name] = _value(numpy_helper.to_array(TensorProto.FromString(data)))
    return feeds


def _value(array: np.ndarray) -> Any:
    import onnxruntime

    from graphopt.verify.run import BY_ADDRESS, raw_bytes

    if array.dtype.kind in "OUS":
        return array
    elem_type = dtypes.from_numpy(array.dtype)
    if elem_type in BY_ADDRESS:
        return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(raw_bytes(array), elem_type)
    return onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array))


def count_nodes(model: ModelProto) -> int:
    """Nodes with those of bodies, without constants."""
    total = 0
    pending: list[GraphProto] = [model.graph]
    while pending:
        for node in pending.pop().node:
            total += node.op_type != "Constant"
            for attribute in node.attribute:
                pending += [attribute.g] if attribute.HasField("g") else []
                pending += attribute.graphs
    return total
