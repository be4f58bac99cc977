"""What a loop computes anew in every iteration, although it depends on nothing in the loop, is computed before it.

    Loop { e = Exp(outer)  v = Add(v, e) }   ==   e = Exp(outer)   Loop { v = Add(v, e) }

Only elementwise operators move that cannot fail, on operands whose shapes are known to fit: a loop without a single
trip must not begin to fail. Inner loops come first, so that what is invariant in several moves all the way. Try it with

    graphopt optimize model.onnx --load passes/experiments/hoist_invariants.py --passes default,hoist-invariants
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from graphopt import Pass
from graphopt.analysis.shapes import ensure_types
from graphopt.ir import Graph, Model, Node, Value
from graphopt.rewrite import Builder, Context, sweep

LOOPS = frozenset({"Loop", "Scan"})
# Elementwise, deterministic, and defined for every value. Not Identity: a body that returns an outer value needs one.
SAFE = frozenset(
    "Abs Acos Acosh Add And Asin Asinh Atan Atanh Ceil Clip Cos Cosh Elu Equal Erf Exp Floor Greater HardSigmoid "
    "LeakyRelu Less Log Max Min Mul Neg Not Or Reciprocal Relu Round Selu Sigmoid Sign Sin Sinh Softplus "
    "Softsign Sqrt Sub Sum Tan Tanh Where Xor".split()
)


@dataclass(frozen=True)
class HoistInvariants(Pass):
    """Moves invariant computations out of loops.

    most: elements of a result that moves, at the most; it stays in memory as long as the loop runs.
    """

    name = "hoist-invariants"
    most: int = 1 << 20

    def run(self, model: Model, ctx: Context) -> None:
        """Moves what may move, one node after the other: a node that reads moved ones can then move, too."""
        ensure_types(model)
        for graph in reversed(list(model.scopes())):  # inner scopes first
            owner = graph.owner
            if owner is not None and owner.op in LOOPS and not owner.domain:
                for node in graph:
                    if ctx.allow() and self.may_move(node, graph, ctx):
                        move(node, owner, ctx)

    def may_move(self, node: Node, body: Graph, ctx: Context) -> bool:
        """Whether a node of a loop's body depends on nothing in it, and can be computed even if the body never runs."""
        if node.op not in SAFE or node.domain or node.has_references or len(node.outputs) != 1:
            return False
        given = [value for value in node.inputs if value is not None]
        if any(value.graph is body and not value.is_const for value in given) or all(value.is_const for value in given):
            return False
        reason = why_not([value.shape for value in given], node.output.shape, self.most)
        if reason:
            ctx.refuse(self.name, reason, node)
        return not reason


def why_not(operands: list[tuple[int | str | None, ...] | None], result: object, most: int) -> str:
    """Why operands of these shapes must stay, or nothing."""
    shapes = [shape for shape in operands if shape is not None]
    if len(shapes) < len(operands) or not isinstance(result, tuple):
        return "a shape is not known"
    if len(shapes) > 1 and any(None in shape for shape in shapes):
        return "a dim is not known"
    for axis in range(1, max(map(len, shapes)) + 1):
        sizes = {shape[-axis] for shape in shapes if len(shape) >= axis} - {1}
        if len(sizes) > 1:
            return "the operands are not known to broadcast"
    if prod(dim for dim in result if isinstance(dim, int)) > most:
        return "the result is large"
    return ""


def move(node: Node, owner: Node, ctx: Context) -> None:
    """Computes the node in front of the loop that holds it."""
    graph = owner.graph
    new = Builder(graph, owner, HoistInvariants.name, (node.label,))
    inputs: list[Value | None] = []
    for value in node.inputs:
        own = value is not None and value.graph is node.graph  # a constant of the body
        inputs.append(new.constant(value.numpy(), hint=value.name) if own and value is not None else value)
    result = new.make(node.op, *inputs, like=node, type_of=node.output)
    label = node.label
    node.output.replace_with(result)
    sweep(node)
    new.settle()
    ctx.record(HoistInvariants.name, [label], [n.label for n in new.nodes], graph)
