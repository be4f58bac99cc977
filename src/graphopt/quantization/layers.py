"""Which layer loses what: the values between the layers of the quantized model against those of the fp32 model.

Layers are joined by the names of their outputs, and where a pass has renamed those, by the marks that lead back to the
nodes they were made from. Both models run as they are written, so that every value can be looked at.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto

from graphopt import ir
from graphopt.ir import Model, Node, Value
from graphopt.ir.provenance import origin_of
from graphopt.quantization.judge import Tally
from graphopt.quantization.regions import anchors_of
from graphopt.quantization.report import LayerLoss
from graphopt.quantization.runs import Runner

__all__ = ["layer_losses"]

SAMPLES = 4
_INTEGERS = frozenset({"QuantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "ConvInteger", "QLinearConv"})
_CHUNK = 512 << 20  # bytes of values that are had out of one run


def layer_losses(
    fp32: ModelProto, quantized: ModelProto, feeds: Sequence[Mapping[str, Any]], methods: Mapping[str, str]
) -> list[LayerLoss]:
    """One entry for each product of the main graph whose output both models have, in the order of execution.

    feeds: inputs, of which the first few are taken. methods: how each product is computed, for the report. `added_db`
    is by powers: the noise at the output, relative to its signal, less that of the noisiest layer it reads from.
    """
    before, after = ir.from_proto(fp32), ir.from_proto(quantized)
    pairs = _pairs(before, after)
    tallies = {name: Tally() for _, name, _ in pairs}
    for each in feeds[:SAMPLES]:
        for part in _chunks(pairs, fp32, each):
            left = _tapped(fp32, [name for _, name, _ in part], each)
            right = _tapped(quantized, [other for _, _, other in part], each)
            for _, name, other in part:
                tallies[name].add([left[name]], [right[other]])
    noise: dict[Node, float] = {}
    found = []
    for node, name, _ in pairs:
        figures = tallies[name].figures()
        noise[node] = figures.noise
        own = figures.noise - max((noise[each] for each in _sources(node, noise)), default=0.0)
        added = -10 * math.log10(own) if 0 < own < math.inf else None
        method = methods.get(node.label, "float")
        found.append(LayerLoss(node.label, node.op, method, figures.sqnr_db, figures.cosine, added))
    return found


def _pairs(before: Model, after: Model) -> list[tuple[Node, str, str]]:
    """Products of the fp32 model: node, name of its output, name of what stands for that in the quantized model."""
    last: dict[str, Value] = {}
    for node in after.graph:
        for label in (node.label, *origin_of(node).sources):
            if node.outputs and node.op not in _INTEGERS:
                last[label] = node.outputs[0]
    found = []
    for node in anchors_of(before):
        end = _end_of(node)
        if node.graph is not before.graph or not end.outputs[0].name:
            continue
        same = after.graph.values.get(end.outputs[0].name)
        if same is not None and (same.producer is None or same.producer.op in _INTEGERS):
            same = None
        other = same if same is not None else last.get(end.label)
        if other is not None and other.name:
            found.append((node, end.outputs[0].name, other.name))
    return found


def _end_of(node: Node) -> Node:
    """The activation that is all that reads a product, else the product: quantized, the two are one, and the integers
    between them hold only what the activation lets through."""
    value = node.outputs[0]
    if value.is_output:
        return node
    readers = list(value.users)
    if len(readers) == 1 and readers[0].op in ("Relu", "Clip", "HardSwish"):
        return readers[0]
    gates = [reader for reader in readers if reader.op in ("HardSigmoid", "Sigmoid") and len(reader.output.users) == 1]
    if len(readers) == 2 and len(gates) == 1:
        product = next(reader for reader in readers if reader is not gates[0])
        if product.op == "Mul" and gates[0].output in product.inputs:
            return product
    return node


def _sources(node: Node, known: Mapping[Node, float]) -> list[Node]:
    """The layers that a layer reads from, through whatever is in between."""
    found: dict[Node, None] = {}
    seen: set[Node] = set()
    pending = [v.producer for v in node.inputs if v is not None and v.producer is not None]
    while pending and len(seen) < 10_000:
        maker = pending.pop()
        if maker in seen:
            continue
        seen.add(maker)
        if maker in known:
            found[maker] = None
        else:
            pending += [v.producer for v in maker.inputs if v is not None and v.producer is not None]
    return list(found)


def _chunks(
    pairs: Sequence[tuple[Node, str, str]], model: ModelProto, feeds: Mapping[str, Any]
) -> Iterable[Sequence[tuple[Node, str, str]]]:
    """As many layers at a time as fit into memory, by a guess of 100 times the inputs for each."""
    size = max(1 << 20, 4 * sum(v.nbytes for v in feeds.values() if isinstance(v, np.ndarray)))
    step = max(4, _CHUNK // size)
    return [pairs[at : at + step] for at in range(0, len(pairs), step)]


def _tapped(model: ModelProto, names: Sequence[str], feeds: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Values of a model that is run as it is written."""
    wanted = list(dict.fromkeys(names))
    copy = ModelProto()
    copy.CopyFrom(model)
    own = {value.name for value in copy.graph.output}
    for name in wanted:
        if name not in own:
            copy.graph.output.add(name=name).type.tensor_type.elem_type = TensorProto.FLOAT
    run = Runner(copy, optimize=False)
    found = dict(zip(run.names, run(feeds), strict=True))
    return {name: found[name] for name in wanted}
