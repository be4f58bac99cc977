"""Shorthand for small models: `helper.make_node` and friends with the boilerplate left out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

MISSING = "-"
"""Written in place of a name: an optional input or output that is left out (the empty string in the file)."""

Array = npt.NDArray[Any]
_SPEC = re.compile(r"(\w+)(?:\[(.*)\])?$")


def n(
    op: str, inputs: str = "", outputs: str = "", *, domain: str = "", name: str = "", **attrs: Any
) -> onnx.NodeProto:
    """A node; `inputs` and `outputs` are names with spaces between, `-` for one left out.

    >>> n("Clip", "x - high", "y").input
    ['x', '', 'high']
    """
    ins = ["" if i == MISSING else i for i in inputs.split()]
    outs = ["" if o == MISSING else o for o in outputs.split()]
    return helper.make_node(op, ins, outs, name=name or None, domain=domain or None, **attrs)


def tensor_type(spec: str) -> onnx.TypeProto:
    """`float[N,3]`: two dims, one symbolic; `float[]`: a scalar; `float`: unknown rank; `?`: a dim without a name.

    Element types are `TensorProto` names in lower case: float, float16, int64, bool, string ...
    """
    match = _SPEC.match(spec)
    assert match is not None, spec
    elem = TensorProto.DataType.Value(match.group(1).upper())
    if match.group(2) is None:
        return helper.make_tensor_type_proto(elem, None)
    dims: list[int | str | None] = []
    for dim in filter(None, match.group(2).split(",")):
        dims.append(None if dim == "?" else int(dim) if dim.lstrip("-").isdigit() else dim)
    return helper.make_tensor_type_proto(elem, dims)


def vi(spec: str | onnx.ValueInfoProto) -> onnx.ValueInfoProto:
    """`name:type` as a ValueInfoProto; see `tensor_type`."""
    if isinstance(spec, onnx.ValueInfoProto):
        return spec
    name, _, kind = spec.rpartition(":")
    return helper.make_value_info(name, tensor_type(kind))


def init(name: str, value: npt.ArrayLike | onnx.TensorProto) -> onnx.TensorProto:
    """An initializer: Python floats become float32, ints int64; arrays keep their dtype; a TensorProto is renamed."""
    if isinstance(value, onnx.TensorProto):
        copy = onnx.TensorProto()
        copy.CopyFrom(value)
        copy.name = name
        return copy
    array = np.asarray(value)
    if not isinstance(value, np.ndarray | np.generic):
        array = array.astype({"f": np.float32, "i": np.int64, "b": np.bool_}.get(array.dtype.kind, array.dtype))
    return numpy_helper.from_array(array, name)


def graph(
    nodes: Sequence[onnx.NodeProto],
    ins: str | Iterable[str | onnx.ValueInfoProto] = (),
    outs: str | Iterable[str | onnx.ValueInfoProto] = (),
    consts: Mapping[str, Any] | None = None,
    *,
    name: str = "g",
    **kwargs: Any,
) -> onnx.GraphProto:
    """A graph; `ins` and `outs` are `name:type` with spaces between, `consts` the initializers by name."""
    inputs = [vi(i) for i in (ins.split() if isinstance(ins, str) else ins)]
    outputs = [vi(o) for o in (outs.split() if isinstance(outs, str) else outs)]
    weights = [init(k, v) for k, v in (consts or {}).items()]
    return helper.make_graph(nodes, name, inputs, outputs, weights, **kwargs)


def model(
    nodes: Sequence[onnx.NodeProto],
    ins: str | Iterable[str | onnx.ValueInfoProto] = (),
    outs: str | Iterable[str | onnx.ValueInfoProto] = (),
    consts: Mapping[str, Any] | None = None,
    *,
    opset: int | None = 17,
    ir: int = 8,
    imports: Mapping[str, int] | None = None,
    functions: Sequence[onnx.FunctionProto] = (),
    **kwargs: Any,
) -> onnx.ModelProto:
    """A model; `opset=None` leaves the default domain's import out, `imports` adds other domains."""
    opsets = [] if opset is None else [helper.make_opsetid("", opset)]
    opsets += [helper.make_opsetid(domain, version) for domain, version in (imports or {}).items()]
    main = graph(nodes, ins, outs, consts, **kwargs)
    return helper.make_model(main, opset_imports=opsets, ir_version=ir, functions=list(functions))


def function(
    domain: str,
    name: str,
    inputs: str,
    outputs: str,
    nodes: Sequence[onnx.NodeProto],
    *,
    opset: int = 17,
    imports: Mapping[str, int] | None = None,
    **kwargs: Any,
) -> onnx.FunctionProto:
    """A model-local function."""
    opsets = [helper.make_opsetid("", opset)] + [helper.make_opsetid(d, v) for d, v in (imports or {}).items()]
    return helper.make_function(domain, name, inputs.split(), outputs.split(), list(nodes), opsets, **kwargs)


def rand(*shape: int, seed: int = 0, low: float = -1.0, high: float = 1.0) -> Array:
    """Seeded float32 numbers in [low, high)."""
    return np.random.default_rng(seed).uniform(low, high, shape).astype(np.float32)


def specials(*shape: int, seed: int = 0) -> Array:
    """Seeded float32 numbers of which about half are NaN, infinities, signed zeros, subnormals or very large."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=shape).astype(np.float32)
    odd = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-40, -1e-40, 3e38, -3e38, -1.0], np.float32)
    return np.where(rng.random(shape) < 0.5, rng.choice(odd, shape), values).astype(np.float32)
