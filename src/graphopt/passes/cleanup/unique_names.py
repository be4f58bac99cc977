"""Gives every node a name of its own: unnamed nodes that of their first output, duplicates a number behind theirs.

Profiles, reports and `explain` go by node names, and ONNX Runtime refuses a graph in which two nodes share one. Value
names, which are the interface and the edges, stay. Not part of a preset: it touches nodes that nothing else does.

Guards: the first of several nodes with one name keeps it; bodies of operators that are not standard stay as they are.
"""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.ir import Model
from graphopt.passes.base import Pass
from graphopt.rewrite import Context
from graphopt.rewrite.sweep import is_opaque


@dataclass(frozen=True)
class UniqueNames(Pass):
    """Gives every node a name of its own."""

    name = "unique-names"

    def run(self, model: Model, ctx: Context) -> None:
        """Names nodes scope by scope; names are unique across the whole model."""
        seen: set[str] = set()
        for graph in list(model.scopes()):
            if is_opaque(graph):
                continue
            for node in graph:
                if (not node.name or node.name in seen) and ctx.allow("unique-names"):
                    ctx.claim()
                    old = node.label
                    node.name = node.proto.name = model.fresh_node_name(old)
                    graph.touch(node)
                    ctx.record("unique-names", [old], [node.name], graph)
                seen.add(node.name)
