"""The last step of an optimization: is the result valid, and does it compute what the original computes?"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import onnx
from onnx import ModelProto

from graphopt import ir
from graphopt.errors import OutputError, PassError, VerificationError
from graphopt.ir import Model
from graphopt.report import Report

if TYPE_CHECKING:
    from graphopt.verify import Budget, VerificationReport

Progress = Callable[[str, int, int], None]


def check(original: Model, result: Model) -> None:
    """Invariants of the IR, the same interface, and whatever onnx's checker accepts of the original it accepts of the
    result. Raises PassError: a pass is at fault."""
    result.check()
    before, after = original.commit(), result.commit()
    if list(before.graph.output) != list(after.graph.output) or _inputs(original) != _inputs(result):
        raise PassError("the interface changed: a pass touched graph inputs or outputs; leave it out and report it")
    problem = _checker(after)
    if problem and not _checker(before):
        raise PassError(f"the result is not valid ONNX: {problem}")


def _inputs(model: Model) -> list[bytes]:
    """What a caller may or must give; before IR version 4 initializers are listed too, and may go."""
    names = {value.name for value in model.graph.inputs}
    return [info.SerializeToString(deterministic=True) for info in model.proto.graph.input if info.name in names]


def _checker(proto: ModelProto) -> str:
    """What onnx's checker says against a model without its weights, in a line, or nothing."""
    bare = ModelProto()
    bare.CopyFrom(proto)
    for tensor in bare.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            tensor.ClearField("external_data")
            tensor.ClearField("data_location")
            tensor.raw_data = b"\0"
    try:
        onnx.checker.check_model(bare)
    except onnx.checker.ValidationError as error:
        return str(error).strip().split("\n")[0]
    return ""


def examine(
    original: ModelProto | str | os.PathLike[str],
    result: ModelProto | Model,
    report: Report,
    replay: Callable[[int], ModelProto],
    inputs: Any,
    budget: float | Budget | None,
    folder: str | None,
    progress: Progress | None,
) -> None:
    """Compares numerically; puts the verdict into the report. Raises VerificationError, after bisection, if they
    differ."""
    from graphopt.verify import Budget, VerificationReport, verify

    if progress is not None:
        progress("verify", 0, 0)
    limit = budget if isinstance(budget, Budget) else Budget() if budget is None else Budget(seconds=float(budget))
    if isinstance(result, Model):
        try:
            result = ir.to_proto(result, whole=True)
        except OutputError:
            report.verification = VerificationReport(
                unchecked=["the model has 2 GiB of weights or more, which is past what verification loads"]
            )
            return
    report.verification = verify(original, result, inputs, budget=limit)
    if not report.verification.ok:
        raise VerificationError(_blame(original, report, replay, inputs), report.verification)


def _blame(original: Any, report: Report, replay: Callable[[int], ModelProto], inputs: Any) -> str:
    """The message of a failed verification: what differs, which rewrite did it, where the repro is."""
    from graphopt.verify.bisect import bisect

    verdict: VerificationReport | None = report.verification
    assert verdict is not None
    text = f"{verdict.summary()}; nothing was written"
    return text
