"""Carries out a plan: attributes, constants, Casts, and what is known of types."""

from __future__ import annotations

from itertools import chain
from math import inf
from typing import Any

import numpy as np
from onnx import FunctionProto

from graphopt.ir import Graph, NDArray, Node, Value, dtypes
from graphopt.passes.precision._kinds import kind_of, retyped, set_elem
from graphopt.passes.precision._plan import STAYS, Plan, Use
from graphopt.passes.precision._slots import retype

Key = tuple[Value, bool, float]


class Application:
    """One plan, carried out. floors: (reader, slot) -> the least number that a mask may hold there.

    changed: labels of the nodes that are other ones now; made: of the new nodes.
    """

    def __init__(self, plan: Plan, floors: dict[tuple[Node, int], float] | None = None):
        self.plan, self.floors = plan, floors or {}
        self.changed: dict[str, None] = {}
        self.made: list[str] = []
        self._ready: dict[Key, Value] = {}
        self._constants: dict[Value, None] = {}
        self._wanted = {id(use): plan.changes(use.want) for use in plan.uses if use.want is not None}
        self._states = {use.value: plan.changes(use.value) for use in plan.uses}
        self._casts: list[Node] = []

    def run(self) -> bool:
        """Changes the model; returns whether there was anything to do."""
        plan = self.plan
        changing = [node for node, slots in plan.slots.items() if slots.changes and plan.changes(node)]
        values = [v for v, kind in plan.kinds.items() if kind[1] == plan.old and v.name and self._moves(v)]
        if not changing and not values:
            return False
        for node in changing:
            self.changed[node.label] = None
            if any(role == "with" for role in plan.slots[node].outputs):
                retype(node, plan.old, plan.new)
        for value in values:
            value.set_type(retyped(value.type, plan.new))
        for use in [u for u in plan.uses if not isinstance(u.reader, Node)]:
            self._return(use)
        for use in [u for u in plan.uses if isinstance(u.reader, Node)]:
            self._connect(use)
        self._drop_casts(changing)
        self._erase_constants()
        self._annotate()
        return True

    def _moves(self, value: Value) -> bool:
        """Whether a value has the new type from now on."""
        return not value.is_const and self.plan.changes(value)

    def _connect(self, use: Use) -> None:
        node = use.reader
        assert isinstance(node, Node)
        floor = self.floors.get((node, use.slot), -inf)
        # Readers of either type take what there is, past a Cast that took its name over.
        wanted = use.value if use.want is None else self._as(use.value, self._wanted[id(use)], floor)
        if node.inputs[use.slot] is not wanted:
            node.set_input(use.slot, wanted)
            if node.subgraphs:
                self.changed[node.label] = None

    def _return(self, use: Use) -> None:
        graph = use.reader
        assert isinstance(graph, Graph)
        if use.want is None or graph.outputs[use.slot] is not use.value:
            return  # an output that stands there twice was seen to
        wanted = self._as(use.value, self._wanted[id(use)])
        if wanted is use.value:
            return
        if graph.owner is not None:
            self.changed[graph.owner.label] = None
            use.value.outs -= 1
            wanted.outs += 1
            graph.outputs[use.slot] = wanted
            graph.touch(wanted.producer) if wanted.producer is not None else None
            graph.model.journal.append(graph._root)
        else:
            if use.value.producer is not None:
                self.changed[use.value.producer.label] = None
            use.value.replace_with(wanted)

    def _as(self, value: Value, changed: bool, floor: float = -inf) -> Value:
        """The value in the type that is wanted."""
        is_const = value.is_const
        if not is_const and self._state(value) == changed:
            return value
        if is_const and not changed:
            return value
        key = (value, changed, floor)
        if key not in self._ready:
            self._ready[key] = self._constant(value, floor) if is_const else self._cast(value, changed, floor)
        return self._ready[key]

    def _state(self, value: Value) -> bool:
        return self._states[value]

    def _constant(self, value: Value, floor: float) -> Value:
        self._constants[value] = None
        array = value.numpy() if floor == -inf else np.maximum(value.numpy(), np.float32(floor))
        return value.graph.constant(rounded(array, self.plan.new), value.name, self.plan.new)

    def _cast(self, value: Value, changed: bool, floor: float) -> Value:
        graph = value.graph
        before = _following(value)
        if floor != -inf:
            least = graph.constant(np.array(floor, np.float32), "lowest")
            node = graph.insert("Max", [value, least], before=before, out=value.name)
            node.output.set_type(value.type)
            self.made.append(node.label)
            value = node.output
        to = self.plan.new if changed else self.plan.old
        node = graph.insert("Cast", [value], before=before, out=value.name, to=to)
        node.output.set_type(retyped(value.type, to))
        self.made.append(node.label)
        return node.output

    def _drop_casts(self, changing: list[Node]) -> None:
        """Casts that change nothing any more."""
        kinds, new = self.plan.kinds, self.plan.new
        touched = dict.fromkeys([*changing, *(u.reader for u in self.plan.uses if u.want is None)])
        for node in touched:
            if not isinstance(node, Node) or node.op != "Cast" or node.domain or node.attr("to") != new:
                continue
            source = node.inputs[0]
            if source is None or node.output.outs:
                continue
            is_new = not source.is_const and self._states.get(source, False) and kinds[source][1] == self.plan.old
            if is_new or kinds[source][1] == new:
                self.changed[node.label] = None
                node.output.replace_with(source)
                node.graph.erase(node)

    def _erase_constants(self) -> None:
        """Constants whose readers all have another now; that takes over the name."""
        for value in self._constants:
            if value.users or value.outs:
                continue
            name, graph = value.name, value.graph
            if value.tensor is not None:
                graph.rename(value, graph.model.fresh(name))  # its proto is there until the model is written
                graph.erase_initializer(value)
            elif value.producer is not None:
                self.changed[value.producer.label] = None
                graph.erase(value.producer)
            new = next((v for (old, _, _), v in self._ready.items() if old is value), None)
            if new is not None and new.graph is graph:
                if new.producer is not None:
                    self.made.append(new.producer.label)
                graph.rename(new, name)

    def _annotate(self) -> None:
        """What the file says of the values whose type is another now."""
        for graph in self.plan.model.scopes(functions=False):
            proto: Any = graph.proto
            if isinstance(proto, FunctionProto):
                continue
            named = [(info, graph.values.get(info.name)) for info in chain(proto.value_info, proto.input)]
            for info, value in chain(named, zip(proto.output, graph.outputs, strict=True)):
                elem = self._elem(value) if value is not None else 0
                if elem and info.HasField("type") and kind_of(info.type)[1] in (self.plan.old, self.plan.new):
                    set_elem(info.type, elem)
        self.plan.model.journal.append(self.plan.model.graph._root)

    def _elem(self, value: Value) -> int:
        """The element type of a value, if it is one of the two."""
        if value in self.plan.kinds and self.plan.kinds[value][1] == self.plan.old and self._moves(value):
            return self.plan.new
        elem = value.dtype if value.is_const else kind_of(value.type)[1]
        return elem if elem in (self.plan.old, self.plan.new) else 0


def rounded(array: NDArray, new: int) -> NDArray:
    """Numbers in another type: rounded to nearest even, what is too large to infinity; integers as they are."""
    with np.errstate(all="ignore"):
        return array.astype(dtypes.to_numpy(new))


def _following(value: Value) -> Node | None:
    """The node in front of which something is inserted that reads a value: the one after its producer."""
    graph = value.graph
    after = value.producer if value.producer is not None else graph._root
    following = after.next
    return following if following is not graph._root else None


__all__ = ["STAYS", "Application", "rounded"]
