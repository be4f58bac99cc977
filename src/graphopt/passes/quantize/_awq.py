"""Activation-aware scaling:   x W   ==   (x / s) (diag(s) W),   s a positive number for each input channel

The weights of channels with large activations are made larger before they are rounded, so that their relative error
falls. s = mean(|x|) ^ alpha, alpha in [0, 1) by what gives the least error of the output on calibration data; 1 / s
goes into the constants that make x. Ji Lin et al., "AWQ", arXiv:2306.00978, section 3.2.

Where 1 / s can go: scale and bias of LayerNormalization, RMSNormalization and SimplifiedLayerNormalization; a constant
of Mul; the columns of a constant weight of MatMul or Gemm; through Add (its constant, too), one factor of Mul, Relu and
LeakyRelu. Guards: nothing else reads x or the values on the way, and none is a graph output; constants have a number
for each channel already (the 0.5 of a Gelu written out stays one number: ONNX Runtime knows it by that).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from graphopt.ir import NDArray, Node, Value
from graphopt.passes.quantize._products import Product, product_of
from graphopt.passes.quantize._rtn import Grid, quantize_matrix

if TYPE_CHECKING:
    from graphopt.calibration.gram import Moments

STEPS = 20
COLUMNS = 128  # of a weight, about, evenly spread, that the search looks at
NORMS = {"LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization"}
THROUGH = {"Relu", "LeakyRelu", "Identity"}  # f(x / s) == f(x) / s for s > 0


@dataclass(frozen=True)
class Edit:
    """A constant input of a node that takes 1 / s: along its last axis, or its first (`rows`, a weight [K, J])."""

    node: Node
    slot: int
    rows: bool = False


Way = tuple[tuple[Edit, ...], Value | None]  # what was found on the way, and where it goes on


def places(x: Value, readers: Sequence[Node], channels: int) -> list[Edit] | str:
    """The constants that make x [..., channels] and can take its factor, or why not. readers: who may read x."""
    if x.outs or any(user not in readers for user in x.users):
        return f"{x.name} is read elsewhere, too"
    pending: list[Way] = [((), x)]
    why = ""
    while pending:
        edits, value = pending.pop()
        if value is None:
            return list(edits)
        found = _step(value, x, channels)
        if isinstance(found, str):
            why = why or found
        else:
            pending += [((*edits, *more), following) for more, following in reversed(found)]
    return why


def _step(value: Value, x: Value, channels: int) -> list[Way] | str:
    """The ways on from a value, one of which is enough."""
    if value is not x and (value.outs or sum(value.users.values()) != 1):
        return f"{value.name} is read elsewhere, too"
    node = value.producer
    if node is None or node.graph is not x.graph or value.index or node.has_references:
        return f"{value.name} is no result of this graph"
    if node.op in NORMS:
        return _all_constant(node, range(1, len(node.inputs)))
    if node.domain:
        return f"a {node.op} comes before it"
    if node.op in THROUGH:
        return [((), node.inputs[0])]
    if node.op == "Mul":
        constant = [i for i in (0, 1) if _is_const(node, i)]
        if not constant:
            return [((), factor) for factor in node.inputs]
        return [((Edit(node, constant[0]),), None)] if _fits(node, constant[0], channels) else "a factor is one number"
    if node.op == "Add":
        constant = [i for i in (0, 1) if _is_const(node, i)]
        if constant and _fits(node, constant[0], channels):
            return [((Edit(node, constant[0]),), node.inputs[1 - constant[0]])]
    if node.op in ("MatMul", "Gemm"):
        return _product(node)
    return f"a {node.op} comes before it"


def _product(node: Node) -> list[Way] | str:
    found = product_of(node)
    if not isinstance(found, Product) or found.weight is not node.inputs[1]:
        return f"a {node.op} without constant weights comes before it"
    bias = [2] if node.input(2) is not None else []
    if not all(_is_const(node, i) for i in bias):
        return f"a {node.op} with a bias that is no constant comes before it"
    return [((Edit(node, 1, found.turned), *(Edit(node, i) for i in bias)), None)]


def _all_constant(node: Node, slots: range) -> list[Way] | str:
    given = [i for i in slots if node.inputs[i] is not None]
    if not given or not all(_is_const(node, i) for i in given):
        return f"the scale of {node.op} is no constant"
    return [(tuple(Edit(node, i) for i in given), None)]


def _fits(node: Node, slot: int, channels: int) -> bool:
    """Whether a constant has a number for each channel along its last axis."""
    value = node.inputs[slot]
    shape = value.shape if value is not None else None
    return bool(shape) and shape is not None and shape[-1] == channels


def _is_const(node: Node, slot: int) -> bool:
    value = node.inputs[slot]
    return value is not None and value.is_const


def apply(edits: Sequence[Edit], s: NDArray) -> None:
    """Divides these constants by s, [K], in float64; new constants, whoever else reads the old ones keeps them."""
    for edit in edits:
        old = edit.node.inputs[edit.slot]
        assert old is not None
        array = old.numpy()
        scaled = array.astype(np.float64) / (s[:, None] if edit.rows else s)
        edit.node.set_input(edit.slot, edit.node.graph.constant(scaled.astype(array.dtype), old.name))
        drop(old)


def drop(value: Value) -> None:
    """Takes a constant out of the file if nothing reads it any more."""
    if value.users or value.outs:
        return
    if value.producer is not None:
        if value.producer.alive:
            value.graph.erase(value.producer)
    elif value.name in value.graph.initializers:
        value.graph.erase_initializer(value)


def best_scale(weights: Sequence[NDArray], moments: Moments, grid: Grid) -> NDArray | None:
    """s, float64 [K], of the least output error; None where no scaling is best. weights: [K, N] each, reading one x."""
    some = [w[:, :: max(1, w.shape[1] // COLUMNS)].astype(np.float32) for w in weights]
    mean_abs = np.maximum(moments.mean_abs, max(float(moments.mean_abs.max()) * 1e-4, 1e-12))
    best, kept = np.inf, None
    for step in range(STEPS):
        s = mean_abs ** (step / STEPS)
        s = s / np.sqrt(s.max() * s.min())
        loss = sum(_loss(w, s.astype(np.float32)[:, None], moments, grid) for w in some)
        if loss < best * (1 - 1e-3):
            best, kept = loss, s if step else None
    return kept


def _loss(w: NDArray, s: NDArray, moments: Moments, grid: Grid) -> float:
    """The squared error of the output, summed over the calibration data."""
    importance = moments.importance() / np.square(s[:, 0])
    off = quantize_matrix(w * s, grid, importance).real() / s - w
    return float(np.einsum("kn,kn->", off, moments.gram @ off))
