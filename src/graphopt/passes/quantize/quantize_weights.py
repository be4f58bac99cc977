"""x W   ~   x W',   W' = (codes - zero) * scale in blocks of a few bits

Only the weights are quantized: they take a quarter to an eighth, activations stay float in the graph. Two forms:

* "dequantize", standard ONNX: DequantizeLinear, then the product as it was. int8 per channel (block_size 0) from opset
  13, blocks and 4 bits from 21. ONNX Runtime would turn it into MatMulNBits with *activations in int8*, and tell
  nobody; so the axis is counted from the end, which it leaves alone (see avoid-dequantize-matmul). Then it dequantizes
  on each run, which is slow there: this form saves space, not time.
* "matmulnbits", ONNX Runtime only: one operator, with its accuracy_level in the graph and in the report. 0 and 1 keep
  activations float32, 4 rounds them to int8 in blocks.

Methods: "rtn" rounds to nearest, "gptq" compensates errors (`_gptq`), "awq" scales channels (`_awq`); the last two want
`statistics`, see `graphopt.calibration.gram.weight_statistics`. By default a block's range gives its scale, as in ONNX
Runtime's quantizer; `search` looks for the scale of least error (`_rtn`), weighted by the statistics if given.
docs/weight-only.md has figures.

Guards: MatMul or Gemm with a constant matrix of float32 or float16, finite, with enough weights for it to pay;
MatMulNBits with zero points and accuracy_level 4 where the weight is in the same scope, since ONNX Runtime 1.23
computes without the zero points of an outer one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from graphopt.analysis.shapes import ensure_types
from graphopt.errors import GraphoptError
from graphopt.ir import Model, Node, Value
from graphopt.passes.base import Pass
from graphopt.passes.quantize import _awq
from graphopt.passes.quantize._blocks import Blocks
from graphopt.passes.quantize._emit import Packed, emit, why_not
from graphopt.passes.quantize._gptq import Factor, compensate, factor_of
from graphopt.passes.quantize._products import Product, products
from graphopt.passes.quantize._rtn import Grid, quantize_matrix
from graphopt.rewrite import Context
from graphopt.rewrite.driver import site_of
from graphopt.rewrite.sweep import sweep

if TYPE_CHECKING:
    from graphopt.calibration.gram import Moments, Statistics

NAME = "quantize-weights"
SCALES = "awq-scales"
LEAST = 4096
"""Weights of a product below which scales and nodes take what the codes save."""


@dataclass(frozen=True)
class QuantizeWeights(Pass):
    """Makes constant weights of products integers of 8 or 4 bits; activations stay float.

    bits: 8 or 4. block_size: weights that share a scale, a power of two from 16; 0: all of a column. method: "rtn",
    "gptq" or "awq". symmetric: no zero points. format: "dequantize" or "matmulnbits". accuracy_level: of MatMulNBits, 0
    to 4. search: scales of least error of the weights, rather than by range. statistics: a path or a Statistics, for
    gptq and awq. damping, act_order: of gptq. only, keep_float: patterns of node names. embeddings: tables of Gather,
    too. least: weights that a product must have.
    """

    name = NAME
    lossy = True
    checked_as: ClassVar[Mapping[str, Any]] = {"least": 0, "bits": 8, "block_size": 0}
    bits: int = 4
    block_size: int = 32
    method: str = "rtn"
    symmetric: bool = False
    format: str = "dequantize"
    accuracy_level: int = 4
    search: bool = False
    statistics: Any = ""
    damping: float = 0.01
    act_order: bool = False
    only: str = "*"
    keep_float: str = ""
    embeddings: bool = False
    least: int = LEAST

    def run(self, model: Model, ctx: Context) -> None:
        """Quantizes weight after weight. Raises GraphoptError for options that make no sense, or lack statistics."""
        self._check()
        ensure_types(model)
        work = _Work(self, ctx, self._statistics())
        for node, found in products(model, self.only, self.keep_float):
            reason = found if isinstance(found, str) else self._why_not(found, ctx.target)
            if reason:
                ctx.refuse(NAME, reason, node)
            else:
                assert isinstance(found, Product)
                work.readers.setdefault((found.weight, found.turned), []).append(found)
        for graph in dict.fromkeys(found.node.graph for group in work.readers.values() for found in group):
            graph.ensure_sorted()
        if self.method == "awq":
            work.scale_channels()
        for group in list(work.readers.values()):
            work.quantize(group)
            model.store.forget_pages()
        if self.embeddings:
            from graphopt.passes.quantize._embeddings import quantize_tables

            quantize_tables(model, ctx, self)
        if work.count and self.format == "matmulnbits":
            ctx.report.warn(
                f"{NAME}: {work.count} MatMulNBits with accuracy_level {self.accuracy_level}: {self._says()}"
            )

    def _says(self) -> str:
        return "activations are rounded to int8, in blocks" if self.accuracy_level == 4 else "activations stay float"

    def _check(self) -> None:
        size = self.block_size
        faults = {
            "bits is 4 or 8": self.bits not in (4, 8),
            'method is "rtn", "gptq" or "awq"': self.method not in ("rtn", "gptq", "awq"),
            'format is "dequantize" or "matmulnbits"': self.format not in ("dequantize", "matmulnbits"),
            "accuracy_level is 0 to 4": not 0 <= self.accuracy_level <= 4,
            "block_size is a power of two from 16, or 0": size != 0 and (size < 16 or size & (size - 1) != 0),
            "MatMulNBits has blocks: block_size is not 0": self.format == "matmulnbits" and size == 0,
            "damping is positive": not self.damping > 0,
        }
        for rule, broken in faults.items():
            if broken:
                raise GraphoptError(f"{NAME}: {rule}")

    def _statistics(self) -> Statistics | None:
        from graphopt.calibration.gram import Statistics

        given = self.statistics
        if isinstance(given, str) and given:
            return Statistics.load(given)
        if isinstance(given, Statistics):
            return given
        if self.method != "rtn":
            raise GraphoptError(
                f"{NAME}: {self.method} goes by statistics of the activations and got none; make them with "
                "graphopt.calibration.gram.weight_statistics(model, feeds, path='FILE') and pass statistics='FILE'"
            )
        return None

    def _why_not(self, found: Product, target: str) -> str:
        rows, columns = found.shape
        if rows * columns < max(1, self.least):
            return f"it has {rows * columns} weights, too few to pay"
        return why_not(found, self, target)


@dataclass
class _Work:
    """One run. readers: the products of each weight. factors: what AWQ divided an activation by."""

    options: QuantizeWeights
    ctx: Context
    statistics: Statistics | None
    readers: dict[tuple[Value, bool], list[Product]] = field(default_factory=dict)
    factors: dict[str, Any] = field(default_factory=dict)
    count: int = 0
    last: tuple[frozenset[str], Factor] | None = None

    def moments(self, group: list[Product]) -> Moments | None:
        """Of all that the products of a weight read; None where some of it was not observed."""
        if self.statistics is None:
            return None
        total: Moments | None = None
        if any(found.x.graph.parent is not None or found.x.graph.in_function for found in group):
            return None
        for name in dict.fromkeys(found.reads for found in group):
            if name not in self.statistics:
                return None
            seen = self.statistics[name]
            if seen.gram.shape[0] != group[0].shape[0]:
                raise GraphoptError(f"the statistics of {name} are of another model: collect them again")
            if name in self.factors:
                seen = seen.scaled(1 / self.factors[name])
            total = seen if total is None else total.plus(seen)
        return total

    def quantize(self, group: list[Product]) -> None:
        """Quantizes one weight and rewrites its products."""
        sites = [found for found in group if self.ctx.allow(NAME, site_of(found.node))]
        if not sites:
            return
        moments = self.moments(group)
        unseen = moments is None and self.options.method == "gptq"
        unsound = not unseen and not np.isfinite(group[0].weight.numpy()).all()
        if unseen or unsound:
            for found in sites:
                why = "the weights hold infinities or NaN" if unsound else _unseen(found.reads)
                self.ctx.refuse(NAME, why, found.node)
            return
        packed = Packed(group[0].weight, self.options.format)
        for found in sites:
            if not self.ctx.allow(NAME, site_of(found.node)):
                break
            old = found.node.inputs[1]
            label, graph = found.node.label, found.node.graph
            made = emit(found, packed.of(found, lambda p: self.blocks(p, moments)), self.options, self.ctx.target)
            self.ctx.record(NAME, [label], made, graph)
            self.count += 1
            if old is not None and old.producer is not None:
                sweep(old.producer)
        _awq.drop(group[0].weight)

    def blocks(self, found: Product, moments: Moments | None) -> Blocks:
        """The integers of a weight."""
        options, matrix = self.options, found.matrix()
        grid = self.grid(found)
        if options.method == "gptq" and moments is not None:
            return compensate(matrix, self._factor_of(self.readers[found.weight, found.turned], moments), grid)
        importance = None if moments is None else moments.importance()
        return quantize_matrix(matrix, grid, importance)

    def _factor_of(self, group: list[Product], moments: Moments) -> Factor:
        """Found once for the products that read the same, as those for queries, keys and values do."""
        inputs = frozenset(found.reads for found in group)
        if self.last is None or self.last[0] != inputs:
            self.last = inputs, factor_of(moments.gram, self.options.damping, self.options.act_order)
        return self.last[1]

    def grid(self, found: Product) -> Grid:
        """What the integers of a product's weight may be."""
        options = self.options
        size = options.block_size or found.shape[0]
        return Grid(options.bits, size, options.symmetric, options.search, options.format == "dequantize")

    def scale_channels(self) -> None:
        """Moves factors of channels between activations and weights, last products first."""
        by_input: dict[Value, list[Product]] = {}
        for group in self.readers.values():
            for found in group:
                by_input.setdefault(found.x, []).append(found)
        for x, readers in reversed(by_input.items()):
            why = self._scale(x, readers)
            if why:
                for found in readers:
                    self.ctx.refuse(SCALES, why, found.node)

    def _scale(self, x: Value, readers: list[Product]) -> str:
        moments = self.moments(readers)
        if moments is None:
            return _unseen(x.name)
        edits = _awq.places(x, [found.node for found in readers], readers[0].shape[0])
        if isinstance(edits, str):
            return edits
        if any(len(found.weight.users) != 1 or found.weight is not found.node.inputs[1] for found in readers):
            return "its weight is shared"
        matrices = [found.matrix() for found in readers]
        s = _awq.best_scale(matrices, moments, self.grid(readers[0]))
        if s is None:
            return "no scaling is better than none"
        if not self.ctx.allow(SCALES, x.name):
            return ""
        self._fold(x, readers, edits, s)
        return ""

    def _fold(self, x: Value, readers: list[Product], edits: list[_awq.Edit], s: Any) -> None:
        touched = list(dict.fromkeys([edit.node for edit in edits] + [found.node for found in readers]))
        weights = [_awq.Edit(found.node, 1, not found.turned) for found in readers]
        _awq.apply(edits, s)
        _awq.apply(weights, 1 / s)
        self.factors[readers[0].reads] = s
        self._renew(touched)
        labels = [node.label for node in touched]
        self.ctx.record(SCALES, labels, labels, x.graph)

    def _renew(self, nodes: list[Node]) -> None:
        """The weights of these products are other constants now."""
        for key, group in list(self.readers.items()):
            if any(found.node in nodes for found in group):
                del self.readers[key]
                for found in group:
                    weight = found.node.inputs[1] if found.node in nodes else found.weight
                    assert weight is not None
                    fresh = Product(found.node, weight, found.turned, found.reads)
                    self.readers.setdefault((weight, found.turned), []).append(fresh)


def _unseen(name: str) -> str:
    return f"there are no statistics of its input {name}"
