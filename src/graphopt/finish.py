"""The last step of an optimization: is the result valid, and does it compute what the original computes?"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import onnx
from onnx import AttributeProto, ModelProto, TensorProto

from graphopt import ir
from graphopt.errors import GraphoptError, OutputError, PassError, VerificationError
from graphopt.ir import Model
from graphopt.ir.wire import token_index
from graphopt.report import Report

if TYPE_CHECKING:
    from graphopt.verify import Budget, VerificationReport

Progress = Callable[[str, int, int], None]
Source = ModelProto | str | os.PathLike[str]


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
    for tensor in _tensors(bare):
        index = token_index(tensor.raw_data)
        if tensor.data_location == TensorProto.EXTERNAL or index is not None:
            name = tensor.name
            tensor.Clear()  # a byte stands for the weights: the checker compares sizes, and looks for files
            tensor.data_type, tensor.raw_data = TensorProto.UINT8, b"\0"
            tensor.dims.append(1)
            tensor.name = name
    try:
        onnx.checker.check_model(bare)
    except onnx.checker.ValidationError as error:
        return str(error).strip().split("\n")[0]
    return ""


def _tensors(proto: ModelProto) -> Iterator[TensorProto]:
    """Every tensor of a model: initializers and attributes, at any depth."""
    pending: list[Any] = [proto.graph, *proto.functions]
    while pending:
        scope = pending.pop()
        yield from getattr(scope, "initializer", ())
        for node in scope.node:
            for attribute in node.attribute:
                if attribute.type == AttributeProto.TENSOR:
                    yield attribute.t
                elif attribute.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS):
                    pending += attribute.graphs or [attribute.g]


def examine(
    original: Source,
    result: ModelProto | Model,
    report: Report,
    replay: Callable[[int], ModelProto],
    inputs: Any,
    budget: float | Budget | None,
    repro: str,
    progress: Progress | None,
) -> None:
    """Compares numerically; puts the verdict into the report. Raises VerificationError if they differ, after finding
    the rewrite that did it and writing what reproduces it into the folder `repro` (if that is not empty)."""
    from graphopt.verify import Budget, VerificationReport, verify

    if progress is not None:
        progress("verify", 0, 0)
    limit = budget if isinstance(budget, Budget) else Budget() if budget is None else Budget(seconds=float(budget))
    if isinstance(result, Model):
        weights = max(report.bytes_before, report.bytes_after)  # both models are loaded, or none
        try:
            whole = ir.to_proto(result, whole=True) if weights <= limit.bytes else None
        except OutputError:
            whole = None
        if whole is None:
            report.verification = VerificationReport(unchecked=[_too_large(weights, limit)])
            return
        result = whole
    report.verification = verify(original, result, inputs, budget=limit)
    if not report.verification.ok:
        raise VerificationError(_blame(original, report, replay, inputs, limit, repro), report.verification)


def _too_large(weights: int, limit: Budget) -> str:
    size, most = (f"{count / (1 << 30):.1f} GiB" for count in (weights, limit.bytes))
    return f"the outputs: its weights of {size} are over the budget of {most}, or over what one ModelProto can hold"


def _blame(
    original: Source, report: Report, replay: Callable[[int], ModelProto], inputs: Any, budget: Budget, repro: str
) -> str:
    """The message of a failed verification: what differs, which rewrite did it, where the repro is."""
    from graphopt.verify.bisect import bisect
    from graphopt.verify.repro import write_repro

    verdict: VerificationReport | None = report.verification
    assert verdict is not None
    text = f"{verdict.summary()}; nothing was written"
    try:
        found = bisect(replay, len(report.rewrites), original, inputs, budget=budget)
    except GraphoptError as error:
        return f"{text}; which rewrite did it could not be found: {error}"
    if found.index is None or found.before is None or found.after is None:
        return f"{text}; no single rewrite could be blamed ({found.checks} prefixes of the run were compared)"
    if not report.rewrites:
        return f"{text}; loading and saving alone changed it"
    rewrite = report.rewrites[found.index]
    nodes = ", ".join(rewrite.matched[:4])
    text += f". Rewrite {found.index} did it: {rewrite.rule} on {nodes}; run without that rule"
    if repro:
        try:
            text += f". Repro: {write_repro(repro, found.before, found.after, found.feeds)}"
        except GraphoptError as error:
            text += f". A repro could not be written: {error}"
    return text
