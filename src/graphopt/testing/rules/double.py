"""A model in double precision: the same computation with every 16- and 32-bit float made a 64-bit one; or in single."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from graphopt.testing.rules.run import Feeds

__all__ = ["promote", "promoted_feeds", "single", "single_feeds"]

FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE}
_NAMES = ("float16", "float32", "bfloat16", "float64")
# Their results depend on the width of the type itself, or their type is part of what they compute.
_WIDTH = frozenset("Cast CastLike DequantizeLinear QuantizeLinear DynamicQuantizeLinear BitCast".split())


def promote(model: ModelProto) -> ModelProto | None:
    """The model in double precision; None where an operator does not take that, or is about the type itself.

    >>> from onnx import parser
    >>> m = parser.parse_model('<ir_version: 8, opset_import: ["": 17]> g (float[2] x) => (float[2] y) { y = Relu(x) }')
    >>> promote(m).graph.input[0].type.tensor_type.elem_type == TensorProto.DOUBLE
    True
    """
    return _changed(model, TensorProto.DOUBLE)


def single(model: ModelProto) -> ModelProto | None:
    """The model in single precision, which ONNX Runtime has kernels for; None as for `promote`."""
    return _changed(model, TensorProto.FLOAT)


def promoted_feeds(feeds: Feeds) -> Feeds:
    """The same numbers for the promoted model."""
    return _converted(feeds, np.float64)


def single_feeds(feeds: Feeds) -> Feeds:
    """The same numbers, rounded, for the model in single precision."""
    return _converted(feeds, np.float32)


def _converted(feeds: Feeds, kind: Any) -> Feeds:
    with np.errstate(all="ignore"):
        return {k: np.asarray(v).astype(kind) if v.dtype.name in _NAMES else v for k, v in feeds.items()}


def _changed(model: ModelProto, kind: int) -> ModelProto | None:
    other = ModelProto()
    other.CopyFrom(model)
    scopes: list[Any] = [other.graph, *other.functions]
    for scope in scopes:
        for info in (*getattr(scope, "input", ()), *getattr(scope, "output", ()), *scope.value_info):
            if not isinstance(info, str):
                _change_type(info.type, kind)
        for tensor in getattr(scope, "initializer", ()):
            _change(tensor, kind)
        for node in scope.node:
            if node.op_type in _WIDTH or (node.domain and not other.functions):
                return None
            _change_node(node, kind)
            scopes += _bodies(node)
    try:
        onnx.checker.check_model(other, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError):
        return None
    return other


def _bodies(node: NodeProto) -> Iterator[Any]:
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield attribute.g


def _change_type(type_: Any, kind: int) -> None:
    while type_.WhichOneof("value") in ("sequence_type", "optional_type"):
        type_ = getattr(type_, type_.WhichOneof("value")).elem_type
    if type_.tensor_type.elem_type in FLOATS:
        type_.tensor_type.elem_type = kind


def _change(tensor: TensorProto, kind: int) -> None:
    if tensor.data_type in FLOATS:
        with np.errstate(all="ignore"):
            array = numpy_helper.to_array(tensor).astype(helper.tensor_dtype_to_np_dtype(kind))
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def _change_node(node: NodeProto, kind: int) -> None:
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    for attribute in list(node.attribute):
        if attribute.type == AttributeProto.TENSOR:
            _change(attribute.t, kind)
        elif attribute.name in ("dtype", "to", "stash_type", "softmax_precision") and attribute.i in FLOATS:
            attribute.i = kind
        elif node.op_type == "Constant" and attribute.name in ("value_float", "value_floats"):
            data = np.array(helper.get_attribute_value(attribute), dtype)
            attribute.CopyFrom(helper.make_attribute("value", numpy_helper.from_array(data)))
    if node.op_type == "ConstantOfShape" and not node.attribute:
        node.attribute.append(helper.make_attribute("value", numpy_helper.from_array(np.zeros(1, dtype))))
