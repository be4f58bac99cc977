"""Where the scales of SmoothQuant go: into the constants that made the activation, back along its channels.

x / s, one s for each channel of the last axis, is had for nothing where x comes from a normalization's scale and bias,
from a product with constant weights (a column each), or from such through operators that keep channels apart: Add, Mul
and Div of constants, a gate's Mul, Relu, and the heads of an attention, whose channels are those of its values.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from graphopt.ir import NDArray, Node, Value

NORMS = {"LayerNormalization": (1, 2), "RMSNormalization": (1,), "SimplifiedLayerNormalization": (1,)}
SKIP_NORMS = {"SkipLayerNormalization": (2, 3), "SkipSimplifiedLayerNormalization": (2,)}
KEEPS_SIGN = ("Relu", "LeakyRelu", "PRelu", "Identity")  # f(x / s) == f(x) / s for positive s
LONGEST = 24
"""Operators to look back through."""


@dataclass(frozen=True)
class Fold:
    """A constant operand of a node, and what is to be in its place."""

    node: Node
    index: int
    array: NDArray


def fold_back(x: Value, scale: NDArray, readers: set[Node]) -> list[Fold] | str:
    """The changes of constants that divide x by these positive numbers (float64, one for each channel of the last
    axis), for the readers given; or why there are none."""
    if x.outs or any(user not in readers for user in x.users):
        return "others read the activation, too, as it is"
    folds: list[Fold] = []
    value: Value | None = x
    for _ in range(LONGEST):
        node = value.producer if value is not None else None
        if value is None or node is None or node.has_references:
            return "the activation is an input"
        if value is not x and (value.outs or len(value.users) != 1 or node.graph is not x.graph):
            return "what the activation is made of is read elsewhere"
        found = _end(node, value, scale)
        if found is not None:
            folds += found
            return folds if all(np.isfinite(fold.array).all() for fold in folds) else "a number would overflow"
        step = _back(node, scale)
        if step is None:
            return f"no constant before {node.op} can take the scales"
        folds += step[0]
        value = step[1]
    return "no constant is near that could take the scales"


def _end(node: Node, value: Value, scale: NDArray) -> list[Fold] | None:
    """The changes of a node that takes all of it, if it is one."""
    if node.op in ("MatMul", "Gemm") and not node.domain:
        return _columns(node, scale)
    if value.index == 0 and (node.op in NORMS or (node.domain and node.op in SKIP_NORMS)):
        return _norm(node, scale)
    if node.domain or node.op not in ("Mul", "Div"):
        return None
    places = list(_constants(node, scale))
    if len(places) != 1 or (node.op == "Div" and places[0] != 1):
        return None
    return [_elementwise(node, places[0], scale if node.op == "Div" else 1.0 / scale)]


def _norm(node: Node, scale: NDArray) -> list[Fold] | None:
    if node.op in NORMS and node.attr("axis", -1) not in (-1, (node.inputs[0].rank or 0) - 1 if node.inputs[0] else -1):
        return None
    if any(v.users or v.outs for v in node.outputs[1:]) and node.op not in SKIP_NORMS:
        return None
    folds = []
    for place in NORMS.get(node.op) or SKIP_NORMS[node.op]:
        operand = node.input(place)
        if operand is None:
            continue
        if not operand.is_const or operand.shape != scale.shape:
            return None
        folds.append(Fold(node, place, _divided(operand.numpy(), scale)))
    return folds or None


def _columns(node: Node, scale: NDArray) -> list[Fold] | None:
    weight, bias = node.input(1), node.input(2) if node.op == "Gemm" else None
    if weight is None or not weight.is_const or weight.rank != 2 or (bias is not None and not bias.is_const):
        return None
    turned = node.op == "Gemm" and bool(node.attr("transB", 0))
    if weight.numpy().shape[0 if turned else 1] != len(scale):
        return None
    folds = [Fold(node, 1, _divided(weight.numpy(), scale[:, None] if turned else scale))]
    if bias is not None:
        folds.append(_elementwise(node, 2, 1.0 / scale))
    return folds


def _back(node: Node, scale: NDArray) -> tuple[list[Fold], Value | None] | None:
    """The changes of a node that shares the scales with what it reads, and that operand."""
    if node.op == "MultiHeadAttention" and node.domain:
        v = node.input(2)
        return ([], v) if v is not None and v.shape and v.shape[-1] == len(scale) else None
    if node.domain:
        return None
    if node.op in KEEPS_SIGN:
        return [], node.inputs[0]
    if node.op in ("Add", "Sub"):
        places = list(_constants(node, scale))
        return ([_elementwise(node, places[0], 1.0 / scale)], node.inputs[1 - places[0]]) if len(places) == 1 else None
    if node.op == "Mul":
        factors = [v for v in node.inputs if v is not None and _is_wide(v, scale) and _ends_well(v)]
        return ([], factors[-1]) if factors else None
    if node.op == "Reshape":
        return _heads(node, scale)
    return None


def _ends_well(value: Value) -> bool:
    """Whether what makes a factor is linear, as a guess at which of two factors takes scales."""
    node = value.producer
    return node is not None and node.op in ("MatMul", "Gemm", "Add", "Mul", "LayerNormalization")


def _is_wide(value: Value, scale: NDArray) -> bool:
    return bool(value.shape) and value.shape[-1] == len(scale)  # type: ignore[index]


def _heads(merge: Node, scale: NDArray) -> tuple[list[Fold], Value | None] | None:
    """Reshape(Transpose(softmax v)), v = Transpose(Reshape(u)): the channels of u are those of the result."""
    chain: list[Node] = [merge]
    for op, place in (("Transpose", 0), ("MatMul", 0), ("Transpose", 1), ("Reshape", 0)):
        value = chain[-1].inputs[place]
        node = value.producer if value is not None else None
        if value is None or node is None or node.op != op or node.domain or value.outs or len(value.users) != 1:
            return None
        chain.append(node)
    _, back, _, front, split = chain
    shapes = [back.output.shape, split.output.shape]
    if any(list(node.attr("perm", [])) != [0, 2, 1, 3] for node in (back, front)):
        return None
    if any(shape is None or len(shape) != 4 or shape[2] * shape[3] != len(scale) for shape in map(_sized, shapes)):
        return None
    u = split.inputs[0]
    same = _sized(shapes[0])[2:] == _sized(shapes[1])[2:]  # type: ignore[index]
    return ([], u) if same and u is not None and _is_wide(u, scale) and _is_wide(merge.output, scale) else None


def _sized(shape: tuple[int | str | None, ...] | None) -> tuple[int, ...] | None:
    """The dims, -1 for those not known."""
    return None if shape is None else tuple(d if isinstance(d, int) else -1 for d in shape)


def _constants(node: Node, scale: NDArray) -> Iterator[int]:
    """Which operands of an elementwise node are constants that spread along the channels."""
    for place, value in enumerate(node.inputs):
        other = node.inputs[1 - place]
        if value is None or not value.is_const or other is None or not _is_wide(other, scale):
            continue
        shape = value.numpy().shape
        if not shape or shape[-1] in (1, len(scale)):
            yield place


def _elementwise(node: Node, place: int, factor: NDArray) -> Fold:
    value = node.inputs[place]
    assert value is not None
    array = value.numpy()
    return Fold(node, place, (array.astype(np.float64) * factor).astype(array.dtype))


def _divided(array: NDArray, scale: NDArray) -> NDArray:
    return (array.astype(np.float64) / scale).astype(array.dtype)
