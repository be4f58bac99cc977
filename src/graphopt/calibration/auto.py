"""For each tensor the observer whose range hurts least where it matters: in what is computed from the tensor.

On a few samples, every Conv, ConvTranspose, Gemm and MatMul with constant weights runs on its input as it is and as it
is after quantization to each candidate range; the candidate with the least squared error of these outputs, summed over
readers and samples, is taken. A tensor that no such operator reads is judged by its own error, on the histogram of all
samples. (As in M. Nagel et al., "A white paper on neural network quantization", 2021, section 3.1, but on outputs.)
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from graphopt import ir
from graphopt.analysis.ranges import Ranges, TensorRange
from graphopt.calibration.collection import Collection
from graphopt.calibration.methods import METHODS, Options, without_channels
from graphopt.calibration.mse import error_of
from graphopt.calibration.stages import BUDGET, Stages, options_of
from graphopt.errors import GraphoptError
from graphopt.ir import Model, Node
from graphopt.ir.external import shown

__all__ = ["choose", "quantized"]

_LINEAR = {"Conv", "ConvTranspose", "Gemm", "MatMul"}


def choose(
    model: Model,
    samples: Sequence[Mapping[str, Any]],
    found: Collection,
    *,
    progress: Callable[[str, int, int], None] | None = None,
    threads: int = 1,
    budget: int = BUDGET,
    **options: Any,
) -> Ranges:
    """The ranges of the best observer for each tensor, judged on the samples.

    Other arguments as of `calibrate`. Raises GraphoptError where ONNX Runtime refuses such an operator on its own.
    """
    settings = Options(**options)
    if settings.bins == settings.levels:
        options["bins"] = 16 * settings.levels  # otherwise entropy cuts nothing
    made = {name: found.ranges(name, **options) for name in METHODS if name != "auto"}
    plain = made["minmax"]
    candidates = {name: _different(made, name) for name in found.plan.tensors if name in plain}
    readers = _readers(model, [name for name, different in candidates.items() if len(different) > 1])
    errors = {name: _own(found, name, candidates[name], settings) for name in candidates if name not in readers}
    errors |= {name: {} for name in readers}
    if readers:
        with (
            Stages(model, list(readers), samples[0], budget=budget, threads=threads) as stages,
            tempfile.TemporaryDirectory(prefix="graphopt-calibration-") as folder,
        ):
            for done, feed in enumerate(samples):
                if progress is not None:
                    progress("choosing ranges", done, len(samples))
                for name, array in stages.run(feed):
                    for node in readers[name]:
                        _measure(node, array, candidates[name], settings, errors[name], folder, threads)
    chosen = {name: made[min(totals, key=lambda method: totals[method])][name] for name, totals in errors.items()}
    chosen |= {alias: without_channels(chosen[name]) for alias, name in found.plan.aliases if name in chosen}
    return Ranges(chosen, model=plain.model, samples=plain.samples, notes=plain.notes)


def _own(found: Collection, name: str, candidates: Mapping[str, TensorRange], options: Options) -> dict[str, float]:
    """The errors of the tensor itself."""
    extent = found.extents[name].low, found.extents[name].high
    pairs = {method: (each.low, each.high) for method, each in candidates.items()}
    histogram, bits, symmetric = found.histograms[name], options.bits, options.symmetric
    if len(pairs) == 1:
        return dict.fromkeys(pairs, 0.0)
    return {method: error_of(histogram, pair, extent, bits, symmetric) for method, pair in pairs.items()}


def quantized(array: np.ndarray, low: float, high: float, bits: int, symmetric: bool) -> np.ndarray:
    """An array after quantization to integers of so many bits, and back; float32.

    >>> quantized(np.float32([-1, 0.1, 0.5, 2]), 0.0, 1.0, 2, False).tolist()
    [0.0, 0.0, 0.6666666865348816, 1.0]
    """
    low, high = min(low, 0.0), max(high, 0.0)
    most = 2 ** (bits - 1) - 1 if symmetric else 2**bits - 1
    scale = np.float32((max(-low, high) if symmetric else high - low) / most)
    if not scale:
        return np.zeros_like(array, np.float32)
    zero = np.float32(0 if symmetric else np.rint(-low / scale))
    steps = np.rint(array.astype(np.float32) / scale)
    return np.asarray(np.clip(steps, (-most if symmetric else 0) - zero, most - zero) * scale)


def _different(candidates: Mapping[str, Ranges], name: str) -> dict[str, TensorRange]:
    """The candidates for a tensor, without those that are the same as one before."""
    found: dict[tuple[float, float], str] = {}
    for method, ranges in candidates.items():
        if name in ranges:
            found.setdefault((ranges[name].low, ranges[name].high), method)
    return {method: candidates[method][name] for method in found.values()}


def _readers(model: Model, names: Sequence[str]) -> dict[str, list[Node]]:
    """The linear operators with constant weights that read each tensor, where there are any."""
    found: dict[str, list[Node]] = {}
    for name in names:
        value = model.graph.find(name)
        users = value.users if value is not None else {}
        linear = [node for node in users if node.op in _LINEAR and not node.domain and node.graph is model.graph]
        nodes = [n for n in linear if n.inputs[0] is value and all(v is None or v.is_const for v in n.inputs[1:])]
        if nodes:
            found[name] = nodes
    return found


def _measure(
    node: Node,
    array: np.ndarray,
    candidates: Mapping[str, TensorRange],
    options: Options,
    errors: dict[str, float],
    folder: str,
    threads: int,
) -> None:
    """Adds up the squared errors of an operator's output. The session is let go again: together they would hold the
    weights a second time."""
    session, name = _session(node, os.path.join(folder, "operator.onnx"), threads), node.inputs[0].name  # type: ignore[union-attr]
    kind = array.dtype
    right = session.run(None, {name: array})[0]
    for method, found in candidates.items():
        given = quantized(array, found.low, found.high, options.bits, options.symmetric).astype(kind)
        error = session.run(None, {name: given})[0] - right
        errors[method] = errors.get(method, 0.0) + float(np.sum(np.square(error), dtype=np.float64))


def _session(node: Node, path: str, threads: int) -> Any:
    import onnxruntime

    from graphopt.subgraphs.boundary import types_of
    from graphopt.subgraphs.cut import cut
    from graphopt.subgraphs.region import region_of
    from graphopt.verify.run import one_line

    region = region_of([node], outputs=[node.outputs[0]])
    ir.save(cut(region, types_of(node.graph.model, region.inputs)), path)
    try:
        return onnxruntime.InferenceSession(path, options_of(threads), providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exception classes have no public base but Exception
        raise GraphoptError(f"ONNX Runtime does not load {node.op} {shown(node.label)}: {one_line(error)}") from error
