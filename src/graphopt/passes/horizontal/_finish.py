"""The end of every merge: new values in the place of old ones, on record."""

from __future__ import annotations

from graphopt.ir import Node, Value
from graphopt.rewrite import Context
from graphopt.rewrite.builder import Builder
from graphopt.rewrite.sweep import is_read, sweep


def finish(
    old: list[Node], labels: list[str], pairs: list[tuple[Value, Value]], new: Builder, ctx: Context, rule: str
) -> None:
    """Puts new values in the place of old ones, and takes away what nothing reads then.

    old: in topological order, but for the last, which may be the Concat that reads the results.
    """
    ctx.claim(*(pair for pair in pairs if pair[0].users or pair[0].outs), nodes=old)
    for value, other in pairs:
        value.replace_with(other)
    before = dict.fromkeys(v.producer for node in old for v in node.inputs if v is not None and v.producer is not None)
    for node in reversed(old):
        if node.alive and not is_read(node):
            node.graph.erase(node)
    sweep(*(node for node in before if node.alive))
    new.settle()
    ctx.record(rule, labels, [node.label for node in new.nodes], new.graph)
