"""The worker of precision.py: one model calibrated, converted and run, in a process that ONNX Runtime may end.

Its argument is a JSON request: {"src": "m.onnx", "recipes": "models.json" or "", "ranges": true, "to": "float16",
"result": "file to write"}. bfloat16 is only made and checked: no kernels of ONNX Runtime's CPU provider compute in it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, TensorProto

sys.path.insert(0, str(Path(__file__).resolve().parent))


def arrays(outputs: list[Any]) -> Iterator[np.ndarray]:
    """All arrays of a run's outputs, those in sequences included."""
    pending = list(outputs)
    while pending:
        item = pending.pop(0)
        if isinstance(item, list):
            pending = [*item, *pending]
        elif isinstance(item, np.ndarray):
            yield item


def session(model: ModelProto, optimized: bool) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    level = ort.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimized else level.ORT_DISABLE_ALL
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def distance(before: list[Any], after: list[Any]) -> dict[str, Any]:
    """How many numbers are finite before and not after; dB and relative error of the worst float output."""
    bad, kept, error = 0, 200.0, 0.0
    for a, b in zip(arrays(before), arrays(after), strict=True):
        if a.dtype != b.dtype or a.shape != b.shape:
            raise ValueError(f"an output was {a.dtype}{a.shape} and is {b.dtype}{b.shape}")
        if a.dtype.kind != "f" or not a.size:
            continue
        x, y = a.astype(np.float64), b.astype(np.float64)
        finite = np.isfinite(x)
        bad += int((finite & ~np.isfinite(y)).sum())
        finite &= np.isfinite(y)
        noise, signal = float(((x - y)[finite] ** 2).sum()), float((x[finite] ** 2).sum())
        if noise and signal:
            kept = min(kept, 10 * float(np.log10(signal / noise)))
        error = max(error, float(np.abs((x - y)[finite]).max(initial=0)))
    return {"bad": bad, "sqnr": kept, "error": error}


def halve(request: dict[str, Any]) -> dict[str, Any]:
    from graphopt.calibration.core import calibrate
    from graphopt.ir import from_proto, load, to_proto
    from graphopt.passes.precision._kinds import kinds_of
    from graphopt.passes.precision.convert_precision import NAME, ConvertPrecision
    from graphopt.rewrite import Context

    original = to_proto(load(request["src"]), whole=True)
    data, held = samples(request, original)
    ranges: Any = ""
    if request["ranges"]:
        found = calibrate(original, data)
        ranges = found if len(found) else ""
    context, model = Context(), from_proto(original)
    way = ConvertPrecision(ranges=ranges, to=request["to"])
    way.run(model, context)
    model.check()
    made = to_proto(model)
    again = from_proto(made)
    way.run(again, Context())
    kinds = [kind[1] for value, kind in kinds_of(from_proto(made)).items() if value.name and not value.is_const]
    refused = context.close().refusals.get(NAME, {})
    answer = {
        "ok": True,
        "nodes": sum(len(graph) for graph in from_proto(original).scopes()),
        "stay": sum(len(nodes) for nodes in refused.values()),
        "reasons": {reason: len(nodes) for reason, nodes in refused.items()},
        "casts": casts(made) - casts(original),
        "halves": sum(kind in (TensorProto.FLOAT16, TensorProto.BFLOAT16) for kind in kinds),
        "floats": kinds.count(TensorProto.FLOAT),
        "size": made.ByteSize() / original.ByteSize(),
        "settled": to_proto(again).SerializeToString(deterministic=True) == made.SerializeToString(deterministic=True),
    }
    return answer | (run(original, made, held) if request["to"] == "float16" else checked(made))


def checked(made: ModelProto) -> dict[str, Any]:
    onnx.checker.check_model(made, full_check=True)
    return {"bad": 0, "bad_optimized": 0}


def run(original: ModelProto, made: ModelProto, held: list[Any]) -> dict[str, Any]:
    """Both as they are written, and the result as ONNX Runtime rewrites it."""
    before, plain = session(original, False), session(made, False)
    optimized = session(made, True)
    expected = [before.run(None, feed) for feed in held]
    runs = [distance(want, plain.run(None, feed)) for want, feed in zip(expected, held, strict=True)]
    best = [distance(want, optimized.run(None, feed)) for want, feed in zip(expected, held, strict=True)]
    return {
        "bad": sum(found["bad"] for found in runs),
        "bad_optimized": sum(found["bad"] for found in best),
        "sqnr": min(found["sqnr"] for found in runs),
        "sqnr_optimized": min(found["sqnr"] for found in best),
        "error": max(found["error"] for found in runs),
    }


def casts(model: ModelProto) -> int:
    from graphopt.ir import from_proto

    return sum(node.op == "Cast" for graph in from_proto(model).scopes() for node in graph)


def samples(request: dict[str, Any], original: ModelProto) -> tuple[list[Any], list[Any]]:
    """Feeds to calibrate with, and others to judge by: of the recipes, or as the verification makes them."""
    if request["recipes"]:
        from common import load_recipes

        recipes, make = load_recipes(Path(request["recipes"]))
        recipe = recipes[Path(request["src"]).name]
        return [make(recipe, seed=seed) for seed in (1000, 1001)], [make(recipe, seed=seed) for seed in (9000, 9001)]
    return made_up(original, 0), made_up(original, 1)


def made_up(original: ModelProto, seed: int) -> list[Any]:
    from graphopt.verify import Budget, Reference

    with Reference(original, budget=Budget(seconds=60), seed=seed) as reference:
        cases = [case.feeds for case in reference.found.cases if case.data in ("base", "positive")][:2]
    if not cases:
        raise ValueError("; ".join(reference.found.unchecked) or "no inputs were found that it runs on")
    return cases


if __name__ == "__main__":
    job = json.loads(sys.argv[1])
    Path(job["result"]).write_text(json.dumps(halve(job)))
