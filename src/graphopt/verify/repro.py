"""A failure in a folder of its own: two small models, their inputs, and a script that needs nothing but onnxruntime."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto

from graphopt.errors import GraphoptError, OutputError
from graphopt.ir import dtypes
from graphopt.verify.core import Reference
from graphopt.verify.report import VerificationReport
from graphopt.verify.run import BY_ADDRESS, LoadError, RunError, raw_bytes
from graphopt.verify.source import PROTO_LIMIT, Source, tensor_bytes
from graphopt.verify.window import Window, capture, changed_window

__all__ = ["write_repro"]

_HOPS = (0, 1, 3)  # how many nodes around the changed ones are tried, fewest first


def write_repro(
    folder: str | os.PathLike[str],
    before: ModelProto | str | os.PathLike[str],
    after: ModelProto | str | os.PathLike[str],
    inputs: Mapping[str, Any],
) -> Path:
    """Write a repro of the difference between `before` and `after` into `folder` (made if need be); returns its path.

    The models are cut down to the nodes that differ, with the values that enter them as inputs, if the cut still shows
    the difference; else they are written whole. Files: before.onnx, after.onnx, inputs.npz, repro.py, README.md.

    inputs: what the whole models run on. Raises `OutputError` when the folder cannot be written, `GraphoptError` when
    the models do not fit into one file each.
    """
    target = Path(folder)
    ours, theirs = Source.of(before), Source.of(after)
    small = _smallest(ours, theirs, inputs)
    models, feeds, report = small or (_whole(ours, theirs), dict(inputs), _verdict(ours.proto, theirs.proto, inputs))
    try:
        target.mkdir(parents=True, exist_ok=True)
        for name, model in zip(("before.onnx", "after.onnx"), models, strict=True):
            (target / name).write_bytes(model.SerializeToString())
        np.savez(target / "inputs.npz", **_storable(feeds))
        (target / "repro.py").write_text(_SCRIPT, encoding="utf-8")
        (target / "README.md").write_text(_readme(models, feeds, report, small is not None), encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{target}: the repro cannot be written ({error.strerror or error})") from error
    return target


def _smallest(
    ours: Source, theirs: Source, inputs: Mapping[str, Any]
) -> tuple[tuple[ModelProto, ModelProto], dict[str, Any], VerificationReport] | None:
    """The smallest window around the change that still differs, with its inputs; None when none does."""
    for hops in _HOPS:
        window = changed_window(ours.proto, theirs.proto, hops)
        if window is None:
            return None
        found = _try_window(ours, theirs, window, inputs)
        if found is not None:
            return found
    return None


def _try_window(
    ours: Source, theirs: Source, window: Window, inputs: Mapping[str, Any]
) -> tuple[tuple[ModelProto, ModelProto], dict[str, Any], VerificationReport] | None:
    try:
        feeds = capture(ours, window.inputs, inputs)
        models = (window.cut(ours, feeds, first=True), window.cut(theirs, feeds, first=False))
        report = _verdict(*models, feeds)
    except (LoadError, RunError, GraphoptError):
        return None
    return None if report.ok else (models, feeds, report)


def _verdict(before: ModelProto, after: ModelProto, feeds: Mapping[str, Any]) -> VerificationReport:
    with Reference(before, feeds) as reference:
        return reference.check(after)


def _whole(ours: Source, theirs: Source) -> tuple[ModelProto, ModelProto]:
    found = []
    for source in (ours, theirs):
        if source.weight_bytes >= PROTO_LIMIT:
            raise GraphoptError(
                f"{source.name}: too large for a repro in one file, and no smaller part shows the failure"
            )
        found.append(source.copy())
    return found[0], found[1]


def _storable(feeds: Mapping[str, Any]) -> dict[str, Any]:
    """Feeds as `np.savez` takes them: types that numpy lacks as their bytes, sequences and maps boxed."""
    found = {}
    for name, value in feeds.items():
        if isinstance(value, np.ndarray) and value.dtype.kind != "O":
            found[name] = raw_bytes(value) if dtypes.from_numpy(value.dtype) in BY_ADDRESS else value
        else:
            found[name] = _boxed(value) if isinstance(value, list) else np.asarray(value, dtype=object)
    return found


def _boxed(values: list[Any]) -> np.ndarray:
    box = np.empty(len(values), object)
    for place, value in enumerate(values):
        box[place] = value
    return box


def _readme(
    models: tuple[ModelProto, ModelProto], feeds: Mapping[str, Any], report: VerificationReport | None, cut: bool
) -> str:
    before, after = models
    lines = [
        "# Two models that should agree, and do not",
        "",
        f"`before.onnx` ({_outline(before)}) and `after.onnx` ({_outline(after)}),",
        "cut out of larger models around the nodes that differ."
        if cut
        else "the whole models: no smaller part differs.",
        "",
        f"What was found: {report.summary() if report else 'the models could not be compared'}",
        "",
        "Run `python repro.py` (needs numpy and onnxruntime). Inputs, in `inputs.npz`:",
        "",
        *(
            f"- `{name}`: {getattr(value, 'dtype', type(value).__name__)} {getattr(value, 'shape', '')}"
            for name, value in feeds.items()
        ),
        "",
    ]
    return "\n".join(lines)


def _outline(model: ModelProto) -> str:
    ops = [node.op_type for node in model.graph.node]
    weights = sum(tensor_bytes(tensor) for tensor in model.graph.initializer)
    listed = ", ".join(ops[:8]) + (", ..." if len(ops) > 8 else "")
    return f"{len(ops)} nodes: {listed}; {weights} bytes of weights"


_SCRIPT = '''"""Runs both models on the same inputs and prints how far apart they are. Needs numpy and onnxruntime."""

import ctypes
import pathlib

import numpy as np
import onnxruntime as ort

here = pathlib.Path(__file__).parent
saved = np.load(here / "inputs.npz", allow_pickle=True)
# Types that numpy lacks are stored as bytes, and go in and come out as such.
CODES = {"bfloat16": 16, "float8e4m3fn": 17, "float8e4m3fnuz": 18, "float8e5m2": 19, "float8e5m2fnuz": 20, "uint4": 21,
         "int4": 22, "float4e2m1": 23, "uint2": 25, "int2": 26}


def given(value):
    array = saved[value.name]
    code = CODES.get(value.type[7:-1])
    if code is not None:
        return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(array, code)
    if value.type.startswith("seq"):
        return list(array)
    return array.item() if array.dtype == object and "string" not in value.type else array


def fetched(session, feeds):
    if not any(value.type[7:-1] in CODES for value in session.get_outputs()):
        return session.run(None, feeds)
    wrap = ort.OrtValue.ortvalue_from_numpy
    feeds = {name: wrap(x) if isinstance(x, np.ndarray) else x for name, x in feeds.items()}
    values = session.run_with_ort_values(None, feeds)
    return [np.frombuffer(ctypes.string_at(v.data_ptr(), v.tensor_size_in_bytes()), np.uint8) for v in values]


def run(name, level):
    options = ort.SessionOptions()
    options.graph_optimization_level = level
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(here / name), options, providers=["CPUExecutionProvider"])
    return session.get_outputs(), fetched(session, {value.name: given(value) for value in session.get_inputs()})


def report(label, name, x, y):
    if isinstance(x, list):
        return [report(label, f"{name}[{i}]", a, b) for i, (a, b) in enumerate(zip(x, y))]
    x, y = np.asarray(x), np.asarray(y)
    if x.shape != y.shape or x.dtype != y.dtype:
        print(f"{label}: {name}: {x.dtype}{x.shape} became {y.dtype}{y.shape}")
    elif x.dtype.kind in "fc":
        print(f"{label}: {name}: largest difference {np.nanmax(np.abs(x - y), initial=0):.6g}")
    else:
        print(f"{label}: {name}: {np.count_nonzero(x != y)} of {x.size} elements differ")


level = ort.GraphOptimizationLevel
outputs, before = run("before.onnx", level.ORT_DISABLE_ALL)
for label, chosen in (("as it is run", level.ORT_ENABLE_ALL), ("without ORT's optimizations", level.ORT_DISABLE_ALL)):
    _, after = run("after.onnx", chosen)
    for value, x, y in zip(outputs, before, after):
        report(label, value.name, x, y)
'''
