"""What every pass must keep, whatever it does."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from onnx import ModelProto

from graphopt.errors import ModelError
from graphopt.ir import from_proto, load, to_proto
from graphopt.report import Report
from graphopt.testing.contract import frame, moved_interface, touched, validity, versions
from graphopt.testing.provided import provided

if TYPE_CHECKING:
    from graphopt.verify import VerificationReport


class ConformanceError(AssertionError):
    """A pass broke its contract. faults: what it broke, one line each."""

    def __init__(self, title: str, faults: list[str]) -> None:
        self.title, self.faults = title, faults
        super().__init__("\n  ".join([f"{title}:", *faults]))

    def __reduce__(self) -> tuple[type[ConformanceError], tuple[str, list[str]]]:
        return type(self), (self.title, self.faults)


@dataclass(frozen=True)
class Outcome:
    """What a pass did that kept its contract.

    model: the result. report: what was rewritten and refused. changed: whether the result has other bytes.
    verification: the numeric comparison, or None where nothing changed.
    """

    model: ModelProto
    report: Report
    changed: bool
    verification: VerificationReport | None = None


_BROKEN = "the IR's invariants do not hold"


def conformance(
    pass_: Any, model: ModelProto | str | os.PathLike[str], feeds: Any = None, *, target: str = "onnx"
) -> Outcome:
    """Runs a pass on a model and checks that it kept its contract.

    The result is valid (the invariants of the IR, and onnx's checker where the original passes it); it has the same
    inputs, outputs and overridable defaults; no version goes down; producer, texts and metadata stay; it computes the
    same in ONNX Runtime (of a lossy pass, the runtime must do what the graph says, and nothing becomes NaN or
    infinite); a second run changes nothing; the run can be repeated with the same bytes; the result survives
    a round trip; nodes that the pass does not report as rewritten are byte for byte as they were, but for the names of
    their inputs; the model given is as it was.

    pass_: whatever `graphopt.optimize(passes=...)` takes: a name, pipeline text, a rule, a rule set, a pass object.
    model: a ModelProto or a path. feeds: a feed dict or a list of them, instead of made ones. target: as in `optimize`.
    Raises ConformanceError, an AssertionError, that lists everything that failed.

    >>> from onnx import parser
    >>> m = parser.parse_model('<ir_version: 8, opset_import: ["": 17]> g (float[N] x) => (float[N] y) '
    ...                        '{ a = Identity(x)  y = Relu(a) }')
    >>> len(conformance("dead-code", m).model.graph.node)
    2
    """
    original = model if isinstance(model, ModelProto) else to_proto(load(model), whole=True)
    before = _bytes(original)
    title = f"{pass_} on {original.graph.name or 'a model'}"
    faults: list[str] = []
    ready = provided(pass_, original, feeds)
    if ready is None:  # it needs ranges, and this model has none
        return Outcome(original, Report(), changed=False)
    pass_ = ready
    result, report = _run(pass_, original, target, faults)
    if any(fault.startswith(_BROKEN) for fault in faults):
        raise ConformanceError(title, faults)  # nothing more can be said of it
    if _bytes(original) != before:
        faults.append("the caller's model was changed")
    after = _bytes(result)
    if _bytes(_run(pass_, original, target, faults)[0]) != after:
        faults.append("not deterministic: a second run on the same model gives other bytes")
    verification = None
    if after != before:
        again, more = _run(pass_, result, target, faults)
        if _bytes(again) != after:
            rules = ", ".join(dict.fromkeys(rewrite.rule for rewrite in more.rewrites)) or "nothing on record"
            faults.append(f"not idempotent: on its own result it changes more ({rules})")
        for look in (validity, moved_interface, versions, frame):
            faults += look(original, result)
        faults += touched(original, result, report)
        if not faults:
            verification = _compare(original, result, feeds, report.exact() is not None, faults)
    if faults:
        raise ConformanceError(title, list(dict.fromkeys(faults)))
    return Outcome(result, report, after != before, verification)


def _bytes(model: ModelProto) -> bytes:
    return model.SerializeToString(deterministic=True)


def _run(pass_: Any, original: ModelProto, target: str, faults: list[str]) -> tuple[ModelProto, Report]:
    from graphopt.pipeline import Pipeline
    from graphopt.rewrite import Context

    ctx = Context(target)
    work = Pipeline.of(pass_).run(from_proto(original), ctx)
    try:
        work.check()
    except ModelError as error:
        faults.append(f"{_BROKEN}: {error}")
    report = ctx.close()
    faults += report.warnings  # a pass that raised was rolled back, and says so here
    result = to_proto(work)
    sound = not any(fault.startswith(_BROKEN) for fault in faults)
    if sound and _bytes(to_proto(from_proto(result))) != _bytes(result):
        faults.append("the result does not survive a round trip through the IR")
    return result, report


def _compare(
    original: ModelProto, result: ModelProto, feeds: Any, lossy: bool, faults: list[str]
) -> VerificationReport:
    from graphopt.verify import verify

    found = verify(original, result, feeds, lossy=lossy)
    faults += found.interface
    if not found.ok:
        wrong = [f"{c.name} ({c.dtype}{list(c.shape)}): {c.why}" for run in found.runs for c in run.outputs if not c.ok]
        faults += [f"computes something else: {line}" for line in wrong or ["see the verification report"]]
    return found
