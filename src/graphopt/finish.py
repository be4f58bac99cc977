"""The last step of an optimization: is the result valid, and does it compute what the original computes?"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import onnx
from onnx import AttributeProto, ModelProto, TensorProto

from graphopt import ir
from graphopt.errors import GraphoptError, ModelError, OutputError, PassError, VerificationError
from graphopt.ir import Model
from graphopt.ir.wire import token_index
from graphopt.report import Report
from graphopt.rewrite import Context

if TYPE_CHECKING:
    from graphopt.verify import Budget, VerificationReport

Progress = Callable[[str, int, int], None]
Source = ModelProto | str | os.PathLike[str]


def check(original: Model, result: Model) -> None:
    """Invariants of the IR, the same interface, and whatever onnx's checker accepts of the original it accepts of the
    result. Raises PassError: a pass is at fault."""
    try:
        result.check()
    except ModelError as error:
        raise PassError(f"a pass left the graph broken: {error}") from error
    before, after = original.commit(), result.commit()
    if list(before.graph.output) != list(after.graph.output) or _inputs(original) != _inputs(result):
        raise PassError("the interface changed: a pass touched graph inputs or outputs; leave it out and report it")
    problem = _checker(after)
    # onnx's checker forbids what ONNX allows: a function that imports another version of operators than the model.
    if problem and "FunctionOp imports version" not in problem and not _checker(before):
        raise PassError(f"the result is not valid ONNX: {problem}")


def confirm(source: Callable[[], Model], result: Model, report: Report, prefix: Callable[[int], Model]) -> None:
    """`check`, and if it fails, the first rewrite after which it does. prefix: k -> the model after k rewrites."""

    def fault(model: Model) -> PassError | None:
        try:
            check(source(), model)
        except PassError as error:
            return error
        return None

    found = fault(result)
    if found is None:
        return
    good, bad = 0, len(report.rewrites)
    if not bad or fault(prefix(bad)) is None:
        raise found  # by a change that is not on record
    while bad - good > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if fault(prefix(middle)) is None else (good, middle)
    raise PassError(f"{found}. {_culprit(report, bad - 1)}") from found


def _culprit(report: Report, index: int) -> str:
    rewrite = report.rewrites[index]
    return f"Rewrite {index} did it: {rewrite.rule} on {', '.join(rewrite.matched[:4])}; run without that rule"


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
    except (onnx.checker.ValidationError, UnicodeDecodeError) as error:  # the latter: of a fault in what is no UTF-8
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
    the rewrite that did it and writing what reproduces it into the folder `repro` (if that is not empty).

    Where a pass trades accuracy, what was made before it is compared as ever, and the whole by `verify(lossy=True)`.
    """
    from graphopt.verify import VerificationReport, verify

    if progress is not None:
        progress("verify", 0, 0)
    limit = _limit(budget)
    whole = _whole(result, report, limit)
    if isinstance(whole, VerificationReport):
        report.verification = whole
        return
    exact = report.exact()
    if exact:
        report.verification = verify(original, replay(exact), inputs, budget=limit)
    if exact is not None and (report.verification is None or report.verification.ok):
        report.verification = verify(original, whole, inputs, budget=limit, lossy=True)
    elif exact is None:
        report.verification = verify(original, whole, inputs, budget=limit)
    assert report.verification is not None
    if not report.verification.ok:
        raise VerificationError(_blame(original, report, replay, inputs, limit, repro), report.verification)


@dataclass(frozen=True)
class Task:
    """An optimization that can be run again. run: vetoes -> the model and the context, with its record. prefix: vetoes,
    k -> the model after the first k rewrites. check: raises PassError where a model is no valid result. proto: a result
    as a proto that can be run; None: one with all weights in it, if these are within the budget."""

    run: Callable[[frozenset[tuple[str, str]]], tuple[Model, Context]]
    prefix: Callable[[frozenset[tuple[str, str]], int], ModelProto]
    check: Callable[[Model], None]
    proto: Callable[[Model], ModelProto] | None = None

    def whole(self, model: Model, report: Report, limit: Budget) -> ModelProto | VerificationReport:
        """The model as a proto that can be run, or the report that says why there is none."""
        return _whole(model, report, limit) if self.proto is None else self.proto(model)


def settle(
    task: Task, original: Source, inputs: Any, budget: float | Budget | None, repro: str, progress: Progress | None
) -> tuple[Model, ModelProto | None, Report]:
    """Runs an optimization and checks each rewrite by itself, then the whole; runs it again without those found wrong.

    Returns the model, its proto if that was made, and the report, which names what was undone. repro: folder for what
    reproduces it, or "". Raises VerificationError where the whole is wrong and no rewrite can be blamed for it.
    """
    from graphopt.verify.rewrites import mend

    return mend(task, original, inputs, _limit(budget), repro, progress)


def _limit(budget: float | Budget | None) -> Budget:
    from graphopt.verify import Budget

    return budget if isinstance(budget, Budget) else Budget() if budget is None else Budget(seconds=float(budget))


def _whole(result: ModelProto | Model, report: Report, limit: Budget) -> ModelProto | VerificationReport:
    """A result as a proto that can be run, or the report that says why there is none."""
    if isinstance(result, ModelProto):
        return result
    weights = max(report.bytes_before, report.bytes_after)  # both models are loaded, or none
    try:
        return ir.to_proto(result, whole=True) if weights <= limit.bytes else _unchecked(weights, limit)
    except OutputError:
        return _unchecked(weights, limit)


def _unchecked(weights: int, limit: Budget) -> VerificationReport:
    from graphopt.verify import VerificationReport

    size, most = (f"{count / (1 << 30):.1f} GiB" for count in (weights, limit.bytes))
    why = f"its weights of {size} are over the budget of {most}, or over what one ModelProto can hold"
    return VerificationReport(unchecked=[f"the outputs: {why}"])


def _blame(
    original: Source, report: Report, replay: Callable[[int], ModelProto], inputs: Any, budget: Budget, repro: str
) -> str:
    """The message of a failed verification: what differs, which rewrite did it, where the repro is."""
    from graphopt.verify.bisect import bisect
    from graphopt.verify.repro import Story, write_repro

    verdict: VerificationReport | None = report.verification
    assert verdict is not None
    text = f"{verdict.summary()}; nothing was written"
    try:
        total = len(report.rewrites) if verdict.lossy else report.exact() or len(report.rewrites)
        found = bisect(replay, total, original, inputs, budget=budget, lossy=verdict.lossy)
    except GraphoptError as error:
        return f"{text}; which rewrite did it could not be found: {error}"
    if found.index is None or found.before is None or found.after is None:
        return f"{text}; no single rewrite could be blamed ({found.checks} prefixes of the run were compared)"
    if not report.rewrites:
        return f"{text}; loading and saving alone changed it"
    text += f". {_culprit(report, found.index)}"
    if repro:
        try:
            rewrite = report.rewrites[found.index]
            story = Story(rewrite.rule, rewrite.matched, verdict.summary())
            text += f". Repro: {write_repro(repro, found.before, found.after, found.feeds, story=story)}"
        except GraphoptError as error:
            text += f". A repro could not be written: {error}"
    return text
