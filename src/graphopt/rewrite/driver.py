"""The worklist: every node once, then only what changed, until no rule fires."""

from __future__ import annotations

from collections import deque

from graphopt.analysis.shapes import ensure_types
from graphopt.ir import Graph, Model, Node, Value
from graphopt.rewrite.builder import Builder
from graphopt.rewrite.context import Context
from graphopt.rewrite.cycle import Watch
from graphopt.rewrite.pattern import Key, Match, Op, match
from graphopt.rewrite.rule import Refusal, Rule, RuleSet, as_outputs
from graphopt.rewrite.sweep import is_opaque, sweep

Table = dict[Key, list[tuple[Rule, Op]]]


def drive(rules: RuleSet, model: Model, ctx: Context) -> None:
    """Applies a rule set to every scope. Raises RewriteCycle when rules undo each other.

    Every node is a seed the first time, and when more is known of types; else only what changed since.
    """
    ensure_types(model)
    fact = f"driven {ctx.target} {rules}"
    version, news = model.facts.get(fact, (None, None))
    since = version if news == model.facts["news"] else None
    _Driver(rules, model, ctx).run(since)
    model.facts[fact] = model.version, model.facts["news"]


class _Driver:
    def __init__(self, rules: RuleSet, model: Model, ctx: Context):
        self.rules, self.model, self.ctx = rules, model, ctx
        self.depth, self.width = rules.depth, rules.width
        self.by_opset: dict[int, Table] = {}
        self.tables: dict[Graph, Table] = {}
        self.queue: deque[Node] = deque()
        self.queued: set[Node] = set()
        self.watch = Watch(sum(len(graph) for graph in model.scopes()))

    def table(self, graph: Graph) -> Table:
        """What can fire in a scope; nothing where its insides are an interface."""
        found = self.tables.get(graph)
        if found is None:
            opset = graph.opset()
            if opset not in self.by_opset:
                self.by_opset[opset] = self.rules.index(self.ctx.target, opset)
            found = self.tables[graph] = {} if is_opaque(graph) else self.by_opset[opset]
        return found

    def run(self, since: int | None) -> None:
        if since is not None:
            self.revisit(since)
        else:
            for graph in self.model.scopes():
                table = self.table(graph)
                self.queue.extend(node for node in graph if (node.domain, node.op) in table)
            self.queued.update(self.queue)
        done = 0
        while self.queue and self.ctx.allow():
            node = self.queue.popleft()
            self.queued.discard(node)
            if node.alive:
                self.visit(node)
            done += 1
            if not done & 1023:
                self.ctx.step(self.ctx.pass_name, done, done + len(self.queue))

    def visit(self, node: Node) -> None:
        for item, pattern in self.table(node.graph).get((node.domain, node.op), ()):
            found = match(pattern, node)
            if found is None:
                continue
            version = self.model.version
            new = Builder.at(found, item.name)
            try:
                outcome = item.function(found, new)
                if isinstance(outcome, Refusal):
                    self.ctx.refuse(item.name, outcome.reason, node)
                if outcome is None or isinstance(outcome, Refusal):
                    new.undo()
                    continue
                values = as_outputs(outcome, node, item.name)
                if self.ctx.vetoes and not self.ctx.allow(item.name, site_of(node)):
                    new.undo()
                    continue
                self.watch.note(item.name, found)
            except BaseException:
                new.undo()
                raise
            self.apply(item, found, new, values)
            self.revisit(version)
            return

    def apply(self, item: Rule, found: Match, new: Builder, values: tuple[Value, ...]) -> None:
        node, interior = found.root, found.interior
        labels = [n.label for n in interior]
        self.ctx.fired(item.name, node)
        if self.ctx.recorder is not None:
            pairs = ((o, v) for o, v in zip(node.outputs, values, strict=False) if o.users or o.outs)
            self.ctx.claim(*pairs, nodes=found.nodes)
        for old, value in zip(node.outputs, values, strict=False):
            if old.users or old.outs:
                old.replace_with(value)
        sweep(node, replaced=interior)
        new.settle()
        self.ctx.record(item.name, labels, [n.label for n in new.nodes if n.alive], node.graph)

    def revisit(self, version: int) -> None:
        """Queues what changed, and what reads it as far as a pattern can reach: all readers of that, and theirs through
        inner values, which have few."""
        layer = list(self.model.graph.edits_since(version))
        seen = set(layer)
        for step in range(1, self.depth):
            following: dict[Node, None] = {}
            for node in layer:
                self.push(node)
                for value in node.outputs:
                    if step == 1 or len(value.users) <= self.width:
                        following.update(dict.fromkeys(value.users))
            layer = [node for node in following if node not in seen]
            seen.update(layer)
        for node in layer:
            self.push(node)

    def push(self, node: Node) -> None:
        if node not in self.queued and node.alive and (node.domain, node.op) in self.table(node.graph):
            self.queued.add(node)
            self.queue.append(node)


def site_of(node: Node) -> str:
    """The name that a rewrite of this node goes by: the first value in use that it replaces."""
    return next((value.name for value in node.outputs if value.users or value.outs), "")
