"""The many ways in which the same graph is written: which outputs, names, defaults and annotations a draft gets."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, numpy_helper

from graphopt.analysis.shapes import has_negative_sizes
from graphopt.testing.chooser import Chooser
from graphopt.testing.draft import Draft, Drawn, ranked

# What models may have. "unsorted" ones (nodes not in order) are refused by onnx's checker, and drawn on demand only.
FEATURES = (
    "symbols", "control-flow", "functions", "overridable", "old-ir", "duplicate-outputs", "passed-through",
    "zero-size", "special-values", "names", "value-info", "metadata", "unused",
    "reference",
)  # fmt: skip
ON_DEMAND = ("unsorted",)


def outputs(draft: Draft, features: frozenset[str]) -> None:
    """Chooses the outputs: what nothing reads, and more."""
    chooser = draft.chooser
    read = {name for node in draft.nodes for name in _reads(node)}
    made = {name for node in draft.nodes for name in node.output}
    loose = [var for var in draft.values if var.name not in read and var.name in made and ranked(var)]
    if len(loose) > 1 and chooser.chance(15):  # the others are dead
        loose = [var for var in loose if chooser.chance(60)] or loose[-1:]
    loose += [var for var in dict.fromkeys(draft.extras) if ranked(var) and var not in loose and var.name in made]
    if "passed-through" in features and chooser.chance(8):
        straight = [
            var for var in draft.values if (var.name not in made and var in draft.inputs) or var.const is not None
        ]
        loose += [chooser.pick(straight)] if straight else []
    if not loose:
        loose = [draft._last()]
    if "duplicate-outputs" in features and chooser.chance(4):
        loose.append(loose[0])
    for var in loose:
        draft.output(var)


def _reads(node: NodeProto) -> list[str]:
    """What a node reads, its bodies included."""
    found, pending = list(node.input), [a.g for a in node.attribute if a.HasField("g")]
    while pending:
        graph = pending.pop()
        for inner in graph.node:
            found += inner.input
            pending += [a.g for a in inner.attribute if a.HasField("g")]
        found += [value.name for value in graph.output]
    return found


def defaults(draft: Draft) -> None:
    """Lists some initializers as inputs: defaults, which a caller may override (and this one sometimes does)."""
    chooser = draft.chooser
    for tensor in draft.initializers:
        var = next((var for var in draft.values if var.name == tensor.name), None)
        if var is None or not chooser.chance(25):
            continue
        draft.overridable.append(var)
        free = var.dtype in (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE) and var.const is not None
        if free and var.const is not None and chooser.chance(30):
            draft.feeds[var.name] = np.asarray(var.const * np.asarray(1, var.const.dtype))


def unused(draft: Draft) -> None:
    """Inputs and weights that nothing reads."""
    chooser = draft.chooser
    if chooser.chance(50):
        draft.input(TensorProto.FLOAT, (2,), ("N",))
    if chooser.chance(50):
        draft.constant(np.arange(3, dtype=np.float32))


def names(model: ModelProto, chooser: Chooser) -> None:
    """Node names: none (as drafted), unique ones, or the same ones in graphs side by side (ORT takes no more)."""
    style = chooser.pick(("unique", "some", "same"))
    pending = [model.graph]
    number = 0
    while pending:
        graph = pending.pop()
        number = 0 if style == "same" else number
        for node in graph.node:
            number += 1
            if style == "unique" or (style == "some" and number % 2):
                node.name = f"{node.op_type}_{number}"
            elif style == "same":
                node.name = f"node_{number}"
            pending += [a.g for a in node.attribute if a.HasField("g")]


def sizes(model: ModelProto, chooser: Chooser, draft: Draft) -> None:
    """Types of inner values as inference finds them, and the sizes of outputs where they follow from the inputs'."""
    if has_negative_sizes(model):
        return
    try:
        inferred = onnx.shape_inference.infer_shapes(model)
    except onnx.shape_inference.InferenceError:
        return
    if chooser.chance(60):
        model.graph.value_info.extend(inferred.graph.value_info)
    known = {info.name: info for info in inferred.graph.output}
    for info in model.graph.output:
        found = known[info.name].type.tensor_type
        if info.type.HasField("tensor_type") and len(found.shape.dim) == len(info.type.tensor_type.shape.dim):
            _take(info, found)


def _take(info: ValueInfoProto, found: onnx.TypeProto.Tensor) -> None:
    for mine, theirs in zip(info.type.tensor_type.shape.dim, found.shape.dim, strict=True):
        # Names that inference makes up are nobody's: only sizes, and symbols of inputs.
        if theirs.HasField("dim_value") or (theirs.dim_param and not theirs.dim_param.startswith("unk__")):
            mine.CopyFrom(theirs)


def metadata(model: ModelProto, chooser: Chooser) -> None:
    """Remarks in every place that has room for them."""
    model.doc_string, model.domain, model.model_version = "drawn", "org.example", 3
    model.metadata_props.add(key="author", value="hypothesis")
    model.graph.doc_string = "a graph"
    if model.graph.node:
        model.graph.node[-1].doc_string = "the last node"
    if model.ir_version >= 10 and model.graph.node:
        model.graph.node[0].metadata_props.add(key="at", value="the start")
        model.graph.metadata_props.add(key="kind", value="graph")
    if model.graph.input and chooser.chance(50):
        model.graph.input[0].doc_string = "what goes in"
        if model.graph.input[0].type.tensor_type.shape.dim:
            model.graph.input[0].type.tensor_type.shape.dim[0].denotation = "DATA_BATCH"


def typed_data(model: ModelProto) -> None:
    """Weights in the typed fields instead of raw bytes, where they have one of their own."""
    for tensor in model.graph.initializer:
        if tensor.data_type in (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.INT64, TensorProto.INT32):
            array = numpy_helper.to_array(tensor)
            field = {1: "float_data", 11: "double_data", 7: "int64_data", 6: "int32_data"}[tensor.data_type]
            getattr(tensor, field).extend(array.ravel().tolist())
            tensor.ClearField("raw_data")


def shuffled(model: ModelProto, chooser: Chooser) -> None:
    """Nodes in another order, which need not be that of their data."""
    nodes = list(model.graph.node)
    order = np.random.default_rng(chooser.seed()).permutation(len(nodes))
    del model.graph.node[:]
    model.graph.node.extend(nodes[i] for i in order)


def finish(draft: Draft, features: frozenset[str]) -> Drawn:
    """The model of a draft, in one of its spellings."""
    chooser = draft.chooser
    if "unused" in features and chooser.chance(6):
        unused(draft)
    outputs(draft, features)
    if "overridable" in features and draft.ir_version >= 4 and chooser.chance(12):
        defaults(draft)
    drawn = draft.finish()
    model = drawn.model
    if "value-info" in features and chooser.chance(35):
        sizes(model, chooser, draft)
    if "names" in features and chooser.chance(40):
        names(model, chooser)
    if chooser.chance(10):
        typed_data(model)
    if "metadata" in features and chooser.chance(5):
        metadata(model, chooser)
    if "unsorted" in features and chooser.chance(50):
        shuffled(model, chooser)
    return drawn
