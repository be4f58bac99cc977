"""``graphopt fuse``: the preset "fuse", and ``--demo``."""

from __future__ import annotations

from typing import Annotated

import typer

from graphopt.cli._options import (
    BudgetOpt,
    DebugOpt,
    FastMathOpt,
    InputsOpt,
    JsonOpt,
    LoadOpt,
    MaybeModelArg,
    OutputOpt,
    PassesOpt,
    QuietOpt,
    ReportOpt,
    Target,
    TargetOpt,
    Verify,
    VerifyOpt,
)


def fuse(
    model: MaybeModelArg = None,
    output: OutputOpt = None,
    passes: PassesOpt = None,
    target: TargetOpt = Target.onnx,
    verify: VerifyOpt = Verify.numeric,
    verify_budget: BudgetOpt = None,
    inputs: InputsOpt = None,
    load: LoadOpt = None,
    report: ReportOpt = None,
    fast_math: FastMathOpt = False,
    demo: Annotated[bool, typer.Option("--demo", help="Run on a small built-in network and time it.")] = False,
    quiet: QuietOpt = False,
    json: JsonOpt = False,
    debug: DebugOpt = False,
) -> int:
    """Fuse operators, such as BatchNormalization into Conv.

    Runs the preset "fuse": BatchNormalization, scales and biases into Conv, ConvTranspose, Gemm and MatMul, Pad into
    Conv and pooling, and the clean-up that this needs. Or runs the pipeline given with --passes.

    \b
    Examples:
      graphopt fuse model.onnx                    (writes model.opt.onnx)
      graphopt fuse model.onnx -o small.onnx --report report.json
      graphopt fuse model.onnx -t onnxruntime     (may use its own operators)
      graphopt fuse model.onnx -i sample.npz      (compare on your data)
      graphopt fuse --demo
    """
    from graphopt.cli._run import Job, run, run_demo

    job = Job(
        "fuse",
        model,
        output,
        passes,
        target.value,
        verify.value,
        verify_budget,
        inputs,
        load,
        report,
        quiet,
        json,
        fast_math,
    )
    return run_demo(job) if demo else run(job)
