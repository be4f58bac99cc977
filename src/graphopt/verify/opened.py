"""What is inside: functions put in place of their calls, the body of an If, a Loop or a Scan as a model of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, ValueInfoProto, helper, numpy_helper

from graphopt.verify.flow import attribute
from graphopt.verify.source import bodies
from graphopt.verify.window import type_of, unused_removed

__all__ = ["inlined", "opened"]

Made = tuple[ModelProto, ModelProto, dict[str, Any]]


def inlined(before: ModelProto, after: ModelProto, feeds: Mapping[str, Any]) -> Made | None:
    """Both models with the nodes of functions in place of their calls; None where neither calls one."""
    if not before.functions and not after.functions:
        return None
    from onnx import inliner

    return inliner.inline_local_functions(before), inliner.inline_local_functions(after), dict(feeds)


def opened(before: ModelProto, after: ModelProto, feeds: Mapping[str, Any]) -> Made | None:
    """The bodies of the one node of either model: the branch of the If that is taken, the first turn of a Loop or Scan.

    None where the models are not a single node of the same kind, or their bodies differ in what they take or give.
    """
    if len(before.graph.node) != 1 or len(after.graph.node) != 1:
        return None
    ours, theirs = before.graph.node[0], after.graph.node[0]
    if ours.op_type != theirs.op_type or ours.domain or theirs.domain or list(ours.input) != list(theirs.input):
        return None
    values = {**_initializers(before.graph), **_initializers(after.graph), **feeds}
    pair = _body(ours, values), _body(theirs, values)
    if pair[0] is None or pair[1] is None or len(pair[0].output) != len(pair[1].output):
        return None
    given = _given(ours, pair[0], values)
    if given is None or [v.name for v in pair[0].input] != [v.name for v in pair[1].input]:
        return None
    inner = {**feeds, **given}
    names = [f"{value.name}_of_body" for value in pair[0].output]
    models = [_model(*entry, names, inner) for entry in ((before, pair[0]), (after, pair[1]))]
    return unused_removed(models[0], models[1], inner)


def _initializers(graph: GraphProto) -> dict[str, Any]:
    return {t.name: numpy_helper.to_array(t) for t in graph.initializer if t.ByteSize() < 1 << 20}


def _body(node: NodeProto, values: Mapping[str, Any]) -> GraphProto | None:
    if node.op_type == "If":
        condition = values.get(node.input[0])
        if condition is None:
            return None
        taken = attribute(node, "then_branch" if np.asarray(condition).any() else "else_branch")
        return taken if isinstance(taken, GraphProto) else None
    return next(bodies(node), None) if node.op_type in ("Loop", "Scan") else None


def _given(node: NodeProto, body: GraphProto, values: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the body's inputs are in the first turn."""
    names = [value.name for value in body.input]
    entering = [values.get(name) for name in node.input]
    if node.op_type == "If":
        return {}
    if node.op_type == "Loop":
        given = [np.int64(0), np.bool_(True), *entering[2:]]
    else:
        count = next((entry.i for entry in node.attribute if entry.name == "num_scan_inputs"), 0)
        given = entering[: len(entering) - count] + [
            _slice(node, place, value) for place, value in enumerate(entering[len(entering) - count :])
        ]
    if len(given) != len(names) or any(value is None for value in given):
        return None
    return dict(zip(names, (np.asarray(v) if not isinstance(v, list) else v for v in given), strict=True))


def _slice(node: NodeProto, place: int, value: Any) -> Any:
    given = {entry.name: entry.ints for entry in node.attribute}
    axes, directions = given.get("scan_input_axes"), given.get("scan_input_directions")
    array = np.asarray(value)
    axis, last = axes[place] if axes else 0, bool(directions and directions[place])
    return np.ascontiguousarray(array.take(-1 if last else 0, axis)) if array.ndim and array.shape[axis] else None


def _model(outer: ModelProto, body: GraphProto, outputs: list[str], feeds: Mapping[str, Any]) -> ModelProto:
    found = ModelProto(ir_version=outer.ir_version, producer_name="graphopt")
    found.opset_import.extend(outer.opset_import)
    found.functions.extend(outer.functions)
    graph = found.graph
    graph.name = "body"
    graph.node.extend(body.node)
    local = {tensor.name for tensor in body.initializer}
    graph.initializer.extend(body.initializer)
    graph.initializer.extend(t for t in outer.graph.initializer if t.name not in local and t.name not in feeds)
    graph.input.extend(ValueInfoProto(name=name, type=type_of(value)) for name, value in feeds.items())
    for value, name in zip(body.output, outputs, strict=True):
        graph.node.append(helper.make_node("Identity", [value.name], [name]))
        graph.output.add(name=name)
    return found
