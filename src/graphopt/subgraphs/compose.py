"""Models joined end to end: a detector and a classifier; preprocessing, a model, and what selects its boxes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from onnx import ModelProto, ValueInfoProto

from graphopt import ir
from graphopt.errors import GraphoptError
from graphopt.ir import Graph, Model, Value
from graphopt.ir.external import shown
from graphopt.subgraphs.boundary import types_of
from graphopt.subgraphs.cut import LEAST_IR
from graphopt.subgraphs.extract import Path, model_of
from graphopt.subgraphs.graft import graft

__all__ = ["compose", "join"]


def compose(
    first: ModelProto | Path | Model,
    second: ModelProto | Path | Model,
    connect: Mapping[str, str] | None = None,
    *,
    keep: Sequence[str] = (),
    prefix: str = "",
) -> ModelProto | Model:
    """One model that feeds outputs of the first to inputs of the second.

    connect: output of the first -> input of the second. Without, names that both have are connected; or the only output
    with the only input. Inputs of the second that nothing is connected to become inputs of the whole. Outputs: first
    those of the first model that are not connected, and those in `keep`, then those of the second. prefix: put in front
    of interface names of the second that the first has as well; without, such a clash is an error. All other names get
    out of each other's way by themselves. Where operator sets differ, the older model is converted, and the conversion
    verified.

    Returns a `ModelProto`, or a Model where `first` is one; neither model is changed. Raises GraphoptError for names
    that are not there, types or shapes that contradict each other, a clash of names, and an operator set that cannot be
    converted.

    >>> from onnx import parser
    >>> head = '<ir_version: 8, opset_import: ["": 17]> g '
    >>> a = parser.parse_model(head + '(float[N] x) => (float[N] y) { t = Neg(x)  y = Abs(t) }')
    >>> b = parser.parse_model(head + '(float[N] x) => (float[N] z) { t = Relu(x)  z = Exp(t) }')
    >>> whole = compose(a, b)
    >>> [n.op_type for n in whole.graph.node], whole.graph.input[0].name, whole.graph.output[0].name
    (['Neg', 'Abs', 'Relu', 'Exp'], 'x', 'z')
    """
    whole = join(model_of(first).clone(), model_of(second), connect, keep, prefix)
    return whole if isinstance(first, Model) else ir.to_proto(whole)


def join(
    left: Model, right: Model, connect: Mapping[str, str] | None = None, keep: Sequence[str] = (), prefix: str = ""
) -> Model:
    """`compose` on a first model that is changed; after an error it is void."""
    left, right = _same_opsets(left, right)
    pairs = _connections(left, right, connect)
    _check_types(left, right, pairs)
    _join(left, right, pairs, keep, prefix)
    return Model(left.commit(), left.store)


def _connections(left: Model, right: Model, connect: Mapping[str, str] | None) -> dict[str, str]:
    """Input of the second -> output of the first."""
    outs = [value.name for value in left.graph.outputs]
    ins = [value.name for value in right.graph.inputs]
    if connect is None:
        pairs = {name: name for name in outs if name in ins}
        needed = [value.name for value in right.graph.inputs if value.tensor is None]
        if not pairs and len(outs) == 1 and len(needed) == 1:
            pairs = {needed[0]: outs[0]}
        if not pairs:
            raise GraphoptError(
                f"which output goes where? the first model gives {_list(outs)}, the second takes {_list(ins)}; say it "
                "with connect"
            )
        return pairs
    for out, name in connect.items():
        if out not in outs:
            raise GraphoptError(f"the first model has no output {shown(out)}; it has {_list(outs)}")
        if name not in ins:
            raise GraphoptError(f"the second model has no input {shown(name)}; it has {_list(ins)}")
    if len(set(connect.values())) < len(connect):
        raise GraphoptError("two outputs are connected to one input")
    return {name: out for out, name in connect.items()}


def _list(names: Sequence[str]) -> str:
    return ", ".join(map(shown, names[:8])) or "none"


def _check_types(left: Model, right: Model, pairs: Mapping[str, str]) -> None:
    for name, out in pairs.items():
        ours = _one_type(left, next(v for v in left.graph.outputs if v.name == out))
        theirs = _one_type(right, next(v for v in right.graph.inputs if v.name == name))
        if ours is None or theirs is None:
            continue
        a, b = ours.tensor_type, theirs.tensor_type
        if ours.WhichOneof("value") != theirs.WhichOneof("value") or a.elem_type != b.elem_type:
            raise GraphoptError(f"{shown(out)} and {shown(name)} are of different types; put a Cast in between")
        if not a.HasField("shape") or not b.HasField("shape"):
            continue
        sizes = [tuple(dim.dim_value or None for dim in t.shape.dim) for t in (a, b)]
        apart = any(x is not None and y is not None and x != y for x, y in zip(*sizes, strict=False))
        if len(sizes[0]) != len(sizes[1]) or apart:
            raise GraphoptError(f"{shown(out)} has shape {_shape(sizes[0])}, {shown(name)} takes {_shape(sizes[1])}")


def _shape(sizes: Sequence[int | None]) -> str:
    return "[" + ", ".join("?" if size is None else str(size) for size in sizes) + "]"


def _one_type(model: Model, value: Value) -> Any:
    return types_of(model, [value]).get(value)


def _join(left: Model, right: Model, pairs: Mapping[str, str], keep: Sequence[str], prefix: str) -> None:
    """Grafts the second onto the first, and makes the interface of both one."""
    graph = left.graph
    declared = {info.name: info for info in (*right.proto.graph.input, *right.proto.graph.output)}
    outs = {value.name: value for value in graph.outputs}
    unknown = [name for name in keep if name not in outs]
    if unknown:
        raise GraphoptError(f"the first model has no output {shown(unknown[0])} to keep; it has {_list(list(outs))}")
    kept = [value for value in graph.outputs if value.name in keep or value.name not in pairs.values()]
    taken = {value.name for value in (*graph.inputs, *kept)}
    given: dict[str, Value] = {name: outs[out] for name, out in pairs.items()}
    proto: Any = graph.proto
    infos = [info for info in proto.output if info.name in {value.name for value in kept}]
    for value in right.graph.inputs:
        if value.name in given or value.tensor is not None:
            continue
        name = _public(value.name, taken, prefix, "input")
        _make_room(graph, name)
        given[value.name] = graph.add_input(_renamed(declared[value.name], name))
    made = graft(graph, right, given)
    names = [value.name for value in right.graph.outputs]
    ends: list[Value] = list(kept)
    for value, name in zip(made, names, strict=True):
        public = _public(name, taken, prefix, "output")
        if value.producer is None or value in ends:
            value = graph.insert("Identity", [value]).output
        if value.name != public:
            _make_room(graph, public)
            graph.rename(value, public)
        infos.append(_renamed(declared[name], public))
        ends.append(value)
    graph.set_outputs(ends, infos)


def _make_room(graph: Graph, name: str) -> None:
    """Gives an inner value another name, if one has this one."""
    inner = graph.values.get(name)
    if inner is not None:
        graph.rename(inner, graph.model.fresh(name))


def _public(name: str, taken: set[str], prefix: str, kind: str) -> str:
    found = prefix + name if name in taken and prefix else name
    if found in taken:
        raise GraphoptError(f"both models have an {kind} {shown(found)}; give a prefix for those of the second")
    taken.add(found)
    return found


def _renamed(info: ValueInfoProto, name: str) -> ValueInfoProto:
    made = ValueInfoProto()
    made.CopyFrom(info)
    made.name = name
    return made


def _same_opsets(left: Model, right: Model) -> tuple[Model, Model]:
    ours, theirs = left.opsets.get(""), right.opsets.get("")
    left = _at_least_ir(left)
    if ours is None or theirs is None or ours == theirs:
        return left, right
    newest = max(ours, theirs)
    return (_converted(left, newest), right) if ours < newest else (left, _converted(right, newest))


def _at_least_ir(model: Model) -> Model:
    """Before IR version 4 initializers are listed as inputs; nothing else is different."""
    if model.ir_version >= LEAST_IR:
        return model
    names = {value.name for value in model.graph.inputs}
    proto = model.commit()
    kept = [info for info in proto.graph.input if info.name in names]
    del proto.graph.input[len(kept) :]
    for place, info in enumerate(kept):
        proto.graph.input[place].CopyFrom(info)
    proto.ir_version = LEAST_IR
    return Model(proto, model.store)


def _converted(model: Model, version: int) -> Model:
    """The model in a newer operator set, by onnx's converter; refused where it does not compute the same."""
    from onnx import version_converter

    from graphopt.verify import verify

    old = model.opsets[""]
    proto = ir.to_proto(model, whole=True)
    try:
        found = version_converter.convert_version(proto, version)
    except Exception as error:  # noqa: BLE001 - onnx raises several C++ exception types
        raise GraphoptError(
            f"the models use operator sets {old} and {version}, and the older cannot be converted: "
            f"{str(error).strip().splitlines()[0]}; export it again"
        ) from None
    report = verify(proto, found)
    if report.status == "failed":
        raise GraphoptError(f"converting the operator set {old} to {version} changes the model: {report.summary()}")
    return ir.from_proto(found)
