"""Calibration data is checked before it is used: one clear error, that names the file or the sample."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import ModelProto

from graphopt.errors import GraphoptError
from graphopt.ir import Model, Value, dtypes, from_proto, load
from graphopt.ir.node import is_symbol

Feeds = dict[str, np.ndarray]
Dims = tuple[int | str | None, ...]


@dataclass(frozen=True)
class Input:
    """An input of a model: its element type (an `onnx.TensorProto.DataType`) and its dims as declared, a size, a symbol
    or None each; None where the model does not say the rank. optional: it has a default, so it may be left out."""

    name: str
    dtype: int
    dims: Dims | None
    optional: bool = False

    @property
    def numpy_dtype(self) -> np.dtype[Any]:
        """The element type of arrays; object stands for text."""
        return dtypes.to_numpy(self.dtype)

    def __str__(self) -> str:
        dims = "" if self.dims is None else f"[{', '.join('?' if d is None else str(d) for d in self.dims)}]"
        return f"{dtypes.name(self.dtype)}{dims}"


Inputs = dict[str, Input]
_BATCHED = "; say --batched (batched=True)"


def inputs_of(model: Model | ModelProto | str | os.PathLike[str]) -> Inputs:
    """What a model is to be fed, by name. Raises GraphoptError for an input that is no tensor.

    >>> from onnx import parser
    >>> m = parser.parse_model('<ir_version: 8, opset_import: ["": 17]> g (float[N, 3] x) => (float[N, 3] y) '
    ...                        '{ y = Relu(x) }')
    >>> print(inputs_of(m)["x"])
    float32[N, 3]
    """
    if isinstance(model, ModelProto):
        model = from_proto(model)
    elif not isinstance(model, Model):
        model = load(model)
    found: Inputs = {}
    for value in model.graph.inputs:
        try:
            dtypes.to_numpy(value.dtype or 0)
        except KeyError:
            why = "such a model cannot be calibrated"
            raise GraphoptError(f"input {value.name!r} is no tensor of a known type; {why}") from None
        has_default = value.name in model.graph.initializers
        found[value.name] = Input(value.name, value.dtype or 0, _declared(value), has_default)
    return found


def _declared(value: Value) -> Dims | None:
    """The dims in the model's text: of an input that has a default, not those of the default."""
    if value.type is None or not value.type.tensor_type.HasField("shape"):
        return None
    dims = value.type.tensor_type.shape.dim
    return tuple(d.dim_value if d.dim_value > 0 else d.dim_param if is_symbol(d.dim_param) else None for d in dims)


def check_feeds(feeds: Any, inputs: Inputs, where: str) -> Feeds:
    """One sample, found to be what the model takes. where: the file or sample, as the error is to name it.

    Raises GraphoptError: no dict, a name that is no input, a missing input, a wrong element type or shape (a symbol has
    one size within a sample), an array without elements, NaN or infinities.
    """
    if not isinstance(feeds, Mapping):
        raise GraphoptError(f"{where} is a {type(feeds).__name__}, not a dict of arrays by input name")
    has = ", ".join(inputs) or "none"
    for name in feeds:
        if name not in inputs:
            raise GraphoptError(f"{where}: {name!r} is no input of the model; its inputs: {has}")
    for name, given in inputs.items():
        if name not in feeds and not given.optional:
            raise GraphoptError(
                f"{where}: input {name!r} ({given}) is missing; what is there: {', '.join(feeds) or '-'}"
            )
    sizes: dict[str, tuple[int, str]] = {}
    for name, array in feeds.items():
        _check_array(array, inputs[name], where, sizes)
    return dict(feeds)


def _check_array(array: Any, given: Input, where: str, sizes: dict[str, tuple[int, str]]) -> None:
    name = given.name
    if not isinstance(array, (np.ndarray, np.generic)):
        raise GraphoptError(
            f"{where}: {name!r} is a {type(array).__name__}, not a numpy array; make it one with np.asarray"
        )
    wanted = given.numpy_dtype
    is_text = wanted == np.dtype(object) and array.dtype.kind in "OUS"
    if array.dtype != wanted and not is_text:
        cast = "" if wanted.kind == "O" else f"; convert it with .astype(np.{wanted.name})"
        raise GraphoptError(f"{where}: {name!r} is of type {array.dtype}, but the model takes {given}{cast}")
    if given.dims is not None:
        _check_shape(array.shape, given, where, sizes)
    if array.size == 0:
        raise GraphoptError(f"{where}: {name!r} has no elements (shape {list(array.shape)}); leave such samples out")
    if array.dtype.kind not in "biuOUS" and not _all_finite(array):
        what = "NaN" if np.isnan(array.astype(np.float32)).any() else "infinity"
        raise GraphoptError(f"{where}: {name!r} contains {what}; calibration needs finite values")


def _check_shape(shape: tuple[int, ...], given: Input, where: str, sizes: dict[str, tuple[int, str]]) -> None:
    dims, name = given.dims or (), given.name
    if len(shape) != len(dims):
        hint = ""
        if len(shape) == len(dims) + 1:
            hint = f"{_BATCHED} where the first axis counts samples"
        elif len(shape) == len(dims) - 1:
            hint = "; add the batch axis"
        raise GraphoptError(f"{where}: {name!r} has shape {list(shape)}, but the model takes {given}{hint}")
    for axis, (size, dim) in enumerate(zip(shape, dims, strict=True)):
        if isinstance(dim, int) and dim != size:
            what = f"{name!r} has shape {list(shape)}, but the model takes {given}: axis {axis} must be {dim}"
            hint = f"{_BATCHED} where that axis counts samples" if axis == 0 and size % max(dim, 1) == 0 else ""
            raise GraphoptError(f"{where}: {what}{hint}")
        if isinstance(dim, str):
            known, other = sizes.setdefault(dim, (size, name))
            if known != size:
                raise GraphoptError(
                    f"{where}: dimension {dim!r} is {size} in {name!r} (axis {axis}), but {known} in {other!r}"
                )


def _all_finite(array: Any) -> bool:
    """isfinite of a sum is one pass without a temporary; what is in doubt is looked at whole."""
    if array.dtype in (np.float32, np.float64):
        with np.errstate(over="ignore", invalid="ignore"):
            if np.isfinite(array.sum()):
                return True
        return bool(np.isfinite(array).all())
    return bool(np.isfinite(array.astype(np.complex64 if array.dtype.kind == "c" else np.float32)).all())
