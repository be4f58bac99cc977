"""A model of an older opset, written in a newer one: the same operators as they are spelled there.

Quantization needs opset 13 (DequantizeLinear along an axis), or 21 (blocks, int4, 16-bit integers). Every node that is
spelled otherwise follows step by step (attributes that became inputs, Softmax over several axes, Upsample as Resize);
nodes that did not change keep every byte. All or nothing: one node that cannot follow, and the model stays.
onnx's version converter (1.23) is not used: it drops functions and the metadata of nodes, needs all weights inline, and
some of its results compute something else (Upsample and Resize, whose coordinates became others) or are not valid (Clip
of doubles).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from onnx import FunctionProto, ModelProto

from graphopt.analysis.shapes import infer
from graphopt.errors import PassError
from graphopt.ir import Graph, Model, Node
from graphopt.ir.provenance import mark, origin_of_all
from graphopt.ir.schema import canonical, latest_opset
from graphopt.passes.base import Pass
from graphopt.passes.precision._opset_steps import NEWEST, OLDEST, Site, Step, steps_of
from graphopt.rewrite import Context

Change = tuple[Node, list[Step]]


@dataclass(frozen=True)
class RaiseOpset(Pass):
    """Raises the version of the default operator set, where it is lower, and writes the nodes as they are there.

    version: of the default domain, in the model and in its functions. Refuses, naming the nodes, where one means
    something that the newer opset has no words for.
    """

    name = "raise-opset"
    checked_as: ClassVar[dict[str, Any]] = {"version": 21}
    raises_opset = True
    version: int = 13

    def run(self, model: Model, ctx: Context) -> None:
        """Replaces the model's content, or leaves it alone."""
        newest = min(NEWEST, latest_opset())
        if not 11 <= self.version <= newest:
            raise PassError(f"version={self.version} is none of 11 to {newest}", self.name)
        if not any(_version(graph) < self.version for graph in _roots(model)):
            return
        infer(model)
        changes = self._plan(model, ctx)
        if changes is None or not ctx.allow(self.name):
            return
        raised = ModelProto()
        raised.CopyFrom(model.commit())
        _set_version(raised, self.version)
        target = Model(raised, model.store)
        new = self._apply(model, target, changes)
        labels = [node.label for node, _ in changes]
        model.reload(target.commit(), target.store)
        ctx.record(self.name, labels, new, model.graph)

    def _plan(self, model: Model, ctx: Context) -> list[Change] | None:
        """The nodes that must change, with their steps; None where one cannot."""
        changes: list[Change] = []
        refused = False
        for graph in model.scopes():
            opset = _version(graph)
            for node in graph:
                if (node.domain, node.op, node.proto.overload) in model.functions:
                    continue  # by the name of an operator, maybe
                steps, why = (
                    steps_of(node, opset, self.version) if opset >= OLDEST else ([], f"opset {opset} is too old")
                )
                if why:
                    ctx.refuse(self.name, why, node)
                    refused = True
                    if opset < OLDEST:
                        break
                elif steps:
                    changes.append((node, steps))
        return None if refused else changes

    def _apply(self, model: Model, target: Model, changes: list[Change]) -> list[str]:
        """Makes the changes in `target`, a model of the same nodes; returns the labels of new nodes."""
        wanted = dict(changes)
        constants: dict[Any, Any] = {}
        labels = []
        # All nodes are paired first: what is inserted must not come between.
        pairs = [
            (old, node)
            for graph, other in zip(model.scopes(), target.scopes(), strict=True)
            for old, node in zip(graph, other, strict=True)
            if old in wanted
        ]
        for old, node in pairs:
            origin = origin_of_all([old], self.name)
            site = Site(old, node, self.version, constants)
            for step in wanted[old]:
                step(site)
            for item in site.made or [node]:
                mark(item, origin)
            labels += [item.label for item in site.made]
        return labels


def _roots(model: Model) -> list[Graph]:
    return [model.graph, *model.functions.values()]


def _version(graph: Graph) -> int:
    """Of the default domain, or a high one where it is not imported: nothing is to be raised there."""
    scope = graph
    while scope.parent is not None:
        scope = scope.parent
    if isinstance(scope.proto, FunctionProto):
        imported = {canonical(entry.domain) for entry in scope.proto.opset_import}
    else:
        imported = set(scope.model.opsets)
    return graph.opset() if "" in imported else NEWEST


def _set_version(proto: ModelProto, version: int) -> None:
    imports = [*proto.opset_import, *(entry for function in proto.functions for entry in function.opset_import)]
    for entry in imports:
        if not canonical(entry.domain):
            entry.version = max(entry.version, version)
