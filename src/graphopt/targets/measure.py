"""Measures the description of this machine that `graphopt.analysis.cost` goes by: ONNX Runtime, one thread, seconds.

Each kind of kernel is timed on one small model (`_samples`): the operator once, and three times in a row, so that
what a run takes to start drops out; outputs are bound, so that no memory is allocated. The quickest of a few dozen
runs (what else the machine does only makes runs longer), less the overhead of a node, by the work of the operator as
the model of cost counts it, is the entry of `Machine.seconds`.

>>> from graphopt.analysis.cost import ORT_CPU
>>> machine = measure(seconds=0.2, kinds=["Relu", "Elu"])
>>> 0 < machine.seconds["Relu"] < machine.seconds["Elu"], machine.widths == ORT_CPU.widths or machine.widths == (8, 16)
(True, True)
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from graphopt.analysis.cost import ORT_CPU, Machine, Sizes, work_of
from graphopt.analysis.cost.saved import cpu_name
from graphopt.targets._samples import SAMPLES, Sample

__all__ = ["measure"]

LONG = 3  # operators in a row
LEAST_RUNS, MOST_RUNS = 7, 60
LEAST = 1e-13  # seconds for a unit of work: what cannot be told from nothing is this


def measure(
    *,
    threads: int = 1,
    seconds: float = 3.0,
    kinds: Iterable[str] | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Machine:
    """The description of this machine for ONNX Runtime, measured.

    threads: of an operator. seconds: of measuring, about. kinds: entries of `Machine.seconds` to measure (all; the
    others are as shipped, as are those that this version of ONNX Runtime has no operator for). progress: called with
    "measure", how many kinds are done, how many there are.
    """
    import onnxruntime

    wanted = None if kinds is None else set(kinds)
    samples = [sample for sample in SAMPLES if wanted is None or sample.kind in wanted]
    bench = _Bench(threads, seconds / (2 * len(samples) + 6))
    tell = progress or (lambda stage, done, total: None)
    base = _base(bench, threads, onnxruntime.__version__)
    measured = dict(base.seconds)
    for place, sample in enumerate(samples):
        tell("measure", place, len(samples))
        found = _seconds(bench, sample, base)
        if found is not None:
            measured[sample.kind] = found
    if wanted is None:
        measured["reorder"] = _reorder(bench, measured, base)
    return replace(base, seconds=measured)


def _base(bench: _Bench, threads: int, version: str) -> Machine:
    """What does not hang on the kind of operator."""
    tiny = Sample("add", "Neg", (1,))
    bench.idle = bench.time(tiny.model(1), tiny.feed())
    overhead = max(1e-8, (bench.time(tiny.model(65), tiny.feed()) - bench.idle) / 64)
    cached, large = Sample("add", "Neg", (1 << 16,)), Sample("add", "Neg", (1 << 23,))
    width = bench.block_width()
    return replace(
        ORT_CPU,
        name=f"onnxruntime on {cpu_name()}",
        source=f"measured, ONNX Runtime {version}, {threads} thread{'' if threads == 1 else 's'}",
        threads=threads,
        overhead=overhead,
        bandwidth=8 * (1 << 16) / max(1e-9, bench.time_of_one(cached) - overhead),
        memory_bandwidth=8 * (1 << 23) / max(1e-9, bench.time(large.model(1), large.feed()) - bench.idle),
        widths=ORT_CPU.widths if width is None else (width, *(other for other in ORT_CPU.widths if other != width)),
    )


def _seconds(bench: _Bench, sample: Sample, machine: Machine) -> float | None:
    """Seconds for a unit of the sample's work; None where this version of ONNX Runtime lacks the operator."""
    work = units_of(sample, machine)
    try:
        bench.session(sample.model(1))
    except Exception:  # noqa: BLE001 (ONNX Runtime's exceptions have no base class of their own)
        return None
    return max(LEAST, (bench.time_of_one(sample) - machine.overhead) / work)


def units_of(sample: Sample, machine: Machine) -> float:
    """How much work the sample's operator does, by the model of cost."""
    from graphopt import ir
    from graphopt.analysis.shapes import infer

    model = ir.from_proto(sample.model(1))
    infer(model)
    (node,) = model.graph
    if sample.domain:
        node.output.set_shape(sample.shape)
    found = work_of(node, Sizes(), machine)
    return found.units if found is not None else float(np.prod(sample.shape))


def _reorder(bench: _Bench, measured: dict[str, float], machine: Machine) -> float:
    """Seconds to bring one element into blocks of channels, or out of them: a Conv alone has both."""
    sample = next(each for each in SAMPLES if each.kind == "pointwise")
    alone = bench.time(sample.model(1), sample.feed()) - bench.idle
    taken = alone - measured["pointwise"] * units_of(sample, machine)
    return max(LEAST, (taken - 2 * machine.overhead) / (2 * float(np.prod(sample.shape))))


class _Bench:
    """Times models. each: seconds for one of them. idle: seconds that a run takes which does nothing."""

    def __init__(self, threads: int, each: float):
        self.threads, self.each, self.idle = threads, each, 0.0

    def time_of_one(self, sample: Sample) -> float:
        """Seconds of the sample's operator."""
        once = self.time(sample.model(1), sample.feed())
        if not sample.chain:
            return once - self.idle
        return (self.time(sample.model(LONG), sample.feed()) - once) / (LONG - 1)

    def time(self, model: onnx.ModelProto, feed: np.ndarray) -> float:
        """Seconds of a run: the quickest."""
        import onnxruntime

        session = self.session(model)
        binding = session.io_binding()
        binding.bind_ortvalue_input("v0", onnxruntime.OrtValue.ortvalue_from_numpy(feed))
        names = [value.name for value in session.get_outputs()]
        binding.bind_output(names[0])
        session.run_with_iobinding(binding)
        made = onnxruntime.OrtValue.ortvalue_from_numpy(binding.copy_outputs_to_cpu()[0])
        binding.bind_ortvalue_output(names[0], made)
        session.run_with_iobinding(binding)
        taken: list[float] = []
        deadline = time.perf_counter() + self.each
        while len(taken) < LEAST_RUNS or (time.perf_counter() < deadline and len(taken) < MOST_RUNS):
            start = time.perf_counter()
            session.run_with_iobinding(binding)
            taken.append(time.perf_counter() - start)
        return min(taken)

    def session(self, model: onnx.ModelProto, saved: str = "") -> Any:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        if saved:
            options.optimized_model_filepath = saved
        return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def block_width(self) -> int | None:
        """Channels of a block: to how many ONNX Runtime pads a Conv of 8; None where it has no such layout."""
        sample = Sample("conv", "Conv", (1, 16, 8, 8), ((8, 16, 3, 3),))
        with tempfile.TemporaryDirectory(prefix="graphopt-measure-") as folder:
            path = Path(folder, "saved.onnx")
            self.session(sample.model(1), str(path))
            graph = onnx.load(str(path)).graph
        blocked = {name for node in graph.node if node.domain == "com.microsoft.nchwc" for name in node.input}
        sizes = [tensor.dims[0] for tensor in graph.initializer if tensor.name in blocked and len(tensor.dims) == 4]
        return int(sizes[0]) if sizes and sizes[0] in ORT_CPU.widths else None
