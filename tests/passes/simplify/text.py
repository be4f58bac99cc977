"""Rules tried on models written as ONNX text: what is left of the nodes, and bitwise the same results."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx
from onnx import helper, parser

from graphopt.report import Report

from ..util import apply, fired, reasons, run

Feeds = dict[str, Any]


def parse(body: str, opset: int = 17, ir_version: int = 8) -> onnx.ModelProto:
    """`(float[N, 3] x) => (float[N, 3] y) <float one = {1}> { y = Mul(x, one) }` as a model."""
    made = parser.parse_model(f'<ir_version: {ir_version}, opset_import: ["": {opset}]> g {body}')
    onnx.checker.check_model(made)
    return made


def nodes(model: onnx.ModelProto) -> str:
    """The operators of the main graph, in order."""
    return " ".join(node.op_type for node in model.graph.node)


def fires(
    rules: str, body: str, left: str, opset: int = 17, feeds: Feeds | None = None, reference: bool = False
) -> onnx.ModelProto:
    """The first of these rules fires, these operators are left, and the results are the same; returns the result."""
    before = parse(body, opset)
    after, report = apply(before, *rules.split())
    assert nodes(after) == left
    assert fired(report)[:1] == rules.split()[:1]
    same(before, after, feeds, reference)
    return after


def refuses(rules: str, body: str, reason: str = "", opset: int = 17) -> Report:
    """None of these rules fires; the first one says why, if a reason is given."""
    before = parse(body, opset)
    after, report = apply(before, *rules.split())
    assert nodes(after) == nodes(before)
    assert not fired(report)
    said = reasons(report, rules.split(maxsplit=1)[0])
    assert (said == []) if not reason else any(reason in text for text in said), said
    return report


def same(
    before: onnx.ModelProto, after: onnx.ModelProto, feeds: Mapping[str, Any] | None = None, reference: bool = False
) -> None:
    """Both give bitwise the same (any NaN for a NaN), for two sizes of the symbolic dims."""
    for given in [feeds] if feeds is not None else list(some_feeds(before)):
        for want, got in zip(run(before, given, reference), run(after, given, reference), strict=True):
            want, got = np.asarray(want), np.asarray(got)
            assert (want.dtype, want.shape) == (got.dtype, got.shape)
            np.testing.assert_array_equal(got, want)
            if want.dtype.kind == "f":
                numbers = ~np.isnan(want)
                np.testing.assert_array_equal(np.signbit(got)[numbers], np.signbit(want)[numbers])


def some_feeds(model: onnx.ModelProto) -> Iterator[Feeds]:
    """Inputs for two bindings of the symbolic dims, special values among the floats."""
    defaults = {tensor.name for tensor in model.graph.initializer}
    for seed, size in ((0, 2), (1, 3)):
        feeds: Feeds = {}
        for index, info in enumerate(model.graph.input):
            if info.name not in defaults:
                kind = info.type.tensor_type
                shape = [d.dim_value if d.HasField("dim_value") else size for d in kind.shape.dim]
                dtype = helper.tensor_dtype_to_np_dtype(kind.elem_type)
                feeds[info.name] = np.asarray(array(dtype, shape, 10 * seed + index), dtype)
        yield feeds


def array(dtype: Any, shape: list[int], seed: int) -> Any:
    """Numbers of a dtype; about a third of floats are NaN, infinite, signed zeros or huge."""
    random = np.random.default_rng(seed)
    if dtype.kind == "f":
        odd = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 3e38, -3e38, 1e-40], np.float32)
        values = np.where(random.random(shape) < 0.35, random.choice(odd, shape), 3 * random.normal(size=shape))
        with np.errstate(over="ignore"):
            return values.astype(dtype)
    if dtype.kind == "b":
        return random.random(shape) < 0.5
    if dtype.kind in "iu":
        return random.integers(0 if dtype.kind == "u" else -4, 5, shape).astype(dtype)
    return random.choice(np.array(["a", "", "Ω b"], dtype=object), shape)
