"""Says what is wrong with an optimized model, for the tests and for trials of other tools alike."""

from __future__ import annotations

from functools import cache

import onnx

from traps.case import Case
from traps.run import ALL, OFF, differences, ort_deviates, run_ort, run_reference, truth


def checker_error(model: onnx.ModelProto) -> str:
    """What `onnx.checker` says against a model; empty for a valid one."""
    try:
        onnx.checker.check_model(model)
    except Exception as error:
        return (str(error).strip() or repr(error)).splitlines()[0]
    return ""


def interface(model: onnx.ModelProto) -> list[tuple[str, str, bytes]]:
    """Inputs and outputs: their order, names, types and dims. Before IR version 4 weights are no real inputs."""
    weights = {t.name for t in model.graph.initializer} if model.ir_version < 4 else set()
    sides = (("input", [i for i in model.graph.input if i.name not in weights]), ("output", model.graph.output))
    return [(side, v.name, v.type.SerializeToString(deterministic=True)) for side, values in sides for v in values]


def problems(case: Case, optimized: onnx.ModelProto) -> list[str]:
    """Everything that is wrong with what an optimizer made of a case; equal files are judged once."""
    return list(_problems(case, optimized.SerializeToString(deterministic=True)))


@cache
def _problems(case: Case, file: bytes) -> tuple[str, ...]:
    optimized = onnx.load_from_string(file)
    original = case.build()
    found = []
    error = checker_error(optimized)
    if error and not checker_error(original):
        found.append(f"onnx.checker: {error}")
    if interface(optimized) != interface(original):
        found.append("the interface has changed")
    for check in case.checks:
        try:
            check(original, optimized)
        except AssertionError as failure:
            found.append(str(failure).splitlines()[0] or repr(check))
    if case.evaluator == "reference":
        found += _compare(case, optimized, None)
    if case.evaluator == "ort-off":
        found += [f"ORT, optimizations off: {p}" for p in _compare(case, optimized, OFF)]
        on = _compare(case, optimized, ALL)
        if on and (case.hazard or not ort_deviates(case.name)):
            found += [f"ORT, optimizations on: {p}" for p in on]
    return tuple(found)


def _compare(case: Case, model: onnx.ModelProto, level: object) -> list[str]:
    found = []
    for index, (feeds, want) in enumerate(zip(case.feeds(), truth(case.name), strict=True)):
        try:
            got = run_reference(model, feeds) if level is None else run_ort(model, feeds, level)
        except Exception as error:
            return [*found, f"does not run: {str(error).strip().splitlines()[0][:300]}"]
        found += [f"feeds {index}, {d}" for d in differences(case, want, got)]
    return found
