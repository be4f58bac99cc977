"""The worklist: every node once, then only what changed, until no rule fires."""

from __future__ import annotations

from collections import deque

from graphopt.analysis.shapes import ensure_types
from graphopt.errors import RewriteCycle
from graphopt.ir import Graph, Model, Node
from graphopt.rewrite.builder import Builder
from graphopt.rewrite.context import Context
from graphopt.rewrite.pattern import Key, Op, match
from graphopt.rewrite.rule import Refusal, Rule, RuleSet, as_outputs
from graphopt.rewrite.sweep import is_opaque, sweep

_REPEATS = 64  # rewrites of one value before it counts as a cycle: a fold along a chain of Adds is no cycle


def drive(rules: RuleSet, model: Model, ctx: Context) -> None:
    """Applies a rule set to every scope. Raises RewriteCycle when rules undo each other."""
    ensure_types(model)
    for graph in list(model.scopes()):
        if not is_opaque(graph):
            _Driver(rules, graph, ctx).run()


class _Driver:
    def __init__(self, rules: RuleSet, graph: Graph, ctx: Context):
        self.graph, self.ctx = graph, ctx
        self.index: dict[Key, list[tuple[Rule, Op]]] = rules.index(ctx.target, graph.opset())
        self.depth = rules.depth
        self.queue: deque[Node] = deque(node for node in graph if (node.domain, node.op) in self.index)
        self.queued: set[Node] = set(self.queue)
        self.history: dict[str, list[str]] = {}

    def run(self) -> None:
        done = 0
        while self.queue and self.ctx.allow():
            node = self.queue.popleft()
            self.queued.discard(node)
            if node.alive and node.graph is self.graph:
                self.visit(node)
            done += 1
            if not done & 1023:
                self.ctx.step(self.ctx.pass_name, done, done + len(self.queue))

    def visit(self, node: Node) -> None:
        for item, pattern in self.index.get((node.domain, node.op), ()):
            found = match(pattern, node)
            if found is None:
                continue
            version = self.graph.version
            new = Builder.at(found, item.name)
            try:
                outcome = item.function(found, new)
            except BaseException:
                new.undo()
                raise
            if isinstance(outcome, Refusal):
                self.ctx.refuse(item.name, outcome.reason, node)
            if outcome is None or isinstance(outcome, Refusal):
                new.undo()
                continue
            self.apply(item, node, found.interior, new, as_outputs(outcome, node, item.name))
            self.revisit(version)
            return

    def apply(self, item: Rule, node: Node, interior: list[Node], new: Builder, values: tuple) -> None:  # type: ignore[type-arg]
        labels = [n.label for n in interior]
        self.ctx.fired(item.name, node)
        key = node.output.name
        for old, value in zip(node.outputs, values, strict=False):
            if old.users or old.outs:
                old.replace_with(value)
        sweep(node)
        new.settle()
        self.ctx.record(item.name, labels, [n.label for n in new.nodes if n.alive], self.graph)
        history = self.history.setdefault(key, [])
        history.append(item.name)
        if len(history) > _REPEATS:
            names = sorted(set(history[-_REPEATS // 2 :]))
            raise RewriteCycle(
                f"{' and '.join(names)} rewrite {key!r} again and again; leave one of them out of the pipeline"
            )

    def revisit(self, version: int) -> None:
        """Queues what changed, and what reads it as far as a pattern can reach through inner (single-use) values."""
        for start in self.graph.edits_since(version):
            node: Node | None = start
            for _ in range(self.depth):
                if node is None or node.graph is not self.graph:
                    break
                self.push(node)
                users = [user for value in node.outputs for user in value.users]
                if len(users) > 1 and node is start:
                    for user in users[:_REPEATS]:
                        self.push(user)
                node = users[0] if len(users) == 1 else None

    def push(self, node: Node) -> None:
        if node not in self.queued and node.alive and (node.domain, node.op) in self.index:
            self.queued.add(node)
            self.queue.append(node)
