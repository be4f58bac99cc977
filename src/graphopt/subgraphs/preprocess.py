"""Preprocessing put into the graph: cast, layout, channel order and normalization of images.

    y = (x * scale - mean) / std   ==   (x - mean / scale) * (scale / std)   ==   (x - v) * a

Put so, the factor a always goes into the first Conv's weights, and the shift v as well where that Conv has no padding
(padding is zeros put in behind the shift, so one Sub stays there). Exact in real arithmetic; v and a are computed in
float64 and rounded once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, ValueInfoProto, helper, numpy_helper

from graphopt import ir
from graphopt.errors import GraphoptError
from graphopt.ir import Model, Value, dtypes
from graphopt.ir.external import shown
from graphopt.subgraphs.boundary import types_of
from graphopt.subgraphs.compose import join
from graphopt.subgraphs.extract import Path, model_of

__all__ = ["FOLDING", "preprocess"]

Numbers = float | Sequence[float] | None
FOLDING = "fold-constants,(simplify,fusion,collapse)*4,lift-constants,deduplicate,dead-code"
_LAYOUTS = {"NCHW": 1, "NHWC": -1}
_DTYPES = {"uint8": TensorProto.UINT8, "int8": TensorProto.INT8, "float16": TensorProto.FLOAT16,
           "float32": TensorProto.FLOAT, "uint16": TensorProto.UINT16}  # fmt: skip


def preprocess(
    model: ModelProto | Path | Model,
    input: str | None = None,
    *,
    layout: str = "NCHW",
    dtype: str = "float32",
    mean: Numbers = None,
    std: Numbers = None,
    scale: float = 1.0,
    channel_swap: bool = False,
    fold: bool = True,
) -> ModelProto | Model:
    """A model that takes images as they are decoded, and computes ``(x * scale - mean) / std`` itself.

    input: which one, of shape [N, C, H, W]; may be left out where there is only one. layout: of the new input, NCHW or
    NHWC. dtype: of the new input. mean, std: one number, or one per channel, in the model's own channel order.
    scale: such as 1/255. channel_swap: whether the new input has its channels in the reverse order (BGR for a model of
    RGB). fold: whether to fold the normalization into the first convolutions; the result is compared with what is not
    folded.

    The new input goes by the old name, its batch, height and width as before. Returns a `ModelProto`, or a Model where
    that is given, which stays as it is. Raises GraphoptError for an input that is not there or no image, for a layout
    or dtype that is not known, and for numbers that do not fit the channels; VerificationError should folding change
    what is computed.

    >>> from onnx import parser
    >>> head = '<ir_version: 8, opset_import: ["": 17]> g '
    >>> m = parser.parse_model(head + '(float[N, 3, 8, 8] x) => (float[N, 3, 8, 8] y) { y = Relu(x) }')
    >>> new = preprocess(m, layout="NHWC", dtype="uint8", mean=[123.7, 116.3, 103.5], std=58.4, fold=False)
    >>> [n.op_type for n in new.graph.node]
    ['Transpose', 'Cast', 'Sub', 'Mul', 'Relu']
    """
    from graphopt.api import optimize

    source = model_of(model)
    value = _image(source, input)
    info, channels = _old_type(source, value)
    front = _front(source, info, channels, layout, dtype, _per_channel(mean, channels, "mean", 0.0),
                   _per_channel(std, channels, "std", 1.0), float(scale), channel_swap)  # fmt: skip
    order = [item.name for item in source.graph.inputs]
    whole = _in_order(join(Model(front), source, {f"{value.name}_normalized": value.name}), order)
    if not fold:
        return whole if isinstance(model, Model) else ir.to_proto(whole)
    folded: ModelProto = optimize(whole, FOLDING)
    return ir.from_proto(folded) if isinstance(model, Model) else folded


def _image(model: Model, name: str | None) -> Value:
    inputs = [value for value in model.graph.inputs if value.tensor is None]
    if name is None and len(inputs) == 1:
        return inputs[0]
    for value in inputs:
        if value.name == name:
            return value
    known = ", ".join(shown(value.name) for value in inputs)
    raise GraphoptError(f"there is no input {shown(name)}; there are {known}" if name else f"which input? {known}")


def _old_type(model: Model, value: Value) -> tuple[ValueInfoProto, int]:
    kind = types_of(model, [value]).get(value)
    dims = list(kind.tensor_type.shape.dim) if kind is not None else []
    if kind is None or kind.tensor_type.elem_type not in (TensorProto.FLOAT, TensorProto.FLOAT16) or len(dims) != 4:
        raise GraphoptError(f"{shown(value.name)} is no image: it has to be float32 or float16, of shape [N, C, H, W]")
    if dims[1].dim_value < 1:
        raise GraphoptError(f"the channels of {shown(value.name)} are not known; fix that size in the model first")
    return ValueInfoProto(name=value.name, type=kind), dims[1].dim_value


def _per_channel(numbers: Numbers, channels: int, what: str, default: float) -> np.ndarray:
    array = np.asarray(default if numbers is None else numbers, np.float64).reshape(-1)
    if array.size not in (1, channels):
        raise GraphoptError(f"{what} has {array.size} numbers for {channels} channels; give one, or one for each")
    if not np.isfinite(array).all() or (what == "std" and (array == 0).any()):
        raise GraphoptError(f"{what} must be finite" + (" and not 0" if what == "std" else ""))
    return array


def _front(
    model: Model, info: ValueInfoProto, channels: int, layout: str, dtype: str, mean: np.ndarray, std: np.ndarray,
    scale: float, swap: bool,
) -> ModelProto:  # fmt: skip
    if layout not in _LAYOUTS:
        raise GraphoptError(f"unknown layout {layout!r}; choose NCHW or NHWC")
    if dtype not in _DTYPES:
        raise GraphoptError(f"unknown dtype {dtype!r}; choose one of {', '.join(_DTYPES)}")
    if not np.isfinite(scale) or scale == 0:
        raise GraphoptError("scale must be finite and not 0")
    wanted = info.type.tensor_type.elem_type
    shift, factor = np.broadcast_arrays(mean / scale, scale / std)
    if swap:
        shift, factor = shift[::-1], factor[::-1]
    proto = ModelProto(ir_version=max(8, model.ir_version), producer_name="graphopt")
    proto.opset_import.extend(model.proto.opset_import)
    graph, last = proto.graph, info.name
    graph.name = model.graph.name or "model"

    def then(op: str, *constants: np.ndarray, **attributes: Any) -> None:
        nonlocal last
        names = [f"{info.name}_{op.lower()}_{place}" for place in range(len(constants))]
        graph.initializer.extend(numpy_helper.from_array(a, n) for a, n in zip(constants, names, strict=True))
        out = f"{info.name}_{op.lower()}"
        graph.node.append(helper.make_node(op, [last, *names], [out], f"preprocess/{op}", **attributes))
        last = out

    kind = dtypes.to_numpy(wanted)
    if layout == "NHWC":
        then("Transpose", perm=[0, 3, 1, 2])
    if _DTYPES[dtype] != wanted:
        then("Cast", to=wanted)
    if (shift != 0).any():
        then("Sub", shift.reshape(-1, 1, 1).astype(kind))
    if (factor != 1).any():
        then("Mul", factor.reshape(-1, 1, 1).astype(kind))
    if swap:  # last, so that it meets the Conv, in whose weights it vanishes
        then("Gather", np.arange(channels, dtype=np.int64)[::-1].copy(), axis=1)
    if not graph.node:
        then("Identity")
    graph.node[-1].output[0] = f"{info.name}_normalized"
    dims = list(info.type.tensor_type.shape.dim)
    made = graph.input.add(name=info.name)
    made.type.tensor_type.elem_type = _DTYPES[dtype]
    made.type.tensor_type.shape.dim.extend(dims if layout == "NCHW" else [dims[0], *dims[2:], dims[1]])
    graph.output.append(ValueInfoProto(name=f"{info.name}_normalized", type=info.type))
    return proto


def _in_order(model: Model, order: Sequence[str]) -> Model:
    """The inputs as the original had them: the new one takes the place of the old."""
    proto = model.commit()
    place = {name: index for index, name in enumerate(order)}
    proto.graph.input.sort(key=lambda info: place.get(info.name, len(place)))
    return Model(proto, model.store)
