"""Which tensors of a model to look at, and what of each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase

from onnx import TensorProto

from graphopt.analysis.shapes import ensure_types
from graphopt.calibration.collection import Plan
from graphopt.calibration.methods import HISTOGRAM_METHODS
from graphopt.calibration.stages import value_of
from graphopt.errors import GraphoptError
from graphopt.ir import Graph, Model, Value
from graphopt.ir.external import shown

__all__ = ["plan_of"]

_FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE}
_SAME = {"Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Identity", "DepthToSpace", "SpaceToDepth"}
_SIZES = {"Shape", "Size"}
_SPATIAL = {
    "Conv", "ConvTranspose", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "LpPool",
    "BatchNormalization", "InstanceNormalization", "GroupNormalization", "PRelu",
}  # fmt: skip
_ROWS = {"MatMul", "Gemm", "LayerNormalization", "RMSNormalization"}


def plan_of(
    model: Model,
    method: str,
    tensors: str | Iterable[str] | None = None,
    per_channel: bool | Iterable[str] | Mapping[str, int] = False,
) -> Plan:
    """The plan for a method.

    tensors: names or glob patterns of tensors of the main graph; without, every floating-point one that is fed,
    computed and read (or returned). Infinite values are an error in those named, or else in inputs and outputs.
    per_channel: True for all that a Conv, MatMul, Gemm, pool or normalization reads or makes; names or patterns of
    such; or an axis by name. Raises GraphoptError for names that match nothing, or have no axis of channels.

    >>> from onnx import parser
    >>> from graphopt.ir import from_proto
    >>> m = parser.parse_model('<ir_version: 8, opset_import: ["": 17]> g (float[2, 3] x, float[3, 4] w) => '
    ...                        '(float[2, 4] y) { a = Relu(x)  b = Identity(a)  y = MatMul(b, w) }')
    >>> plan = plan_of(from_proto(m), "entropy", per_channel=["x", "b"])
    Traceback (most recent call last):
    graphopt.errors.GraphoptError: no axis of channels is known for 'x'; give it one, as in {'x': 1}
    >>> plan = plan_of(from_proto(m), "entropy", per_channel={"a": 1})
    >>> plan.tensors, plan.aliases, plan.channels
    (('x', 'w', 'a', 'y'), (('b', 'a'),), (('a', 1),))
    """
    ensure_types(model)
    values = _floats(model.graph)
    if tensors is not None:
        values = _matching(model, values, [tensors] if isinstance(tensors, str) else list(tensors))
    channels = _channels(values, per_channel)
    chosen = set(values)
    tapped: dict[str, None] = {}
    aliases: list[tuple[str, str]] = []
    for value in values:
        source = value if value.name in channels else _source(value)
        source = source if source in chosen else value
        tapped[source.name] = None
        if source is not value:
            aliases.append((value.name, source.name))
    finite = {v.name for v in values if tensors is not None or v.is_output or v.is_input}
    finite |= {source for alias, source in aliases if alias in finite}
    return Plan(
        tuple(tapped),
        tuple(aliases),
        histograms=method in HISTOGRAM_METHODS,
        per_sample=method in ("moving-average", "auto"),
        channels=tuple(channels.items()),
        finite=tuple(name for name in tapped if name in finite),
        model=model.graph.name,
        notes=_left_out(model),
    )


def _floats(graph: Graph) -> list[Value]:
    """Inputs first, then in the order of the nodes."""
    made = [value for node in graph for value in node.outputs if value.name]
    values = [*(value for value in graph.inputs if value.tensor is None), *made]
    return [v for v in values if v.dtype in _FLOATS and not v.is_const and (v.is_output or _is_read(v))]


def _is_read(value: Value) -> bool:
    return any(user.op not in _SIZES for user in value.users)


def _matching(model: Model, values: list[Value], patterns: list[str]) -> list[Value]:
    names = {value.name: value for value in values}
    found: dict[Value, None] = {}
    for pattern in patterns:
        if pattern in names:
            found[names[pattern]] = None
            continue
        matched = [value for name, value in names.items() if fnmatchcase(name, pattern)]
        if not matched:
            kind = value_of(model, pattern).dtype  # raises for a name that is not there, naming the nearest
            what = TensorProto.DataType.Name(kind).lower() if kind else "of unknown type"
            raise GraphoptError(f"tensor {shown(pattern)} is {what}: ranges are of floating-point tensors")
        found.update(dict.fromkeys(matched))
    return [value for value in values if value in found]


def _channels(values: list[Value], asked: bool | Iterable[str] | Mapping[str, int]) -> dict[str, int]:
    if isinstance(asked, bool):
        known = {value.name: _axis(value) for value in values} if asked else {}
        return {name: axis for name, axis in known.items() if axis is not None}
    names = [value.name for value in values]
    if isinstance(asked, Mapping):
        for name in asked:
            _check_match(name, [name] if name in names else [])
        return {name: int(axis) for name, axis in asked.items()}
    found: dict[str, int] = {}
    for pattern in [asked] if isinstance(asked, str) else asked:
        matched = [value for value in values if value.name == pattern or fnmatchcase(value.name, pattern)]
        _check_match(pattern, matched)
        for value in matched:
            axis = _axis(value)
            if axis is None and value.name == pattern:
                raise GraphoptError(
                    f"no axis of channels is known for {shown(pattern)}; give it one, as in {{{shown(pattern)}: 1}}"
                )
            if axis is not None:
                found[value.name] = axis
    return found


def _check_match(pattern: str, matched: list[object] | list[str] | list[Value]) -> None:
    if not matched:
        raise GraphoptError(f"per_channel names {shown(pattern)}, which is none of the tensors that are calibrated")


def _axis(value: Value) -> int | None:
    """1 where a convolution or the like reads or makes it, the last one for matrices."""
    makers = [value.producer] if value.producer is not None else []
    for node in (*(user for user in value.users if user.inputs and user.inputs[0] is value), *makers):
        if node.domain:
            continue
        if node.op in _SPATIAL:
            return 1
        if node.op in _ROWS:
            return 0 if node.op == "Gemm" and node not in makers and node.attr("transA", 0) else -1
    return None


def _source(value: Value) -> Value:
    """The tensor that holds the same values, in another shape."""
    node = value.producer
    while node is not None and node.op in _SAME and not node.domain and node.outputs[0] is value:
        before = node.inputs[0]
        if before is None or before.is_const or before.dtype not in _FLOATS or before.graph is not value.graph:
            break
        if before.is_input and before.tensor is not None:
            break
        value, node = before, before.producer
    return value


def _left_out(model: Model) -> tuple[str, ...]:
    """Bodies and functions, where nothing is looked at."""
    counts: dict[str, int] = {}
    for graph in model.scopes():
        if graph is model.graph:
            continue
        owner = graph.owner
        where = f"bodies of {owner.op} {shown(owner.label)}" if owner is not None else f"function {shown(graph.name)}"
        inner = sum(value.dtype in _FLOATS for node in graph for value in node.outputs if not value.is_const)
        counts[where] = counts.get(where, 0) + inner
    return tuple(f"not calibrated: {count} tensors in {where}" for where, count in counts.items() if count)
