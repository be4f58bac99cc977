"""f(s) for every part s of a Split   ==   the Split of f(x)

for elementwise f, with constants of each part or of all, and for reductions and Softmax along other axes; one after the
other, as far as all parts go on alike. Where a Concat puts the results together again in order, there is no Split left.
Exact: every element is computed from the same numbers.

Guards: the parts are read by nothing else, and all of them in the same way; axes, ranks, the sizes of the parts and of
constants are known; constants have no more dims than the parts. And it has to pay: where no Concat follows, only small
tensors gain, as parts of large ones stay in the cache from one operator to the next.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import numpy as np

from graphopt.analysis.batching import Plan, Work
from graphopt.analysis.shapes import ensure_types
from graphopt.analysis.target import ENOUGH
from graphopt.ir import Graph, Model, NDArray, Node, Value
from graphopt.passes.base import Pass
from graphopt.passes.horizontal import _join
from graphopt.passes.horizontal._finish import finish
from graphopt.passes.horizontal._levels import (
    attributes,
    axis_in,
    casts_to_what_moves,
    estimate,
    gain_at_any_size,
    is_single,
    restore_order,
    rounds_anew,
)
from graphopt.passes.horizontal._siblings import BINARY, UNARY
from graphopt.passes.simplify._facts import normalize, option
from graphopt.rewrite import Context
from graphopt.rewrite.builder import Builder
from graphopt.rewrite.driver import site_of
from graphopt.rewrite.sweep import is_opaque

NAME = "split-last"
ALONE = UNARY | frozenset("Cast Ceil Cos Erf Floor Log Not Reciprocal Round Sign Sin Sqrt".split())
REDUCTIONS = frozenset(
    "ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum "
    "ReduceSumSquare".split()
)
_CACHE = 1 << 17  # elements; larger tensors lose a little when computed as a whole
_LOSS = 2e-6  # microseconds an element


@dataclass
class Stage:
    """Nodes, one for each part. axis: of what they give. slot, constant: where they have a constant, if any, and that
    for all of them, an array where it is a new one."""

    nodes: list[Node]
    axis: int
    slot: int | None = None
    constant: NDArray | Value | None = None


@dataclass
class Chain:
    """What follows all parts of a Split. axis, sizes: of the parts. stages."""

    split: Node
    axis: int
    sizes: list[int]
    stages: list[Stage] = field(default_factory=list)

    @property
    def tails(self) -> list[Value]:
        """The last results."""
        return [node.output for node in self.stages[-1].nodes] if self.stages else list(self.split.outputs)

    @property
    def now(self) -> int:
        """The axis after the last stage."""
        return self.stages[-1].axis if self.stages else self.axis


@dataclass(frozen=True)
class SplitLast(Pass):
    """Moves what follows every part of a Split alike in front of it, where that pays.

    gain: how many times as fast it must be by the model of cost; 0 moves whatever can be moved.
    """

    name = NAME
    checked_as: ClassVar[Mapping[str, Any]] = {"gain": 0.0}
    gain: float = ENOUGH

    def run(self, model: Model, ctx: Context) -> None:
        """Visits every Split, scope by scope."""
        ensure_types(model)
        for graph in list(model.scopes(functions=False)):
            count = ctx.count
            if not is_opaque(graph) and graph.opset() >= 7:
                self._visit(graph, ctx)
            if ctx.count > count:
                restore_order(graph)

    def _visit(self, graph: Graph, ctx: Context) -> None:
        for node in graph.nodes:
            if node.op != "Split" or node.domain or len(node.outputs) < 2:
                continue
            chain = _chain(node)
            if chain is None or not chain.stages:
                continue
            reason = rounds_anew(node.outputs[0], ctx.target)
            if reason:
                ctx.refuse(NAME, reason, node)
                continue
            gain = gain_at_any_size(chain.split.outputs[0].shape, partial(_priced, chain))
            if gain < self.gain:
                ctx.refuse(NAME, f"it does not pay here: {gain:.2f} times as fast by the model of cost", node)
            elif ctx.allow(NAME, site_of(chain.stages[-1].nodes[0])):
                _merge(chain, ctx)


def _chain(split: Node) -> Chain | None:
    """The Split and what follows all of its parts; None where they are not of certain sizes, or read otherwise."""
    whole = split.input(0)
    axis = axis_in(split, whole.rank, 0) if whole is not None else None
    if axis is None or not all(value.name and is_single(value) for value in split.outputs):
        return None
    sizes = [value.shape[axis] for value in split.outputs if value.shape is not None]
    known = [size for size in sizes if isinstance(size, int)]
    if len(known) != len(split.outputs):
        return None
    chain = Chain(split, axis, known)
    while all(map(is_single, chain.tails)) and _extend(chain):
        pass
    return chain


def _extend(chain: Chain) -> bool:
    """Adds the next stage, if all tails go on alike."""
    tails = chain.tails
    stage = [user for value in tails for user in value.users]
    first = stage[0]
    alike = {(node.op, attributes(node), node.domain, len(node.inputs), len(node.outputs)) for node in stage}
    if len(alike) != 1 or first.domain or len(first.outputs) != 1 or len(set(stage)) < len(stage):
        return False
    if any(node.graph is not chain.split.graph for node in stage):
        return False
    found = _movable(chain, stage)
    if found is not None:
        chain.stages.append(found)
    return found is not None


def _movable(chain: Chain, stage: list[Node]) -> Stage | None:
    """These nodes, if they can stand in front of the Split."""
    first, axis, rank = stage[0], chain.now, chain.tails[0].rank
    if first.op in ALONE and len(first.inputs) == 1:
        return Stage(stage, axis) if casts_to_what_moves(first) else None
    if rank is None or any(value.rank != rank for value in chain.tails):
        return None
    if first.op in BINARY and len(first.inputs) == 2:
        for slot in (0, 1):
            if [node.inputs[1 - slot] for node in stage] == chain.tails:
                constant = _joined(chain, stage, slot)
                return Stage(stage, axis, slot, constant) if constant is not None else None
        return None
    if [node.inputs[0] for node in stage] != chain.tails:
        return None
    if first.op == "Clip":
        return Stage(stage, axis) if all(node.inputs[1:] == first.inputs[1:] for node in stage) else None
    if first.op in ("Softmax", "LogSoftmax") and first.graph.opset() >= 13:
        return Stage(stage, axis) if axis_in(first, rank, -1) not in (axis, None) else None
    left = _axis_left(stage, axis, rank) if first.op in REDUCTIONS else None
    return Stage(stage, left) if left is not None else None


def _axis_left(stage: list[Node], axis: int, rank: int) -> int | None:
    """Where the axis is after a reduction along others; the axes may be operands, but have to be the same."""
    found = {normalize(option(node, "axes", 1), rank) for node in stage}
    axes = found.pop()
    if found or not axes or axis in axes:
        return None
    return axis if stage[0].attr("keepdims") else axis - sum(other < axis for other in axes)


def _joined(chain: Chain, stage: list[Node], slot: int) -> NDArray | Value | None:
    """The constant for all parts: the same one where it does not vary along their axis, or theirs side by side."""
    constants = [node.inputs[slot] for node in stage]
    known = [value for value in constants if value is not None and value.is_const]
    rank = chain.tails[0].rank
    if len(known) != len(stage) or rank is None:
        return None
    back = chain.now - rank  # the axis, counted from the end
    shapes = {value.shape for value in known}
    ranks = {value.rank for value in known}
    if len(ranks) != 1 or (known[0].rank or 0) > rank:
        return None
    varies = (known[0].rank or 0) >= -back
    if len(shapes) == 1 and (not varies or (known[0].shape or ())[back] == 1) and _equal(known):
        return known[0]
    if len({value.dtype for value in known}) != 1 or not varies or not all(map(is_single, known)):
        return None
    sizes = [(value.shape or ())[back] for value in known]
    others = {tuple(np.delete(value.numpy().shape, back).tolist()) for value in known}
    if sizes != chain.sizes or len(others) != 1 or 0 in sizes:
        return None
    return np.concatenate([value.numpy() for value in known], axis=back)


def _equal(constants: list[Value]) -> bool:
    """Whether they have the same bytes."""
    first = constants[0]
    if all(value is first for value in constants):
        return True
    if any(value.dtype != first.dtype for value in constants) or first.numpy().dtype == object:
        return False
    return first.numpy().size <= 1024 and len({value.numpy().tobytes() for value in constants}) == 1


def _priced(chain: Chain, first: int) -> Plan:
    """What it costs as it is, and with the Split last. first: the first size, where it is not known."""
    count, plan = len(chain.sizes), Plan()
    concat = _join.concat_of(chain.tails, chain.now)
    before = _whole(chain, chain.split.outputs[0], first)
    for stage in chain.stages:
        made = _whole(chain, stage.nodes[0].output, first)
        size = max(before, made)
        plan.apart += [Work(elements=size / count)] * count
        lost = _LOSS * size if size > _CACHE and concat is None else 0.0
        plan.together.append(Work(elements=size, other=lost))
        before = made
    plan.copies_apart.append((count, _whole(chain, chain.split.outputs[0], first)))
    if concat is not None:
        plan.copies_apart.append((count, before))
    else:
        plan.copies_together.append((count, before))
    return plan


def _whole(chain: Chain, part: Value, first: int) -> float:
    """About how many elements all parts have together."""
    return estimate(part.shape, first) * sum(chain.sizes) / max(1, chain.sizes[0])


def _merge(chain: Chain, ctx: Context) -> None:
    graph = chain.split.graph
    old = [chain.split, *(node for stage in chain.stages for node in stage.nodes)]
    labels = [node.label for node in old]
    new = Builder(graph, chain.split, NAME, old)
    merged = chain.split.inputs[0]
    total, tails = sum(chain.sizes), chain.tails
    for stage in chain.stages:
        like, constant = stage.nodes[0], stage.constant
        operands = [merged, *like.inputs[1:]]
        if stage.slot is not None and constant is not None:
            whole = constant if isinstance(constant, Value) else new.constant(constant, like=like.inputs[stage.slot])
            operands = [whole, merged] if stage.slot == 0 else [merged, whole]
        merged = new.make(like.op, *operands, like=like, type_of=like.output)
        if like.output.shape is not None:
            dims = list(like.output.shape)
            dims[stage.axis] = total
            merged.set_shape(tuple(dims))
    assert merged is not None
    concat = _join.concat_of(tails, chain.now)
    if concat is not None:
        new.before = concat[0]
        pairs = [(concat[0].output, _join.replaced_in(concat, len(tails), merged, new))]
        old.append(concat[0])
    else:
        parts = _split(chain, merged, new)
        pairs = list(zip(tails, parts, strict=True))
    finish(old, labels, pairs, new, ctx, NAME)


def _split(chain: Chain, merged: Value, new: Builder) -> list[Value]:
    """The Split as it was, of what is in front of it now."""
    node = chain.split
    made = new.make("Split", merged, *node.inputs[1:], like=node, n_out=len(chain.sizes), axis=chain.now)
    for value, tail in zip(made, chain.tails, strict=True):
        value.set_type(tail.type)
    return list(made)
