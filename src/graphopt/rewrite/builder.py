"""New nodes for a rule: inserted in front of what they replace, typed, named and traceable to their sources."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from graphopt.ir import Graph, NDArray, Node, Value
from graphopt.ir.provenance import Origin, mark, mark_tensor, origin_of_all
from graphopt.ir.schema import CONTROL_FLOW
from graphopt.rewrite.pattern import Match


class Builder:
    """`new.Conv(x, weight, bias, like=conv)` makes a node and returns its output (a tuple for `n_out` > 1).

    like: a node whose attributes and name are taken over; keyword attributes override, None removes one. Trailing None
    operands are dropped. If the rule then refuses, what was made is taken back.
    """

    def __init__(self, graph: Graph, before: Node, rule: str, sources: Iterable[Node | str]):
        self.graph, self.before = graph, before
        self.nodes: list[Node] = []
        self._constants: list[Value] = []
        self._stands_for: list[tuple[Node, Node]] = []
        self._rule, self._replaced = rule, sources
        self._origin: Origin | None = None  # found out once something is made: most matches are refused

    @classmethod
    def at(cls, found: Match, rule: str) -> Builder:
        """A builder in front of a match."""
        return cls(found.root.graph, found.root, rule, found.interior)

    def __getattr__(self, op: str) -> Any:
        if op.startswith("_"):
            raise AttributeError(op)

        def make(*inputs: Value | None, **options: Any) -> Any:
            return self.make(op, *inputs, **options)

        return make

    def make(
        self,
        op: str,
        *inputs: Value | None,
        like: Node | None = None,
        domain: str = "",
        n_out: int = 1,
        name: str | None = None,
        type_of: Value | None = None,
        **attrs: Any,
    ) -> Any:
        """Makes any operator. type_of: a value whose type the (first) output shares, where that is known."""
        given = list(inputs)
        while given and given[-1] is None:
            given.pop()
        hint = name or (like or self.before).name or op
        if like is not None and like.subgraphs:
            self.graph.model.commit()  # its bodies are copied as protos
        node = self.graph.insert(op, given, before=self.before, domain=domain, n_out=n_out, name=hint, out=f"{op}_out")
        if like is not None:
            node.proto.attribute.extend(a for k, a in like.attributes.items() if k not in attrs)
        for key in sorted(attrs):
            if attrs[key] is not None:
                node.set_attr(key, attrs[key])
        if op in CONTROL_FLOW or domain:
            self.graph.attach(node)
        mark(node, self._from())
        self.nodes.append(node)
        self._stands_for.append((node, like or self.before))
        if type_of is not None:
            node.output.set_type(type_of.type)
        return node.output if n_out == 1 else tuple(node.outputs)

    def constant(
        self, array: NDArray | np.generic | float | int, hint: str = "const", like: Value | None = None
    ) -> Value:
        """A new constant. like: a constant whose dtype it is cast to (rounding once) and whose name it varies."""
        data = np.asarray(array)
        if like is not None:
            data = data.astype(like.numpy().dtype, copy=False)
            hint = like.name or hint
        value = self.graph.constant(data, hint)
        if value.tensor is not None:
            mark_tensor(value.tensor.proto, self._from())
        elif value.producer is not None:
            mark(value.producer, self._from())
        self._constants.append(value)
        return value

    def _from(self) -> Origin:
        if self._origin is None:
            self._origin = origin_of_all(self._replaced, self._rule)
        return self._origin

    def settle(self) -> None:
        """Gives new nodes the names of the ones they stand for, where those are gone: profiles stay readable."""
        for node, old in self._stands_for:
            if node.alive and old.name and not old.alive:
                node.name = node.proto.name = old.name
                old.name = ""

    def undo(self) -> None:
        """Takes everything back."""
        for node in reversed(self.nodes):
            if node.alive:
                self.graph.erase(node)
        for value in self._constants:
            if value.producer is not None:
                self.graph.erase(value.producer)
            else:
                self.graph.erase_initializer(value)
