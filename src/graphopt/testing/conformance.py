"""What every pass must keep, whatever it does."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import onnx
from onnx import AttributeProto, ModelProto, NodeProto

from graphopt.errors import ModelError
from graphopt.ir import from_proto, load, to_proto

if TYPE_CHECKING:
    from graphopt.report import Report
    from graphopt.verify import VerificationReport

_GRAPHS = (AttributeProto.GRAPH, AttributeProto.GRAPHS)


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


def conformance(
    pass_: Any, model: ModelProto | str | os.PathLike[str], feeds: Any = None, *, target: str = "onnx"
) -> Outcome:
    """Runs a pass on a model and checks that it kept its contract.

    The result is valid (the invariants of the IR, and onnx's checker where the original passes it); it has the same
    inputs and outputs; it computes the same in ONNX Runtime; a second run changes nothing; the run can be repeated with
    the same bytes; the result survives a round trip; nodes that the pass does not report as rewritten are byte for byte
    as they were, but for the names of their inputs; the model given is as it was.

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
    faults: list[str] = []
    result, report = _run(pass_, original, target, faults)
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
        faults += _validity(original, result)
        faults += _moved_interface(original, result)
        faults += _touched(original, result, report)
        if not faults:
            verification = _compare(original, result, feeds, faults)
    if faults:
        raise ConformanceError(f"{pass_} on {original.graph.name or 'a model'}", list(dict.fromkeys(faults)))
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
        faults.append(f"the IR's invariants do not hold: {error}")
    report = ctx.close()
    faults += report.warnings  # a pass that raised was rolled back, and says so here
    result = to_proto(work)
    if _bytes(to_proto(from_proto(result))) != _bytes(result):
        faults.append("the result does not survive a round trip through the IR")
    return result, report


def _validity(original: ModelProto, result: ModelProto) -> Iterator[str]:
    problem = _checker(result)
    if problem and not _checker(original):
        yield f"onnx's checker refuses the result: {problem}"
    if result.ir_version < original.ir_version:
        yield f"the IR version went down from {original.ir_version} to {result.ir_version}"


def _checker(model: ModelProto) -> str:
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        return str(error).strip().split("\n")[0]
    return ""


def _moved_interface(original: ModelProto, result: ModelProto) -> Iterator[str]:
    for side, ours, theirs in (
        ("inputs", _inputs(original), _inputs(result)),
        ("outputs", list(original.graph.output), list(result.graph.output)),
    ):
        if [info.name for info in ours] != [info.name for info in theirs]:
            yield f"{side} {[info.name for info in ours]} became {[info.name for info in theirs]}"
        else:
            for info, other in zip(ours, theirs, strict=True):
                if info != other:
                    yield f"the type of {side[:-1]} {info.name!r} changed"


def _inputs(model: ModelProto) -> list[Any]:
    """Before IR version 4 initializers are listed, too, and may come and go."""
    stored = {tensor.name for tensor in model.graph.initializer} if model.ir_version < 4 else set()
    return [info for info in model.graph.input if info.name not in stored]


def _touched(original: ModelProto, result: ModelProto, report: Report) -> Iterator[str]:
    """Nodes that changed although the pass does not say so. A node is known by its scope, operator and first output."""
    named = {name for rewrite in report.rewrites for name in (*rewrite.matched, *rewrite.new)}
    before = dict(_nodes(original))
    for key, node in _nodes(result):
        old = before.get(key)
        label = node.name or next(iter(node.output), "")
        if old is None or label in named or (old.name or next(iter(old.output), "")) in named:
            continue
        if node.metadata_props != old.metadata_props:  # marked as made by a rule
            continue
        if _own(node) != _own(old):
            yield f"node {label!r} ({node.op_type}) changed, which is not on record"


def _own(node: NodeProto) -> bytes:
    """A node without what it reads: its inputs may be renamed, and its bodies are compared node by node."""
    own = NodeProto()
    own.CopyFrom(node)
    del own.input[:]
    for attribute in own.attribute:
        if attribute.type in _GRAPHS:
            attribute.ClearField("g")
            attribute.ClearField("graphs")
    return own.SerializeToString(deterministic=True)


def _nodes(model: ModelProto) -> Iterator[tuple[tuple[str, ...], NodeProto]]:
    """Every node, with a key: the outputs of the nodes that enclose it, its operator and its first output."""
    pending: list[tuple[tuple[str, ...], Any]] = [((), model.graph)]
    pending += [((f.domain, f.name, f.overload), f) for f in model.functions]
    while pending:
        path, scope = pending.pop()
        for node in scope.node:
            output = next((name for name in node.output if name), "")
            if output:
                yield (*path, node.domain, node.op_type, output), node
            for attribute in node.attribute:
                if attribute.type in _GRAPHS:
                    bodies = attribute.graphs or [attribute.g]
                    pending += [((*path, output, attribute.name, str(i)), body) for i, body in enumerate(bodies)]


def _compare(original: ModelProto, result: ModelProto, feeds: Any, faults: list[str]) -> VerificationReport:
    from graphopt.verify import verify

    found = verify(original, result, feeds)
    faults += found.interface
    if not found.ok:
        wrong = [f"{c.name} ({c.dtype}{list(c.shape)}): {c.why}" for run in found.runs for c in run.outputs if not c.ok]
        faults += [f"computes something else: {line}" for line in wrong or ["see the verification report"]]
    return found
