"""What ``fuse`` and ``optimize`` do once their options are read."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphopt.cli._guard import about
from graphopt.cli._options import check_writable, load_inputs, load_passes, write_text
from graphopt.cli._progress import ProgressLine
from graphopt.cli._ui import show, show_json, warn
from graphopt.cli._verification import verdict
from graphopt.errors import GraphoptError, OutputError, VerificationError
from graphopt.report import Report

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


@dataclass(frozen=True)
class Job:
    """The options of one run, as the user gave them."""

    preset: str
    model: Path | None
    output: Path | None = None
    passes: str | None = None
    target: str = "onnx"
    verify: str = "numeric"
    verify_budget: float | None = None
    inputs: Sequence[Path] | None = None
    load: Sequence[Path] | None = None
    report: Path | None = None
    quiet: bool = False
    json: bool = False
    fast_math: bool = False

    def pipeline(self) -> str | list[str]:
        """What to run: --passes, else the preset followed by the passes of the --load files; --fast-math first."""
        chosen = self._chosen()
        if not self.fast_math:
            return chosen
        return ["fast-math", *([chosen] if isinstance(chosen, str) else chosen)]

    def _chosen(self) -> str | list[str]:
        loaded = load_passes(self.load)
        if self.passes is not None or not loaded:
            return self.passes if self.passes is not None else self.preset
        from graphopt.passes import registry

        more = [name for name in loaded if registry.get(name).kind != "preset"]
        if not more:
            raise GraphoptError(f"--load brought only presets ({', '.join(loaded)}); choose one with --passes")
        return [self.preset, *more]


def run(job: Job) -> int:
    """Optimize the file of `job`; returns the exit code."""
    if job.model is None:
        raise GraphoptError("no MODEL given; name an .onnx file, or try --demo")
    source = job.model
    output = job.output or source.with_name(source.name.removesuffix(".onnx") + ".opt.onnx")
    check_writable(output, never=source)
    _check_report(job, source, output)
    about(source, [output, job.report])
    pipeline, inputs = job.pipeline(), load_inputs(job.inputs)

    def work(progress: ProgressLine) -> Report:
        from graphopt.api import optimize_file

        return optimize_file(
            source, output, pipeline,
            target=job.target, verify=job.verify, inputs=inputs, verify_budget=job.verify_budget, progress=progress,
        )  # fmt: skip

    report = _with_report(job, source.name, work)
    if not job.json:
        _tell(job, report)
        if not job.quiet:
            show(f"wrote {output}")
    return 0


def run_demo(job: Job) -> int:
    """Optimize the built-in network, compare and time it; writes nothing unless -o is given."""
    from graphopt.cli._demo import show_demo

    if job.model is not None:
        raise GraphoptError(f"--demo brings its own model; leave out {str(job.model)!r} or --demo")
    if job.inputs:
        raise GraphoptError("--demo brings its own inputs; leave out --inputs or --demo")
    if job.output is not None:
        check_writable(job.output)
    _check_report(job, None, job.output)
    pipeline = job.pipeline()
    done: list[Any] = []

    def work(progress: ProgressLine) -> Report:
        from graphopt.api import optimize
        from graphopt.demo import demo_inputs, demo_model

        progress("demo", 0, 0)
        before = demo_model()
        after, report = optimize(
            before, pipeline, target=job.target, verify=job.verify, verify_budget=job.verify_budget,
            inputs=[demo_inputs(1, 0), demo_inputs(3, 1)], with_report=True,
        )  # fmt: skip
        done.extend((before, after))
        return report

    report = _with_report(job, "demo", work)
    before, after = done
    if job.output is not None:
        from graphopt.ir import from_proto, save

        save(from_proto(after), job.output)
    if not job.json and not job.quiet:
        show_demo(before, after, lambda: _tell(job, report))
        if job.output is not None:
            show(f"wrote {job.output}")
    return 0


def _with_report(job: Job, name: str, work: Callable[[ProgressLine], Report]) -> Report:
    """Run `work` under a progress line; its report goes to --report and --json, also when verification failed."""
    try:
        with ProgressLine(quiet=job.quiet or job.json) as progress:
            report = work(progress)
    except VerificationError as error:
        _record(job, Report(model=name, target=job.target, pipeline=str(job.passes or job.preset),
                            verification=error.report, warnings=[str(error)]))  # fmt: skip
        raise
    _record(job, report)
    return report


def _record(job: Job, report: Report) -> None:
    if job.report is not None:
        write_text(job.report, report.to_json() + "\n")
    if job.json:
        show_json(report.to_json())


def _tell(job: Job, report: Report) -> None:
    """Passes, sums and verdict on stdout, warnings on stderr (those alone when quiet)."""
    if not job.quiet:
        show(report.table(), verdict(report.verification, job.verify))
    for message in report.warnings:
        warn(message)
    if job.quiet and report.verification is not None:
        for reason in report.verification.unchecked:
            warn(f"not verified: {reason}")


def _check_report(job: Job, source: Path | None, output: Path | None) -> None:
    if job.report is None:
        return
    check_writable(job.report, never=source, what="report")
    report = os.path.realpath(job.report)
    if output is not None:
        if report == os.path.realpath(output):
            raise GraphoptError(f"--report and --output are both {str(output)!r}; give them different names")
        if report == os.path.realpath(f"{output}.data"):
            raise GraphoptError(f"--report {str(job.report)!r} is where weights of the output go; give another name")
    if source is not None and job.report.exists() and _holds_weights(source, job.report):
        raise OutputError(f"report {str(job.report)!r} holds weights of the model; name another file")


def _holds_weights(source: Path, file: Path) -> bool:
    from graphopt.ir import load
    from graphopt.ir.files import uses

    try:
        return uses(load(source), file)
    except GraphoptError:
        return False  # it is said when the model is read for its own sake
