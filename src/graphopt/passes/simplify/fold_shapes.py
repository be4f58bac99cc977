"""Shape computations that come out as numbers, or as something that is there already.

Dims are carried through Shape, Gather, Slice, Concat, arithmetic, comparisons and the like as numbers and expressions
in the symbols of the inputs (a symbol is one size, at least 0; at least 1 where the model fails for 0). Then

- a tensor whose elements are all known   ==   a constant;
- a tensor with the same elements as one computed before   ==   that one;
- Reshape(x, s)   ==   Reshape(x, constant) where all but one of the elements are numbers or the dim of x at that place;
- Expand(x, s)   ==   x where no dim grows, else with 1 for each dim that stays;
- Slice(x, starts, ends)   ==   constant starts and ends, where an end is the dim itself.

Guards: a -1 is made only next to positive numbers (next to a dim of size 0 it is an error), a written size that may be
0 at run time is no size (it copies a dim); what is returned stays.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import TensorProto, helper

from graphopt.analysis.local import is_made_up, tells_more
from graphopt.analysis.shapes import ensure_types, note_news
from graphopt.analysis.sizes import dims as _dims
from graphopt.analysis.sizes import lists as _lists
from graphopt.analysis.sizes.facts import Facts, List
from graphopt.analysis.sizes.interface import keep
from graphopt.analysis.sizes.poly import Size, TooLarge
from graphopt.ir import Dim, Graph, Model, NDArray, Node, Value
from graphopt.ir.provenance import mark, mark_tensor, origin_of_all
from graphopt.passes.base import Pass
from graphopt.passes.simplify._facts import normalize, option, vector
from graphopt.rewrite import Context
from graphopt.rewrite.sweep import is_opaque, sweep

NAME = "fold-shapes"
ALL = np.iinfo(np.int64).max
SOURCES = ("Shape", "Size")  # where sizes come from
_ROUNDS = 8


@dataclass(frozen=True)
class FoldShapes(Pass):
    """Computes shapes ahead of time, symbolic ones included.

    nonempty: take every symbolic dim of the model's inputs to be at least 1. Nothing may then be fed with a size of 0.
    """

    name = NAME
    nonempty: bool = False

    def run(self, model: Model, ctx: Context) -> None:
        """Goes through every scope, and again where that made more shapes known."""
        for number in range(_ROUNDS):
            graphs = [graph for graph in model.scopes(functions=False) if not is_opaque(graph)]
            if not any(node.op in SOURCES for graph in graphs for node in graph):
                _refresh(model)
                return  # what depends on constants alone is for constant folding
            ensure_types(model)
            facts, count, known = Facts(model, self.nonempty), ctx.count, model.facts["types"]
            visited: set[Node] = set()
            for graph in graphs:
                _Scope(graph, facts, ctx, visited).run()
            done = known == model.version and not number
            news = [] if done else _tell(model, graphs, facts)  # the last inference knew less
            if not self.nonempty:
                keep(model, facts, visited)  # rules ask the same
            again = facts.settle_claims(model)
            if done and not again:
                return
            if (not number or ctx.count != count) and tells_more(model, _changed(model, known, news, facts)):
                model.facts.pop("types", None)  # more can be inferred now
                continue
            model.facts["types"] = model.version
            if not again:
                return


def _refresh(model: Model) -> None:
    """Each round of a preset begins with this pass: what the last round changed may tell shapes that were not known."""
    known = model.facts.get("types")
    if known in (None, model.version):
        return
    nodes = [node for node in model.graph.edits_since(known) if _may_tell(node)]
    if tells_more(model, nodes):
        ensure_types(model, fresh=True)


def _changed(model: Model, version: int, news: list[Value], facts: Facts) -> list[Node]:
    """The nodes that were edited since types were inferred, and those that read values of which more is known; but
    not those of which all is known here."""
    nodes = dict.fromkeys(model.graph.edits_since(version))
    for value in news:
        nodes.update(dict.fromkeys(value.users))
        if value.outs and value.graph.owner is not None:
            nodes[value.graph.owner] = None
    return [node for node in nodes if not all(facts.is_settled(value) for value in node.outputs if value.name)]


def _may_tell(node: Node) -> bool:
    """Whether inference may find more now: a node of unknown rank, or of unknown dims that reads constant sizes."""
    shapes = [value.shape for value in node.outputs if value.name]
    if all(shape is not None and not any(dim is None or is_made_up(dim) for dim in shape) for shape in shapes):
        return False
    sizes = any(v is not None and v.is_const and v.dtype == TensorProto.INT64 for v in node.inputs)
    return sizes or None in shapes


def _tell(model: Model, graphs: Sequence[Graph], facts: Facts) -> list[Value]:
    """Gives values the shapes that became known here; returns those of which inference may now make more: a rank, a
    size or a symbol of the inputs is new, not just a better name."""
    news, renamed = [], False
    for graph in graphs:
        for node in graph:
            for value in node.outputs:
                shape = value.shape
                if shape is not None and all(isinstance(dim, int) or dim in facts.given for dim in shape):
                    continue
                sizes = facts.dims(value)
                if sizes is None:
                    continue
                before = shape or (None,) * len(sizes)
                spelled = [_spelled(size, facts) for size in sizes]
                after = tuple([old if new is None else new for old, new in zip(before, spelled, strict=True)])
                if after == shape:
                    continue
                value.set_shape(after)
                renamed = True
                if shape is None or any(o != n and not is_made_up(n) for o, n in zip(shape, after, strict=True)):
                    news.append(value)
    if renamed:
        note_news(model)
    return news


def _spelled(size: Size, facts: Facts) -> Dim:
    """A size as a dim: a number, a symbol of the inputs, one of inference (which makes up none twice), or nothing that
    another run could take for something else."""
    if isinstance(size, int):
        return size
    (symbols, factor), *more = size.terms
    if not more and factor == 1 and len(symbols) == 1 and (symbols[0] in facts.given or is_made_up(symbols[0])):
        return symbols[0]
    return facts.spelled.get(size)


class _Scope:
    def __init__(self, graph: Graph, facts: Facts, ctx: Context, visited: set[Node]):
        self.graph, self.facts, self.ctx, self.visited = graph, facts, ctx, visited
        self.seen: dict[Any, Value] = {}  # elements and dtype -> the first value that has them

    def run(self) -> None:
        for node in self.graph:
            if not node.alive or not node.outputs:
                continue
            self.visited.add(node)
            _dims.visit(node, self.facts)
            _lists.visit(node, self.facts)
            found = self.facts.lists.get(node.output)
            if found is not None and self.settle(node, found):
                continue
            change = _READERS.get(node.op)
            if change is not None and not node.domain and self.ctx.allow(NAME, node.output.name):
                try:
                    change(self, node)
                except TooLarge:
                    self.ctx.refuse(NAME, "its sizes are polynomials with too many terms", node)

    def settle(self, node: Node, found: List) -> bool:
        """A constant, or the same as before; whether the node went away."""
        value = node.output
        if value.outs or node.op in ("Constant", "Identity") or found.known is None:
            return False
        if not self.ctx.allow(NAME, value.name):
            return False
        numbers = found.numbers
        key = (found, value.dtype)
        known = self.seen.get(key)
        if numbers is not None:
            dtype = helper.tensor_dtype_to_np_dtype(value.dtype or TensorProto.INT64)
            array = np.array(numbers[0] if found.is_scalar else numbers, dtype)
            self.replace(node, self.constant(node, array, value.name))
        elif known is not None and (known.producer is None or known.producer.alive):
            self.replace(node, known)
        else:
            self.seen[key] = value
            return False
        return True

    def constant(self, node: Node, array: NDArray, hint: str) -> Value:
        """A constant that stands for something a node made, or reads."""
        value, origin = self.graph.constant(array, hint), origin_of_all([node], NAME)
        if value.tensor is not None:
            mark_tensor(value.tensor.proto, origin)
        elif value.producer is not None:
            mark(value.producer, origin)
        return value

    def replace(self, node: Node, new: Value) -> None:
        label, old = node.label, node.output
        if old.users or old.outs:
            self.ctx.claim((old, new))
            old.replace_with(new)
            self.ctx.record(NAME, [label], [new.name], self.graph)
        sweep(node)

    def operand(self, node: Node, slot: int, sizes: Sequence[Any], forget: str = "") -> None:
        """Constant sizes for a node, in place of computed ones. forget: an attribute that must go."""
        old = node.inputs[slot]
        self.ctx.claim((node.output, node.output))
        if forget:
            node.set_attr(forget, None)
        node.set_input(slot, self.constant(node, vector(sizes), f"{node.label}_sizes"))
        self.ctx.record(NAME, [node.label], [node.label], self.graph)
        if old is not None and old.producer is not None and old.graph is self.graph:
            sweep(old.producer)

    # -- readers of shapes ---------------------------------------------------------------------------------------------

    def reshape(self, node: Node) -> None:
        shape, dims, literal = node.input(1), self.facts.dims(node.input(0)), self.facts.of(node.input(1))
        if shape is None or shape.is_const or literal is None or literal.is_scalar or dims is None:
            return
        keep_zeros = bool(node.attr("allowzero", 0))
        target = target_of(dims, literal.items, self.facts, literal=True, keep_zeros=keep_zeros)
        result = _dims.reshaped(node, self.facts)
        if target is None:
            target = target_of(dims, result, self.facts, literal=False)
        added = None if target is not None else inserted(dims, result)
        if added is not None:
            self.unsqueeze(node, added)
            return
        if target is None:
            self.ctx.refuse(NAME, "the shape has more than one dim that is not known", node)
            return
        self.operand(node, 1, target, forget="allowzero" if keep_zeros else "")

    def unsqueeze(self, node: Node, axes: list[int]) -> None:
        """Only dims of 1 are new."""
        graph, label = self.graph, node.label
        made = graph.insert("Unsqueeze", [node.inputs[0]], before=node, name=node.name or None)
        if graph.opset() < 13:
            made.set_attr("axes", axes)
        else:
            made.inputs.append(None)
            made.set_input(1, self.constant(node, vector(axes), "axes"))
        mark(made, origin_of_all([node], NAME))
        self.ctx.claim((node.output, made.output), nodes=(node,))
        node.output.replace_with(made.output)
        sweep(node)
        self.ctx.record(NAME, [label], [made.label], graph)

    def expand(self, node: Node) -> None:
        x, shape = node.inputs
        dims, target = self.facts.dims(x), self.facts.of(shape)
        if x is None or shape is None or dims is None or target is None or target.is_scalar:
            return
        result = _dims.expanded(node, self.facts)
        if result is not None and list(result) == list(dims):
            if not node.output.outs or (x.producer is not None and x.graph is self.graph and not x.outs):
                self.replace(node, x)
            return
        offset = len(dims) - len(target.items)
        sizes = [
            1 if axis + offset >= 0 and size == dims[axis + offset] else size for axis, size in enumerate(target.items)
        ]
        if not shape.is_const and all(isinstance(size, int) for size in sizes):
            self.operand(node, 1, sizes)

    def slice(self, node: Node) -> None:
        x, ends, dims = node.inputs[0], self.facts.of(node.input(2)), self.facts.dims(node.input(0))
        axes, steps = option(node, "axes", 3), option(node, "steps", 4)
        if x is None or ends is None or ends.numbers is not None or dims is None or axes is None or steps is None:
            return
        front = normalize(axes or tuple(range(len(ends.items))), len(dims))
        if front is None or len(front) != len(ends.items) or any(step != 1 for step in steps):
            return
        far = [ALL if size == dims[axis] else size for axis, size in zip(front, ends.items, strict=True)]
        if all(isinstance(size, int) for size in far):
            self.operand(node, 2, far)


def target_of(
    dims: tuple[Size, ...], sizes: Sequence[Size | None] | None, facts: Facts, literal: bool, keep_zeros: bool = False
) -> tuple[int, ...] | None:
    """The operand of a Reshape of something with these dims: copies (0) for symbols, -1 for one size that is not known.

    literal: sizes are as they are written, with the meaning that 0 (keep_zeros: none) and -1 have there; else they are
    what comes out.
    """
    target: list[int] = []
    copied: list[Size | None] = []
    unknown = 0
    for axis, size in enumerate(sizes or ()):
        old = dims[axis] if axis < len(dims) else None
        if size == 0 and (keep_zeros or (old != 0 and not literal)):
            return None  # a copy would be another size
        if isinstance(size, int) and size != 0:
            target.append(size)
        elif size == 0 or (size is not None and size == old):
            target.append(0)
            copied.append(old)
        else:
            unknown += 1
            target.append(-1)
    if sizes is None or target.count(-1) > 1:
        return None
    if unknown and not all(old is not None and facts.terms.is_positive(old) for old in copied):
        return None
    return tuple(target)


def inserted(dims: tuple[Size, ...], sizes: Sequence[Size | None] | None) -> list[int] | None:
    """The axes of the dims of 1 in which alone a result differs from the dims that it is made of."""
    axes, at = [], 0
    for axis, size in enumerate(sizes or ()):
        if at < len(dims) and size is not None and size == dims[at]:
            at += 1
        elif size == 1:
            axes.append(axis)
        else:
            return None
    return axes if axes and at == len(dims) else None


_READERS: dict[str, Callable[[_Scope, Node], None]] = {
    "Expand": _Scope.expand,
    "Reshape": _Scope.reshape,
    "Slice": _Scope.slice,
}
