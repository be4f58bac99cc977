"""The facts that ``inspect`` shows, as JSON-ready data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnx import TensorProto, TypeProto, ValueInfoProto

from graphopt.analysis.cost import NodeCost, node_cost
from graphopt.cli._bind import bind, dimensions, sizes_of
from graphopt.cli._times import add_times
from graphopt.ir.schema import CONTROL_FLOW, find
from graphopt.ir.tensor import payload_bytes

if TYPE_CHECKING:
    from graphopt.ir import Graph, Model, Node, Value

EXAMPLES = 3  # node names shown for each thing that blocks
RANDOM = frozenset(
    ("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike")
)
QUANTIZED = frozenset(
    (
        *("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"),
        *("QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger"),
    )
)
STANDARD = frozenset(("", "ai.onnx.ml", "ai.onnx.training", "ai.onnx.preview", "ai.onnx.preview.training"))


def survey(path: Path, bindings: Mapping[str, int], target: str = "onnxruntime") -> dict[str, Any]:
    """Everything that ``inspect --json`` prints. bindings: sizes of dynamic dimensions. target: whose times are
    estimated. Raises ModelError."""
    from graphopt.ir import load

    model = load(path)
    proto, inputs = model.proto, {value.name for value in model.graph.inputs}
    interface = {
        "inputs": [
            {**_describe(info), "has_default": info.name in model.graph.initializers}
            for info in proto.graph.input
            if info.name in inputs
        ],
        "outputs": [_describe(info) for info in proto.graph.output],
    }
    dims = dimensions(model, bindings)
    model, fits = bind(model, bindings)
    blockers = _blockers(model, fits)
    sizes = sizes_of(model, bindings)
    costs = [(node, node_cost(node, sizes)) for graph in model.scopes() for node in graph]
    if not fits:  # figures for sizes that cannot be would mislead
        costs = [(node, replace(cost, flops=None)) for node, cost in costs]
    parameters, size = _weights(model)
    facts = {
        "model": path.name,
        "file_bytes": path.stat().st_size,
        "ir_version": model.ir_version,
        "opsets": dict(sorted(model.opsets.items())),
        "producer": f"{proto.producer_name} {proto.producer_version}".strip(),
        "nodes": len(costs),
        "scopes": sum(1 for _ in model.scopes()),
        "functions": len(model.functions),
        **interface,
        "dims": dims,
        "dims_fit": fits,
        "parameters": parameters,
        "initializer_bytes": size,
        "flops": sum(cost.flops or 0 for _, cost in costs) if fits else None,
        "uncounted": dict(sorted(Counter(node.op for node, cost in costs if cost.flops is None).items())),
        "operators": _operators(costs),
        "blockers": blockers,
    }
    add_times(facts, model, sizes, target, fits)
    return facts


def _weights(model: Model) -> tuple[int, int]:
    """(elements, bytes) of all initializers and Constant nodes, each once."""
    elements = size = 0
    for graph in model.scopes():
        made = (node.output for node in graph if node.op == "Constant" and not node.domain)
        for value in (*graph.initializers.values(), *made):
            tensor = value.tensor
            shape = tensor.shape if tensor is not None else value.shape if value.is_const else None
            kind = tensor.dtype if tensor is not None else value.dtype
            if shape is not None and kind:
                count = prod(dim for dim in shape if isinstance(dim, int))
                elements += count
                size += payload_bytes(kind, count)
    return elements, size


def _operators(costs: list[tuple[Node, NodeCost]]) -> list[dict[str, Any]]:
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for node, cost in costs:
        blank = {"op": node.op, "domain": node.domain, "nodes": 0, "flops": 0, "parameters": 0, "parameter_bytes": 0}
        row = rows.setdefault((node.domain, node.op), blank)
        row["nodes"] += 1
        row["flops"] += cost.flops or 0
        row["parameters"] += cost.parameters
        row["parameter_bytes"] += cost.parameter_bytes
    return sorted(rows.values(), key=lambda row: (-row["nodes"], row["domain"], row["op"]))


def _describe(info: ValueInfoProto) -> dict[str, str]:
    kind, shape = type_text(info.type)
    return {"name": info.name, "type": kind, "shape": shape}


def type_text(proto: TypeProto) -> tuple[str, str]:
    """(element type, shape) of a graph input or output, as text: ("float32", "[N, 3, 224, 224]").

    >>> from onnx import TensorProto, helper
    >>> type_text(helper.make_tensor_type_proto(TensorProto.FLOAT, ["N", 3]))
    ('float32', '[N, 3]')
    """
    words = []
    while proto.WhichOneof("value") in ("sequence_type", "optional_type", "map_type"):
        kind = proto.WhichOneof("value") or ""
        words.append(kind.removesuffix("_type"))
        if kind == "map_type":
            words.append(_dtype(proto.map_type.key_type))
            proto = proto.map_type.value_type
        else:
            proto = getattr(proto, kind).elem_type
    sparse = proto.WhichOneof("value") == "sparse_tensor_type"
    tensor: Any = proto.sparse_tensor_type if sparse else proto.tensor_type
    words += ["sparse"] if sparse else []
    dims = [
        (str(d.dim_value) if d.dim_value >= 0 else "?") if d.HasField("dim_value") else d.dim_param or "?"
        for d in tensor.shape.dim
    ]
    shape = f"[{', '.join(dims)}]" if tensor.HasField("shape") else "?"
    return " ".join([*words, _dtype(tensor.elem_type)]), shape


def _dtype(kind: int) -> str:
    if kind == TensorProto.UNDEFINED or kind not in TensorProto.DataType.values():
        return "?"
    name = TensorProto.DataType.Name(kind).lower()
    return {"float": "float32", "double": "float64"}.get(name, name)


def _blockers(model: Model, fits: bool) -> list[dict[str, Any]]:
    """What keeps passes from acting: the kind, how many, what it means, some names. fits: whether dims are numbers."""
    functions = {(domain, name) for domain, name, _ in model.functions}
    found: dict[str, list[Node]] = {}
    for graph in model.scopes():
        for node in graph:
            for kind in _kinds(node, graph, functions, fits):
                found.setdefault(kind, []).append(node)
    items = [_item(kind, found[kind]) for kind in _MEANING if kind in found]
    over = [value.name for value in model.graph.initializers.values() if value.is_input and not value.is_const]
    if over:
        so = "the caller may override: they are also graph inputs, and not constant."
        items.append(_entry("overridable", len(over), "initializer", so, over))
    return items


def _kinds(node: Node, graph: Graph, functions: set[tuple[str, str]], fits: bool) -> Iterable[str]:
    known = find(node.op, node.domain, graph.opset(node.domain)) is not None
    if (node.domain, node.op) in functions:
        yield "function call"
    elif not known:
        yield "custom" if node.domain not in STANDARD else "unknown"
    if node.domain == "":
        if node.op in CONTROL_FLOW and not (node.op == "If" and _is_const(node.inputs[0])):
            yield "control flow"
        if node.op in RANDOM or (node.op == "Dropout" and _is_on(node)):
            yield "random"
        if node.op == "BatchNormalization" and node.attr("training_mode", 0):
            yield "training"
    if node.op in QUANTIZED:
        yield "quantized"
    if not node.subgraphs and not graph.in_function and any(v.name and _no_shape(v, fits) for v in node.outputs):
        yield "shapes"


def _is_const(value: Value | None) -> bool:
    return value is not None and value.is_const


def _is_on(dropout: Node) -> bool:
    flag = dropout.input(2)
    return flag is not None and not (flag.is_const and not flag.numpy().any())


def _no_shape(value: Value, fits: bool) -> bool:
    if value.type is not None and not value.type.HasField("tensor_type"):
        return False
    return value.shape is None or not all(isinstance(dim, int) or (dim and not fits) for dim in value.shape)


_MEANING = {
    "custom": ("operator", "of custom domains: kept as they are, with what surrounds them."),
    "unknown": ("operator", "that this version of onnx does not know: kept as they are."),
    "function call": ("call", "of model-local functions: no rule looks into them before they are inlined."),
    "control flow": ("control-flow node", "decided at run time: each body is optimized by itself."),
    "random": ("random operator", "never folded or merged."),
    "training": ("BatchNormalization", "in training mode: the statistics are live and nothing folds."),
    "quantized": ("quantized operator", "fusions leave what is between Q and DQ alone."),
    "shapes": ("node", "whose output shape cannot be inferred: passes that need it skip them."),
}


def _item(kind: str, nodes: list[Node]) -> dict[str, Any]:
    noun, so = _MEANING[kind]
    return _entry(kind, len(nodes), noun, so, [f"{node.op} {node.label}" for node in nodes])


def _entry(kind: str, count: int, noun: str, so: str, names: list[str]) -> dict[str, Any]:
    plural = noun if count == 1 or noun == "BatchNormalization" else noun + "s"
    return {"kind": kind, "count": count, "what": f"{count} {plural}", "so": so, "examples": names[:EXAMPLES]}
