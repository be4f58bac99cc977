"""Which nodes and values change their element type, so that every operator finds the types that it takes.

What must agree (a node with its outputs; the states of a loop; a branch's result with the If's; sequences, which cannot
be cast) is one group. A group stays as it is where one of its members must; all else changes. A value has the type that
its producer gives it, and a Cast stands where a reader has another.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field

from onnx import TensorProto

from graphopt.ir import Graph, Model, Node, Value
from graphopt.passes.precision._kinds import UNKNOWN, Kind, in_order, is_opaque, kinds_of
from graphopt.passes.precision._slots import FREE, KEEP, WITH, Slots, slots_of, takes

STAYS = "stays"  # the key of the group that never changes
CHANGES = "changes"  # and of the one that always does


@dataclass(frozen=True)
class Use:
    """One place that reads a value: a slot of a node, or an output of a graph. want: the key of the group whose type
    it takes; None: either type."""

    reader: Node | Graph
    slot: int
    value: Value
    want: Hashable


@dataclass
class Plan:
    """What is to change. old, new: element types. keep_io: whether inputs and outputs of the model stay as they are."""

    model: Model
    old: int = TensorProto.FLOAT
    new: int = TensorProto.FLOAT16
    keep_io: bool = True
    kinds: dict[Value, Kind] = field(default_factory=dict)
    slots: dict[Node, Slots] = field(default_factory=dict)
    uses: list[Use] = field(default_factory=list)
    forced: dict[Hashable, str] = field(default_factory=dict)
    reasons: dict[Node, str] = field(default_factory=dict)
    _parents: dict[Hashable, Hashable] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for graph in self.model.scopes(functions=False):
            graph.ensure_sorted()
        self.kinds = kinds_of(self.model)
        self.forced[STAYS] = ""
        self._read_interface()
        self.order = list(in_order(self.model))
        for node in self.order:
            if node.op in _HOLDERS and not node.domain:
                _HOLDERS[node.op](self, node)
                if not takes(node, self.new):
                    self._stay_around(node)
            else:
                self._read(node)

    # -- groups --------------------------------------------------------------------------------------------------------

    def find(self, key: Hashable) -> Hashable:
        """The representative of a key's group."""
        path = []
        while (parent := self._parents.get(key, key)) != key:
            path.append(key)
            key = parent
        for item in path:
            self._parents[item] = key
        return key

    def join(self, a: Hashable, b: Hashable) -> None:
        """Makes one group of two."""
        first, second = self.find(a), self.find(b)
        if first == second:
            return
        if first == STAYS:
            first, second = second, first
        self._parents[first] = second
        if first in self.forced:
            self.forced.setdefault(second, self.forced[first])

    def stay(self, key: Hashable, why: str = "") -> None:
        """Keeps a group as it is; for a node, puts on record why."""
        self.forced.setdefault(self.find(key), why)
        if isinstance(key, Node) and why:
            self.reasons.setdefault(key, why)

    def changes(self, key: Hashable) -> bool:
        """Whether a group changes its type."""
        return self.find(key) not in self.forced

    def is_of(self, value: Value | None) -> bool:
        """Whether a value is of the type that is to change."""
        return value is not None and self.kinds.get(value, UNKNOWN)[1] == self.old

    # -- reading -------------------------------------------------------------------------------------------------------

    def _read_interface(self) -> None:
        graph = self.model.graph
        for value in graph.inputs:
            if self.is_of(value) and (self.keep_io or value.tensor is not None):
                self.stay(value)
        for slot, value in enumerate(graph.outputs):
            if not self.is_of(value):
                continue
            if not self.is_tensor(value) or not self.keep_io or value.is_const:
                self.join(value, STAYS) if self.keep_io else None
                self.uses.append(Use(graph, slot, value, value if value.is_const else self._output_want(value)))
            else:
                self.uses.append(Use(graph, slot, value, STAYS))

    def _output_want(self, value: Value) -> Hashable:
        return STAYS if self.keep_io else CHANGES if self.is_tensor(value) else value

    def is_tensor(self, value: Value) -> bool:
        """Whether it can be cast."""
        return self.kinds[value][0] == "tensor"

    def use(self, reader: Node | Graph, slot: int, value: Value | None, want: Hashable) -> None:
        """Notes that a slot reads a value and takes the type of a group; what cannot be cast must agree."""
        if value is None or not self.is_of(value):
            return
        if value.is_const and not self.is_tensor(value):
            return
        self.uses.append(Use(reader, slot, value, want))
        if not self.is_tensor(value) and want is not None:
            self.join(value, want)

    def _read(self, node: Node) -> None:
        if node.op == "Constant" and not node.domain:
            if not node.output.is_const:
                self.stay(node.output)
            return
        slots = slots_of(node, self.kinds, self.old, self.new, self.model)
        opaque = is_opaque(node.graph) or bool(node.subgraphs)
        if slots.changes and opaque:
            slots = Slots(_kept(slots.inputs), _kept(slots.outputs), "it is part of an operator that is not standard")
        self.slots[node] = slots
        if slots.why:
            self.reasons[node] = slots.why
        for slot, (value, role) in enumerate(zip(node.inputs, slots.inputs, strict=True)):
            if role is not None and value is not None:
                self.use(node, slot, value, {WITH: node, KEEP: STAYS, FREE: None}[role])
        for value, role in zip(node.outputs, slots.outputs, strict=True):
            if role == WITH:
                self.join(value, node)
            elif role == KEEP:
                self.join(value, STAYS)
        for body in node.subgraphs:  # of operators that are not standard: their interface stays
            for value in body.inputs:
                if self.is_of(value):
                    self.join(value, STAYS)
            for slot, value in enumerate(body.outputs):
                self.use(body, slot, value, STAYS)

    def _read_if(self, node: Node) -> None:
        for slot, made in enumerate(node.outputs):
            for branch in node.subgraphs:
                if slot < len(branch.outputs):
                    self._result(branch, slot, made)

    def _result(self, body: Graph, slot: int, made: Value) -> None:
        """What a body returns becomes a value outside, which has its type."""
        value = body.outputs[slot]
        if not made.name and self.is_of(value):  # not wanted: no type is asked for, but branches must agree
            self.use(body, slot, value, STAYS)
        elif self.is_of(made) and not self.is_of(value):
            self.join(made, STAYS)  # not known well enough
        elif self.is_of(value) and not self.is_of(made):
            self.use(body, slot, value, STAYS)
        else:
            self.use(body, slot, value, made)

    def _state(self, node: Node, slot: int, inner: Value, body: Graph, back: int, made: Value | None) -> None:
        """A value that goes round: into the body, back, and out."""
        outer = node.input(slot)
        values = [v for v in (outer, inner, body.outputs[back]) if v is not None]
        if not any(self.is_of(v) for v in values):
            return
        if not all(self.is_of(v) for v in values) or (made is not None and made.name and not self.is_of(made)):
            self.join(inner, STAYS)
        self.use(node, slot, outer, inner)
        self.use(body, back, body.outputs[back], inner)
        if made is not None and made.name and self.is_of(made):
            self.join(made, inner)

    def _read_loop(self, node: Node) -> None:
        body = node.subgraphs[0]
        states = len(node.inputs) - 2
        for k in range(states):
            made = node.outputs[k] if k < len(node.outputs) else None
            self._state(node, 2 + k, body.inputs[2 + k], body, 1 + k, made)
        for k in range(states, len(node.outputs)):
            self._result(body, 1 + k, node.outputs[k])

    def _read_scan(self, node: Node) -> None:
        body, scans = node.subgraphs[0], int(node.attr("num_scan_inputs"))
        first = len(node.inputs) - len(body.inputs)  # opset 8 has sequence_lens in front
        states = len(body.inputs) - scans
        for k in range(states):
            made = node.outputs[k] if k < len(node.outputs) else None
            self._state(node, first + k, body.inputs[k], body, k, made)
        for k in range(states, len(body.inputs)):
            self._argument(node, first + k, body.inputs[k])
        for k in range(states, len(node.outputs)):
            self._result(body, k, node.outputs[k])

    def _read_sequence_map(self, node: Node) -> None:
        body = node.subgraphs[0]
        for slot, inner in enumerate(body.inputs):
            self._argument(node, slot, inner)
        for slot, made in enumerate(node.outputs):
            self._result(body, slot, made)

    def _stay_around(self, node: Node) -> None:
        """An operator that takes no values of the new type: what is inside may change all the same."""
        for value in (*node.outputs, *(value for body in node.subgraphs for value in body.inputs)):
            if self.is_of(value):
                self.join(value, STAYS)

    def _argument(self, node: Node, slot: int, inner: Value) -> None:
        """What a body gets, all of it or a part."""
        outer = node.input(slot)
        if self.is_of(outer) != self.is_of(inner):
            self.join(inner, STAYS)
            self.use(node, slot, outer, STAYS)
        else:
            self.use(node, slot, outer, inner)

    # -- casts ---------------------------------------------------------------------------------------------------------

    def casts(self, uses: Iterable[Use]) -> int:
        """How many Casts a value takes that these read."""
        return len({self.changes(u.want) for u in uses if u.want is not None and self._differs(u)})

    def _differs(self, use: Use) -> bool:
        return not use.value.is_const and self.changes(use.want) != self.changes(use.value)


def _kept(roles: tuple[str | None, ...]) -> tuple[str | None, ...]:
    return tuple(KEEP if role == WITH else role for role in roles)


_HOLDERS = {
    "If": Plan._read_if,
    "Loop": Plan._read_loop,
    "Scan": Plan._read_scan,
    "SequenceMap": Plan._read_sequence_map,
}
__all__ = ["CHANGES", "STAYS", "Plan", "Use"]
