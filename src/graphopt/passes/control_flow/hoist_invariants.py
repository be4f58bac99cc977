"""Loop { y = f(outer)  .. }   ==   y = f(outer)   Loop { .. }

What a loop computes anew in every trip, although it depends on nothing in the loop, is computed once, in front of it
(Aho, Lam, Sethi, Ullman, Compilers, 9.5): keys and values that a decoder reads in each step, for one.

Guards: deterministic operators without bodies. Where the loop may not run at all, only operators that cannot fail, on
shapes that are known to fit; where it certainly runs, all that fail would have failed in the first trip. The result is
not larger than 2^24 elements, nor, in what is not known, than an operand: it stays in memory as long as the loop runs.
"""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.analysis.shapes import ensure_types
from graphopt.ir import Graph, Model, Node, Shape
from graphopt.passes.base import Pass
from graphopt.passes.control_flow._loops import (
    NUMBERS,
    TOTAL,
    broadcast,
    copy_out,
    is_bounded,
    is_outer,
    loops,
    replace,
    runs,
)
from graphopt.rewrite import Context

NAME = "hoist-loop-invariants"
# Deterministic functions of their inputs, which may fail on some of them.
PURE = TOTAL | frozenset(
    "BatchNormalization Cast Concat Conv Cos Div Expand Flatten Gather GatherElements GatherND Gelu Gemm "
    "GlobalAveragePool GreaterOrEqual GroupNormalization HardSwish Identity InstanceNormalization LayerNormalization "
    "LessOrEqual LogSoftmax MatMul Mean Mod PRelu Pad Pow Range ReduceL2 ReduceMax ReduceMean ReduceMin ReduceProd "
    "ReduceSum Reshape Shape Size Slice Softmax Squeeze Tile Transpose Unsqueeze".split()
)
VIEWS = frozenset({"Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})


@dataclass(frozen=True)
class HoistLoopInvariants(Pass):
    """Moves what is the same in every trip in front of the loop."""

    name = NAME

    def run(self, model: Model, ctx: Context) -> None:
        """Moves one node after the other: a node that reads moved ones can then move, too."""
        ensure_types(model)
        for loop, body in list(loops(model, "Loop", "Scan")):
            certain = runs(loop)
            for node in list(body):
                if node.alive and is_candidate(node, body):
                    reason = why_not(node, certain)
                    if reason:
                        ctx.refuse(NAME, reason, node)
                    elif ctx.allow(NAME, node.output.name):
                        _move(node, loop, ctx)


def is_candidate(node: Node, body: Graph) -> bool:
    """Whether a node of a body depends on nothing in it, and there is a point in moving it."""
    if node.op not in PURE or node.domain or node.has_references or node.subgraphs or len(node.outputs) != 1:
        return False
    given = [value for value in node.inputs if value is not None]
    if node.output.outs or all(value.is_const for value in given):
        return False
    return all(is_outer(value, body) for value in given)


def why_not(node: Node, certain: bool) -> str:
    """Why a candidate must stay, or nothing. certain: whether the loop runs at least once."""
    shapes = [value.shape for value in node.inputs if value is not None]
    found = node.output.shape
    if not certain:
        known = [shape for shape in shapes if shape is not None]
        found = result_of(node, known) if len(known) == len(shapes) else None
        if found is None:
            return "the loop may not run at all, and the operator is not certain to succeed"
    if node.op in VIEWS:  # as many elements as before
        found = shapes[0] if shapes[0] is not None else found
    return "" if is_bounded(found, shapes) else "the result is large, or its size is not known"


def result_of(node: Node, shapes: list[Shape]) -> Shape | None:
    """The shape of what an operator gives that cannot fail on operands of these shapes, or None."""
    if node.op in TOTAL:
        return broadcast(shapes)
    if node.op == "Transpose":
        perm = node.attr("perm")
        return shapes[0] if not perm or len(perm) == len(shapes[0]) else None
    if node.op == "Cast":
        x = node.inputs[0]
        return shapes[0] if x is not None and x.dtype in NUMBERS and node.attr("to") in NUMBERS else None
    if node.op == "Identity":
        return shapes[0]
    if node.op == "MatMul" and len(shapes[0]) > 1 and len(shapes[1]) == 2:
        rows, matrix = shapes
        fits = isinstance(rows[-1], int) and rows[-1] == matrix[0] and rows[-1] > 0
        return (*rows[:-1], matrix[1]) if fits else None
    return None


def _move(node: Node, loop: Node, ctx: Context) -> None:
    label, new = node.label, copy_out(node, loop, node.inputs, None, NAME)
    replace(node, new.nodes[0].output)
    ctx.record(NAME, [label], [n.label for n in new.nodes], loop.graph)
