"""Cross-layer equalization: f(W1 x + b1) then W2   ==   f(W1/s x + b1/s) then W2 s     for f(a/s) == f(a)/s

Per channel between the two, s > 0. Weights with one scale for the whole tensor lose the channels that are small; s is
chosen so that each channel takes as large a part of W1's range as of W2's (Nagel, van Baalen, Blankevoort, Welling,
"Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019, arXiv:1906.04721, section 4.1). The
best s of neighbouring pairs hang together and are found by repetition, on the weights alone.

With s a power of two, which is the default, no number of the model is rounded: every sum is made of the same terms,
times s. It costs nothing measurable against any s, as a factor of at most sqrt(2) is lost on either side
(docs/quantization-accuracy.md).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphopt.analysis.shapes import ensure_types
from graphopt.errors import PassError
from graphopt.ir import Graph, Model, NDArray, Node, Value
from graphopt.passes.base import Pass
from graphopt.passes.quantize._layers import Layer, drop_constant, layer_of
from graphopt.passes.quantize._ranges import ranges_of
from graphopt.passes.quantize._select import selected
from graphopt.rewrite import Context
from graphopt.rewrite.driver import site_of
from graphopt.rewrite.sweep import is_opaque

NAME = "equalize"
ELEMENTWISE = frozenset(("Relu", "LeakyRelu", "Identity", "Dropout"))
POOLS = frozenset(("MaxPool", "AveragePool", "GlobalMaxPool", "GlobalAveragePool"))
WIDEST = 2.0**24  # no s goes beyond it, or below its inverse
CHANGE = 0.6  # log2 s of the channel that changes most, from which on a pair is rewritten


@dataclass(frozen=True, eq=False)
class Pair:
    """A layer, what lies between, and the layers that read it. s: what channels are divided by in between."""

    first: Layer
    between: tuple[Node, ...]
    readers: tuple[Layer, ...]
    s: NDArray

    @property
    def value(self) -> Value:
        """What the readers read."""
        return self.between[-1].output if self.between else self.first.node.output


@dataclass(frozen=True)
class Equalize(Pass):
    """Scales channels between layers so that their weights (or activations) quantize with less error.

    by: "weights", for weights with one scale a tensor (arXiv:1906.04721); "activations", by the ranges of channels,
    for weights with one scale a channel. ranges: a file's path or Ranges, for the latter. powers_of_two: of s, so that
    nothing is rounded. only, keep_float: patterns of the first layer's label. rounds: of the search, at the most.

    Tensors between the layers get new names, as ranges that were calibrated before are theirs no more.
    """

    name = NAME
    by: str = "weights"
    ranges: Any = ""
    powers_of_two: bool = True
    only: str = "*"
    keep_float: str = ""
    rounds: int = 60

    def run(self, model: Model, ctx: Context) -> None:
        """Finds all pairs of a graph, solves for all s, and rewrites pair by pair."""
        if self.by not in ("weights", "activations"):
            raise PassError(f"equalize goes by 'weights' or 'activations', not {self.by!r}")
        ensure_types(model)
        for graph in list(model.scopes(functions=False)):
            if is_opaque(graph):
                continue
            pairs = [pair for pair in _pairs(graph, ctx) if selected(pair.first.node, self.only, self.keep_float)]
            pairs = self._solved(pairs, ctx)
            for pair in pairs:
                if ctx.allow(NAME, site_of(pair.first.node)):
                    _rewrite(pair, ctx)

    def _solved(self, pairs: list[Pair], ctx: Context) -> list[Pair]:
        if self.by == "weights":
            _by_weights(pairs, self.rounds)
        elif pairs:
            found = ranges_of(self.ranges)
            kept = []
            for pair in pairs:
                known = found.get(pair.value.name)
                if known is None or known.channel_low is None or known.channel_high is None:
                    ctx.refuse(NAME, "the ranges say nothing of the channels behind it", pair.first.node)
                elif known.channel_high.size != pair.s.size:
                    ctx.refuse(NAME, "the ranges are of another number of channels", pair.first.node)
                else:
                    _by_activations(pair, np.maximum(np.abs(known.channel_low), np.abs(known.channel_high)))
                    kept.append(pair)
            pairs = kept
        return [pair for pair in pairs if _settled(pair, self.powers_of_two, ctx)]


def _pairs(graph: Graph, ctx: Context) -> Iterator[Pair]:
    for node in graph:
        first = layer_of(node)
        if first is None:
            continue
        found = _follow(first)
        if isinstance(found, str):
            ctx.refuse(NAME, found, node)
        else:
            yield Pair(first, *found, np.ones(first.outs))


def _follow(first: Layer) -> tuple[tuple[Node, ...], tuple[Layer, ...]] | str:
    """From a layer to those that read its output, or why that cannot be scaled."""
    between: list[Node] = []
    value = first.node.output
    if not _scalable(first):
        return "its bias is no constant for each channel"
    while True:
        if value.is_output or any(reader.graph is not value.graph for reader in value.users):
            return "what it computes is an output, or read by a body"
        layers = [layer_of(reader) for reader in value.users]
        if layers and all(la is not None and la.x is value and value.users[la.node] == 1 for la in layers):
            readers = tuple(layer for layer in layers if layer is not None)
            if any(r.ins != first.outs or r.channel_axis != first.channel_axis for r in readers):
                return "the layer behind it has its channels elsewhere"
            return tuple(between), readers
        node = next(iter(value.users), None)
        if node is None or len(value.users) > 1 or not _is_homogeneous(node, value, first):
            return f"behind it comes {node.op if node else 'nothing'}, which no scale passes through"
        between.append(node)
        value = node.output


def _scalable(layer: Layer) -> bool:
    bias = layer.bias
    return bias is None or (bias.is_const and bias.numpy().shape in ((layer.outs,), (1, layer.outs)))


def _is_homogeneous(node: Node, value: Value, first: Layer) -> bool:
    """Whether f(a / s) == f(a) / s, channel by channel, or f adds a constant that can be divided as well."""
    if node.op != "Add" and node.inputs[0] is not value:
        return False
    if node.domain or (len(node.outputs) > 1 and any(v.name for v in node.outputs[1:])):
        return False
    if node.op == "PRelu":
        slope = node.input(1)
        return slope is not None and slope.is_const
    if node.op == "Add":
        shift = node.inputs[_shift(node)]
        fits = shift is not None and shift.is_const and shift.numpy().shape == (first.outs,)
        return fits and first.channel_axis == -1
    if node.op == "Dropout":
        return node.input(2) is None
    return node.op in ELEMENTWISE or (node.op in POOLS and first.channel_axis == 1)


def _by_weights(pairs: list[Pair], rounds: int) -> None:
    """s = sqrt(r1 / r2), r being the largest weight of a channel on either side; again until none changes."""
    sizes = {layer.node: np.abs(layer.weight.numpy()) for pair in pairs for layer in (pair.first, *pair.readers)}
    for _ in range(rounds):
        moved = 0.0
        for pair in pairs:
            ahead = pair.first.largest_out(sizes[pair.first.node]).astype(np.float64)
            behind = np.maximum.reduce([r.largest_in(sizes[r.node]) for r in pair.readers]).astype(np.float64)
            step = _ratio(ahead, behind)
            moved = max(moved, float(np.abs(np.log2(step)).max()))
            pair.s[:] *= step
            sizes[pair.first.node] = sizes[pair.first.node] / pair.first.along_out(step)
            for reader in pair.readers:
                sizes[reader.node] = sizes[reader.node] * reader.along_in(step)
        if moved < 1e-3:
            break


def _by_activations(pair: Pair, largest: NDArray) -> None:
    """s = sqrt(a / r), a the largest activation of a channel, r its largest weight behind, as a part of the row's."""
    shares = []
    for reader in pair.readers:
        size = np.abs(reader.weight.numpy())
        rows = np.where(reader.largest_out(size) > 0, reader.largest_out(size), 1.0)
        shares.append(reader.largest_in(size / reader.along_out(rows)))
    pair.s[:] = _ratio(largest, np.maximum.reduce(shares).astype(np.float64))
    pair.s[:] /= np.exp2(np.round(np.log2(pair.s).mean()))


def _ratio(ahead: NDArray, behind: NDArray) -> NDArray:
    """sqrt(ahead / behind); 1 for a channel that is zero on one side."""
    live = (ahead > 0) & (behind > 0) & np.isfinite(ahead) & np.isfinite(behind)
    return np.where(live, np.sqrt(np.where(live, ahead, 1.0) / np.where(live, behind, 1.0)), 1.0)


def _settled(pair: Pair, powers_of_two: bool, ctx: Context) -> bool:
    """Brings s to what is applied; whether there is anything to gain."""
    logs = np.log2(np.clip(pair.s, 1 / WIDEST, WIDEST))
    if np.abs(logs).max() < CHANGE:
        ctx.refuse(NAME, "its channels are even already", pair.first.node)
        return False
    pair.s[:] = np.exp2(np.round(logs) if powers_of_two else logs)
    if powers_of_two and not _is_exact(pair):
        ctx.refuse(NAME, "some weights would leave the range of float32", pair.first.node)
        return False
    return True


def _is_exact(pair: Pair) -> bool:
    """Whether no weight or bias becomes so small, or so large, that digits are lost."""
    factors = [(pair.first.weight, 1 / pair.first.along_out(pair.s))]
    factors += [(pair.first.bias, 1 / pair.s)] if pair.first.bias is not None else []
    factors += [(reader.weight, reader.along_in(pair.s)) for reader in pair.readers]
    with np.errstate(over="ignore"):
        return all(
            np.array_equal((value.numpy() * factor).astype(np.float32) / factor, value.numpy())
            for value, factor in factors
        )


def _rewrite(pair: Pair, ctx: Context) -> None:
    node, graph = pair.first.node, pair.first.node.graph
    changed = [(node, 1, 1 / pair.first.along_out(pair.s))]
    if pair.first.bias is not None:
        changed.append((node, 2, 1 / pair.s))
    changed += [(add, _shift(add), 1 / pair.s) for add in pair.between if add.op == "Add"]
    changed += [(reader.node, 1, reader.along_in(pair.s)) for reader in pair.readers]
    for item, slot, factor in changed:
        old = item.inputs[slot]  # another pair may have changed it since
        assert old is not None
        item.set_input(slot, graph.constant((old.numpy() * factor).astype(np.float32), old.name))
        drop_constant(old)
    for value in (node.output, *(item.output for item in pair.between)):
        graph.rename(value, graph.model.fresh(f"{value.name}_equalized"))
    names = dict.fromkeys(item.label for item, _, _ in changed)
    ctx.record(NAME, names, names, graph)


def _shift(add: Node) -> int:
    """The slot of the constant that an Add adds."""
    return 1 if add.inputs[1] is not None and add.inputs[1].is_const else 0
