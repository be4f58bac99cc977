"""``graphopt optimize``: the preset "default"."""

from __future__ import annotations

from graphopt.cli._options import (
    BudgetOpt,
    DebugOpt,
    FastMathOpt,
    InputsOpt,
    JsonOpt,
    LoadOpt,
    ModelArg,
    OutputOpt,
    PassesOpt,
    QuietOpt,
    ReportOpt,
    Target,
    TargetOpt,
    Verify,
    VerifyOpt,
)


def optimize(
    model: ModelArg,
    output: OutputOpt = None,
    passes: PassesOpt = None,
    target: TargetOpt = Target.onnx,
    verify: VerifyOpt = Verify.numeric,
    verify_budget: BudgetOpt = None,
    inputs: InputsOpt = None,
    load: LoadOpt = None,
    report: ReportOpt = None,
    fast_math: FastMathOpt = False,
    quiet: QuietOpt = False,
    json: JsonOpt = False,
    debug: DebugOpt = False,
) -> int:
    """Fold constants, remove what does nothing, share, fuse.

    Runs the preset "default", or the pipeline given with --passes. The result is verified before it is written.

    \b
    Examples:
      graphopt optimize model.onnx                (writes model.opt.onnx)
      graphopt optimize model.onnx -p fold-constants,fuse-conv-bn
      graphopt optimize model.onnx --load my_pass.py
      graphopt optimize model.onnx -l my_pass.py --verify rewrites
      graphopt optimize big.onnx --verify check   (compares no numbers)
    """
    from graphopt.cli._run import Job, run

    job = Job(
        "default",
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
    return run(job)
