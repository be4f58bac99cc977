"""What tests of passes share: small models, applying passes by name, running, comparing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from graphopt.ir import from_proto, to_proto
from graphopt.passes import registry
from graphopt.report import Report
from graphopt.rewrite import Context, Rule, RuleSet

Array = npt.NDArray[Any]
Feeds = Mapping[str, Array]
Shape = Sequence[int | str | None]


def node(op: str, inputs: str, outputs: str, **attrs: Any) -> onnx.NodeProto:
    """A node; names with spaces between, `-` for an optional one left out. `domain` and `name` work as in make_node."""
    ins, outs = (["" if name == "-" else name for name in names.split()] for names in (inputs, outputs))
    return helper.make_node(op, ins, outs, **attrs)


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Shape],
    outputs: Sequence[str] | Mapping[str, Shape],
    weights: Mapping[str, npt.ArrayLike] | None = None,
    *,
    dtype: int = TensorProto.FLOAT,
    output_dtype: int | None = None,
    opset: int = 17,
    ir_version: int = 8,
    imports: Mapping[str, int] | None = None,
    functions: Sequence[onnx.FunctionProto] = (),
) -> onnx.ModelProto:
    """A checked model. Weights that are Python floats become float32.

    inputs: shape by name. outputs: names, or shapes by name where onnx infers none.
    """
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info(name, dtype, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, output_dtype or dtype, None) for name in outputs],
        [numpy_helper.from_array(_array(value), name) for name, value in (weights or {}).items()],
    )
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, v) for d, v in (imports or {}).items())]
    made = helper.make_model(graph, opset_imports=opsets, ir_version=ir_version, functions=list(functions))
    inferred = onnx.shape_inference.infer_shapes(made)
    for declared, found in zip(made.graph.output, inferred.graph.output, strict=True):
        shape = dict(outputs)[declared.name] if isinstance(outputs, Mapping) else None
        declared.type.CopyFrom(
            found.type if shape is None else helper.make_tensor_type_proto(output_dtype or dtype, shape)
        )
    onnx.checker.check_model(made)
    return made


def _array(value: npt.ArrayLike) -> Array:
    array = np.asarray(value)
    is_python = not isinstance(value, np.ndarray | np.generic)
    return array.astype(np.float32) if is_python and array.dtype == np.float64 else array


def rand(*shape: int, seed: int = 0, low: float = -1.0, high: float = 1.0, dtype: Any = np.float32) -> Array:
    """Seeded numbers in [low, high)."""
    return np.random.default_rng(seed).uniform(low, high, shape).astype(dtype)


def apply(model: onnx.ModelProto, *passes: str | Any, target: str = "onnx") -> tuple[onnx.ModelProto, Report]:
    """The model after these rules (all together, as one set) and passes (one after the other), and what happened.

    The result has passed the IR's check and onnx's; the given model is not changed. Passes are names or pass objects.
    """
    before = model.SerializeToString(deterministic=True)
    ir, context = from_proto(model), Context(target=target)
    items = [registry.make(item, {}) if isinstance(item, str) else item for item in passes]
    if items and all(isinstance(item, Rule | RuleSet) for item in items):
        items = [sum(items[1:], start=RuleSet(()) + items[0])]
    for item in items:
        context.pass_name = str(item)
        item.run(ir, context)
        ir.check()
    after = to_proto(ir)
    assert model.SerializeToString(deterministic=True) == before, "the caller's model has changed"
    onnx.checker.check_model(after)
    return after, context.close()


def run(model: onnx.ModelProto, feeds: Feeds, reference: bool = False, optimize: bool = False) -> list[Any]:
    """All outputs, by ONNX Runtime on one CPU thread (its optimizations off unless asked for), or by onnx.reference."""
    if reference:
        from onnx.reference import ReferenceEvaluator

        with np.errstate(all="ignore"):
            return list(ReferenceEvaluator(model).run(None, dict(feeds)))
    import onnxruntime as ort

    options = ort.SessionOptions()
    level = ort.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimize else level.ORT_DISABLE_ALL
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, dict(feeds)))


def assert_same(
    a: onnx.ModelProto, b: onnx.ModelProto, feeds: Feeds, tol: float = 2e-6, reference: bool | None = None
) -> None:
    """Both give the same: shapes, dtypes, NaN and infinities equal, numbers within `tol` of the largest magnitude.

    reference: run both by onnx.reference (True), by ONNX Runtime (False), or by either in turn (None).
    """
    for by_reference in (False, True) if reference is None else (reference,):
        for want, got in zip(run(a, feeds, by_reference), run(b, feeds, by_reference), strict=True):
            want, got = np.asarray(want), np.asarray(got)
            assert (want.dtype, want.shape) == (got.dtype, got.shape)
            if want.dtype.kind in "biuSUO":
                np.testing.assert_array_equal(got, want)
                continue
            x, y = want.astype(np.float64), got.astype(np.float64)
            finite = np.isfinite(x)
            np.testing.assert_array_equal(np.where(finite, 0, x), np.where(np.isfinite(y), 0, y))
            scale = np.abs(x[finite]).max(initial=1e-30)
            np.testing.assert_allclose(y[finite], x[finite], rtol=0, atol=tol * scale)


def ops(model: onnx.ModelProto) -> Counter[str]:
    """How many nodes of each operator the main graph has."""
    return Counter(item.op_type for item in model.graph.node)


def constant(model: onnx.ModelProto, name: str) -> Array:
    """An initializer's values."""
    return next(numpy_helper.to_array(t) for t in model.graph.initializer if t.name == name)


def fired(report: Report) -> list[str]:
    """The rules that fired, in order."""
    return [rewrite.rule for rewrite in report.rewrites]


def reasons(report: Report, rule: str) -> list[str]:
    """Why a rule refused, sorted."""
    return sorted(report.refusals.get(rule, {}))
