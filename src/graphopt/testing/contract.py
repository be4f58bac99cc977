"""What a pass must keep, looked at from outside: one generator of faults for each promise."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import onnx
from onnx import AttributeProto, ModelProto, NodeProto

if TYPE_CHECKING:
    from graphopt.report import Report

__all__ = ["checker", "frame", "moved_interface", "touched", "validity", "versions"]

_GRAPHS = (AttributeProto.GRAPH, AttributeProto.GRAPHS)
_GRAPH_CONTENT = {
    "node", "initializer", "sparse_initializer", "input", "output", "value_info", "quantization_annotation",
}  # fmt: skip


def validity(original: ModelProto, result: ModelProto, full: bool = False) -> Iterator[str]:
    """What onnx's checker accepts of the original it accepts of the result; `full` adds strict shape inference."""
    problem = checker(result)
    if problem and not checker(original):
        yield f"onnx's checker refuses the result: {problem}"
    elif full and not problem:
        problem = checker(result, full=True)
        if problem and not checker(original, full=True):
            yield f"onnx's checker refuses the shapes of the result: {problem}"


def checker(model: ModelProto, full: bool = False) -> str:
    """What onnx's checker says against a model, in a line, or nothing."""
    try:
        onnx.checker.check_model(model, full_check=full)
    except Exception as error:  # noqa: BLE001 - ValidationError, InferenceError and others without a common base
        return " ".join(str(error).split("\n")[:2]).strip() or type(error).__name__
    return ""


def versions(original: ModelProto, result: ModelProto, same: bool = False) -> Iterator[str]:
    """No version goes down; `same`: none changes at all. A domain that the result needs in addition may appear."""
    pairs = [("the IR version", original.ir_version, result.ir_version)]
    ours, theirs = _opsets(original), _opsets(result)
    shared = sorted(ours.keys() & theirs.keys())
    pairs += [(f"the opset of {domain or 'ai.onnx'!r}", ours[domain], theirs[domain]) for domain in shared]
    for what, before, after in pairs:
        if after < before or (same and after != before):
            yield f"{what} went {'down' if after < before else 'up'} from {before} to {after}"


def _opsets(model: ModelProto) -> dict[str, int]:
    return {"" if entry.domain == "ai.onnx" else entry.domain: entry.version for entry in model.opset_import}


def frame(original: ModelProto, result: ModelProto) -> Iterator[str]:
    """What describes the model and its main graph as a whole stays: producer, texts, metadata."""
    for ours, theirs, rest in (
        (original, result, {"graph", "opset_import", "functions", "ir_version"}),
        (original.graph, result.graph, _GRAPH_CONTENT),
    ):
        kept = {field.name: value for field, value in ours.ListFields() if field.name not in rest}
        found = {field.name: value for field, value in theirs.ListFields() if field.name not in rest}
        for name in sorted(kept.keys() | found.keys()):
            if kept.get(name) != found.get(name):
                yield f"{name} of the {'model' if ours is original else 'graph'} changed"


def moved_interface(original: ModelProto, result: ModelProto) -> Iterator[str]:
    """Inputs, outputs and overridable initializers keep their names, order, types and values."""
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
    if original.ir_version >= 4:
        before, after = _defaults(original), _defaults(result)
        for name, tensor in before.items():
            if tensor != after.get(name):
                yield f"the default of input {name!r} {'changed' if name in after else 'is gone'}"


def _defaults(model: ModelProto) -> dict[str, Any]:
    """The initializers that a caller may override."""
    listed = {info.name for info in model.graph.input}
    return {tensor.name: tensor for tensor in model.graph.initializer if tensor.name in listed}


def _inputs(model: ModelProto) -> list[Any]:
    """Before IR version 4 initializers are listed, too, and may come and go."""
    stored = {tensor.name for tensor in model.graph.initializer} if model.ir_version < 4 else set()
    return [info for info in model.graph.input if info.name not in stored]


def touched(original: ModelProto, result: ModelProto, report: Report) -> Iterator[str]:
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
    """A node without what it reads: its inputs may be renamed, and its bodies are compared node by node. So may its
    further outputs, where one takes over the name of a graph output."""
    own = NodeProto()
    own.CopyFrom(node)
    del own.input[:]
    own.output[:] = ["output" if name else "" for name in node.output]
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
