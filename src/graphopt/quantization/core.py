"""`quantize`: a float model in, a quantized one out that is right, near enough, and faster; or the float model.

The steps: check the data; optimize the fp32 model, and bring it into a form that can be quantized (both verified);
calibrate; try ways to quantize it (`search`); emit the best, checked: its interface, that ONNX Runtime does what it
says (`check`), and that it is not slower than the user's model, in fresh processes (`graphopt.targets.latency`).
"""

from __future__ import annotations

import math
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import onnx
from onnx import ModelProto

from graphopt import ir
from graphopt.errors import GraphoptError, OutputError
from graphopt.ir import Model
from graphopt.quantization.check import Verdict, runtime_agrees
from graphopt.quantization.judge import Judge, Limit
from graphopt.quantization.recipes import Kitchen, methods_in
from graphopt.quantization.regions import translated
from graphopt.quantization.report import QuantizationReport
from graphopt.quantization.runs import Runner
from graphopt.quantization.samples import Split, made_up, split
from graphopt.quantization.search import Search
from graphopt.quantization.settings import Options, Settings
from graphopt.quantization.trials import Lab, Trial, figures_of, front_of

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from graphopt.analysis.ranges import Ranges
    from graphopt.report import Report

__all__ = ["prepared", "quantize", "quantize_file"]

PathLike = str | os.PathLike[str]
Progress = Callable[[str, int, int], None]
_OPSET = 17  # Q/DQ by channel need 13, and LayerNormalization stays one operator from 17 on
_ATTEMPTS = 3  # quantized models timed in fresh processes; where the fastest three are no faster, none is


@overload
def quantize(
    model: Any,
    data: Any = ...,
    *,
    with_report: Literal[False] = ...,
    progress: Progress | None = ...,
    **options: Unpack[Options],
) -> ModelProto: ...
@overload
def quantize(
    model: Any,
    data: Any = ...,
    *,
    with_report: Literal[True],
    progress: Progress | None = ...,
    **options: Unpack[Options],
) -> tuple[ModelProto, QuantizationReport]: ...
def quantize(
    model: Any,
    data: Any = None,
    *,
    with_report: bool = False,
    progress: Progress | None = None,
    **options: Unpack[Options],
) -> ModelProto | tuple[ModelProto, QuantizationReport]:
    """Quantizes a model: int8 where that is faster, and near enough to fp32; float elsewhere.

    model: a ModelProto (not changed), a path, or an IR Model, in float32, below 2 GiB. data: what to calibrate with and
    to judge with (a fifth is held out for that): a folder, files, "module:function", a function or an iterable that
    gives feeds; see `graphopt.calibrate`. The options:

    target: "onnxruntime", "onnx" (standard operators, timed in ONNX Runtime) or "tensorrt" (nothing is timed).
    method: "static" (ranges from the data, everything around the products too), "dynamic" (products with constant
    weights, ranges found at run time), "mixed" (convolutions static, other products dynamic), "weight-only", or "auto":
    whichever is fastest within the limit. calibration: the observer, as of `graphopt.calibrate`.
    max_loss: "30dB" (least SQNR of the outputs), "0.5%" or, absolute, 0.005 of a metric: `metric` is "cosine", "top1"
    (agreement with fp32; the default for classifiers) or "module:function", a function of the user's, higher is better:
    f(predict) with its own data and labels, or f(outputs, sample), of which the mean is taken. Without max_loss: no
    more error than quantizing everything statically makes, and at least 10 dB.
    keep_float, only: comma-separated patterns of names of nodes. samples: at most so many. ranges: a file or `Ranges`
    instead of calibrating. seconds: for trying and timing, about. verify: of the float steps, and of what is emitted.
    cluster, cache: as of `graphopt.calibrate`. threads: of an operator, when timing. pareto: measure the points between
    the quickest and the most accurate, too. layers: fill in `report.layers`. preprocess, batched: of the data.
    options: for the pass that does it, e.g. {"bits": 4} with "weight-only". progress: called with (stage, done, total).

    Never slower: where nothing measured is faster than the float model, that is what comes back, optimized, and the
    report says so; likewise where nothing keeps the limit. Returns the model; with `with_report`, a pair of it and the
    `QuantizationReport`. Raises GraphoptError for bad data or options, before any work.

    >>> import numpy as np
    >>> from onnx import helper, numpy_helper
    >>> w = numpy_helper.from_array(np.random.default_rng(0).normal(size=(256, 256)).astype("float32"), "w")
    >>> x, y = (helper.make_tensor_value_info(name, 1, ["N", 256]) for name in "xy")
    >>> graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"], "mul")], "net", [x], [y], [w])
    >>> m = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    >>> data = [{"x": np.random.default_rng(n).normal(size=(64, 256)).astype("float32")} for n in range(5)]
    >>> made, report = quantize(m, data, method="dynamic", max_loss="30dB", seconds=5, with_report=True)
    >>> report.held_out, report.chosen in ("dynamic", "fp32", "fp32, optimized")
    (1, True)
    """
    settings = Settings.of(options)
    found, report = _Run(model, data, settings, progress).run()
    return (found, report) if with_report else found


def quantize_file(
    src: PathLike, dst: PathLike, data: Any = None, *, progress: Progress | None = None, **options: Unpack[Options]
) -> QuantizationReport:
    """Quantizes a file into another, which appears whole when everything is done, or not at all.

    The arguments are those of `quantize`; OutputError when dst is src or cannot be written.

    >>> quantize_file("model.onnx", "model.int8.onnx", "calibration/", max_loss="0.5%")   # doctest: +SKIP
    """
    if os.path.exists(dst) and os.path.exists(src) and os.path.samefile(src, dst):
        raise OutputError(f"{os.fspath(dst)} is the input itself; choose another output file")
    found, report = _Run(src, data, Settings.of(options), progress).run()
    ir.save(ir.from_proto(found), dst)
    return report


def prepared(
    model: ModelProto, verify: str = "off", progress: Progress | None = None, opset: int = 13
) -> tuple[ModelProto, Report]:
    """The fp32 model in the form that is calibrated and quantized: optimized with standard operators, in an opset that
    Q/DQ need at least. Equal to the original, and verified."""
    from graphopt.api import optimize

    steps = f"raise-opset{{version={opset}}},default,dead-code"
    return optimize(model, steps, verify=verify, with_report=True, progress=progress)


class _Run:
    """One call of `quantize`."""

    def __init__(self, model: Any, data: Any, settings: Settings, progress: Progress | None) -> None:
        self.began = time.perf_counter()
        self.settings = settings
        self.tell: Progress = progress or (lambda stage, done, total: None)
        self.metric, self.limit = settings.check(data is not None)
        self.data = data
        self.name = os.path.basename(os.fspath(model)) if isinstance(model, (str, os.PathLike)) else ""
        self.original = _proto(model)
        self.report = QuantizationReport(
            model=self.name or self.original.graph.name, target=settings.target, method=settings.method,
            threads=settings.threads,
        )  # fmt: skip

    def run(self) -> tuple[ModelProto, QuantizationReport]:
        """The model to emit, and the report."""
        parts = self._samples()
        with tempfile.TemporaryDirectory(prefix="graphopt-quantize-") as scratch:
            self.tell("optimize", 0, 0)
            s = self.settings
            blocks = s.method == "weight-only" and s.target != "onnxruntime"
            base, done = prepared(self.original, s.verify, self.tell, 21 if blocks else _OPSET)
            self.report.warnings += done.warnings
            self.report.nodes_before, self.report.bytes_before = done.nodes_before, done.bytes_before
            ranges = self._ranges(base, parts)
            found = self._search(Path(scratch), base, ranges, parts)
        self.report.seconds = time.perf_counter() - self.began
        return found, self.report

    def _samples(self) -> Split:
        """The data, checked; made-up inputs where there is none."""
        if self.data is not None:
            from graphopt.calibration.data import feeds_of

            s = self.settings
            source = feeds_of(self.data, self.original, preprocess=s.preprocess, batched=s.batched, samples=s.samples)
            found = split(source)
        else:
            feeds = made_up(self.original)
            if not feeds:
                raise GraphoptError("no inputs were found on which the model runs; give some data")
            found = Split(None, feeds, "there is no data: the loss is measured on made-up inputs, and may be off")
        if found.note:
            self.report.warn(found.note)
        self.report.held_out = len(found.judge)
        return found

    def _ranges(self, base: ModelProto, parts: Split) -> Ranges | None:
        """Given, or found now; None where the method needs none."""
        s = self.settings
        if s.ranges is not None:
            from graphopt.passes.quantize._ranges import ranges_of

            given = ranges_of(s.ranges if not isinstance(s.ranges, os.PathLike) else os.fspath(s.ranges))
            self.report.calibration, self.report.samples = "given", given.samples
            return given
        if s.method == "weight-only" or parts.calibrate is None:
            return None
        from graphopt.calibration.core import calibrate

        self.tell("calibrate", 0, 0)
        found = calibrate(
            base, parts.calibrate, method=s.calibration, per_channel=True, cache=s.cache, cluster=s.cluster,
            progress=self.tell,
        )  # fmt: skip
        self.report.calibration, self.report.samples = s.calibration, found.samples
        return found

    def _search(self, scratch: Path, base: ModelProto, ranges: Ranges | None, parts: Split) -> ModelProto:
        s = self.settings
        original = scratch / "original.onnx"
        onnx.save(self.original, original)
        fp32 = Runner(str(original), threads=s.threads)
        judge = Judge.of(fp32, fp32.names, parts.judge, self.metric)
        self.report.metric_fp32, self.report.held_out = judge.fp32.metric, len(judge.feeds)
        limit = None if self.limit is None else self.limit.settle(judge.classifies)
        self._warn_of_few(limit, judge)
        kitchen = Kitchen(base, s.target, ranges)
        options = self._with_statistics(base, parts)
        kitchen.keep_float = translated(kitchen.model, s.keep_float, "keep_float")
        kitchen.only = translated(kitchen.model, s.only, "only") if s.only else None
        work = scratch / "trials"
        work.mkdir()
        deadline = time.monotonic() + s.seconds
        timed = s.target != "tensorrt"
        lab = Lab(work, str(original), kitchen, judge, deadline, timed, s.method == "weight-only", s.threads, self.tell)
        lab.add_float("fp32", str(original))
        lab.add_float("fp32, optimized", self._optimized(base))
        search = Search(lab, kitchen.recipes(s.method, options), limit, s.pareto)
        ranked = search.run()
        for note in search.notes:
            self.report.warn(note)
        chosen, verdict = self._choose(lab, ranked)
        self._fill(search, chosen, verdict)
        return onnx.load(chosen.path)

    def _optimized(self, base: ModelProto) -> ModelProto:
        """The float model that is emitted where nothing is faster: for the target, if that has more to offer."""
        from graphopt.api import optimize

        if self.settings.target != "onnxruntime":
            return base
        verify = "check" if self.settings.verify == "numeric" else self.settings.verify  # compared if it is chosen
        return optimize(self.original, "default", target="onnxruntime", verify=verify)

    def _with_statistics(self, base: ModelProto, parts: Split) -> dict[str, Any]:
        """The user's options for the pass, with what GPTQ and AWQ go by."""
        options = dict(self.settings.options)
        if options.get("method") not in ("gptq", "awq") or "statistics" in options:
            return options
        if parts.calibrate is None:
            raise GraphoptError(f"{options['method']} goes by data: give some, or leave the option method out")
        from graphopt.calibration.gram import weight_statistics

        return {**options, "statistics": weight_statistics(base, parts.calibrate, progress=self.tell)}

    def _warn_of_few(self, limit: Limit | None, judge: Judge) -> None:
        if limit is not None and limit.metric == "top1" and limit.kind == "share":
            rows = sum(o[0].size // o[0].shape[-1] for o in judge.reference if getattr(o[0], "ndim", 0) >= 2)
            if rows * limit.value < 1:
                self.report.warn(
                    f"agreement is counted on {rows} rows held out: a single other answer is more than the limit; "
                    "give more data, or a limit of SQNR in dB"
                )

    def _choose(self, lab: Lab, ranked: list[Trial]) -> tuple[Trial, Verdict | None]:
        """The first that ONNX Runtime computes as it says, and that fresh processes find no slower."""
        s = self.settings
        if s.method != "auto" and s.max_loss is not None and not any(t.recipe is not None for t in ranked):
            self._explain(lab)
        slower = 0
        for trial in ranked:
            verdict = None
            if trial.recipe is not None and slower >= _ATTEMPTS:
                trial.allowed = False
                continue
            if trial.recipe is not None and s.verify != "off":
                self.tell("verify", 0, 0)
                verdict = self._agrees(lab, trial)
                if not verdict.ok:
                    trial.why, trial.allowed = verdict.why, False
                    self.report.warn(f"{trial.name} is not emitted: {verdict.why}")
                    continue
            elif trial.name != "fp32" and s.verify == "numeric" and not self._is_equal(lab, trial):
                continue
            if trial.name == "fp32" or not lab.timed or self._is_no_slower(lab, trial):
                return trial, verdict
            if s.method == "weight-only":
                trial.why = ""
                self.report.warn("it is smaller, and slower than fp32; method 'auto' or 'dynamic' are for speed")
                return trial, verdict
            trial.allowed, slower = False, slower + 1
        return lab.trials[0], None

    def _explain(self, lab: Lab) -> None:
        tried = [t for t in lab.trials if t.recipe is not None]
        known = [t for t in tried if t.figures is not None]
        if known and lab.limit is not None:
            best = max(known, key=lambda t: t.figures.sqnr_db if t.figures else -math.inf)
            sqnr = best.figures.sqnr_db if best.figures is not None else math.nan
            self.report.warn(f"nothing quantized keeps {lab.limit}; the nearest is {best.name} with {sqnr:.1f} dB")

    def _agrees(self, lab: Lab, trial: Trial) -> Verdict:
        problem = self._interface(trial)
        if problem:
            return Verdict(False, -math.inf, None, problem)
        return runtime_agrees(trial.path, lab.judge.feeds[:4], lab.judge.reference[:4], threads=lab.threads)

    def _is_equal(self, lab: Lab, trial: Trial) -> bool:
        """Whether a float model computes what the user's does."""
        from graphopt.verify import verify

        self.tell("verify", 0, 0)
        found = verify(lab.original, trial.path)
        if not found.ok:
            trial.why, trial.allowed = found.summary(), False
            self.report.warn(f"{trial.name} is not emitted: {found.summary()}")
        return found.ok

    def _interface(self, trial: Trial) -> str:
        from graphopt.verify import interface_differences

        problems = interface_differences(self.original, onnx.load(trial.path, load_external_data=False))
        return f"its interface changed: {problems[0]}" if problems else ""

    def _is_no_slower(self, lab: Lab, trial: Trial) -> bool:
        """Measured in fresh processes; the figures go into the report. What is not clear is measured once more."""
        from graphopt.targets.latency import compare_latency

        seconds = min(2.0, max(0.3, self.settings.seconds / 60))
        for repeats in (3, 6):
            self.tell("time in fresh processes", 0, 0)
            try:
                found = compare_latency(
                    lab.original, trial.path, lab.judge.feeds[0], threads=lab.threads, seconds=seconds, repeats=repeats
                )
            except GraphoptError as error:
                trial.why = f"it cannot be timed in fresh processes: {error}"
                return False
            self.report.speed, self.report.interval, self.report.speed_of = found.ratio, found.interval, "processes"
            low, high = found.interval
            trial.why = f"in fresh processes {found.ratio:.2f} times as fast as fp32 ({low:.2f} to {high:.2f})"
            if trial.recipe is None and found.verdict != "slower":
                break
            # Accuracy is given up for speed that is there, not for what may be chance; who names a method wants that.
            if found.verdict == "faster" or (self.settings.method != "auto" and found.ratio >= 1.0):
                break
            if found.verdict == "slower":
                return False
        else:
            return False
        trial.why = ""
        return True

    def _fill(self, search: Search, chosen: Trial, verdict: Verdict | None) -> None:
        """What was found goes into the report."""
        lab, report = search.lab, self.report
        report.chosen, report.limit = chosen.name, str(lab.limit or "")
        report.agrees = None if verdict is None else verdict.to_dict()
        if chosen.name == "fp32":
            report.speed, report.interval, report.speed_of = (1.0 if lab.timed else None), None, ""
        for key, value in figures_of(chosen).items():
            setattr(report, key, value)
        front = front_of(lab.trials)
        report.points = [trial.point(place in front) for place, trial in enumerate(lab.trials)]
        report.regions = search.reports(chosen)
        anchors = [node.label for node in lab.kitchen.anchors]
        made = chosen.made
        report.methods = methods_in(lab.kitchen.base, anchors) if made is None else dict(made.methods)
        report.reasons = _reasons(chosen, report.methods, lab.kitchen)
        final = ir.load(chosen.path)
        report.nodes_after = sum(len(graph) for graph in final.scopes())
        report.bytes_after = _weights(final)
        if chosen.recipe is None and lab.timed:
            report.warn(_why_float(lab))
        if self.settings.layers and chosen.recipe is not None:
            from graphopt.quantization.layers import layer_losses

            self.tell("layers", 0, 0)
            report.layers = layer_losses(lab.kitchen.base, onnx.load(chosen.path), lab.judge.feeds, report.methods)


def _proto(model: Any) -> ModelProto:
    """The user's model, whole."""
    if isinstance(model, ModelProto):
        return model
    if isinstance(model, Model):
        return ir.to_proto(model, whole=True)
    if isinstance(model, (str, os.PathLike)):
        return ir.to_proto(ir.load(model), whole=True)
    from graphopt.interop import model_of

    return ir.to_proto(model_of(model, "quantize"), whole=True)


def _weights(model: Model) -> int:
    return sum(v.tensor.nbytes for g in model.scopes() for v in g.initializers.values() if v.tensor is not None)


def _reasons(chosen: Trial, methods: dict[str, str], kitchen: Kitchen) -> dict[str, list[str]]:
    """Why products stayed in float: reason -> their names."""
    if chosen.made is None:
        return {}
    said: dict[str, str] = {}
    for reasons in chosen.made.report.refusals.values():
        for reason, labels in reasons.items():
            if "as asked for" not in reason:  # by the recipe, which leaves to another pass what is said of it there
                said.update(dict.fromkeys(labels, reason))
    kept, asked = set(chosen.kept), set(kitchen.keep_float)
    found: dict[str, list[str]] = {}
    for label, method in methods.items():
        if method == "float":
            why = "keep_float" if label in asked else "chosen by measurement" if label in kept else said.get(label, "")
            found.setdefault(why or "no pass quantizes it", []).append(label)
    return found


def _why_float(lab: Lab) -> str:
    """Why a float model was emitted, with figures."""
    tried = [t for t in lab.trials if t.recipe is not None and not t.why.endswith("less accurate")]
    if not tried:
        return "nothing here can be quantized by this method: the optimized fp32 model is emitted"
    said = []
    for trial in tried[:4]:
        speed = "not timed" if trial.speed is None else f"{trial.speed:.2f} times as fast"
        loss = "" if trial.figures is None else f", {trial.figures.sqnr_db:.1f} dB"
        said.append(f"{trial.name}: {trial.why or speed + loss}")
    return f"no quantized model is faster and keeps the limit ({lab.limit}): {'; '.join(said)}"
