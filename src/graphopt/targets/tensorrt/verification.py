"""Does an engine compute what its model computes in ONNX Runtime? At every corner of every profile.

Kernels on a GPU add in another order and in other units than those of a CPU, so that the two agree to within more than
ONNX Runtime agrees with itself: what is allowed is a share of the output's scale, by the precision of the graph. It was
measured on TensorRT 8.5.3 on an H200: 4e-4 to 2e-3 for float32, 7e-4 to 4e-3 for float16, 8e-3 with int8.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from onnx import ModelProto

from graphopt.errors import GraphoptError
from graphopt.targets.tensorrt.profiles import Profile, corners_of

__all__ = ["Allowance", "allowance_for", "at_shapes", "distance_of", "verify_engine"]


@dataclass(frozen=True)
class Allowance:
    """How far an engine may be from the model, relative to the scale of the whole output: at the peak, and rms."""

    peak: float
    rms: float


_ALLOWED = {"float32": Allowance(1e-2, 2e-3), "float16": Allowance(5e-2, 1e-2), "int8": Allowance(0.15, 3e-2)}


def allowance_for(model: ModelProto) -> Allowance:
    """By the lowest precision that the graph has: int8 where it has Q/DQ, float16 (and bfloat16), float32."""
    if any(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in model.graph.node):
        return _ALLOWED["int8"]
    halves = any(tensor.data_type in (10, 16) for tensor in model.graph.initializer)
    casts = any(a.name == "to" and a.i in (10, 16) for node in model.graph.node for a in node.attribute)
    return _ALLOWED["float16" if halves or casts else "float32"]


def at_shapes(model: ModelProto, shapes: Mapping[str, Sequence[int]]) -> ModelProto:
    """A copy whose inputs have these sizes, and wherever the same symbols stand, the same there."""
    fixed = ModelProto()
    fixed.CopyFrom(model)
    bound: dict[str, int] = {}
    for info in fixed.graph.input:
        for dim, size in zip(info.type.tensor_type.shape.dim, shapes.get(info.name, ()), strict=False):
            if dim.dim_param:
                bound[dim.dim_param] = int(size)
            dim.dim_value = int(size)
    for info in (*fixed.graph.input, *fixed.graph.output, *fixed.graph.value_info):
        for dim in info.type.tensor_type.shape.dim:
            if dim.dim_param in bound:
                dim.dim_value = bound[dim.dim_param]
    return fixed


class Runs(Protocol):
    """An engine, or a model in parts."""

    profiles: list[Profile]

    def run(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        """Outputs by name."""


def verify_engine(
    engine: Runs,
    model: ModelProto,
    inputs: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
    *,
    allowance: Allowance | None = None,
    seconds: float = 60.0,
    seed: int = 0,
    failing: list[Mapping[str, Any]] | None = None,
) -> Any:
    """Compares an engine with the model that it was built from, run by ONNX Runtime on the CPU.

    inputs: feeds to compare on; None makes inputs that suit the model, for the smallest, usual and largest shapes of
    every profile. allowance: by the precision of the graph if it is None. seconds: for all of it; what does not fit is
    listed as unchecked. failing: gets the inputs of runs that differ. Returns a `graphopt.verify.VerificationReport`.
    """
    from graphopt.verify import Budget, Reference, Run, VerificationReport

    start = time.monotonic()
    report = VerificationReport(notes=[], lossy=False)
    allowed = allowance or allowance_for(model)
    given = None if inputs is None else [inputs] if isinstance(inputs, Mapping) else list(inputs)
    places = [(None, feeds) for feeds in given] if given is not None else [(c, None) for c in _corners(engine.profiles)]
    for corner, feeds in places:
        left = seconds - (time.monotonic() - start)
        if left <= 0:
            report.unchecked.append(f"{_where(corner)}: no time was left")
            continue
        fixed = at_shapes(model, corner or {})
        with Reference(fixed, feeds, budget=Budget(seconds=left), seed=seed) as reference:
            report.unchecked += [f"{_where(corner)}: {text}" for text in reference.found.unchecked]
            for case in reference.found.cases:
                run = Run(_sizes(model, corner, case.feeds), "", case.data, seconds=(case.seconds, 0.0))
                _compare(engine, model, case, run, allowed, report)
                if failing is not None and (report.error or not run.ok):
                    failing.append(case.feeds)
    _conclude(report)
    report.seconds = time.monotonic() - start
    return report


def _corners(profiles: Sequence[Profile]) -> list[dict[str, tuple[int, ...]]]:
    found: list[dict[str, tuple[int, ...]]] = []
    for profile in profiles:
        found += [corner for corner in corners_of(profile) if corner not in found]
    return found


def _where(corner: Mapping[str, Sequence[int]] | None) -> str:
    if not corner:
        return "the inputs"
    return ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in corner.items())


def _sizes(model: ModelProto, corner: Mapping[str, Sequence[int]] | None, feeds: Mapping[str, Any]) -> dict[str, int]:
    """Symbol -> size, as far as the inputs have symbols."""
    found: dict[str, int] = {}
    for info in model.graph.input:
        shape = (corner or {}).get(info.name) or np.shape(feeds.get(info.name, ()))
        for dim, size in zip(info.type.tensor_type.shape.dim, shape, strict=False):
            if dim.dim_param:
                found[dim.dim_param] = int(size)
    return found


def _compare(engine: Runs, model: ModelProto, case: Any, run: Any, allowed: Allowance, report: Any) -> None:
    start = time.perf_counter()
    try:
        outputs = engine.run(case.feeds)
    except GraphoptError as error:
        report.error = report.error or f"the engine fails where the model runs: {error}"
        return
    run.seconds = (run.seconds[0], time.perf_counter() - start)
    for info, expected in zip(model.graph.output, case.outputs, strict=True):
        found = distance_of(expected, outputs.get(info.name))
        check = found.check(info.name)
        check.ok = not found.kind and not found.mismatches and found.far_peak <= allowed.peak
        check.ok = check.ok and found.far_rms <= allowed.rms
        check.why = "" if check.ok else found.in_words()
        run.outputs.append(check)
    report.runs.append(run)


def distance_of(expected: Any, got: np.ndarray | None) -> Any:
    """A `graphopt.verify` deviation. Integers that TensorRT narrows (int64 to int32) count by value."""
    from graphopt.verify.compare import Deviation, deviation

    if got is None:
        return Deviation("the engine has no such output", total=1)
    array = np.asarray(expected)
    kinds = array.dtype.kind + np.asarray(got).dtype.kind
    if kinds in ("ii", "iu", "ui", "fi") or (kinds == "ff" and array.dtype != got.dtype):
        got = got.astype(array.dtype)
    return deviation(array, got)


def _conclude(report: Any) -> None:
    if report.error or not all(run.ok for run in report.runs):
        report.status = "failed"
    else:
        report.status = "passed" if report.runs else "unchecked"
