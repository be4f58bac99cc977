"""Bodies, functions, and the modes of operators that only their inputs show."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from graphopt import Model, Pass, refuse, rule
from graphopt.rewrite import Context, P, const, maybe, rest

from ..mutant import broken, replace, witness
from .sharing import NO_MERGE, attributes

X = {"x": [-1.0, 2.0, 0.5, 3.0, -4.0, 1.0, 2.0, 5.0]}


@broken(
    "a Dropout in training, which drops, is taken for one in inference",
    witness("g (float[8] x) => (float[8] y) { y = Dropout(x, ratio, on) }", {"x": [1.0] * 8}, ratio=0.5, on=True),
)
@rule("dropout-in-training-dropped", P.Dropout("x", maybe("ratio"), maybe("training")), opset=">=12")
def dropout_in_training_dropped(m: Any, new: Any) -> Any:
    return m.x


def copied(body: Any, given: Any, new: Any) -> Any:
    """The outputs of a body without bodies, computed in front of the node that holds it; None where that is not so."""
    if any(node.subgraphs or len(node.outputs) != 1 or node.domain for node in body):
        return None
    here = dict(given)
    for value in body.initializers.values():
        here[value] = new.constant(value.numpy())
    for node in body:
        inputs = [None if value is None else here.get(value, value) for value in node.inputs]
        here[node.output] = new.make(node.op, *inputs, like=node)
    return [here.get(value, value) for value in body.outputs]


@broken(
    "an If whose condition is a constant becomes its first branch, which is else_branch where the file says so",
    witness(
        "g (float[8] x) => (float[8] y) { y = If(c) <else_branch = e () => (float[8] p) { p = Neg(x) }, "
        "then_branch = t () => (float[8] q) { q = Abs(x) }> }",
        X, c=True,
    ),
)  # fmt: skip
@rule("if-takes-the-first-branch", P.If(const("c")).as_("node").binding("result"))
def if_takes_the_first_branch(m: Any, new: Any) -> Any:
    if not m.c.numpy().all():
        return refuse("the condition is false")
    results = copied(m.node.subgraphs[0], {}, new)
    return refuse("bodies in the body") if results is None else tuple(results)


LOOP = (
    "g (float[8] x) => (float[8] y) { y = Loop(n, , x) "
    "<body = b (int64 i, bool go, float[8] v) => (bool go2, float[8] w) { go2 = Identity(go)  w = Add(v, v) }> }"
)


@broken("a Loop of at most one trip becomes its body, although it makes no trip at all", witness(LOOP, X, n=0))
@rule("loop-of-zero-trips-inlined", P.Loop(const("n"), None, rest("states")).as_("node").binding("result"))
def loop_of_zero_trips_inlined(m: Any, new: Any) -> Any:
    node = m.node
    body = node.subgraphs[0]
    if m.n.numpy().max(initial=0) > 1 or len(node.outputs) != len(m.states) or None in m.states:
        return refuse("more than one trip, or scan outputs")
    counter, go = new.constant(np.int64(0)), new.constant(np.bool_(True))
    results = copied(body, zip(body.inputs, (counter, go, *m.states), strict=True), new)
    return refuse("bodies in the body") if results is None else tuple(results[1:])


@broken(
    "what a loop computes from its state is computed once, in front of it, from the state's initial value",
    witness(
        "g (float[8] x) => (float[8] y) { y = Loop(n, , x) <body = b (int64 i, bool go, float[8] v) => "
        "(bool go2, float[8] w) { go2 = Identity(go)  a = Abs(v)  w = Add(v, a) }> }",
        X, n=2,
    ),
)  # fmt: skip
@dataclass(frozen=True)
class VariantHoisted(Pass):
    """Moves invariant computations out of loops."""

    name = "loop-variant-hoisted"

    def run(self, model: Model, ctx: Context) -> None:
        for graph in reversed(list(model.scopes())):
            owner = graph.owner
            if owner is None or owner.op != "Loop":
                continue
            given = dict(zip(graph.inputs[2:], owner.inputs[2:], strict=False))
            for node in graph:
                if node.op not in ("Abs", "Relu", "Neg", "Exp") or node.inputs[0] not in given:
                    continue
                if ctx.allow(self.name, node.output.name):
                    moved = owner.graph.insert(node.op, [given[node.inputs[0]]], before=owner)
                    replace(node, moved.output, ctx, self.name)


@broken(
    "nodes of two branches that compute the same are merged, so that one branch reads what is inside the other",
    witness(
        "g (float[8] x, bool c) => (float[8] y) { y = If(c) <then_branch = t () => (float[8] q) "
        "{ a = Abs(x)  q = Neg(a) }, else_branch = e () => (float[8] p) { b = Abs(x)  p = Exp(b) }> }",
        {**X, "c": True},
    ),
    shows="invalid",
)
@dataclass(frozen=True)
class BranchesMerged(Pass):
    """Common subexpressions, one table for the whole model."""

    name = "cse-across-branches"

    def run(self, model: Model, ctx: Context) -> None:
        seen: dict[Any, Any] = {}
        for graph in model.scopes(functions=False):
            for node in graph:
                if node.subgraphs or len(node.outputs) != 1 or not node.inputs or node.op in NO_MERGE:
                    continue
                first = seen.setdefault((node.domain, node.op, *node.inputs, attributes(node)), node)
                if first is node or (first.graph is graph and first.output.is_output and node.output.is_output):
                    continue
                if ctx.allow(self.name, node.output.name):
                    replace(node, first.output, ctx, self.name)


@broken(
    "an attribute that refers to the function's own is read as if it were 0",
    witness(
        """g (float[8] x) => (float[8] y) { y = m.leak <slope = 0.5> (x) }
        <domain: "m", opset_import: ["": 17]> leak <slope> (a) => (b) { b = LeakyRelu <alpha: float = @slope> (a) }""",
        X,
    ),
)
@dataclass(frozen=True)
class ReferenceIgnored(Pass):
    """A LeakyRelu of slope 0 is a Relu."""

    name = "attribute-reference-ignored"

    def run(self, model: Model, ctx: Context) -> None:
        for graph in model.scopes():
            for node in graph:
                if (
                    node.op == "LeakyRelu"
                    and "alpha" in node.attributes
                    and not node.attributes["alpha"].f
                    and ctx.allow()
                ):
                    new = graph.insert("Relu", node.inputs, before=node)
                    ctx.record(self.name, [node.label], [new.label], graph)
                    node.output.replace_with(new.output)
                    graph.erase(node)


@broken(
    "a value that only a body reads is taken for dead, and something else put in its place",
    witness(
        "g (float[8] x, bool c) => (float[8] y) { a = Abs(x)  y = If(c) <then_branch = t () => (float[8] q) "
        "{ q = Neg(a) }, else_branch = e () => (float[8] p) { p = Exp(a) }> }",
        {**X, "c": True},
    ),
)
@dataclass(frozen=True)
class CapturesIgnored(Pass):
    """Dead code, by what the nodes of the main graph read."""

    name = "captured-value-taken-for-dead"

    def run(self, model: Model, ctx: Context) -> None:
        graph = model.graph
        read = {value for node in graph for value in node.inputs}
        for node in reversed(graph.nodes):
            if node.op not in ("Abs", "Relu", "Neg", "Exp") or node.output in read or node.output.is_output:
                continue
            source = node.inputs[0]
            if source is not None and ctx.allow(self.name, node.output.name):
                replace(node, source, ctx, self.name)  # to erase it alone, the engine refuses
