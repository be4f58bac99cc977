"""Shapes of both sides as expressions in the symbols of the inputs, compared by sympy."""

from __future__ import annotations

import contextlib
import io
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import onnx
from onnx import ModelProto

from graphopt.analysis.shapes import has_negative_sizes

__all__ = ["has_symbols", "shapes", "unequal"]

Expressions = dict[str, tuple[int, "list[Any] | None"]]  # output -> element type, dims as sympy expressions (or None)
_PROBES = (2, 3, 1, 5, 4, 7)


def has_symbols(model: ModelProto) -> bool:
    """Whether an input has a symbol for a dim."""
    return any(dim.dim_param for info in model.graph.input for dim in info.type.tensor_type.shape.dim)


def shapes(model: ModelProto) -> Expressions | None:
    """The types of the outputs; None where nothing infers them.

    By ONNX Runtime's symbolic shape inference, which computes with sympy expressions; where it gives up, by onnx's.
    Dims that neither can name are None.
    """
    if has_negative_sizes(model):
        return None
    known = {dim.dim_param for info in model.graph.input for dim in info.type.tensor_type.shape.dim if dim.dim_param}
    inferred = _by_runtime(model) or _by_onnx(model)
    if inferred is None:
        return None
    found: Expressions = {}
    for info in inferred.graph.output:
        if info.type.WhichOneof("value") != "tensor_type":
            continue
        tensor = info.type.tensor_type
        dims = [_dim(dim, known) for dim in tensor.shape.dim] if tensor.HasField("shape") else None
        found[info.name] = tensor.elem_type, dims
    return found


def _bare(model: ModelProto) -> ModelProto:
    bare = ModelProto()
    bare.CopyFrom(model)
    del bare.graph.value_info[:]
    for info in bare.graph.output:
        info.type.tensor_type.ClearField("shape")
    return bare


def _by_runtime(model: ModelProto) -> ModelProto | None:
    from onnxruntime.tools.symbolic_shape_infer import SymbolicShapeInference

    logging.getLogger("onnxruntime.tools.symbolic_shape_infer").setLevel(logging.CRITICAL)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            solver = SymbolicShapeInference(2**31 - 1, False, 0, 0)  # its own driver writes a file where it fails
            solver._preprocess(_bare(model))
            done = True
            while solver.run_:
                done = solver._infer_impl()
            solver._update_output_from_vi()
            inferred: ModelProto | None = solver.out_mp_ if done else None
    except Exception:  # noqa: BLE001 - it raises bare Exceptions and failed assertions where it gives up
        return None
    return inferred


def _by_onnx(model: ModelProto) -> ModelProto | None:
    try:
        inferred: ModelProto = onnx.shape_inference.infer_shapes(_bare(model), data_prop=True)
    except onnx.shape_inference.InferenceError:
        return None
    return inferred


def _dim(dim: Any, known: set[str]) -> Any:
    """An expression in the inputs' symbols, or None."""
    import sympy

    if dim.HasField("dim_value"):
        return sympy.Integer(dim.dim_value)
    text = dim.dim_param
    names = set(re.findall(r"[A-Za-z_]\w*", text)) - {"floor", "ceiling", "Max", "Min", "Mod"}
    if not text or not names <= known:
        return None
    try:
        symbols = {name: sympy.Symbol(name, integer=True, nonnegative=True) for name in names}
        return sympy.sympify(text, locals=symbols)
    except (sympy.SympifyError, TypeError, AttributeError, SyntaxError):
        return None


@dataclass(frozen=True)
class Places:
    """Where two dims are told apart: sizes of the symbols, and what the second side's dim is then."""

    output: str
    axis: int
    bindings: list[dict[str, int]]
    sizes: list[int]


def unequal(before: Expressions, after: Expressions) -> Iterator[tuple[str, Places | None]]:
    """What differs between the outputs' types: a line, and for dims the sizes of symbols that tell them apart.

    Expressions differ where their difference does not simplify to 0 and some sizes of the symbols (2, 3, 5, ...) tell
    them apart. A dim that one side cannot name is not compared.
    """
    for name, (dtype, dims) in before.items():
        other_dtype, other = after.get(name, (dtype, None))
        if dtype and other_dtype and dtype != other_dtype:
            yield f"the type of {name!r} is inferred as {other_dtype} instead of {dtype}", None
        if dims is None or other is None:
            continue
        if len(dims) != len(other):
            yield f"the rank of {name!r} is inferred as {len(other)} instead of {len(dims)}", None
            continue
        for axis, (a, b) in enumerate(zip(dims, other, strict=True)):
            places = None if a is None or b is None else _apart(name, axis, a, b)
            if places is not None and places.bindings:
                yield f"dim {axis} of {name!r} is inferred as {b} instead of {a}", places


def _apart(name: str, axis: int, a: Any, b: Any) -> Places | None:
    import sympy

    if a == b or sympy.simplify(a - b) == 0:
        return None
    symbols = sorted(a.free_symbols | b.free_symbols, key=str)
    found = Places(name, axis, [], [])
    for shift in range(len(_PROBES)):
        at = dict(zip(symbols, _PROBES[shift:] + _PROBES[:shift], strict=False))
        if a.subs(at) != b.subs(at):
            found.bindings.append({str(symbol): size for symbol, size in at.items()})
            found.sizes.append(int(b.subs(at)))
    return found
