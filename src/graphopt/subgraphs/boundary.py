"""The types of inner values: what onnx infers, and where it finds none (operators of other domains), ONNX Runtime."""

from __future__ import annotations

import re
from collections.abc import Iterable

from onnx import TensorProto, TypeProto, helper

from graphopt.analysis.shapes import ensure_types
from graphopt.ir import Model, Value, to_proto
from graphopt.ir.order import reads_of
from graphopt.subgraphs.cut import cut
from graphopt.subgraphs.region import Region, region_of

__all__ = ["before", "parse_type", "types_of"]

_KINDS = {
    "float": "FLOAT", "double": "DOUBLE", "bool": "BOOL", "string": "STRING", "float16": "FLOAT16",
    "bfloat16": "BFLOAT16",
}  # fmt: skip


def types_of(model: Model, values: Iterable[Value]) -> dict[Value, TypeProto]:
    """The types of these values, as far as they can be found out; those of the model's own interface as declared.

    Nothing is run, and no weight is read: for ONNX Runtime, large weights are inputs.
    """
    ensure_types(model)
    declared = {info.name: info.type for info in (*model.proto.graph.output, *model.proto.graph.input)}
    found: dict[Value, TypeProto] = {}
    missing: list[Value] = []
    for value in dict.fromkeys(values):
        known = declared.get(value.name) if value.graph is model.graph and (value.is_input or value.outs) else None
        for candidate in (known, value.type):
            if candidate is not None and _is_whole(candidate):
                found[value] = candidate
                break
        else:
            missing.append(value)
    made = [value for value in missing if value.tensor is None]
    here = [value for value in made if value.graph is model.graph and value.producer is not None]
    if here:
        found.update(_by_runtime(here))
    for scope in dict.fromkeys(value.graph for value in made if value.graph is not model.graph):
        from graphopt.subgraphs.tap import runtime_types

        if not scope.in_function:
            found.update(runtime_types(scope, [value for value in made if value.graph is scope]))
    return found


def _is_whole(kind: TypeProto) -> bool:
    return kind.tensor_type.elem_type != 0 if kind.HasField("tensor_type") else kind.WhichOneof("value") is not None


def before(values: Iterable[Value], stop: frozenset[Value] = frozenset()) -> Region:
    """All that values depend on, back to graph inputs and to the values of `stop`."""
    outputs = list(values)
    nodes = {value.producer: None for value in outputs if value.producer is not None}
    graph = outputs[0].graph
    pending = list(nodes)
    while pending:
        for value in reads_of(pending.pop()):
            maker = value.producer
            if value not in stop and maker is not None and maker.graph is graph and maker not in nodes:
                nodes[maker] = None
                pending.append(maker)
    found = region_of(nodes, outputs=outputs)
    if not stop:
        return found
    return region_of(nodes, inputs=[*stop, *(v for v in found.inputs if v not in stop)], outputs=outputs)


def _by_runtime(values: list[Value]) -> dict[Value, TypeProto]:
    """What ONNX Runtime infers for outputs that declare nothing."""
    import onnxruntime

    region = before(values)
    model = region.graph.model
    bare = cut(region, types_of(model, region.inputs), weights=False)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        data = to_proto(bare).SerializeToString()
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception:  # noqa: BLE001 - the runtime's exceptions have no public base; unknown types are reported by name
        return {}
    found = {}
    for value, arg in zip(values, session.get_outputs(), strict=True):
        kind = parse_type(arg.type, arg.shape)
        if kind is not None:
            found[value] = kind
    return found


def parse_type(text: str, shape: list[int | str | None], known_shape: bool = True) -> TypeProto | None:
    """A type in ONNX Runtime's words, as in ``seq(tensor(int64))``."""
    match = re.fullmatch(r"(seq|optional)\((.*)\)", text)
    if match is not None:
        inner = parse_type(match[2], [])
        if inner is None:
            return None
        inner.tensor_type.ClearField("shape")
        make = helper.make_sequence_type_proto if match[1] == "seq" else helper.make_optional_type_proto
        return make(inner)
    match = re.fullmatch(r"tensor\((\w+)\)", text)
    name = _KINDS.get(match[1], match[1].upper()) if match is not None else ""
    kind = dict(TensorProto.DataType.items()).get(name)
    if kind is None:
        return None
    # The runtime gives [] for an unknown rank and for a scalar alike.
    return helper.make_tensor_type_proto(kind, [dim or None for dim in shape] if known_shape and shape else None)
