"""What tests of convert-precision share: converting, and looking at every promise at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from graphopt.analysis.ranges import Ranges, TensorRange
from graphopt.passes.precision.convert_precision import ConvertPrecision
from graphopt.report import Report

from ..util import Array, Feeds, apply, run

NAME = "convert-precision"
F16, F32, BF16 = TensorProto.FLOAT16, TensorProto.FLOAT, TensorProto.BFLOAT16


def ranges(**tensors: tuple[float, float]) -> Ranges:
    """Ranges as calibration would give them."""
    return Ranges({name: TensorRange(low, high, low, high) for name, (low, high) in tensors.items()})


def halved(model: ModelProto, feeds: Feeds | None = None, *, tol: float = 1e-2, **options: Any) -> Half:
    """The model in float16, after all checks: valid with strict inference, the same interface, close to the original
    on these feeds, no infinity or NaN that the original has not, no Cast up and down again, nothing to do twice."""
    made, report = apply(model, ConvertPrecision(**options))
    onnx.checker.check_model(made, full_check=True)
    again, _ = apply(made, ConvertPrecision(**options))
    assert again.SerializeToString(deterministic=True) == made.SerializeToString(deterministic=True), "not idempotent"
    if options.get("keep_io", True):
        assert list(made.graph.input) == list(model.graph.input)
        assert list(made.graph.output) == list(model.graph.output)
    assert [o.name for o in made.graph.output] == [o.name for o in model.graph.output]
    assert not list(pairs(made)), "a Cast is undone by the next"
    if feeds is not None:
        close(model, made, feeds, tol)
    return Half(made, report)


class Half:
    """A converted model, and what was found."""

    def __init__(self, model: ModelProto, report: Report):
        self.model, self.report = model, report
        self.types = types(model)
        self.nodes = {n.name or n.output[0]: n for n in nodes(model)}

    def reasons(self) -> dict[str, list[str]]:
        """Why what stays float32 does, by reason."""
        return self.report.refusals.get(NAME, {})

    def kept(self) -> set[str]:
        """Labels of the nodes that are on record as staying float32."""
        return {label for labels in self.reasons().values() for label in labels}

    def count(self, op: str) -> int:
        """How many nodes of an operator there are, at any depth."""
        return sum(n.op_type == op for n in nodes(self.model))


def close(before: ModelProto, after: ModelProto, feeds: Feeds, tol: float) -> None:
    """Both give the same within `tol` of the largest magnitude; what is finite before is so after."""
    halves = {i.name: i.type.tensor_type.elem_type == F16 for i in after.graph.input}
    inputs = {k: v.astype(np.float16) if halves.get(k) else v for k, v in feeds.items()}
    for want, got in zip(run(before, feeds), run(after, inputs), strict=True):
        for x, y in zip(flat(want), flat(got), strict=True):
            assert x.shape == y.shape
            if x.dtype.kind != "f":
                np.testing.assert_array_equal(x, y)
                continue
            finite = np.isfinite(x)
            assert np.isfinite(y[finite]).all()
            scale = np.abs(x[finite]).max(initial=1e-30)
            np.testing.assert_allclose(y[finite].astype(np.float64), x[finite], rtol=0, atol=tol * scale)


def flat(value: Any) -> Iterator[Array]:
    """The arrays of an output, which may be a sequence."""
    pending = [value]
    while pending:
        item = pending.pop(0)
        if isinstance(item, list):
            pending = [*item, *pending]
        elif item is not None:
            yield np.asarray(item)


def graphs(model: ModelProto) -> Iterator[Any]:
    """The main graph and all bodies."""
    pending: list[Any] = [model.graph]
    while pending:
        graph = pending.pop()
        yield graph
        for item in graph.node:
            for a in item.attribute:
                pending += [a.g] if a.type == onnx.AttributeProto.GRAPH else []


def nodes(model: ModelProto) -> list[NodeProto]:
    """All nodes, those of bodies included."""
    return [item for graph in graphs(model) for item in graph.node]


def types(model: ModelProto) -> dict[str, int]:
    """Element types by name, as onnx infers them; names of bodies are taken to be different."""
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    found: dict[str, int] = {}
    for graph in graphs(inferred):
        for info in (*graph.input, *graph.value_info, *graph.output):
            found[info.name] = info.type.tensor_type.elem_type
        found.update({t.name: t.data_type for t in graph.initializer})
    return found


def pairs(model: ModelProto) -> Iterator[tuple[NodeProto, NodeProto]]:
    """Casts to float32 that are read by a Cast back."""
    for graph in graphs(model):
        casts = {n.output[0]: n for n in graph.node if n.op_type == "Cast"}
        for item in casts.values():
            first = casts.get(item.input[0])
            if first is not None and {to(first), to(item)} <= {F16, F32}:
                yield first, item


def to(cast: NodeProto) -> int:
    """The type that a Cast makes."""
    return next(a.i for a in cast.attribute if a.name == "to")


def weight(model: ModelProto, name: str) -> Array:
    """A constant's values, wherever it is."""
    found: Mapping[str, TensorProto] = {t.name: t for g in graphs(model) for t in g.initializer}
    return numpy_helper.to_array(found[name])
