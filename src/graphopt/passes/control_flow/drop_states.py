"""Loop(.., v) {s -> .., s} == v   where the body returns a state as it got it: it reads v itself, and the state goes.

Exact, also where the loop does not run. What depends on nothing else can then leave the loop, and a weight that was
passed on from trip to trip is a constant for the runtime.

Guards: Loop; the body returns what it got under the same number, and the outer value is given.
"""

from __future__ import annotations

from dataclasses import dataclass

from onnx import GraphProto

from graphopt.ir import Graph, Model, Node, Value
from graphopt.passes.base import Pass
from graphopt.passes.control_flow._loops import loops
from graphopt.rewrite import Context
from graphopt.rewrite.builder import Builder
from graphopt.rewrite.driver import site_of

NAME = "drop-loop-states"


@dataclass(frozen=True)
class DropLoopStates(Pass):
    """Takes states that never change out of loops."""

    name = NAME

    def run(self, model: Model, ctx: Context) -> None:
        """Rewrites loop after loop; a new Loop node stands for each."""
        for loop, body in list(loops(model, "Loop")):
            if not loop.alive:
                continue
            states = _constant_states(loop, body)
            if states and body.proto.sparse_initializer:  # type: ignore[union-attr]
                ctx.refuse(NAME, "the body holds sparse initializers", loop)
            elif states and ctx.allow(NAME, site_of(loop)):
                _rewrite(loop, body, states, ctx)


def _constant_states(loop: Node, body: Graph) -> list[int]:
    states = len(loop.inputs) - 2
    if len(body.inputs) != states + 2 or len(body.outputs) <= states:
        return []
    same = (k for k in range(states) if body.outputs[k + 1] is body.inputs[k + 2])
    return [k for k in same if loop.inputs[k + 2] is not None and body.inputs[k + 2].outs == 1]


def _rewrite(loop: Node, body: Graph, states: list[int], ctx: Context) -> None:
    graph, label = loop.graph, loop.label
    for k in states:
        outer = loop.inputs[k + 2]
        assert outer is not None
        _read_instead(body.inputs[k + 2], outer)
    graph.model.commit()
    proto = GraphProto()
    assert isinstance(body.proto, GraphProto)
    proto.CopyFrom(body.proto)
    for k in reversed(states):
        del proto.input[k + 2], proto.output[k + 1]
    new = Builder(graph, loop, NAME, [loop])
    kept = [value for place, value in enumerate(loop.inputs) if place - 2 not in states]
    left = [value for place, value in enumerate(loop.outputs) if place not in states]
    pairs = [(loop.outputs[k], loop.inputs[k + 2]) for k in states]
    if left:
        made = new.make("Loop", *kept, like=loop, body=proto, n_out=len(left))
        pairs += zip(left, [made] if len(left) == 1 else made, strict=True)
    for old, value in pairs:
        assert value is not None
        old.replace_with(value)
    graph.erase(loop)
    new.settle()
    ctx.record(NAME, [label], [node.label for node in new.nodes], graph)


def _read_instead(state: Value, outer: Value) -> None:
    """Nodes of the body, and of bodies in it, read the outer value; what the body returns stays."""
    for user in list(state.users):
        for slot, value in enumerate(user.inputs):
            if value is state:
                user.set_input(slot, outer)
