"""Parts of a model as models of their own: by tensors, by nodes, by a pattern of operators, or what is in between.

The interface is what the part reads and what is read of it, under the names that the values have in the whole; values
that a body or function captures from outside become inputs. Does what `onnx.utils.extract_model` and `polygraphy
surgeon extract` do, without reading weights, inside of If, Loop and functions as well.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, overload

from onnx import ModelProto

from graphopt import ir
from graphopt.ir import Model
from graphopt.ir.order import is_sorted
from graphopt.subgraphs.boundary import types_of
from graphopt.subgraphs.choose import choose
from graphopt.subgraphs.cut import cut
from graphopt.subgraphs.region import Region

__all__ = ["extract", "extract_file", "extract_region", "in_order", "model_of"]

Names = str | Sequence[str] | None
Path = str | os.PathLike[str]


@overload
def extract(
    model: ModelProto | Path,
    inputs: Names = None,
    outputs: Names = None,
    *,
    nodes: Names = None,
    pattern: str = "",
    match: int = 1,
    between: tuple[str, str] | None = None,
    weights: bool = True,
) -> ModelProto: ...
@overload
def extract(
    model: Model,
    inputs: Names = None,
    outputs: Names = None,
    *,
    nodes: Names = None,
    pattern: str = "",
    match: int = 1,
    between: tuple[str, str] | None = None,
    weights: bool = True,
) -> Model: ...
def extract(
    model: ModelProto | Path | Model,
    inputs: Names = None,
    outputs: Names = None,
    *,
    nodes: Names = None,
    pattern: str = "",
    match: int = 1,
    between: tuple[str, str] | None = None,
    weights: bool = True,
) -> ModelProto | Model:
    """A part of a model, as a model. The original stays as it is.

    outputs: names of tensors to compute; inputs: tensors at which to stop going back from them (without: at the
    model's inputs). nodes: names of nodes instead, or globs as in ``/encoder/*``; of a node without a name, that of its
    first output. pattern: operators that follow each other, as in ``"Conv BatchNormalization Relu"``, of which the
    `match`-th place (from 1) is taken. between: two names, of nodes or tensors: everything on a path from the first to
    the second. All of these may name what is in bodies of If, Loop and Scan, and in functions, of which the first call
    gives types and attributes. weights: without, constants of more than a kilobyte become inputs.

    Returns a `ModelProto` for a proto or a path, a `graphopt.Model` for a Model. Raises GraphoptError for names that
    are not there (with the nearest that are), for outputs that depend on inputs not listed, and for an input whose type
    cannot be inferred; OutputError where the part has 2 GiB or more: use `extract_file`.

    >>> from onnx import parser
    >>> m = parser.parse_model('<ir_version: 8, opset_import: ["": 17]> g (float[N] x) => (float[N] y) '
    ...                        '{ a = Neg(x)  b = Abs(a)  y = Relu(b) }')
    >>> part = extract(m, inputs="a", outputs="y")
    >>> [n.op_type for n in part.graph.node], part.graph.input[0].name
    (['Abs', 'Relu'], 'a')
    >>> [n.op_type for n in extract(m, pattern="Neg Abs").graph.node]
    ['Neg', 'Abs']
    """
    source = model_of(model)
    region = choose(source, _names(inputs), _names(outputs), _names(nodes), pattern, match, between)
    part = extract_region(region, weights=weights)
    return part if isinstance(model, Model) else ir.to_proto(part)


def extract_file(src: Path, dst: Path, inputs: Names = None, outputs: Names = None, **how: Any) -> Model:
    """`extract` from file to file, for models of any size: weights stream from disk to disk, external data goes to
    `<dst>.data`. Returns the part. Raises as `extract`, and OutputError where it cannot be written, with nothing left
    behind.
    """
    part: Model = extract(ir.load(src), inputs, outputs, **how)
    ir.save(part, dst)
    return part


def extract_region(region: Region, *, weights: bool = True, name: str = "") -> Model:
    """A region as a model, typed. Raises GraphoptError for an input whose type is not known."""
    types = types_of(region.graph.model, (*region.inputs, *region.outputs))
    return cut(region, types, weights=weights, name=name)


def model_of(model: Any) -> Model:
    """The model itself, or one read from a proto, a file or another library's object (see `graphopt.interop`); in
    topological order, which some files are not in. Raises GraphoptError for anything else."""
    from graphopt import interop

    return in_order(interop.model_of(model, "take a part of"))


def in_order(model: Model) -> Model:
    """The model, or a copy that is in topological order."""
    if all(is_sorted(graph) for graph in model.scopes()):
        return model
    copy = model.clone()
    for graph in copy.scopes():
        graph.ensure_sorted()
    return copy


def _names(names: Names) -> list[str] | None:
    return [names] if isinstance(names, str) else list(names) if names is not None else None
