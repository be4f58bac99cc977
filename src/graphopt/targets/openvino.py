"""The same file in another runtime: does OpenVINO, on the CPU, load it, compute the same, and how fast is it there?

Standard ONNX is what makes an optimized model portable; this is the proof of it.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from graphopt.errors import GraphoptError

__all__ = ["Portability", "check_openvino"]

_ALLOWED = 2e-3  # of the output's scale, at the peak: other kernels, other order of sums


@dataclass
class Portability:
    """What OpenVINO makes of a model.

    ok: it loads, and every output agrees with ONNX Runtime's. version: of OpenVINO. outputs: name -> largest
    difference, relative to the output's scale. openvino_ms, onnxruntime_ms: medians of a run, in turns; None where it
    does not run. why: what is wrong, or nothing.
    """

    ok: bool
    version: str
    outputs: dict[str, float] = field(default_factory=dict)
    openvino_ms: float | None = None
    onnxruntime_ms: float | None = None
    why: str = ""

    def summary(self) -> str:
        """One line.

        >>> Portability(True, "2026.4", {"y": 1e-6}, 2.0, 3.0).summary()
        'OpenVINO 2026.4 agrees (largest difference 1e-06 of the scale), 2.000 ms against 3.000 ms in ONNX Runtime'
        """
        if not self.ok:
            return f"OpenVINO {self.version}: {self.why}"
        worst = max(self.outputs.values(), default=0.0)
        times = f"{self.openvino_ms:.3f} ms against {self.onnxruntime_ms:.3f} ms in ONNX Runtime"
        return f"OpenVINO {self.version} agrees (largest difference {worst:.2g} of the scale), {times}"

    def to_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return asdict(self)


def check_openvino(
    model: str | os.PathLike[str],
    inputs: Mapping[str, Any] | None = None,
    *,
    threads: int = 1,
    seconds: float = 2.0,
    seed: int = 0,
) -> Portability:
    """Runs a model's file in OpenVINO and in ONNX Runtime, in turns, on the same inputs.

    inputs: a feed dict; None makes one that suits the model. threads: of either. seconds: of measuring. Raises
    GraphoptError without OpenVINO (`pip install 'graphopt[openvino]'`), and where ONNX Runtime does not run the model.
    """
    try:
        import openvino
    except ImportError as error:
        raise GraphoptError("OpenVINO is not installed: pip install 'graphopt[openvino]'") from error
    import onnxruntime as ort

    version = ".".join(str(openvino.__version__).split("-")[0].split(".")[:3])
    feeds = dict(inputs) if inputs is not None else _feeds(model, seed)
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 4
    session = ort.InferenceSession(os.fspath(model), options, providers=["CPUExecutionProvider"])
    expected = session.run(None, feeds)
    names = [output.name for output in session.get_outputs()]
    hints = {
        "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32",
    }  # fmt: skip
    try:
        compiled = openvino.Core().compile_model(os.fspath(model), "CPU", hints)
        request = compiled.create_infer_request()
        outputs = [np.array(request.infer(feeds)[place]) for place in range(len(names))]
    except Exception as error:  # noqa: BLE001 - OpenVINO raises RuntimeError and its own kinds
        text = " ".join(str(error).split())
        return Portability(False, version, why=f"it does not run there: {text[:300]}")
    found = Portability(True, version)
    for name, left, right in zip(names, expected, outputs, strict=True):
        _compare(found, name, np.asarray(left), right)
    ours, theirs = _times(lambda: request.infer(feeds), lambda: session.run(None, feeds), seconds)
    found.openvino_ms, found.onnxruntime_ms = 1e3 * ours, 1e3 * theirs
    return found


def _feeds(model: str | os.PathLike[str], seed: int) -> dict[str, Any]:
    from graphopt.verify import Reference

    with Reference(model, seed=seed) as reference:
        if not reference.found.cases:
            raise GraphoptError(f"no inputs were found on which {os.fspath(model)} runs; give some with --inputs")
        return dict(reference.found.cases[0].feeds)


def _compare(found: Portability, name: str, left: np.ndarray, right: np.ndarray) -> None:
    if left.shape != right.shape:
        found.ok, found.why = False, found.why or f"output {name!r} has shape {right.shape}, not {left.shape}"
        return
    a, b = left.astype(np.float64), right.astype(np.float64)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    with np.errstate(invalid="ignore"):
        error = np.where(same, 0.0, np.abs(a - b))
    scale = max(float(np.abs(a[np.isfinite(a)]).max(initial=0.0)), 1e-30)
    worst = float(np.max(error, initial=0.0)) / scale
    found.outputs[name] = worst
    if not worst <= _ALLOWED:
        found.ok, found.why = False, found.why or f"output {name!r} differs by {worst:.2g} of its scale"


def _times(first: Any, second: Any, seconds: float) -> tuple[float, float]:
    """Medians of the two, which take turns."""
    laps: tuple[list[float], list[float]] = ([], [])
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(laps[0]) < 5:
        for lap, action in zip(laps, (first, second), strict=True):
            start = time.perf_counter()
            action()
            lap.append(time.perf_counter() - start)
    return statistics.median(laps[0]), statistics.median(laps[1])
