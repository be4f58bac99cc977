"""ONNX Runtime sessions as the driver needs them: as a user would run the model, and as it is written."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from onnx import ModelProto

from graphopt.errors import GraphoptError

__all__ = ["Runner", "race"]

WARM_UP = 2
MOST = 400  # timed runs of each model


class Runner:
    """One model, loaded. optimize: with all of the runtime's optimizations, or with none. Raises GraphoptError where
    the runtime does not load it.

    >>> from onnx import parser
    >>> text = '<ir_version: 8, opset_import: ["": 17]> g (float[N] x) => (float[N] y) {y = Neg(x)}'
    >>> Runner(parser.parse_model(text))({"x": np.float32([1, 2])})[0].tolist()
    [-1.0, -2.0]
    """

    def __init__(self, model: ModelProto | str, *, optimize: bool = True, threads: int = 1) -> None:
        import onnxruntime

        from graphopt.verify.run import one_line

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        level = onnxruntime.GraphOptimizationLevel
        options.graph_optimization_level = level.ORT_ENABLE_ALL if optimize else level.ORT_DISABLE_ALL
        content = model if isinstance(model, str) else model.SerializeToString()
        try:
            self.session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's exceptions have no public base but Exception
            raise GraphoptError(f"ONNX Runtime does not load it: {one_line(error)}") from error
        self.names = [value.name for value in self.session.get_outputs()]
        self.inputs = {v.name for v in (*self.session.get_inputs(), *self.session.get_overridable_initializers())}

    def __call__(self, feeds: Mapping[str, Any]) -> list[Any]:
        """The outputs in their order. Raises GraphoptError where the run fails."""
        from graphopt.verify.run import one_line

        given = {name: value for name, value in feeds.items() if name in self.inputs}
        try:
            return list(self.session.run(self.names, given))
        except Exception as error:
            raise GraphoptError(f"ONNX Runtime does not run it: {one_line(error)}") from error

    def timed(self, feeds: Mapping[str, Any]) -> Callable[[], Any]:
        """One run, the inputs handed over before where they are plain tensors."""
        import onnxruntime

        given: dict[str, Any] = {name: value for name, value in feeds.items() if name in self.inputs}
        if all(isinstance(v, np.ndarray) and v.dtype.kind in "fbiu" for v in given.values()):
            wrap = onnxruntime.OrtValue.ortvalue_from_numpy
            held = {name: wrap(np.ascontiguousarray(value)) for name, value in given.items()}
            return lambda: self.session.run_with_ort_values(self.names, held)
        return lambda: self.session.run(self.names, given)


def race(
    runners: Sequence[Runner], feeds: Mapping[str, Any], *, seconds: float, least: int = 5
) -> list[tuple[float, float]]:
    """Times models in turns, run by run, so that a machine that slows down slows all of them.

    seconds: for all together; at least `least` turns. Returns for each its median milliseconds, and how many times as
    fast as the first it is, by the lower quartiles: what else the machine does only makes runs longer.
    """
    runs = [runner.timed(feeds) for runner in runners]
    for run in runs * WARM_UP:
        run()
    taken: list[list[float]] = [[] for _ in runs]
    deadline = time.perf_counter() + seconds
    order = list(range(len(runs)))
    while len(taken[0]) < least or (time.perf_counter() < deadline and len(taken[0]) < MOST):
        order.reverse()
        for place in order:
            start = time.perf_counter()
            runs[place]()
            taken[place].append(time.perf_counter() - start)
    low = [float(np.quantile(each, 0.25)) for each in taken]
    return [(1e3 * statistics.median(each), low[0] / low[place]) for place, each in enumerate(taken)]
