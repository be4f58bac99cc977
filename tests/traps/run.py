"""Runs a model in its evaluator and compares what comes out."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from traps.case import REGISTRY, Case, Feeds

OFF = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
ALL = ort.GraphOptimizationLevel.ORT_ENABLE_ALL


class Ramp(OpRun):
    """An operator of nobody's: `slope * x + 1`, in a domain that no optimizer knows."""

    op_domain = "test.custom"

    def _run(self, x: Any, slope: float = 1.0) -> tuple[Any]:
        return ((x * np.asarray(slope, x.dtype) + 1).astype(x.dtype),)


def run_ort(model: onnx.ModelProto, feeds: Feeds, level: Any) -> list[Any]:
    """All outputs, by ONNX Runtime on one CPU thread."""
    options = ort.SessionOptions()
    options.graph_optimization_level = level
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [_own(value) for value in session.run(None, feeds)]


def _own(value: Any) -> Any:
    """A copy of an array: ORT may hand out an input's memory as an output."""
    return value.copy() if isinstance(value, np.ndarray) else value


def run_reference(model: onnx.ModelProto, feeds: Feeds) -> list[Any]:
    """All outputs, by the evaluator of the `onnx` package."""
    with np.errstate(all="ignore"):
        return list(ReferenceEvaluator(model, new_ops=[Ramp]).run(None, dict(feeds)))


@cache
def truth(name: str) -> list[list[Any]]:
    """What the original gives for each of the case's feeds."""
    case = REGISTRY[name]
    model = case.build()
    if case.evaluator == "none":
        return []
    if case.evaluator == "reference":
        return [run_reference(model, feeds) for feeds in case.feeds()]
    return [run_ort(model, feeds, OFF) for feeds in case.feeds()]


@cache
def ort_deviates(name: str) -> bool:
    """ORT with its optimizations on gets the original itself wrong, or refuses it."""
    case = REGISTRY[name]
    model = case.build()
    try:
        got = [run_ort(model, feeds, ALL) for feeds in case.feeds()]
    except Exception:
        return True
    return any(differences(case, want, have) for want, have in zip(truth(name), got, strict=True))


def differences(case: Case, want: list[Any], got: list[Any]) -> list[str]:
    """What differs between two lists of outputs, in words; empty where they agree."""
    if len(want) != len(got):
        return [f"{len(want)} outputs before, {len(got)} after"]
    found = []
    for index, (a, b) in enumerate(zip(want, got, strict=True)):
        wrong = _differ(case, a, b)
        if wrong:
            found.append(f"output {index}: {wrong}")
    return found


def _differ(case: Case, a: Any, b: Any) -> str:
    if a is None or b is None:
        return "" if a is None and b is None else f"{a!r} became {b!r}"
    if isinstance(a, dict):
        return "" if isinstance(b, dict) and a == b else f"{a!r} became {b!r}"
    if isinstance(a, list | tuple):
        if not isinstance(b, list | tuple) or len(a) != len(b):
            return f"a sequence of {len(a)} became {type(b).__name__}"
        return "; ".join(filter(None, (_differ(case, x, y) for x, y in zip(a, b, strict=True))))
    return _differ_array(case, np.asarray(a), np.asarray(b))


def _differ_array(case: Case, a: Any, b: Any) -> str:
    if a.dtype != b.dtype or a.shape != b.shape:
        return f"{a.dtype}{list(a.shape)} became {b.dtype}{list(b.shape)}"
    if not case.values:
        return ""
    if a.dtype.kind not in "fV" or (a.dtype.kind == "V" and a.dtype.names):
        return "" if np.array_equal(a, b) else f"{a.ravel()[:6]} became {b.ravel()[:6]}"
    x, y = a.astype(np.float64), b.astype(np.float64)
    if not np.array_equal(np.isnan(x), np.isnan(y)):
        return f"NaN in other places: {x.ravel()[:6]} became {y.ravel()[:6]}"
    if not np.array_equal(np.where(np.isinf(x), x, 0), np.where(np.isinf(y), y, 0)):
        return f"infinities in other places: {x.ravel()[:6]} became {y.ravel()[:6]}"
    finite = np.isfinite(x)
    x, y = x[finite], y[finite]
    error = np.abs(x - y).max(initial=0.0)
    if error > case.tol * np.abs(x).max(initial=0.0):
        return f"off by {error:.3g} on values up to {np.abs(x).max():.3g}"
    if case.tol == 0 and case.signs and not np.array_equal(np.signbit(x), np.signbit(y)):
        return "a zero changed its sign"
    return ""
