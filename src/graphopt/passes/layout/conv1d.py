"""Conv of [N, C, L]   ==   Squeeze(Conv(Unsqueeze(x))) of [N, C, 1, L], and so for what lies between such convolutions.

Exact: kernels get an axis of size 1. ONNX Runtime keeps its fast blocked kernels (NCHWc) for images; a convolution over
one axis copies every window (im2col) and multiplies matrices. Measured, one thread, with Unsqueeze and Squeeze: 1.1 to
1.3 times as fast (128 channels, kernel 3, 16 to 10,000 steps), 2.0 to 2.5 (a few steps; a batch of 8 or more with short
sequences), 2 to 5 (depthwise). Operators between the convolutions get the axis, too, so that there is one Unsqueeze and
one Squeeze for a whole stack, and the runtime's fusions (activation, residual) see the same neighbours.

Guards: float32; constant weights; Conv whose channels those kernels take and that has enough to do: the others win
nothing (1 x 1), or lose (0.7: 1 channel in or out). Matrices that are no constants and opsets before 9 are left alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from graphopt.analysis.shapes import ensure_types
from graphopt.ir import Graph, Model, Node, Value
from graphopt.passes.base import Pass
from graphopt.passes.layout._planes import AXIS, find_ranks, has_form, operands, raised, streams, widen
from graphopt.passes.recognition._forms import is_float
from graphopt.passes.simplify._views import make_squeeze
from graphopt.rewrite import Context
from graphopt.rewrite.builder import Builder
from graphopt.rewrite.driver import site_of
from graphopt.rewrite.sweep import is_opaque

NAME = "conv1d-as-image"
BLOCK, ALIGNED = 16, 4  # channels of a block, and of what can be padded to one
FULL = 0.9  # how much of its blocks a Conv has to fill: with 3/4 it is 0.85 times as fast
WORK, DEPTHWISE = 3000, 96  # products for each step from which on the other kernel pays
WINDOW = 200  # numbers under a kernel from which on few input channels (a filter bank) lose nothing
GAINS, JOINS, STAYS = "gains", "joins", "stays"


@dataclass(frozen=True)
class Conv1dAsImage(Pass):
    """Gives convolutions over one axis a second one of size 1 where ONNX Runtime's kernels for images are faster.

    work: products of a Conv for each step of its output, from which on it pays.
    """

    name = NAME
    checked_as: ClassVar[Mapping[str, Any]] = {"work": 0}
    work: int = WORK

    def run(self, model: Model, ctx: Context) -> None:
        """Rewrites stack after stack."""
        if ctx.target not in ("onnx", "onnxruntime") or model.opsets.get("", 0) < 9:
            return
        ensure_types(model)
        for graph in list(model.scopes(functions=False)):
            if not is_opaque(graph):
                for stack in list(_stacks(graph, self.work, ctx)):
                    if ctx.allow(NAME, site_of(stack[0])):
                        _rewrite(stack, ctx)


def verdict(conv: Node, work: int) -> tuple[str, str]:
    """Whether a Conv over one axis gains, may join others, or stays, and why it stays."""
    x, w = conv.inputs[0], conv.input(1)
    if conv.has_references or x is None or x.rank != 3 or x.is_const or w is None or w.rank != 3:
        return STAYS, ""
    if not is_float(w):
        return STAYS, "ONNX Runtime has these kernels for float32, and this is not proven to be that"
    if not w.is_const or not all(isinstance(dim, int) for dim in w.shape or ()):
        return STAYS, "the weights are not constant"
    groups, (outs, ins, kernel) = conv.attr("group", 1), w.shape or (0, 0, 0)
    assert isinstance(outs, int) and isinstance(ins, int) and isinstance(kernel, int)
    if not outs * ins * kernel or groups < 1:
        return STAYS, "a size is zero"
    if not work:
        return GAINS, ""
    if groups > 1:
        return _grouped(outs, ins, kernel, groups, work)
    if ins < BLOCK:
        return (JOINS if ins * kernel >= WINDOW else STAYS), "there are few channels"
    if ins % ALIGNED or outs < BLOCK // 2:
        return STAYS, "the kernel does not take these numbers of channels"
    if min(_filled(ins), _filled(outs)) < FULL:
        return JOINS, "the blocks of channels would be filled in part"
    if kernel == 1:
        return (JOINS if outs >= BLOCK else STAYS), "a kernel of 1 is a matrix product already"
    return (GAINS, "") if outs * ins * kernel >= work else (JOINS, "there is too little to do")


def _grouped(outs: int, ins: int, kernel: int, groups: int, work: int) -> tuple[str, str]:
    if kernel == 1:
        return JOINS, "a kernel of 1 is a matrix product already"
    if ins == 1 and outs == groups:
        gains = outs * kernel >= DEPTHWISE and outs % ALIGNED == 0
    else:
        gains = ins % BLOCK == 0 and (outs // groups) % BLOCK == 0 and outs * ins * kernel >= work
    return (GAINS, "") if gains else (JOINS, "its groups are small, or no blocks")


def _filled(channels: int) -> float:
    return channels / (-(-channels // BLOCK) * BLOCK)


def _stacks(graph: Graph, work: int, ctx: Context) -> Iterator[list[Node]]:
    """What gets the axis: convolutions that gain, and what lies between them or behind; connected, in order."""
    roles, refused = {}, []
    find_ranks(graph)
    for node in graph:
        if node.op == "Conv" and not node.domain:
            role, why = verdict(node, work)
            if role != STAYS:
                roles[node] = role
            if why:
                refused.append((node, why))
        elif has_form(node):
            roles[node] = JOINS
    if GAINS in roles.values():
        graph.ensure_sorted()
        chosen = _chosen(graph, roles)
        yield from _connected(chosen)
    else:
        chosen = []
    inside = set(chosen)
    for node, why in refused:
        if node.alive and node not in inside:
            ctx.refuse(NAME, why, node)


def _chosen(graph: Graph, roles: Mapping[Node, str]) -> list[Node]:
    order = [node for node in graph if node in roles]
    behind: set[Node] = set()  # a Conv that gains
    for node in order:
        if roles[node] == GAINS or any(value.producer in behind for value in streams(node)):
            behind.add(node)
    before: set[Node] = set()  # one
    for node in reversed(order):
        if roles[node] == GAINS or any(user in before for user in node.output.users):
            before.add(node)
    wide: set[Value] = set()
    chosen = []
    for node in order:
        given = list(streams(node))
        if node in behind and (node in before or all(value in wide for value in given)):
            chosen.append(node)
            wide.update(given)
            wide.add(node.output)
    return chosen


def _connected(chosen: list[Node]) -> list[list[Node]]:
    """Groups of nodes that read each other, each in order."""
    root: dict[Node, Node] = {node: node for node in chosen}

    def find(node: Node) -> Node:
        while root[node] is not node:
            root[node] = root[root[node]]
            node = root[node]
        return node

    for node in chosen:
        for value in streams(node):
            if value.producer in root:
                root[find(node)] = find(value.producer)
    groups: dict[Node, list[Node]] = {}
    for node in chosen:
        groups.setdefault(find(node), []).append(node)
    return list(groups.values())


def _rewrite(stack: list[Node], ctx: Context) -> None:
    graph, inside = stack[0].graph, set(stack)
    labels = [node.label for node in stack]
    new = Builder(graph, stack[0], NAME, stack)
    wide: dict[Value, Value] = {}
    results: list[tuple[Value, Value]] = []
    for node in stack:
        new.before = node
        weight = node.inputs[1] if node.op == "Conv" else None
        for value in operands(node):
            if value not in wide and value is not weight and (value.is_const or value.rank == 3):
                wide[value] = raised(value, new)
        given = [None if value is None else wide.get(value, value) for value in node.inputs]
        made = widen(node, new, given, weight)
        wide[node.output] = made
        if node.output.outs or any(user not in inside for user in node.output.users):
            narrow = make_squeeze(new, made, (AXIS,), node)
            narrow.set_type(node.output.type)
            results.append((node.output, narrow))
    ctx.claim(*results, nodes=stack)
    for old, narrow in results:
        old.replace_with(narrow)
    for node in reversed(stack):
        graph.erase(node)
    new.settle()
    ctx.record(NAME, labels, [node.label for node in new.nodes], graph)
