"""Common subexpressions: y1 = f(x, a), y2 = f(x, a)   ==   y1 for both.

Two nodes are the same when operator, attributes and each input slot are (a slot left out counts: Clip(x, "", c) is not
Clip(x, c, "")), and the same outputs are wanted. Guards: not random or stateful operators, not nodes with bodies, not
unknown domains; where both results are returned, both stay.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from graphopt.ir import Graph, Model, Node, Value
from graphopt.passes.base import Pass
from graphopt.rewrite import Context
from graphopt.rewrite.driver import site_of
from graphopt.rewrite.sweep import PURE_DOMAINS, is_opaque

RANDOM = frozenset(
    "RandomNormal RandomNormalLike RandomUniform RandomUniformLike Multinomial Bernoulli Dropout".split()
)  # Dropout draws in training mode; in inference it is removed anyway


def is_random(node: Node) -> bool:
    """Whether two calls of the operator may give different results."""
    if node.domain:
        return any(word in node.op for word in ("Dropout", "Random", "Sampl", "Search"))
    return node.op in RANDOM


@dataclass(frozen=True)
class CommonSubexpressions(Pass):
    """Computes equal expressions once."""

    name = "cse"

    def run(self, model: Model, ctx: Context) -> None:
        """Merges equal nodes, scope by scope."""
        for graph in list(model.scopes()):
            if not is_opaque(graph):
                _merge(graph, ctx)


def _merge(graph: Graph, ctx: Context) -> None:
    seen: dict[Any, dict[Any, Node]] = {}
    for node in graph:
        if node.subgraphs or not node.outputs or node.domain not in PURE_DOMAINS or is_random(node):
            continue
        alike = seen.setdefault(_shape_of(node), {})
        if None in alike:  # the first of its kind: only now do its attributes matter
            alone = alike.pop(None)
            alike[_attributes(alone)] = alone
        first = alike.setdefault(_attributes(node) if alike else None, node)
        if first is node:
            continue
        pairs = list(zip(node.outputs, first.outputs, strict=True))
        if any(old.outs and new.outs for old, new in pairs) or not ctx.allow("cse", site_of(node)):
            continue
        label = node.label
        ctx.claim(*((old, new) for old, new in pairs if old.users or old.outs), nodes=(node, first))
        for old, new in pairs:
            if old.name:
                old.replace_with(new)
        graph.erase(node)
        ctx.record("cse", [label], [first.label], graph)


def _shape_of(node: Node) -> Any:
    """What two equal nodes share, apart from attributes: those are only looked at where this is the same."""
    inputs: list[Value | None] = node.inputs
    return node.domain, node.op, tuple(inputs), tuple([bool(v.name) for v in node.outputs])


def _attributes(node: Node) -> tuple[bytes, ...]:
    return tuple(sorted(a.SerializeToString(deterministic=True) for a in node.proto.attribute))
