"""x w   ==   (x / s) (s w)      s_j = max |x_j|^alpha / max |w_j|^(1 - alpha)      for each channel j of x

SmoothQuant (Xiao et al. 2022, arXiv:2211.10438): an activation that is quantized with one scale loses its digits to its
largest channel, while weights have some to spare. The scales move that difficulty into the weights; all products that
read x (q, k and v) share one s. 1 / s goes into the constants that x is made of: the normalization before it, or the
columns of the weights before it. Exact in real arithmetic; computed in float64, rounded once.

alpha is chosen for each site, by the error to expect of int8 (uint8 x with one scale, weights with one a column), which
the ranges and the weights tell; a site that no alpha helps by `gain` stays. A tensor that was rescaled gets another
name, so that its old ranges are taken for no other's: calibrate again before static quantization.

Guards: float32; ranges of x with a low and a high for each channel of its last axis; weights that nobody else reads;
scales that find a place (or `explicit`: one Mul in front of the products, where others read x, too).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from graphopt.analysis.ranges import Ranges, TensorRange
from graphopt.analysis.shapes import ensure_types
from graphopt.ir import Graph, Model, NDArray, Node, Value
from graphopt.passes.base import Pass
from graphopt.passes.quantize._dynamic import Product, find_product
from graphopt.passes.quantize._ranges import ranges_of
from graphopt.passes.quantize._select import selected
from graphopt.passes.quantize._smooth import Fold, fold_back
from graphopt.rewrite import Context
from graphopt.rewrite.builder import Builder
from graphopt.rewrite.driver import site_of
from graphopt.rewrite.sweep import is_opaque

NAME = "smooth-quant"
ALPHAS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
GAIN = 1.3
PEAK = 9.0  # largest square over mean square of a channel, about: that of a normal distribution's 3 sigma


@dataclass(frozen=True)
class SmoothQuant(Pass):
    """Moves outliers of activations into the weights of the products that read them, before quantization.

    ranges: of the model as it is, per channel, as a file or `Ranges`. alpha: how much of the difficulty moves, 0 to 1;
    negative: what is best for each site. only, keep_float: patterns of the products' names. explicit: puts a Mul where
    no constant can take the scales. gain: how many times smaller the expected error must become.

    >>> str(SmoothQuant(ranges="ranges.json", explicit=True))
    "smooth-quant{ranges='ranges.json',explicit=true}"
    """

    name = NAME
    needs_ranges = True
    ranges: Any = ""
    alpha: float = -1.0
    only: str = "*"
    keep_float: str = ""
    explicit: bool = False
    gain: float = GAIN

    def run(self, model: Model, ctx: Context) -> None:
        """Rescales site after site."""
        found = ranges_of(self.ranges)
        ensure_types(model)
        for graph in list(model.scopes(functions=False)):
            if not is_opaque(graph):
                for x, products in list(_sites(graph, self.only, self.keep_float).items()):
                    self._visit(x, products, found, ctx)

    def _visit(self, x: Value, products: list[Product], found: Ranges, ctx: Context) -> None:
        first = products[0].node
        spread = _channels(found.get(x.name), products)
        reason = spread if isinstance(spread, str) else _why_not(products)
        if isinstance(spread, str) or reason:
            ctx.refuse(NAME, reason, first)
            return
        scale = self._scale(*spread, products)
        if scale is None:
            ctx.refuse(NAME, "no scales would make the error of int8 much smaller", first)
            return
        folds = fold_back(x, scale, {p.node for p in products})
        if isinstance(folds, str) and not self.explicit:
            ctx.refuse(NAME, folds, first)
        elif ctx.allow(NAME, site_of(first)):
            _rewrite(x, products, scale, None if isinstance(folds, str) else folds, ctx)

    def _scale(self, low: NDArray, high: NDArray, products: list[Product]) -> NDArray | None:
        matrices, spread = [_matrix(p) for p in products], np.maximum(np.abs(low), np.abs(high))
        rows = np.max([np.abs(w).max(axis=1) for w in matrices], axis=0).astype(np.float64)
        plain = expected_error(low, high, np.ones_like(low), matrices)
        best: tuple[float, NDArray | None] = (plain / self.gain, None)
        for alpha in ALPHAS if self.alpha < 0 else (self.alpha,):
            scale = smooth_scale(spread, rows, alpha)
            error = expected_error(low, high, scale, matrices)
            if error < best[0]:
                best = error, scale
        return best[1]


def smooth_scale(spread: NDArray, rows: NDArray, alpha: float) -> NDArray:
    """What to divide each channel of x by: from max |x_j| and max |w_j|, both float64 of shape (channels,). Channels
    that are always 0, or have no weights, keep theirs. The geometric mean of the rest is 1.

    >>> import numpy as np
    >>> smooth_scale(np.array([100.0, 1.0]), np.array([1.0, 1.0]), 0.5).round(3).tolist()
    [3.162, 0.316]
    """
    live = (spread > 0) & (rows > 0)
    logs = alpha * np.log(np.where(live, spread, 1.0)) - (1 - alpha) * np.log(np.where(live, rows, 1.0))
    middle = logs[live].mean() if live.any() else 0.0
    return np.asarray(np.where(live, np.exp(np.clip(logs - middle, -20.0, 20.0)), 1.0))


def expected_error(low: NDArray, high: NDArray, scale: NDArray, matrices: list[NDArray]) -> float:
    """The mean square error to expect of the products in int8, to compare scales by. low, high: of each channel."""
    x = np.maximum(np.abs(low), np.abs(high)) / scale
    width = max(0.0, float((high / scale).max(initial=0.0))) - min(0.0, float((low / scale).min(initial=0.0)))
    step = (width / 255) ** 2 / 12
    total = 0.0
    for w in matrices:
        scaled = w * scale.astype(np.float32)[:, None]
        steps = (np.abs(scaled).max(axis=0, initial=0.0).astype(np.float64) / 127) ** 2 / 12
        total += step * float(np.square(scaled).sum(dtype=np.float64)) + float((x**2).sum() / PEAK * steps.sum())
    return total


def _sites(graph: Graph, only: str, keep_float: str) -> dict[Value, list[Product]]:
    sites: dict[Value, list[Product]] = {}
    for node in graph:
        found = find_product(node) if node.op in ("MatMul", "Gemm") and selected(node, only, keep_float) else None
        if isinstance(found, Product):
            sites.setdefault(found.x, []).append(found)
    return sites


def _matrix(product: Product) -> NDArray:
    """The weights as (inputs, outputs)."""
    array = product.weights.value.numpy()
    return array.T if product.weights.turned else array


def _channels(found: TensorRange | None, products: list[Product]) -> tuple[NDArray, NDArray] | str:
    """The least and the largest x_j of each channel, or why they are not known."""
    x, channels = products[0].x, products[0].weights.shape[0]
    if found is None:
        return "no range is known of the activation: calibrate this model"
    low, high, axis = found.channel_low, found.channel_high, found.channel_axis
    last = (-1, x.rank - 1) if x.rank else (-1,)
    if low is None or high is None or axis not in last or low.shape != (channels,):
        return "no range is known of each channel of the activation's last axis: calibrate per channel"
    return low.astype(np.float64), high.astype(np.float64)


def _why_not(products: list[Product]) -> str:
    nodes = {p.node for p in products}
    if any(user not in nodes for p in products for user in p.weights.value.users):
        return "others read the weights, too"
    return ""


def _rewrite(x: Value, products: list[Product], scale: NDArray, folds: list[Fold] | None, ctx: Context) -> None:
    nodes = [p.node for p in products]
    graph, made = nodes[0].graph, []
    for value in dict.fromkeys(p.weights.value for p in products):
        turned = next(p.weights.turned for p in products if p.weights.value is value)
        factor = scale if turned else scale[:, None]
        array = (value.numpy().astype(np.float64) * factor).astype(value.numpy().dtype)
        _put([(node, place) for node in value.users for place, v in enumerate(node.inputs) if v is value], value, array)
    if folds is None:
        new = Builder(graph, nodes[0], NAME, nodes)
        inverse = new.constant((1.0 / scale).astype(np.float32), f"{x.name}_smooth")
        smooth = new.Mul(x, inverse, name=f"{x.name}_smooth", type_of=x)
        for node in nodes:
            node.set_input(0, smooth)
        made = new.nodes
    for fold in folds or ():
        old = fold.node.inputs[fold.index]
        assert old is not None
        _put([(fold.node, fold.index)], old, fold.array)
    if folds is not None:
        graph.rename(x, graph.model.fresh(f"{x.name}_smooth"))  # its ranges no longer hold
    ctx.record(NAME, [n.label for n in nodes], [n.label for n in [*made, *nodes]], graph)


def _put(places: list[tuple[Node, int]], old: Value, array: NDArray) -> None:
    """Gives operands another constant; the old one goes if nothing else reads it."""
    value = old.graph.constant(array, old.name)
    for node, place in places:
        node.set_input(place, value)
    if not old.users and not old.outs and old.tensor is not None:
        old.graph.erase_initializer(old)
